"""Reading a directory so that all that was read is of one version, though pulls may replace it.

Nothing is locked against a pull: it may take hours, and until it renames its files the old ones
are whole. Instead it is seen afterwards whether one renamed meanwhile. This module must not know
what is read.
"""

from __future__ import annotations

import fcntl
import os
import time
from typing import TYPE_CHECKING, Final, TypeVar

from icnblocks.assembly.directory import MANIFEST, STATE
from icnblocks.assembly.renaming import is_mixed
from icnblocks.errors import BusyError, ChangedError, IcnError
from icnblocks.loader.reading import reading

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_TRIES: Final = 40
_PAUSE_S: Final = 0.05
"""A pull renames a hundred files in less, and notes a large model in a second."""

T = TypeVar("T")


def read_steadily(root: Path, read: Callable[[], T]) -> T:
    """What `read` gives or raises, from a moment at which the directory was of one version.

    Args:
        root: a model directory.
        read: reads there; called again if a pull came between.

    Raises:
        ChangedError: if a pull was cut off while it replaced the files.
        BusyError: if one is replacing them and does not come to an end.
        IcnError: as `read` does.
    """
    for attempt in range(_TRIES):
        if attempt:
            time.sleep(_PAUSE_S)
        if _is_mixed(root):
            _refuse_cut_off(root)
            continue
        before = _last_pull(root)
        result = _result_of(read)
        # All is read now. If no pull is between its renames, and none ended since `before`, then
        # none renamed anything while it was read.
        if not _is_mixed(root) and _last_pull(root) == before:
            if isinstance(result, IcnError):
                raise result
            return result
    raise BusyError(
        f"a pull into {root} is replacing the files of the model",
        hint="load it again when the pull has ended",
    )


def _result_of(read: Callable[[], T]) -> T | IcnError:
    try:
        return read()
    except IcnError as error:
        return error


def _last_pull(root: Path) -> tuple[int, ...] | None:
    """Of the last pull that was noted: no two are alike, since each writes a new file."""
    path = root / STATE / MANIFEST
    with reading(path):
        try:
            facts = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns


def _is_mixed(root: Path) -> bool:
    with reading(root / STATE):
        return is_mixed(root)


def _refuse_cut_off(root: Path) -> None:
    """Raise ChangedError if the files are of two versions and nobody is at work on them."""
    try:
        lock = os.open(root / STATE / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # copied without it, or not for us to read: who is at work cannot be told
        raise _cut_off(root) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        if not _is_mixed(root):  # a pull ended meanwhile; none begins while this lock is held
            return
    except BlockingIOError:
        return
    except OSError:  # a file system without locks: who is at work cannot be told either
        raise _cut_off(root) from None
    finally:
        os.close(lock)
    raise _cut_off(root)


def _cut_off(root: Path) -> ChangedError:
    return ChangedError(
        f"a pull into {root} was cut off while it replaced the files of the model",
        hint="pull it again",
    )
