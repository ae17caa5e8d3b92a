"""Options that the commands of `icn-sim` share, and what people write in them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from icnblocks.errors import UsageError
from icnblocks.quantities import parse_rate, parse_size

if TYPE_CHECKING:
    from collections.abc import Callable

    from icnblocks.cache.replay.trace import Trace

MAX_PERCENT: Final = 1000


def _rate(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """Read a rate such as 200Mbit: bytes a second."""
    try:
        return None if value is None else parse_rate(value)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, param) from None


def check_capacities(
    ctx: click.Context, param: click.Parameter, value: tuple[str, ...]
) -> tuple[str, ...]:
    """Callback of options with capacities: bytes (20GB), or a share of the unique bytes (15%)."""
    for text in value:
        try:
            if not (_percent(text) if text.endswith("%") else parse_size(text)):
                raise ValueError("a capacity has at least one byte")
        except ValueError as error:
            raise click.BadParameter(str(error), ctx, param) from None
    return value


def _percent(text: str) -> float:
    """The number before `%`.

    Raises:
        ValueError: if it is none, or out of range.
    """
    try:
        percent = float(text[:-1])
    except ValueError:
        percent = math.nan
    if not 0 < percent <= MAX_PERCENT:
        raise ValueError(f"{text!r} is not a percentage above 0%, and up to {MAX_PERCENT}%")
    return percent


def capacity_bytes(text: str, trace: Trace) -> int:
    """Bytes of a capacity that `check_capacities` let pass."""
    if text.endswith("%"):
        return max(int(trace.unique_bytes * _percent(text) / 100), 1)
    return parse_size(text)


def link_options(command: Callable[..., None]) -> Callable[..., None]:
    """`--backhaul`, `--edge`, `--rtt` and `--neighbour`."""
    for option in (
        click.option(
            "--neighbour",
            callback=_rate,
            metavar="RATE",
            help="A block that another edge of the trace holds comes from there, at this rate.",
        ),
        click.option(
            "--rtt",
            type=click.FloatRange(0, 3600),
            default=0.05,
            show_default=True,
            help="Seconds lost once when anything has to be fetched from beyond the edge. Policies"
            " with an option rtt or backhaul have this, and --backhaul, unless theirs is given.",
        ),
        click.option(
            "--edge",
            callback=_rate,
            default="1Gbit",
            show_default=True,
            metavar="RATE",
            help="From an edge to a device.",
        ),
        click.option(
            "--backhaul",
            callback=_rate,
            default="200Mbit",
            show_default=True,
            metavar="RATE",
            help="From the origin to an edge.",
        ),
    ):
        command = option(command)
    return command


def run_options(command: Callable[..., None]) -> Callable[..., None]:
    """`--warmup`, `--plot` and `--jobs`."""
    for option in (
        click.option(
            "--jobs",
            type=click.IntRange(1, 1024),
            metavar="N",
            help="Replays at a time, each in a process.  [default: one a processor]",
        ),
        click.option(
            "--plot",
            type=click.Path(path_type=Path, dir_okay=False),
            metavar="FILE",
            help="Draw hit ratios and pull times over capacity: FILE.svg, .png or .pdf.",
        ),
        click.option(
            "--warmup",
            type=click.FloatRange(0, 1, max_open=True),
            default=0.0,
            metavar="FRACTION",
            help="The share of the requests, from the first, that fills caches and is not counted.",
        ),
    ):
        command = option(command)
    return command


def load_trace(path: str) -> Trace:
    """Read a trace from a file or standard input (`-`).

    Raises:
        FormatError: if a line is wrong.
        UsageError: if the file cannot be read.
    """
    from icnblocks.cache.replay.lines import read_trace

    try:
        return read_trace(path)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
