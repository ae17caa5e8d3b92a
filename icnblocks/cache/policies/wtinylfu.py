"""`wtinylfu`: what is new must have been asked for more often than what it would replace.

Source: Einziger, Friedman and Manes, "TinyLFU: a highly efficient cache admission policy" (ACM
Transactions on Storage, 2017): W-TinyLFU with a window of 1 % and a segmented main part (Karedla
et al., 1994) of which 80 % are protected, measured in bytes.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TYPE_CHECKING, ClassVar, Final

from icnblocks.cache.options import Option, fraction
from icnblocks.cache.policies.blockwise import Blockwise
from icnblocks.cache.policies.queues import walk
from icnblocks.cache.policies.sketch import Sketch
from icnblocks.cache.policy import register

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from icnblocks.naming import Digest

_PROTECTED: Final = 0.8


class Segment:
    """Blocks with their sizes, the one asked for longest ago first."""

    __slots__ = ("blocks", "bytes")

    def __init__(self) -> None:
        self.blocks: OrderedDict[Digest, int] = OrderedDict()
        self.bytes = 0

    def append(self, digest: Digest, size: int) -> None:
        """Put a block at the end."""
        self.blocks[digest] = size
        self.bytes += size

    def take(self, digest: Digest) -> int:
        """Take out a block that is in it; returns its size."""
        size = self.blocks.pop(digest)
        self.bytes -= size
        return size


@register
class WTinyLfu(Blockwise):
    """W-TinyLFU.

    A new block comes into the window. Once that is full, its oldest block is a candidate for the
    main part: while there is room it goes there, and when room is made, it and the main part's
    oldest block are compared by how often they were asked for lately, also before they came here:
    the candidate leaves unless it was asked for more often. In the main part a block is on
    probation until it is asked for again, and then protected. Operations are O(1), amortised.

    Args:
        capacity: the budget in bytes, or None.
        window: the window's part of it.
    """

    name: ClassVar[str] = "wtinylfu"
    options: ClassVar[Mapping[str, Option]] = {
        "window": Option("window", fraction, "part of the capacity for what is new (0.01)"),
    }

    def __init__(self, capacity: int | None = None, *, window: float = 0.01) -> None:
        self._capacity = capacity
        self._window_part = window
        self._window = Segment()
        self._probation = Segment()
        self._protected = Segment()
        self._sketch = Sketch()
        self._pinned: dict[Digest, tuple[Segment, int]] = {}
        self._pinned_bytes = 0
        self._count = 0
        # Bytes for each segment, see `_measure`.
        self._window_room = self._main_room = self._protected_room = 0.0
        self._measure()
        # The victim drawn last, and the candidate that takes its place if it leaves.
        self._duel: tuple[Digest, Digest] | None = None

    def inserted(self, digest: Digest, size: int, now: float) -> None:
        """Into the window."""
        if self._segment(digest) is not None or digest in self._pinned:
            self.hit(digest, now)
            return
        self._duel = None
        self._count += 1
        self._window.append(digest, size)
        self._sketch.fit(self._count)
        self._sketch.add(digest)
        if self._capacity is None:
            self._measure()
        if self._window.bytes > self._window_room:
            self._fill_main()

    def hit(self, digest: Digest, now: float) -> None:  # noqa: ARG002
        """Counts; on probation, it becomes protected."""
        self._duel = None
        if digest in self._protected.blocks:
            self._protected.blocks.move_to_end(digest)
        elif digest in self._probation.blocks:
            self._protected.append(digest, self._probation.take(digest))
            self._demote()
        elif digest in self._window.blocks:
            self._window.blocks.move_to_end(digest)
        elif digest not in self._pinned:
            return
        self._sketch.add(digest)

    def removed(self, digest: Digest) -> None:
        """Leaves; the candidate that it was compared with takes its place."""
        duel, self._duel = self._duel, None
        segment = self._segment(digest)
        if segment is not None:
            self._count -= 1
            segment.take(digest)
            if duel is not None and duel[0] == digest and duel[1] in self._window.blocks:
                self._probation.append(duel[1], self._window.take(duel[1]))
        elif digest in self._pinned:
            self._count -= 1
            self._pinned_bytes -= self._pinned.pop(digest)[1]
            self._measure()
        if self._capacity is None:
            self._measure()

    def pinned(self, digest: Digest) -> None:
        """Leaves its segment, not the store."""
        self._duel = None
        segment = self._segment(digest)
        if segment is not None:
            size = segment.take(digest)
            self._pinned[digest] = (segment, size)
            self._pinned_bytes += size
            self._measure()

    def unpinned(self, digest: Digest, now: float) -> None:
        """Comes back into its segment, and counts as asked for."""
        pinned = self._pinned.pop(digest, None)
        if pinned is not None:
            segment, size = pinned
            self._pinned_bytes -= size
            segment.append(digest, size)
            self._measure()
            self.hit(digest, now)

    def victims(self, now: float) -> Iterator[Digest]:  # noqa: ARG002
        """The loser of each comparison; then what is left of the window."""
        candidates = walk(self._window.blocks)
        probation, protected = walk(self._probation.blocks), walk(self._protected.blocks)
        promoted: deque[Digest] | None = None  # on probation since the walk came by there
        candidate = victim = None
        while True:
            if candidate is None and self._window.bytes >= self._window_room:
                candidate = next(candidates, None)
            if victim is None:
                victim = next(probation, None)
                if victim is None:
                    promoted = deque() if promoted is None else promoted
                    victim = promoted.popleft() if promoted else next(protected, None)
            if victim is None and candidate is None:
                candidate = next(candidates, None)
            if candidate is not None and (
                victim is None or not self._sketch.beats(candidate, victim)
            ):
                loser, candidate, self._duel = candidate, None, None
            elif victim is not None:
                self._duel = (victim, candidate) if candidate is not None else None
                loser, victim = victim, None
            else:
                break
            yield loser
            if candidate is not None and victim is None and self._segment(loser) is None:
                if promoted is not None:
                    promoted.append(candidate)
                candidate = None  # it has taken the place
        self._duel = None

    def _segment(self, digest: Digest) -> Segment | None:
        if digest in self._probation.blocks:
            return self._probation
        if digest in self._protected.blocks:
            return self._protected
        return self._window if digest in self._window.blocks else None

    def _measure(self) -> None:
        """Share out what is not pinned; without a capacity, what the segments have."""
        if self._capacity is not None:
            room = max(0, self._capacity - self._pinned_bytes)
        else:
            room = self._window.bytes + self._probation.bytes + self._protected.bytes
        self._window_room = self._window_part * room
        self._main_room = room - self._window_room
        self._protected_room = _PROTECTED * self._main_room

    def _fill_main(self) -> None:
        """What the window has too much goes to the main part while there is room."""
        while self._window.bytes > self._window_room:
            room = self._main_room - self._probation.bytes - self._protected.bytes
            if room <= 0:
                return
            digest, size = next(iter(self._window.blocks.items()))
            if size > room:
                return
            self._probation.append(digest, self._window.take(digest))

    def _demote(self) -> None:
        """What is protected beyond its share is on probation again."""
        while self._protected.bytes > self._protected_room:
            digest = next(iter(self._protected.blocks))
            self._probation.append(digest, self._protected.take(digest))
