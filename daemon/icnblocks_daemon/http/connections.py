"""Open connections, kept within a bound: when there are too many, the longest idle ones leave.

A connection takes a file descriptor and some memory whether anything is asked on it or not. One
with a request in work is never closed from here; requests have limits of their own. One that is
still in its TLS handshake takes as much and counts as well. This module must not answer anything.
"""

from __future__ import annotations

import asyncio
import logging
import resource
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

from icnblocks_daemon.floods import Flood
from icnblocks_daemon.http.reader import Reader

if TYPE_CHECKING:
    from asyncio import BaseTransport
    from collections.abc import Callable, Iterator, Sequence

    from aiohttp.web import RequestHandler
    from aiohttp.web_server import Server

_LOG = logging.getLogger(__name__)
_BUSY: Final = float("inf")
_NEVER: Final = float("-inf")
_SPARE_FILES: Final = 256
"""Descriptors that are left for the store and for upstreams."""
AT_ONCE: Final = 16
"""So many may be taken before it is looked how many there are; fewer than are spared."""
_PART: Final = 16
"""When there are too many, this part of them leaves together: looking for them takes time."""


class Connections:
    """Which connections are busy, and since when the others are not.

    Args:
        most: how many may be open.
        clock: seconds that never go backward.
    """

    def __init__(self, most: int, clock: Callable[[], float]) -> None:
        self._most = most
        self._clock = clock
        self._used: WeakKeyDictionary[BaseTransport, float] = WeakKeyDictionary()
        self._handshakes: dict[asyncio.Task[object], None] = {}
        """What takes those that are not open yet, in the order of their coming."""
        self.closed = 0
        """How many were closed to make room."""

    @contextmanager
    def at_work(self, transport: BaseTransport | None) -> Iterator[None]:
        """A request came on it, and is answered when this ends."""
        if transport is not None:
            self._used[transport] = _BUSY
        try:
            yield
        finally:
            if transport is not None:
                self._used[transport] = self._clock()

    def make_room(self, connections: Sequence[RequestHandler]) -> None:
        """One more is about to be opened beside these, which are in the order of their opening.

        Those on which nothing was asked yet leave before those that were of use; handshakes are
        given up, the oldest first, where they are more than half of all.
        """
        count = len(connections) + len(self._handshakes) - self._most
        if count < 0:
            return
        if len(self._handshakes) > self._most // 2:
            self._give_up(1)
        else:
            self._close_idle(connections, count)

    def relieve(self, connections: Sequence[RequestHandler]) -> None:
        """There are too many for the process, or the system, whatever the bound is."""
        self._give_up(len(self._handshakes) // 2)
        self._close_idle(connections, 0)

    def _give_up(self, count: int) -> None:
        """End so many handshakes: their connections are closed at once."""
        for task in list(self._handshakes)[:count]:
            del self._handshakes[task]
            task.cancel()
            self.closed += 1

    def _close_idle(self, connections: Sequence[RequestHandler], count: int) -> None:
        """Close so many, and a part of the bound more."""
        used: list[tuple[float, int, RequestHandler]] = []
        for number, each in enumerate(connections):
            when = self._used.get(each.transport, _NEVER) if each.transport is not None else _BUSY
            if when != _BUSY:
                used.append((when, number, each))
        for _, _, each in sorted(used)[: count + max(1, self._most // _PART)]:
            _close_now(each)
            self.closed += 1

    def guarded(
        self, server: Server, grace_s: Callable[[], float], *, tls: bool = False
    ) -> Callable[[], RequestHandler]:
        """What makes a connection of `server`, and room for it.

        Args:
            server: whose.
            grace_s: how long one that is closed may take for what was written to it.
            tls: whether each begins with a handshake.
        """
        malformed = Flood(self._clock)

        def make() -> RequestHandler:
            self.make_room(server.connections)
            if tls:
                self._shake_hands(asyncio.current_task())
            return Reader(server, malformed, grace_s)

        return make

    def _shake_hands(self, task: asyncio.Task[object] | None) -> None:
        """Count a handshake until it succeeds or fails.

        asyncio makes the protocol of each connection in a task of its own, which ends then; the
        protocol itself is told of success only.
        """
        if task is not None:
            self._handshakes[task] = None
            task.add_done_callback(lambda ended: self._handshakes.pop(ended, None))


def _close_now(connection: RequestHandler) -> None:
    """Close an idle one, and do not wait until it took what was written to it: it might never."""
    transport = connection.transport
    connection.force_close()
    if transport is not None:
        transport.abort()


def most_connections(wanted: int) -> int:
    """As many connections as are wanted, as far as this process may open files.

    Raises the process's limit to what the system allows it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or soft < hard:
        want = wanted + _SPARE_FILES if hard == resource.RLIM_INFINITY else hard
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, want), hard))
        except (OSError, ValueError) as error:
            _LOG.info("the limit of open files stays at %d: %s", soft, error)
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = max(soft - _SPARE_FILES, soft // 2)
    if allowed < wanted:
        _LOG.warning("at most %d connections: the limit of open files is %d", allowed, soft)
    return min(wanted, allowed)
