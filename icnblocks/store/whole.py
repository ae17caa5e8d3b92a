"""Files that are replaced as a whole: whoever looks finds the old one or the new one.

This module must not know what is in them.
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING, Final

from icnblocks.errors import StorageError

if TYPE_CHECKING:
    from pathlib import Path

_NEVER_WRITTEN: Final = frozenset({errno.EINVAL, errno.EROFS})
"""What file systems say of a flush that are only read."""


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
    _sync(directory, os.O_DIRECTORY)


def sync_path(path: Path) -> None:
    """Make a file's bytes, or the names in a directory, survive a power cut, whoever wrote them.

    Raises:
        OSError: if the disk refuses. Where nothing can be written, there is nothing to be done.
    """
    try:
        _sync(path)
    except OSError as error:
        if error.errno not in _NEVER_WRITTEN:
            raise


def _sync(path: Path, flags: int = 0) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
