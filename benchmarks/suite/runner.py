"""Runs the sides of a scenario in turn, each round all of them, under the same conditions."""

from __future__ import annotations

import filecmp
import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from benchmarks.suite.figures import Cost
from benchmarks.suite.memory import touch_memory
from benchmarks.suite.processes import Command, cpu_s, peaks_mb, run

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from benchmarks.suite.processes import Ended

_PIECE: Final = 1 << 20
_HOT_S: Final = 10.0
"""A program that ended so short a while ago is all in the page cache: none pages out as fast."""


def nothing() -> None:
    """What a side does that has nothing to do."""


@dataclass(frozen=True, slots=True)
class Side:
    """One of those that are compared.

    Attributes:
        name: as `--peers` and the table have it.
        steps: makes the commands of a run: steps one after the other, in each step commands that
            run at the same time. Or
        work: does the run itself and says what it cost.
        before: untimed, before each run: removes what the last one left.
        servers: the processes whose CPU and memory are its server's.
        facts: more figures of a run, from its cost and what its commands printed.
        reads: files that shall be in the page cache.
        check: after the first run, untimed: was everything done? RuntimeError if not.
        ours: is it icnblocks?
        note: what it did with the bytes: verified or not, flushed or not.
        rounds: it runs in so many rounds only, for one that is very slow; all when None.
    """

    name: str
    steps: Callable[[], Sequence[Sequence[Command]]] | None = None
    work: Callable[[], Cost] | None = None
    before: Callable[[], None] = nothing
    servers: Sequence[int] = ()
    facts: Callable[[Cost, list[Ended]], Mapping[str, float]] | None = None
    reads: Sequence[Path] = ()
    check: Callable[[], None] = nothing
    ours: bool = False
    note: str = ""
    rounds: int | None = None


@dataclass(slots=True)
class Stage:
    """A scenario that is ready to run.

    Attributes:
        sides: who takes part, in order.
        touch_bytes: how much memory a run uses; as much is made ready before each.
        facts: figures of the scenario itself, for example the size of its model.
        missing: by side, why it does not take part.
    """

    sides: list[Side]
    touch_bytes: int = 0
    facts: dict[str, float] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


def warm(paths: Sequence[Path]) -> None:
    """Read files to their end, so that they are in the page cache."""
    buffer = bytearray(_PIECE)
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                with file.open("rb", buffering=0) as opened:
                    while opened.readinto(buffer):
                        pass


def must_equal(model: Path, target: Path) -> None:
    """Every file of a model must lie in a directory too, with the same bytes.

    Raises:
        RuntimeError: naming one that does not.
    """
    for path in model.rglob("*"):
        if path.is_file():
            name = path.relative_to(model)
            if not (target / name).is_file() or not filecmp.cmp(path, target / name, shallow=False):
                raise RuntimeError(f"{target} has another {name}, or none")


def spend(side: Side) -> Cost:
    """One timed run of a side."""
    server_cpu = cpu_s(side.servers)
    ended: list[Ended] = []
    if side.work is not None:
        cost = side.work()
    else:
        assert side.steps is not None
        wall = cpu = rss = 0.0
        for step in side.steps():
            done = run(*step)
            ended += done
            wall += max(one.ended for one in done) - min(one.began for one in done)
            cpu += sum(one.cpu_s for one in done)
            rss = max(rss, sum(one.rss_mb for one in done))
        cost = Cost(wall, cpu, 0.0, rss)
    cost = Cost(
        cost.wall_s,
        cost.cpu_s,
        cpu_s(side.servers) - server_cpu if side.servers else cost.server_cpu_s,
        cost.rss_mb,
        peaks_mb(side.servers) if side.servers else cost.server_rss_mb,
        dict(cost.facts),
    )
    if side.facts is None:
        return cost
    facts = {**cost.facts, **side.facts(cost, ended)}
    return Cost(cost.wall_s, cost.cpu_s, cost.server_cpu_s, cost.rss_mb, cost.server_rss_mb, facts)


def order(count: int, number: int) -> list[int]:
    """Who runs when in round `number`: each round begins with another side, so that none always
    follows the same one.
    """
    return [(number + at) % count for at in range(count)]


def play(
    stage: Stage,
    runs: int,
    tell: Callable[[int, Side, Cost], None] = lambda *_: None,
    make_ready: Callable[[int], None] = touch_memory,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, list[Cost]]:
    """All runs of all sides, round by round.

    A side that fails in its first round is taken out, and said to be, unless it is icnblocks.

    Args:
        stage: the sides.
        runs: rounds.
        tell: told of each run.
        make_ready: makes so many bytes of memory ready before each run.
        clock: seconds that never go backward.

    Raises:
        RuntimeError: if icnblocks fails, or a peer that had not failed before.
    """
    found: dict[str, list[Cost]] = {side.name: [] for side in stage.sides}
    ran: dict[str, float] = {}
    for number in range(runs):
        for at in order(len(stage.sides), number):
            side = stage.sides[at]
            if side.name in stage.missing or number >= (side.rounds or runs):
                continue
            try:
                side.before()
                if side.steps is not None and clock() - ran.get(side.name, -_HOT_S) >= _HOT_S:
                    spend(side)  # so that programs too are in the page cache
                    side.before()
                os.sync()  # what others wrote is not on its way to the disk during this run
                make_ready(stage.touch_bytes)
                warm(side.reads)  # last, since a kernel may page out what was read a while ago
                cost = spend(side)
                ran[side.name] = clock()
                if not found[side.name]:
                    side.check()
            except RuntimeError as error:
                if side.ours or found[side.name]:
                    raise
                stage.missing[side.name] = f"failed: {str(error).splitlines()[-1][:200]}"
                continue
            found[side.name].append(cost)
            tell(number, side, cost)
    return {name: costs for name, costs in found.items() if costs}
