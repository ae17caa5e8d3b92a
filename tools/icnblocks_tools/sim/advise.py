"""`icn-sim advise`: which policy, and how much disk, for the requests of a trace."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import click

from icnblocks_tools.sim.options import check_capacities, link_options, run_options

if TYPE_CHECKING:
    from icnblocks.cache.replay.advise import Advice

SIZES: Final = "2%,5%,10%,15%,20%,30%,50%,75%,100%"
POLICIES: Final = "sharing,lru,lfu,gdsf,s3fifo"


def _several(ctx: click.Context, param: click.Parameter, value: str) -> tuple[str, ...]:
    """A list with commas; an option of a policy is separated from the next by `;` here."""
    found = tuple(part.strip().replace(";", ",") for part in value.split(",") if part.strip())
    if not found:
        raise click.BadParameter("the list is empty", ctx, param)
    return found


def _sizes(ctx: click.Context, param: click.Parameter, value: str) -> tuple[str, ...]:
    return check_capacities(ctx, param, _several(ctx, param, value))


@click.command()
@click.argument("trace", metavar="TRACE")
@click.option(
    "--policies",
    default=POLICIES,
    show_default=True,
    callback=_several,
    metavar="NAME,...",
    help="Policies to compare; options of one as in sharing:objective=hits;rtt=20ms.",
)
@click.option(
    "--sizes",
    default=SIZES,
    show_default=True,
    callback=_sizes,
    metavar="BYTES,...",
    help="Disk of each edge: 20GB, or 15% of all unique bytes.",
)
@link_options
@run_options
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help='One JSON object a line for each policy and size; the last one holds the "advice".',
)
def advise(trace: str, policies: tuple[str, ...], sizes: tuple[str, ...], **given: Any) -> None:
    """Say what each policy reaches at each size on TRACE, and advise on both.

    The best policy is the one with the least mean pull time over all sizes (of those within 0.5 %
    of it, the one named first); the size is the smallest that brings nine tenths of what the
    largest one brings.

    \b
    Examples:
      icn-sim advise yesterday.jsonl
      icn-sim advise yesterday.jsonl.gz --warmup 0.2 --sizes 100GB,200GB,400GB --plot advice.svg
    """
    from icnblocks.cache.replay.advise import advise as advice_of
    from icnblocks_tools.sim.report import table
    from icnblocks_tools.sim.running import run_of

    run = run_of(trace, policies, sizes, **given)
    requests = run.read()
    results = run.results(requests)
    advice = advice_of(results, requests, run.links)
    if run.as_json:
        click.echo(json.dumps({"advice": asdict(advice) | {"text": _sentence(advice)}}))
    else:
        click.echo(f"{table(results)}\n\n{_sentence(advice)}")
    run.draw(results)


def _sentence(advice: Advice) -> str:
    from icnblocks.quantities import human_bytes

    text = (
        f"Take {advice.policy} with {human_bytes(advice.capacity)}: {advice.model_hit_ratio:.0%} of"
        f" the pulls find all at the edge, and the mean pull takes {advice.mean_pull_time:.2f} s"
        f" instead of {advice.uncached_pull_time:.2f} s without a cache"
    )
    if advice.capacity == advice.largest and advice.all_fits:
        return f"{text}; all models fit, and more disk would change nothing."
    if advice.capacity == advice.largest:
        return f"{text}; more disk than was tried here might be better still."
    return (
        f"{text}; {human_bytes(advice.largest)} would only bring that to"
        f" {advice.largest_pull_time:.2f} s."
    )
