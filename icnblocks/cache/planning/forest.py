"""Models that share groups as a forest, and the order in which its nodes are worth keeping.

A model is a path from a root: its groups, the most wanted first, so that models which share their
most wanted groups share the beginning of the path. If sharing is a tree
(bases, partly frozen variants, adapters), each group is one node. If it is not, a group is several
nodes, each of which pays its part of the group's bytes.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

import numpy as np

from icnblocks.values import dataclass

if TYPE_CHECKING:
    from icnblocks.cache.planning.problem import Problem

ROOT = -1


@dataclass(frozen=True, slots=True)
class Forest:
    """Nodes in order: a parent before its children.

    Attributes:
        parent: of each node, or ROOT.
        group: of each node.
        ends: the models whose path ends at each node.
    """

    parent: list[int]
    group: list[int]
    ends: list[list[int]]

    def walk(self) -> tuple[list[int], list[int]]:
        """All nodes, each directly before what is below it; and where that ends, for each."""
        below: list[list[int]] = [[] for _ in self.parent]
        roots: list[int] = []
        for node, above in enumerate(self.parent):
            (roots if above == ROOT else below[above]).append(node)
        walk: list[int] = []
        todo = roots[::-1]
        while todo:
            node = todo.pop()
            walk.append(node)
            todo.extend(reversed(below[node]))
        under = [1] * len(walk)
        for node in range(len(walk) - 1, -1, -1):
            if self.parent[node] != ROOT:
                under[self.parent[node]] += under[node]
        return walk, [at + under[node] for at, node in enumerate(walk)]


def grow(problem: Problem) -> Forest:
    """Make the forest. Linear in the memberships, but for sorting them."""
    owners = problem.owners()
    prizes = np.bincount(problem.members, problem.prize[owners], len(problem.sizes))
    wanted = np.add(prizes, problem.worth / np.maximum(problem.sizes, 1))
    order = np.lexsort((problem.members, -wanted[problem.members], owners))
    members, starts = problem.members[order].tolist(), problem.starts.tolist()
    parent: list[int] = []
    group: list[int] = []
    ends: list[list[int]] = []
    nodes: dict[tuple[int, int], int] = {}
    for model in range(problem.models):
        at = ROOT
        for member in members[starts[model] : starts[model + 1]]:
            step = (at, member)
            following = nodes.get(step)
            if following is None:
                following = nodes[step] = len(parent)
                parent.append(at)
                group.append(member)
                ends.append([])
            at = following
        if at != ROOT:
            ends[at].append(model)
    return Forest(parent, group, ends)


def by_density(
    parent: list[int], value: list[float], size: list[float]
) -> list[tuple[list[int], float, float]]:
    """Bundle the nodes of a forest so that bundles can be taken in order of value per byte.

    The first bundle is the subtree from the roots with the most value per byte, the next is that
    among what is left, and so on: for each price of a byte, the bundles above it are the best
    choice there is. Source: Horn, "Single-machine job sequencing with treelike precedence
    ordering and linear delay penalties" (1972). O(n log n).

    Returns:
        Bundles (nodes in an order in which parents come first, value, bytes), best first.
    """
    count = len(parent)
    value, size = list(value), [max(one, 1e-9) for one in size]
    into = list(range(count))
    following, last = [ROOT] * count, list(range(count))
    taken = [False] * count
    bundles: list[tuple[list[int], float, float]] = []
    heap = [(-value[node] / size[node], node) for node in range(count)]
    heapify(heap)
    while heap:
        key, node = heappop(heap)
        if into[node] != node or taken[node] or key != -value[node] / size[node]:
            continue
        above = parent[node]
        while above != ROOT and into[above] != above:
            into[above] = above = into[into[above]]
        if above == ROOT or taken[above]:
            taken[node] = True
            bundles.append((_chain(node, following), value[node], size[node]))
            continue
        into[node] = above
        value[above] += value[node]
        size[above] += size[node]
        following[last[above]] = node
        last[above] = last[node]
        heappush(heap, (-value[above] / size[above], above))
    return bundles


def _chain(node: int, following: list[int]) -> list[int]:
    nodes = [node]
    while (node := following[node]) != ROOT:
        nodes.append(node)
    return nodes
