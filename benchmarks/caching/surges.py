"""Demand in which what was asked for just now is asked for again, beside policies that live by it.

Roll-outs, repeats, new releases and populations that take turns: the opposite of requests drawn
one by one from a ranking, which all other scenarios have.
"""

from __future__ import annotations

from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from benchmarks.caching.cells import Setting, make
from benchmarks.caching.context import short, table
from benchmarks.caching.dial import OTHERS
from benchmarks.caching.jobs import Failure, Job, run_all
from benchmarks.caching.online import METRICS, SHARING, replayed, shown
from icnblocks.cache.replay.trace import TraceBuilder
from icnblocks.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from benchmarks.caching.context import Context
    from icnblocks.cache.replay.trace import Trace
    from icnblocks.workloads.library import Library

SHARES: Final = (0.08, 0.35)
"""Sizes of the cache, of the unique bytes."""
METRICS_OF: Final = ("model_hit_ratio", "mean_pull_time", "byte_hit_ratio")
"""What each aim of `SHARING` is judged by."""
REQUESTS: Final = 5_000
ZIPF: Final = 0.7


def _ranked(rng: np.random.Generator, models: int) -> Iterator[int]:
    weights = np.arange(1, models + 1) ** -ZIPF
    ranks = rng.permutation(models)
    while True:
        yield from ranks[rng.choice(models, 256, p=weights / weights.sum())].tolist()


def _roll_outs(rng: np.random.Generator, models: int) -> Iterator[int]:
    """Three models at a time are pulled by twenty devices each."""
    usual, left = _ranked(rng, models), []
    while True:
        left += [[next(usual), 20] for _ in range(3 - len(left))]
        one = left[rng.integers(len(left))]
        one[1] -= 1
        if not one[1]:
            left.remove(one)
        yield one[0]


def _repeats(rng: np.random.Generator, models: int) -> Iterator[int]:
    """Three of ten requests repeat one of the last five."""
    usual = _ranked(rng, models)
    last = [next(usual)]
    while True:
        last.append(last[rng.integers(len(last))] if rng.random() < 0.3 else next(usual))
        del last[:-5]
        yield last[-1]


def _newest(rng: np.random.Generator, models: int) -> Iterator[int]:
    """Every thirty requests another model is the newest; the newer, the more popular."""
    order, number = rng.permutation(models), 0
    while True:
        number += 1
        yield int(order[(number // 30 - int(rng.exponential(12))) % models])


def _turns(rng: np.random.Generator, models: int) -> Iterator[int]:
    """Two populations, one half of the models each, take turns of 250 requests."""
    halves = [_ranked(rng, models // 2) for _ in range(2)]
    while True:
        for half, usual in enumerate(halves):
            for _ in range(250):
                yield next(usual) + half * (models // 2)


DEMANDS: Final = {
    "roll-outs": _roll_outs,
    "repeats": _repeats,
    "newest first": _newest,
    "turns": _turns,
}


def run(context: Context) -> dict[str, Any]:
    """Every demand and size, by every policy of ours."""
    library = make(Setting("resnet", 0.0, 100), 1).library
    places: dict[str, dict[str, Any]] = {}
    for seed, name in product(context.all_seeds, DEMANDS):
        trace = _trace(library, name, seed, 400 if context.quick else REQUESTS)
        for share in SHARES:
            place = places.setdefault(f"{name} {share:.0%}", {})
            capacity = int(trace.unique_bytes * share)
            jobs = [
                Job(policy, partial(replayed, trace, policy, capacity))
                for policy in (*OTHERS, *SHARING)
            ]
            for policy, outcome in run_all(jobs, context.jobs).items():
                if isinstance(outcome, Failure):
                    raise UsageError(f"{policy}: {outcome.reason}")
                place.setdefault(str(policy), []).append(outcome)
        context.say(f"surges, {name}, seed {seed}")
    return {"places": [{"name": name, "policies": _means(found)} for name, found in places.items()]}


def _means(found: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, float]]:
    return {
        policy: {metric: float(np.mean([one[metric] for one in each])) for metric in METRICS}
        for policy, each in found.items()
    }


def _trace(library: Library, demand: str, seed: int, requests: int) -> Trace:
    builder = TraceBuilder()
    for number, model in enumerate(library.models):
        builder.model(model.name, library.blocks_of(number), None)
    wanted = DEMANDS[demand](np.random.default_rng([seed, 7]), len(library.models))
    for number in range(requests):
        builder.get(10.0 * number, library.models[next(wanted)].name, None)
    return builder.build()


def tables(found: dict[str, Any]) -> dict[str, str]:
    """A row for each demand and size: `sharing` beside the best of the others, by each aim."""
    rows = []
    for place in found["places"]:
        row = [place["name"]]
        for policy, metric in zip(SHARING, METRICS_OF, strict=True):
            worth = {name: values[metric] for name, values in place["policies"].items()}
            others = {name: worth[name] for name in OTHERS}
            best = (min if metric == "mean_pull_time" else max)(others, key=others.__getitem__)
            ratio = worth[policy] / max(others[best], 1e-9)
            digits = 2 if metric == "mean_pull_time" else 3
            row += [
                f"**{short(worth[policy], digits)}**",
                f"{short(others[best], digits)} ({shown(best)})",
                f"{ratio:.3f}",
            ]
        rows.append(row)
    head = ["demand, size"]
    for aim in ("`hits`: models", "`time`: s", "`bytes`: bytes"):
        head += [aim, "best other", "ratio"]
    return {"surges": table(head, rows)}


def charts(found: dict[str, Any], folder: Path) -> None:
    """None: the table is all."""
