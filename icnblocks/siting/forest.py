"""A library as a forest of pieces, if its sharing is one: a model is a path from a root.

That holds for bases with adapters, for variants that share a prefix, and for any nesting of the
two. Pieces that exactly the same models have are one node. Sharing of another shape is told, not
forced into a tree. This module must not choose anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from icnblocks.values import dataclass

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from icnblocks.workloads.library import Library

ROOT = -1


@dataclass(frozen=True, slots=True)
class Forest:
    """Nodes in preorder: a node, then all that is below it, then its next sibling.

    Attributes:
        sizes: bytes of each node.
        beyond: the first node that is not below (or is) each node.
        node_of: for each model, the node at which its path ends.
    """

    sizes: NDArray[np.int64]
    beyond: NDArray[np.int64]
    node_of: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.sizes)

    def values(self, of_models: NDArray[np.float64]) -> NDArray[np.float64]:
        """What each node adds: the values of the models that end there."""
        return np.asarray(np.bincount(self.node_of, of_models, len(self)), dtype=np.float64)


def grow(library: Library) -> Forest | None:
    """The library's forest, or None if its sharing is not one.

    Models without pieces end at a root of their own, which has no bytes.
    """
    empty = [number for number, model in enumerate(library.models) if not model.pieces]
    groups: dict[bytes, tuple[NDArray[np.int64], int]] = {}
    for models, size in zip(
        [*library.owners, np.array(empty, dtype=np.int64)],
        [*library.piece_bytes.tolist(), 0],
        strict=True,
    ):
        if len(models):
            _, sum_ = groups.get(models.tobytes(), (models, 0))
            groups[models.tobytes()] = models, sum_ + size
    return _preorder(sorted(groups.values(), key=lambda group: -len(group[0])), len(library.models))


def _preorder(groups: list[tuple[NDArray[np.int64], int]], models: int) -> Forest | None:
    """Groups, the most shared first, as a forest, if each has all models of one group before it."""
    sizes = np.array([size for _, size in groups], dtype=np.int64)
    parent = np.full(len(groups), ROOT)
    last = np.full(models, ROOT)
    for group, (of, _) in enumerate(groups):
        above = last[of]
        if (above != above[0]).any():
            return None
        parent[group] = above[0]
        last[of] = group
    below: dict[int, list[int]] = {}
    for group, above in enumerate(parent.tolist()):
        below.setdefault(above, []).append(group)
    order: list[int] = []
    beyond: dict[int, int] = {}
    stack = [(group, False) for group in reversed(below.get(ROOT, []))]
    while stack:
        group, done = stack.pop()
        if done:
            beyond[group] = len(order)
            continue
        order.append(group)
        stack.append((group, True))
        stack += [(child, False) for child in reversed(below.get(group, []))]
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    return Forest(sizes[order], np.array([beyond[group] for group in order]), place[last])
