"""The least that a verified pull takes here: all that icn-fetch loads, and then bare sockets.

    python -P benchmarks/suite/floor.py JOB

Two threads fetch one half of the bytes each from a server of files, in pieces of 1 MiB into one
buffer, hash each piece and write it where it belongs. What another model here has is read and
hashed too, and taken over by copy_file_range. Nothing has a name, is compared, asked for again,
resumed, noted or given a time: this must not get any of it, since what lies between it and
icn-fetch is what that costs, and what an edge costs beside a server of files.
"""

from __future__ import annotations

import gc
import json
import os
import socket
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, NoReturn

from blake3 import blake3

_PIECE: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Stretch:
    """Bytes of a file: what is fetched, or what the base has at the same place."""

    path: str
    start: int
    end: int
    shared: bool = False


def stretches(model: Path, base: Path) -> list[Stretch]:
    """All of a model, in order, in stretches of what a base has at the same place and has not."""
    from icnblocks.manifest.model import Kind
    from icnblocks.publish.scan import scan

    manifest, other = (scan(root, Kind.BASE).manifest for root in (model, base))
    paths = [file.path for file in other.files]
    known = {(raw, paths[file], at) for raw, _, file, at in other.occurrences()}
    found: list[Stretch] = []
    for raw, length, number, start in manifest.occurrences():
        path = manifest.files[number].path
        shared = (raw, path, start) in known
        last = found[-1] if found else None
        if last and (last.path, last.end, last.shared) == (path, start, shared):
            found[-1] = Stretch(path, last.start, start + length, shared)
        else:
            found.append(Stretch(path, start, start + length, shared))
    return found


def everything(model: Path, at: str = "") -> list[Stretch]:
    """All files of a model that are not empty, whole, as a server has them below `at`."""
    sizes = {path: path.stat().st_size for path in sorted(model.rglob("*")) if path.is_file()}
    names = {path: f"{at}{path.relative_to(model)}" for path in sizes}
    return [Stretch(names[path], 0, size) for path, size in sizes.items() if size]


def write_job(job: Path, url: str, target: Path, parts: list[Stretch], base: Path | None) -> None:
    """Write down what a run shall do."""
    told = {"url": url, "target": str(target), "base": str(base or "")}
    job.write_text(json.dumps({**told, "parts": [asdict(part) for part in parts]}))


def halves(parts: list[Stretch]) -> tuple[list[Stretch], list[Stretch]]:
    """Of as many bytes each, so that two threads rarely write into one file."""
    first: list[Stretch] = []
    left = sum(part.end - part.start for part in parts) // 2
    rest = list(parts)
    while rest and left:
        part = rest.pop(0)
        cut = min(part.end, part.start + left)
        first.append(Stretch(part.path, part.start, cut, part.shared))
        left -= cut - part.start
        if cut < part.end:
            rest.insert(0, Stretch(part.path, cut, part.end, part.shared))
    return first, rest


class _Lane(threading.Thread):
    def __init__(self, url: str, base: Path, parts: list[Stretch], files: dict[str, int]) -> None:
        super().__init__()
        host, _, port = url.removeprefix("http://").partition(":")
        self._address = host, int(port)
        self._base, self._parts, self._files = base, parts, files
        self._buffer = memoryview(bytearray(_PIECE))
        self._socket: socket.socket | None = None
        self.done = False

    def run(self) -> None:
        for part in self._parts:
            (self._take_over if part.shared else self._fetch)(part, self._files[part.path])
        self.done = True

    def _take_over(self, part: Stretch, fd: int) -> None:
        source = os.open(self._base / part.path, os.O_RDONLY)
        for at in range(part.start, part.end, _PIECE):
            piece = self._buffer[: min(_PIECE, part.end - at)]
            os.preadv(source, [piece], at)
            blake3(piece).digest()
        at = part.start
        while at < part.end:
            at += os.copy_file_range(source, fd, part.end - at, at, at)
        os.close(source)

    def _fetch(self, part: Stretch, fd: int) -> None:
        if self._socket is None:
            self._socket = socket.create_connection(self._address)
        sock = self._socket
        ask = f"GET /{part.path} HTTP/1.1\r\nHost: a\r\nRange: bytes={part.start}-{part.end - 1}"
        sock.sendall(f"{ask}\r\n\r\n".encode())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += sock.recv(1)
        if b" 206 " not in head:
            raise RuntimeError(f"no range: {head!r}")
        for at in range(part.start, part.end, _PIECE):
            piece = self._buffer[: min(_PIECE, part.end - at)]
            if sock.recv_into(piece, 0, socket.MSG_WAITALL) < len(piece):
                raise RuntimeError(f"{part.path} ended at {at}")
            blake3(piece).digest()
            os.pwrite(fd, piece, at)


def do(job_file: Path) -> NoReturn:
    """Do a job, and end the process."""
    from icnblocks.assembly.assembler import on_a_disk
    from icnblocks.store.extents import reserve

    job = json.loads(job_file.read_text())
    target = Path(job["target"])
    parts = [Stretch(**part) for part in job["parts"]]
    files: dict[str, int] = {}
    for part in reversed(parts):  # its last part says how long a file will be
        if part.path not in files:
            path = target / part.path
            path.parent.mkdir(parents=True, exist_ok=True)
            files[part.path] = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            os.ftruncate(files[part.path], part.end)
            if on_a_disk(os.fstat(files[part.path])):
                reserve(files[part.path], part.end)
    lanes = [_Lane(job["url"], Path(job["base"]), half, files) for half in halves(parts)]
    for lane in lanes:
        lane.start()
    for lane in lanes:
        lane.join()
    os._exit(0 if all(lane.done for lane in lanes) else 1)


def main() -> None:
    """Load what icn-fetch loads, and do a job."""
    gc.disable()  # icn-fetch looks for garbage only where there is far more of it
    sys.path.append(str(Path(__file__).parents[2]))
    import benchmarks.suite.loaded  # noqa: F401

    do(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
