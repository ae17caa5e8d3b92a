"""How much may be under way through a full cache at once. Pure: the time is an argument.

All of it needs room before a byte has come, so that without a bound many cold pulls at once would
evict everything that is worth more than they are. This module must not evict or ask anything.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from icnblocks.limits import MIB
from icnblocks.wire.frames import Reason

if TYPE_CHECKING:
    from icnblocks.cache.content_store import ContentStore
    from icnblocks.naming import Digest

MOST: Final = 64 * MIB
_LEAST: Final = 4 * MIB
_PART: Final = 64
"""This part of the capacity, within these bounds."""
_SENT_SOON_S: Final = 0.25
"""A block that came longer ago and is still being sent waits for a slow reader: it does not count
as under way, or that reader would hold up everybody else."""


class UnderWay:
    """Bounds what is on its way into a content store, and just on its way out again.

    Args:
        content: the store.
    """

    __slots__ = ("_content", "_landed")

    def __init__(self, content: ContentStore) -> None:
        self._content = content
        self._landed: deque[tuple[float, Digest, int]] = deque()  # when, what, how much

    def landed(self, digest: Digest, length: int, now: float) -> None:
        """A block came while others wait for room."""
        if self._content.capacity is not None:
            self._forget(now)
            self._landed.append((now, digest, length))

    def is_enough(self, length: int, stalled: int, now: float) -> bool:
        """Is as much under way as may push other content out of a full cache?

        Args:
            length: bytes that come besides.
            stalled: bytes that are owed by other upstreams that give nothing: they do not count,
                or the blocks of one that is frozen would hold up everybody's.
            now: the time.
        """
        content = self._content
        if content.capacity is None or content.fits(length):
            return False
        self._forget(now)
        sending = sum(size for _, digest, size in self._landed if content.is_leased(digest))
        under_way = content.reserved_bytes - stalled + sending
        most = min(content.capacity // _PART, MOST)
        return under_way > 0 and under_way + length > max(most, _LEAST)

    def may_ever_come(self, length: int, beside: int = 0) -> bool:
        """Is a block no larger than the budget, without so many bytes of it?"""
        content = self._content
        need = content.store.footprint(length) + beside
        return content.capacity is None or need <= content.capacity

    def why_no_room(self, length: int) -> tuple[Reason, str]:
        """What to tell those who have waited in vain for room for a block."""
        if self.may_ever_come(length, self._content.stats().pinned_bytes):
            return Reason.BUSY, "no room yet: the cache is full of what is coming or being sent"
        return Reason.NO_SPACE, "no room: the cache's budget is all pinned"

    def _forget(self, now: float) -> None:
        while self._landed and now - self._landed[0][0] > _SENT_SOON_S:
            self._landed.popleft()
