"""Benchmarks beside peers, alternating, in one run: `python -m benchmarks NAME...`.

\b
    python -m benchmarks pull --peers curl,curl+b3sum --runs 5 --size 2024
    python -m benchmarks all --document
    python -m benchmarks --quick

Each scenario sets up both sides by itself, runs all of them once a round, and prints a table:
medians and ranges, and the ratios of the pairs that ran in one round. `--document` also writes
what was measured below docs/figures/performance, and docs/performance.md from all that is there.
`--quick` runs the scenarios that show the most, on small models beside a local reference each, and
prints nothing but their ratios: start-up weighs more in them than in a large model.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from benchmarks.scenarios import SCENARIOS
from benchmarks.suite.congestion import congested_by
from benchmarks.suite.memory import Ballast, touch_memory
from benchmarks.suite.peers import lacking
from benchmarks.suite.report import Result, ratios, table
from benchmarks.suite.results import machine, write_json
from benchmarks.suite.runner import play
from benchmarks.suite.scenario import Bench

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.suite.figures import Cost
    from benchmarks.suite.runner import Side
    from benchmarks.suite.scenario import Scenario


_QUICK_RUNS: Final = 3
_QUICK: Final = {
    "pull": (256, frozenset({"cp", "curl", "curl+b3sum"})),
    "pull-small": (51, frozenset({"cp", "curl"})),
    "pull-real": (91, frozenset({"cp", "curl"})),
    "publish": (256, frozenset({"b3sum", "cp"})),
    "load": (256, frozenset({"safetensors"})),
}
"""Scenarios of `--quick`: the size of the model in MB, and who is beside it."""


def measure(
    scenario: Scenario,
    *,
    runs: int,
    size_mb: int,
    peers: frozenset[str] | None,
    directory: Path | None,
    make_ready: Callable[[int], None] = touch_memory,
    quiet: bool = False,
) -> Result:
    """Run one scenario.

    Args:
        scenario: which.
        runs: rounds.
        size_mb: of its model, in MB.
        peers: those to compare with; all when None.
        directory: where its files go; TMPDIR when None.
        make_ready: makes memory ready before each run.
        quiet: tell of no single run.
    """

    def tell(number: int, side: Side, cost: Cost) -> None:
        if not quiet:
            click.echo(
                f"  {number + 1:2} {side.name:28} {cost.wall_s:8.3f} s"
                f"  {cost.cpu_s:6.2f} + {cost.server_cpu_s:5.2f} CPU s"
                f"  {cost.rss_mb:6.1f} + {cost.server_rss_mb:6.1f} MB",
                err=True,
            )

    began = time.time()
    with tempfile.TemporaryDirectory(prefix=f"bench-{scenario.name}-", dir=directory) as folder:
        bench = Bench(Path(folder), size_mb * 10**6, runs, peers)
        with scenario.open(bench) as stage:
            costs = play(stage, runs, tell, make_ready)
    return Result.of(scenario, stage, costs, machine(began, runs=runs, size_mb=size_mb))


@click.command(help=__doc__)
@click.argument("names", nargs=-1, metavar="NAME...")
@click.option("--peers", help="Only these, separated by commas. Default: all that are installed.")
@click.option("--runs", type=click.IntRange(1), help="Rounds. Default: the scenario's.")
@click.option("--size", type=click.IntRange(1), help="MB of the model. Default: the scenario's.")
@click.option("--json", "as_json", type=click.Path(path_type=Path), help="Write the result there.")
@click.option("--dir", "directory", type=Path, help="Where to work. Default: TMPDIR.")
@click.option("--congestion", help="Of TCP meanwhile, by name (root). Default: the machine's.")
@click.option("--quick", is_flag=True, help="Ratios of a few small scenarios, in 2 minutes.")
@click.option("--document", is_flag=True, help="Write figures, charts and docs/performance.md.")
def main(
    names: tuple[str, ...],
    peers: str | None,
    runs: int | None,
    size: int | None,
    as_json: Path | None,
    directory: Path | None,
    congestion: str | None,
    quick: bool,
    document: bool,
) -> None:
    # Servers, mounts and files go away also when this is told to end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # programs start as where they are installed
    if quick:
        if names or peers or runs or size or document:
            raise click.UsageError("--quick stands alone, but for --json and --dir")
        results = [
            measure(
                SCENARIOS[name],
                runs=_QUICK_RUNS,
                size_mb=mb,
                peers=beside,
                directory=directory,
                quiet=True,
            )
            for name, (mb, beside) in _QUICK.items()
            if lacking(SCENARIOS[name].needs) is None
        ]
        click.echo(ratios(results))
        if as_json is not None:
            write_json(as_json, results)
        return
    if not names:
        raise click.UsageError(f"which scenario? There are: {', '.join(SCENARIOS)}, all")
    wanted = list(SCENARIOS) if "all" in names else list(dict.fromkeys(names))
    unknown = [name for name in wanted if name not in SCENARIOS]
    if unknown:
        raise click.UsageError(
            f"no scenario {', '.join(unknown)}; there are: {', '.join(SCENARIOS)}, all"
        )
    chosen = None if peers is None else frozenset(filter(None, peers.split(",")))
    if chosen:
        known = {peer for name in wanted for peer in SCENARIOS[name].peers}
        if chosen - known:
            raise click.UsageError(
                f"no peer {', '.join(sorted(chosen - known))}; there are:"
                f" {', '.join(sorted(known))}"
            )
    results = []
    with Ballast(directory) as ballast, congested_by(congestion):
        for name in wanted:
            scenario = SCENARIOS[name]
            reason = lacking(scenario.needs)
            if reason is not None:
                click.echo(f"{name}: not run, {reason}", err=True)
                continue
            click.echo(f"{name}: {scenario.title}", err=True)
            result = measure(
                scenario,
                runs=runs or scenario.runs,
                size_mb=size or scenario.size_mb,
                peers=chosen,
                directory=directory,
                make_ready=ballast.fill,
            )
            click.echo(table(result))
            results.append(result)
            if document:
                from benchmarks.suite.document import renew

                renew([result], list(SCENARIOS))
    if as_json is not None:
        write_json(as_json, results)


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
