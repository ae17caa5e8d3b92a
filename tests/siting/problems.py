"""Small siting problems for the tests, and their optima by trying everything."""

from itertools import combinations

import numpy as np
from hypothesis import strategies as st

from icnblocks.siting.instance import Instance
from icnblocks.workloads.library import Library, LibraryModel, Piece


def library_from(sizes, models):
    """A library of pieces with these bytes, and models with these pieces."""
    return Library(
        "test",
        tuple(Piece(f"piece-{n}", size) for n, size in enumerate(sizes)),
        tuple(LibraryModel(f"acme/m{n}", tuple(sorted(m))) for n, m in enumerate(models)),
        1,
    )


@st.composite
def forests(draw, most=7):
    """A library whose models are paths in a random forest, each with a piece of its own or none."""
    count = draw(st.integers(1, most))
    parents = [draw(st.integers(-1, n - 1)) for n in range(count)]
    paths = []
    for node in range(count):
        path, at = [], node
        while at != -1:
            path.append(at)
            at = parents[at]
        paths.append(path)
    ends = draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=most))
    sizes = draw(st.lists(st.integers(1, 30), min_size=count, max_size=count))
    return library_from(sizes, [paths[end] for end in ends])


@st.composite
def libraries(draw, most=6):
    """A library with any sharing."""
    count = draw(st.integers(1, most))
    sizes = draw(st.lists(st.integers(1, 30), min_size=count, max_size=count))
    model = st.sets(st.integers(0, count - 1), min_size=1)
    return library_from(sizes, draw(st.lists(model, min_size=1, max_size=most)))


@st.composite
def instances(draw, of, edges=2, users=3):
    """A library with demand and edges that serve some of it."""
    library = draw(of)
    models = len(library.models)
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    demand = random.integers(0, 9, (users, models)).astype(float)
    serves = random.random((draw(st.integers(1, edges)), users, models)) < 0.7
    return Instance(library, demand / max(demand.sum(), 1.0), serves)


def membership(library):
    """Which model (row) has which piece (column)."""
    pieces = range(len(library.pieces))
    return np.array([[piece in model.pieces for piece in pieces] for model in library.models])


def bytes_of(library, models):
    """Bytes of models together, each piece once: counted the slow way."""
    pieces = {piece for model in models for piece in library.models[model].pieces}
    return sum(library.pieces[piece].size for piece in pieces)


def best_value(library, values, capacity):
    """The largest sum of values of models that fit, by trying all sets of them."""
    models = range(len(library.models))
    return max(
        sum(values[model] for model in chosen)
        for count in range(len(library.models) + 1)
        for chosen in combinations(models, count)
        if bytes_of(library, chosen) <= capacity
    )


def best_siting(instance, capacity):
    """The largest share that can be served, by trying everything that fits on each edge."""
    models = range(len(instance.library.models))
    rows = [
        np.isin(models, chosen)
        for count in range(len(instance.library.models) + 1)
        for chosen in combinations(models, count)
        if bytes_of(instance.library, chosen) <= capacity
    ]
    best = {0.0}
    if instance.edges == 1:
        best |= {instance.value(np.array([row])) for row in rows}
    else:
        best |= {instance.value(np.array([one, two])) for one in rows for two in rows}
    return max(best)
