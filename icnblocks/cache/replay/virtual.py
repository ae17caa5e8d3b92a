"""A store without bytes: it knows which blocks it would hold, and how large they are.

A block takes exactly its bytes here (a disk takes whole pages). Beside the calls of every store
it has calls for many blocks at once, which `VirtualContent` needs for its speed. It must not be
used where blocks are read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn, Self

from icnblocks.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from icnblocks.naming import Digest
    from icnblocks.store.base import Verified


class VirtualLease:
    """A block that is here, but has no bytes."""

    def __init__(self, length: int) -> None:
        self._length = length

    @property
    def length(self) -> int:
        """The block's bytes."""
        return self._length

    @property
    def offset(self) -> int:
        """Where the bytes would begin."""
        return 0

    @property
    def fd(self) -> NoReturn:
        """There is no file.

        Raises:
            UsageError: always.
        """
        raise UsageError("a virtual store holds no bytes")

    def read(self) -> NoReturn:
        """There are no bytes.

        Raises:
            UsageError: always.
        """
        raise UsageError("a virtual store holds no bytes")

    def check(self) -> None:
        """Nothing can change."""

    def close(self) -> None:
        """Nothing is open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        pass


class VirtualStore:
    """Which blocks are here, and their bytes. Implements `store.base.Store`; on one thread."""

    def __init__(self) -> None:
        self._lengths: dict[Digest, int] = {}
        self._used = 0
        self.length = self._lengths.get
        """The block's bytes, or None if it is not here. (Bound once: it is asked per block.)"""

    def __contains__(self, digest: Digest) -> bool:
        return digest in self._lengths

    def __len__(self) -> int:
        return len(self._lengths)

    @property
    def used_bytes(self) -> int:
        """Bytes of all blocks."""
        return self._used

    def footprint(self, length: int) -> int:
        """The bytes themselves."""
        return length

    def open(self, digest: Digest) -> VirtualLease | None:
        """A lease that has a length only, or None if the block is not here."""
        length = self._lengths.get(digest)
        return None if length is None else VirtualLease(length)

    def read(self, digest: Digest, length: int) -> NoReturn:  # noqa: ARG002
        """There are no bytes.

        Raises:
            UsageError: always.
        """
        raise UsageError("a virtual store holds no bytes")

    def blocks(self) -> Iterator[tuple[Digest, int]]:
        """Every block with its length, oldest first."""
        yield from list(self._lengths.items())

    def put(self, block: Verified) -> bool:
        """Note a block and forget its bytes; returns True if it was new."""
        if block.digest in self._lengths:
            return False
        self.put_all([block.digest], [memoryview(block.data).nbytes])
        return True

    def put_all(self, digests: Sequence[Digest], lengths: Sequence[int]) -> int:
        """Note blocks, none of which may be here; returns their bytes."""
        self._lengths.update(zip(digests, lengths, strict=True))
        added = sum(lengths)
        self._used += added
        return added

    def erase(self, digest: Digest) -> int:
        """Forget a block; returns its bytes, or 0 if it was not here."""
        length = self._lengths.pop(digest, 0)
        self._used -= length
        return length

    def erase_all(self, digests: Iterable[Digest]) -> int:
        """Forget blocks, all of which must be here; returns their bytes.

        Raises:
            KeyError: if one is not here.
        """
        freed = sum(map(self._lengths.pop, digests))
        self._used -= freed
        return freed

    def flush(self) -> None:
        """Nothing lasts."""

    def close(self) -> None:
        """Forget everything."""
        self._lengths.clear()
        self._used = 0
