"""Publishing 2 GB: in place, and to an origin, beside hashing and copying alone."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from benchmarks.scenarios.world import NAME, cp_side, files_of, llama, program, size_of
from benchmarks.suite.figures import MEASURES, Aim
from benchmarks.suite.peers import command
from benchmarks.suite.processes import Command
from benchmarks.suite.runner import Side, Stage
from benchmarks.suite.scenario import Scenario
from icnblocks.testing.device import Device
from icnblocks.testing.processes import launch_edge

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from benchmarks.suite.scenario import Bench
    from icnblocks.testing.processes import Edge

_THREADS: Final = min(os.cpu_count() or 1, 8)


class _Origin:
    """An origin that is empty again before each run."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._edge: Edge | None = None
        self.pids: list[int] = []

    def renew(self) -> None:
        self.stop()
        shutil.rmtree(self._root, ignore_errors=True)
        self._edge = launch_edge(self._root)
        self.pids.append(self._edge.process.pid)

    @property
    def url(self) -> str:
        assert self._edge is not None
        return self._edge.url

    def stop(self) -> None:
        self.pids.clear()
        if self._edge is not None:
            self._edge.stop()
            self._edge = None


@contextmanager
def _open(bench: Bench) -> Iterator[Stage]:
    model = llama(bench.root / "model", bench.size)
    size = size_of(model)
    paths = [model / name for name in files_of(model)]
    device = Device(bench.root / "publisher")
    store, copy = bench.root / "store", bench.root / "copy"
    origin = _Origin(bench.root / "origin")

    def publish(*words: str | Path) -> Command:
        return Command([program("icn-publish"), model, NAME, *words], device.environ)

    stage = Stage(
        [
            Side(
                "in place",
                steps=lambda: [[publish("--store", store)]],
                before=lambda: shutil.rmtree(store, ignore_errors=True),
                reads=[model],
                ours=True,
                note=f"hashed by {_THREADS} threads and indexed; files and index are flushed",
            ),
            Side(
                "to an origin",
                steps=lambda: [[publish("--to", origin.url)]],
                before=origin.renew,
                servers=origin.pids,
                reads=[model],
                ours=True,
                note="hashed, sent, verified, stored; flushed",
            ),
        ],
        size,
        {"bytes": size},
    )
    threads = ["--num-threads", str(_THREADS)]
    bench.admit(
        stage,
        "b3sum",
        ["b3sum"],
        lambda: Side(
            "b3sum",
            steps=lambda: [[Command([command("b3sum"), *threads, *paths])]],
            reads=[model],
            note=f"hashed by {_THREADS} threads",
        ),
    )
    bench.admit(stage, "cp", (), lambda: cp_side(model, copy))
    bench.admit(
        stage,
        "cp+sync",
        (),
        lambda: Side(
            "cp+sync",
            steps=lambda: (
                [Command(["cp", "-r", "--reflink=never", model, copy])],
                [Command(["sync", *(copy / name for name in files_of(model))])],
            ),
            before=lambda: shutil.rmtree(copy, ignore_errors=True),
            reads=[model],
            note="copied, flushed",
        ),
    )
    try:
        yield stage
    finally:
        origin.stop()


def _aims(_: Mapping[str, float]) -> Sequence[Aim]:
    return (
        Aim(
            "publish in place / b3sum with as many threads",
            "wall_s",
            "in place",
            "b3sum",
            1.25,
            1.05,
        ),
    )


SCENARIOS: Final = (
    Scenario(
        "publish",
        "Publishing a large model",
        "The Llama-shaped model of 2.02 GB, in the page cache, published in place (hashed, signed,"
        " indexed; nothing is copied) and to an empty origin on the same disk, beside b3sum with"
        " as many threads, which only hashes, and `cp`, which only copies, also with `sync` of"
        " the copied files. What is published is flushed before that is acknowledged; the model"
        " itself is on the disk before.",
        2024,
        5,
        _open,
        _aims,
        tuple(MEASURES.items()),
        (("wall_s", "wall seconds for 2.02 GB"),),
        ("b3sum", "cp", "cp+sync"),
    ),
)
