"""The contract of stores: bytes by digest, opened as fd + offset + length for sendfile.

`icnblocks.testing.store_contract` is its conformance suite. A store never decides what to keep:
budgets, pins and eviction belong to the content store (icnblocks.cache).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, Self, runtime_checkable

from icnblocks.errors import CorruptError
from icnblocks.naming import Digest
from icnblocks.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class Verified:
    """Bytes that were hashed and found to match their digest. Made by `verify` only.

    Stores and assembly take nothing else, so that an unverified byte cannot be accepted by
    forgetting a check: the type checker finds it. `data` may be a view of a buffer that is
    reused; whoever keeps it beyond the call must copy.
    """

    digest: Digest
    data: bytes | memoryview


def verify(digest: Digest, data: bytes | memoryview) -> Verified:
    """Hash `data` and compare.

    Raises:
        CorruptError: if the bytes have another digest.
    """
    found = Digest.of(data)
    if found != digest:
        raise CorruptError(f"block {digest} is corrupt: its {len(data)} bytes hash to {found}")
    return Verified(digest, data)


class Lease(Protocol):
    """A block that is open for sending; it stays readable until closed, even when erased."""

    @property
    def fd(self) -> int:
        """An open file, to be used with offsets only (pread, sendfile); not the user's to close."""
        ...

    @property
    def offset(self) -> int:
        """The block's first byte in it."""
        ...

    @property
    def length(self) -> int:
        """The block's bytes."""
        ...

    def read(self) -> bytes:
        """The block's bytes, as they lie there (not verified again).

        Raises:
            ChangedError: if there are fewer bytes than there should be.
        """
        ...

    def check(self) -> None:
        """After sending: is the file still what it was when the lease was taken?

        Raises:
            ChangedError: if not; the receiver must be cut off.
        """
        ...

    def close(self) -> None:
        """Give it back. Idempotent."""
        ...

    def __enter__(self) -> Self: ...
    def __exit__(self, *exc: object) -> None: ...


@runtime_checkable
class ReadableStore(Protocol):
    """What every store can do. All methods may be called from any thread."""

    def __contains__(self, digest: Digest) -> bool: ...

    def __len__(self) -> int:
        """How many blocks."""
        ...

    def length(self, digest: Digest) -> int | None:
        """The block's bytes, or None if it is not here."""
        ...

    def open(self, digest: Digest) -> Lease | None:
        """Lease a block for sending, or None if it is not here.

        Raises:
            ChangedError: if the file it lies in was changed (in-place stores).
        """
        ...

    def blocks(self) -> Iterator[tuple[Digest, int]]:
        """Every block with its length, in the order in which they were put, oldest first."""
        ...

    def close(self) -> None:
        """Flush and let go of files and locks. Idempotent."""
        ...


@runtime_checkable
class Store(ReadableStore, Protocol):
    """A store that blocks can be put into and erased from."""

    @property
    def used_bytes(self) -> int:
        """Bytes of disk or memory that its blocks take (footprints, not lengths)."""
        ...

    def footprint(self, length: int) -> int:
        """Bytes that a block of `length` will take here (rounded up to what can be freed)."""
        ...

    def read(self, digest: Digest, length: int) -> bytes | None:
        """The bytes of a block of `length`, as they lie there; None if there is no such block.

        Cheaper than a lease where all of a small block is wanted at once. Not verified again.

        Raises:
            ChangedError: if there are fewer bytes than there should be.
            StorageError: if the disk cannot read them.
        """
        ...

    def put(self, block: Verified) -> bool:
        """Store a block; data first, then the note that it is there.

        Returns:
            True if it was new.

        Raises:
            StorageError: if the disk refuses; nothing is left behind.
        """
        ...

    def erase(self, digest: Digest) -> int:
        """Forget a block and free its bytes, after its last lease is closed.

        Returns:
            The footprint freed, or 0 if it was not here.
        """
        ...

    def flush(self) -> None:
        """Make everything put so far survive a power cut."""
        ...
