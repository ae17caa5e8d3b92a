"""Which blocks came lately, in order: so that who misses one knows whether it came and went. Pure.

This module must not know who wants them, or why they went.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from icnblocks.naming import Digest

MOST: Final = 16_384
"""So many are remembered: 3 MB. Who has waited for longer counts a fetch too few."""


class Landings:
    """The last blocks that came from upstream, numbered."""

    __slots__ = ("_numbers", "count")

    def __init__(self) -> None:
        self.count = 0
        self._numbers: OrderedDict[Digest, int] = OrderedDict()  # of each, the last; oldest first

    def add(self, digest: Digest) -> None:
        """It came now."""
        self.count += 1
        self._numbers[digest] = self.count
        self._numbers.move_to_end(digest)
        if len(self._numbers) > MOST:
            self._numbers.popitem(last=False)

    def since(self, digest: Digest, count: int) -> bool:
        """Whether it came when so many had come already, or later."""
        return self._numbers.get(digest, 0) > count
