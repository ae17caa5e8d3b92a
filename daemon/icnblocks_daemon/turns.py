"""Whose turn it is: blocks that wait to be asked for, by priority, and aged. Pure.

A block counts as if it had come earlier by some seconds for each step of its priority. So the
larger priority goes first, those of one priority go in the order of asking, and nobody starves:
what comes later by more than the difference is behind, whatever its priority.

Those of one model that one client wants, and that may be asked of the same upstreams, stand in one
line. What is wanted of other upstreams too, or for another model, stands in a line for that as
well, until its turn comes in one of them.

Lines wait from when one of theirs was asked for last, and so do clients: those of about
the same priority take turns, clients first and then each client's lines, a MiB at a time,
whoever has how many blocks waiting. A line whose upstreams have no room for it holds up no other.
This module must not know which upstream is asked.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush, heapreplace
from math import inf
from typing import TYPE_CHECKING, Final

from icnblocks.limits import MIB
from icnblocks.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

    from icnblocks_daemon.fib import Route

STEP_S: Final = 5.0
"""What a step of priority is worth, in time waited."""

_TURN: Final = MIB
"""Who was given so many bytes is behind those who wait; what is given beyond costs turns."""

Line = tuple["Route", "Hashable", "Hashable"]
"""Upstreams, a model, and the client."""
_Place = tuple[float, int]  # as if it had come then; its serial number
_Rank = tuple[float, int, int]  # as if it had waited since then; its last turn; a serial number
_Ranked = tuple[_Rank, float, Line]  # and what the priority is worth; the line


@dataclass(slots=True)
class _Account:
    """What a line, or a client, was given.

    Attributes:
        at: when it had its last turn.
        turn: the number of that.
        given: bytes since then.
    """

    at: float = -inf
    turn: int = 0
    given: int = 0


_NOTHING: Final = _Account()
"""Of whom has not been given anything; never changed."""


@dataclass(slots=True)
class _Waiting:
    """A block that waits."""

    place: _Place
    lines: list[Line]
    length: int
    ahead: float  # seconds that its priority is worth


class Turns:
    """Lines of blocks, known by serial numbers that grow."""

    __slots__ = ("_clients", "_lines", "_of_lines", "_places", "_turn", "_waiting")

    def __init__(self) -> None:
        self._lines: dict[Line, list[_Place]] = {}
        self._places: dict[int, _Waiting] = {}
        self._of_lines: dict[Line, _Account] = {}
        self._clients: dict[Hashable, _Account] = {}
        self._waiting = 0
        self._turn = 0

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

        One that waits stands in another line as well, if none of its lines is for the same
        upstreams and model. A crowd that wants one model has one line of it: there may be
        thousands, and all lines are looked through for each block.

        Returns:
            Whether it has become the first of a line.
        """
        ahead = priority * STEP_S
        place = (now - ahead, serial)
        known = self._places.get(serial)
        moved: list[Line] = []
        if known is None:
            known = self._places[serial] = _Waiting(place, [], length, ahead)
            self._waiting += length
        elif place < known.place:  # its old places in its lines are passed over
            known.place, known.ahead = place, ahead
            moved += known.lines
        if all(each[:2] != line[:2] for each in known.lines):
            known.lines.append(line)
            moved.append(line)
        for each in moved:
            heappush(self._lines.setdefault(each, []), known.place)
        return any(self._head(each) == known.place for each in moved)

    def step_out(self, serial: int, line: Line) -> bool:
        """It waits in this line no longer; False if it stands in no other, so that it does."""
        lines = self._places[serial].lines
        if len(lines) > 1:
            lines.remove(line)
            return True
        return False

    def remove(self, serial: int) -> None:
        """It waits no longer. Unknown ones are ignored."""
        known = self._places.pop(serial, None)
        if known is not None:
            self._waiting -= known.length

    def take(self, serial: int, line: Line, now: float) -> None:
        """It is asked for: a turn of a line where it stands, and of the line's client."""
        length = self._places[serial].length
        self.remove(serial)
        of_line = self._of_lines.setdefault(line, _Account())
        of_client = self._clients.setdefault(line[2], _Account())
        for account in (of_line, of_client):
            account.given += length
            self._end_turn(account, now)

    def heads(self, passed: set[Line], now: float) -> Iterator[tuple[int, Line]]:
        """The first of each line, and the line, the most urgent one first, again and again.

        Ends when nobody is left, but in lines that the caller put into `passed`. After each
        the caller takes it, removes it, has it step out, or passes its line; it adds nobody.
        """
        lines: dict[Hashable, list[_Ranked]] = {}
        for line in list(self._lines):
            ranked = self._ranked(line)
            if ranked is not None:
                lines.setdefault(line[2], []).append(ranked)
        if len(self._clients) > len(lines):  # some have gone
            self._clients = {c: self._clients[c] for c in lines if c in self._clients}
        for of_client in lines.values():
            heapify(of_client)
        clients = [(self._rank_of(each, lines[each][0]), each) for each in lines]
        heapify(clients)
        while clients:
            _, client = clients[0]
            of_client = lines[client]
            (_, _, serial), _, line = of_client[0]
            waits = self._stands(serial, line)  # else it was taken in another line
            if waits and not self._pays(client, line, now) and line not in passed:
                yield serial, line
            following = None if line in passed else self._ranked(line)
            if following is None:
                heappop(of_client)
            else:
                heapreplace(of_client, following)
            if of_client:
                heapreplace(clients, (self._rank_of(client, of_client[0]), client))
            else:
                heappop(clients)

    def _ranked(self, line: Line) -> _Ranked | None:
        """Its first, among the lines of its client; None if it is empty."""
        place = self._head(line)
        if place is None:
            return None
        ahead = self._places[place[1]].ahead
        account = self._of_lines.get(line, _NOTHING)
        return (max(place[0], account.at - ahead), account.turn, place[1]), ahead, line

    def _rank_of(self, client: Hashable, first: _Ranked) -> _Rank:
        """A client's first line, among those of all clients."""
        (since, _, serial), ahead, _ = first
        account = self._clients.get(client, _NOTHING)
        return max(since, account.at - ahead), account.turn, serial

    def _pays(self, client: Hashable, line: Line, now: float) -> bool:
        """Whether it is its turn, but was given the bytes of that before."""
        accounts = (self._clients.get(client, _NOTHING), self._of_lines.get(line, _NOTHING))
        owing = [each for each in accounts if each.given >= _TURN]
        for account in owing:
            self._end_turn(account, now)
        return bool(owing)

    def _end_turn(self, account: _Account, now: float) -> None:
        """If it was given what there is for a turn."""
        if account.given >= _TURN:
            self._turn += 1
            account.at, account.turn = now, self._turn
            account.given -= _TURN

    def _stands(self, serial: int, line: Line) -> bool:
        known = self._places.get(serial)
        return known is not None and line in known.lines

    def _head(self, line: Line) -> _Place | None:
        waiting = self._lines.get(line, [])
        while waiting:
            serial = waiting[0][1]
            if self._stands(serial, line) and self._places[serial].place == waiting[0]:
                return waiting[0]
            heappop(waiting)
        self._lines.pop(line, None)
        self._of_lines.pop(line, None)
        return None
