"""What a run cost, and how the runs of two sides compare. Pure: no clock, no processes."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MEASURES: Final = {
    "wall_s": "wall s",
    "cpu_s": "CPU s, client",
    "server_cpu_s": "CPU s, server",
    "total_cpu_s": "CPU s, both",
    "rss_mb": "peak RSS MB, client",
    "server_rss_mb": "peak RSS MB, server",
}
"""What is measured of every run, with its heading."""


@dataclass(frozen=True, slots=True)
class Cost:
    """One run of one side.

    Attributes:
        wall_s: from start to end, in seconds.
        cpu_s: user and system seconds of all client processes.
        server_cpu_s: those of its servers during the run.
        rss_mb: VmHWM summed over all client processes that ran at a time, in MB (10^6 bytes).
        server_rss_mb: VmHWM summed over all its server processes, since they were started.
        facts: whatever else the scenario counted.
    """

    wall_s: float
    cpu_s: float = 0.0
    server_cpu_s: float = 0.0
    rss_mb: float = 0.0
    server_rss_mb: float = 0.0
    facts: Mapping[str, float] = field(default_factory=dict)

    @property
    def total_cpu_s(self) -> float:
        """CPU seconds of both ends."""
        return self.cpu_s + self.server_cpu_s

    def measure(self, what: str) -> float:
        """One of MEASURES, or a fact, by name.

        Raises:
            KeyError: if the run has no such figure.
        """
        if what in MEASURES:
            value: float = getattr(self, what)
            return value
        return self.facts[what]


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some figures, and the least and the greatest of them."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, figures: Sequence[float]) -> Spread:
        """What the figures come to.

        Raises:
            ValueError: if there are none.
        """
        if not figures:
            raise ValueError("no figures")
        return cls(statistics.median(figures), min(figures), max(figures))


def pairs(ours: Sequence[float], theirs: Sequence[float], divide: float = 1.0) -> list[float]:
    """The ratio of each round: ours / (divide x theirs).

    Rounds, not medians, are compared: both sides of a round met the machine in one mood. Where
    one side ran in fewer rounds than the other, those rounds are compared. CPU time may be too
    little to be counted: what is divided by nothing is infinite.
    """
    both = zip(ours, theirs, strict=False)
    return [mine / (divide * other) if other else math.inf for mine, other in both]


@dataclass(frozen=True, slots=True)
class Aim:
    """A figure that shall be reached.

    Attributes:
        what: the row of the table.
        measure: one of MEASURES, or a fact.
        ours: whose figure it is.
        beside: the side that it is divided by; a figure of its own when None.
        reach: the bound.
        stretch: what would be better still.
        at_least: the bound is a floor, not a ceiling.
        divide: theirs is multiplied by this first.
        their_measure: what is taken of theirs, when it is another measure.
        unit: of a figure without `beside`.
    """

    what: str
    measure: str
    ours: str
    beside: str | None
    reach: float
    stretch: float
    at_least: bool = False
    divide: float = 1.0
    their_measure: str | None = None
    unit: str = ""

    def met(self, value: float) -> bool:
        """Is the bound kept?"""
        return value >= self.reach if self.at_least else value <= self.reach

    def figures(self, costs: Mapping[str, Sequence[Cost]]) -> list[float] | None:
        """One figure for each round; None if a side of it did not run."""
        if not costs.get(self.ours) or (self.beside is not None and not costs.get(self.beside)):
            return None
        ours = [cost.measure(self.measure) for cost in costs[self.ours]]
        if self.beside is None:
            return ours
        theirs = [cost.measure(self.their_measure or self.measure) for cost in costs[self.beside]]
        return pairs(ours, theirs, self.divide)
