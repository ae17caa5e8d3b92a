"""Files that are replaced as a whole: whoever looks finds the old one or the new one.

This module must not know what is in them.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from icnblocks.errors import StorageError

if TYPE_CHECKING:
    from pathlib import Path


def write_whole(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Replace a file, or make it, so that a kill leaves the old file or the new one.

    Args:
        path: the file; one process writes it at a time.
        data: all of it.
        durable: the same holds for a power cut, and the new file survives it when this returns.

    Raises:
        StorageError: if the disk refuses. The old file is as it was; or, if only the flush of the
            directory failed, the new one stands there and may not survive a power cut.
    """
    fresh = path.with_name(f".{path.name}.new")
    try:
        with fresh.open("wb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(fresh, path)
        if durable:
            sync_directory(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            fresh.unlink()
        raise StorageError.of(error, f"cannot write {path}") from error


def sync_directory(directory: Path) -> None:
    """Make names created in or removed from a directory survive a power cut."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
