"""The edge's memory while 256 pulls run at the same time."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, Final

from benchmarks.fanout.context import Row, table
from benchmarks.fanout.running import Command
from benchmarks.fanout.site import ROOT, site
from icnblocks.testing.processes import peak_mb

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.fanout.context import Context

HOSTS: Final = 8
PULLS: Final = 256


def run(context: Context) -> dict[str, Any]:
    """A cold edge; readers on eight hosts, thirty-two on each."""
    model = context.material.real()
    pulls = 32 if context.quick else PULLS
    with site(context, HOSTS) as place, place.cold_edge() as edge:
        idle = peak_mb(edge.process.pid)
        environ = os.environ | {"PYTHONPATH": str(ROOT)}
        words = ["-m", "benchmarks.fanout.readers", edge.url, model.name, model.manifest]
        commands = [
            Command(
                [*host.within, sys.executable, *words, str(pulls // HOSTS)],
                context.root / f"readers{number}.log", environ,
            )
            for number, host in enumerate(place.devices)
        ]  # fmt: skip
        found = place.measured("icnblocks", commands, edge)
    context.say(f"{pulls} pulls: {found['seconds']:.1f} s, {found['edge_rss_mb']:.0f} MB")
    return found | {"pulls": pulls, "idle_rss_mb": idle, "unique": model.unique}


def reached(found: dict[str, Any]) -> list[Row]:
    """VmHWM of the edge."""
    value = found["edge_rss_mb"]
    return [Row(
        f"edge RSS (VmHWM) with {found['pulls']} concurrent pulls",
        "<= 250 MB, hoped <= 150 MB", value, f"{value:.0f} MB", 250, 150,
    )]  # fmt: skip


def tables(found: dict[str, Any]) -> dict[str, str]:
    """One line."""
    row = [
        found["pulls"], f"{found['idle_rss_mb']:.0f}", f"{found['edge_rss_mb']:.0f}",
        f"{found['seconds']:.1f}", f"{found['backhaul_payload'] / found['unique']:.5f}",
        f"{found['edge_processor_s']:.1f}",
    ]  # fmt: skip
    head = ["pulls at once", "RSS before, MB", "peak RSS, MB", "all done, s",
            "payload over the backhaul / D", "processor of the edge, s"]  # fmt: skip
    return {"memory": table(head, [row])}


def charts(found: dict[str, Any], folder: Path) -> None:
    """None."""
