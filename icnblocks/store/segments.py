"""Segment files: numbered files that blocks are appended to, and that holes are punched into.

A block's address (`at`) is segment number x 262,144 + page in the segment, a page being 4 KiB. An
address is never used twice for noted blocks, so ascending addresses are the order of putting.
This module must not know which blocks there are.
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import TYPE_CHECKING, Final

from icnblocks.store.extents import write_all
from icnblocks.store.files import OpenFile, OpenFiles
from icnblocks.store.whole import sync_directory

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

PAGE: Final = 4096
PAGE_BITS: Final = 18
PAGE_MASK: Final = (1 << PAGE_BITS) - 1
SEGMENT_BYTES: Final = PAGE << PAGE_BITS
_KEEP_SIZE_AND_PUNCH: Final = 0x01 | 0x02
_NO_TMPFILE: Final = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOSYS)
"""How file systems say that they know no files without a name (NFS, vfat, 9p, most FUSE)."""
CANNOT_PUNCH: Final = (errno.EOPNOTSUPP, errno.ENOSYS)
"""How they say that they free no part of a file; then segments are removed when they are empty."""


def footprint(length: int) -> int:
    """Bytes that a block of `length` takes in a segment: whole pages, so that it can be punched."""
    return -(-length // PAGE) * PAGE


def address(segment: int, offset: int) -> int:
    """The address of the page at `offset` of a segment; at its end, of the next segment."""
    return (segment << PAGE_BITS) + offset // PAGE


def segment_of(at: int) -> int:
    """The segment of an address."""
    return at >> PAGE_BITS


def locate(at: int) -> tuple[int, int]:
    """Segment and byte offset of an address."""
    return at >> PAGE_BITS, (at & PAGE_MASK) * PAGE


def runs(blocks: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Addresses and lengths of blocks, those that follow one another in a segment as one.

    Models come and go as a whole, and a hole costs as much for a block as for a hundred.
    """
    first, end = 0, 0
    for at, length in sorted(blocks):
        if at != end or segment_of(at) != segment_of(first):
            if end > first:
                yield first, (end - first) * PAGE
            first = at
        end = at + footprint(length) // PAGE
    if end > first:
        yield first, (end - first) * PAGE


_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def punch(fd: int, offset: int, length: int) -> None:
    """Give a stretch of a file back to the file system; it reads as zeros.

    Raises:
        OSError: one of `CANNOT_PUNCH` where the file system cannot.
    """
    while _libc.fallocate(fd, _KEEP_SIZE_AND_PUNCH, offset, length) != 0:
        number = ctypes.get_errno()
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))


class Segments:
    """The segment files of one directory, with a bounded number of them open. Thread-safe.

    All methods raise OSError as the system does.
    """

    def __init__(self, directory: Path, *, max_open: int | None = None) -> None:
        self.directory = directory
        self._files: OpenFiles[int] = OpenFiles(max_open)

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

    def allocated(self, number: int) -> int:
        """Bytes of disk that a segment takes."""
        return self.path(number).stat().st_blocks * 512

    def create(self, number: int) -> None:
        """Make an empty segment."""
        os.close(os.open(self.path(number), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644))

    def borrow(self, number: int) -> OpenFile:
        """Open a segment, or share it; `give_back` must follow."""
        return self._files.borrow(number, lambda: self._open(number))

    def give_back(self, segment: OpenFile) -> None:
        """End a `borrow`."""
        self._files.give_back(segment)

    def unlink(self, number: int) -> None:
        """Remove a segment; those who have it open keep it until they give it back."""
        self.path(number).unlink(missing_ok=True)
        self._files.drop(number)

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
        self._files.close()

    def _open(self, number: int) -> int:
        try:
            return os.open(self.path(number), os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            if error.errno not in (errno.EROFS, errno.EACCES):
                raise
            return os.open(self.path(number), os.O_RDONLY | os.O_CLOEXEC)


def can_punch(directory: Path) -> bool:
    """Whether the file system under `directory` can free a page of a file, and say where it did.

    What a power cut leaves of erased blocks is told by its holes. File systems with larger blocks
    only write zeros there, and some (CephFS, some FUSE) know of no hole before the end. One
    process at a time tries this in a directory.
    """
    trial = directory / ".punch.trial"
    try:
        fd = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in _NO_TMPFILE:
            raise
        # One that a kill left lies there again.
        fd = os.open(trial, os.O_CREAT | os.O_TRUNC | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(fd, 3 * PAGE)
        punch(fd, PAGE, PAGE)
        write_all(fd, b"\xff" * (3 * PAGE), 0)
        punch(fd, PAGE, PAGE)
        return _shows_hole(fd)
    except OSError as error:
        if error.errno in CANNOT_PUNCH:
            return False
        if error.errno in (errno.ENOSPC, errno.EDQUOT):  # by others: the store opens all the same
            return True
        raise
    finally:
        os.close(fd)
        trial.unlink(missing_ok=True)


def _shows_hole(fd: int) -> bool:
    """Whether the hole after the first page is seen; where nobody can ask, all is hashed."""
    try:
        return os.lseek(fd, 0, os.SEEK_HOLE) == PAGE
    except OSError:
        return True
