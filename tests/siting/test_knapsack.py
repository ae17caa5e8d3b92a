"""The knapsack on forests: exact where it says so, within its bound elsewhere, never too heavy."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from icnblocks.errors import UsageError
from icnblocks.siting.forest import grow
from icnblocks.siting.knapsack import best_by_value, best_on_grid, by_density, relaxed
from icnblocks.siting.optimum import static_optimum
from icnblocks.workloads.llm import llm_library
from icnblocks.workloads.lora import lora_library
from icnblocks.workloads.resnet import resnet_library
from tests.siting.problems import best_value, bytes_of, forests, libraries, library_from

CASES = st.tuples(forests(), st.integers(0, 120), st.integers(0, 2**32))


def _values(library, seed):
    return np.random.default_rng(seed).integers(0, 9, len(library.models)).astype(float)


def _check(library, values, capacity, kept):
    """What is kept is whole paths, fits, and is worth what it says."""
    forest = grow(library)
    held = np.flatnonzero(kept.nodes[forest.node_of])
    assert bytes_of(library, held) <= kept.size <= capacity
    assert np.isclose(values[held].sum(), kept.value)


@given(CASES)
@settings(max_examples=150, deadline=None)
def test_the_grid_finds_the_best_there_is(case):
    library, capacity, seed = case
    values, forest = _values(library, seed), grow(library)
    kept = best_on_grid(forest, forest.values(values), capacity)
    _check(library, values, capacity, kept)
    assert np.isclose(kept.value, best_value(library, values, capacity))


@given(CASES, st.integers(2, 15))
@settings(max_examples=60, deadline=None)
def test_a_coarse_grid_is_never_over_the_capacity_nor_above_the_best(case, cell):
    library, capacity, seed = case
    values, forest = _values(library, seed), grow(library)
    kept = best_on_grid(forest, forest.values(values), capacity, cell=cell)
    _check(library, values, capacity, kept)
    smaller = capacity - cell * len(forest)
    assert kept.value >= best_value(library, values, smaller) - 1e-9 if smaller >= 0 else True


@given(CASES, st.sampled_from([0.01, 0.1, 0.5, 0.9]))
@settings(max_examples=150, deadline=None)
def test_rounded_values_lose_no_more_than_epsilon(case, epsilon):
    """A start worth nothing, because the best bundle did not fit, once ended the search."""
    library, capacity, seed = case
    values, forest = _values(library, seed), grow(library)
    kept = best_by_value(forest, forest.values(values), capacity, epsilon)
    _check(library, values, capacity, kept)
    assert kept.value >= (1 - epsilon) * best_value(library, values, capacity) - 1e-9


EVEN = st.tuples(forests(), st.integers(0, 120), st.integers(1, 2**20), st.integers(1, 400))


@example((library_from([9, 1], [{0}, {0, 1}]), 1, 3, 29))
@given(EVEN)
@settings(max_examples=400, deadline=None)
def test_no_plan_is_over_the_capacity_and_what_is_needed_comes_first(case):
    """Catches: a variant kept without its base: both are worth as much a byte but for rounding."""
    library, capacity, unit, total = case
    own = np.array([library.pieces[max(model.pieces)].size for model in library.models], float)
    forest = grow(library_from([unit * size for size in library.piece_bytes.tolist()],
                               [model.pieces for model in library.models]))  # fmt: skip
    values = forest.values(own / total)
    kept = by_density(forest, values, unit * capacity)
    assert kept.size <= unit * capacity
    for node in np.flatnonzero(kept.nodes):
        assert all(kept.nodes[n] for n in range(node) if node < forest.beyond[n])


def test_models_that_can_never_fit_do_not_make_the_table_larger():
    """They raised what the total could be: a gigabyte, where a few kilobytes do."""
    library = library_from([10, 10, *[1000] * 2000], [{node} for node in range(2002)])
    values, forest = np.array([1.0, 1.0, *[1e6] * 2000]), grow(library)
    tracemalloc.start()
    kept = best_by_value(forest, values, 20, 0.1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (kept.value, kept.size) == (2, 20)
    assert peak < 10_000_000


@given(CASES)
@settings(max_examples=60, deadline=None)
def test_nothing_is_kept_for_nothing(case):
    """Edges were filled with models that nobody asks there for."""
    library, capacity, seed = case
    forest, random = grow(library), np.random.default_rng(seed)
    values = forest.values(_values(library, seed) * random.integers(0, 2, len(library.models)))
    for kept in (
        by_density(forest, values, capacity),
        best_by_value(forest, values, capacity, 0.1),
    ):
        for node in np.flatnonzero(kept.nodes):
            below = slice(node, forest.beyond[node])
            assert values[below][kept.nodes[below]].any()


@pytest.mark.parametrize("epsilon", [1e-9, 1e-19, 1e-320])
def test_a_table_that_no_memory_holds_is_refused(epsilon):
    library = library_from([10, 20, 30], [{0}, {1}, {2}])
    with pytest.raises(UsageError, match="too many for an epsilon of"):
        best_by_value(grow(library), np.array([1.0, 2.0, 2.5]), 45, epsilon)


@given(CASES)
@settings(max_examples=100, deadline=None)
def test_the_relaxation_is_above_and_density_below_the_best(case):
    library, capacity, seed = case
    values, forest = _values(library, seed), grow(library)
    below = by_density(forest, forest.values(values), capacity)
    _check(library, values, capacity, below)
    best = best_value(library, values, capacity)
    assert below.value <= best + 1e-9 <= relaxed(forest, forest.values(values), capacity) + 2e-9


def test_sharing_that_is_no_forest_is_told():
    assert grow(library_from([1, 1, 1], [{0, 1}, {1, 2}, {0, 2}])) is None
    assert grow(library_from([1, 1, 1], [{0, 1}, {1, 2}])) is not None
    assert grow(library_from([1, 1], [{0, 1}, {0}])) is not None
    assert grow(library_from([1], [{0}, set()])) is not None


@given(forests())
@settings(max_examples=60, deadline=None)
def test_a_forest_keeps_every_byte_of_every_model(library):
    forest = grow(library)
    for model, end in enumerate(forest.node_of.tolist()):
        above = [n for n in range(end + 1) if n <= end < forest.beyond[n]]
        assert forest.sizes[above].sum() == library.model_bytes[model]


def test_the_made_libraries_are_forests():
    for library in (resnet_library(0), lora_library(), llm_library(0)):
        assert grow(library) is not None
        assert grow(library.in_units()) is not None


@given(libraries(), st.integers(0, 90), st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_the_static_optimum_is_the_best_whatever_the_sharing(library, capacity, seed):
    values = _values(library, seed)
    found = static_optimum(library, values, capacity)
    total = max(values.sum(), 1)
    assert found.method in {"exact", "milp"}
    assert bytes_of(library, np.flatnonzero(found.held)) <= capacity
    assert np.isclose(found.value, best_value(library, values, capacity) / total, atol=1e-5)
    assert found.bound >= found.value


def test_the_static_optimum_is_not_what_greedy_finds_where_sharing_is_tangled():
    """Greedy takes the densest model of 51 bytes, and leaves no room for two of 50."""
    tangle = [{3, 4}, {4, 5}, {3, 5}]
    library = library_from([51, 50, 50, 90, 90, 90], [{0}, {1}, {2}, *tangle])
    found = static_optimum(library, np.array([60.0, 50, 50, 1, 1, 1]), 100)
    assert found.method == "milp"
    assert np.flatnonzero(found.held).tolist() == [1, 2]


def test_the_static_optimum_says_when_it_rounded():
    """On bytes that are no multiples of anything the grid would not fit into memory."""
    library = resnet_library(0)
    rates = np.random.default_rng(0).permutation(1 / np.arange(1.0, 301))
    rounded = static_optimum(library, rates, 500_000_001)
    assert rounded.method == "rounded"
    assert rounded.value <= rounded.bound <= rounded.value * 1.003
