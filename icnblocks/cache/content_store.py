"""The content store: a store, a byte budget, an eviction policy and pins.

It keeps one promise above all: the store never takes more than the budget, not even while blocks
are on their way in, or are still being sent after they were erased. How the bytes are counted
stands in docs/decisions/eviction.md. It is used from one thread (the daemon's event loop); only
`Store.put` runs elsewhere, between `reserve` and `commit`. It must not read a clock, move bytes
or hash them.
"""

from __future__ import annotations

import logging
from collections import Counter
from itertools import islice
from typing import TYPE_CHECKING

from icnblocks.cache.known import Known
from icnblocks.cache.leases import CountedLease, Reservation, Sending
from icnblocks.cache.pins import Pins
from icnblocks.cache.stats import Stats
from icnblocks.errors import StorageError
from icnblocks.limits import MAX_KNOWN_BLOCKS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from icnblocks.cache.policy import Policy
    from icnblocks.manifest.model import Manifest
    from icnblocks.naming import Digest
    from icnblocks.store.base import Lease, Store

_LOG = logging.getLogger(__name__)
_TOGETHER = 256
"""Blocks that a policy is told of at once."""
_ERASE_TRIES = 8
"""Victims that the disk may refuse to erase before a reservation is given up."""


class ContentStore:
    """A block store that keeps to a budget.

    Args:
        store: where the blocks lie; what it already holds is counted and told to the policy.
        policy: a fresh eviction policy.
        capacity: the budget in bytes of footprints; None never evicts and never refuses.
        evict: False refuses new blocks when the budget is spent, instead of evicting.
        manifests: known models (digest, manifest), to be told to the policy.
        pins: models that must stay, with their blocks.
        now: seconds, of the clock that all later calls use.

    A store that holds more than `capacity` is evicted down here, pinned blocks excepted, and a
    warning is logged that says how much went.
    """

    def __init__(
        self,
        store: Store,
        policy: Policy,
        capacity: int | None,
        *,
        evict: bool = True,
        manifests: Iterable[tuple[Digest, Manifest]] = (),
        pins: Mapping[Digest, Iterable[Digest]] | None = None,
        now: float = 0.0,
    ) -> None:
        self._store = store
        self._capacity = capacity
        self._evicting = evict and capacity is not None
        self._held = store.used_bytes
        self._reserved = 0
        self._reservations: dict[Digest, Reservation] = {}
        self._sending: dict[Digest, Sending] = {}
        self._erased_open = 0
        self._pins = Pins()
        self._pinned_bytes = 0
        self._leased_bytes = 0
        self._counts: Counter[str] = Counter()
        self._now = now
        self.set_policy(policy, now, manifests)
        for manifest, digests in (pins or {}).items():
            self.pin(manifest, digests)
        self._evict_down(now)

    # --- what is here ---------------------------------------------------------------------

    @property
    def store(self) -> Store:
        """The store underneath; blocks are put into it between `reserve` and `commit`."""
        return self._store

    @property
    def capacity(self) -> int | None:
        """The budget in bytes, or None."""
        return self._capacity

    @property
    def policy(self) -> Policy:
        """The eviction policy in use; it is told of blocks by this object only."""
        return self._policy

    @property
    def reserved_bytes(self) -> int:
        """Room kept for blocks on their way in."""
        return self._reserved

    def contains(self, digest: Digest) -> bool:
        """Is the block here? Counts nothing."""
        return digest in self._store

    def is_leased(self, digest: Digest) -> bool:
        """Is the block here and being sent, so that it cannot be evicted?"""
        return digest in self._sending

    def fits(self, length: int) -> bool:
        """Is there room for a block of `length` bytes without evicting anything?"""
        return self._room_needed(self._store.footprint(length)) <= 0

    def open(self, digest: Digest, now: float, *, counted: bool = True) -> Lease | None:
        """Lease a block for sending, or None; counts a hit or a miss.

        A leased block is not evicted. Close the lease on the thread that uses this object.

        Args:
            digest: of the block.
            now: seconds.
            counted: False if it was counted that the block was asked for: as a hit by `touch`,
                or because it was brought for whoever opens it.
        """
        lease = self._store.open(digest)
        if lease is None:
            self._counts["misses"] += counted
            return None
        if counted:
            self._hit(digest, lease.length, now)
        sending = self._guard(digest, self._store.footprint(lease.length))
        return CountedLease(lease, lambda: self._closed(digest, sending))

    def touch(self, digest: Digest, now: float) -> bool:
        """A block was asked for that will be opened or read later: a hit, if it is here.

        Returns:
            Whether it is here.
        """
        length = self._store.length(digest)
        if length is None:
            return False
        self._hit(digest, length, now)
        return True

    def _hit(self, digest: Digest, length: int, now: float) -> None:
        self._counts["hits"] += 1
        self._counts["hit_bytes"] += length
        if self._evicting:
            self._policy.hit(digest, self._time(now))

    def _guard(self, digest: Digest, footprint: int) -> Sending:
        """Keep a block that is here from being evicted, until `_closed`."""
        sending = self._sending.get(digest)
        if sending is None:
            sending = self._sending[digest] = Sending(footprint)
            if digest not in self._pins:
                self._leased_bytes += footprint
        sending.leases += 1
        return sending

    def _closed(self, digest: Digest, sending: Sending) -> None:
        sending.leases -= 1
        if sending.leases:
            return
        if sending.erased:
            self._erased_open -= sending.footprint
            return
        del self._sending[digest]
        if digest not in self._pins:
            self._leased_bytes -= sending.footprint

    # --- blocks coming in -----------------------------------------------------------------

    def reserve(self, digest: Digest, length: int, now: float) -> Reservation | None:
        """Make room for a block of `length` bytes, evicting as much as that needs.

        Returns:
            The reservation, to be given to `commit` or `release` (once for each call of this);
            None if there cannot be room: it would not fit beside what is pinned, being sent or
            reserved, or this store does not evict. Then nothing was evicted for it (unless the
            disk refused to erase).
        """
        shared, footprint = self._reservations.get(digest), self._store.footprint(length)
        if shared is not None:
            return self._share(shared, footprint, now)
        guard, here = None, self._store.length(digest)
        if here is not None:
            footprint, guard = 0, self._guard(digest, self._store.footprint(here))
        elif not self._make_room(footprint, now):
            return None
        self._reserved += footprint
        reservation = self._reservations[digest] = Reservation(digest, footprint, guard)
        return reservation

    def _share(self, shared: Reservation, footprint: int, now: float) -> Reservation | None:
        """One more who brings the block, perhaps with another length: the longest has room."""
        more = footprint - shared.footprint
        if shared.guard is None and more > 0:
            if not self._make_room(more, now):
                return None
            shared.footprint += more
            self._reserved += more
        shared.holders += 1
        return shared

    def commit(self, reservation: Reservation, now: float) -> None:
        """The block was put into the store: its room is now used, and the policy is told."""
        digest = reservation.digest
        # Who asked for it may have been wrong about its length; or it could not be noted.
        length = self._store.length(digest)
        if reservation.footprint and length is not None:
            self._reserved -= reservation.footprint
            reservation.footprint = 0
            footprint = self._store.footprint(length)
            self._held += footprint
            if self._evicting:
                self._policy.inserted(digest, footprint, self._time(now))
            if digest in self._pins:
                self._stays(digest, footprint)
            reservation.guard = self._guard(digest, footprint)
        self.release(reservation)

    def release(self, reservation: Reservation) -> None:
        """The block did not come: give its room back, unless somebody else still brings it."""
        if not reservation.holders:
            return
        reservation.holders -= 1
        if not reservation.holders:
            del self._reservations[reservation.digest]
            self._reserved -= reservation.footprint
            if reservation.guard is not None:
                self._closed(reservation.digest, reservation.guard)

    # --- blocks going out -----------------------------------------------------------------

    def discard(self, digest: Digest) -> bool:
        """Erase a block whatever the policy and pins say (it was found corrupt, or withdrawn).

        If it is being sent, its bytes count against the budget until the last lease is closed.
        A block that is on its way in was verified just now and is left alone.

        Returns:
            True if it was here and is erased.

        Raises:
            StorageError: if the disk refuses.
        """
        length = self._store.length(digest)
        if length is None or digest in self._reservations:
            return False
        self._store.erase(digest)
        self._gone(digest, self._store.footprint(length))
        return True

    def _gone(self, digest: Digest, footprint: int) -> None:
        """Keep the books of a block that was erased."""
        self._held -= footprint
        sending = self._sending.pop(digest, None)
        if sending is not None:
            sending.erased = True
            self._erased_open += sending.footprint
        if digest in self._pins:
            self._pinned_bytes -= footprint
        elif sending is not None:
            self._leased_bytes -= sending.footprint
        if self._evicting:
            self._policy.removed(digest)

    def _room_needed(self, footprint: int) -> int:
        """Bytes that must go before `footprint` more fit; 0 or less if they fit now."""
        if self._capacity is None:
            return 0
        if not self._reservations and not self._erased_open:
            # Nothing is under way, so what the store says is exact: errors cannot pile up.
            self._held = self._store.used_bytes
        return self._held + self._erased_open + self._reserved + footprint - self._capacity

    def _make_room(self, footprint: int, now: float) -> bool:
        needed = self._room_needed(footprint)
        if needed <= 0:
            return True
        free = self._held - self._pinned_bytes - self._leased_bytes if self._evicting else 0
        if needed <= free and self._evict(needed, self._time(now)) <= 0:
            return True
        self._counts["refused"] += 1
        return False

    def _evict(self, needed: int, now: float) -> int:
        """Evict until `needed` bytes are free; returns what is still missing."""
        errors = 0
        for digest in self._policy.victims(now):
            if digest in self._sending or digest in self._pins:
                continue
            try:
                freed = self._store.erase(digest)
            except StorageError as error:
                errors += 1
                self._counts["erase_errors"] += 1
                _LOG.warning("cannot evict block %s: %s", digest, error)
                if errors == _ERASE_TRIES:
                    break
                continue
            self._gone(digest, freed)
            self._counts["evicted"] += 1
            self._counts["evicted_bytes"] += freed
            needed -= freed
            if needed <= 0:
                break
        return needed

    def _evict_down(self, now: float) -> None:
        """At opening: the store may hold more than a budget that was lowered."""
        needed = self._room_needed(0)
        if needed <= 0:
            return
        if not self._evicting:
            _LOG.warning("the store holds %d bytes above its capacity and does not evict", needed)
            return
        missing = self._evict(needed, now)
        _LOG.warning(
            "the store held %d bytes above its capacity: evicted %d blocks, %d bytes",
            needed,
            self._counts["evicted"],
            self._counts["evicted_bytes"],
        )
        if missing > 0:
            _LOG.warning("%d bytes above capacity stay: they are pinned or not erasable", missing)

    # --- pins, models and the policy ------------------------------------------------------

    def pin(self, manifest: Digest, digests: Iterable[Digest]) -> None:
        """Keep a model's blocks, those that are here and those that will come.

        Pinning the same manifest again must be undone as often. Pins do not make room: a block
        still needs a reservation.
        """
        for digest in self._pins.add(manifest, digests):
            self._pin_block(digest)

    def unpin(self, manifest: Digest) -> None:
        """Undo one `pin` of this manifest. Unknown ones are ignored."""
        for digest in self._pins.remove(manifest):
            self._unpin_block(digest)

    def pins(self) -> dict[Digest, int]:
        """The pinned manifests, and how often each is pinned."""
        return self._pins.models()

    def _pin_block(self, digest: Digest) -> None:
        if digest in self._sending:  # perhaps before it was committed
            self._leased_bytes -= self._sending[digest].footprint
        length = self._length_counted(digest)
        if length is not None:
            self._stays(digest, self._store.footprint(length))

    def _stays(self, digest: Digest, footprint: int) -> None:
        """A block that is here is pinned."""
        self._pinned_bytes += footprint
        if self._evicting:
            self._policy.pinned(digest)

    def _unpin_block(self, digest: Digest) -> None:
        if digest in self._sending:
            self._leased_bytes += self._sending[digest].footprint
        length = self._length_counted(digest)
        if length is not None:
            self._pinned_bytes -= self._store.footprint(length)
            if self._evicting:
                self._policy.unpinned(digest, self._now)

    def _length_counted(self, digest: Digest) -> int | None:
        """Length of a block that is here and committed (between put and commit it is not)."""
        reservation = self._reservations.get(digest)
        if reservation is not None and reservation.footprint:
            return None
        return self._store.length(digest)

    def learn(
        self,
        manifest_digest: Digest,
        manifest: Manifest,
        lengths: Mapping[Digest, int] | None = None,
    ) -> None:
        """Tell the policy which blocks belong together. Told again, it changes nothing.

        `lengths` are the manifest's own, for whoever has counted them already.

        At most MAX_KNOWN_BLOCKS are known; beyond, the models that were learnt or requested
        longest ago are forgotten. Of a model that has more by itself the policy is told nothing.
        """
        if self._evicting:
            self._known.learn(manifest_digest, manifest, lengths)

    def learn_blocks(
        self, manifest_digest: Digest, lengths: Mapping[Digest, int], base: Digest | None
    ) -> None:
        """`learn`, for whoever has no manifest but knows its distinct blocks and its base."""
        if self._evicting:
            self._known.learn_blocks(manifest_digest, lengths, base)

    def forget(self, manifest_digest: Digest) -> None:
        """The manifest is no longer known here (its blocks may stay). Unknown: ignored."""
        self._known.forget(manifest_digest)

    def requested(self, manifest_digest: Digest, now: float) -> bool:
        """Somebody began to pull this model: once for each pull.

        Returns:
            False if it has to be learnt first (it was not counted).
        """
        if not self._evicting:
            return True
        if not self._known.used(manifest_digest):
            return False
        self._policy.requested(manifest_digest, self._time(now))
        return True

    def _time(self, now: float) -> float:
        """Policies are promised a clock that never goes backward, whatever ours does."""
        self._now = max(self._now, now)
        return self._now

    def set_policy(
        self,
        policy: Policy,
        now: float,
        manifests: Iterable[tuple[Digest, Manifest]] = (),
    ) -> None:
        """Go on with another, fresh policy and the same content.

        It is told all blocks, oldest first, and `manifests`; request rates start anew. If
        reading those fails, the policy before goes on.
        """
        known = self.untold(policy)
        for digest, manifest in manifests if self._evicting else ():
            known.learn(digest, manifest)
        self.go_on_with(known, now)

    def untold(self, policy: Policy) -> Known:
        """A fresh policy that may be told of models, on any thread, before it is used here."""
        return Known(policy, self._store.footprint, MAX_KNOWN_BLOCKS)

    def go_on_with(self, known: Known, now: float) -> None:
        """`set_policy`, with one that was told of models already."""
        if self._evicting:
            self._tell_all(known.policy, now)
        self._policy, self._known = known.policy, known

    def _tell_all(self, policy: Policy, now: float) -> None:
        now = self._time(now)
        # What was put, but not committed yet: `commit` will tell.
        coming = {digest for digest, one in self._reservations.items() if one.footprint}
        blocks = (block for block in self._store.blocks() if block[0] not in coming)
        while some := list(islice(blocks, _TOGETHER)):
            sizes = {length: self._store.footprint(length) for _, length in some}
            policy.inserted_all([(digest, sizes[length]) for digest, length in some], now)
        for digest in self._pins:
            if self._length_counted(digest) is not None:
                policy.pinned(digest)

    # --- figures --------------------------------------------------------------------------

    def stats(self) -> Stats:
        """Figures for metrics and status; O(1)."""
        counts = self._counts
        return Stats(
            capacity=self._capacity,
            blocks=len(self._store),
            used_bytes=self._held + self._erased_open,
            reserved_bytes=self._reserved,
            pinned_bytes=self._pinned_bytes,
            erased_open_bytes=self._erased_open,
            hits=counts["hits"],
            hit_bytes=counts["hit_bytes"],
            misses=counts["misses"],
            evicted=counts["evicted"],
            evicted_bytes=counts["evicted_bytes"],
            refused=counts["refused"],
            erase_errors=counts["erase_errors"],
        )
