"""Results of replays for people: tables and charts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from icnblocks.errors import StorageError, UsageError
from icnblocks.quantities import human_bytes
from icnblocks_tools.output import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from icnblocks.cache.replay.replay import Result

KINDS: Final = (".png", ".svg", ".pdf")
_HEAD: Final = (
    "policy", "capacity", "model hits", "byte hits", "mean pull", "95 %", "backhaul", "evictions",
    "plans",
)  # fmt: skip
_PANELS: Final = (
    ("model_hit_ratio", "model hit ratio"),
    ("byte_hit_ratio", "byte hit ratio"),
    ("mean_pull_time", "mean pull time, s"),
)


def table(results: Iterable[Result]) -> str:
    """One line a policy and capacity, and one for each edge below it if there are several."""
    rows = [_HEAD, *(row for result in results for row in _rows(result))]
    return columns(rows)


def _rows(result: Result) -> Iterator[tuple[str, ...]]:
    def row(name: str, capacity: str, plans: str, facts: Any) -> tuple[str, ...]:
        return (
            name,
            capacity,
            f"{facts['model_hit_ratio']:.3f}",
            f"{facts['byte_hit_ratio']:.3f}",
            f"{facts['mean_pull_time']:.3f} s",
            f"{facts['p95_pull_time']:.3f} s",
            human_bytes(facts["backhaul_bytes"]),
            str(facts["evictions"]),
            plans,
        )

    plans = f"{result.plans}, {result.plan_seconds:.2f} s" if result.plans else "-"
    facts = {name: getattr(result, name) for name in result.__slots__}
    yield row(result.policy, human_bytes(result.capacity), plans, facts)
    for name, figures in result.edges.items():
        yield row(f"  at {printable(name) or 'no edge'}", "", "", figures)


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows with aligned columns, the first to the left and the others to the right."""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def check_plot(path: Path | None) -> None:
    """Notice before a long replay what would go wrong after it.

    Raises:
        UsageError: if the chart cannot be drawn or its directory is not there.
    """
    if path is None:
        return
    if path.suffix.lower() not in KINDS:
        raise UsageError(f"{path}: a chart ends in {', '.join(KINDS)}")
    if not path.parent.is_dir():
        raise UsageError(f"{path.parent} is not a directory")
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        raise UsageError("charts need matplotlib", hint="pip install 'icnblocks[sim]'")


def plot(results: Sequence[Result], path: Path) -> None:
    """Hit ratios and pull time over capacity, a line for each policy.

    Raises:
        StorageError: if the file cannot be written.
    """
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4), layout="constrained")
    for axes, (field, label) in zip(figure.subplots(1, 3), _PANELS, strict=True):
        for policy in dict.fromkeys(result.policy for result in results):
            points = sorted(
                (result.capacity / 1e9, getattr(result, field))
                for result in results
                if result.policy == policy
            )
            axes.plot(*zip(*points, strict=True), marker="o", label=policy)
        axes.set_xlabel("capacity of an edge, GB")
        axes.set_ylabel(label)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    figure.axes[0].legend()
    try:
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from error
