"""Two of a kind: an edge with two origins (`spread`), and a device with two sources."""

from __future__ import annotations

import shutil
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from benchmarks.fanout.context import BACKHAUL, Row, median, spread, table, whole
from benchmarks.fanout.site import DAEMON_PORT, fetch, site
from icnblocks.testing.processes import start_edge

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from benchmarks.fanout.context import Context
    from benchmarks.fanout.material import Model
    from benchmarks.fanout.site import Site
    from icnblocks.testing.network import Host, Interface, Link
    from icnblocks.testing.processes import Edge


def run(context: Context) -> dict[str, Any]:
    """Both, each source behind a link of its own of the same rate."""
    model, real = context.material.synthetic(), context.material.real()
    count = 2 if context.quick else 8
    laps: list[dict[str, Any]] = []
    with ExitStack() as stack:
        place = stack.enter_context(site(context, count))
        second, lonely = place.network.host("origin2"), place.network.host("lonely")
        other = place.network.link(second, place.edge, BACKHAUL)
        own = [
            place.network.link(place.origin, lonely, BACKHAUL),
            place.network.link(second, lonely, BACKHAUL),
        ]
        first = stack.enter_context(_origin(context, place.origin, own[0].near.address))
        stack.enter_context(_origin(context, second, "0.0.0.0"))
        for _ in range(context.runs):
            curl = place.curl(real)
            laps.append(_device(context, place, model, (lonely, own, first.url)) | {"curl": curl})
            if len([lap for lap in laps if lap["who"] == "origins"]) < context.few(3):
                laps.append(_origins(context, place, model, other, count) | {"curl": curl})
    return {"unique": model.unique, "devices": count, "laps": laps}


@contextmanager
def _origin(context: Context, host: Host, address: str) -> Iterator[Edge]:
    """One more origin of the same files, with a store of its own that says where they lie."""
    store = context.root / host.space
    shutil.copytree(context.material.store, store)
    try:
        listen = f"{address}:{DAEMON_PORT}"
        with start_edge(store, listen=listen, within=host.within) as daemon:
            yield daemon
    finally:
        shutil.rmtree(store)


def _device(
    context: Context, place: Site, model: Model, to: tuple[Host, list[Link], str]
) -> dict[str, Any]:
    lonely, links, first = to
    context.ballast.fill(model.unique)
    sources = [first, _url(links[1].near)]
    before = [link.far.counters() for link in links]
    with place.empty_devices(1) as (device,):
        found = place.timed("device", [fetch(lonely, device, model.name, sources, held=False)])
    crossed = [
        link.far.counters().since(was).received_bytes
        for link, was in zip(links, before, strict=True)
    ]
    context.say(f"a device with two sources: {found['seconds']:.2f} s")
    return found | {"crossed": crossed}


def _origins(
    context: Context, place: Site, model: Model, other: Link, count: int
) -> dict[str, Any]:
    context.ballast.fill(model.unique * count)
    upstreams = [place.daemon.url, _url(other.near)]
    with (
        place.cold_edge("--strategy", "spread", upstreams=upstreams) as edge,
        place.empty_devices(count) as devices,
    ):
        before = other.far.counters()
        commands = [
            fetch(host, device, model.name, [edge.url])
            for host, device in zip(place.devices, devices, strict=True)
        ]
        found = place.measured("origins", commands, edge)
    second = other.far.counters().since(before).received_bytes
    context.say(f"an edge with two origins, {count} devices: {found['seconds']:.2f} s")
    return found | {"crossed": [found["backhaul_wire"], second]}


def _url(interface: Interface) -> str:
    return f"http://{interface.address}:{DAEMON_PORT}"


def _ratios(found: dict[str, Any], who: str) -> list[float]:
    """Rate / 2 B."""
    return [
        found["unique"] / whole(lap) / (2 * lap["curl"]["rate"])
        for lap in found["laps"]
        if lap["who"] == who
    ]


def reached(found: dict[str, Any]) -> list[Row]:
    """The device's rate over both."""
    values = _ratios(found, "device")
    return [Row(
        "two sources of 200 Mbit/s at a device: rate / (2 B)", ">= 0.95, hoped >= 0.98",
        median(values), spread(values, 3), 0.95, 0.98, least=True,
    )]  # fmt: skip


def tables(found: dict[str, Any]) -> dict[str, str]:
    """Both."""
    rows: list[list[object]] = []
    for who, text, devices in (
        ("device", "a device with two sources", 1),
        ("origins", "an edge with two origins, `spread`", found["devices"]),
    ):
        laps = [lap for lap in found["laps"] if lap["who"] == who]
        share = [lap["crossed"][0] / sum(lap["crossed"]) for lap in laps]
        over = [sum(lap["crossed"]) / found["unique"] - lap["curl"]["framing"] for lap in laps]
        rows.append([
            text, devices, spread([whole(lap) for lap in laps]),
            spread(_ratios(found, who), 3), spread(share, 3), spread(over, 4), len(laps),
        ])  # fmt: skip
    head = ["who", "devices", "time, s", "rate / (2 B)", "share of the first link",
            "on both links / D", "runs"]  # fmt: skip
    return {"two": table(head, rows)}


def charts(found: dict[str, Any], folder: Path) -> None:
    """None."""
