"""How often each model is asked for: an estimate that finds out by itself how fast to forget.

Requests are counted with several half-lives side by side, measured in requests, so that neither
the pace of the clock nor a quiet night matters. Each count predicts the next request, and is
trusted by how well it did of late: where demand stands still the longest memory wins, where it
drifts a shorter one. A model without requests yet is given a prior: what its kin has, or an equal
share, which weighs less as its own requests come or fail to come. Requests for what was asked for
just now are told apart (`recency`), and count less for what is usual.

Pure: it knows rows, not models, and no clock.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from icnblocks.cache.planning.recency import Recency
from icnblocks.values import dataclass

if TYPE_CHECKING:
    from numpy.typing import NDArray

HALF_LIVES: Final = (60, 125, 250, 500, 2_000, 8_000, 32_000, 128_000)
"""Requests after which a request counts half."""
_TRUST_LIFE: Final = 1_000
"""Requests over which predictions are judged."""
_PRIOR: Final = 0.3
"""Requests that a model is taken to have had, without kin."""
_KIN: Final = 1.0
"""The same, with kin: the prior is their mean rate."""
_LEAST: Final = 1e-12
"""A lower rate of the kin is none."""
_LITTLE: Final = 1e-3
"""Less trust is none."""
_RESCALE: Final = 1e200


@dataclass(frozen=True, slots=True)
class History:
    """What is known of one row.

    Attributes:
        counts: decayed requests, one for each half-life.
        age: requests, for anything, since it was added.
        prior: the rate that was expected of it; 0 if nothing was.
    """

    counts: list[float]
    age: int
    prior: float


class Rates:
    """Decayed counts for rows that are added and dropped; each operation is O(1)."""

    def __init__(self) -> None:
        self._counts: list[list[float]] = [[] for _ in HALF_LIVES]
        self._scale = [1.0] * len(HALF_LIVES)
        self._seen = [0.0] * len(HALF_LIVES)
        self._trust = [0.0] * len(HALF_LIVES)
        self._growth = [2.0 ** (1 / life) for life in HALF_LIVES]
        self._begun, self._faded = 0, [1.0] * len(HALF_LIVES)
        self._born: list[int] = []
        self._prior: list[float] = []
        self._free: list[int] = []
        self._recency = Recency()
        self.requests = 0

    def __len__(self) -> int:
        return len(self._born) - len(self._free)

    def add(self, prior: float = 0.0) -> int:
        """A row for a new model.

        Args:
            prior: the rate, per request, that is expected of it; 0 if nothing is known.
        """
        if self._free:
            row = self._free.pop()
            for counts in self._counts:
                counts[row] = 0.0
            self._born[row], self._prior[row] = self.requests, prior
            return row
        for counts in self._counts:
            counts.append(0.0)
        self._born.append(self.requests)
        self._prior.append(prior)
        return len(self._born) - 1

    def drop(self, row: int) -> None:
        """Give the row away."""
        self._free.append(row)
        self._recency.forget(row)

    def asked(self, row: int) -> None:
        """One request."""
        self.requests += 1
        usual = self._recency.asked(row, self._usual(row))
        even = _PRIOR * len(self)
        keep = 1 - 1 / _TRUST_LIFE
        for life, counts in enumerate(self._counts):
            scale = self._scale[life] * self._growth[life]
            seen = self._seen[life]
            chance = (counts[row] / scale + _PRIOR) / (seen + even)
            self._trust[life] = keep * self._trust[life] + usual * math.log(chance)
            counts[row] += scale
            self._seen[life] = seen / self._growth[life] + 1.0
            self._scale[life] = scale
            if scale > _RESCALE:
                self._counts[life] = [count / scale for count in counts]
                self._scale[life] = 1.0

    def trusted(self) -> list[float]:
        """How far each half-life is trusted; sums to 1."""
        best = max(self._trust)
        weights = [math.exp(trust - best) for trust in self._trust]
        total = sum(weights)
        return [weight / total for weight in weights]

    def memory(self) -> float:
        """Requests that the estimate rests on."""
        return sum(map(float.__mul__, self.trusted(), self._seen))

    def history(self, row: int) -> History:
        """What is known of a row, to be taken up again."""
        counts = [
            counts[row] / scale for counts, scale in zip(self._counts, self._scale, strict=True)
        ]
        return History(counts, self.requests - self._born[row], self._prior[row])

    def take_up(self, row: int, history: History) -> None:
        """Go on with what was known of a row when this began: it was not asked for since."""
        since = self.requests - self._begun
        for life, count in enumerate(history.counts):
            self._counts[life][row] += count * self._scale[life] * self._growth[life] ** -since
        self._born[row] = self._begun - history.age
        self._prior[row] = history.prior

    def trust(self) -> tuple[list[float], list[float]]:
        """For each half-life: decayed requests in all, and how well it predicted."""
        return self._seen.copy(), self._trust.copy()

    def begin(self, requests: int, seen: list[float], trust: list[float]) -> None:
        """Go on after so many requests; only before the first request."""
        self._born = [born + requests for born in self._born]
        self.requests, self._seen, self._trust = requests, seen.copy(), trust.copy()
        self._begun = requests
        self._faded = [
            min(one / max(float(self._decayed(life, requests)), 1.0), 1.0)
            for life, one in enumerate(seen)
        ]

    def rate(self, row: int) -> float:
        """The rate of one row, per request, by its own requests alone; 1 at most."""
        rate = sum(
            trust * counts[row] / scale / max(seen, 1.0)
            for trust, counts, scale, seen in zip(
                self.trusted(), self._counts, self._scale, self._seen, strict=True
            )
        )
        return min(rate, 1.0)  # where all was for this row, rounding leads beyond

    def _usual(self, row: int) -> float:
        """What `asked` holds of a row, but for what was asked for just now."""
        even = _PRIOR * len(self)
        return sum(
            trust * (counts[row] / scale + _PRIOR) / (seen + even)
            for trust, counts, scale, seen in zip(
                self.trusted(), self._counts, self._scale, self._seen, strict=True
            )
            if trust >= _LITTLE
        )

    def now(self, row: int) -> float:
        """The rate of one row, per request, with what was asked for just now."""
        return self._recency.rate(row, self._usual(row))

    def turnover(self) -> float:
        """The part of the rates that is another after one request; 0 if all is as usual."""
        return self._recency.turnover()

    def rates(self) -> NDArray[np.float64]:
        """The rate of each row, per request."""
        age = self.requests - np.asarray(self._born, dtype=np.float64)
        prior = np.asarray(self._prior)
        kin = prior > _LEAST
        weight = np.where(kin, _KIN, _PRIOR)
        longer = np.where(kin, _KIN / np.where(kin, prior, 1.0), _PRIOR * max(len(self), 1))
        # What was before a restart may have faded: the counts, and so what they are parts of.
        fresh = np.minimum(age, self.requests - self._begun)
        rates = np.zeros(len(age))
        for life, trust in enumerate(self.trusted()):
            if trust < _LITTLE:
                continue
            counts = np.asarray(self._counts[life]) / self._scale[life]
            late = self._decayed(life, fresh)
            seen = late + self._faded[life] * (self._decayed(life, age) - late)
            rates += trust * (counts + weight) / (seen + longer)
        return self._recency.mixed(rates)

    def _decayed(self, life: int, requests: NDArray[np.float64] | int) -> NDArray[np.float64]:
        """What so many requests, up to now, count with this half-life."""
        growth = math.log(self._growth[life])
        return np.asarray(-np.expm1(-requests * growth) / growth)
