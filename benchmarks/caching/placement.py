"""Siting against storage, edges and users: the share of requests served in time.

Topologies are the same for all algorithms, so that differences are paired. The intervals are 95 %
by Student's t over topologies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from benchmarks.caching import drawing
from benchmarks.caching.context import short, table
from icnblocks.siting.greedy import gen, independent, per_byte
from icnblocks.siting.spec import spec
from icnblocks.siting.topology import Setup, draw_instance
from icnblocks.workloads.lora import lora_library
from icnblocks.workloads.resnet import resnet_library

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from benchmarks.caching.context import Context
    from icnblocks.siting.instance import Instance, Siting
    from icnblocks.workloads.library import Library

ALGORITHMS: Final[dict[str, Callable[[Instance, int], Siting]]] = {
    "spec": spec,
    "gen": gen,
    "per-byte": per_byte,
    "independent": independent,
}
TOPOLOGIES: Final = 20
GB: Final = 1_000_000_000
SWEEPS: Final[dict[str, tuple[str, tuple[float, ...]]]] = {
    "storage": ("GB of each edge", (0.25, 0.5, 0.75, 1.0, 1.25, 1.5)),
    "edges": ("edges", (6, 8, 10, 12, 14)),
    "users": ("users", (10, 20, 30, 40, 50)),
    "storage-lora": ("GB of each edge, LoRA library", (0.5, 1.0, 1.5, 2.0)),
}
STORAGE: Final = 0.5
"""GB of each edge, where edges or users vary."""
PATIENCE: Final = (5.0, 10.0)
"""Seconds that users of the LoRA library wait: nobody receives a gigabyte in one."""


def problem(sweep: str, value: float, seed: int) -> tuple[Instance, int]:
    """The instance, and the bytes of each edge."""
    library: Library = resnet_library(seed)
    setup, capacity = Setup(), STORAGE
    if sweep == "storage":
        capacity = value
    elif sweep == "edges":
        setup = Setup(edges=int(value))
    elif sweep == "users":
        setup = Setup(users=int(value))
    else:
        library, setup = lora_library(share=0.01), Setup(budget_s=PATIENCE)
        capacity = value
    return draw_instance(setup, library, seed), int(capacity * GB)


def half_width(values: list[float]) -> float:
    """Of the 95 % interval of a mean."""
    from scipy.stats import t

    count = len(values)
    if count < 2:
        return float("nan")
    return float(t.ppf(0.975, count - 1) * np.std(values, ddof=1) / np.sqrt(count))


def run(context: Context) -> dict[str, Any]:
    """All sweeps."""
    sweeps: dict[str, Any] = {}
    for sweep, (_, values) in SWEEPS.items():
        points = []
        for value in values[:2] if context.quick else values:
            found: dict[str, list[float]] = {name: [] for name in [*ALGORITHMS, "ceiling"]}
            for seed in range(2 if context.quick else TOPOLOGIES):
                instance, capacity = problem(sweep, value, seed)
                for name, algorithm in ALGORITHMS.items():
                    found[name].append(algorithm(instance, capacity).value)
                found["ceiling"].append(instance.ceiling())
            points.append({"value": value, "served": found})
        sweeps[sweep] = points
        context.say(f"placement against {sweep}")
    return {"sweeps": sweeps}


def tables(found: dict[str, Any]) -> dict[str, str]:
    """Means with intervals, and paired differences to Spec."""
    made = {}
    for sweep, points in found["sweeps"].items():
        rows = []
        for point in points:
            served = point["served"]
            row = [f"{point['value']:g}"]
            row += [
                f"{short(float(np.mean(served[name])))} ± {short(half_width(served[name]))}"
                for name in [*ALGORITHMS, "ceiling"]
            ]
            for name in ("gen", "per-byte", "independent"):
                apart = [a - b for a, b in zip(served["spec"], served[name], strict=True)]
                row.append(f"{np.mean(apart):+.3f} ± {half_width(apart):.3f}")
            rows.append(row)
        head = [SWEEPS[sweep][0], *ALGORITHMS, "could be served"]
        head += ["spec - gen", "spec - per-byte", "spec - independent"]
        made[f"placement-{sweep}"] = table(head, rows)
    return made


def charts(found: dict[str, Any], folder: Path) -> None:
    """A panel for each sweep."""
    sweeps = found["sweeps"]
    with drawing.figure(folder / "placement.svg", len(sweeps), columns=2) as panels:
        for (sweep, points), axes in zip(sweeps.items(), panels, strict=True):
            at = [point["value"] for point in points]
            for name in ALGORITHMS:
                values = [point["served"][name] for point in points]
                means, errors = np.mean(values, axis=1), [half_width(one) for one in values]
                axes.errorbar(at, means, errors, marker="o", ms=3, capsize=2, label=name)
            means = np.mean([point["served"]["ceiling"] for point in points], axis=1)
            axes.plot(at, means, "k:", label="could be served")
            axes.set(xlabel=SWEEPS[sweep][0], ylabel="requests served in time", ylim=(0, 1))
            axes.legend(fontsize=7)
