"""Turns at sending: waits until a client may be sent one more block (shares.py says when).

On the event loop. It must not know what is sent.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final

from icnblocks.client.endpoint import is_loopback
from icnblocks_daemon.shares import Shares

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_LOOK_S: Final = 0.25
"""How often who waits first looks whether the other clients are gone."""


class Sending:
    """Who is sent to, and who waits for that.

    Args:
        each: blocks of one client at once while others compete; 0 for no limit.
        clock: seconds that never go backward.
    """

    def __init__(self, each: int, clock: Callable[[], float]) -> None:
        self._shares = Shares(each)
        self._clock = clock
        self._waiting: dict[str, deque[asyncio.Event]] = {}
        self.waits = 0
        """Blocks that had to wait for their turn."""

    def begin(self, client: str) -> int | None:
        """Take a turn for one block, if that is possible at once; `end` it when it is sent."""
        return None if client in self._waiting else self._shares.begin(client, self._clock())

    def has_many(self, client: str) -> bool:
        """Whether little should lie in the kernel for each of its connections.

        What lies there leaves side by side, whatever the order in which it was handed over, and
        would do so before what those get who come next. This machine's own links are not narrow.
        """
        return self._shares.has_many(client) and not is_loopback(client)

    async def wait(self, client: str, alive: Callable[[], Awaitable[None]], every_s: float) -> int:
        """Wait for a turn, in the order of coming; `end` it when the block is sent.

        Args:
            client: whose turn.
            alive: called every `every_s` seconds meanwhile.
            every_s: how often.
        """
        self.waits += 1
        waiting = self._waiting.setdefault(client, deque())
        mine = asyncio.Event()
        waiting.append(mine)
        said = self._clock()
        try:
            while True:
                if waiting[0] is mine:
                    serial = self._shares.begin(client, self._clock())
                    if serial is not None:
                        return serial
                mine.clear()
                try:
                    async with asyncio.timeout(_LOOK_S if waiting[0] is mine else every_s):
                        await mine.wait()
                except TimeoutError:
                    pass
                if self._clock() - said >= every_s:
                    said = self._clock()
                    await alive()
        finally:
            waiting.remove(mine)
            if not waiting:
                del self._waiting[client]
            self._wake(client)

    def end(self, client: str, turn: int) -> None:
        """The block was sent, or cut off."""
        self._shares.end(client, turn, self._clock())
        self._wake(client)

    def _wake(self, client: str) -> None:
        """Let the first who waits look."""
        waiting = self._waiting.get(client)
        if waiting:
            waiting[0].set()
