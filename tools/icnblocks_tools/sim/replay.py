"""`icn-sim replay`: what policies reach on a trace at given capacities."""

from __future__ import annotations

from typing import Any

import click

from icnblocks_tools.sim.options import check_capacities, link_options, run_options


@click.command()
@click.argument("trace", metavar="TRACE")
@click.option(
    "--policy",
    "policies",
    multiple=True,
    required=True,
    metavar="NAME[:KEY=VALUE,...]",
    help="An eviction policy, with its options; may be given several times.",
)
@click.option(
    "--capacity",
    "capacities",
    multiple=True,
    required=True,
    callback=check_capacities,
    metavar="BYTES",
    help="Disk of each edge: 20GB, 512MiB, or 15% of all unique bytes; may be given several times.",
)
@link_options
@run_options
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="One JSON object a line for each policy and capacity, instead of a table.",
)
def replay(
    trace: str, policies: tuple[str, ...], capacities: tuple[str, ...], **given: Any
) -> None:
    """Replay the requests of TRACE through an edge's cache that holds no bytes.

    TRACE is a file of JSON lines (docs/traces.md), gzipped or not; '-' is standard input. Every
    policy is tried at every capacity, by the daemon's own policies and content store. A model hit
    is a request of which nothing was missing at the edge.

    \b
    Examples:
      icn-sim make lora | icn-sim replay - --policy lru --policy sharing --capacity 15%
      icn-sim replay yesterday.jsonl --policy sharing:objective=hits --capacity 200GB --json
      icn-sim replay t.jsonl.gz --policy lru --capacity 5% --capacity 20% --plot chart.svg
    """
    from icnblocks_tools.sim.report import table
    from icnblocks_tools.sim.running import run_of

    run = run_of(trace, policies, capacities, **given)
    results = run.results(run.read())
    if not run.as_json:
        click.echo(table(results))
    run.draw(results)
