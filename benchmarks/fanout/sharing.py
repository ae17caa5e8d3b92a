"""A narrow uplink: sixteen devices that serve each other (`icn-fetch --share`), and without."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from benchmarks.fanout.context import MBIT, Row, median, spread, table, whole
from benchmarks.fanout.running import Command, run_together
from benchmarks.fanout.site import FILES_PORT, fetch, site

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.fanout.context import Context
    from benchmarks.fanout.site import Site

RATE: Final = 200 * MBIT
ALONE: Final = 4
"""Devices without sharing: each takes the whole model over the uplink."""


def run(context: Context) -> dict[str, Any]:
    """A warm edge with an uplink of 200 Mbit/s, and ports of 200 Mbit/s each way."""
    model, real = context.material.synthetic(), context.material.real()
    count = 4 if context.quick else 16
    with site(context, count, backhaul=None, ports=RATE, uplink=RATE) as place:
        laps = [_lap(context, place, count, shares=True) for _ in range(context.few(3))]
        laps.append(_lap(context, place, ALONE, shares=False))
    return {
        "models": {made.name: made.unique for made in (model, real)},
        "blocks": {made.name: len(made.wants) for made in (model, real)},
        "devices": count,
        "laps": laps,
    }


def _lap(context: Context, place: Site, count: int, *, shares: bool) -> dict[str, Any]:
    model = context.material.synthetic() if shares else context.material.real()
    context.ballast.fill(model.unique * (count + 1))
    with place.cold_edge() as edge, place.empty_devices(count + 1) as devices:
        warm = fetch(place.edge, devices[count], model.name, [edge.url])
        run_together([warm])
        curl = _curl(context, place)
        args = ("--share",) if shares else ()
        commands = [
            fetch(host, device, model.name, [edge.url], *args)
            for host, device in zip(place.devices[:count], devices[:count], strict=True)
        ]
        found = place.timed("shared" if shares else "alone", commands)
    found |= {"model": model.name, "curl": curl}
    context.say(f"narrow uplink, {found['who']}: {found['seconds']:.2f} s")
    return found


def _curl(context: Context, place: Site) -> dict[str, float]:
    """B of the uplink: one device's curl through it, from the files at the origin."""
    model = context.material.real()
    largest = max(model.files.iterdir(), key=lambda path: path.stat().st_size)
    url = f"http://{place.backhaul.near.address}:{FILES_PORT}/{model.files.name}/{largest.name}"
    words = [*place.devices[0].within, "curl", "-sSf", "--noproxy", "*", "-o", "/dev/null", url]
    seconds = run_together([Command(words, context.root / "curl.log")]).seconds
    return {"seconds": seconds, "rate": largest.stat().st_size / seconds}


def _ratios(found: dict[str, Any], who: str) -> list[float]:
    """Time / (D / B)(1 + log2(N) / k)."""
    values = []
    for lap in found["laps"]:
        if lap["who"] == who:
            more = math.log2(lap["devices"]) / found["blocks"][lap["model"]]
            best = found["models"][lap["model"]] / lap["curl"]["rate"] * (1 + more)
            values.append(whole(lap) / best)
    return values


def reached(found: dict[str, Any]) -> list[Row]:
    """Time beside the least that a broadcast needs."""
    values = _ratios(found, "shared")
    count = found["devices"]
    return [Row(
        f"edge uplink of 200 Mbit/s, {count} devices with --share at 200 Mbit/s each way:"
        f" time / (D / B)(1 + log2({count}) / k)",
        "<= 1.5, hoped <= 1.2", median(values), spread(values), 1.5, 1.2,
    )]  # fmt: skip


def tables(found: dict[str, Any]) -> dict[str, str]:
    """With and without."""
    rows: list[list[object]] = []
    for who, text in (("shared", "`--share`"), ("alone", "without")):
        laps = [lap for lap in found["laps"] if lap["who"] == who]
        sizes = {lap["model"]: found["models"][lap["model"]] for lap in laps}
        (size,) = sizes.values()
        rows.append([
            text, laps[0]["devices"], f"{size / 1e6:.0f} MB",
            spread([whole(lap) for lap in laps]), spread(_ratios(found, who)),
            spread([lap["uplink_wire"] / size for lap in laps]),
            len(laps),
        ])  # fmt: skip
    head = ["devices", "how many", "D", "time, s", "time / the least", "on the uplink / D", "runs"]
    return {"sharing": table(head, rows)}


def charts(found: dict[str, Any], folder: Path) -> None:
    """None."""
