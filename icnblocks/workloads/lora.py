"""The LoRA library: three bases, a hundred adapters on each; a request brings both.

This module must not know of demand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from icnblocks.workloads.library import Library, Pieces

if TYPE_CHECKING:
    from collections.abc import Sequence

BASES: Final = (250_000_000, 500_000_000, 1_000_000_000)


def lora_library(
    *, bases: Sequence[int] = BASES, adapters: int = 100, share: float = 0.02
) -> Library:
    """Bases with adapters; the bases themselves are not asked for alone.

    Args:
        bases: bytes of each base.
        adapters: on each base.
        share: bytes of an adapter as a share of its base.
    """
    made = Pieces()
    for number, size in enumerate(bases):
        base = made.run(f"base-{number}", [size])
        for adapter in range(adapters):
            name = f"lora/base-{number}-{adapter:03}"
            own = made.run(name, [max(round(size * share), 1)])
            made.model(name, [*base, *own], kind="adapter")
    return made.library("lora", max(round(min(bases) * share), 1))
