"""A block that is open for sending: a stretch of an open file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Self

from icnblocks.errors import ChangedError, StorageError
from icnblocks.store.extents import read_all

if TYPE_CHECKING:
    from collections.abc import Callable


class ExtentLease:
    """A stretch of a file, which the store itself wrote and alone may change: else see `check`.

    Attributes:
        fd: an open file, to be used with offsets only; not the user's to close.
        offset: the block's first byte in it.
        length: the block's bytes.
    """

    __slots__ = ("_give_back", "fd", "length", "offset")

    def __init__(self, fd: int, offset: int, length: int, give_back: Callable[[], None]) -> None:
        self.fd = fd
        self.offset = offset
        self.length = length
        self._give_back: Callable[[], None] | None = give_back

    def read(self) -> bytes:
        """The block's bytes, as they lie there.

        Raises:
            ChangedError: if the file ends before the block does.
            StorageError: if the disk cannot read them.
        """
        return read_extent(self.fd, self.offset, self.length)

    def check(self) -> None:
        """After sending: is the block still whole?

        Raises:
            ChangedError: if the file ends before the block does.
        """
        if os.fstat(self.fd).st_size < self.offset + self.length:
            raise ChangedError("a store's segment was cut short while a block was sent")

    def close(self) -> None:
        """Give it back. Idempotent."""
        give_back, self._give_back = self._give_back, None
        if give_back is not None:
            give_back()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def read_extent(fd: int, offset: int, length: int) -> bytes:
    """Read exactly `length` bytes at `offset`.

    Raises:
        ChangedError: if the file ends before.
        StorageError: if the disk cannot read them.
    """
    try:
        data = read_all(fd, length, offset)
    except OSError as error:
        raise StorageError.of(error, "cannot read a block") from error
    if len(data) < length:
        raise ChangedError(f"a file ends {length - len(data)} bytes before a block in it")
    return data
