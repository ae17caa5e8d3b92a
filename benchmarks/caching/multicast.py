"""What sending each block once saves on a shared radio link, by the number of devices.

Devices stand around one edge anywhere in its radius and want models of a library by Zipf; the link
is the one of `icnblocks.siting.topology`, with all its bandwidth for one transmission at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from benchmarks.caching import drawing
from benchmarks.caching.context import table
from benchmarks.caching.placement import half_width
from icnblocks.siting.multicast import airtimes
from icnblocks.siting.topology import Setup, Topology, rates, zipf_weights
from icnblocks.workloads.llm import llm_library
from icnblocks.workloads.lora import lora_library
from icnblocks.workloads.resnet import resnet_library

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from benchmarks.caching.context import Context

DEVICES: Final = (1, 2, 4, 8, 16, 32, 64)
DRAWS: Final = 50
ZIPF: Final = 0.9
LIBRARIES: Final = {
    "resnet": resnet_library(1),
    "lora": lora_library(),
    "llm": llm_library(1),
}


def link_rates(devices: int, random: np.random.Generator) -> NDArray[np.float64]:
    """Bits a second to each device, if it is sent to alone."""
    setup = Setup(edges=1, activity=0.0)
    away = setup.radius_m * np.sqrt(random.random(devices))
    around = random.uniform(0, 2 * np.pi, devices)
    users = np.stack([away * np.cos(around), away * np.sin(around)], axis=1)
    return np.asarray(rates(setup, Topology(np.zeros((1, 2)), users))[0])


def run(context: Context) -> dict[str, Any]:
    """Gains over unicast for each library and number of devices."""
    found: dict[str, Any] = {}
    for name, library in LIBRARIES.items():
        weights = zipf_weights(len(library.models), ZIPF)
        points = []
        for devices in DEVICES[:3] if context.quick else DEVICES:
            gains: dict[str, list[float]] = {key: [] for key in ("model", "block", "sent", "mean")}
            for seed in range(5 if context.quick else DRAWS):
                random = np.random.default_rng([seed, devices, 6])
                ranking = random.permutation(len(library.models))
                wanted = ranking[random.choice(len(weights), devices, p=weights)]
                ways = airtimes(library, wanted, link_rates(devices, random))
                gains["model"].append(ways.unicast.total_s / ways.model_multicast.total_s)
                gains["block"].append(ways.unicast.total_s / ways.block_multicast.total_s)
                gains["mean"].append(ways.unicast.mean_s / ways.block_multicast.mean_s)
                gains["sent"].append(ways.unicast.sent_bytes / ways.block_multicast.sent_bytes)
            points.append({"devices": devices, "gains": gains})
        found[name] = points
        context.say(f"multicast, {name}")
    return {"libraries": found}


def tables(found: dict[str, Any]) -> dict[str, str]:
    """Gain over unicast until the last device has its model."""
    rows = []
    for name, points in found["libraries"].items():
        for key, label in (
            ("model", "whole models"),
            ("block", "blocks"),
            ("sent", "blocks: bytes sent"),
        ):
            cells = [
                f"{np.mean(point['gains'][key]):.2f} ± {half_width(point['gains'][key]):.2f}"
                for point in points
            ]
            rows.append([name, label, *cells])
    first = next(iter(found["libraries"].values()))
    head = ["library", "multicast of", *(str(point["devices"]) for point in first)]
    return {"multicast": table(head, rows)}


def charts(found: dict[str, Any], folder: Path) -> None:
    """A panel for each library."""
    libraries = found["libraries"]
    with drawing.figure(folder / "multicast.svg", len(libraries), columns=3) as panels:
        for (name, points), axes in zip(libraries.items(), panels, strict=True):
            at = [point["devices"] for point in points]
            for key, label in (("block", "blocks once"), ("model", "whole models once")):
                values = [point["gains"][key] for point in points]
                means, errors = np.mean(values, axis=1), [half_width(one) for one in values]
                axes.errorbar(at, means, errors, marker="o", ms=3, capsize=2, label=label)
            axes.set_xscale("log", base=2)
            axes.set(title=name, xlabel="devices", ylabel="times faster than unicast")
            axes.legend(fontsize=7)
