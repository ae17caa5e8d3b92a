"""`gdsf`: the block with the fewest uses per byte leaves first, ageing.

Source: Cherkasova, "Improving WWW proxies performance with Greedy-Dual-Size-Frequency caching
policy" (1998), with the same cost for every block.
"""

from __future__ import annotations

from typing import ClassVar, Final

from icnblocks.cache.policies.ageing import Ageing
from icnblocks.cache.policy import register

_SCALE_BITS: Final = 40
"""Fixed point: a single use of 16 GiB is worth 64 units. 2**23 evictions of blocks of one byte, or
2**35 of a page each, reach the largest key."""


@register
class Gdsf(Ageing):
    """Greedy-Dual-Size-Frequency."""

    name: ClassVar[str] = "gdsf"
    sized: ClassVar[bool] = True

    def value(self, uses: int, size: int) -> int:
        """Uses per byte."""
        return (uses << _SCALE_BITS) // size
