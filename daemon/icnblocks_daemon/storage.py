"""Whether blocks can be stored, and how many may come while they cannot.

On a full or failing disk an edge passes blocks on from memory, and begins no more than memory
holds. Time is an argument. This module must not store anything.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from icnblocks.errors import IcnError
    from icnblocks_daemon.overflow import Overflow

_LOG = logging.getLogger(__name__)
_CALM_S: Final = 1.0
"""Blocks are stored again when one was so long after the last that was not: on a disk that is all
but full small ones still are."""


class Storage:
    """What is known of one store by how the last blocks fared.

    Args:
        overflow: where blocks are that could not be stored.
    """

    def __init__(self, overflow: Overflow) -> None:
        self._overflow = overflow
        self._failed_at: float | None = None

    @property
    def failing(self) -> bool:
        """Some block that came just now could not be stored: it is passed on from memory."""
        return self._failed_at is not None

    def failed(self, error: IcnError, now: float) -> None:
        """A block could not be stored."""
        if self._failed_at is None:
            _LOG.error("blocks cannot be stored, and are passed on from memory: %s", error)
        self._failed_at = now

    def took(self, now: float) -> None:
        """A block was stored."""
        if self._is_calm(now) and self._failed_at is not None:
            self._failed_at = None
            self._overflow.clear()
            _LOG.warning("blocks are stored again")

    def can_ever_pass(self, length: int) -> bool:
        """Could a block of `length` bytes be passed on from memory when there are no others?"""
        return self._overflow.can_ever_fit(length)

    def may_come(self, length: int, coming: int, now: float) -> bool:
        """While nothing can be stored: has memory room for it and for what is `coming` already?

        One alone is tried in any case, to see whether blocks are stored again; but not over and
        over while memory is full of what slow readers are sent.
        """
        if self._failed_at is None or self._overflow.has_room(coming + length):
            return True
        return not coming and (self._is_calm(now) or not self.can_ever_pass(length))

    def _is_calm(self, now: float) -> bool:
        return self._failed_at is None or now - self._failed_at >= _CALM_S
