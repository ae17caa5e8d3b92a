"""How long a large replay takes, and a plan over many models. Seconds of this machine."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.caching.context import table
from benchmarks.caching.jobs import Failure, Job, run_all
from icnblocks.cache.planning.problem import Problem
from icnblocks.cache.planning.solver import solve
from icnblocks.cache.replay.replay import Replay
from icnblocks.errors import UsageError
from icnblocks.workloads.demand import Demand
from icnblocks.workloads.emit import trace_of
from icnblocks.workloads.library import Pieces

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.caching.context import Context
    from icnblocks.cache.replay.trace import Trace
    from icnblocks.workloads.library import Library

MIB = 1 << 20


def half_shared(families: int, variants: int, blocks: int) -> Library:
    """Models of so many blocks of 1 MiB, half of which the whole family shares."""
    made = Pieces()
    for family in range(families):
        base = made.run(f"base-{family}", [blocks // 2 * MIB])
        for variant in range(variants):
            own = made.run(f"own-{family}-{variant}", [(blocks - blocks // 2) * MIB])
            made.model(f"speed/{family}-{variant}", [*base, *own])
    return made.library("speed", MIB)


def replay_seconds(trace: Trace, policy: str, capacity: int) -> float:
    """Of a processor, for a whole replay."""
    began = time.process_time()
    Replay(trace, policy, capacity).run()
    return time.process_time() - began


def large_problem(seed: int) -> Problem:
    """10,000 models of 1,000,000 blocks: families share what lies between none and all of them."""
    random = np.random.default_rng([seed, 7])
    families, variants, levels = 100, 100, 10
    sizes, starts, members = [], [0], []
    for family in range(families):
        shared = family * (levels + variants) + np.arange(levels)
        sizes += [500 * MIB] * levels + [50 * MIB] * variants
        for variant in range(variants):
            depth = int(random.integers(1, levels + 1))
            members += [*shared[:depth].tolist(), int(shared[0]) + levels + variant]
            starts.append(len(members))
    rates = random.permutation(np.arange(1, families * variants + 1) ** -0.9)
    count = np.array(sizes, dtype=np.int64)
    use = np.zeros(len(count))
    np.add.at(use, members, np.repeat(rates, np.diff(starts)))
    return Problem(
        capacity=int(count.sum() // 10),
        numbers=np.arange(len(count)),
        sizes=count,
        here=np.zeros(len(count), dtype=np.int64),
        worth=use * count / MIB,
        prize=rates * 5.0,
        starts=np.array(starts, dtype=np.int64),
        members=np.array(members, dtype=np.int64),
    )


def plan_seconds(problem: Problem) -> float:
    """Of a processor, for one plan."""
    began = time.process_time()
    solve(problem)
    return time.process_time() - began


def run(context: Context) -> dict[str, Any]:
    """The replays and the plan."""
    requests = 20_000 if context.quick else 1_000_000
    library = half_shared(10, 30, 100)
    capacity = library.unique_bytes * 15 // 100
    trace = trace_of(library, Demand(requests=requests, zipf=0.9), 1)
    context.say("speed, trace made")
    big = large_problem(1)
    label = f"{requests:,} requests, 300 models of 100 blocks"
    jobs = [
        Job((f"replay by lru, {label}", 60), partial(replay_seconds, trace, "lru", capacity)),
        Job((f"replay by sharing, {label}", 300),
            partial(replay_seconds, trace, "sharing", capacity)),
        Job((f"plan, {big.models:,} models, {int(big.sizes.sum()) // MIB:,} blocks", 2),
            partial(plan_seconds, big)),
    ]  # fmt: skip
    rows = []
    for key, seconds in run_all(jobs, 1).items():
        what, limit_s = key if isinstance(key, tuple) else (str(key), 0)
        if isinstance(seconds, Failure):
            raise UsageError(f"{what}: {seconds.reason}")
        rows.append({"what": what, "limit_s": limit_s, "seconds": seconds})
        context.say(what)
    return {"rows": rows}


def tables(found: dict[str, Any]) -> dict[str, str]:
    """One row each."""
    rows = [[row["what"], f"{row['seconds']:.1f}"] for row in found["rows"]]
    return {"speed": table(["what", "seconds of a processor"], rows)}


def charts(found: dict[str, Any], folder: Path) -> None:
    """None."""
