"""Devices behind links of different rates, all at once: nobody waits for a slower one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from benchmarks.fanout.context import MBIT, spread, table
from benchmarks.fanout.site import site

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.fanout.context import Context, Row

RATES: Final = (1000 * MBIT, 400 * MBIT, 100 * MBIT, 50 * MBIT)


def run(context: Context) -> dict[str, Any]:
    """Two devices of each rate, from a cold edge."""
    model = context.material.real()
    ports = [rate for rate in RATES for _ in range(2)]
    laps = []
    with site(context, len(ports), ports=ports) as place:
        for _ in range(context.few(3)):
            curl = place.curl(model)
            found = place.fan_out([model] * len(ports))
            laps.append(found | {"curl": curl})
            context.say(f"mixed rates: {found['seconds']:.2f} s")
    return {"unique": model.unique, "ports": ports, "laps": laps}


def reached(found: dict[str, Any]) -> list[Row]:
    """Nothing was asked of it."""
    del found
    return []


def tables(found: dict[str, Any]) -> dict[str, str]:
    """Each rate beside the least time that its own link allows."""
    rows: list[list[object]] = []
    for rate in RATES:
        ideals, times = [], []
        for lap in found["laps"]:
            # The port's payload rate: nominal, less what curl lost on the shaped backhaul.
            own = rate / 8 * lap["curl"]["rate"] / (200 * MBIT / 8)
            ideal = found["unique"] / min(lap["curl"]["rate"], own)
            chosen = [
                seconds
                for port, seconds in zip(found["ports"], lap["in_order"], strict=True)
                if port == rate
            ]
            ideals.append(ideal)
            times += [(seconds + lap["startup_s"]) / ideal for seconds in chosen]
        rows.append([f"{rate // MBIT}", spread(ideals), spread(times)])
    head = ["port, Mbit/s", "D / the slower of backhaul and port, s", "time / that"]
    payload = [lap["backhaul_payload"] / found["unique"] for lap in found["laps"]]
    rows.append(["all", "payload over the backhaul / D", f"{max(payload):.5f}"])
    return {"mixed": table(head, rows)}


def charts(found: dict[str, Any], folder: Path) -> None:
    """None."""
