"""`lfu`: the block used least often leaves first, with dynamic ageing (LFU-DA).

Source: Arlitt et al., "Evaluating content management techniques for Web proxy caches" (2000).
"""

from __future__ import annotations

from typing import ClassVar

from icnblocks.cache.policies.ageing import Ageing
from icnblocks.cache.policy import register


@register
class Lfu(Ageing):
    """Least frequently used, ageing."""

    name: ClassVar[str] = "lfu"

    def value(self, uses: int, size: int) -> int:  # noqa: ARG002
        """The number of uses."""
        return uses
