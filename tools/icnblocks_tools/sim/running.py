"""Replays with a bar on a terminal: what `icn-sim replay` and `icn-sim advise` share."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from icnblocks.values import dataclass
from icnblocks_tools.output import is_terminal
from icnblocks_tools.sim.options import capacity_bytes, load_trace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from icnblocks.cache.replay.replay import Links, Result
    from icnblocks.cache.replay.trace import Trace


@dataclass(frozen=True, slots=True)
class Run:
    """Policies at capacities over one trace.

    Attributes:
        trace: the file; `-` is standard input.
        policies: specs.
        capacities: as texts: bytes, or a part of all unique bytes.
        links: rates and round trip.
        warmup: part of the requests that is not counted.
        plot: where a chart goes, if anywhere.
        jobs: processes; as many as there are cores when None.
        as_json: a JSON object a line for each result, as soon as it is there.
    """

    trace: str
    policies: tuple[str, ...]
    capacities: tuple[str, ...]
    links: Links
    warmup: float
    plot: Path | None
    jobs: int | None
    as_json: bool

    def read(self) -> Trace:
        """The trace.

        Raises:
            UsageError: for a policy or chart that cannot be, before anything is read.
            IcnError: for the trace.
        """
        from icnblocks.cache.policy import make_policy
        from icnblocks_tools.sim.report import check_plot

        for policy in self.policies:
            make_policy(policy)
        check_plot(self.plot)
        return load_trace(self.trace)

    def results(self, trace: Trace) -> list[Result]:
        """Replay everything; policy by policy, and for each the capacities in their order."""
        from icnblocks.cache.replay.parallel import Job, replay_all

        sizes = [capacity_bytes(capacity, trace) for capacity in self.capacities]
        wanted = [Job(policy, size) for policy in self.policies for size in sizes]
        results = []
        with _bar(len(trace) * len(wanted)) as progress:
            for result in replay_all(
                trace, wanted, links=self.links, warmup=self.warmup,
                processes=self.jobs, progress=progress,
            ):  # fmt: skip
                results.append(result)
                if self.as_json:
                    click.echo(json.dumps(asdict(result)))
        return results

    def draw(self, results: list[Result]) -> None:
        """Draw the chart, if one is wanted; to be called when the figures are out.

        Raises:
            StorageError: if it cannot be written.
        """
        from icnblocks_tools.sim.report import plot

        if self.plot is not None:
            plot(results, self.plot)


def run_of(
    trace: str,
    policies: tuple[str, ...],
    capacities: tuple[str, ...],
    *,
    backhaul: float,
    edge: float,
    rtt: float,
    neighbour: float | None,
    **given: Any,
) -> Run:
    """A run by `link_options`, `run_options` and `--json`."""
    from icnblocks.cache.replay.replay import Links

    return Run(trace, policies, capacities, Links(backhaul, edge, rtt, neighbour), **given)


@contextmanager
def _bar(total: int) -> Iterator[Callable[[int], None] | None]:
    """A bar of requests on standard error; nothing if that is no terminal."""
    if not is_terminal(sys.stderr):
        yield None
        return
    from rich import progress
    from rich.console import Console

    with progress.Progress(
        progress.TextColumn("requests"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=False,  # results are not to end up on standard error
        # A thread that redraws would be there when processes are forked.
        auto_refresh=False,
    ) as bar:
        task = bar.add_task("", total=total)

        def advance(count: int) -> None:
            bar.update(task, advance=count)
            bar.refresh()

        yield advance
