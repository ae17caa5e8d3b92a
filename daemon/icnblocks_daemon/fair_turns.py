"""A bound of what is in work at once, of which each client has a fair share.

A turn may last: the body of a request takes a slow line a minute. So a client takes no more turns
than it leaves free: there is one for whoever comes next, and those who are here share alike. On
the event loop. This module must not know what is done in a turn.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class FairTurns:
    """Who has a turn, and who waits for one.

    Args:
        most: turns at once.
    """

    def __init__(self, most: int) -> None:
        self._free = most
        self._held: dict[str, int] = {}
        self._waiting: dict[asyncio.Future[None], str] = {}  # in the order of their coming

    @asynccontextmanager
    async def turn(self, client: str) -> AsyncIterator[None]:
        """To be held while something is done for `client`."""
        given = asyncio.get_running_loop().create_future()
        self._waiting[given] = client
        self._give()
        try:
            await given
            yield
        finally:
            if self._waiting.pop(given, None) is None:
                self._take_back(client)

    def _give(self) -> None:
        """A turn to each who may have one, in the order of their coming."""
        for given, client in list(self._waiting.items()):
            held = self._held.get(client, 0)
            if held < self._free and not given.done():  # else whoever waited is just leaving
                self._free -= 1
                self._held[client] = held + 1
                del self._waiting[given]
                given.set_result(None)

    def _take_back(self, client: str) -> None:
        self._free += 1
        self._held[client] -= 1
        if not self._held[client]:
            del self._held[client]
        self._give()
