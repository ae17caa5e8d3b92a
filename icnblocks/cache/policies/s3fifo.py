"""`s3fifo`: three queues; what is not used again soon after it came leaves soon.

Source: Yang et al., "FIFO queues are all you need for cache eviction" (SOSP 2023), algorithm 1,
with queues measured in bytes.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, ClassVar, Final

from icnblocks.cache.policies.blockwise import Blockwise
from icnblocks.cache.policy import register

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from icnblocks.naming import Digest

_USES_BITS: Final = 2
_MAX_USES: Final = (1 << _USES_BITS) - 1
_TENTHS_MAIN: Final = 9


class Queue:
    """Blocks in order of arrival with sizes and uses (up to 3), and those drawn as victims."""

    __slots__ = ("blocks", "bytes", "drawn")

    def __init__(self) -> None:
        # One integer for each block: size | uses.
        self.blocks: OrderedDict[Digest, int] = OrderedDict()
        self.bytes = 0
        self.drawn: set[Digest] = set()

    @property
    def undrawn(self) -> bool:
        """Is there a block that was not drawn?"""
        return len(self.blocks) > len(self.drawn)

    def append(self, digest: Digest, value: int) -> None:
        """Put a block at the end."""
        self.blocks[digest] = value
        self.bytes += value >> _USES_BITS

    def prepend(self, digest: Digest, value: int) -> None:
        """Put a block at the head."""
        self.append(digest, value)
        self.blocks.move_to_end(digest, last=False)

    def pop(self, digest: Digest) -> int | None:
        """Take a block out; its value, or None if it is not here."""
        value = self.blocks.pop(digest, None)
        if value is not None:
            self.bytes -= value >> _USES_BITS
        return value


@register
class S3Fifo(Blockwise):
    """S3-FIFO: a small queue for what is new, a main one, and the names of what left the small one.

    The small queue has 10 % of the room that is not pinned. What was used twice while it was in
    there goes to the main queue; the rest leaves, but its name is kept for as long as bytes of
    the main queue's size leave after it: if it comes again meanwhile, it goes to the main queue at
    once. There the head of the queue leaves, or goes to the end again for each use, up to three
    times. Operations are O(1), amortised.
    """

    name: ClassVar[str] = "s3fifo"

    def __init__(self, capacity: int | None = None) -> None:
        self._capacity = capacity
        self._small = Queue()
        self._main = Queue()
        self._ghosts: OrderedDict[Digest, int] = OrderedDict()
        self._ghost_bytes = 0
        self._pinned: dict[Digest, tuple[Queue, int]] = {}
        self._pinned_bytes = 0
        # What moved since the last removal, to be undone if none follows: the block, from where
        # and with which value, and to where.
        self._moves: list[tuple[Digest, Queue, int, Queue]] = []

    def inserted(self, digest: Digest, size: int, now: float) -> None:
        """Into the small queue, or, if it left that one not long ago, into the main one."""
        if digest in self._small.blocks or digest in self._main.blocks or digest in self._pinned:
            self.hit(digest, now)
            return
        self._settle()
        known = self._ghosts.pop(digest, None)
        if known is None:
            self._small.append(digest, size << _USES_BITS)
        else:
            self._ghost_bytes -= known
            self._main.append(digest, size << _USES_BITS)

    def hit(self, digest: Digest, now: float) -> None:
        """Counts as a use."""
        self.hits((digest,), now)

    def hits(self, digests: Iterable[Digest], now: float) -> None:  # noqa: ARG002
        """Count as uses."""
        self._settle()
        small, main = self._small.blocks, self._main.blocks
        for digest in digests:
            blocks = small if digest in small else main
            value = blocks.get(digest)
            if value is not None and value & _MAX_USES < _MAX_USES:
                blocks[digest] = value + 1

    def removed(self, digest: Digest) -> None:
        """Leaves its queue; the name is kept if it was a victim from the small one."""
        for queue in (self._small, self._main):
            if digest in queue.drawn:
                queue.drawn.remove(digest)
                self._moves.clear()
                value = queue.pop(digest)
                if queue is self._small and value is not None:
                    self._remember(digest, value >> _USES_BITS)
                return
        self._settle()
        if self._small.pop(digest) is None and self._main.pop(digest) is None:
            pinned = self._pinned.pop(digest, None)
            if pinned is not None:
                self._pinned_bytes -= pinned[1] >> _USES_BITS

    def pinned(self, digest: Digest) -> None:
        """Leaves its queue, not the store."""
        self._settle()
        for queue in (self._small, self._main):
            value = queue.pop(digest)
            if value is not None:
                self._pinned[digest] = (queue, value)
                self._pinned_bytes += value >> _USES_BITS

    def unpinned(self, digest: Digest, now: float) -> None:
        """Comes back at the end of the queue that it was in, used once more."""
        pinned = self._pinned.pop(digest, None)
        if pinned is not None:
            queue, value = pinned
            self._settle()
            self._pinned_bytes -= value >> _USES_BITS
            queue.append(digest, value)
            self.hit(digest, now)

    def victims(self, now: float) -> Iterator[Digest]:  # noqa: ARG002
        """From the small queue while it has more than its share, else from the main one."""
        self._settle()
        while (queue := self._turn()) is not None:
            digest = next(iter(queue.blocks))
            uses = queue.blocks[digest] & _MAX_USES
            if digest in queue.drawn:
                self._move(digest, queue, queue, uses)
            elif queue is self._small and uses > 1:
                self._move(digest, queue, self._main, 0)
            elif queue is self._main and uses > 0:
                self._move(digest, queue, queue, uses - 1)
            else:
                queue.drawn.add(digest)
                yield digest
        self._settle()

    def _turn(self) -> Queue | None:
        """The queue from which a block must go."""
        small, main = self._small, self._main
        room = self._room()
        if main.undrawn and (
            not small.undrawn or 10 * small.bytes < room or 10 * main.bytes > _TENTHS_MAIN * room
        ):
            return main
        return small if small.undrawn else None

    def _room(self) -> int:
        """Bytes for both queues."""
        if self._capacity is not None:
            return max(0, self._capacity - self._pinned_bytes)
        return self._small.bytes + self._main.bytes

    def _move(self, digest: Digest, source: Queue, target: Queue, uses: int) -> None:
        """From the head of one queue to the end of another, or of the same."""
        value = source.pop(digest)
        if value is not None:
            self._moves.append((digest, source, value, target))
            target.append(digest, value & ~_MAX_USES | uses)

    def _remember(self, digest: Digest, size: int) -> None:
        room = self._room()
        self._ghosts[digest] = size
        self._ghost_bytes += size
        while self._ghosts and 10 * self._ghost_bytes > _TENTHS_MAIN * room:
            _, size = self._ghosts.popitem(last=False)
            self._ghost_bytes -= size

    def _settle(self) -> None:
        """The last look at victims is over: what moved with no removal after it goes back."""
        if not (self._small.drawn or self._main.drawn):
            return
        self._small.drawn.clear()
        self._main.drawn.clear()
        while self._moves:
            digest, source, value, target = self._moves.pop()
            target.pop(digest)
            source.prepend(digest, value)
