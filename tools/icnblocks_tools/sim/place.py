"""`icn-sim place`: which edge should keep which model, and the plan file that says so."""

from __future__ import annotations

import json
import math
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from icnblocks_tools.sim.libraries import (
    LIBRARIES,
    library_options,
    make_library,
    number_option,
    size_option,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from icnblocks.siting.instance import Instance, Siting

_T = TypeVar("_T")

ALGORITHMS = ("auto", "spec", "spec-epsilon", "gen", "per-byte", "independent")


def _budget(ctx: click.Context, param: click.Parameter, value: str) -> tuple[float, float]:
    """Read LOW,HIGH seconds."""
    try:
        low, high = (float(part) for part in value.split(","))
        if not 0 <= low <= high < math.inf:
            raise ValueError
    except ValueError:
        raise click.BadParameter("two numbers of seconds: LOW,HIGH", ctx, param) from None
    return low, high


@click.command()
@click.argument("what", metavar="LIBRARY|TRACE")
@click.option(
    "--capacity", required=True, callback=size_option, metavar="BYTES", help="Disk of each edge."
)
@click.option(
    "--algorithm",
    type=click.Choice(ALGORITHMS),
    default="auto",
    show_default=True,
    help="auto: the better of spec (if the models share as a forest) and per-byte.",
)
@click.option("--edges", type=click.IntRange(1, 1000), help="How many.  [default: 10]")
@click.option("--users", type=click.IntRange(1, 10_000), help="How many.  [default: 30]")
@click.option(
    "--radius",
    type=click.FloatRange(0),
    callback=number_option,
    default=275.0,
    show_default=True,
    help="Metres covered.",
)
@click.option(
    "--budget",
    callback=_budget,
    default="0.5,1",
    show_default=True,
    metavar="LOW,HIGH",
    help="Seconds that users wait for a model, drawn for each.",
)
@click.option(
    "--zipf",
    type=click.FloatRange(0, 10),
    callback=number_option,
    default=0.8,
    show_default=True,
    help="Of demand.",
)
@click.option(
    "--together", is_flag=True, help="Edges named in a trace serve each other's users, too."
)
@click.option(
    "--epsilon",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.1,
    show_default=True,
    help="spec-epsilon: how far below the best an edge's choice may be.",
)
@click.option(
    "--cell", callback=size_option, metavar="BYTES", help="spec: bytes of a cell of its grid."
)
@click.option(
    "--bound",
    type=click.Choice(("lp", "milp")),
    help="Also compute that no siting can be better than this; milp for small problems.",
)
@click.option(
    "--time-limit",
    type=click.FloatRange(1),
    callback=number_option,
    default=60.0,
    show_default=True,
    help="Of milp, s.",
)
@click.option(
    "-o",
    "--output",
    metavar="PLAN",
    help="Write the plan file for icn-edge here; with - to stdout, and the figures to stderr.",
)
@click.option("--pin", is_flag=True, help="In the plan, pin the models.")
@click.option("--names", metavar="NAME,...", help="Of the edges, in the plan.")
@library_options
@click.option("--json", "as_json", is_flag=True, help="The figures as one JSON object.")
def place(
    what: str,
    capacity: int,
    output: str | None,
    pin: bool,
    names: str | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Say which edge should keep which model, all edges thought through together.

    For a LIBRARY (resnet, lora, llm) edges and users are placed at random in one square kilometre.
    For a TRACE the demand is what it tells: if it names edges, each serves its own; else every
    user of the same random square wants models as the trace does.

    \b
    Examples:
      icn-sim place resnet --capacity 500MB --bound lp
      icn-sim place trace.jsonl --capacity 20GB -o plan.json
      icn-edge prefetch plan.json --edge edge-0
    """
    from icnblocks.errors import FormatError
    from icnblocks.siting.planfile import serialise_plan
    from icnblocks.siting.planning import edge_names, plan_of
    from icnblocks_tools.sim.writing import opened

    instance, edges = _instance(what, given)
    wanted = [name.strip() for name in names.split(",")] if names else edges
    edges = edge_names(instance.edges, wanted)
    siting = _solve(instance, capacity, given)
    # Before any output: a model whose name no plan can hold is an error of the whole command.
    try:
        plan = None if output is None else plan_of(instance, siting, edges, pin=pin)
    except FormatError as error:  # as where some requests name an edge, and others do not
        raise FormatError(str(error), hint="name all edges with --names") from None
    figures = _figures(instance, siting, capacity, given)
    if output is not None and plan is not None:
        with opened(output) as file:
            file.write(serialise_plan(plan))
    click.echo(json.dumps(figures) if as_json else _said(figures, edges), err=output == "-")


def _instance(what: str, given: dict[str, Any]) -> tuple[Instance, tuple[str, ...]]:
    """The problem, and the names of its edges if it has any."""
    import numpy as np

    from icnblocks.errors import UsageError
    from icnblocks.siting.instance import Instance, check_size
    from icnblocks.siting.topology import Setup, draw_instance
    from icnblocks.workloads.observed import counts_of, library_of
    from icnblocks_tools.sim.options import load_trace

    usual = Setup()
    setup = Setup(
        edges=given["edges"] or usual.edges,
        users=given["users"] or usual.users,
        radius_m=given["radius"],
        budget_s=given["budget"],
        zipf=given["zipf"],
    )
    seed: int = given["seed"]
    if what in LIBRARIES:
        options = ("seed", "variants", "bases", "adapter_share", "equal_layers")
        library = make_library(what, **{name: given[name] for name in options})
        return draw_instance(setup, library, seed), ()
    trace = load_trace(what)
    library, counts = library_of(trace), counts_of(trace)
    if trace.edge_names == ("",):
        return draw_instance(setup, library, seed, popularity=counts[0]), ()
    if given["edges"] or given["users"]:
        raise UsageError("the trace names its edges: leave --edges and --users out")
    several = len(trace.edge_names)
    check_size(several, several, len(library.models))
    own = np.ones((several, several)) if given["together"] else np.eye(several)
    serves = np.repeat(own[:, :, None] > 0, len(library.models), axis=2)
    return Instance(library, counts / counts.sum(), serves), trace.edge_names


def _solve(instance: Instance, capacity: int, given: dict[str, Any]) -> Siting:
    from icnblocks.siting.forest import grow
    from icnblocks.siting.greedy import gen, independent, per_byte
    from icnblocks.siting.spec import spec

    algorithm: str = given["algorithm"]
    if algorithm == "auto":
        found = per_byte(instance, capacity)
        if grow(instance.library) is None:
            return found
        return max(spec(instance, capacity, cell=given["cell"]), found, key=lambda s: s.value)
    if algorithm == "spec":
        return spec(instance, capacity, cell=given["cell"])
    if algorithm == "spec-epsilon":
        return spec(instance, capacity, epsilon=given["epsilon"])
    greedy = {"gen": gen, "per-byte": per_byte, "independent": independent}
    return greedy[algorithm](instance, capacity)


def _figures(
    instance: Instance, siting: Siting, capacity: int, given: dict[str, Any]
) -> dict[str, Any]:
    """What scripts are told."""
    from icnblocks.siting.exact import lp_bound, milp_bound

    figures: dict[str, Any] = {
        "algorithm": siting.algorithm,
        "capacity": capacity,
        "edges": instance.edges,
        "models": len(instance.library.models),
        "served": siting.value,
        "ceiling": instance.ceiling(),
        "edge_bytes": siting.bytes_of(instance.library).tolist(),
        "edge_models": siting.held.sum(axis=1).tolist(),
    }
    if given["bound"] == "lp":
        figures["bound"] = _aside(lambda: lp_bound(instance, capacity))
    elif given["bound"] == "milp":
        with _solver_quiet():
            limit: float = given["time_limit"]
            solved = _aside(lambda: milp_bound(instance, capacity, time_limit_s=limit))
        figures |= {"bound": solved.bound, "proven": solved.proven}
    return figures


def _aside(solve: Callable[[], _T]) -> _T:
    """What a solver answers, on a thread of its own: within HiGHS nobody notices Ctrl-C."""
    from concurrent.futures import Future
    from threading import Thread

    answer: Future[_T] = Future()

    def work() -> None:
        try:
            answer.set_result(solve())
        except BaseException as error:
            answer.set_exception(error)

    Thread(target=work, daemon=True).start()
    return answer.result()


@contextmanager
def _solver_quiet() -> Iterator[None]:
    """HiGHS now and then prints a line of its own from C, which would spoil the output."""
    import ctypes

    libc = ctypes.CDLL(None)
    ours = os.dup(1)
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    try:
        yield
    finally:
        libc.fflush(None)
        os.dup2(ours, 1)
        os.close(ours)
        os.close(nothing)


def _said(figures: dict[str, Any], edges: tuple[str, ...]) -> str:
    """What people are told."""
    from icnblocks.quantities import human_bytes

    lines = [
        f"{figures['algorithm']}: {figures['served']:.3f} of the requests are served in time, of"
        f" {figures['ceiling']:.3f} that could be with unlimited disks"
    ]
    if "bound" in figures:
        lines[0] += f"; no siting serves more than {figures['bound']:.3f}"
    told = zip(edges, figures["edge_models"], figures["edge_bytes"], strict=True)
    lines += [f"  {edge}  {models} models, {human_bytes(size)}" for edge, models, size in told]
    return "\n".join(lines)
