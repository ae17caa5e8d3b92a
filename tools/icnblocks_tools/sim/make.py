"""`icn-sim make`: a trace of requests for a library of models, from a seed."""

from __future__ import annotations

from typing import Any

import click

from icnblocks_tools.sim.libraries import (
    LIBRARIES,
    library_options,
    make_library,
    size_option,
)

_SHARE = click.FloatRange(0, 1)
_COUNT = click.IntRange(0, 1_000_000)


@click.command()
@click.argument("library", type=click.Choice(LIBRARIES))
@click.option("-o", "--output", default="-", metavar="FILE", help="Write here; .gz is compressed.")
@click.option("--requests", type=click.IntRange(1, 100_000_000), default=16_000, show_default=True)
@click.option(
    "--rate",
    type=click.FloatRange(1e-6, 1e6),
    default=0.1,
    show_default=True,
    help="Requests a second, on the average.",
)
@click.option(
    "--zipf",
    type=click.FloatRange(0, 10),
    default=0.9,
    show_default=True,
    help="Exponent of popularity.",
)
@click.option(
    "--drift",
    type=click.FloatRange(0, 1e6),
    default=0.0,
    help="Swaps of two models' popularity for every thousand requests.",
)
@click.option("--flashes", type=_COUNT, default=0, help="Flash crowds in the whole trace.")
@click.option(
    "--flash-share",
    type=_SHARE,
    default=0.3,
    show_default=True,
    help="The share of the requests that a flash crowd makes.",
)
@click.option(
    "--flash-hours",
    type=click.FloatRange(0, 1e6),
    default=1.0,
    show_default=True,
    help="Its length.",
)
@click.option("--daily", type=_SHARE, default=0.0, help="How far the rate swings in a day.")
@click.option(
    "--releases", type=_SHARE, default=0.0, help="The share of the models published later on."
)
@click.option("--edges", type=click.IntRange(1, 4096), default=1, show_default=True)
@click.option("--users", type=_COUNT, default=0, help="People who ask, and move between edges.")
@click.option(
    "--moves",
    type=click.FloatRange(0, 1e6),
    default=4.0,
    show_default=True,
    help="Of a user, a day.",
)
@click.option(
    "--taste",
    type=_SHARE,
    default=0.0,
    help="The share of requests by the edge's or user's own ranking, not that of all.",
)
@click.option(
    "--unit",
    callback=size_option,
    metavar="BYTES",
    help="Of every block.  [default: 1MB; lora: the smallest adapter; llm: 64MiB]",
)
@library_options
def make(library: str, output: str, unit: int | None, flash_hours: float, **given: Any) -> None:
    """Make a trace of requests for LIBRARY, as `icn-sim replay` and `advise` read it.

    \b
    resnet  three networks, 100 variants each that share frozen bottom layers
    lora    three bases with 100 adapters each; a request brings both
    llm     six bases of 0.5-16 GB: LoRA, half-frozen, full fine-tunes, quantised

    \b
    Examples:
      icn-sim make lora --drift 20 -o lora.jsonl
      icn-sim make llm --releases 0.3 --daily 0.8 | icn-sim advise -
      icn-sim make llm --edges 4 --users 50 --taste 0.5 -o four.jsonl.gz
    """
    from icnblocks.cache.replay.lines import TraceWriter
    from icnblocks.workloads.demand import Demand
    from icnblocks.workloads.emit import emit
    from icnblocks_tools.sim.writing import opened

    names = ("variants", "bases", "adapter_share", "equal_layers")
    seed: int = given.pop("seed")
    made = make_library(library, seed=seed, **{name: given.pop(name) for name in names})
    made, demand = made.in_units(unit), Demand(flash_s=flash_hours * 3600, **given)
    with opened(output) as file:
        emit(made, demand, seed, TraceWriter(file))
