"""The knapsack on a forest: a node may be kept only with all nodes above it.

Two dynamic programs over the nodes in preorder (Johnson and Niemi, "On knapsacks, partitions, and
a new dynamic programming technique for trees", 1983): `best_on_grid` over bytes, exact if the
bytes are whole cells, and `best_by_value` over rounded values, within a factor 1 - epsilon of the
best. Pure functions of arrays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from icnblocks.errors import UsageError
from icnblocks.values import dataclass

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from icnblocks.siting.forest import Forest

MAX_CELLS: Final = 2**27
"""Of a table: 8 bytes each, a gigabyte."""


@dataclass(frozen=True, slots=True)
class Kept:
    """Nodes to keep.

    Attributes:
        nodes: whether each node is kept.
        value: of all that are.
        size: bytes of all that are.
    """

    nodes: NDArray[np.bool_]
    value: float
    size: int


def best_on_grid(
    forest: Forest, values: NDArray[np.float64], capacity: int, *, cell: int = 1
) -> Kept:
    """The best nodes within the capacity, with every node's bytes rounded up to whole cells.

    Exact if all sizes are multiples of `cell`; else never over the capacity, and at least as good
    as the best for a capacity smaller by a cell a kept node.

    Args:
        forest: the nodes.
        values: of each node, none negative.
        capacity: bytes.
        cell: bytes; time and memory grow with nodes * capacity / cell.

    Raises:
        UsageError: if a table of more than MAX_CELLS were needed for such cells.
    """
    cells = max(capacity, 0) // cell
    if (len(forest) + 1) * (cells + 1) > MAX_CELLS:
        text = f"{len(forest)} pieces of models are too many for a grid of {cells} cells"
        raise UsageError(text, hint="take larger cells, or another algorithm")
    needs = (-(-forest.sizes // cell)).tolist()
    count = len(forest)
    tables = np.zeros((count + 1, cells + 1))
    for node in range(count - 1, -1, -1):
        table, need = tables[node], needs[node]
        table[:] = tables[forest.beyond[node]]
        if need <= cells:
            np.maximum(
                table[need:],
                tables[node + 1, : cells + 1 - need] + values[node],
                out=table[need:],
            )
    nodes = np.zeros(count, dtype=np.bool_)
    node, left = 0, cells
    while node < count:
        beyond = int(forest.beyond[node])
        if tables[node, left] > tables[beyond, left]:
            nodes[node] = True
            left -= needs[node]
            node += 1
        else:
            node = beyond
    return _kept(forest, values, nodes)


def best_by_value(
    forest: Forest, values: NDArray[np.float64], capacity: int, epsilon: float
) -> Kept:
    """Nodes within the capacity worth at least 1 - epsilon of the best; bytes are not rounded.

    Values are rounded down to steps of epsilon * (a value that is reached) / (nodes of value),
    and the fewest bytes for each total are computed (Ibarra and Kim, 1975).

    Args:
        forest: the nodes.
        values: of each node, none negative.
        capacity: bytes.
        epsilon: above 0, below 1.

    Raises:
        UsageError: if a table of more than MAX_CELLS were needed for so small an epsilon.
    """
    # What can never be kept must not count: it would raise the bound on the total, and the table.
    values = np.where(_path_sums(forest, forest.sizes) <= capacity, values, 0.0)
    start = in_haste(forest, values, capacity)
    # A poor start would make the steps too fine, so that a coarse pass betters it first.
    for allowed in (0.5, epsilon) if epsilon < 0.5 else (epsilon,):
        if start.value > 0:
            start = max(_by_steps(forest, values, capacity, allowed, start), start, key=worth)
    return start


def in_haste(forest: Forest, values: NDArray[np.float64], capacity: int) -> Kept:
    """A good choice in no time: the better of the densest bundles and the best single path."""
    found = by_density(forest, values, capacity), _best_path(forest, values, capacity)
    return max(found, key=worth)


def worth(kept: Kept) -> float:
    """The value, to choose the best by."""
    return kept.value


def _by_steps(
    forest: Forest, values: NDArray[np.float64], capacity: int, epsilon: float, start: Kept
) -> Kept:
    """The best choice for values rounded down to steps that cost at most epsilon * start."""
    step, count = epsilon * start.value / int(np.count_nonzero(values)), len(forest)
    most = min(float(values.sum()), relaxed(forest, values, capacity))
    if not step or (count + 1) * (most / step + 2) > MAX_CELLS:
        text = f"{count} pieces of models are too many for an epsilon of {epsilon:g}"
        raise UsageError(text, hint="take a larger one, or another algorithm")
    gains = np.floor(values / step).astype(np.int64)
    top = min(int(gains.sum()), int(most / step + 1))
    tables = np.full((count + 1, top + 1), np.inf)
    tables[:, 0] = 0
    for node in range(count - 1, -1, -1):
        table, gain = tables[node], int(gains[node])
        table[:] = tables[forest.beyond[node]]
        if gain <= top:
            taken = tables[node + 1, : top + 1 - gain] + float(forest.sizes[node])
            np.minimum(table[gain:], taken, out=table[gain:])
    nodes = np.zeros(count, dtype=np.bool_)
    node, left = 0, int(np.flatnonzero(tables[0] <= capacity)[-1])
    while node < count and left:
        beyond = int(forest.beyond[node])
        if tables[node, left] < tables[beyond, left]:
            nodes[node] = True
            left -= int(gains[node])
            node += 1
        else:
            node = beyond
    return _kept(forest, values, nodes)


def _above(forest: Forest) -> list[int]:
    """For each node the one above it; -1 for a root."""
    above, path, beyond = [-1] * len(forest), list[int](), forest.beyond.tolist()
    for node in range(len(forest)):
        while path and beyond[path[-1]] <= node:
            path.pop()
        above[node] = path[-1] if path else -1
        path.append(node)
    return above


def _path_sums(forest: Forest, numbers: NDArray[Any]) -> NDArray[Any]:
    """For each node the sum over it and all above it."""
    sums = numbers.copy()
    for node, above in enumerate(_above(forest)):
        if above >= 0:
            sums[node] += sums[above]
    return sums


def _best_path(forest: Forest, values: NDArray[np.float64], capacity: int) -> Kept:
    """The one node that, with all above it, fits and is worth most."""
    nodes = np.zeros(len(forest), dtype=np.bool_)
    fits = _path_sums(forest, forest.sizes) <= capacity
    sums = np.where(fits, _path_sums(forest, values), 0.0)
    if sums.any():
        best, numbers = int(sums.argmax()), np.arange(len(forest))
        nodes = (numbers <= best) & (best < forest.beyond)
    return _kept(forest, values, nodes)


def _bundles(forest: Forest, values: NDArray[np.float64]) -> list[list[int]]:
    """Bundles of nodes, each after those it needs, in falling order of value per byte.

    Cutting this order off at any byte is the best fractional choice (Horn, 1972).
    """
    gain_of, size = values.astype(float).tolist(), forest.sizes.astype(float).tolist()
    below: list[list[tuple[list[int], float, float]]] = [[] for _ in gain_of]
    loose: list[tuple[list[int], float, float]] = []
    above = _above(forest)
    for node in range(len(gain_of) - 1, -1, -1):
        waiting = sorted(below[node], key=_density)
        nodes, value, need = [node], gain_of[node], size[node]
        while waiting and waiting[-1][1] * need >= value * waiting[-1][2]:
            more, gain, extra = waiting.pop()
            nodes, value, need = nodes + more, value + gain, need + extra
        found = [*waiting, (nodes, value, need)]
        (below[above[node]] if above[node] >= 0 else loose).extend(found)
    # From the end, since of equals the one that others need comes last: rounding makes such equals.
    return [nodes for nodes, _, _ in sorted(loose, key=_density)[::-1]]


def _density(bundle: tuple[list[int], float, float]) -> float:
    return bundle[1] / bundle[2] if bundle[2] else np.inf


def relaxed(forest: Forest, values: NDArray[np.float64], capacity: int) -> float:
    """The best value if the last bundle may be kept in part: an upper bound."""
    left, total = float(max(capacity, 0)), 0.0
    for bundle in _bundles(forest, values):
        size, value = float(forest.sizes[bundle].sum()), float(values[bundle].sum())
        if size > left:
            return total + value * left / size
        left -= size
        total += value
    return total


def by_density(forest: Forest, values: NDArray[np.float64], capacity: int) -> Kept:
    """Bundles in order of value per byte, passing over what does not fit or is worth nothing."""
    nodes = np.zeros(len(forest), dtype=np.bool_)
    blocked = np.zeros(len(forest), dtype=np.bool_)
    left = max(capacity, 0)
    for bundle in _bundles(forest, values):
        if not values[bundle].any():
            continue
        size = int(forest.sizes[bundle].sum())
        if size <= left and not blocked[bundle[0]]:
            nodes[bundle] = True
            left -= size
            continue
        blocked[bundle[0] : forest.beyond[bundle[0]]] = True
    return _kept(forest, values, nodes)


def _kept(forest: Forest, values: NDArray[np.float64], nodes: NDArray[np.bool_]) -> Kept:
    return Kept(nodes, float(values[nodes].sum()), int(forest.sizes[nodes].sum()))
