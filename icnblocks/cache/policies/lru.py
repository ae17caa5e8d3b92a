"""`lru`: the block that was asked for longest ago leaves first. Knows nothing of models."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TYPE_CHECKING, ClassVar

from icnblocks.cache.policies.blockwise import Blockwise
from icnblocks.cache.policies.queues import walk
from icnblocks.cache.policy import register

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from icnblocks.naming import Digest


@register
class Lru(Blockwise):
    """Least recently used: one list, oldest first. All operations are O(1).

    The bulk calls run without a Python frame for each block.
    """

    name: ClassVar[str] = "lru"
    steady: ClassVar[bool] = True

    def __init__(self, capacity: int | None = None) -> None:  # noqa: ARG002
        self._order: OrderedDict[Digest, None] = OrderedDict()
        self._pinned: set[Digest] = set()

    def inserted(self, digest: Digest, size: int, now: float) -> None:  # noqa: ARG002
        """Goes to the end of the list."""
        if digest not in self._pinned:
            self._order[digest] = None
            self._order.move_to_end(digest)

    def inserted_all(self, blocks: Iterable[tuple[Digest, int]], now: float) -> None:  # noqa: ARG002
        """They go to the end of the list, the last one last."""
        order, pinned = self._order, self._pinned
        digests = [block[0] for block in blocks]
        if pinned:
            digests = [digest for digest in digests if digest not in pinned]
        count = len(order) + len(digests)
        for digest in digests:
            order[digest] = None
        if len(order) != count:  # some were here, or came twice
            deque(map(order.move_to_end, digests), maxlen=0)

    def hit(self, digest: Digest, now: float) -> None:  # noqa: ARG002
        """Goes to the end of the list again."""
        if digest in self._order:
            self._order.move_to_end(digest)

    def hits(self, digests: Iterable[Digest], now: float) -> None:  # noqa: ARG002
        """They go to the end of the list again, the last one last."""
        moved = map(self._order.move_to_end, digests)
        while True:
            try:
                deque(moved, maxlen=0)
            except KeyError:  # one that is not in the list; `moved` goes on behind it
                continue
            return

    def removed(self, digest: Digest) -> None:
        """Leaves the list."""
        self._order.pop(digest, None)
        self._pinned.discard(digest)

    def removed_all(self, digests: Iterable[Digest]) -> None:
        """They leave the list."""
        order, pinned = self._order, self._pinned
        for digest in digests:
            if digest in order:
                del order[digest]
            elif pinned:
                pinned.discard(digest)

    def pinned(self, digest: Digest) -> None:
        """Leaves the list, not the store."""
        if digest in self._order:
            del self._order[digest]
            self._pinned.add(digest)

    def unpinned(self, digest: Digest, now: float) -> None:  # noqa: ARG002
        """Comes back at the end of the list."""
        if digest in self._pinned:
            self._pinned.discard(digest)
            self._order[digest] = None

    def victims(self, now: float) -> Iterator[Digest]:  # noqa: ARG002
        """From the oldest to the newest."""
        return walk(self._order)
