"""The best that one edge can hold if the demand is known and does not change.

It is the yardstick of online policies: with what it holds and never changes, an edge serves this
share of the requests whole. Exact where the library's sharing is a forest; else as good as the
integer program gets in its time, which is said. No I/O, no clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from icnblocks.siting.exact import milp_bound
from icnblocks.siting.forest import grow
from icnblocks.siting.greedy import per_byte
from icnblocks.siting.instance import Instance
from icnblocks.siting.knapsack import best_by_value, best_on_grid, relaxed
from icnblocks.values import dataclass

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from icnblocks.siting.forest import Forest
    from icnblocks.workloads.library import Library

_MAX_CELLS: Final = 20_000_000
"""Cells of the grid over all nodes: 160 MB."""
_EPSILON: Final = 0.002


@dataclass(frozen=True, slots=True)
class Optimum:
    """What an edge should hold.

    Attributes:
        value: the share of the requests for models that are held whole.
        held: which models are.
        bound: no choice has a larger value; equal to `value` if that is the best.
        method: how it was found: `exact` (dynamic program over bytes), `rounded` (over values,
            within 0.2 %), `milp` (proven), or `best found` (of the integer program, when its time
            was up, and greedy per new byte).
    """

    value: float
    held: NDArray[np.bool_]
    bound: float
    method: str


def static_optimum(
    library: Library, rates: NDArray[np.float64], capacity: int, *, time_limit_s: float = 60.0
) -> Optimum:
    """Choose the models to hold.

    Args:
        library: the models.
        rates: of requests for each model, in any unit.
        capacity: bytes of the edge.
        time_limit_s: of the integer program, if one is needed.

    Raises:
        UsageError: if an integer program is needed and scipy is not installed, or if the models
            share as a forest that is too large.
    """
    shares = rates / max(float(rates.sum()), np.finfo(float).tiny)
    forest = grow(library)
    if forest is not None:
        return _on_forest(forest, shares, capacity)
    instance = Instance(library, shares[None, :], np.ones((1, 1, len(shares)), dtype=np.bool_))
    solved = milp_bound(instance, capacity, time_limit_s=time_limit_s)
    found = per_byte(instance, capacity)
    if solved.siting is not None and solved.siting.value >= found.value:
        found = solved.siting
    method = "milp" if solved.proven else "best found"
    return Optimum(found.value, found.held[0], max(solved.bound, found.value), method)


def _on_forest(forest: Forest, shares: NDArray[np.float64], capacity: int) -> Optimum:
    values = forest.values(shares)
    cell = max(int(np.gcd.reduce(forest.sizes)), 1)
    if (capacity // cell + 1) * len(forest) <= _MAX_CELLS:
        kept = best_on_grid(forest, values, capacity, cell=cell)
        return Optimum(kept.value, kept.nodes[forest.node_of], kept.value, "exact")
    kept = best_by_value(forest, values, capacity, _EPSILON)
    bound = min(relaxed(forest, values, capacity), kept.value / (1 - _EPSILON))
    return Optimum(kept.value, kept.nodes[forest.node_of], bound, "rounded")
