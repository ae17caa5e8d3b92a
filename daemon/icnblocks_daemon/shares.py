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
behind one address there may be many."""


class Shares:
    """Who is being sent how much at once.

    Args:
        each: blocks of one client at once while others compete; 0 for no limit.
    """

    __slots__ = ("_each", "_ended", "_sending", "_serial")

    def __init__(self, each: int) -> None:
        self._each = each
        self._serial = 0
        self._sending: dict[str, dict[int, float]] = {}  # when each block of a client began
        self._ended: OrderedDict[str, float] = OrderedDict()  # whom nothing is sent, and since when

    def begin(self, client: str, now: float) -> int | None:
        """Send `client` a block, if it may have one more.

        Returns:
            What `end` is to be told, or None: try again when a block has ended, or in a while.
        """
        if not self._may(client, now):
            return None
        self._serial += 1
        self._sending.setdefault(client, {})[self._serial] = now
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

    def _may(self, client: str, now: float) -> bool:
        if not self._each:
            return True
        blocks = self._sending.get(client, {})
        if len(blocks) < self._each or self.competing(now) <= 1:
            return True
        quick = sum(now - began < SLOW_S for began in blocks.values())
        return quick < self._each
