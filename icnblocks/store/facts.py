"""What a file was when it was read: enough to notice that it is no longer the same."""

from __future__ import annotations

import errno
import os
import sys
import time
from typing import TYPE_CHECKING, Final, NamedTuple, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_CLOCK_REALTIME_COARSE: Final = 5
"""The kernel's clock for file times (clock_gettime(2)); the time module has no name for it."""
_LOOK_S: Final = 0.001
_TICK_NS: Final = 20_000_000
"""File times may stand still for a timer tick of the kernel (10 ms at most), twice over."""


class FileFacts(NamedTuple):
    """Size, times and inode of a file, times in nanoseconds.

    The device number is not among them: for many file systems it changes with every mount, and a
    file that agrees in all else is the same one. All are signed numbers of 64 bits, as SQLite
    keeps them.
    """

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int

    @classmethod
    def of(cls, stat: os.stat_result) -> Self:
        """The facts in what `os.stat` or `os.fstat` gave; take it before reading the bytes."""
        return cls(
            stat.st_size, _signed(stat.st_mtime_ns), _signed(stat.st_ctime_ns), _signed(stat.st_ino)
        )


def open_to_read(path: bytes) -> int:
    """A descriptor of a file; of a pipe too, without waiting for a writer."""
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)


def facts_if(path: bytes, is_right: Callable[[int], bool]) -> FileFacts | None:
    """A file's facts, if it is right and stayed as it was while it was read.

    Raises:
        OSError: if it cannot be read.
    """
    fd = open_to_read(path)
    try:
        facts = FileFacts.of(os.fstat(fd))
        right = is_right(fd) and FileFacts.of(os.fstat(fd)) == facts
    finally:
        os.close(fd)
    return facts if right else None


def differs(path: bytes, facts: FileFacts) -> bool | None:
    """Whether a file is gone or no longer what `facts` says; None if nobody can say now."""
    try:
        return FileFacts.of(os.stat(path)) != facts
    except OSError as error:
        return True if was_taken_out(path, error) else None


def was_taken_out(path: bytes, error: OSError) -> bool:
    """Whether a file that gave `error` is not there, by somebody's will.

    A directory that is away (not mounted) may come back, as may a disk that fails; and what may
    not be looked at by one user is there for another.
    """
    gone = error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
    return gone and os.path.isdir(os.path.dirname(path))


def _signed(number: int) -> int:
    """A number modulo 2^64, from -2^63 on.

    Network file systems have inodes beyond, and files may be dated later than 2262.
    """
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)


def let_times_move_on(facts: Iterable[FileFacts]) -> None:
    """Wait, 20 ms at most, until a change after `facts` cannot have left the same times.

    A file written, read and written again within one tick of the kernel's clock would otherwise
    look unchanged.
    """
    newest = max((f.ctime_ns for f in facts), default=0)
    until = time.monotonic_ns() + _TICK_NS
    while _file_clock_ns() <= newest and time.monotonic_ns() < until:
        time.sleep(_LOOK_S)


def _file_clock_ns() -> int:
    """A time that a file that is changed from now on has at least."""
    if sys.platform == "linux":
        return time.clock_gettime_ns(_CLOCK_REALTIME_COARSE)
    return time.time_ns() - _TICK_NS
