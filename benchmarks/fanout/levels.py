"""Three levels: origin -- regional edge -- edge -- devices, each with a link of its own rate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from benchmarks.fanout.context import MBIT, PORT, Row, median, spread, table, whole
from benchmarks.fanout.site import RECEIVED, cold_daemon, fetch, site, told

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.fanout.context import Context
    from benchmarks.fanout.material import Model
    from benchmarks.fanout.site import Site
    from icnblocks.testing.network import Host, Link

SLOW: Final = 200 * MBIT
FAST: Final = 400 * MBIT


def run(context: Context) -> dict[str, Any]:
    """The slowest link below the regional edge, and above it."""
    model, _ = context.material.synthetic(), context.material.real()
    laps = [
        lap
        for upper, lower in ((FAST, SLOW), (SLOW, FAST))
        for lap in _chain(context, model, upper, lower)
    ]
    return {"unique": model.unique, "laps": laps}


def _chain(context: Context, model: Model, upper: int, lower: int) -> list[dict[str, Any]]:
    count = 2 if context.quick else 8
    with site(context, 0, backhaul=upper) as place:
        net = place.network
        near, switch = net.host("near"), net.switch("lower")
        down, up = net.link(place.edge, near, lower), net.plug(near, switch, None)
        near.route(down.near.address)
        hosts = [net.host(f"device{number}") for number in range(count)]
        for host in hosts:
            net.plug(host, switch, PORT)
        return [
            _lap(context, place, model, (near, down, up), hosts) | {"upper": upper, "lower": lower}
            for _ in range(context.few(3 if lower == SLOW else 2))
        ]


def _lap(
    context: Context, place: Site, model: Model, level: tuple[Host, Link, Link], hosts: list[Host]
) -> dict[str, Any]:
    near, down, up = level
    curl = place.curl(context.material.real(), near)
    context.ballast.fill(model.unique * len(hosts))
    with (
        place.cold_edge(address=down.near.address) as regional,
        cold_daemon(
            context.root / "near", near, up.near.address, "--upstream", regional.url
        ) as edge,
        place.empty_devices(len(hosts)) as devices,
    ):
        commands = [
            fetch(host, device, model.name, [edge.url])
            for host, device in zip(hosts, devices, strict=True)
        ]
        found = place.measured("icnblocks", commands, regional)
        found["lower_payload"] = told(near, edge, RECEIVED)
    context.say(f"three levels: {whole(found) * curl['rate'] / model.unique:.3f}")
    return found | {"curl": curl}


def _ratios(found: dict[str, Any], upper: int) -> list[float]:
    return [
        whole(lap) * lap["curl"]["rate"] / found["unique"]
        for lap in found["laps"]
        if lap["upper"] == upper
    ]


def reached(found: dict[str, Any]) -> list[Row]:
    """The worse of the two orders."""
    worse = max((_ratios(found, upper) for upper in (FAST, SLOW)), key=median)
    return [Row(
        "three levels: time / time over the slowest link alone", "<= 1.15, hoped <= 1.05",
        median(worse), spread(worse), 1.15, 1.05,
    )]  # fmt: skip


def tables(found: dict[str, Any]) -> dict[str, str]:
    """Both orders of the links."""
    rows: list[list[object]] = []
    for upper in (FAST, SLOW):
        laps = [lap for lap in found["laps"] if lap["upper"] == upper]
        rows.append([
            f"{upper // MBIT}, {laps[0]['lower'] // MBIT}", laps[0]["devices"],
            spread([whole(lap) for lap in laps]),
            spread([found["unique"] / lap["curl"]["rate"] for lap in laps]),
            spread(_ratios(found, upper)),
            f"{max(lap['backhaul_payload'] for lap in laps) / found['unique']:.5f}, "
            f"{max(lap['lower_payload'] for lap in laps) / found['unique']:.5f}",
            len(laps),
        ])  # fmt: skip
    head = ["links from the origin down, Mbit/s", "devices", "time, s", "curl alone, s", "ratio",
            "payload / D on each", "runs"]  # fmt: skip
    return {"levels": table(head, rows)}


def charts(found: dict[str, Any], folder: Path) -> None:
    """None."""
