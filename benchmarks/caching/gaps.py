"""How far Spec and the greedy algorithms are from the best, on instances that can be solved.

The best is the integer program's, solved to the end by HiGHS on libraries of fewer variants and a
few edges. An instance that is not solved in time is counted against the bound that is proven by
then, which makes gaps look larger than they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from benchmarks.caching.context import table
from benchmarks.caching.placement import ALGORITHMS, GB, PATIENCE
from icnblocks.siting.exact import milp_bound
from icnblocks.siting.topology import Setup, draw_instance
from icnblocks.workloads.lora import lora_library
from icnblocks.workloads.resnet import resnet_library

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.caching.context import Context
    from icnblocks.siting.instance import Instance

INSTANCES: Final = 20
CASES: Final = (("resnet", 0.1), ("resnet", 0.2), ("resnet", 0.3), ("lora", 1.2))
"""Library, and GB of each edge."""
VARIANTS: Final = {"resnet": 8, "lora": 10}
EDGES, USERS, SIDE_M = 3, 10, 500.0
COMPARED: Final = ("spec", "gen", "per-byte")
TIME_LIMIT_S: Final = 60.0


def reduced(library: str, seed: int) -> Instance:
    """A small instance: denser than the large ones, so that edges overlap as much."""
    if library == "lora":
        setup = Setup(side_m=SIDE_M, edges=EDGES, users=USERS, budget_s=PATIENCE)
        return draw_instance(setup, lora_library(adapters=VARIANTS[library]), seed)
    setup = Setup(side_m=SIDE_M, edges=EDGES, users=USERS)
    return draw_instance(setup, resnet_library(seed, variants=VARIANTS[library]), seed)


def run(context: Context) -> dict[str, Any]:
    """All cases."""
    cases = []
    for library, size in CASES[:1] if context.quick else CASES:
        case: dict[str, Any] = {"library": library, "gigabytes": size, "proven": 0}
        case |= {name: [] for name in COMPARED}
        for seed in range(2 if context.quick else INSTANCES):
            instance, capacity = reduced(library, seed), int(size * GB)
            solved = milp_bound(instance, capacity, time_limit_s=TIME_LIMIT_S)
            case["proven"] += solved.proven
            for name in COMPARED:
                value = ALGORITHMS[name](instance, capacity).value
                case[name].append(max(1 - value / solved.bound, 0.0) if solved.bound else 0.0)
        cases.append(case)
        context.say(f"gaps, {library}, {size} GB")
    return {"cases": cases}


def tables(found: dict[str, Any]) -> dict[str, str]:
    """Mean and worst gap for each case."""
    rows = []
    for case in found["cases"]:
        case = case | {"auto": list(map(min, case["spec"], case["per-byte"]))}
        row = [case["library"], f"{case['gigabytes']:g}", f"{case['proven']}/{len(case['spec'])}"]
        row += [
            f"{100 * np.mean(case[name]):.2f} %, {100 * max(case[name]):.2f} %" for name in COMPARED
        ]
        rows.append(row)
    head = ["library", "GB of each edge", "solved to the end", *COMPARED, "auto"]
    return {"gaps": table(head, rows)}


def charts(found: dict[str, Any], folder: Path) -> None:
    """None: the table says it."""
