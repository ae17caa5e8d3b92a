"""The arithmetic of docs/scale.md: what 10,000 edges and 1,000,000 devices would ask of each part.

    python -m benchmarks.scale            prints the tables
    python -m benchmarks.scale --write    puts them into docs/scale.md (a test compares the two)

Nothing is measured here. `GIVEN` are the assumptions, `MEASURED` figures of other commands, each
with the command; bounds are read from the program. Change one and run it again.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from math import ceil, log2
from pathlib import Path
from typing import TYPE_CHECKING, Final

from icnblocks.client.settings import Settings
from icnblocks.limits import MAX_KNOWN_BLOCKS, MIB
from icnblocks_daemon.config import Config
from icnblocks_daemon.couriers import MODEL_CONNECTIONS
from icnblocks_daemon.neighbours import MOST, MOST_EACH, TTL_S
from icnblocks_daemon.upstreams import _CONTROL_THREADS as CONTROL_THREADS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DOCUMENT: Final = Path(__file__).resolve().parents[1] / "docs" / "scale.md"
_BLOCK: Final = re.compile(r"<!-- begin ([\w-]+) -->\n.*?<!-- end \1 -->", re.DOTALL)

DEVICES: Final = 1_000_000
EDGES: Final = 10_000
REGIONS: Final = 100
SITE: Final = DEVICES // EDGES
"""Devices at an edge."""
UNDER: Final = EDGES // REGIONS
"""Edges under a regional one."""
BASE: Final = 16e9
ADAPTER: Final = 100e6
NAMES: Final = 10
LOOK_S: Final = 600.0
ROUND_TRIP: Final = 0.05
FAT: Final = 10e9 / 8
EDGE_LINK: Final = 200e6 / 8
PORT: Final = 1e9 / 8
STORE: Final = 2e12

GIVEN: Final = (
    ("devices, edges, regional edges, origins", f"{DEVICES:,}, {EDGES:,}, {REGIONS}, 1"),
    ("devices at an edge; edges under a regional one", f"{SITE}; {UNDER}"),
    ("a base; an adapter", "16 GB in blocks of 1 MiB; 100 MB"),
    ("names that a device follows, and how often it looks", f"{NAMES}, every {LOOK_S / 60:g} min"),
    ("links of the origin and of regional edges", "10 Gbit/s each way"),
    ("link of an edge to above (B)", "200 Mbit/s"),
    ("port of an edge towards its devices, and of a device", "1 Gbit/s"),
    ("round trip from a regional edge to the origin", "50 ms"),
    ("blocks at an edge", "2 TB of them"),
)

CPU_RECORD: Final = 300e-6
CPU_HAVE: Final = 60e-3
CPU_DEAL: Final = 0.7e-3
CPU_MANIFEST: Final = 1.3e-3
CPU_ANNOUNCED: Final = 290e-6
CPU_BLOCK: Final = 3.5e-3 / 16
CPU_TINY: Final = 1.7e-3 / 64
PENDING: Final = 650
WAITER: Final = 94
SERIES: Final = 138
SCRAPE: Final = 13_500
RAM_BLOCK: Final = (297 - 20) * MIB / 1e6

MEASURED: Final = (
    ("CPU for a record", "300 us", "unit_costs"),
    ("CPU for a manifest, a have-map of 35,000 blocks", "1.3 ms, 60 ms", "unit_costs"),
    ("CPU for an announcement of a device that shares", "290 us", "unit_costs"),
    ("CPU for a deal to a device that shares, of 35,000 blocks", "0.7 ms", "unit_costs"),
    ("CPU to send a block of 1 MiB in a bundle of 16", "220 us", "unit_costs"),
    ("CPU to send a block of 4 KiB in a bundle of 64", "27 us", "unit_costs"),
    ("memory of a pending block, and of each more who waits", "650, 94 bytes", "unit_costs"),
    ("time series of a daemon, and a scrape of them", "138, 13.5 kB", "unit_costs"),
    (
        "memory of a stored block: index and policy `sharing`",
        "290 bytes",
        "store_scale --policy sharing",
    ),
)


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked of one thing, beside what it can do."""

    what: str
    asked: float
    can: float
    unit: str
    remedy: str

    @property
    def share(self) -> float:
        """Above 1 it breaks."""
        return self.asked / self.can


def count(value: float) -> str:
    """A number as people read it."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def size(value: float) -> str:
    """Bytes."""
    for unit, step in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= step:
            return f"{count(value / step)} {unit}"
    return f"{count(value)} bytes"


def span(seconds: float) -> str:
    """Seconds, and hours beside them where that says more."""
    more = f" ({seconds / 3600:.1f} h)" if seconds >= 7200 else ""
    return f"{seconds:,.0f} s{more}"


def table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines)


def given() -> str:
    return table(("assumed", ""), iter(GIVEN))


def measured() -> str:
    rows = ((what, value, f"`python -m benchmarks.{name}`") for what, value, name in MEASURED)
    return table(("measured", "", "by"), rows)


def state() -> str:
    """What an edge holds."""
    blocks = STORE / MIB
    window = Config.__dataclass_fields__["bundle_window"].default
    sweep = window * (PENDING + (SITE - 1) * WAITER)
    apart = window * SITE * PENDING
    names = 1000
    rows = (
        ("index and policy of stored blocks", f"{count(blocks)} x 290 bytes", blocks * RAM_BLOCK),
        ("their index on disk", f"{count(blocks)} x 100 bytes", blocks * 100),
        ("manifests on disk, 40 bytes a block", f"{count(blocks)} x 40 bytes", blocks * 40),
        ("pending blocks, all devices in one sweep", f"{window} blocks, {SITE} wait", sweep),
        ("pending blocks, each device pulls another model", f"{SITE} x {window} blocks", apart),
        ("readers, 4 connections a device", f"{SITE} x 4 x 64 KiB", SITE * 4 * 65536),
        ("records", f"{names:,} names x 16 KiB at most", names * 16384),
    )
    return table(("at an edge", "", "comes to"), ((a, b, size(c)) for a, b, c in rows))


def asks() -> Iterator[tuple[str, float, float]]:
    """Requests a second in quiet times: of what, how many, CPU seconds a second."""
    looks = SITE * NAMES / LOOK_S
    same = NAMES / 60
    apart = SITE * NAMES / LOOK_S
    yield "an edge: records for its devices", looks, CPU_RECORD
    yield "an edge: announcements, all names shared", announcements(), CPU_ANNOUNCED
    yield "a regional edge: records, the same names everywhere", UNDER * same, CPU_RECORD
    yield "a regional edge: records, other names at each device", UNDER * apart, CPU_RECORD
    yield "the origin, with regions: records, the same names everywhere", REGIONS * same, CPU_RECORD
    yield "the origin, without: records, the same names everywhere", EDGES * same, CPU_RECORD
    yield "the origin, with or without: other names at each device", EDGES * apart, CPU_RECORD


def announcements() -> float:
    """A second at an edge: each device announces each model after a third of the time."""
    return SITE * NAMES / (0.85 * TTL_S / 3)


def requests() -> str:
    rows = ((what, count(rate), f"{count(100 * rate * cpu)} %") for what, rate, cpu in asks())
    return table(("who is asked", "a second", "of one core"), rows)


def stages(model: float, *, regions: bool) -> Iterator[tuple[str, float, float]]:
    """A publish that all devices pull: each link, bytes on it and seconds for them."""
    children = REGIONS if regions else EDGES
    yield "out of the origin", children * model, children * model / FAT
    if regions:
        yield "into a regional edge", model, model / FAT
        yield "out of a regional edge", UNDER * model, UNDER * model / FAT
    yield "into an edge", model, model / EDGE_LINK
    yield "out of an edge, without `--share`", SITE * model, SITE * model / PORT
    yield "out of an edge, with `--share`, at least", model, optimum(model, PORT, SITE)


def optimum(model: float, rate: float, receivers: int) -> float:
    """Seconds of a broadcast: (D/B)(1 + ceil(log2 N)/k)."""
    return model / rate * (1 + ceil(log2(receivers)) / ceil(model / MIB))


def publish(*, regions: bool) -> str:
    rows = []
    for base, adapter in zip(
        stages(BASE, regions=regions), stages(ADAPTER, regions=regions), strict=True
    ):
        rows.append((base[0], size(base[1]), span(base[2]), size(adapter[1]), span(adapter[2])))
    return table(("link", "16 GB", "takes", "100 MB", "takes"), iter(rows))


def depth() -> str:
    """Trees of edges of one fan-out: seconds until all of them have 16 GB."""
    best = optimum(BASE, EDGE_LINK, EDGES)
    rows = []
    for fan, link, told in (
        (1, EDGE_LINK, "a chain, 200 Mbit/s (refused: 16 hops)"),
        (2, EDGE_LINK, "200 Mbit/s"),
        (10, EDGE_LINK, "200 Mbit/s"),
        (10, FAT, "10 Gbit/s inside"),
        (50, FAT, "10 Gbit/s inside"),
        (100, FAT, "10 Gbit/s inside"),
    ):
        levels = EDGES if fan == 1 else ceil(log2(EDGES) / log2(fan))
        stream = max(BASE / EDGE_LINK, fan * BASE / link)
        late = levels * MIB / min(EDGE_LINK, link / fan)
        total = stream + late
        rows.append((str(fan), told, f"{levels:,}", span(total), f"{total / best:.2f}"))
    head = ("children", "links", "levels", "all have it after", "/ optimum")
    return table(head, iter(rows))


def loads() -> list[Load]:
    """What breaks, in the order in which it does."""
    setting = {key: field.default for key, field in Config.__dataclass_fields__.items()}
    least = BASE / EDGE_LINK
    lanes = Settings.__dataclass_fields__["connections"].default
    by_all, by_one = setting["max_requests"], setting["max_client_requests"]
    asked = {what: rate * cpu for what, rate, cpu in asks()}
    link = {what: seconds for what, _, seconds in stages(BASE, regions=True)}
    flat = {what: seconds for what, _, seconds in stages(BASE, regions=False)}
    found = [
        Load("the origin's link, no regions", flat["out of the origin"], least, "s",
             "regional edges; plans (`icn-edge prefetch`) bring it by night"),
        Load("an edge's port, no `--share`", link["out of an edge, without `--share`"], least, "s",
             "`--share`, or a port of 10 Gbit/s and more"),
        Load("bundles at once at the origin, no regions", EDGES * MODEL_CONNECTIONS, by_all, "",
             "regional edges, or `max_requests` and more daemons behind a balancer"),
        Load("connections at the origin, no regions", EDGES * MODEL_CONNECTIONS,
             setting["max_connections"], "", "the same; idle ones are closed first"),
        Load("the origin's CPU, other names at each device, with regions or without",
             asked["the origin, with or without: other names at each device"], 1, "cores",
             "longer lifetimes (`icn-publish --lifetime`; 60 s is the default); several origins by"
             " prefix"),
        Load("questions under way from a regional edge, other names at each device",
             UNDER * SITE * NAMES / LOOK_S * ROUND_TRIP, CONTROL_THREADS, "",
             "more threads for them (a bound in the program); longer lifetimes"),
        Load("announcements behind one address", SITE * NAMES, MOST_EACH, "",
             "an edge on their side of the NAT: through it they would not reach each other"),
        Load("a regional edge's or the origin's link, with regions", link["out of the origin"],
             least, "s", "fewer children for each: 50 at 10 Gbit/s"),
        Load("devices of one address at an edge", SITE * lanes, by_one, "",
             "raise `max_client_requests`"),
        Load("have-maps of 35,000 blocks, all devices of a site at once", SITE * CPU_HAVE, 60.0,
             "s", "only with several sources; asked once a pull"),
        Load("deals to all devices of a site, each once a second", SITE * CPU_DEAL, 1, "cores", ""),
        Load("the origin's CPU, no regions, the same names everywhere",
             asked["the origin, without: records, the same names everywhere"], 1, "cores",
             "regional edges"),
        Load("blocks of models that a policy knows", STORE / MIB, MAX_KNOWN_BLOCKS, "",
             "a bound in the program; 290 bytes each"),
        Load("bundles at once at an edge", SITE * lanes, by_all, "", "`max_requests`"),
        Load("sending at 10 Gbit/s: CPU of a regional edge", FAT / MIB * CPU_BLOCK, 1, "cores",
             "several daemons by prefix of names"),
        Load("bundles at once at a regional edge", UNDER * MODEL_CONNECTIONS, by_all, "", ""),
        Load("announcements at an edge", SITE * NAMES, MOST, "", ""),
        Load("an edge's CPU in quiet times",
             asked["an edge: records for its devices"]
             + asked["an edge: announcements, all names shared"], 1, "cores", ""),
    ]  # fmt: skip
    return sorted(found, key=lambda load: -load.share)


def breaks() -> str:
    rows = (
        (
            load.what,
            f"{count(load.asked)} {load.unit}".strip(),
            f"{count(load.can)} {load.unit}".strip(),
            f"{load.share:.2g}" if load.share < 100 else f"{load.share:,.0f}",
            load.remedy,
        )
        for load in loads()
    )
    return table(("what", "asked for", "it can", "asked / can", "what would be done"), rows)


def metrics() -> str:
    rows = (
        ("time series", count(EDGES * SERIES)),
        ("samples a second, scraped every 15 s", count(EDGES * SERIES / 15)),
        ("bytes a second", size(EDGES * SCRAPE / 15)),
    )
    return table((f"of {EDGES:,} edges", ""), iter(rows))


TABLES: Final[dict[str, Callable[[], str]]] = {
    "given": given,
    "measured": measured,
    "state": state,
    "requests": requests,
    "publish-flat": lambda: publish(regions=False),
    "publish-regions": lambda: publish(regions=True),
    "depth": depth,
    "metrics": metrics,
    "breaks": breaks,
}


def filled(text: str) -> str:
    """The document with its tables made anew.

    Raises:
        ValueError: if it lacks one.
    """
    found = [match[1] for match in _BLOCK.finditer(text)]
    if sorted(found) != sorted(TABLES):
        raise ValueError(f"not the tables of this command: {found}")
    return _BLOCK.sub(
        lambda one: f"<!-- begin {one[1]} -->\n{TABLES[one[1]]()}\n<!-- end {one[1]} -->", text
    )


def main() -> None:
    """Print the tables, or write them into the document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    if parser.parse_args().write:
        DOCUMENT.write_text(filled(DOCUMENT.read_text()))
        return
    for name, made in TABLES.items():
        print(f"{name}\n\n{made()}\n")


if __name__ == "__main__":
    main()
