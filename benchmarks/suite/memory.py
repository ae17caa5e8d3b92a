"""Memory before a run: the same for everybody, and such as a machine has that has been up a while.

A virtual machine gives free memory back to its host, and a page of it that is taken again costs
several times as much as one that is recycled, which hides what is compared. Linux only.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Final, Self

_PIECE: Final = 1 << 20
_MOST_BYTES: Final = 64 << 30
"""A machine with more memory than that is not filled."""
_SPARE_BYTES: Final = 256 << 20


def touch_memory(size: int) -> None:
    """Take and give back memory, so that the run finds as much that the host has really given.

    As much as there is room for in /dev/shm, if that is less. Where the host takes freed memory
    back at once this is of no use: see `Ballast`.
    """
    room = os.statvfs("/dev/shm")
    size = min(size, room.f_bavail * room.f_frsize)
    with tempfile.NamedTemporaryFile(dir="/dev/shm", buffering=0) as file:
        piece = os.urandom(_PIECE)
        for _ in range(size >> 20):
            file.write(piece)


class Ballast:
    """Fills free memory with the pages of a file of zeros, which the kernel drops when it needs
    room: what a run takes is recycled then, and no host is asked for it.

    Args:
        folder: on a disk, not in memory; TMPDIR when None. The file in it has no blocks, and is
            gone at the end of the context.
    """

    def __init__(self, folder: Path | None) -> None:
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
        self._file.truncate(_MOST_BYTES)
        self._at = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()

    def fill(self, size: int) -> None:
        """Fill what is free, and drop and fill `size` bytes besides.

        Until there is no less free for it: the kernel keeps a part, and may be dropping at the
        same time what was filled half a minute ago.
        """
        self._read(size + _SPARE_BYTES)
        free, before = _free(), _MOST_BYTES
        while _SPARE_BYTES < free < before - _SPARE_BYTES:
            self._read(free)
            free, before = _free(), free

    def _read(self, size: int) -> None:
        """Onwards from where it was: those pages have been dropped long ago, or never were."""
        buffer = bytearray(_PIECE)
        for _ in range(size >> 20):
            os.preadv(self._file.fileno(), [buffer], self._at)
            self._at = (self._at + _PIECE) % _MOST_BYTES


def _free() -> int:
    """Bytes of memory that hold nothing."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name == "MemFree":
            return int(rest.split()[0]) * 1024
    raise RuntimeError("/proc/meminfo does not tell MemFree")
