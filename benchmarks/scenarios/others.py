"""Those that download in a way of their own: huggingface_hub, BitTorrent and iroh, as sides."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from benchmarks.suite.hub import REPO, hub
from benchmarks.suite.processes import Command
from benchmarks.suite.runner import Side, must_equal
from icnblocks.testing.device import Device

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_HUB_CLIENT: Final = (
    "import sys; from huggingface_hub import snapshot_download; snapshot_download(sys.argv[1])"
)
_SLOW_ROUNDS: Final = 2


@contextmanager
def hub_side(model: Path, root: Path) -> Iterator[Side]:
    """huggingface_hub's snapshot_download from a small Hub of nginx, as a side."""
    root.mkdir()
    with hub(model, root / "hub") as served:
        home = root / "home"
        environ = Device(root / "device").environ | {
            "HF_ENDPOINT": served.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }
        yield Side(
            "huggingface_hub",
            steps=lambda: [[Command([sys.executable, "-c", _HUB_CLIENT, REPO], environ)]],
            before=lambda: shutil.rmtree(home, ignore_errors=True),
            servers=[served.pid],
            reads=[model],
            check=lambda: must_equal(model, next((home / "hub").glob("models--*/snapshots/*"))),
            note="not verified, not flushed",
        )


@contextmanager
def _provider(module: str, *words: str | Path) -> Iterator[tuple[int, str]]:
    """A process that serves until it is killed: its id, and the line that it says first."""
    process = subprocess.Popen(
        [sys.executable, "-m", f"benchmarks.scenarios.{module}", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"{module} does not serve")
        yield process.pid, line
    finally:
        process.kill()
        process.stdout.close()
        process.wait()


@contextmanager
def torrent_side(model: Path, root: Path) -> Iterator[Side]:
    """libtorrent, from one seed on this machine."""
    root.mkdir()
    torrent, target = root / "model.torrent", root / "leech"
    with _provider("torrent", "seed", model, torrent) as (pid, port):
        words = [sys.executable, "-m", "benchmarks.scenarios.torrent", "leech"]
        yield Side(
            "libtorrent",
            steps=lambda: [[Command([*words, torrent, target, port.strip()])]],
            before=lambda: shutil.rmtree(target, ignore_errors=True),
            servers=[pid],
            reads=[model],
            check=lambda: must_equal(model, target / model.name),
            note="every piece verified, not flushed; over TCP",
            rounds=_SLOW_ROUNDS,
        )


@contextmanager
def iroh_side(model: Path, root: Path) -> Iterator[Side]:
    """iroh's blobs, from one provider on this machine."""
    root.mkdir()
    store, target = root / "store", root / "taken"

    def clear() -> None:
        for path in (store, target):
            shutil.rmtree(path, ignore_errors=True)

    with _provider("irohblobs", "give", model, root / "provider") as (pid, said):
        tickets = [f"{name}={ticket}" for name, ticket in json.loads(said).items()]
        words = [sys.executable, "-m", "benchmarks.scenarios.irohblobs", "take"]
        yield Side(
            "iroh",
            steps=lambda: [[Command([*words, store, target, *tickets])]],
            before=clear,
            servers=[pid],
            reads=[model],
            check=lambda: must_equal(model, target),
            note="every 16 KiB verified, not flushed",
            rounds=_SLOW_ROUNDS,
        )
