"""docs/performance.md: the tables between its marks, from the results below docs/figures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.suite.charts import draw
from benchmarks.suite.marks import fill
from benchmarks.suite.report import aim_rows, markdown, rows
from benchmarks.suite.results import read_json, write_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.suite.report import Result

_ROOT: Final = Path(__file__).resolve().parents[2]
DOCUMENT: Final = _ROOT / "docs" / "performance.md"
FIGURES: Final = _ROOT / "docs" / "figures" / "performance"


def renew(
    results: Sequence[Result],
    order: Sequence[str],
    document: Path = DOCUMENT,
    figures: Path = FIGURES,
) -> None:
    """Keep these results and draw them, and fill the document from all that are kept.

    Each scenario has its own file, so that one can be measured again alone.

    Args:
        results: new ones.
        order: the names of all scenarios, as the document shall have them.
        document: where the marks are.
        figures: the directory of results and charts.
    """
    for result in results:
        write_json(figures / f"{result.name}.json", [result])
        draw(result, figures / f"{result.name}.svg")
    paths = [figures / f"{name}.json" for name in order]
    kept = [result for path in paths if path.exists() for result in read_json(path)]
    tables = {result.name: section(result) for result in kept}
    tables |= {"reached": reached(kept), "machine": machine(kept)}
    document.write_text(fill(document.read_text(), tables))


def section(result: Result) -> str:
    """What is said of one scenario."""
    machine = result.machine
    parts = [
        result.about,
        f"`{machine['command']}`, {machine['date']} UTC, {machine['runs']} rounds,"
        f" {machine['seconds']} s; load of the machine at the end {machine['load']}.",
        markdown(rows(result)),
    ]
    notes = [f"- {side}: {note}" for side, note in result.notes.items() if note]
    notes += [f"- {side}: **took no part**, {why}" for side, why in result.missing.items()]
    parts.append("\n".join(notes))
    if result.charts:
        parts.append(f"![{result.title}](figures/performance/{result.name}.svg)")
    return "\n" + "\n\n".join(part for part in parts if part) + "\n"


def reached(results: Sequence[Result]) -> str:
    """Every aim, and what was reached."""
    lines = [["what (medians, range of the rounds)", "aim", "better still", "reached", ""]]
    for result in results:
        for what, aim, better, value, word in aim_rows(result):
            lines.append([what, aim, better, value, f"**{word}**" if word == "no" else word])
    return markdown(lines)


def machine(results: Sequence[Result]) -> str:
    """On what all this was measured; said once where it is the same for all."""
    found: dict[str, list[str]] = {}
    for result in results:
        m = result.machine
        versions = ", ".join(f"{name} {version}" for name, version in m["versions"].items())
        tcp = f", TCP with {m['congestion']}" if "congestion" in m else ""
        text = (
            f"{m['cpu']}, {m['cores']} cores, {m['memory_gib']} GiB of memory, Linux"
            f" {m['kernel']}{tcp}, Python {m['python']}; {versions}."
        )
        found.setdefault(text, []).append(result.name)
    if len(found) == 1:
        return next(iter(found))
    return "\n".join(f"- {', '.join(names)}: {text}" for text, names in found.items())
