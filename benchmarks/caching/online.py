"""Which share of pulls finds everything at the edge, by policy and size of the cache.

Our policies and all online ones of libcachesim on the same requests, beside the optimum for a
known demand and an upper bound.
"""

from __future__ import annotations

from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from benchmarks.caching import drawing
from benchmarks.caching.bounds import hit_bound, least_time, optimum_hits
from benchmarks.caching.cells import LINKS, SETTINGS, WARMUP, WINDOW, make, shortened
from benchmarks.caching.context import short, table
from benchmarks.caching.general import LEARNERS, general_policies, general_replay, general_version
from benchmarks.caching.jobs import Failure, Job, run_all
from icnblocks.cache.replay.replay import Replay
from icnblocks.siting.pfoo import pfoo_bound

if TYPE_CHECKING:
    from collections.abc import Hashable
    from pathlib import Path

    from benchmarks.caching.cells import Made, Setting
    from benchmarks.caching.context import Context
    from icnblocks.cache.replay.trace import Trace

OBJECTIVES: Final = ("hits", "time", "bytes")
SHARING: Final = tuple(f"sharing:objective={objective}" for objective in OBJECTIVES)
OURS: Final = ("lru", "lfu", "gdsf", "score", *SHARING)
"""`sieve`, `s3fifo` and `wtinylfu` are among libcachesim's too, where they run faster."""
GENERAL: Final = "libcachesim:"
METRICS: Final = ("model_hit_ratio", "byte_hit_ratio", "mean_pull_time")
LIMIT_S: Final = 10
LEARNER_LIMIT_S: Final = 60
OUR_LIMIT_S: Final = 3600
GIVE_UP: Final = 2
"""Runs beyond the limit after which a policy is not tried any more with a library."""


def replayed(trace: Trace, policy: str, capacity: int) -> dict[str, float]:
    """The figures of one policy, ours or (with the prefix) libcachesim's."""
    if policy.startswith(GENERAL):
        name = policy.removeprefix(GENERAL)
        return general_replay(trace, name, capacity, links=LINKS, warmup=WARMUP)
    result = Replay(trace, policy, capacity, links=LINKS, warmup=WARMUP).run()
    return {metric: getattr(result, metric) for metric in METRICS}


def run(context: Context) -> dict[str, Any]:
    """All cells."""
    policies = [*OURS, *(GENERAL + name for name in general_policies())]
    before = {cell["name"]: cell for cell in context.before("online").get("cells", [])}
    cells: dict[str, dict[str, Any]] = {}
    late: dict[tuple[str, str], int] = {}
    found: dict[str, Any] = {"libcachesim": general_version(), "cells": []}
    for seed, setting in product(context.all_seeds, SETTINGS):
        made = make(shortened(setting, quick=context.quick), seed)
        for number, capacity in enumerate(setting.capacities(made.library)):
            if context.quick and number != 1:
                continue
            name = f"{setting.name} {setting.label(number)}"
            cell = cells.setdefault(name, _empty(setting, name, number))
            _reference(cell, made, capacity)
            kept = before.get(name, {}) if context.again else {}
            _replay(context, cell, made, capacity, seed, policies, kept, late)
            context.say(f"{name}, seed {seed}")
            later = before if context.again else {}
            found["cells"] = list(
                {**cells, **{n: c for n, c in later.items() if n not in cells}}.values()
            )
            context.save("online", found)
    return found


def _empty(setting: Setting, name: str, number: int) -> dict[str, Any]:
    return {
        "name": name,
        "setting": setting.name,
        "label": setting.label(number),
        "drifting": bool(setting.drift),
        "gigabytes": [],
        "optimum": [],
        "least_time": [],
        "bound": [],
        "exclusive_bound": [],
        "policies": {},
        "missing": {},
    }


def _reference(cell: dict[str, Any], made: Made, capacity: int) -> None:
    """What the policies are measured against."""
    count = len(made.wanted)
    first = int(count * WARMUP)
    window = WINDOW if cell["drifting"] else count
    cell["gigabytes"].append(capacity / 1e9)
    cell["optimum"].append(
        optimum_hits(
            made.library, made.popularity, made.wanted, capacity, first=first, window=window
        )
    )
    cell["least_time"].append(
        least_time(made.trace, made.popularity, capacity, LINKS, first=first, window=window)
    )
    cell["bound"].append(hit_bound(made.trace, capacity, warmup=WARMUP))
    cell["exclusive_bound"].append(pfoo_bound(made.library, made.wanted, capacity, warmup=first))


def _replay(
    context: Context,
    cell: dict[str, Any],
    made: Made,
    capacity: int,
    seed: int,
    policies: list[str],
    kept: dict[str, Any],
    late: dict[tuple[str, str], int],
) -> None:
    """Every policy in one cell with one seed."""
    jobs, setting = [], cell["setting"]
    for policy in policies:
        if kept and not policy.startswith(context.again) and _take(cell, policy, kept, seed):
            continue
        learner = policy.removeprefix(GENERAL) in LEARNERS
        if seed > context.paired_seeds and policy not in SHARING:
            continue
        if late.get((setting, policy), 0) >= GIVE_UP:
            cell["missing"].setdefault(policy, "not tried: too slow with this library")
            continue
        limit = LEARNER_LIMIT_S if learner else LIMIT_S
        if not policy.startswith(GENERAL):
            limit = OUR_LIMIT_S
        elif context.quick:
            limit = 2
        jobs.append(Job(policy, partial(replayed, made.trace, policy, capacity), limit))

    def done(policy: Hashable, outcome: Any) -> None:
        name = str(policy)
        if isinstance(outcome, Failure):
            cell["missing"][name] = outcome.reason
            late[setting, name] = late.get((setting, name), 0) + 1
            return
        found = cell["policies"].setdefault(name, {metric: {} for metric in METRICS})
        for metric in METRICS:
            found[metric][str(seed)] = outcome[metric]

    run_all(jobs, context.jobs, done)


def _take(cell: dict[str, Any], policy: str, kept: dict[str, Any], seed: int) -> bool:
    """Take what an earlier run found of a policy, if it was run then."""
    values = kept["policies"].get(policy, {}).get(METRICS[0], {})
    if str(seed) in values:
        found = cell["policies"].setdefault(policy, {metric: {} for metric in METRICS})
        for metric in METRICS:
            found[metric][str(seed)] = kept["policies"][policy][metric][str(seed)]
        return True
    if policy in kept["missing"]:
        cell["missing"][policy] = kept["missing"][policy]
    return policy in kept["missing"]


# --- reading results --------------------------------------------------------------------------


def others(cell: dict[str, Any]) -> list[str]:
    """All policies but `sharing`, of those that always came to an end."""
    late = cell["missing"]
    return [one for one in cell["policies"] if not one.startswith("sharing") and one not in late]


def paired(cell: dict[str, Any], policy: str, metric: str) -> float:
    """Mean over the seeds that all policies were run with."""
    policies = cell["policies"]
    common = set.intersection(*(set(policies[one][metric]) for one in (policy, *others(cell))))
    return float(np.mean([policies[policy][metric][seed] for seed in sorted(common)]))


def best(cell: dict[str, Any], metric: str) -> tuple[str, float]:
    """The best policy but `sharing`, and how good it is."""
    values = [(paired(cell, policy, metric), policy) for policy in others(cell)]
    value, policy = min(values) if metric == "mean_pull_time" else max(values)
    return policy, value


def reference(cell: dict[str, Any], key: str) -> float:
    """Mean of an optimum or a bound over the same seeds as `paired`."""
    common = len(next(iter(cell["policies"][others(cell)[0]].values())))
    return float(np.mean(cell[key][:common]))


def of_optimum(cell: dict[str, Any]) -> float:
    """Model hits of `hits` over those of the optimum, over all seeds."""
    hits = cell["policies"]["sharing:objective=hits"]["model_hit_ratio"]
    return float(np.mean(list(hits.values())) / np.mean(cell["optimum"]))


def shown(policy: str) -> str:
    """A policy's name as people read it."""
    if policy.startswith(GENERAL):
        return policy.removeprefix(GENERAL) + "*"
    return policy.replace("sharing:objective=", "sharing, ")


def tables(found: dict[str, Any]) -> dict[str, str]:
    """One for each setting and metric, and the comparison with the optimum."""
    made: dict[str, str] = {}
    settings = list(dict.fromkeys(cell["setting"] for cell in found["cells"]))
    for setting in settings:
        cells = [cell for cell in found["cells"] if cell["setting"] == setting]
        for metric in METRICS:
            made[f"online-{setting}-{metric}"] = _metric_table(cells, metric)
    made["online-optimum"] = _optimum_table(found["cells"])
    return made


def _metric_table(cells: list[dict[str, Any]], metric: str) -> str:
    there = {policy for cell in cells for policy in cell["policies"]}
    names = [*(policy for policy in OURS if policy in there), *sorted(there.difference(OURS))]
    digits = 2 if metric == "mean_pull_time" else 3
    rows: list[list[str]] = []
    for policy in names:
        row = [shown(policy)]
        for cell in cells:
            known = policy in cell["policies"] and policy not in cell["missing"]
            text = short(paired(cell, policy, metric), digits) if known else "-"
            row.append(f"**{text}**" if policy.startswith("sharing") else text)
        rows.append(row)
    word = "optimum, computed anew" if cells[0]["drifting"] else "static optimum"
    if metric == "mean_pull_time":
        rows.append([
            "lower bound", *(short(reference(cell, "least_time"), digits) for cell in cells)
        ])  # fmt: skip
    if metric == "model_hit_ratio":
        for key, label in (
            ("optimum", word),
            ("bound", "upper bound"),
            ("exclusive_bound", "upper bound, exclusive sizes"),
        ):
            rows.append([label, *(short(reference(cell, key)) for cell in cells)])
    return table(["policy", *(cell["label"] for cell in cells)], rows)


def _optimum_table(cells: list[dict[str, Any]]) -> str:
    rows = []
    for cell in cells:
        hits = paired(cell, "sharing:objective=hits", "model_hit_ratio")
        policy, general = best(cell, "model_hit_ratio")
        rows.append([
            cell["name"],
            short(of_optimum(cell)),
            short(hits),
            f"{short(general)} ({shown(policy)})",
            f"{hits / general:.2f}",
        ])  # fmt: skip
    head = ["cell", "sharing / optimum", "sharing, hits", "best general policy", "sharing / best"]
    return table(head, rows)


def charts(found: dict[str, Any], folder: Path) -> None:
    """Model hit ratio over capacity, a panel for each setting."""
    settings = list(dict.fromkeys(cell["setting"] for cell in found["cells"]))
    with drawing.figure(folder / "online.svg", len(settings), columns=2) as panels:
        for setting, axes in zip(settings, panels, strict=True):
            cells = [cell for cell in found["cells"] if cell["setting"] == setting]
            _panel(axes, setting, cells)
        lines, labels = panels[0].get_legend_handles_labels()
        panels[0].figure.legend(lines, labels, loc="outside lower center", ncols=4)


def _panel(axes: Any, setting: str, cells: list[dict[str, Any]]) -> None:
    sizes = [float(np.mean(cell["gigabytes"])) for cell in cells]
    label = "libcachesim's policies"
    names = list(dict.fromkeys(policy for cell in cells for policy in others(cell)))
    for policy in names:
        there = [cell for cell in cells if policy in others(cell)]
        at = [size for size, cell in zip(sizes, cells, strict=True) if cell in there]
        values = [paired(cell, policy, "model_hit_ratio") for cell in there]
        if policy.startswith(GENERAL):
            axes.plot(at, values, color="0.75", lw=0.8, label=label)
            label = "_"
        elif policy in {"lru", "lfu", "gdsf"}:
            axes.plot(at, values, lw=1.2, ls="--", label=policy)
    for objective in ("time", "hits"):
        policy = f"sharing:objective={objective}"
        values = [paired(cell, policy, "model_hit_ratio") for cell in cells]
        axes.plot(sizes, values, marker="o", ms=4, lw=2, label=f"sharing, {objective}")
    values = [reference(cell, "optimum") for cell in cells]
    axes.plot(sizes, values, "k-", lw=1, label="optimum (drifting: computed anew)")
    axes.plot(sizes, [reference(c, "bound") for c in cells], "k:", lw=1, label="upper bound")
    axes.set(title=setting, xlabel="capacity, GB", ylabel="model hit ratio", ylim=(0, 1))
