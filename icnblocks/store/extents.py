"""Reading and writing stretches of files to their end, however little the system does at a time.

This module must not know what lies there.
"""

from __future__ import annotations

import os


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
