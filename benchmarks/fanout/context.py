"""What every scenario is given, what it must be, and how runs are summed up."""

from __future__ import annotations

import json
import math
import os
import statistics
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from benchmarks.fanout.material import Material
    from benchmarks.suite.memory import Ballast

MBIT: Final = 1_000_000
BACKHAUL: Final = 200 * MBIT
"""Bits a second between origin and edge."""
PORT: Final = 1000 * MBIT
"""Bits a second between the switch and each device."""


@dataclass(frozen=True, slots=True)
class Context:
    """How a run goes.

    Attributes:
        runs: of everything that a claim rests on.
        quick: a look that shows that everything runs; its figures mean little.
        out: folder for results and charts.
        root: scratch on disk; the daemons' stores.
        memory: scratch in memory (tmpfs); each device's files, as if each had a disk of its own.
        material: the models, published.
        ballast: fills free memory before each run.
        congestion: how hosts keep TCP from congesting a link.
    """

    runs: int
    quick: bool
    out: Path
    root: Path
    memory: Path
    material: Material
    ballast: Ballast
    congestion: str
    began: float = field(default_factory=time.monotonic)

    def few(self, most: int) -> int:
        """How many runs of what only stands beside, or takes long: at most `most`."""
        return min(self.runs, 1 if self.quick else most)

    def say(self, text: str) -> None:
        """Tell how far it is, on standard error."""
        print(f"{time.monotonic() - self.began:7.0f} s  {text}", file=sys.stderr, flush=True)


class Scenario(Protocol):
    """One question; a module is one."""

    def run(self, context: Context) -> dict[str, Any]:
        """Measure; returns what can be written as JSON."""
        ...

    def tables(self, found: dict[str, Any]) -> dict[str, str]:
        """Markdown tables by name."""
        ...

    def charts(self, found: dict[str, Any], folder: Path) -> None:
        """Draw SVG files into a folder."""
        ...

    def reached(self, found: dict[str, Any]) -> list[Row]:
        """What was asked, beside what was reached."""
        ...


@dataclass(frozen=True, slots=True)
class Row:
    """One line of what was asked and reached.

    Attributes:
        what: the figure.
        asked: the bound, and the one hoped for, as text.
        value: what was reached; None: it could not be measured.
        text: the same as text, with its spread, or why there is none.
        reach: the bound itself.
        stretch: the one hoped for, if there is one.
        least: the bound is a lower one.
    """

    what: str
    asked: str
    value: float | None
    text: str
    reach: float
    stretch: float | None = None
    least: bool = False

    @property
    def word(self) -> str:
        """`yes`, `stretch` or `no`."""
        if self.value is None:
            return "not measured"
        sign = -1 if self.least else 1
        if self.stretch is not None and sign * self.value <= sign * self.stretch:
            return "yes, and what was hoped for"
        return "yes" if sign * self.value <= sign * self.reach else "**no**"


def read(path: Path) -> dict[str, Any]:
    """What an earlier run found, or nothing."""
    return dict(json.loads(path.read_text())) if path.exists() else {}


def save(path: Path, found: dict[str, Any]) -> None:
    """Write what was found, short enough to be kept beside the charts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(_rounded(found), indent=1) + "\n")


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value


def load() -> float:
    """How many processes wanted a core in the last minute, on the average."""
    return os.getloadavg()[0]


def median(values: Sequence[float]) -> float:
    """Of one or more."""
    return float(statistics.median(values))


def whole(lap: dict[str, Any]) -> float:
    """Seconds of a run, with the time that one process needs to load where it was held."""
    return float(lap["seconds"] + lap.get("startup_s", 0.0))


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Median and range as text."""
    low, high = min(values), max(values)
    text = f"{median(values):.{digits}f}"
    return text if len(values) == 1 else f"{text} ({low:.{digits}f}-{high:.{digits}f})"


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean of paired differences with its 95 % interval (Student's t).

    Two values at least.
    """
    mean = statistics.fmean(values)
    error = statistics.stdev(values) / math.sqrt(len(values))
    reach = _T95[min(len(values) - 1, len(_T95) - 1)] * error
    return mean - reach, mean, mean + reach


_T95: Final = (
    math.nan, 12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179,
    2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
)  # fmt: skip
"""Two-sided 95 % points by degrees of freedom; the last serves for more."""


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
