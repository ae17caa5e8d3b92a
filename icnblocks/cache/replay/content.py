"""A content store over a virtual store, with all blocks of a request in one call.

The calls for many blocks do exactly what the calls for one block do, one after the other
(tests/cache/test_content_store_bulk.py compares them over all policies); they are for speed only.
"""

from __future__ import annotations

from itertools import compress, islice
from typing import TYPE_CHECKING

from icnblocks.cache.content_store import ContentStore
from icnblocks.cache.replay.virtual import VirtualStore

if TYPE_CHECKING:
    from collections.abc import Sequence

    from icnblocks.cache.policy import Policy
    from icnblocks.naming import Digest


class VirtualContent(ContentStore):
    """A content store whose blocks have no bytes.

    Args:
        policy: a fresh eviction policy.
        capacity: the budget in bytes.
        now: seconds, of the clock that all later calls use.
    """

    def __init__(self, policy: Policy, capacity: int, *, now: float = 0.0) -> None:
        self._virtual = VirtualStore()
        self._budget = capacity
        self._largest = 1
        super().__init__(self._virtual, policy, capacity, now=now)

    def touch_all(self, digests: Sequence[Digest], now: float) -> list[Digest]:
        """Ask for blocks, as if each were opened and its lease closed at once.

        Returns:
            Those that are not here, in the same order.
        """
        found = list(map(self._virtual.length, digests))
        counts = self._counts
        if None in found:
            missing = [digest for digest, one in zip(digests, found, strict=True) if not one]
            counts["misses"] += len(missing)
            digests = list(compress(digests, found))
        else:
            missing = []
        if digests:
            counts["hits"] += len(digests)
            counts["hit_bytes"] += sum(filter(None, found))
            self._policy.hits(digests, self._time(now))
        return missing

    def bring_all(self, digests: Sequence[Digest], lengths: Sequence[int], now: float) -> None:
        """Bring distinct blocks that are not here, as if each were reserved, put and committed.

        One for which there cannot be room passes through.
        """
        if self._pins or self._sending or self._reservations or self._erased_open:
            self._bring_each(digests, lengths, now)
            return
        self._held = self._virtual.used_bytes
        now = self._time(now)
        self._largest = max(self._largest, max(lengths, default=0))
        if self._largest > self._budget:
            digests, lengths = self._that_fit(digests, lengths)
        if self._policy.steady:
            self._bring_steadily(digests, lengths, now)
        else:
            self._bring_in_runs(digests, lengths, now)

    def _bring_each(self, digests: Sequence[Digest], lengths: Sequence[int], now: float) -> None:
        """What the fast ways are faster than."""
        for digest, length in zip(digests, lengths, strict=True):
            reservation = self.reserve(digest, length, now)
            if reservation is not None:
                self._virtual.put_all([digest], [length])
                self.commit(reservation, now)

    def _that_fit(
        self, digests: Sequence[Digest], lengths: Sequence[int]
    ) -> tuple[Sequence[Digest], Sequence[int]]:
        """Those blocks that are not larger than the budget."""
        fits = [length <= self._budget for length in lengths]
        self._counts["refused"] += fits.count(False)
        return list(compress(digests, fits)), list(compress(lengths, fits))

    def _bring_in_runs(self, digests: Sequence[Digest], lengths: Sequence[int], now: float) -> None:
        """For any policy: blocks for which nothing has to leave come together."""
        room, first = self._budget - self._held, 0
        for position, length in enumerate(lengths):
            if length > room:
                if first < position:
                    self._insert(digests[first:position], lengths[first:position], now)
                first = position
                room += self._evict_for(length - room, now)
            room -= length
        self._insert(digests[first:], lengths[first:], now)

    def _evict_for(self, needed: int, now: float) -> int:
        """`_evict` where nothing is guarded and no disk refuses; returns what it freed."""
        erase, removed, count, freed = self._virtual.erase, self._policy.removed, 0, 0
        for digest in self._policy.victims(now):
            freed += erase(digest)
            removed(digest)
            count += 1
            if freed >= needed:
                break
        self._held -= freed
        self._counts["evicted"] += count
        self._counts["evicted_bytes"] += freed
        return freed

    def _bring_steadily(
        self, digests: Sequence[Digest], lengths: Sequence[int], now: float
    ) -> None:
        """For a steady policy: make room once for as many blocks as the budget holds.

        None of these can be evicted for one behind it, since there is older content enough.
        """
        first = 0
        while first < len(digests):
            wanted, end = sum(lengths[first:]), len(lengths)
            if wanted > self._budget:
                wanted, end = 0, first
                while wanted + lengths[end] <= self._budget:
                    wanted += lengths[end]
                    end += 1
            self._evict_together(self._held + wanted - self._budget, now)
            self._insert(digests[first:end], lengths[first:end], now)
            first = end

    def _evict_together(self, needed: int, now: float) -> None:
        """Evict until `needed` bytes are free: as many at once as must leave in any case."""
        victims = self._policy.victims(now)
        while needed > 0:
            leaving = list(islice(victims, -(-needed // self._largest)))
            freed = self._virtual.erase_all(leaving)
            self._policy.removed_all(leaving)
            self._held -= freed
            self._counts["evicted"] += len(leaving)
            self._counts["evicted_bytes"] += freed
            needed -= freed

    def _insert(self, digests: Sequence[Digest], lengths: Sequence[int], now: float) -> None:
        """Put blocks for which there is room."""
        if not digests:
            return
        added = self._virtual.put_all(digests, lengths)
        self._held += added
        self._counts["inserted"] += len(digests)
        self._counts["inserted_bytes"] += added
        if len(digests) == 1:
            self._policy.inserted(digests[0], added, now)
        else:
            self._policy.inserted_all(zip(digests, lengths, strict=True), now)
