"""From a problem to a plan: which groups to keep, so that as many whole models as possible are.

The problem is a knapsack in which a model only counts with all of its groups, so swapping one base
for another is a joint decision. The bundles of `forest` are the best choice at every price of a
byte; what is left is to spend the capacity to its end. Several ways of that are tried, and the
best is taken: bundle by bundle, up to the first that does not fit (a part of it is kept) or passing
over it; node by node; by dynamic programming; and, where sharing is no tree, by bills. Pure: no
clock, no randomness.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from icnblocks.cache.planning.bills import shared_out
from icnblocks.cache.planning.forest import ROOT, Forest, by_density, grow
from icnblocks.cache.planning.problem import Plan, Problem

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

CELLS: Final = 1024
"""Cells of the knapsack's grid, at most."""
_WORK: Final = 4 << 20
"""Cells of all nodes together, at most: it bounds time and memory (about 40 MB)."""
_LEAST: Final = 128
"""With fewer cells than this, dynamic programming is no better than the bundles."""
_ROUNDS: Final = 3
"""How often it is tried anew who pays for a group that is several nodes."""
_NODES: Final = 30_000
"""Nodes that are gone through in all rounds together. Beyond, where sharing is no tree, bills alone
are as good (within .1 % on 100,000 memberships) and ten times as fast."""


def solve(problem: Problem) -> Plan:
    """A plan for the problem; never over its capacity."""
    if problem.capacity <= 0:
        return _plan(problem, problem.sizes <= 0)
    if int(problem.sizes.sum()) <= problem.capacity:
        return _plan(problem, problem.sizes > 0)
    return _plan(problem, _Search(problem).best())


def _filled(problem: Problem, whole: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Bytes to keep of each group: all of these, and of the best of the others what fits."""
    kept = np.where(whole, problem.sizes, 0)
    room = problem.capacity - int(kept.sum())
    rest = np.flatnonzero(~whole & (problem.worth > 0))
    if room > 0 and len(rest):
        sizes = problem.sizes[rest]
        order = np.argsort(-problem.worth[rest] / np.maximum(sizes, 1), kind="stable")
        rest, sizes = rest[order], sizes[order]
        kept[rest] = np.clip(room - (np.cumsum(sizes) - sizes), 0, sizes)
    return kept


def _plan(problem: Problem, whole: NDArray[np.bool_]) -> Plan:
    """Keep these groups, and of the best of the others as much as fits."""
    kept = _filled(problem, whole)
    density = problem.worth / np.maximum(problem.sizes, 1)
    complete = problem.complete(kept >= problem.sizes)
    alive = complete | problem.complete(problem.here >= problem.sizes)
    owners = problem.owners()
    prizes = np.where(alive, problem.prize, 0.0)[owners]
    little = np.minimum(problem.sizes, max(problem.capacity, 0) / CELLS)
    rank = density * np.maximum(little, problem.blocks)
    rank = (rank + np.bincount(problem.members, prizes, len(kept))) / problem.blocks
    shares = prizes / np.maximum(np.diff(problem.starts), 1)[owners]
    loss = density * kept + np.bincount(problem.members, shares, len(kept))
    return Plan(problem.numbers, kept, rank, loss, int(complete.sum()), problem.value(kept))


class _Search:
    """Tries ways to spend the capacity and remembers the best."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._forest: Forest = grow(problem)
        self._is_tree = len(set(self._forest.group)) == len(self._forest.group)
        self._sizes: list[int] = problem.sizes.tolist()
        self._best = np.zeros(len(self._sizes), dtype=bool)
        self._value = -1.0

    def best(self) -> NDArray[np.bool_]:
        """Which groups to keep whole."""
        self._try(self._best)
        forest, problem, is_tree = self._forest, self._problem, self._is_tree
        if not is_tree:
            self._try(shared_out(problem))
        masses = self._masses(problem.prize)
        for _ in range(1 if is_tree else min(_ROUNDS, _NODES // len(forest.group))):
            bundles = self._bundles(masses)
            order = [node for nodes, _, _ in bundles for node in nodes]
            place = {node: at for at, node in enumerate(order)}
            self._try(self._fill_bundles(bundles, to_the_end=False))
            self._try(self._fill_bundles(bundles, to_the_end=True))
            self._try(self._fill(order))
            self._try(self._fill([*sorted(self._knapsack(), key=place.__getitem__), *order]))
            if not is_tree:
                # Those who are kept pay; who is not pays a little, so that it can come in.
                complete = problem.complete(self._best)
                masses = self._masses(np.where(complete, 1.0, 0.05) * problem.prize)
        return self._best

    def _try(self, whole: NDArray[np.bool_]) -> None:
        value = self._problem.value(_filled(self._problem, whole))
        if value > self._value:
            self._best, self._value = whole, value

    def _masses(self, prize: NDArray[np.float64]) -> NDArray[np.float64]:
        """What each node pays of its group: its part of the prizes that need the group."""
        forest = self._forest
        mass = [0.0] * len(forest.parent)
        prizes = prize.tolist()
        for node in range(len(mass) - 1, -1, -1):
            mass[node] += sum(prizes[model] for model in forest.ends[node])
            if forest.parent[node] != ROOT:
                mass[forest.parent[node]] += mass[node]
        masses = np.asarray(mass) + 1e-300
        total = np.bincount(forest.group, masses, len(self._sizes))
        return np.asarray(masses / total[forest.group])

    def _bundles(self, masses: NDArray[np.float64]) -> list[tuple[list[int], float, float]]:
        forest, problem = self._forest, self._problem
        prizes = problem.prize.tolist()
        earned = [sum(prizes[model] for model in ends) for ends in forest.ends]
        self._node_value = problem.worth[forest.group] * masses + earned
        self._node_size = problem.sizes[forest.group] * masses
        return by_density(forest.parent, self._node_value.tolist(), self._node_size.tolist())

    def _fill_bundles(
        self, bundles: list[tuple[list[int], float, float]], *, to_the_end: bool
    ) -> NDArray[np.bool_]:
        """Bundle by bundle, up to the first that does not fit, or passing over those."""
        forest, sizes, room = self._forest, self._sizes, self._problem.capacity
        have, taken = [False] * len(sizes), [False] * len(forest.parent)
        for nodes, _, _ in bundles:
            above = forest.parent[nodes[0]]
            if above != ROOT and not taken[above]:
                continue
            fresh = {forest.group[node] for node in nodes if not have[forest.group[node]]}
            need = sum(sizes[group] for group in fresh)
            if need <= room:
                room -= need
                for group in fresh:
                    have[group] = True
                for node in nodes:
                    taken[node] = True
            elif not to_the_end:
                break
        return np.asarray(have, dtype=bool)

    def _fill(self, order: Iterable[int]) -> NDArray[np.bool_]:
        """Node by node, each after its parent, passing over those that do not fit."""
        forest, sizes, room = self._forest, self._sizes, self._problem.capacity
        have, taken = [False] * len(sizes), [False] * len(forest.parent)
        for node in order:
            above = forest.parent[node]
            if taken[node] or (above != ROOT and not taken[above]):
                continue
            group = forest.group[node]
            if not have[group]:
                if sizes[group] > room:
                    continue
                room -= sizes[group]
                have[group] = True
            taken[node] = True
        return np.asarray(have, dtype=bool)

    def _knapsack(self) -> list[int]:
        """The best subtree from the roots, by dynamic programming over a grid of bytes.

        Nodes in the order of a walk, so that taking one leads to the next, and leaving one out
        leads past all below it: each costs one pass over the grid. Source: Cho and Shaw, "A
        depth-first dynamic programming algorithm for the tree knapsack problem" (1997).
        """
        walk, past = self._forest.walk()
        cells, widths = self._grid(walk)
        if not cells:
            return []
        values = self._node_value[walk].tolist()
        best = [np.zeros(cells + 1)] * (len(walk) + 1)
        takes = np.zeros((len(walk), cells + 1), dtype=bool)
        for at in range(len(walk) - 1, -1, -1):
            width, left = widths[at], best[past[at]]
            if width > cells:
                best[at] = left
                continue
            offer = best[at + 1][: cells + 1 - width] + values[at]
            better = np.greater(offer, left[width:], out=takes[at, width:])
            best[at] = left.copy()
            np.copyto(best[at][width:], offer, where=better)
        chosen, at, room = [], 0, cells
        while at < len(walk):
            if takes[at, room]:
                chosen.append(walk[at])
                room -= widths[at]
                at += 1
            else:
                at = past[at]
        return chosen

    def _grid(self, walk: list[int]) -> tuple[int, list[int]]:
        """Cells of the capacity, and of each node; exact if the sizes have a common measure.

        Else the error of one node is made good by the next, and `_fill` by what does not fit.
        """
        capacity, sizes = self._problem.capacity, self._problem.sizes
        most = min(CELLS, _WORK // max(len(walk), 1))
        unit = int(np.gcd.reduce(sizes)) if len(sizes) else 1
        exact = self._is_tree and capacity // max(unit, 1) <= most
        if not exact and most < _LEAST:
            return 0, []
        cell = unit if exact else capacity / most
        ends = np.floor(np.cumsum(self._node_size[walk]) / max(cell, 1e-9) + 1e-6)
        return int(capacity / max(cell, 1e-9) + 1e-6), np.diff(ends, prepend=0.0).astype(
            int
        ).tolist()
