"""What was asked for just now, and how far the next request is one of the same.

Devices of a fleet pull the same model within minutes, a new release takes over, somebody tries
again: such requests have little to do with how often a model is asked for in the long run. So a
request is taken to come from one of several sources: from demand as it usually is, or from what
was asked for lately, which is counted with short half-lives. How much comes from which is learnt
from the requests (expectation maximisation, a step with each), so that where there is nothing of
the kind, nothing is made of it. Nothing survives a restart; it is learnt anew in some hundred
requests. Pure: it knows rows, not models, and no clock.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

HALF_LIVES: Final = (4, 16, 60)
"""Requests after which a request counts half."""
_STEP: Final = 0.01
"""How far each request moves the shares."""
_FIRST: Final = 0.02
_LEAST: Final = 0.005
"""What each share begins with, and never falls below, so that it can rise again."""
_FAINT: Final = 0.05
"""A lower share is none."""
_RESCALE: Final = 1e100
_GONE: Final = 1e-4
"""A lower count is none."""


class _Counts:
    """Decayed requests of the rows that were asked for lately."""

    __slots__ = ("_counts", "_growth", "_most", "_scale", "_seen", "life", "share")

    def __init__(self, life: int) -> None:
        self.life = life
        self.share = _FIRST
        self._counts: dict[int, float] = {}
        self._growth = 2.0 ** (1 / life)
        self._scale = 1.0
        self._seen = 0.0
        self._most = 16 * life + 64

    def chance(self, row: int) -> float:
        """The part of what was asked for lately that this row was."""
        return self._counts.get(row, 0.0) / self._scale / max(self._seen, 1.0)

    def asked(self, row: int) -> None:
        self._scale *= self._growth
        self._seen = self._seen / self._growth + 1.0
        self._counts[row] = self._counts.get(row, 0.0) + self._scale
        if self._scale > _RESCALE or len(self._counts) > self._most:
            counts = {row: count / self._scale for row, count in self._counts.items()}
            self._counts = {row: count for row, count in counts.items() if count > _GONE}
            self._scale = 1.0

    def forget(self, row: int) -> None:
        self._counts.pop(row, None)

    def add_to(self, rates: NDArray[np.float64]) -> None:
        rows = np.fromiter(self._counts, np.int64, len(self._counts))
        counts = np.fromiter(self._counts.values(), np.float64, len(self._counts))
        rates[rows] += self.share / self._scale / max(self._seen, 1.0) * counts


class Recency:
    """Demand of late, mixed with demand as it usually is."""

    def __init__(self) -> None:
        self._all = [_Counts(life) for life in HALF_LIVES]
        self._strong: list[_Counts] = []
        self._usual = 1.0
        """The share of what is as usual, if the faint ones are none."""

    def asked(self, row: int, usual: float) -> float:
        """One request.

        Args:
            row: for this.
            usual: its rate, per request, by demand as it usually is.

        Returns:
            From 0 to 1: how likely it is that it was a usual request.
        """
        odds = [counts.share * counts.chance(row) for counts in self._all]
        mine = (1.0 - sum(counts.share for counts in self._all)) * usual
        total = sum(odds) + mine
        for counts, likely in zip(self._all, odds, strict=True):
            counts.share = max(counts.share + _STEP * (likely / total - counts.share), _LEAST)
            counts.asked(row)
        self._leave_some()
        self._strong = [counts for counts in self._all if counts.share >= _FAINT]
        self._usual = 1.0 - sum(counts.share for counts in self._strong)
        return mine / total

    def _leave_some(self) -> None:
        """The share of what is as usual never falls below the least either."""
        over = sum(counts.share for counts in self._all) - (1.0 - _LEAST)
        if over > 0:
            largest = max(self._all, key=lambda counts: counts.share)
            largest.share -= over

    def forget(self, row: int) -> None:
        """The row is given away."""
        for counts in self._all:
            counts.forget(row)

    def rate(self, row: int, usual: float) -> float:
        """The rate of a row, whose usual rate is known."""
        late = sum(counts.share * counts.chance(row) for counts in self._strong)
        return self._usual * usual + late

    def mixed(self, usual: NDArray[np.float64]) -> NDArray[np.float64]:
        """The rate of each row, whose usual rates are known."""
        rates = self._usual * usual
        for counts in self._strong:
            counts.add_to(rates)
        return rates

    def turnover(self) -> float:
        """The part of the rates that is another after one request; 0 if all is as usual."""
        return sum(counts.share * math.log(2) / counts.life for counts in self._strong)
