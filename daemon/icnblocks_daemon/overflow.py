"""Blocks that the disk would not take: verified, in memory, until those who wait have them.

So an edge whose disk is full or failing passes on what it cannot keep. What was passed on last
stays until its room is needed, for whoever comes a little later to the same sweep. It must not be
taken for a store: nothing here lasts, and nobody is told that it is here.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

from icnblocks.cache.leases import CountedLease
from icnblocks.errors import StorageError
from icnblocks.store.memory import MemoryStore
from icnblocks.store.segments import footprint

if TYPE_CHECKING:
    from icnblocks.naming import Digest
    from icnblocks.store.base import Lease, Verified


class Overflow:
    """A few blocks in memory. All methods may be called from any thread.

    Args:
        capacity: bytes of memory, in whole pages, that blocks may take, also those that are
            being sent; 0 takes none.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._lock = threading.Lock()
        self._store: MemoryStore | None = None  # made with the first block
        self._leases: OrderedDict[Digest, int] = OrderedDict()  # the longest unused first
        self._leased_bytes = 0

    def __contains__(self, digest: Digest) -> bool:
        return digest in self._leases

    @property
    def used_bytes(self) -> int:
        """Bytes of memory that blocks take."""
        return 0 if self._store is None else self._store.used_bytes

    def has_room(self, coming: int) -> bool:
        """Could blocks of `coming` bytes in all be taken, beside those that are being sent?"""
        return self._leased_bytes + coming <= self._capacity

    def can_ever_fit(self, length: int) -> bool:
        """Is a block of `length` bytes taken when there are no others?"""
        return footprint(length) <= self._capacity

    def put(self, block: Verified) -> bool:
        """Take a block; what was used longest ago leaves for it, unless it is being sent.

        Returns:
            False if there is no room for it.
        """
        with self._lock:
            if block.digest in self._leases:
                return True
            try:
                store = self._store = self._store or MemoryStore()
                size = footprint(memoryview(block.data).nbytes)
                if self._leased_bytes + size > self._capacity:
                    return False
                self._make_room(store, size)
                store.put(block)
            except StorageError:
                return False
            self._leases[block.digest] = 0
            return True

    def open(self, digest: Digest) -> Lease | None:
        """Lease a block for sending, or None if it is not here."""
        with self._lock:
            lease = None if self._store is None else self._store.open(digest)
            if lease is None or self._store is None:
                return None
            size = footprint(lease.length)
            self._leases[digest] += 1
            self._leases.move_to_end(digest)
            if self._leases[digest] == 1:
                self._leased_bytes += size
        return CountedLease(lease, lambda: self._closed(digest, size))

    def clear(self) -> None:
        """Let go of what is not being sent."""
        with self._lock:
            if self._store is not None:
                self._make_room(self._store, self._capacity - self._leased_bytes)

    def close(self) -> None:
        """Give the memory back, when the last lease is closed. Idempotent."""
        with self._lock:
            if self._store is not None:
                self._store.close()
            self._leases.clear()

    def _make_room(self, store: MemoryStore, size: int) -> None:
        for digest in [digest for digest, leases in self._leases.items() if not leases]:
            if store.used_bytes + size <= self._capacity:
                return
            del self._leases[digest]
            store.erase(digest)

    def _closed(self, digest: Digest, size: int) -> None:
        with self._lock:
            if digest not in self._leases:
                return  # closed meanwhile
            self._leases[digest] -= 1
            if not self._leases[digest]:
                self._leased_bytes -= size
