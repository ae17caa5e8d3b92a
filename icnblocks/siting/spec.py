"""TrimCaching Spec: one edge after the other, each by an exact knapsack on the forest of pieces.

Each edge is given what serves most of the requests that no edge before it serves; with an exact
choice per edge the whole is at least half of the best, with rounded values (1 - epsilon) / 2
(arXiv 2405.03990). Rounded bytes promise that only where all pieces are whole cells. Only for
libraries whose sharing is a forest. No I/O, no clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from icnblocks.errors import UsageError
from icnblocks.siting.forest import grow
from icnblocks.siting.instance import Siting
from icnblocks.siting.knapsack import MAX_CELLS, best_by_value, best_on_grid, in_haste, worth

if TYPE_CHECKING:
    from icnblocks.siting.forest import Forest
    from icnblocks.siting.instance import Instance

CELLS: Final = 4096
"""Cells of the byte grid at most, if nobody asks for a size of them."""


def forest_of(instance: Instance) -> Forest:
    """The forest of an instance's library.

    Raises:
        UsageError: if its sharing is not a forest.
    """
    forest = grow(instance.library)
    if forest is None:
        raise UsageError(
            f"the models of the library {instance.library.name!r} do not share as a forest",
            hint="use gen or per-byte, which take any sharing",
        )
    return forest


def spec(
    instance: Instance,
    capacity: int,
    *,
    cell: int | None = None,
    epsilon: float | None = None,
) -> Siting:
    """Choose edge by edge.

    Args:
        instance: the problem.
        capacity: bytes of each edge.
        cell: bytes of a cell of the grid; by default the capacity / CELLS, or more where so many
            are too large a table. Exact per edge if all pieces are whole cells.
        epsilon: round values instead of bytes, and be within this share of the best per edge.

    Raises:
        UsageError: if the library's sharing is not a forest, or a parameter is out of range or
            would need too large a table.
    """
    if epsilon is not None and not 0 < epsilon < 1:
        raise UsageError(f"epsilon lies between 0 and 1, not at {epsilon}")
    if cell is not None and cell < 1:
        raise UsageError(f"a cell of the grid has at least one byte, not {cell}")
    forest = forest_of(instance)
    most = max(MAX_CELLS // (len(forest) + 1) - 1, 1)
    cell = cell or max(capacity // CELLS, -(-capacity // most), 1)
    held = np.zeros((instance.edges, len(instance.library.models)), dtype=np.bool_)
    open_demand = instance.demand.copy()
    for edge in range(instance.edges):
        serves = instance.serves[edge]
        values = forest.values(np.where(serves, open_demand, 0.0).sum(axis=0))
        if epsilon is None:
            # Rounded up to cells, what just fits does not: this knows its bytes.
            rough = in_haste(forest, values, capacity)
            kept = max(best_on_grid(forest, values, capacity, cell=cell), rough, key=worth)
        else:
            kept = best_by_value(forest, values, capacity, epsilon)
        held[edge] = kept.nodes[forest.node_of]
        open_demand[serves & held[edge]] = 0.0
    return Siting(held, instance.value(held), "spec" if epsilon is None else "spec-epsilon")
