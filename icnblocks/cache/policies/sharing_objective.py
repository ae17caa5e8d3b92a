"""What `sharing` is to be good at, as one word or number of the operator's. Values only."""

from __future__ import annotations

from typing import Final

from icnblocks.values import dataclass

_WHOLE: Final = 0.075
"""With `time`: a pull that finds everything counts as so much of a model's bytes on top. Pull time
alone hardly tells plans apart that differ much in whole models; this costs it less than 1 %
(docs/decisions/eviction.md)."""
_TIE: Final = 1e-3
"""With `hits`: bytes count so much, for room that no whole model fits in."""


def parse_objective(text: str) -> str | float:
    """`time`, `hits`, `bytes`, or a number from 0 (bytes) to 1 (hits).

    Raises:
        ValueError: for anything else.
    """
    if text in {"time", "hits", "bytes"}:
        return text
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise ValueError("time, hits, bytes or a number from 0 (bytes) to 1 (hits) is expected")
    return value


@dataclass(frozen=True, slots=True)
class Objective:
    """What is to be as little, or as much, as possible.

    Attributes:
        aim: `time` (mean pull time), `bytes` (from upstream), `hits` (pulls that find
            everything here), or a number between: 0 is `bytes`, 1 is `hits`.
        rtt_bytes: for `time`: bytes that could come while a pull waits to go upstream at all.
    """

    aim: str | float
    rtt_bytes: float

    @property
    def by_block(self) -> bool:
        """Does what has to leave count for each byte that it frees?

        A hit is lost with any block of a model, so that of two the larger one is better lost. With
        `time` and `bytes` the bytes count too (docs/decisions/eviction.md).
        """
        return self.aim not in {"time", "bytes", 0.0}

    def costs(self, typical: float) -> tuple[float, float]:
        """What going upstream at all costs, and what a byte from there costs.

        Args:
            typical: bytes of a pull, so that a hit can be weighed against bytes.
        """
        if self.aim == "time":
            return self.rtt_bytes + _WHOLE * typical, 1.0
        hits = float({"hits": 1.0, "bytes": 0.0}.get(str(self.aim), self.aim))
        return hits * typical, max(1.0 - hits, _TIE)
