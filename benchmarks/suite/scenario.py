"""What a scenario is: a description, who takes part, and what shall be reached."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.suite.peers import lacking

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from benchmarks.suite.figures import Aim
    from benchmarks.suite.runner import Side, Stage


@dataclass(frozen=True, slots=True)
class Bench:
    """What a scenario is given to set itself up.

    Attributes:
        root: an empty directory for all that it writes.
        size: of its model, in bytes.
        runs: how many rounds there will be.
        chosen: the only peers to take part; all when None.
    """

    root: Path
    size: int
    runs: int
    chosen: frozenset[str] | None = None

    def wants(self, name: str) -> bool:
        """Was this peer chosen?"""
        return self.chosen is None or name in self.chosen

    def admit(
        self, stage: Stage, name: str, needs: Sequence[str], make: Callable[[], Side]
    ) -> None:
        """Let a peer take part, if it was chosen and all that it needs is here."""
        if not self.wants(name):
            return
        reason = lacking(needs)
        if reason is None:
            stage.sides.append(make())
        else:
            stage.missing[name] = reason


@dataclass(frozen=True, slots=True)
class Scenario:
    """One thing that is measured.

    Attributes:
        name: what it is called with.
        title: its heading.
        about: what is done, in a paragraph: what is in the page cache, what is flushed.
        size_mb: of its model, in MB (10^6 bytes), where nothing else is asked for.
        runs: rounds, where nothing else is asked for.
        open: sets it up, and takes it down at the end.
        aims: what shall be reached, given the figures of the stage.
        columns: the measures and facts that its table shows.
        charts: the measures that are drawn, and what each chart says.
        peers: all that it can be compared with.
        needs: what it cannot do without.
    """

    name: str
    title: str
    about: str
    size_mb: int
    runs: int
    open: Callable[[Bench], AbstractContextManager[Stage]]
    aims: Callable[[Mapping[str, float]], Sequence[Aim]]
    columns: Sequence[tuple[str, str]]
    charts: Sequence[tuple[str, str]]
    peers: Sequence[str]
    needs: Sequence[str] = ()
