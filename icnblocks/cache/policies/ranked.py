"""Blocks in order of a key that rises with use: what `lfu`, `gdsf` and `score` stand on.

Blocks with as many uses (and, where it counts, of the same size) stand in a line, in the order of
their last use. Their keys rise along the line, so a heap needs to know the first of each line
only, and a hit moves a block from line to line.
"""

from __future__ import annotations

from array import array
from heapq import heapify, heappop, heappush, heapreplace
from typing import TYPE_CHECKING, ClassVar, Final

from icnblocks.cache.policies.blockwise import Blockwise
from icnblocks.cache.policies.slots import NONE, Chain, Chains, Slots

if TYPE_CHECKING:
    from collections.abc import Iterator

    from icnblocks.naming import Digest

_TICK_BITS, _USES_BITS, _SIZE_BITS = 40, 32, 64
_LINE_BITS: Final = _USES_BITS + _SIZE_BITS
_LINE_MASK: Final = (1 << _LINE_BITS) - 1
_MAX_USES: Final = (1 << _USES_BITS) - 1
_MIN_COMPACT: Final = 1024
_OUT: Final = -1 << 255
"""The entry of a line that has none: less than any."""
MAX_KEY: Final = (1 << 63) - 1
"""Keys beyond it count as this one: then the block used longest ago leaves first."""


class Line(Chain):
    """Blocks with the same uses and size, the one used longest ago first.

    Attributes:
        uses, size: theirs; size is 0 where it does not count.
        entry: the line's in the heap. Others of the same number are old.
    """

    __slots__ = ("entry", "size", "uses")

    def __init__(self, uses: int, size: int) -> None:
        super().__init__()
        self.uses = uses
        self.size = size
        self.entry = 0

    @property
    def number(self) -> int:
        """What no other line has."""
        return self.uses << _SIZE_BITS | self.size


class Ranked(Blockwise):
    """A policy but for its name and `rank`. All operations are O(log n), amortised.

    Attributes:
        sized: `rank` depends on the size.
    """

    sized: ClassVar[bool] = False

    def __init__(self, capacity: int | None = None) -> None:  # noqa: ARG002
        self._slots = Slots()
        self._links = Chains()
        self._line_of: list[Line] = []
        self._ticks = array("q")
        self._pinned: set[int] = set()
        self._lines: dict[int, Line] = {}
        # An entry is one integer, key | tick | line, of the line's first block, or of one that
        # was first: it is corrected when it comes up.
        self._heap: list[int] = []
        # While several victims are drawn, the lines that some came from have no entry there;
        # instead the next block of each is here, with what would be its entry.
        self._out: list[Line] = []
        self._next: list[tuple[int, int]] = []
        self._drawn: set[int] = set()
        self._tick = 0

    def rank(self, slot: int, line: Line) -> int:
        """The key of a block as it was used last.

        Between -2**63 and 2**63; rises with `line.uses` and with the time of the last use.
        """
        raise NotImplementedError

    def used(self, slot: int, before: int) -> None:
        """A block was used; the last time was at tick `before` (0: it is new)."""

    def left(self, slot: int, line: Line, *, victim: bool) -> None:
        """A block was removed."""

    def inserted(self, digest: Digest, size: int, now: float) -> None:
        """Used once."""
        if digest in self._slots:
            self.hit(digest, now)
            return
        slot = self._slots.add(digest)
        if slot == len(self._ticks):
            self._ticks.append(0)
            self._line_of.append(_NOWHERE)
        self._tick += 1
        self._ticks[slot] = self._tick
        self.used(slot, 0)
        self._append(1, size if self.sized else 0, slot)

    def hit(self, digest: Digest, now: float) -> None:  # noqa: ARG002
        """Used once more; worth more, and later than its equals."""
        slot = self._slots.find(digest)
        if slot is None:
            return
        line, before = self._line_of[slot], self._ticks[slot]
        uses = min(line.uses + 1, _MAX_USES)
        self._tick += 1
        self._ticks[slot] = self._tick
        self.used(slot, before)
        if slot in self._pinned:
            self._line_of[slot] = Line(uses, line.size)
        else:
            self._remove(line, slot)
            self._append(uses, line.size, slot)

    def removed(self, digest: Digest) -> None:
        """Leaves."""
        slot = self._slots.find(digest)
        if slot is None:
            return
        line = self._line_of[slot]
        if slot in self._pinned:
            self._pinned.discard(slot)
        else:
            self._remove(line, slot)
        self._slots.drop(slot)
        victim = slot in self._drawn
        self._drawn.discard(slot)
        self.left(slot, line, victim=victim)

    def pinned(self, digest: Digest) -> None:
        """Not offered any more."""
        slot = self._slots.find(digest)
        if slot is not None and slot not in self._pinned:
            self._pinned.add(slot)
            self._remove(self._line_of[slot], slot)

    def unpinned(self, digest: Digest, now: float) -> None:
        """Offered again, with the uses it had and one more."""
        slot = self._slots.find(digest)
        if slot is not None and slot in self._pinned:
            self.hit(digest, now)
            self._pinned.discard(slot)
            line = self._line_of[slot]
            self._append(line.uses, line.size, slot)

    def victims(self, now: float) -> Iterator[Digest]:  # noqa: ARG002
        """From the least key; among equals, from the one used longest ago."""
        self._put_back()
        self._drawn.clear()
        digest_of, after, nexts = self._slots.digest, self._links.after, self._next
        try:
            while (line := self._top()) is not None or nexts:
                if line is None or (nexts and nexts[0][0] < line.entry):
                    slot = heappop(nexts)[1]
                    line = self._line_of[slot]
                else:
                    slot = line.first
                while True:  # along the line, as long as it is the least
                    following = after(slot)
                    self._drawn.add(slot)
                    yield digest_of(slot)
                    if line.count and line.entry != _OUT:
                        line.entry = _OUT
                        self._out.append(line)
                    if following == NONE:
                        break
                    entry = self._entry(following, line)
                    if (nexts and nexts[0][0] < entry) or (self._heap and self._heap[0] < entry):
                        heappush(nexts, (entry, following))
                        break
                    slot = following
        finally:
            self._put_back()
        self._drawn.clear()

    def _entry(self, slot: int, line: Line) -> int:
        order = (self.rank(slot, line) << _TICK_BITS) | self._ticks[slot]
        return (order << _LINE_BITS) | line.number

    def _append(self, uses: int, size: int, slot: int) -> None:
        """Put a block at the end of its line."""
        line = self._lines.get(uses << _SIZE_BITS | size)
        if line is not None:
            self._line_of[slot] = line
            self._links.append(line, slot)
            return
        self._line_of[slot] = line = Line(uses, size)
        self._lines[line.number] = line
        self._links.append(line, slot)
        self._queue(line)
        if len(self._heap) > 2 * len(self._lines) + _MIN_COMPACT:
            self._make_heap()

    def _remove(self, line: Line, slot: int) -> None:
        """Take a block out of its line."""
        self._links.remove(line, slot)
        if not line.count:
            del self._lines[line.number]

    def _queue(self, line: Line) -> None:
        line.entry = self._entry(line.first, line)
        heappush(self._heap, line.entry)

    def _make_heap(self) -> None:
        """Throw out the entries of lines that are gone, and make the others anew."""
        lines = [line for line in self._lines.values() if line.entry != _OUT]
        for line in lines:
            line.entry = self._entry(line.first, line)
        self._heap = [line.entry for line in lines]
        self._next[:] = [(self._entry(slot, self._line_of[slot]), slot) for _, slot in self._next]
        heapify(self._heap)
        heapify(self._next)

    def _top(self) -> Line | None:
        """The line whose first block is the least, and whose entry is the heap's first."""
        heap = self._heap
        while heap:
            line = self._lines.get(heap[0] & _LINE_MASK)
            if line is None or line.entry != heap[0]:
                heappop(heap)
                continue
            entry = self._entry(line.first, line)
            if entry != heap[0]:
                line.entry = entry
                heapreplace(heap, entry)
            if entry == heap[0]:
                return line
        return None

    def _put_back(self) -> None:
        """Lines that several victims were drawn from are in the heap again."""
        if self._out:
            for line in self._out:
                if line.count:
                    self._queue(line)
            self._out.clear()
        self._next.clear()


_NOWHERE: Final = Line(0, 0)
