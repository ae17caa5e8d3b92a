"""What every scenario is given, and what it must be."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Context:
    """How a run goes.

    Attributes:
        seeds: how many; scenarios use 1 to this.
        quick: a look that takes seconds and shows that everything runs; its figures mean little.
        jobs: processes at once.
        out: folder for results and charts.
        paired_seeds: of these, with how many the policies are run that are compared with.
        again: run only policies whose names begin so, and what `out` lacks; "" runs everything.
    """

    seeds: int
    quick: bool
    jobs: int
    out: Path
    paired_seeds: int = 1
    again: str = ""
    began: float = field(default_factory=time.monotonic)

    @property
    def all_seeds(self) -> list[int]:
        """The seeds themselves."""
        return list(range(1, self.seeds + 1))

    def say(self, text: str) -> None:
        """Tell how far it is, on standard error."""
        print(f"{time.monotonic() - self.began:7.0f} s  {text}", file=sys.stderr, flush=True)

    def save(self, name: str, found: dict[str, Any]) -> None:
        """Write what a scenario found, or has found so far."""
        (self.out / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")

    def before(self, name: str) -> dict[str, Any]:
        """What an earlier run of a scenario found, or nothing."""
        path = self.out / f"{name}.json"
        return dict(json.loads(path.read_text())) if path.exists() else {}


class Scenario(Protocol):
    """One question; a module is one."""

    def run(self, context: Context) -> dict[str, Any]:
        """Calculate; returns what can be written as JSON."""
        ...

    def tables(self, found: dict[str, Any]) -> dict[str, str]:
        """Markdown tables by name."""
        ...

    def charts(self, found: dict[str, Any], folder: Path) -> None:
        """Draw SVG files into a folder."""
        ...


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def short(value: float, digits: int = 3) -> str:
    """A ratio below 1 without its leading zero."""
    text = f"{value:.{digits}f}"
    return text[1:] if text.startswith("0.") else text


def geometric_mean(values: Sequence[float]) -> float:
    """Of positive numbers."""
    return float(np.exp(np.log(np.asarray(values, dtype=np.float64)).mean()))
