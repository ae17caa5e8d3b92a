"""Byte hits against model hits, as the operator's dial turns from one to the other."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from benchmarks.caching import drawing
from benchmarks.caching.cells import DRIFT, Setting, make, shortened
from benchmarks.caching.context import short, table
from benchmarks.caching.jobs import Failure, Job, run_all
from benchmarks.caching.online import METRICS, replayed
from icnblocks.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.caching.context import Context

DIALS: Final = ("0", "0.1", "0.25", "0.5", "0.75", "0.9", "1")
OTHERS: Final = ("lru", "lfu", "gdsf", "sieve", "s3fifo", "wtinylfu", "score")
PLACES: Final = ((Setting("resnet"), 1), (Setting("lora"), 1), (Setting("llm", DRIFT, 8_000), 1))
"""Settings, with the index of the capacity."""


def run(context: Context) -> dict[str, Any]:
    """Every position of the dial, and the other policies, in one cell of each library."""
    dials = DIALS[::3] if context.quick else DIALS
    policies = [f"sharing:objective={dial}" for dial in [*dials, "time"]] + list(OTHERS)
    places = []
    for setting, number in PLACES:
        values: dict[str, list[dict[str, float]]] = {policy: [] for policy in policies}
        for seed in context.all_seeds:
            made = make(shortened(setting, quick=context.quick), seed)
            capacity = setting.capacities(made.library)[number]
            jobs = [
                Job(policy, partial(replayed, made.trace, policy, capacity)) for policy in policies
            ]
            for policy, outcome in run_all(jobs, context.jobs).items():
                if isinstance(outcome, Failure):
                    raise UsageError(f"{policy}: {outcome.reason}")
                values[str(policy)].append(outcome)
        name = f"{setting.name} {setting.label(number)}"
        means = {
            policy: {metric: float(np.mean([one[metric] for one in each])) for metric in METRICS}
            for policy, each in values.items()
        }
        places.append({"name": name, "policies": means})
        context.say(f"dial, {name}")
    return {"places": places}


def tables(found: dict[str, Any]) -> dict[str, str]:
    """A row for each position, three columns for each place."""
    places = found["places"]
    rows = []
    for policy in places[0]["policies"]:
        row = [policy.replace("sharing:objective=", "sharing, ")]
        for place in places:
            values = place["policies"][policy]
            row += [short(values["model_hit_ratio"]), short(values["byte_hit_ratio"])]
            row.append(f"{values['mean_pull_time']:.2f}")
        rows.append(row)
    head = ["policy"]
    for place in places:
        head += [f"{place['name']}: models", "bytes", "s"]
    return {"dial": table(head, rows)}


def charts(found: dict[str, Any], folder: Path) -> None:
    """A panel for each place."""
    places = found["places"]
    with drawing.figure(folder / "dial.svg", len(places), columns=3) as panels:
        for place, axes in zip(places, panels, strict=True):
            values = place["policies"]
            dials = [f"sharing:objective={dial}" for dial in DIALS]
            line = [values[dial] for dial in dials if dial in values]
            axes.plot(
                [one["byte_hit_ratio"] for one in line],
                [one["model_hit_ratio"] for one in line],
                "o-",
                ms=4,
                label="sharing, dial 0 (bytes) to 1 (hits)",
            )
            timed = values["sharing:objective=time"]
            axes.plot(timed["byte_hit_ratio"], timed["model_hit_ratio"], "k*", ms=10, label="time")
            for policy in OTHERS:
                one = values[policy]
                axes.plot(one["byte_hit_ratio"], one["model_hit_ratio"], "x", label=policy)
            axes.set(title=place["name"], xlabel="byte hit ratio", ylabel="model hit ratio")
            axes.legend(fontsize=7)
