"""The figures of a content store, for metrics and status."""

from __future__ import annotations

from icnblocks.values import dataclass


@dataclass(frozen=True, slots=True)
class Stats:
    """Figures of a content store since it was opened; bytes are footprints but for `hit_bytes`.

    Attributes:
        capacity: the budget in bytes, or None.
        blocks: blocks in the store.
        used_bytes: what they take, with what is erased but still being sent.
        reserved_bytes: room kept for blocks on their way in.
        pinned_bytes: what pinned blocks in the store take.
        erased_open_bytes: the part of `used_bytes` that is erased but still being sent.
        hits: blocks asked for that were here, and `hit_bytes`, their lengths.
        misses: blocks asked for that were not.
        evicted: blocks that were evicted, and `evicted_bytes`.
        refused: reservations that could not be given.
        erase_errors: evictions that the disk refused.
    """

    capacity: int | None
    blocks: int
    used_bytes: int
    reserved_bytes: int
    pinned_bytes: int
    erased_open_bytes: int
    hits: int
    hit_bytes: int
    misses: int
    evicted: int
    evicted_bytes: int
    refused: int
    erase_errors: int
