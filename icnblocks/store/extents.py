"""Reading and writing stretches of files to their end, however little the system does at a time.

This module must not know what lies there.
"""

from __future__ import annotations

import fcntl
import os
import struct
import sys
from contextlib import suppress
from typing import Final

_RESERVE: Final = 0x4030582A
"""FS_IOC_RESVSP64 of linux/falloc.h, which is fallocate(2) that leaves the size of the file.

`posix_fallocate` is another: where the file system cannot, it writes into each page instead.
"""
_SPACE: Final = struct.Struct("=hhxxxxqqiI16x")
"""Its `struct space_resv`: 0, whence, four bytes of padding, start, length, and unused fields."""


def write_all(fd: int, data: bytes | memoryview, offset: int) -> None:
    """pwrite until everything is written.

    Raises:
        OSError: as the disk says.
    """
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


def read_all(fd: int, length: int, offset: int) -> bytes:
    """pread until `length` bytes or the end of the file."""
    data = os.pread(fd, length, offset)
    while len(data) < length:
        more = os.pread(fd, length - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data


def reserve(fd: int, size: int) -> None:
    """Have the file system take room for the first `size` bytes of a file now, if it can.

    It does so for all of them together then and not for each write, and what was written is kept.
    Where it cannot, or there is no room, nothing is said: the writes will say it.
    """
    if sys.platform == "linux":
        with suppress(OSError):
            fcntl.ioctl(fd, _RESERVE, _SPACE.pack(0, os.SEEK_SET, 0, size, 0, 0))
