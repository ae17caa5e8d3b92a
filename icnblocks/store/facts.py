"""What a file was when it was read: enough to notice that it is no longer the same."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Final, NamedTuple, Self

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable

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
