"""One edge and many who pull at once: goodput, fairness, and requests for single small blocks."""

from __future__ import annotations

import json
import re
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final

from benchmarks.scenarios.models import MEAN_SMALL, small_tensors
from benchmarks.scenarios.world import (
    FLOOR,
    NAME,
    Downloader,
    Puller,
    files_of,
    llama,
    published,
    size_of,
    warm_edge,
)
from benchmarks.suite.figures import MEASURES, Aim
from benchmarks.suite.nginx import nginx
from benchmarks.suite.peers import command
from benchmarks.suite.processes import Command
from benchmarks.suite.runner import Side, Stage
from benchmarks.suite.scenario import Scenario
from icnblocks.manifest.codec import digest_of, encode
from icnblocks.manifest.model import Kind
from icnblocks.naming import Name
from icnblocks.publish.scan import scan
from icnblocks.testing.device import Device
from icnblocks.wire.bundle import BundleRequest, Want, encode_request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from benchmarks.suite.figures import Cost
    from benchmarks.suite.nginx import Nginx
    from benchmarks.suite.processes import Ended
    from benchmarks.suite.scenario import Bench
    from icnblocks.testing.processes import Edge

_PULLS: Final = 8
_READERS: Final = (1, 4, 16, 64)
_SMALL: Final = "acme/small"
_SMALL_BLOCKS: Final = 2000
_WRK_SECONDS: Final = 3
_RATE: Final = re.compile(r"Requests/sec:\s+([0-9.]+)")
_LUA: Final = """
local paths = {{ {paths} }}
local at = 0
request = function() at = at % #paths + 1; return wrk.format("GET", paths[at]) end
"""


def _goodput(cost: Cost, ended: list[Ended], size: int) -> dict[str, float]:
    """MB/s over all readers, and how much longer the last one took than the first."""
    walls = [one.wall_s for one in ended]
    return {
        "goodput_mb_s": size * len(ended) / cost.wall_s / 1e6,
        "slowest_by_fastest": max(walls) / min(walls),
    }


def _pulls(bench: Bench, stage: Stage, edge: Edge, served: Nginx, model: Path, size: int) -> None:
    """Eight at once, each to disk, by the commands that people use."""
    pullers = [Puller(Device(bench.root / f"device{n}"), edge, NAME, model) for n in range(_PULLS)]
    downs = [
        Downloader(served.url, served.pid, model, bench.root / f"down{n}") for n in range(_PULLS)
    ]

    def forget() -> None:
        for puller in pullers:
            puller.forget()

    def clear() -> None:
        for down in downs:
            down.clear()

    stage.sides.append(
        Side(
            f"{_PULLS} x icn-fetch",
            steps=lambda: [[puller.command() for puller in pullers]],
            before=forget,
            servers=[edge.process.pid],
            facts=lambda cost, ended: _goodput(cost, ended, size),
            reads=[edge.store],
            check=pullers[-1].check,
            ours=True,
            note="every block verified, to disk, not flushed",
        )
    )

    def downloads(name: str, make: Callable[[Downloader], Command], note: str) -> Side:
        return Side(
            f"{_PULLS} x {name}",
            steps=lambda: [[make(down) for down in downs]],
            before=clear,
            servers=[served.pid],
            facts=lambda cost, ended: _goodput(cost, ended, size),
            reads=[model],
            note=note,
        )

    unverified = "not verified, to disk, not flushed"
    bench.admit(stage, "curl", ["curl"], lambda: downloads("curl", Downloader.curl, unverified))
    bench.admit(stage, "floor", (), lambda: downloads("floor", Downloader.floor, FLOOR))


def _readers(bench: Bench, stage: Stage, edge: Edge, served: Nginx, model: Path) -> None:
    """Curl for both, to /dev/null: what the servers can do, the clients being the same."""
    manifest = scan(model, Kind.BASE).manifest
    wants = tuple(Want(digest, length) for digest, length in manifest.lengths().items())
    name, body = Name.parse(NAME), bench.root / "bundle"
    request = BundleRequest(wants[:1024], name=name, manifest=digest_of(encode(manifest)))
    body.write_bytes(encode_request(request))
    size = sum(want.length for want in wants[:1024])
    whole = max(files_of(model), key=lambda file: (model / file).stat().st_size)
    quiet = [command("curl"), "-sS", "--fail", "--noproxy", "*", "-o", "/dev/null"]
    post = ["-H", "Expect:", "-H", "Content-Type: application/msgpack", "--data-binary"]
    bundle = Command([*quiet, *post, f"@{body}", f"{edge.url}/v1/bundles"])
    file = Command([*quiet, f"{served.url}/{whole}"])
    length = (model / whole).stat().st_size
    for count in _READERS:
        stage.sides.append(
            Side(
                f"{count} bundles",
                steps=lambda count=count: [[bundle] * count],
                servers=[edge.process.pid],
                facts=lambda cost, ended: _goodput(cost, ended, size),
                reads=[edge.store],
                ours=True,
                note="curl reads bundles of blocks, to /dev/null",
            )
        )
        bench.admit(
            stage,
            "curl",
            ["curl"],
            lambda count=count: Side(
                f"{count} files",
                steps=lambda: [[file] * count],
                servers=[served.pid],
                facts=lambda cost, ended: _goodput(cost, ended, length),
                reads=[model],
                note="curl reads a file, to /dev/null",
            ),
        )


def _requests(bench: Bench, stage: Stage, edge: Edge, served: Nginx, small: Path) -> None:
    """Single small blocks, asked for over and over by wrk."""
    manifest = scan(small, Kind.BASE).manifest
    digests = list(manifest.lengths())[:_SMALL_BLOCKS]
    file = (small / "model.safetensors").read_bytes()
    for number in range(len(digests)):
        start = number * MEAN_SMALL
        (small / str(number)).write_bytes(file[start : start + MEAN_SMALL])

    def wrk(name: str, url: str, paths: Sequence[str], pid: int, *, ours: bool) -> Side:
        script = bench.root / f"{name.replace(' ', '-')}.lua"
        script.write_text(_LUA.format(paths=", ".join(json.dumps(path) for path in paths)))
        words = [command("wrk"), "-t1", "-c16", f"-d{_WRK_SECONDS}s", "-s", script, url]
        return Side(
            name,
            steps=lambda: [[Command(words)]],
            servers=[pid],
            facts=lambda _, ended: _rate(ended[0].out),
            reads=[small],
            ours=ours,
            note=f"wrk, 16 connections, {MEAN_SMALL // 1024} KiB in the mean",
        )

    blocks = [f"/v1/blocks/{digest}" for digest in digests]
    bench.admit(
        stage,
        "wrk",
        ["wrk"],
        lambda: wrk("blocks by wrk", edge.url, blocks, edge.process.pid, ours=True),
    )
    files = [f"/{number}" for number in range(len(digests))]
    bench.admit(
        stage,
        "wrk",
        ["wrk"],
        lambda: wrk("files by wrk", served.url, files, served.pid, ours=False),
    )


def _rate(said: str) -> dict[str, float]:
    found = _RATE.search(said)
    if found is None or "Non-2xx" in said:
        raise RuntimeError(f"wrk was refused: {said[-500:]}")
    return {"requests_s": float(found[1])}


@contextmanager
def _open(bench: Bench) -> Iterator[Stage]:
    model = llama(bench.root / "model", bench.size)
    small = small_tensors(bench.root / "small", _SMALL_BLOCKS)
    size = size_of(model)
    stage = Stage([], _PULLS * size, {"bytes": size})
    with ExitStack() as stack:
        origin = stack.enter_context(published(bench.root, (model, NAME), (small, _SMALL)))
        edge = stack.enter_context(warm_edge(bench.root, origin, [NAME, _SMALL]))
        big = stack.enter_context(nginx(model, bench.root / "nginx"))
        _pulls(bench, stage, edge, big, model, size)
        _readers(bench, stage, edge, big, model)
        _requests(
            bench, stage, edge, stack.enter_context(nginx(small, bench.root / "nginx2")), small
        )
        yield stage


def _aims(_: Mapping[str, float]) -> Sequence[Aim]:
    return (
        Aim(
            "8 pulls at once: goodput / that of nginx to 8 curls",
            "goodput_mb_s",
            f"{_PULLS} x icn-fetch",
            f"{_PULLS} x curl",
            1.0,
            1.3,
            at_least=True,
        ),
    )


SCENARIOS: Final = (
    Scenario(
        "serve",
        "One edge, many readers",
        "Eight commands at once pull a model of 400 MB to disk; then 1 to 64 curls at once read it"
        " to /dev/null, as a bundle of blocks from the edge or as its larger file from nginx, so"
        " that only the servers differ; then wrk asks for small blocks one by one. Everything is"
        " in the page cache, nothing is flushed. Goodput counts payload over all readers.",
        400,
        5,
        _open,
        _aims,
        (
            *MEASURES.items(),
            ("goodput_mb_s", "goodput MB/s"),
            ("slowest_by_fastest", "slowest / fastest"),
            ("requests_s", "requests/s"),
        ),
        (
            ("goodput_mb_s", "goodput, MB/s over all readers"),
            ("requests_s", "requests a second for small blocks"),
        ),
        ("curl", "floor", "wrk"),
        ("nginx",),
    ),
)
