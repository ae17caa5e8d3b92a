"""Options that say which library of models is meant; shared by `make` and `place`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import click

from icnblocks.quantities import parse_size

if TYPE_CHECKING:
    from collections.abc import Callable

    from icnblocks.workloads.library import Library

LIBRARIES = ("resnet", "lora", "llm")


def size_option(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """Callback: read a size such as 64MiB; not 0, and within the 64 bits of all sums."""
    try:
        size = None if value is None else parse_size(value)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, param) from None
    if size is not None and not 0 < size < 2**63:
        text = "there is at least one byte" if not size else f"{value} is 2^63 bytes or more"
        raise click.BadParameter(text, ctx, param)
    return size


def _sizes(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """Read sizes with commas between them."""
    parts = None if value is None else [size_option(ctx, param, part) for part in value.split(",")]
    return None if parts is None else tuple(part for part in parts if part is not None)


def number_option(ctx: click.Context, param: click.Parameter, value: float) -> float:
    """Callback of options with a range: it lets `nan` pass, which no comparison holds back."""
    if math.isnan(value):
        raise click.BadParameter("nan is not a number", ctx, param)
    return value


def library_options(command: Callable[..., None]) -> Callable[..., None]:
    """`--variants`, `--bases`, `--adapter-share`, `--equal-layers` and `--seed`."""
    for option in (
        click.option(
            "--seed",
            type=click.IntRange(0, 2**63 - 1),
            default=0,
            show_default=True,
            help="The same seed and options give the same output.",
        ),
        click.option(
            "--equal-layers",
            is_flag=True,
            help="resnet: give all layers of a network the same bytes, instead of their own.",
        ),
        click.option(
            "--adapter-share",
            type=click.FloatRange(0, 1, min_open=True),
            callback=number_option,
            default=0.02,
            show_default=True,
            help="lora: bytes of an adapter as a share of its base.",
        ),
        click.option(
            "--bases",
            callback=_sizes,
            metavar="BYTES,...",
            help="lora, llm: how large the bases are.  [default: .25-1 GB; .5-16 GB]",
        ),
        click.option(
            "--variants",
            type=click.IntRange(1, 10_000),
            help="Variants of each base.  [default: 100; llm: 30]",
        ),
    ):
        command = option(command)
    return command


def make_library(
    library: str,
    *,
    seed: int,
    variants: int | None,
    bases: tuple[int, ...] | None,
    adapter_share: float,
    equal_layers: bool,
) -> Library:
    """The library that the options describe; pieces are as large as they are."""
    if library == "resnet":
        from icnblocks.workloads.resnet import resnet_library

        return resnet_library(seed, variants=variants or 100, equal_layers=equal_layers)
    if library == "lora":
        from icnblocks.workloads.lora import BASES, lora_library

        return lora_library(bases=bases or BASES, adapters=variants or 100, share=adapter_share)
    from icnblocks.workloads.llm import BASES as LLM_BASES
    from icnblocks.workloads.llm import llm_library

    return llm_library(seed, bases=bases or LLM_BASES, variants=variants or 30)
