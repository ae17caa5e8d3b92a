"""What a scenario came to, and the table that says so. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.suite.figures import Aim, Cost, Spread, pairs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.suite.runner import Stage
    from benchmarks.suite.scenario import Scenario


@dataclass(frozen=True, slots=True)
class Result:
    """A scenario that was run.

    Attributes:
        name: of the scenario.
        title: its heading.
        about: what was done.
        columns: measures and their headings.
        charts: the measures that are drawn, and what each chart says.
        ours: the sides that are icnblocks.
        costs: by side, one for each round, in the order of the sides.
        notes: by side, whether it verified and flushed.
        missing: by side, why it took no part.
        facts: of the scenario itself.
        aims: what shall be reached.
        machine: where, when and with what it was measured.
    """

    name: str
    title: str
    about: str
    columns: Sequence[tuple[str, str]]
    charts: Sequence[tuple[str, str]]
    ours: Sequence[str]
    costs: Mapping[str, Sequence[Cost]]
    notes: Mapping[str, str]
    missing: Mapping[str, str]
    facts: Mapping[str, float]
    aims: Sequence[Aim]
    machine: Mapping[str, Any]

    @classmethod
    def of(
        cls,
        scenario: Scenario,
        stage: Stage,
        costs: Mapping[str, Sequence[Cost]],
        machine: Mapping[str, Any],
    ) -> Result:
        """From what a run of a scenario gave."""
        ran = [side for side in stage.sides if side.name in costs]
        return cls(
            scenario.name,
            scenario.title,
            scenario.about,
            scenario.columns,
            scenario.charts,
            [side.name for side in ran if side.ours],
            {side.name: costs[side.name] for side in ran},
            {side.name: side.note for side in ran},
            dict(stage.missing),
            dict(stage.facts),
            scenario.aims(stage.facts),
            machine,
        )

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Result:
        """What `to_json` gave."""
        fields = dict(value)
        fields["costs"] = {
            name: [Cost(**cost) for cost in costs] for name, costs in value["costs"].items()
        }
        fields["aims"] = [Aim(**aim) for aim in value["aims"]]
        for pairs_of in ("columns", "charts"):
            fields[pairs_of] = [(measure, text) for measure, text in value[pairs_of]]
        return cls(**fields)

    def spread(self, side: str, measure: str) -> Spread | None:
        """One measure of one side over all rounds; None if it has no such figure."""
        try:
            return Spread.of([cost.measure(measure) for cost in self.costs[side]])
        except (KeyError, ValueError):
            return None

    def ratio(self, ours: str, theirs: str, measure: str = "wall_s") -> Spread:
        """One side by another, round by round."""
        mine = [cost.measure(measure) for cost in self.costs[ours]]
        return Spread.of(pairs(mine, [cost.measure(measure) for cost in self.costs[theirs]]))

    def reached(self) -> list[tuple[Aim, Spread | None]]:
        """Each aim with what was reached; None where a side of it did not run."""
        found = []
        for aim in self.aims:
            figures = aim.figures(self.costs)
            found.append((aim, None if figures is None else Spread.of(figures)))
        return found


def number(value: float) -> str:
    """Three significant digits or so, and no exponent."""
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}"
    if size >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}"


def shown(spread: Spread | None) -> str:
    """The median, and the range where there is one."""
    if spread is None:
        return "-"
    median, least, most = map(number, (spread.median, spread.least, spread.most))
    return median if least == most else f"{median} ({least}-{most})"


def rows(result: Result) -> list[list[str]]:
    """The heading and a line for each side: its measures, and the first side's time by its own."""
    first = next(iter(result.costs), None)
    ratios = "wall_s" in dict(result.columns[:2]) or "wall_s" in dict(result.charts)
    measured = [
        (measure, heading)
        for measure, heading in result.columns
        if any(result.spread(side, measure) not in {None, Spread(0, 0, 0)} for side in result.costs)
    ]
    found = [["", *(heading for _, heading in measured)]]
    if ratios:
        found[0].append(f"wall, {first} / this")
    for side, costs in result.costs.items():
        times = "" if len(costs) == result.machine["runs"] else f" ({len(costs)} runs)"
        line = [f"{side}{times}"]
        line += [shown(result.spread(side, measure)) for measure, _ in measured]
        if ratios:
            line.append("" if side == first or first is None else shown(result.ratio(first, side)))
        found.append(line)
    return found


def aim_rows(result: Result) -> list[list[str]]:
    """A line for each aim: what, the aim, beyond it, what was reached, and whether."""
    found = []
    for aim, spread in result.reached():
        sign, unit = (">=" if aim.at_least else "<="), (f" {aim.unit}" if aim.unit else "")
        word = "not measured" if spread is None else ("yes" if aim.met(spread.median) else "no")
        found.append(
            [
                aim.what,
                f"{sign} {aim.reach:g}{unit}",
                f"{sign} {aim.stretch:g}{unit}",
                shown(spread),
                word,
            ]
        )
    return found


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Cells as text in columns."""
    widths = [max(len(line[at]) for line in lines) for at in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """Cells as a Markdown table; the first line is its heading."""
    head, *body = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([head, "|" + "---|" * len(lines[0]), *body])


def table(result: Result) -> str:
    """Everything for a terminal."""
    parts = [f"\n{result.title}", aligned(rows(result))]
    parts += [f"{name}: took no part, {why}" for name, why in result.missing.items()]
    if result.aims:
        parts.append(aligned([["aim", "", "better", "reached", ""], *aim_rows(result)]))
    return "\n".join(parts) + "\n"


def ratios(results: Sequence[Result]) -> str:
    """Only how the first side of each scenario compares with the others, for a terminal."""
    lines = [["", "beside", "wall, ratio of pairs", "CPU of both ends, ratio of pairs"]]
    for result in results:
        first, *others = result.costs
        for side in others:
            if side not in result.ours:
                wall, cpu = (result.ratio(first, side, x) for x in ("wall_s", "total_cpu_s"))
                lines.append([f"{result.name}: {first}", side, shown(wall), shown(cpu)])
        lines += [
            [f"{result.name}: {name}", "took no part", why, ""]
            for name, why in result.missing.items()
        ]
    return aligned(lines)
