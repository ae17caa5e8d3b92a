"""What neighbours hold of one model, and which of it to ask them for: the rarest first. Pure.

A neighbour is a device that serves blocks of the model while it gets them. It is asked for nothing
that it did not say it holds. What no neighbour holds is asked of the sources, and a source that
deals says which of it: so that every device is sent other blocks and they exchange the rest. This
module must not know how fast anybody is.
"""

from __future__ import annotations

from array import array
from collections import deque
from itertools import compress
from typing import TYPE_CHECKING, Final

from icnblocks.limits import MAX_WANTS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from random import Random

    from icnblocks.naming import Digest

_SAMPLE: Final = 48
"""The rarest are sought among so many, drawn at random: that costs the same in large models."""
_OTHERS: Final = bytes.maketrans(b"\0\1", b"\1\0")


class Swarm:
    """Keeps account for one engine and one manifest. Blocks are named by index.

    Args:
        blocks: the manifest's distinct blocks, in order of their first places.
        random: breaks ties.
    """

    def __init__(self, blocks: Sequence[Digest], random: Random) -> None:
        self.blocks = blocks
        self._random = random
        self._index = {digest: index for index, digest in enumerate(blocks)}
        self._lengths = array("I", bytes(4 * len(blocks)))  # of those that have waited
        self._gone = bytearray(b"\1" * len(blocks))  # 0: it waits for somebody to ask
        self._holders = array("H", bytes(2 * len(blocks)))
        self._held = bytearray(len(blocks))  # 1: some neighbour holds it
        self._flags: dict[int, bytearray] = {}
        self._pools: dict[int, array[int]] = {}  # what a neighbour holds and may be asked for
        self._dealt: dict[int, deque[int]] = {}

    # What waits.

    def waits(self, digest: Digest, length: int = 1) -> None:
        """A block waits to be asked for (again)."""
        index = self._index.get(digest)
        if index is None or not self._gone[index]:
            return
        self._gone[index] = 0
        self._lengths[index] = length
        if self._held[index]:
            for source, flags in self._flags.items():
                if flags[index]:
                    self._pools[source].append(index)

    def gone(self, digest: Digest) -> None:
        """A block does not wait any more: it came, is under way, or nobody wants it."""
        index = self._index.get(digest)
        if index is not None:
            self._gone[index] = 1

    # What neighbours hold.

    def __len__(self) -> int:
        """How many neighbours there are."""
        return len(self._flags)

    def __contains__(self, source: int) -> bool:
        return source in self._flags

    def join(self, source: int) -> None:
        """A neighbour, of which nothing is known yet."""
        self._flags[source] = bytearray(len(self.blocks))
        self._pools[source] = array("I")

    def leave(self, source: int) -> None:
        """It is not asked any more. No error if it has left before."""
        flags = self._flags.pop(source, None)
        self._pools.pop(source, None)
        if flags is not None:
            for index in _ones(flags):
                self._less(index)

    def heard(self, source: int, flags: bytes) -> int:
        """A neighbour said what it holds: a byte for each block, 1 or 0.

        Returns:
            How many blocks it had not told of before. What it said once stays, until it
            fails to give it.
        """
        mine = self._flags[source]
        fresh = _and_not(flags, mine)
        count = 0
        for index in _ones(fresh):
            mine[index] = 1
            self._holders[index] += 1
            self._held[index] = 1
            count += 1
            if not self._gone[index]:
                self._pools[source].append(index)
        return count

    def lacks(self, source: int, digest: Digest) -> None:
        """A neighbour does not hold a block after all."""
        index = self._index.get(digest)
        if index is not None and self._flags[source][index]:
            self._flags[source][index] = 0
            self._less(index)

    def _less(self, index: int) -> None:
        self._holders[index] -= 1
        self._held[index] = bool(self._holders[index])

    def holds(self, source: int, digest: Digest) -> bool:
        """Whether a neighbour says that it holds a block."""
        index = self._index.get(digest)
        return index is not None and bool(self._flags[source][index])

    def held(self, digest: Digest) -> bool:
        """Whether any neighbour does."""
        index = self._index.get(digest)
        return index is not None and bool(self._held[index])

    def pick(self, source: int, size: float) -> list[Digest]:
        """Take what to ask a neighbour for: blocks that wait and that it holds.

        At most `size` bytes of them, but for the first. They wait no more, until `waits` says so.
        The rarest of a random sample, at random among equals, so that neighbours who ask the same
        device at the same moment ask for different blocks and can give them on.
        """
        pool, flags, gone = self._pools[source], self._flags[source], self._gone
        found: dict[int, None] = {}
        drawn = 0
        while pool and len(found) < MAX_WANTS and (len(found) < _SAMPLE or drawn < size):
            at = self._random.randrange(len(pool))
            index, pool[at] = pool[at], pool[-1]
            pool.pop()
            if flags[index] and not gone[index] and index not in found:
                found[index] = None
                drawn += self._lengths[index]
        ranked = sorted(found, key=self._holders.__getitem__)
        most = self._within(ranked, size)
        pool.extend(ranked[most:])
        for index in ranked[:most]:
            gone[index] = 1
        return [self.blocks[index] for index in ranked[:most]]

    def _within(self, indexes: Sequence[int], size: float) -> int:
        """How many of the first have at most so many bytes together; one at least."""
        for number, index in enumerate(indexes):
            size -= self._lengths[index]
            if size < 0:
                return max(number, 1)
        return len(indexes)

    # What sources deal.

    def rare(self) -> bool:
        """Whether a block waits that no neighbour holds."""
        return self._any_zero(_or(self._gone, self._held))

    def had(self) -> bytes:
        """For a deal: 1 for each block that need not come from a source.

        Those that do not wait, and those that neighbours hold; the latter are left out
        where nothing else waits.
        """
        flags = _or(self._gone, self._held)
        return flags if self._any_zero(flags) else bytes(self._gone)

    def worth(self, size: float, had: bytes) -> int:
        """About how many blocks of a deal have so many bytes together, by the mean of the others.

        Not by that of all which wait: what is rare may be large where what neighbours hold is
        small.
        """
        together = sum(compress(self._lengths, had.translate(_OTHERS)))
        return min(max(round(size * had.count(0) / max(together, 1)), 1), MAX_WANTS)

    def lot(self) -> Iterator[int]:
        """The others, from one at random on."""
        flags = self.had()
        begin = self._random.randrange(len(flags))
        for first, end in ((begin, len(flags)), (0, begin)):
            at = flags.find(0, first, end)
            while at >= 0:
                yield at
                at = flags.find(0, at + 1, end)

    @staticmethod
    def _any_zero(flags: bytes) -> bool:
        return flags.find(0) >= 0

    def dealt(self, source: int, indexes: Sequence[int]) -> None:
        """A source said which blocks it would best be asked for."""
        self._dealt[source] = deque(index for index in indexes if index < len(self.blocks))

    def dealt_to(self, source: int) -> Iterator[Digest]:
        """Take what a source dealt and still waits, one after the other."""
        dealt = self._dealt.get(source, deque())
        while dealt:
            index = dealt.popleft()
            if not self._gone[index]:
                yield self.blocks[index]

    def has_dealt(self, source: int) -> bool:
        """Whether something is left of what a source dealt."""
        return any(not self._gone[index] for index in self._dealt.get(source, ()))


def _or(one: bytes | bytearray, two: bytes | bytearray) -> bytes:
    whole = int.from_bytes(one, "little") | int.from_bytes(two, "little")
    return whole.to_bytes(len(one), "little")


def _and_not(one: bytes | bytearray, two: bytes | bytearray) -> bytes:
    whole = int.from_bytes(one, "little") & ~int.from_bytes(two, "little")
    return whole.to_bytes(len(one), "little")


def _ones(flags: bytes | bytearray) -> Iterator[int]:
    at = flags.find(1)
    while at >= 0:
        yield at
        at = flags.find(1, at + 1)
