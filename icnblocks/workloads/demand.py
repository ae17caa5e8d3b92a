"""Demand for the models of a library: who asks for what when, from a seed.

Popularity is Zipf over a ranking that drifts, with flash crowds, daily cycles, models that are
released while the trace runs, and users who have tastes and move between edges. Everything is
drawn for whole runs of requests at once; the same demand and seed give the same requests. This
module must not know what a model is made of.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.random  # now: an interrupt while it is imported is lost, in its own code

from icnblocks.cache.replay.trace import MAX_TIME_S
from icnblocks.errors import UsageError
from icnblocks.values import dataclass

if TYPE_CHECKING:
    from numpy.typing import NDArray

DAY_S: Final = 86400.0
RUN: Final = 100
"""Requests for which ranks, releases and places of users stand still."""
MAX_RANKS: Final = 2**27
"""Of all rankings together: 8 bytes each, a gigabyte."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What is asked for.

    Attributes:
        requests: how many.
        rate: of requests a second, on the average.
        zipf: exponent of the popularity of ranks.
        drift: rank swaps for every thousand requests; each swaps two ranks drawn by popularity
            and by chance, so that popular models do fade. 0: nothing changes.
        flashes: flash crowds in the whole trace. Each is for one model drawn by chance.
        flash_share: the share of the requests that a flash crowd makes while it lasts.
        flash_s: how long it lasts, seconds.
        daily: how far the rate swings around its average in a day: 0 not at all, 1 down to
            nothing at night.
        releases: the share of the models that are published one by one while the trace runs.
        edges: how many edges are asked.
        users: people, each of whom asks one edge at a time; 0: as many as edges, and nobody moves.
        moves: how often a user goes to another edge, a day.
        taste: the share of its requests that an edge's (or a user's) own ranking decides, rather
            than the ranking of all.
    """

    requests: int = 16_000
    rate: float = 0.1
    zipf: float = 0.9
    drift: float = 0.0
    flashes: int = 0
    flash_share: float = 0.3
    flash_s: float = 3600.0
    daily: float = 0.0
    releases: float = 0.0
    edges: int = 1
    users: int = 0
    moves: float = 4.0
    taste: float = 0.0

    def __post_init__(self) -> None:
        shares = {
            "flash_share": self.flash_share,
            "daily": self.daily,
            "releases": self.releases,
            "taste": self.taste,
        }
        for name, value in shares.items():
            if not 0 <= value <= 1:
                raise UsageError(f"{name} is a share from 0 to 1, not {value}")
        if self.requests < 1 or self.edges < 1 or not self.rate > 0:
            raise UsageError("demand has at least one request and one edge, and a rate above 0")
        if self.requests / self.rate > MAX_TIME_S / 2:  # half of it: arrivals are drawn by chance
            text = f"{self.requests} requests take too long at {self.rate:g} a second"
            raise UsageError(f"{text}: at most {MAX_TIME_S / 2:.0e} seconds are told")
        rest = (self.zipf, self.drift, self.flashes, self.flash_s, self.users, self.moves)
        if not min(rest) >= 0 or not np.isfinite(rest).all():
            raise UsageError("what demand is given must be 0 or more")


@dataclass(frozen=True, slots=True)
class Requests:
    """What was drawn.

    Attributes:
        times: seconds, rising.
        wanted: index of the model, for each request.
        edges: index of the edge, for each request.
        published: for each model, before which request it is published; 0: from the start.
    """

    times: NDArray[np.float64]
    wanted: NDArray[np.int64]
    edges: NDArray[np.int64]
    published: NDArray[np.int64]


def draw(demand: Demand, models: int, seed: int) -> Requests:
    """Draw the requests for a library of so many models.

    Raises:
        UsageError: if there are no models, or too many with the tastes of so many people.
    """
    if models < 1:
        raise UsageError("a library has at least one model")
    return _Draw(demand, models, seed).run()


def popularity(demand: Demand, models: int, seed: int) -> NDArray[np.float64]:
    """The true popularity of each model (column) in the ranking of all, as `draw` drifts it.

    A row for each run of RUN requests; each sums to 1. Flash crowds, releases and tastes are not
    in it.
    """
    state = _Draw(demand, models, seed)
    rows = np.empty((-(-demand.requests // RUN), models))
    for number, row in enumerate(rows):
        row[state.drift(min(RUN, demand.requests - number * RUN))] = state.weights
    return rows


class _Draw:
    """The state of rankings, crowds and places while requests are drawn."""

    def __init__(self, demand: Demand, models: int, seed: int) -> None:
        self._demand, self._models = demand, models
        # One stream each, so that turning one thing on leaves the others as they were.
        streams = np.random.SeedSequence([seed, 4]).spawn(7)
        self._order, self._clock, self._pick, self._swap, self._crowd, self._place, self._new = (
            np.random.default_rng(stream) for stream in streams
        )
        weights = np.arange(1, models + 1, dtype=np.float64) ** -demand.zipf
        self.weights = weights / weights.sum()
        people = demand.users or demand.edges
        self._own = bool(demand.taste)
        # Row 0 is the ranking of all, the others are people's: the model at each rank.
        rows = 1 + people if self._own else 1
        if rows * models > MAX_RANKS:
            text = f"{people} tastes of {models} models are too many"
            raise UsageError(text, hint="take fewer users, edges or models, or no taste")
        self._ranks = np.stack([self._order.permutation(models) for _ in range(rows)])
        self._at = np.arange(people) % demand.edges

    def run(self) -> Requests:
        """Draw everything."""
        demand = self._demand
        times = self._times()
        published = self._releases()
        crowds = self._crowds(times)
        wanted = np.empty(demand.requests, dtype=np.int64)
        edges = np.empty(demand.requests, dtype=np.int64)
        for first in range(0, demand.requests, RUN):
            run = slice(first, min(first + RUN, demand.requests))
            self.drift(run.stop - run.start)
            self._move(float(times[run.stop - 1] - times[first]))
            wanted[run], edges[run] = self._ask(first, times[run], published, crowds)
        return Requests(times, wanted, edges, published)

    def _times(self) -> NDArray[np.float64]:
        """Poisson arrivals whose rate swings with the hour of the day."""
        demand = self._demand
        passed = np.cumsum(self._clock.exponential(1.0, demand.requests)) / demand.rate
        if not demand.daily:
            return np.round(passed, 3)
        midnights = np.floor(passed / DAY_S) * DAY_S
        grid = np.linspace(0, DAY_S, 289)
        turn = 2 * np.pi / DAY_S
        # The integral of 1 + daily * sin(turn * t - pi/2): least at midnight, most at noon.
        swung = grid - demand.daily / turn * np.sin(turn * grid)
        return np.round(midnights + np.interp(passed - midnights, swung, grid), 3)

    def _releases(self) -> NDArray[np.int64]:
        """Before which request each model is published."""
        published = np.zeros(self._models, dtype=np.int64)
        late = min(round(self._demand.releases * self._models), self._models - 1)
        chosen = self._new.permutation(self._models)[:late]
        runs = -(-self._demand.requests // RUN)
        published[chosen] = self._new.integers(min(1, runs - 1), runs, late) * RUN
        return published

    def _crowds(self, times: NDArray[np.float64]) -> list[tuple[float, float, int]]:
        """Begin, end and model of each flash crowd."""
        demand = self._demand
        begins = np.sort(self._crowd.uniform(0, float(times[-1]), demand.flashes))
        chosen = self._crowd.integers(0, self._models, demand.flashes)
        return [
            (begin, begin + demand.flash_s, model)
            for begin, model in zip(begins.tolist(), chosen.tolist(), strict=True)
        ]

    def drift(self, requests: int) -> NDArray[np.int64]:
        """Swap ranks: one drawn by its popularity with one drawn by chance.

        Returns:
            The model at each rank in the ranking of all.
        """
        for row in self._ranks if self._demand.drift else ():  # there may be thousands
            swaps = self._swap.poisson(self._demand.drift * requests / 1000)
            popular = self._swap.choice(self._models, swaps, p=self.weights)
            other = self._swap.integers(0, self._models, swaps)
            for one, two in zip(popular.tolist(), other.tolist(), strict=True):
                row[one], row[two] = row[two], row[one]
        return np.asarray(self._ranks[0])

    def _move(self, seconds: float) -> None:
        """Some users go to another edge."""
        demand = self._demand
        if not demand.users or demand.edges == 1:
            return
        gone = self._place.random(demand.users) < -np.expm1(-demand.moves * seconds / DAY_S)
        steps = self._place.integers(1, demand.edges, demand.users)
        self._at = np.where(gone, (self._at + steps) % demand.edges, self._at)

    def _ask(
        self,
        first: int,
        times: NDArray[np.float64],
        published: NDArray[np.int64],
        crowds: list[tuple[float, float, int]],
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """A run of requests: which models, at which edges."""
        count = len(times)
        people = self._pick.integers(0, len(self._at), count)
        chance = self._pick.random(count)
        row = np.zeros(count, dtype=np.int64)
        if self._own:
            row = np.where(self._pick.random(count) < self._demand.taste, people + 1, 0)
        wanted = np.empty(count, dtype=np.int64)
        for ranking in np.unique(row):
            mine = row == ranking
            out = published[self._ranks[ranking]] <= first
            line = np.cumsum(np.where(out, self.weights, 0.0))
            # Up to the next float below the whole, so that the last rank that is out is the end.
            ranks = np.searchsorted(line, chance[mine] * line[-1], side="right")
            last = int(np.flatnonzero(out)[-1])
            wanted[mine] = self._ranks[ranking][np.minimum(ranks, last)]
        joins = self._crowd.random(count)
        for begin, end, model in crowds:
            if end < times[0] or begin > times[-1] or published[model] > first:
                continue
            during = (times >= begin) & (times < end) & (joins < self._demand.flash_share)
            wanted[during] = model
        return wanted, self._at[people]
