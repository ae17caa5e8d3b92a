"""The LLM library: bases of all sizes, with what people make of them.

Each base is asked for as it is, and has variants: LoRA adapters (asked for with their base),
half-frozen fine-tunes (the lower layers are the base's), full fine-tunes (nothing is shared), and
quantised ones (other bytes throughout), which have adapters of their own. This module must not
know of demand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from icnblocks.errors import UsageError
from icnblocks.values import dataclass
from icnblocks.workloads.library import Library, Pieces

if TYPE_CHECKING:
    from collections.abc import Sequence

UNIT: Final = 64 << 20
BASES: Final = (500_000_000, 1_000_000_000, 2_000_000_000, 3_000_000_000, 8_000_000_000,
                16_000_000_000)  # fmt: skip
_LAYERS: Final = 32


@dataclass(frozen=True, slots=True)
class Mix:
    """What variants a base has, as shares of all its variants; what is left is quantised.

    Attributes:
        adapters: LoRA.
        half_frozen: fine-tunes that keep a quarter to three quarters of the layers.
        full: fine-tunes of everything.
        adapter_share: least and most bytes of an adapter, as a share of its base.
        quantised_share: bytes of a quantised variant, one of these shares of its base.
    """

    adapters: float = 0.6
    half_frozen: float = 0.2
    full: float = 0.1
    adapter_share: tuple[float, float] = (0.005, 0.03)
    quantised_share: tuple[float, ...] = (0.28, 0.5)

    def __post_init__(self) -> None:
        shares = (self.adapters, self.half_frozen, self.full)
        if min(shares) < 0 or sum(shares) > 1 + 1e-9:
            raise UsageError(
                f"the shares of kinds must be 0 or more, and 1 at most together: {shares}"
            )


def llm_library(
    seed: int, *, bases: Sequence[int] = BASES, variants: int = 30, mix: Mix | None = None
) -> Library:
    """Bases with variants.

    Args:
        seed: for kinds, cuts and sizes.
        bases: bytes of each base.
        variants: of each base.
        mix: of what kinds they are.
    """
    mix = mix or Mix()
    random = np.random.default_rng([seed, 3])
    made = Pieces()
    for number, size in enumerate(bases):
        _family(made, random, f"base-{number}", size, variants, mix)
    return made.library("llm", UNIT)


def _family(
    made: Pieces, random: np.random.Generator, base: str, size: int, variants: int, mix: Mix
) -> None:
    """A base and its variants."""
    cut = [0.0, *np.cumsum([mix.adapters, mix.half_frozen, mix.full]).tolist()]
    kinds = np.searchsorted(cut, (np.arange(variants) + 0.5) / variants) - 1
    frozen = random.integers(_LAYERS // 4, 3 * _LAYERS // 4 + 1, variants).tolist()
    shares = random.uniform(*mix.adapter_share, variants).tolist()
    smaller = random.choice(mix.quantised_share, variants).tolist()
    ends = [size * layer // _LAYERS for layer in range(_LAYERS + 1)]
    cuts = sorted({ends[frozen[v]] for v in range(variants) if kinds[v] == 1} | {size})
    run = made.run(base, cuts)
    root = made.model(f"llm/{base}", run)
    below: list[tuple[int, list[int], int]] = [(root, run, size)]
    for v in reversed(range(variants)):  # quantised ones first: adapters may stand on them
        name = f"llm/{base}-{v:03}"
        if kinds[v] == 3:
            own_bytes = max(round(size * smaller[v]), 1)
            own = made.run(name, [own_bytes])
            model = made.model(name, own, base=root, kind="quantised")
            below.append((model, own, own_bytes))
        elif kinds[v] == 2:
            made.model(name, made.run(name, [size]), base=root, kind="full")
        elif kinds[v] == 1:
            shared = run[: cuts.index(ends[frozen[v]]) + 1]
            own = made.run(name, [size - ends[frozen[v]]])
            made.model(name, [*shared, *own], base=root, kind="half-frozen")
        else:
            # Two adapters of three stand on the base itself.
            place = 0 if len(below) == 1 or v % 3 else 1 + v // 3 % (len(below) - 1)
            under, pieces, under_bytes = below[place]
            own = made.run(name, [max(round(under_bytes * shares[v]), 1)])
            made.model(name, [*pieces, *own], base=under, kind="adapter")
