"""Blocks in order of a key that rises with use: what `lfu`, `gdsf` and `score` stand on.

Keys only rise while a block is here, so the heap holds one entry for each block, an old entry is
corrected when it comes up, and a hit costs no heap work at all.
"""

from __future__ import annotations

from array import array
from heapq import heapify, heappop, heappush, heapreplace
from typing import TYPE_CHECKING, Final

from icnblocks.cache.policies.blockwise import Blockwise
from icnblocks.cache.policies.slots import Slots

if TYPE_CHECKING:
    from collections.abc import Iterator

    from icnblocks.naming import Digest

_QUEUED, _PINNED, _DRAWN = 1, 2, 4
_SLOT_BITS, _TICK_BITS = 32, 40
_SLOT_MASK: Final = (1 << _SLOT_BITS) - 1
_MAX_USES: Final = (1 << 32) - 1
_MIN_COMPACT: Final = 1024
MAX_KEY: Final = (1 << 63) - 1
"""Keys beyond it count as this one: then the block used longest ago leaves first."""


class Ranked(Blockwise):
    """A policy but for its name and `rank`. All operations are O(log n), amortised."""

    def __init__(self, capacity: int | None = None) -> None:  # noqa: ARG002
        self._slots = Slots()
        self._uses = array("I")
        self._sizes = array("Q")
        self._keys = array("q")
        self._ticks = array("q")
        self._flags = bytearray()
        # An entry is one integer, key | tick | slot: a third of what a tuple takes.
        self._heap: list[int] = []
        self._drawn: list[int] = []
        self._tick = 0
        self._dead = 0

    def rank(self, uses: int, size: int, tick: int) -> int:
        """The key of a block used for the `uses`th time at `tick` (uses of all blocks so far).

        Between -2**63 and 2**63; rises with `uses` and `tick`.
        """
        raise NotImplementedError

    def evicted(self, key: int) -> None:
        """A victim with this key was removed."""

    def inserted(self, digest: Digest, size: int, now: float) -> None:
        """Used once."""
        if digest in self._slots:
            self.hit(digest, now)
            return
        slot = self._slots.add(digest)
        self._tick = tick = self._tick + 1
        key = self.rank(1, size, tick)
        if slot == len(self._uses):
            self._uses.append(1)
            self._sizes.append(size)
            self._keys.append(key)
            self._ticks.append(tick)
            self._flags.append(_QUEUED)
        else:
            self._uses[slot] = 1
            self._sizes[slot] = size
            self._keys[slot] = key
            self._ticks[slot] = tick
            self._flags[slot] = _QUEUED
        heappush(self._heap, (((key << _TICK_BITS) | tick) << _SLOT_BITS) | slot)

    def hit(self, digest: Digest, now: float) -> None:  # noqa: ARG002
        """Used once more; worth more, and later than its equals."""
        slot = self._slots.find(digest)
        if slot is None:
            return
        self._tick += 1
        uses = self._uses[slot]
        if uses < _MAX_USES:
            self._uses[slot] = uses = uses + 1
        self._keys[slot] = self.rank(uses, self._sizes[slot], self._tick)
        self._ticks[slot] = self._tick

    def removed(self, digest: Digest) -> None:
        """Leaves."""
        slot = self._slots.find(digest)
        if slot is None:
            return
        self._slots.unname(slot)
        flags = self._flags[slot]
        if flags & _DRAWN:
            self.evicted(self._keys[slot])
        if flags & _QUEUED:
            # The entry is found out when it comes up; until then the slot is not given away.
            self._dead += 1
            if self._dead > _MIN_COMPACT and 2 * self._dead > len(self._heap):
                self._compact()
        else:
            self._slots.recycle(slot)
            self._flags[slot] = 0

    def pinned(self, digest: Digest) -> None:
        """Not offered any more."""
        slot = self._slots.find(digest)
        if slot is not None:
            self._flags[slot] |= _PINNED

    def unpinned(self, digest: Digest, now: float) -> None:
        """Offered again, with the uses it had and one more."""
        slot = self._slots.find(digest)
        if slot is not None and self._flags[slot] & _PINNED:
            self._flags[slot] &= ~_PINNED
            self.hit(digest, now)
            self._queue(slot)

    def victims(self, now: float) -> Iterator[Digest]:  # noqa: ARG002
        """From the least key; among equals, from the one used longest ago."""
        self._put_back()
        self._unmark()
        try:
            while (slot := self._pop()) is not None:
                self._drawn.append(slot)
                self._flags[slot] |= _DRAWN
                yield self._slots.digest(slot)
        finally:
            self._put_back()
        self._unmark()

    def _entry(self, slot: int) -> int:
        return (((self._keys[slot] << _TICK_BITS) | self._ticks[slot]) << _SLOT_BITS) | slot

    def _queue(self, slot: int) -> None:
        if not self._flags[slot] & _QUEUED:
            self._flags[slot] |= _QUEUED
            heappush(self._heap, self._entry(slot))

    def _pop(self) -> int | None:
        """Take the least block out of the heap."""
        heap = self._heap
        while heap:
            slot = heap[0] & _SLOT_MASK
            flags = self._flags[slot]
            if not self._slots.used(slot):
                heappop(heap)
                self._bury(slot)
            elif flags & _PINNED:
                heappop(heap)
                self._flags[slot] = flags & ~_QUEUED
            elif heap[0] != (entry := self._entry(slot)):
                heapreplace(heap, entry)
            else:
                heappop(heap)
                self._flags[slot] = flags & ~_QUEUED
                return slot
        return None

    def _bury(self, slot: int) -> None:
        self._dead -= 1
        self._flags[slot] = 0
        self._slots.recycle(slot)

    def _put_back(self) -> None:
        """Queue again what was drawn but not removed (it may still be, so it stays marked)."""
        for slot in self._drawn:
            if self._slots.used(slot) and not self._flags[slot] & _PINNED:
                self._queue(slot)

    def _unmark(self) -> None:
        """What was drawn so far is no victim if it leaves now."""
        for slot in self._drawn:
            self._flags[slot] &= ~_DRAWN
        self._drawn.clear()

    def _compact(self) -> None:
        """Throw out the entries of blocks that are gone, and make the others anew."""
        living = []
        for entry in self._heap:
            slot = entry & _SLOT_MASK
            if self._slots.used(slot):
                living.append(self._entry(slot))
            else:
                self._bury(slot)
        heapify(living)
        self._heap = living
