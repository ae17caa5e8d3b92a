"""The store in memory: blocks in one anonymous file, so that a lease is a file descriptor too."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Self

from icnblocks.errors import UsageError
from icnblocks.limits import MAX_BLOCK_BYTES
from icnblocks.store.database import storage_errors
from icnblocks.store.lease import ExtentLease, read_extent
from icnblocks.store.segments import footprint, punch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from icnblocks.naming import Digest
    from icnblocks.store.base import Verified


class MemoryStore:
    """Blocks in memory, gone with the process. Implements `base.Store`.

    Raises:
        StorageError: if the system gives no anonymous file.
    """

    def __init__(self) -> None:
        with storage_errors("memory"):
            self._fd = os.memfd_create("icnblocks", os.MFD_CLOEXEC)
        self._lock = threading.Lock()
        self._places: dict[Digest, tuple[int, int]] = {}
        self._end = 0
        self._used = 0
        self._leased: dict[int, int] = {}
        self._doomed: dict[int, int] = {}
        self._closed = False

    def __contains__(self, digest: Digest) -> bool:
        return digest in self._places

    def __len__(self) -> int:
        return len(self._places)

    @property
    def used_bytes(self) -> int:
        """Bytes of memory that the blocks take, in whole pages."""
        return self._used

    def footprint(self, length: int) -> int:
        """Bytes of memory that a block of `length` takes."""
        return footprint(length)

    def length(self, digest: Digest) -> int | None:
        """The block's bytes, or None if it is not here."""
        place = self._places.get(digest)
        return None if place is None else place[1]

    def open(self, digest: Digest) -> ExtentLease | None:
        """Lease a block for sending, or None if it is not here."""
        with self._lock:
            place = self._places.get(digest)
            if place is None:
                return None
            offset, length = place
            self._leased[offset] = self._leased.get(offset, 0) + 1
        return ExtentLease(self._fd, offset, length, lambda: self._end_lease(offset))

    def read(self, digest: Digest, length: int) -> bytes | None:
        """The bytes of a block of `length`, or None if there is no such block."""
        with self._lock:  # else it could be erased meanwhile
            place = self._places.get(digest)
            if place is None or place[1] != length:
                return None
            return read_extent(self._fd, *place)

    def blocks(self) -> Iterator[tuple[Digest, int]]:
        """Every block with its length, oldest first."""
        with self._lock:
            entries = [(digest, length) for digest, (_, length) in self._places.items()]
        yield from entries

    def put(self, block: Verified) -> bool:
        """Store a block; returns True if it was new.

        Raises:
            StorageError: if there is no memory for it.
        """
        view = memoryview(block.data).cast("B")
        if not 0 < len(view) <= MAX_BLOCK_BYTES:
            raise UsageError(f"a block has 1 to {MAX_BLOCK_BYTES} bytes, not {len(view)}")
        with self._lock, storage_errors("memory"):
            self._check_open()
            if block.digest in self._places:
                return False
            start, offset = self._end, self._end
            while view:
                written = os.pwrite(self._fd, view, offset)
                view, offset = view[written:], offset + written
            self._places[block.digest] = (start, offset - start)
            self._end = start + footprint(offset - start)
            self._used += footprint(offset - start)
        return True

    def erase(self, digest: Digest) -> int:
        """Forget a block, free its bytes after its last lease; returns its footprint."""
        with self._lock:
            self._check_open()
            place = self._places.pop(digest, None)
            if place is None:
                return 0
            offset, length = place
            self._used -= footprint(length)
            if offset in self._leased:
                self._doomed[offset] = length
            else:
                punch(self._fd, offset, footprint(length))
            return footprint(length)

    def flush(self) -> None:
        """Do nothing: memory does not survive a power cut."""

    def close(self) -> None:
        """Give the memory back, when the last lease is closed. Idempotent."""
        with self._lock:
            self._closed = True
            self._places.clear()
            self._used = 0
            self._close_file()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError("the store is closed")

    def _end_lease(self, offset: int) -> None:
        with self._lock:
            self._leased[offset] -= 1
            if not self._leased[offset]:
                del self._leased[offset]
                if offset in self._doomed and self._fd >= 0:
                    punch(self._fd, offset, footprint(self._doomed.pop(offset)))
            if self._closed:
                self._close_file()

    def _close_file(self) -> None:
        if self._fd >= 0 and not self._leased:
            os.close(self._fd)
            self._fd = -1
