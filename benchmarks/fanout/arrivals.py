"""Devices that arrive at random while the first one's pull is under way."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from benchmarks.fanout.context import Row, spread, table
from benchmarks.fanout.site import site

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.fanout.context import Context


def run(context: Context) -> dict[str, Any]:
    """One device begins; fifteen more come at moments drawn evenly from its pull."""
    model = context.material.real()
    count = 4 if context.quick else 16
    laps = []
    with site(context, count) as place:
        for number in range(context.few(3)):
            curl = place.curl(model)
            chance = random.Random(number)
            over = model.unique / curl["rate"]
            starts = [0.0, *sorted(chance.uniform(0, over) for _ in range(count - 1))]
            found = place.fan_out([model] * count, starts=starts)
            laps.append(found | {"curl": curl, "starts": starts})
            context.say(
                f"{count} arrivals over {over:.1f} s: {found['seconds']:.2f} s, backhaul"
                f" {found['backhaul_payload'] / model.unique:.5f} x"
            )
    return {"unique": model.unique, "devices": count, "laps": laps}


def reached(found: dict[str, Any]) -> list[Row]:
    """Bytes over the backhaul."""
    values = [lap["backhaul_payload"] / found["unique"] for lap in found["laps"]]
    return [Row(
        f"{found['devices']} devices arriving at random over the first pull:"
        " payload over the backhaul / D",
        "<= 1.01, hoped <= 1.001", max(values), f"{max(values):.5f} (most of {len(values)} runs)",
        1.01, 1.001,
    )]  # fmt: skip


def tables(found: dict[str, Any]) -> dict[str, str]:
    """Each run."""
    rows: list[list[object]] = []
    for lap in found["laps"]:
        ideal = found["unique"] / lap["curl"]["rate"]
        rows.append([
            f"{max(lap['starts']):.2f}", f"{lap['seconds']:.2f}", f"{ideal:.2f}",
            spread(lap["each"]), f"{lap['backhaul_payload'] / found['unique']:.5f}",
            f"{lap['refetched']:.0f}",
        ])  # fmt: skip
    head = ["last arrival, s", "all done, s", "D / B, s", "each device's pull, s", "payload / D",
            "refetched, bytes"]  # fmt: skip
    return {"arrivals": table(head, rows)}


def charts(found: dict[str, Any], folder: Path) -> None:
    """None."""
