"""A library as a trace tells it: which blocks go together, and who asked for what how often.

This module must not know how traces are stored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from icnblocks.errors import UsageError
from icnblocks.workloads.library import Library, LibraryModel, Piece

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from icnblocks.cache.replay.trace import Trace
    from icnblocks.naming import Digest


def library_of(trace: Trace, name: str = "trace") -> Library:
    """The models of a trace; blocks that the same models list are one piece.

    Models are called what the trace calls them, and keep its order; `unit` is the largest block.
    """
    owners: dict[Digest, list[int]] = {}
    for number, model in enumerate(trace.models):
        for block in model.blocks:
            owners.setdefault(block, []).append(number)
    pieces: dict[tuple[int, ...], int] = {}
    sizes: list[int] = []
    of_models: list[list[int]] = [[] for _ in trace.models]
    for block, models in owners.items():
        key = tuple(models)
        piece = pieces.get(key)
        if piece is None:
            piece = pieces[key] = len(sizes)
            sizes.append(0)
            for model_number in models:
                of_models[model_number].append(piece)
        sizes[piece] += trace.lengths[block]
    numbers = {model.digest: number for number, model in enumerate(trace.models)}
    return Library(
        name,
        tuple(Piece(f"piece-{number}", size) for number, size in enumerate(sizes)),
        tuple(
            LibraryModel(
                model.name, tuple(of), numbers.get(model.base) if model.base else None, "model"
            )
            for model, of in zip(trace.models, of_models, strict=True)
        ),
        max(trace.lengths.values(), default=1),
    )


def counts_of(trace: Trace, first: int = 0, end: int | None = None) -> NDArray[np.float64]:
    """How often each edge (row) of a trace was asked for each model (column).

    Args:
        trace: the requests.
        first: count from this request on.
        end: and up to the one before this; None: to the last.

    Raises:
        UsageError: if there is no request between the two.
    """
    end = len(trace) if end is None else end
    wanted = np.frombuffer(trace.wanted, dtype=np.intc)[first:end]
    edges = np.frombuffer(trace.edges, dtype=np.intc)[first:end]
    if not len(wanted):
        raise UsageError(f"there is no request from number {first} to {end}")
    models = len(trace.models)
    cells = np.bincount(
        edges.astype(np.int64) * models + wanted, minlength=len(trace.edge_names) * models
    )
    return cells.reshape(-1, models).astype(np.float64)
