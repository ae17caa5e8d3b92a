"""Variants of a model that is there already: what moves, and how long that takes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from benchmarks.scenarios.world import (
    FLOOR,
    Downloader,
    Puller,
    llama,
    published,
    size_of,
    warm_edge,
)
from benchmarks.suite.figures import MEASURES, Aim
from benchmarks.suite.nginx import nginx
from benchmarks.suite.peers import command, lacking
from benchmarks.suite.processes import Command, run
from benchmarks.suite.runner import Side, Stage, must_equal
from benchmarks.suite.scenario import Scenario
from icnblocks.manifest.model import Kind
from icnblocks.publish.scan import scan
from icnblocks.testing.device import Device
from icnblocks.testing.models import extended_vocabulary, half_frozen, lora

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from benchmarks.suite.figures import Cost
    from benchmarks.suite.processes import Ended
    from benchmarks.suite.scenario import Bench
    from icnblocks.testing.processes import Edge

_BASE: Final = "acme/base"
_NETWORK: Final = re.compile(r'"bytes_network": ?(\d+)')
_LITERAL: Final = re.compile(r"Literal data: ([\d,]+) bytes")
_SLOW_ROUNDS: Final = 2


@dataclass(frozen=True, slots=True)
class _Site:
    """A device on one file system, with the base pulled once, and its index kept aside."""

    device: Device
    edge: Edge
    suffix: str = ""

    def prepare(self) -> None:
        run(Puller(self.device, self.edge, _BASE).command())
        shutil.copytree(self.device.root / "store", self.device.root / "kept")

    def back(self) -> None:
        """Everything but the base is gone, from the disk and from the index."""
        models = self.device.root / "models" / "acme"
        for other in models.iterdir():
            if other.name != _BASE.partition("/")[2]:
                shutil.rmtree(other)
        shutil.rmtree(self.device.root / "store")
        shutil.copytree(self.device.root / "kept", self.device.root / "store")

    def side(self, variant: Path) -> Side:
        puller = Puller(self.device, self.edge, f"acme/{variant.name}")
        return Side(
            f"{variant.name}{self.suffix}",
            steps=lambda: [[puller.command("--json")]],
            before=self.back,
            servers=[self.edge.process.pid],
            facts=_moved,
            reads=[self.edge.store, self.device.root / "models"],
            check=lambda: must_equal(variant, puller.target),
            ours=True,
            note="icn-fetch, its base on the device; every block verified",
        )

    def base_side(self, root: Path) -> Side:
        """The whole base, on a device of the same file system that has nothing."""
        fresh = Puller(Device(root), self.edge, _BASE)
        return Side(
            f"base{self.suffix}",
            steps=lambda: [[fresh.command("--json")]],
            before=fresh.forget,
            servers=[self.edge.process.pid],
            facts=_moved,
            reads=[self.edge.store],
            ours=True,
            note="icn-fetch of the whole base, for its rate",
        )


def _moved(_: Cost, ended: list[Ended]) -> dict[str, float]:
    return {"moved_mb": int(_NETWORK.findall(ended[0].out)[-1]) / 1e6}


@contextmanager
def _xfs(root: Path, size: int) -> Iterator[Path | None]:
    """A file system with reflinks, in a file; None where none can be mounted."""
    if os.geteuid() != 0 or lacking(["mkfs.xfs"]) is not None:
        yield None
        return
    image, point = root / "xfs.img", root / "xfs"
    with image.open("wb") as file:
        file.truncate(size)
    subprocess.run([command("mkfs.xfs"), "-q", "-m", "reflink=1", image], check=True)
    point.mkdir()
    done = subprocess.run(["mount", "-o", "loop", image, point], check=False, capture_output=True)
    if done.returncode:
        yield None
        return
    try:
        yield point
    finally:
        subprocess.run(["umount", point], check=True)


def _changed(base: Path, variant: Path) -> int:
    """Bytes of the distinct blocks that the base has not."""
    known = scan(base, Kind.BASE).manifest.lengths()
    lengths = scan(variant, Kind.BASE).manifest.lengths()
    return sum(length for digest, length in lengths.items() if digest not in known)


def _floor(down: Downloader, root: Path, suffix: str) -> Side:
    base, there = root / "device/models" / _BASE, replace(down, target=root / "floor")
    return replace(
        there.side(f"half, floor{suffix}", note=f"{FLOOR}; what is shared is hashed too"),
        steps=lambda: [[there.floor(base)]],
        reads=[down.model, base],
    )


def _rsync(base: Path, variant: Path, target: Path) -> Side:
    def literal(_: Cost, ended: list[Ended]) -> dict[str, float]:
        found = _LITERAL.search(ended[0].out)
        assert found is not None
        return {"moved_mb": int(found[1].replace(",", "")) / 1e6}

    def copy() -> None:
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(base, target)

    words = [command("rsync"), "-r", "--inplace", "--no-whole-file", "--stats"]
    # Base and variant may be of one size and one second, which rsync would take for the same file.
    words += ["--ignore-times"]
    return Side(
        f"{variant.name}, rsync --inplace",
        steps=lambda: [[Command([*words, f"{variant}/", f"{target}/"])]],
        before=copy,
        facts=literal,
        reads=[variant],
        check=lambda: must_equal(variant, target),
        note="over a copy of the base, from the same disk; checked by a weak sum",
        rounds=_SLOW_ROUNDS,
    )


def _casync(base: Path, variant: Path, root: Path) -> Side:
    root.mkdir()
    store, target = root / "store.castr", root / "out"
    make = [command("casync"), "make", "--without=all", "--store", store]
    run(Command([*make, root / "base.caidx", base]))
    before = size_of(store)
    run(Command([*make, root / "variant.caidx", variant]))
    fresh = size_of(store) - before
    words = [command("casync"), "extract", "--without=all", "--store", store, "--seed", base]
    return Side(
        f"{variant.name}, casync",
        steps=lambda: [[Command([*words, root / "variant.caidx", target])]],
        before=lambda: shutil.rmtree(target, ignore_errors=True),
        facts=lambda *_: {"moved_mb": fresh / 1e6},
        reads=[store, base],
        check=lambda: must_equal(variant, target),
        note="with the base as seed, from a store on the same disk; compressed",
        rounds=_SLOW_ROUNDS,
    )


@contextmanager
def _open(bench: Bench) -> Iterator[Stage]:
    base = llama(bench.root / "base", bench.size)
    variants = {
        "half": half_frozen(base, bench.root / "half"),
        "vocabulary": extended_vocabulary(base, bench.root / "vocabulary"),
        "lora": lora(bench.root / "lora", layers=20, hidden=2048, kv=256),
    }
    size = size_of(base)
    changed = _changed(base, variants["half"])
    stage = Stage([], size, {"bytes": size, "changed_half": changed})
    models = [(base, _BASE), *((path, f"acme/{name}") for name, path in variants.items())]
    names = [name for _, name in models]
    with ExitStack() as stack:
        origin = stack.enter_context(published(bench.root, *models, base=_BASE))
        edge = stack.enter_context(warm_edge(bench.root, origin, names))
        site = _Site(Device(bench.root / "device"), edge)
        site.prepare()
        stage.sides.append(site.base_side(bench.root / "fresh"))
        stage.sides += [site.side(path) for path in variants.values()]
        point = stack.enter_context(_xfs(bench.root, 8 * size + (1 << 30)))
        if point is None:
            stage.missing["XFS"] = "no file system with reflinks could be mounted here"
        else:
            there = _Site(Device(point / "device"), edge, " (reflinks)")
            there.prepare()
            stage.sides += [there.base_side(point / "fresh"), there.side(variants["half"])]
        _peers(bench, stage, stack, base, variants, point)
        yield stage


def _peers(
    bench: Bench,
    stage: Stage,
    stack: ExitStack,
    base: Path,
    variants: Mapping[str, Path],
    reflinks: Path | None,
) -> None:
    if lacking(["nginx"]) is None:
        served = stack.enter_context(nginx(variants["half"], bench.root / "nginx"))
        down = Downloader(served.url, served.pid, variants["half"], bench.root / "downloads")
    half = size_of(variants["half"]) / 1e6
    bench.admit(
        stage,
        "curl",
        ["nginx", "curl"],
        lambda: replace(
            down.side("half, curl", "curl", note="the whole variant, not verified"),
            facts=lambda *_: {"moved_mb": half},
        ),
    )
    for root, suffix in ((bench.root, ""), (reflinks, " (reflinks)")):
        if root is not None:
            bench.admit(
                stage,
                "floor",
                ["nginx"],
                lambda root=root, suffix=suffix: _floor(down, root, suffix),
            )
    for name in ("half", "vocabulary"):
        variant = variants[name]
        bench.admit(
            stage,
            "rsync",
            ["rsync"],
            lambda variant=variant: _rsync(base, variant, bench.root / "rsync"),
        )
    bench.admit(
        stage,
        "casync",
        ["casync"],
        lambda: _casync(base, variants["half"], bench.root / "casync"),
    )


def _aims(facts: Mapping[str, float]) -> Sequence[Aim]:
    part = facts["changed_half"] / facts["bytes"]
    return tuple(
        Aim(
            f"half-frozen variant / its changed bytes at the pull rate{where}",
            "wall_s",
            f"half{side}",
            f"base{side}",
            1.3,
            1.1,
            divide=part,
        )
        for side, where in ((" (reflinks)", ", XFS"), ("", ", ext4 (copies the rest)"))
    )


SCENARIOS: Final = (
    Scenario(
        "reuse",
        "A variant of a model that is there",
        "The base of 2.02 GB lies on the device; pulled are a variant whose upper half of layers"
        " is new, one with 64 rows more of vocabulary, and a LoRA adapter, from a warm edge, all"
        " in the page cache, nothing flushed. On ext4 what the variant shares with its base is"
        " copied on the disk; on XFS (in a file on the same disk) the blocks are shared."
        " Beside it: the whole variant by curl; rsync over a copy of the base, and casync with"
        " the base as seed, both from the local disk and, being slow, in two rounds only.",
        2024,
        5,
        _open,
        _aims,
        (("moved_mb", "MB moved"), *MEASURES.items()),
        (("moved_mb", "MB moved"), ("wall_s", "wall seconds")),
        ("curl", "floor", "rsync", "casync"),
    ),
)
