"""A cold fan-out on plain loopback, everything to disk, beside the caches: no rates, no namespaces.

Everybody is started as a person would start it, on this machine: loading counts.
"""

from __future__ import annotations

import shutil
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Final

from benchmarks.fanout import nginx, peers
from benchmarks.fanout.context import Row, load, median, spread, table
from benchmarks.fanout.running import Command, processor_s, run_together
from benchmarks.fanout.site import fetch
from benchmarks.fanout.varnish import varnish
from icnblocks.testing.device import Device
from icnblocks.testing.processes import peak_mb, start_edge

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from benchmarks.fanout.context import Context
    from benchmarks.fanout.material import Model

DEVICES: Final = 8
FILES: Final = 18080
CACHE: Final = 18081
_HERE: Final = "127.0.0.1"
_SIDES: Final = ("icnblocks", "nginx slice", "varnish", "varnish floor")


def run(context: Context) -> dict[str, Any]:
    """Ours and both caches, in turn."""
    model = context.material.synthetic()
    laps: list[dict[str, Any]] = []
    with ExitStack() as stack:
        files = stack.enter_context(
            nginx.nginx(context.root, None, _HERE, FILES, context.material.files)
        )
        origin = stack.enter_context(start_edge(context.material.store))
        context.material.learn(origin)
        for number in range(context.runs):
            first = number % len(_SIDES)
            order = _SIDES[first:] + _SIDES[:first]
            for who in order:
                context.ballast.fill(model.unique * (DEVICES + 1))
                laps.append(_lap(context, model, who, files, origin.url))
    return {"unique": model.unique, "laps": laps}


def _lap(context: Context, model: Model, who: str, files: str, origin: str) -> dict[str, Any]:
    folder = context.root / "loopback"
    folder.mkdir()
    try:
        with ExitStack() as stack:
            if who == "icnblocks":
                edge = stack.enter_context(start_edge(folder / "edge", "--upstream", origin))
                found = _run(who, list(_fetches(folder, model, edge.url)))
                found["edge_rss_mb"] = peak_mb(edge.process.pid)
                found["edge_processor_s"] = processor_s(edge.process.pid)
            elif peers.obstacle(who):
                found = {"who": who, "failed": peers.obstacle(who)}
            else:
                url = stack.enter_context(_cache(who, folder, files))
                hosts = [None] * DEVICES
                found = _run(who, peers.behind(who, hosts, folder, url, model, held=False))
    finally:
        shutil.rmtree(folder)
    context.say(f"loopback, {who}: {found.get('failed') or round(found['seconds'], 2)}")
    return found


def _fetches(folder: Path, model: Model, url: str) -> Iterator[Command]:
    for number in range(DEVICES):
        device = Device(folder / f"device{number}")
        yield fetch(None, device, model.name, [url], held=False)


@contextmanager
def _cache(who: str, folder: Path, files: str) -> Iterator[str]:
    if who.startswith("varnish"):
        with varnish(folder, None, _HERE, CACHE, files) as url:
            yield url
    else:
        with nginx.cache(folder, None, _HERE, CACHE, files, sliced=True) as url:
            yield url


def _run(who: str, commands: list[Command]) -> dict[str, Any]:
    times = run_together(commands)
    return {
        "who": who, "seconds": times.seconds, "each": sorted(times.each),
        "user_s": times.user_s, "system_s": times.system_s, "load": load(),
    }  # fmt: skip


def _seconds(found: dict[str, Any], who: str) -> list[float]:
    return [lap["seconds"] for lap in found["laps"] if lap["who"] == who and "failed" not in lap]


def _ratios(found: dict[str, Any], who: str, other: str) -> list[float]:
    """Times of one over those of another, round by round; none where one of them failed."""
    mine, theirs = _seconds(found, who), _seconds(found, other)
    if len(mine) != len(theirs):
        return []
    return [one / two for one, two in zip(mine, theirs, strict=True)]


def reached(found: dict[str, Any]) -> list[Row]:
    """Ours over each cache, pair by pair."""
    rows = []
    for who, text, reach, stretch in (
        ("nginx slice", "nginx slice-cache with 8 curls", 0.8, 0.6),
        ("varnish", "Varnish streaming with 8 curls, which keeps nothing on disk", 1.1, 0.9),
    ):
        values = _ratios(found, "icnblocks", who)
        what = f"cold fan-out on plain loopback, 8 devices, all to disk: time / {text}"
        asked = f"<= {reach}, hoped <= {stretch}"
        if not values:
            rows.append(Row(what, asked, None, peers.obstacle(who) or "it failed", reach, stretch))
            continue
        rows.append(Row(what, asked, median(values), spread(values), reach, stretch))
    return rows


def tables(found: dict[str, Any]) -> dict[str, str]:
    """Time and processor of each."""
    rows: list[list[object]] = []
    for who in _SIDES:
        laps = [lap for lap in found["laps"] if lap["who"] == who and "failed" not in lap]
        if not laps:
            rows.append([peers.WORDS[who], "not run", "", "", "", "", 0])
            continue
        rows.append([
            peers.WORDS[who], spread([lap["seconds"] for lap in laps]),
            spread([lap["each"][0] for lap in laps]),
            spread([lap["user_s"] + lap["system_s"] for lap in laps]),
            *(
                spread(values) if (values := _ratios(found, who, cache)) else ""
                for cache in ("nginx slice", "varnish")
            ),
            len(laps),
        ])  # fmt: skip
    head = ["who", "all done, s", "the first done, s", "processor of the clients, s",
            "all done / nginx's", "all done / Varnish's", "runs"]  # fmt: skip
    return {"loopback": table(head, rows)}


def charts(found: dict[str, Any], folder: Path) -> None:
    """Bars."""
    from benchmarks.caching.drawing import figure

    with figure(folder / "loopback.svg", 1, columns=1) as (axes,):
        names = [who for who in _SIDES if _seconds(found, who)]
        middle = [median(_seconds(found, who)) for who in names]
        reach = [
            [mid - min(_seconds(found, who)) for mid, who in zip(middle, names, strict=True)],
            [max(_seconds(found, who)) - mid for mid, who in zip(middle, names, strict=True)],
        ]
        axes.bar([peers.WORDS[who].replace("; ", "\n") for who in names], middle, yerr=reach)
        axes.set_ylabel(f"{DEVICES} devices, {found['unique'] / 1e6:.0f} MB each, to disk: s")
