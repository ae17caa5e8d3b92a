"""Segment files: numbered files that blocks are appended to, and that holes are punched into.

A block's address (`at`) is segment number x 65536 + page in the segment, a page being 4 KiB. An
address is never used twice for noted blocks, so ascending addresses are the order of putting.
This module must not know which blocks there are.
"""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from icnblocks.limits import MIB

if TYPE_CHECKING:
    from pathlib import Path

PAGE: Final = 4096
_PAGE_BITS: Final = 16
SEGMENT_BYTES: Final = PAGE << _PAGE_BITS
_KEEP_SIZE_AND_PUNCH: Final = 0x01 | 0x02
_MAX_OPEN: Final = 256


def footprint(length: int) -> int:
    """Bytes that a block of `length` takes in a segment: whole pages, so that it can be punched."""
    return -(-length // PAGE) * PAGE


def address(segment: int, offset: int) -> int:
    """The address of the page at `offset` of a segment; at its end, of the next segment."""
    return (segment << _PAGE_BITS) + offset // PAGE


def locate(at: int) -> tuple[int, int]:
    """Segment and byte offset of an address."""
    return at >> _PAGE_BITS, (at & ((1 << _PAGE_BITS) - 1)) * PAGE


_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def punch(fd: int, offset: int, length: int) -> None:
    """Give a stretch of a file back to the file system; it reads as zeros.

    Raises:
        OSError: EOPNOTSUPP where the file system cannot.
    """
    while _libc.fallocate(fd, _KEEP_SIZE_AND_PUNCH, offset, length) != 0:
        number = ctypes.get_errno()
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))


@dataclass(slots=True)
class OpenSegment:
    """An open segment file and how many use it now; it is closed when nobody does."""

    number: int
    fd: int
    users: int = 0
    gone: bool = False


class Segments:
    """The segment files of one directory, with a bounded number of them open. Thread-safe.

    All methods raise OSError as the system does.
    """

    def __init__(self, directory: Path, *, max_open: int = _MAX_OPEN) -> None:
        self.directory = directory
        self._max_open = max_open
        self._open: dict[int, OpenSegment] = {}
        self._lock = threading.Lock()

    def path(self, number: int) -> Path:
        """Where a segment lies."""
        return self.directory / f"{number:010d}"

    def sizes(self) -> dict[int, int]:
        """Every segment file with its size; files of other names are none of ours."""
        with os.scandir(self.directory) as entries:
            return {
                int(entry.name): entry.stat().st_size
                for entry in entries
                if len(entry.name) == 10 and entry.name.isdecimal()
            }

    def create(self, number: int) -> None:
        """Make an empty segment."""
        os.close(os.open(self.path(number), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644))

    def borrow(self, number: int) -> OpenSegment:
        """Open a segment, or share it; `give_back` must follow."""
        with self._lock:
            segment = self._open.pop(number, None)
            if segment is None:
                self._close_idle(self._max_open - 1)
                segment = OpenSegment(number, self._open_file(number))
            self._open[number] = segment  # at the end: the most recently used
            segment.users += 1
            return segment

    def give_back(self, segment: OpenSegment) -> None:
        """End a `borrow`."""
        with self._lock:
            segment.users -= 1
            if segment.gone and segment.users == 0:
                os.close(segment.fd)

    def unlink(self, number: int) -> None:
        """Remove a segment; those who have it open keep it until they give it back."""
        with self._lock:
            self.path(number).unlink(missing_ok=True)
            self._let_go(number)

    def sync(self, number: int) -> None:
        """Bring a segment's bytes to the disk; a segment that is gone needs nothing."""
        try:
            segment = self.borrow(number)
        except FileNotFoundError:
            return
        try:
            os.fdatasync(segment.fd)
        finally:
            self.give_back(segment)

    def sync_names(self) -> None:
        """Bring the directory of segments to the disk."""
        sync_directory(self.directory)

    def close(self) -> None:
        """Close what nobody uses, and the rest when it is given back."""
        with self._lock:
            for number in list(self._open):
                self._let_go(number)

    def _open_file(self, number: int) -> int:
        try:
            return os.open(self.path(number), os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            if error.errno not in (errno.EROFS, errno.EACCES):
                raise
            return os.open(self.path(number), os.O_RDONLY | os.O_CLOEXEC)

    def _let_go(self, number: int) -> None:
        segment = self._open.pop(number, None)
        if segment is not None:
            segment.gone = True
            if segment.users == 0:
                os.close(segment.fd)

    def _close_idle(self, keep: int) -> None:
        if len(self._open) > keep:
            idle = [number for number, segment in self._open.items() if segment.users == 0]
            for number in idle[: len(self._open) - keep]:
                self._let_go(number)


def sync_directory(directory: Path) -> None:
    """Make names created in or removed from a directory survive a power cut."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def can_punch(directory: Path) -> bool:
    """Whether the file system under `directory` can free part of a file."""
    fd = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(fd, MIB)
        punch(fd, 0, PAGE)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.ENOSYS):
            return False
        raise
    else:
        return True
    finally:
        os.close(fd)
