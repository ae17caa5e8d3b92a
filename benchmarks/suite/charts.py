"""Charts of results: bars of medians, with their ranges, ours in a colour of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from benchmarks.caching.drawing import figure
from benchmarks.suite.report import number

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from benchmarks.suite.report import Result

_OURS: Final = "#1f6f8b"
_THEIRS: Final = "#b8bec4"


def draw(result: Result, path: Path) -> None:
    """Write the charts of a result as one SVG file."""
    charts = [(measure, text) for measure, text in result.charts if _bars(result, measure)]
    if not charts:
        return
    with figure(path, len(charts), columns=len(charts)) as axes:
        for ax, (measure, text) in zip(axes, charts, strict=True):
            _draw(ax, result, measure, text)


def _bars(result: Result, measure: str) -> list[tuple[str, float, float, float]]:
    """Side, median, and how far the range goes below and above it."""
    found = []
    for side in result.costs:
        spread = result.spread(side, measure)
        if spread is not None:
            low, high = spread.median - spread.least, spread.most - spread.median
            found.append((side, spread.median, low, high))
    return found


def _draw(ax: Any, result: Result, measure: str, text: str) -> None:
    bars = _bars(result, measure)[::-1]  # the first side on top
    names = [side for side, *_ in bars]
    medians = [median for _, median, _, _ in bars]
    colours = [_OURS if side in result.ours else _THEIRS for side in names]
    ax.barh(names, medians, color=colours, height=0.7)
    ranges = [[low for *_, low, _ in bars], [high for *_, high in bars]]
    ax.errorbar(medians, names, xerr=ranges, fmt="none", ecolor="#444444", elinewidth=0.8)
    for side, median, _, high in bars:
        ax.annotate(
            number(median),
            (median + high, side),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    ax.margins(x=0.15)
    ax.set_xlim(left=0)
    ax.set_xlabel(text)
    ax.grid(visible=False, axis="y")
    for edge in ("top", "right"):
        ax.spines[edge].set_visible(False)
