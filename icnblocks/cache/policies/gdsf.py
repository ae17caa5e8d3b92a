"""`gdsf`: the block with the fewest uses per byte leaves first, ageing.

Source: Cherkasova, "Improving WWW proxies performance with Greedy-Dual-Size-Frequency caching
policy" (1998), with the same cost for every block.
"""

from __future__ import annotations

from typing import ClassVar, Final

from icnblocks.cache.policies.ageing import Ageing
from icnblocks.cache.policy import register

_SCALE_BITS: Final = 30
"""Fixed point: even the largest block's single use is worth 64 units."""


@register
class Gdsf(Ageing):
    """Greedy-Dual-Size-Frequency."""

    name: ClassVar[str] = "gdsf"

    def value(self, uses: int, size: int) -> int:
        """Uses per byte."""
        return (uses << _SCALE_BITS) // size
