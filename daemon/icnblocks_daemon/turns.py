"""Whose turn it is: blocks that wait to be asked for, by priority, and aged. Pure.

A block counts as if it had come earlier by some seconds for each step of its priority. So the
larger priority goes first, those of one priority go in the order of asking, and nobody starves:
what comes later by more than the difference is behind, whatever its priority.

Those of one model that may be asked of the same upstreams stand in one line; a line whose
upstreams have no room for it holds up no other. This module must not know which upstream is asked.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush, heapreplace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

    from icnblocks_daemon.fib import Route

STEP_S: Final = 5.0
"""What a step of priority is worth, in time waited."""

Line = tuple["Route", "Hashable"]
"""Upstreams, and a model."""
_Place = tuple[float, int]  # as if it had come then; its serial number


class Turns:
    """Lines of blocks, known by serial numbers that grow."""

    __slots__ = ("_lines", "_places", "_waiting")

    def __init__(self) -> None:
        self._lines: dict[Line, list[_Place]] = {}
        self._places: dict[int, tuple[_Place, Line, int]] = {}  # and its length
        self._waiting = 0

    def __len__(self) -> int:
        """How many wait."""
        return len(self._places)

    def __contains__(self, serial: int) -> bool:
        return serial in self._places

    @property
    def waiting(self) -> int:
        """Their bytes."""
        return self._waiting

    @property
    def lines(self) -> int:
        """How many lines they stand in, at most."""
        return len(self._lines)

    def add(self, serial: int, line: Line, length: int, priority: int, now: float) -> bool:
        """One more waits, or one that waits has become more urgent (less so is ignored).

        Returns:
            Whether it is the first of its line now.
        """
        place = (now - priority * STEP_S, serial)
        known = self._places.get(serial)
        if known is not None:
            if known[0] <= place:
                return self._head(known[1]) == known[0]
            line, length = known[1], known[2]  # its old place in the line is passed over
        else:
            self._waiting += length
        self._places[serial] = (place, line, length)
        heappush(self._lines.setdefault(line, []), place)
        return self._head(line) == place

    def remove(self, serial: int) -> None:
        """It waits no longer. Unknown ones are ignored."""
        known = self._places.pop(serial, None)
        if known is not None:
            self._waiting -= known[2]

    def heads(self, passed: set[Line]) -> Iterator[tuple[int, Line]]:
        """The first of each line, and the line, the most urgent one first, again and again.

        Ends when nobody is left, but in lines that the caller put into `passed`. After each
        the caller either removes it or passes its line; it adds nobody meanwhile.
        """
        heads = [(place, line) for line in list(self._lines) if (place := self._head(line))]
        heapify(heads)
        while heads:
            place, line = heads[0]
            if line not in passed:
                yield place[1], line
            following = None if line in passed else self._head(line)
            if following is None:
                heappop(heads)
            else:
                heapreplace(heads, (following, line))

    def _head(self, line: Line) -> _Place | None:
        waiting = self._lines.get(line, [])
        while waiting:
            known = self._places.get(waiting[0][1])
            if known is not None and known[0] == waiting[0]:
                return waiting[0]
            heappop(waiting)
        self._lines.pop(line, None)
        return None
