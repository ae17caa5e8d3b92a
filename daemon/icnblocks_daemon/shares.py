"""Which client may be sent a block now, so that many connections get no more than a few. Pure.

A link gives each connection the same, so who opens sixty gets sixty times what another gets. While
several clients are being sent to, each has a few blocks on their way at once, and no more; a
client that is alone has as many as it likes. Nobody is held up by another client: a slow reader
takes places of its own only, and after a while not even these. This module must not wait.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

RECENT_S: Final = 1.0
"""A client competes for so long after its last block: between two blocks it is not gone."""
SLOW_S: Final = 5.0
"""A block that has been on its way for longer has a slow reader, and takes no place any more:
behind one address there may be many. Blocks that a client was sent side by side while it was alone
are given as much longer as there are more of them: they wait for each other, not for a reader."""
SLOWEST_S: Final = 60.0
"""No block takes a place for longer."""


class Shares:
    """Who is being sent how much at once.

    Args:
        each: blocks of one client at once while others compete; 0 for no limit.
    """

    __slots__ = ("_each", "_ended", "_sending", "_serial")

    def __init__(self, each: int) -> None:
        self._each = each
        self._serial = 0
        self._sending: dict[str, dict[int, float]] = {}  # until when each block takes a place
        self._ended: OrderedDict[str, float] = OrderedDict()  # whom nothing is sent, and since when

    def begin(self, client: str, now: float) -> int | None:
        """Send `client` a block, if it may have one more.

        Returns:
            What `end` is to be told, or None: try again when a block has ended, or in a while.
        """
        blocks = self._sending.get(client, {})
        beside = self._beside(blocks, now)
        if beside is None:
            return None
        together = (beside + 1) / (self._each or 1)
        self._serial += 1
        blocks[self._serial] = now + min(SLOW_S * max(1.0, together), SLOWEST_S)
        self._sending[client] = blocks
        self._ended.pop(client, None)
        return self._serial

    def end(self, client: str, serial: int, now: float) -> None:
        """The block was sent, or cut off."""
        blocks = self._sending[client]
        del blocks[serial]
        if not blocks:
            del self._sending[client]
            self._ended[client] = now
            self._forget(now)

    def has_many(self, client: str) -> bool:
        """Is `client` sent more at once than it could be if others competed?"""
        return 0 < self._each < len(self._sending.get(client, ()))

    def competing(self, now: float) -> int:
        """How many clients are being sent to, or were a moment ago."""
        self._forget(now)
        return len(self._sending) + len(self._ended)

    def _forget(self, now: float) -> None:
        while self._ended and now - next(iter(self._ended.values())) >= RECENT_S:
            self._ended.popitem(last=False)

    def _beside(self, blocks: dict[int, float], now: float) -> int | None:
        """How many of a client's blocks one more would be sent beside; None: it has to wait."""
        if len(blocks) < self._each or not self._each or self.competing(now) <= 1:
            return len(blocks)
        quick = sum(now < until for until in blocks.values())
        return quick if quick < self._each else None
