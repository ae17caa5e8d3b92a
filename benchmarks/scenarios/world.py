"""What most scenarios need: a published model, a warm edge, a device, and who downloads."""

from __future__ import annotations

import shutil
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.suite import floor
from benchmarks.suite.peers import command
from benchmarks.suite.processes import Command
from benchmarks.suite.runner import Side, must_equal
from icnblocks.testing.device import Device
from icnblocks.testing.models import write_llama, write_llama_2gb
from icnblocks.testing.processes import start_edge

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from icnblocks.testing.processes import Edge

NAME: Final = "acme/model"
FLOOR: Final = "all that icn-fetch loads, then bare sockets to nginx; hashed, not flushed"
LAST_MB: Final = 2024
"""What `write_llama_2gb` makes."""


def program(name: str) -> str:
    """A console script of this environment."""
    return str(Path(sys.executable).with_name(name))


def llama(directory: Path, size: int) -> Path:
    """Make a Llama-shaped model of about `size` bytes in two shards (2.02 GB at most)."""
    mb = size / 1e6
    if mb >= LAST_MB - 50:
        return write_llama_2gb(directory)
    if mb >= 450:
        return write_llama(
            directory,
            layers=max(1, round((mb - 262) / 88.1)),
            hidden=2048,
            intermediate=5632,
            vocabulary=32_000,
            kv=256,
        )
    return write_llama(
        directory,
        layers=max(2, round((mb - 16.4) / 5.5)),
        hidden=512,
        intermediate=1408,
        vocabulary=8000,
        kv=64,
    )


def size_of(root: Path) -> int:
    """Bytes of all files below a directory."""
    return sum(path.stat().st_size for path in root.rglob("*") if path.is_file())


def files_of(root: Path) -> list[str]:
    """Names of all files below a directory, relative, sorted."""
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


@contextmanager
def published(root: Path, *models: tuple[Path, str], base: str = "") -> Iterator[Edge]:
    """An origin at which these models are published where they lie.

    Args:
        root: an empty directory.
        *models: directories and names.
        base: the name that adapters among them belong to.
    """
    publisher = Device(root / "publisher")
    for directory, name in models:
        words = ["--base", base] if (directory / "adapter_config.json").exists() else []
        publisher.run("publish", directory, name, "--store", root / "origin", *words).done()
    with start_edge(root / "origin") as origin:
        yield origin


@contextmanager
def warm_edge(root: Path, origin: Edge, names: Sequence[str], *args: str) -> Iterator[Edge]:
    """An edge that has these models already.

    Args:
        root: a directory.
        origin: its upstream.
        names: what a device pulls through it first.
        *args: further options.
    """
    scheme = "https" if "--tls-cert" in args else "http"
    with start_edge(root / "edge", "--upstream", origin.url, *args, scheme=scheme) as edge:
        more = {"ICN_CA_FILE": args[args.index("--tls-cert") + 1]} if scheme == "https" else {}
        device = Device(root / "warmer", **more)
        for name in names:
            device.fetch(name, edge.url)
        shutil.rmtree(device.root)
        yield edge


@dataclass(frozen=True, slots=True)
class Puller:
    """A device that pulls one model from an edge, again and again from nothing.

    Attributes:
        device: where.
        edge: from whom.
        name: what.
        model: the directory that was published, to compare with.
    """

    device: Device
    edge: Edge
    name: str = NAME
    model: Path | None = None

    @property
    def target(self) -> Path:
        """The directory that it makes."""
        return self.device.root / "models" / self.name

    def check(self) -> None:
        """Is it what was published?"""
        if self.model is not None:
            must_equal(self.model, self.target)

    def forget(self) -> None:
        """Remove what the last pull left."""
        shutil.rmtree(self.device.root / "models", ignore_errors=True)
        shutil.rmtree(self.device.root / "store", ignore_errors=True)

    def command(self, *more: str) -> Command:
        """The command of a pull."""
        words = [program("icn-fetch"), self.name, "--from", self.edge.url, "--trust-first-use"]
        return Command([*words, *more], self.device.environ)

    def side(self, name: str, *more: str, note: str = "verified") -> Side:
        """The pull as a side."""
        return Side(
            name,
            steps=lambda: [[self.command(*more)]],
            before=self.forget,
            servers=[self.edge.process.pid],
            reads=[self.edge.store],
            check=self.check,
            ours=True,
            note=note,
        )


def cp_side(model: Path, target: Path) -> Side:
    """A plain copy on the same disk: no network, no check; what writing alone costs."""
    return Side(
        "cp",
        steps=lambda: [[Command(["cp", "-r", "--reflink=never", model, target])]],
        before=lambda: shutil.rmtree(target, ignore_errors=True),
        reads=[model],
        check=lambda: must_equal(model, target),
        note="a copy on the same disk, for what writing alone costs; not flushed",
    )


@dataclass(frozen=True, slots=True)
class Downloader:
    """Those that download the files of a directory from nginx, to a directory of their own."""

    url: str
    pid: int
    model: Path
    target: Path
    ca_file: Path | None = None

    def clear(self) -> None:
        """Remove what the last download left."""
        shutil.rmtree(self.target, ignore_errors=True)
        self.target.mkdir()

    @property
    def urls(self) -> list[str]:
        """Of all files."""
        return [f"{self.url}/{name}" for name in files_of(self.model)]

    def curl(self) -> Command:
        """Curl, one file after the other on one connection, to disk."""
        words = [command("curl"), "-sS", "--fail", "--noproxy", "*", "--create-dirs"]
        if self.ca_file is not None:
            words += ["--cacert", str(self.ca_file)]
        for name, url in zip(files_of(self.model), self.urls, strict=True):
            words += ["-o", str(self.target / name), url]
        return Command(words)

    def floor(self, base: Path | None = None) -> Command:
        """The least that a verified pull takes, of what `base` has not."""
        job = self.target.with_name(f"{self.target.name}.json")
        if not job.exists():
            whole = base is None
            parts = floor.everything(self.model) if whole else floor.stretches(self.model, base)
            floor.write_job(job, self.url, self.target, parts, base)
        return Command([sys.executable, "-P", floor.__file__, job])

    def b3sum(self, *more: str) -> Command:
        """b3sum over what was downloaded."""
        paths = [self.target / name for name in files_of(self.target)]
        return Command([command("b3sum"), *more, *paths])

    def aria2(self) -> Command:
        """aria2c with eight connections for each file."""
        listed = self.target.with_name("urls.txt")
        pairs = zip(files_of(self.model), self.urls, strict=True)
        listed.write_text("".join(f"{url}\n  out={name}\n" for name, url in pairs))
        words = [command("aria2c"), "--quiet", "--no-conf", "--all-proxy=", "-x8", "-s8", "-k1M"]
        words += ["--file-allocation=falloc", "-d", str(self.target), "-i", str(listed)]
        return Command(words)

    def side(self, name: str, *steps: str, note: str) -> Side:
        """One of the above, or several one after the other, as a side."""
        makers = {"floor": self.floor, "curl": self.curl, "b3sum": self.b3sum, "aria2": self.aria2}
        return Side(
            name,
            # A step may name what the one before it wrote, so each is made when it is due.
            steps=lambda: ([makers[step]()] for step in steps),
            before=self.clear,
            servers=[self.pid],
            reads=[self.model],
            check=lambda: must_equal(self.model, self.target),
            note=note,
        )
