"""What a content store knows of blocks that are on their way: in (reserved), or out (leased)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from icnblocks.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable

    from icnblocks.naming import Digest
    from icnblocks.store.base import Lease


@dataclass(slots=True)
class Sending:
    """A block that must stay for a while: its footprint, for how many, and was it erased anyway."""

    footprint: int
    leases: int = 0
    erased: bool = False


class CountedLease:
    """A store's lease, and a call when it is closed for the first time.

    Attributes:
        length: the block's bytes.
    """

    __slots__ = ("_closed", "_lease", "length")

    def __init__(self, lease: Lease, closed: Callable[[], None]) -> None:
        self._lease = lease
        self._closed: Callable[[], None] | None = closed
        self.length = lease.length

    @property
    def fd(self) -> int:
        """An open file; not the user's to close."""
        return self._lease.fd

    @property
    def offset(self) -> int:
        """The block's first byte in it."""
        return self._lease.offset

    def read(self) -> bytes:
        """The block's bytes.

        Raises:
            ChangedError: if there are fewer bytes than there should be.
        """
        return self._lease.read()

    def check(self) -> None:
        """After sending: is the file still what it was?

        Raises:
            ChangedError: if not.
        """
        self._lease.check()

    def close(self) -> None:
        """Give it back. Idempotent."""
        closed, self._closed = self._closed, None
        if closed is not None:
            self._lease.close()
            closed()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Reservation:
    """Room for one block that is on its way in. Made by `ContentStore.reserve` only.

    Several who bring the same block share one reservation. Once the block is here, it guards the
    block like a lease, until the last of them is done: a block that was evicted before the
    slowest of them puts it again would come back without room.

    Attributes:
        digest: of the block.
        footprint: room kept; 0 once the block is here.
        holders: who have not committed or released yet.
        guard: set while the block is here.
    """

    __slots__ = ("digest", "footprint", "guard", "holders")

    def __init__(self, digest: Digest, footprint: int, guard: Sending | None) -> None:
        self.digest = digest
        self.footprint = footprint
        self.guard = guard
        self.holders = 1
