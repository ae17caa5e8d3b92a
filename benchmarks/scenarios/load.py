"""From files, and from the network, to tensors that have been touched."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final

from benchmarks.scenarios.world import (
    NAME,
    Downloader,
    Puller,
    llama,
    published,
    size_of,
    warm_edge,
)
from benchmarks.suite.figures import MEASURES, Aim
from benchmarks.suite.nginx import nginx
from benchmarks.suite.peers import lacking
from benchmarks.suite.processes import Command, run
from benchmarks.suite.runner import Side, Stage
from benchmarks.suite.scenario import Scenario
from icnblocks.testing.device import Device

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from benchmarks.suite.figures import Cost
    from benchmarks.suite.processes import Ended
    from benchmarks.suite.scenario import Bench

_OTHERS: Final = ("safetensors", "fastsafetensors", "runai-model-streamer", "tensorizer")


def _loading(way: str, model: Path) -> Command:
    return Command([sys.executable, "-m", "benchmarks.scenarios.loading", way, model])


def _said(_: Cost, ended: list[Ended]) -> dict[str, float]:
    return {"load_s": float(json.loads(ended[-1].out)["load_s"])}


@contextmanager
def _open(bench: Bench) -> Iterator[Stage]:
    model = llama(bench.root / "model", bench.size)
    size = size_of(model)
    stage = Stage([], size, {"bytes": size})
    with ExitStack() as stack:
        origin = stack.enter_context(published(bench.root, (model, NAME)))
        edge = stack.enter_context(warm_edge(bench.root, origin, [NAME]))
        puller = Puller(Device(bench.root / "device"), edge)
        run(puller.command())
        pulled = puller.target
        stage.sides.append(
            Side(
                "icnblocks",
                steps=lambda: [[_loading("icnblocks", pulled)]],
                facts=_said,
                reads=[pulled],
                ours=True,
                note="icnblocks.load of the pulled directory, as torch tensors",
            )
        )
        for way in _OTHERS:
            bench.admit(
                stage,
                way,
                ["torch", way],
                lambda way=way: Side(
                    way,
                    steps=lambda: [[_loading(way, model)]],
                    facts=_said,
                    reads=[model],
                    note="the same tensors, on the CPU",
                ),
            )
        bench.admit(
            stage,
            "safetensors",
            ["torch", "safetensors"],
            lambda: Side(
                "safetensors, as pulled",
                steps=lambda: [[_loading("safetensors", pulled)]],
                facts=_said,
                reads=[pulled],
                note="load_file of the pulled directory: the same pages as for icnblocks.load",
            ),
        )
        if lacking(["tensorizer"]) is None and bench.wants("tensorizer"):
            run(_loading("tensorize", model))
        _from_network(bench, stage, stack, puller, model, pulled)
        yield stage


def _from_network(
    bench: Bench, stage: Stage, stack: ExitStack, last: Puller, model: Path, pulled: Path
) -> None:
    """Download, then load: the command and the process of both, start-up included."""
    puller = Puller(Device(bench.root / "device2"), last.edge)
    stage.sides.append(
        Side(
            "network, icnblocks",
            steps=lambda: ([puller.command()], [_loading("icnblocks", puller.target)]),
            before=puller.forget,
            servers=[puller.edge.process.pid],
            facts=_said,
            reads=[puller.edge.store],
            ours=True,
            note="icn-fetch, then icnblocks.load; every block verified",
        )
    )
    if lacking(["nginx", "curl"]) is None:
        served = stack.enter_context(nginx(pulled, bench.root / "nginx"))
        down = Downloader(served.url, served.pid, pulled, bench.root / "downloads")
    bench.admit(
        stage,
        "curl",
        ["nginx", "curl", "safetensors", "torch"],
        lambda: Side(
            "network, curl + safetensors",
            steps=lambda: ([down.curl()], [_loading("safetensors", down.target)]),
            before=down.clear,
            servers=[served.pid],
            facts=_said,
            reads=[model],
            note="curl, then load_file; not verified",
        ),
    )


def _aims(_: Mapping[str, float]) -> Sequence[Aim]:
    rows = (
        ("the same files", "icnblocks", "safetensors, as pulled"),
        ("after curl, each its own", "network, icnblocks", "network, curl + safetensors"),
        ("files that were written in one go", "icnblocks", "safetensors"),
    )
    return tuple(
        Aim(f"load / safetensors.torch.load_file, {what}", "load_s", ours, theirs, 1.1, 1.0)
        for what, ours, theirs in rows
    )


SCENARIOS: Final = (
    Scenario(
        "load",
        "From files, and from the network, to tensors",
        "The Llama-shaped model of 1 GB, its files in the page cache. `load` is measured inside a"
        " fresh process, after its imports, until every tensor has been summed (8 bytes at a time),"
        " since a mapping that nobody reads costs nothing. The wall time is that of the whole"
        " process, and for `network` of the download before it too: nothing is flushed.",
        1000,
        5,
        _open,
        _aims,
        (("load_s", "load s"), *MEASURES.items()),
        (("load_s", "seconds from files to tensors, every one summed"),),
        (*_OTHERS, "curl"),
        ("torch",),
    ),
)
