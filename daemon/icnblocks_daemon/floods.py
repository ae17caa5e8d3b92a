"""Log lines that strangers could cause without end: one a minute, which says how many it is for."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

_LOG = logging.getLogger(__name__)
EVERY_S: Final = 60.0
_NO_ACCEPT: Final = "socket.accept() out of system resource"
"""How asyncio says so: once for each place of the backlog, every second."""
_ACCEPTS_AGAIN: Final = "Exception in callback BaseSelectorEventLoop._start_serving("
"""A second later it listens again, as often, and stumbles where the daemon is stopping."""


class Flood:
    """What happens more often than it is logged.

    Args:
        clock: seconds that never go backward.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._next = float("-inf")
        self._count = 0

    def due(self) -> int:
        """It happened once more: how often since the last line, if one is due; else 0."""
        self._count += 1
        now = self._clock()
        if now < self._next:
            return 0
        count, self._count, self._next = self._count, 0, now + EVERY_S
        return count


def quiet_accepts(loop: asyncio.AbstractEventLoop, relieve: Callable[[], None]) -> None:
    """Log seldom that connections cannot be taken; leave all else to the loop's own handler.

    Args:
        loop: that takes them.
        relieve: makes room for some; called whenever one cannot be taken.
    """
    flood = Flood()

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        message = str(context.get("message"))
        if message.startswith(_ACCEPTS_AGAIN):
            return
        if message != _NO_ACCEPT:
            loop.default_exception_handler(context)
            return
        relieve()
        if count := flood.due():
            _LOG.error(
                "connections cannot be taken now: %s; raise the limit of open files, or lower"
                " `max_connections`",
                context.get("exception"),
                extra={"times": count},
            )

    loop.set_exception_handler(handle)
