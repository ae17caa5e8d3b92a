"""Makes the tables and diagrams of the protocol's documents from the data in docs/states.

`python -m docs.generate` writes what stands between `<!-- begin NAME -->` and `<!-- end NAME -->`
in docs/protocol-states.md; with `--check` it writes nothing and says what is out of date. The
tables are data so that tests can hold the program against them, row by row (tests/house/states).
This module must not know the program: it reads TOML and writes Markdown and Mermaid.
"""

from __future__ import annotations

import re
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HERE: Final = Path(__file__).resolve().parent
TABLES: Final = HERE / "states"
LIMITS: Final = "limits"
"""The one table that is not a state machine."""
DOCUMENT: Final = HERE / "protocol-states.md"
_BLOCK = re.compile(r"<!-- begin ([\w-]+) -->\n.*?<!-- end \1 -->", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a state table.

    Attributes:
        state: where it applies.
        event: what happens.
        condition: what must hold besides; empty for "always" and "else".
        actions: what is done, in order.
        target: the state afterwards.
    """

    state: str
    event: str
    condition: str
    actions: tuple[str, ...]
    target: str

    def __str__(self) -> str:
        return "-".join(filter(None, (self.state, self.event, self.condition)))


@dataclass(frozen=True, slots=True)
class Machine:
    """A state table with the words that it uses, each with its meaning.

    Attributes:
        name: of its file.
        states: the first one is where it begins.
        events: what may happen.
        conditions: what rows ask besides.
        actions: what is done.
        impossible: for each state the events that cannot happen in it.
        rows: the table.

    Raises:
        ValueError: if the table uses a word that it does not explain, explains one that it
            does not use, or leaves open what an event does in a state.
    """

    name: str
    states: dict[str, str]
    events: dict[str, str]
    conditions: dict[str, str]
    actions: dict[str, str]
    impossible: dict[str, tuple[str, ...]]
    rows: tuple[Row, ...]

    def __post_init__(self) -> None:
        used = {
            "states": {row.target for row in self.rows} | set(list(self.states)[:1]),
            "events": {row.event for row in self.rows},
            "conditions": {row.condition for row in self.rows} - {""},
            "actions": {action for row in self.rows for action in row.actions},
        }
        for kind, words in used.items():
            if odd := words ^ set(getattr(self, kind)):
                raise ValueError(f"{self.name}: {kind} not explained, or not used: {sorted(odd)}")
        keys = [(row.state, row.event, row.condition) for row in self.rows]
        if len(set(keys)) < len(keys):
            raise ValueError(f"{self.name}: two rows for one case")
        told = {(row.state, row.event) for row in self.rows}
        never = {(state, event) for state, events in self.impossible.items() for event in events}
        every = {(state, event) for state in self.states for event in self.events}
        if told & never or told | never != every:
            open_ones = sorted((told & never) | (every ^ (told | never)))
            raise ValueError(f"{self.name}: not told, or told and impossible: {open_ones}")


@dataclass(frozen=True, slots=True)
class Limit:
    """A timer or bound.

    Attributes:
        group: the table in which it stands.
        name: what it is called.
        value: the default, a number.
        unit: `s`, `bytes`, `bytes/s`, or nothing for a count.
        at: where the program has it, `module:attribute.attribute`.
        key: how it is set; empty for what is fixed.
        meaning: who keeps it, and what happens when it is reached.
    """

    group: str
    name: str
    value: float
    unit: str
    at: str
    key: str
    meaning: str

    def spelled(self) -> str:
        """The default as people write it."""
        match self.unit:
            case "s":
                return _duration(self.value)
            case "bytes":
                return _size(int(self.value))
            case "bytes/s":
                return f"{_size(int(self.value))}/s"
            case _:
                return f"{self.value:,g}" if self.value < 1e6 else f"{self.value:,.0f}"


def machine(name: str) -> Machine:
    """Read docs/states/NAME.toml.

    Raises:
        ValueError: as Machine.
    """
    table = _read(name)
    rows = tuple(
        Row(row["in"], row["on"], row.get("if", ""), tuple(row.get("do", ())), row["to"])
        for row in table["table"]["rows"]
    )
    words = (dict(table.get(kind, {})) for kind in ("states", "events", "conditions", "actions"))
    states, events, conditions, actions = words
    impossible = {state: tuple(never) for state, never in table.get("impossible", {}).items()}
    return Machine(name, states, events, conditions, actions, impossible, rows)


def machines() -> tuple[str, ...]:
    """The names of all state tables."""
    return tuple(sorted(path.stem for path in TABLES.glob("*.toml") if path.stem != LIMITS))


def limits() -> tuple[Limit, ...]:
    """Every timer and bound."""
    return tuple(
        Limit(
            group, one["name"], one["value"], one.get("unit", ""), one["at"],
            one.get("key", ""), one["meaning"],
        )
        for group, listed in _read(LIMITS).items()
        for one in listed
    )  # fmt: skip


def _read(name: str) -> dict[str, Any]:
    return tomllib.loads((TABLES / f"{name}.toml").read_text())


def _duration(seconds: float) -> str:
    for unit, step in (("d", 86_400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= step and seconds % step == 0:
            return f"{seconds / step:.0f} {unit}"
    return f"{seconds:g} s" if seconds >= 1 else f"{seconds * 1000:g} ms"


def _size(size: int) -> str:
    for unit, power in (("PiB", 50), ("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size >= 1 << power and size % (1 << power) == 0:
            return f"{size >> power:,} {unit}"
    return f"{size:,} bytes"


def words_of(table: Machine) -> Iterator[str]:
    """The states and what they mean, as Markdown."""
    yield "| state | |"
    yield "|---|---|"
    for state, meaning in table.states.items():
        yield f"| **{state}** | {meaning} |"


def rows_of(table: Machine) -> Iterator[str]:
    """The table itself, as Markdown."""
    yield "| state | event | if | then | next |"
    yield "|---|---|---|---|---|"
    for row in table.rows:
        condition = table.conditions[row.condition] if row.condition else ""
        actions = "; ".join(table.actions[action] for action in row.actions) or "-"
        event = f"*{row.event}*: {table.events[row.event]}"
        yield f"| {row.state} | {event} | {condition} | {actions} | **{row.target}** |"


def diagram_of(table: Machine) -> Iterator[str]:
    """The table as a Mermaid diagram: an arrow for each pair of states, none back to itself."""
    arrows: dict[tuple[str, str], list[str]] = {}
    for row in table.rows:
        if row.state == row.target:
            continue
        labels = arrows.setdefault((row.state, row.target), [])
        if row.event not in labels:
            labels.append(row.event)
    yield "```mermaid"
    yield "stateDiagram-v2"
    for number, state in enumerate(table.states):
        yield f'    state "{state}" as s{number}'
    numbers = {state: number for number, state in enumerate(table.states)}
    yield "    [*] --> s0"
    for (state, target), labels in arrows.items():
        said = ", ".join(labels)
        yield f"    s{numbers[state]} --> s{numbers[target]}: {said}"
    yield "```"


def machine_block(name: str) -> str:
    """Everything that a document shows of a state table."""
    table = machine(name)
    parts = (diagram_of(table), words_of(table), rows_of(table))
    return "\n\n".join("\n".join(part) for part in parts)


def limits_block(group: str) -> str:
    """One table of timers and bounds."""
    lines = ["| name | default | set by | who keeps it, and what happens |", "|---|---|---|---|"]
    for one in limits():
        if one.group == group:
            key = f"`{one.key}`" if one.key else "fixed"
            lines.append(f"| {one.name} | {one.spelled()} | {key} | {one.meaning} |")
    return "\n".join(lines)


def blocks() -> dict[str, Callable[[], str]]:
    """What can be put into a document, by name."""
    made: dict[str, Callable[[], str]] = {}
    for name in machines():
        made[name] = lambda name=name: machine_block(name)  # type: ignore[misc]
    for group in dict.fromkeys(one.group for one in limits()):
        made[f"{LIMITS}-{group}"] = lambda group=group: limits_block(group)  # type: ignore[misc]
    return made


def filled(text: str) -> str:
    """A document with all that is generated in it made anew.

    Raises:
        ValueError: if it names a block that is not known, or lacks one.
    """
    known = blocks()
    found = [match[1] for match in _BLOCK.finditer(text)]
    if sorted(found) != sorted(known):
        odd = sorted(set(found) ^ set(known))
        raise ValueError(f"blocks that the document or docs/states lacks: {odd}")
    return _BLOCK.sub(
        lambda match: f"<!-- begin {match[1]} -->\n{known[match[1]]()}\n<!-- end {match[1]} -->",
        text,
    )


def main(arguments: list[str]) -> int:
    """Write the document, or with `--check` only say whether it is up to date."""
    text = DOCUMENT.read_text()
    fresh = filled(text)
    if arguments == ["--check"]:
        if fresh != text:
            print(f"{DOCUMENT} is out of date: python -m docs.generate", file=sys.stderr)
        return int(fresh != text)
    DOCUMENT.write_text(fresh)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
