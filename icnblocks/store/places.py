"""Where each block lies, in memory: about 50 bytes a block, and well under 2 us a look-up.

A dict of a million digests costs three times that. Records of 44 bytes are kept in 65,536
buckets by the first two bytes of the digest, each one bytearray that is searched by `find`
(a memory search in C): 15 records at a million blocks. It must not be used by two threads at once.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from icnblocks.naming import DIGEST_BYTES

if TYPE_CHECKING:
    from icnblocks.naming import Digest

_PLACE = struct.Struct("<QI")
_RECORD_BYTES: Final = DIGEST_BYTES + _PLACE.size


class Place(NamedTuple):
    """A block's address (see segments) and its bytes."""

    at: int
    length: int


class Places:
    """A map from digest to place. `len()` is the number of blocks."""

    __slots__ = ("_buckets", "_count")

    def __init__(self) -> None:
        self._buckets: list[bytearray | None] = [None] * 65536
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, digest: bytes) -> bool:
        bucket = self._buckets[digest[0] << 8 | digest[1]]
        return bucket is not None and _find(bucket, digest) >= 0

    def get(self, digest: Digest) -> Place | None:
        """The block's place, or None."""
        bucket = self._buckets[digest[0] << 8 | digest[1]]
        if bucket is None:
            return None
        start = _find(bucket, digest)
        return None if start < 0 else Place(*_PLACE.unpack_from(bucket, start + DIGEST_BYTES))

    def add(self, digest: bytes, at: int, length: int) -> None:
        """Enter a block that is not there yet."""
        number = digest[0] << 8 | digest[1]
        bucket = self._buckets[number]
        record = digest + _PLACE.pack(at, length)
        if bucket is None:
            self._buckets[number] = bytearray(record)
        else:
            bucket += record
        self._count += 1

    def remove(self, digest: Digest) -> Place | None:
        """Take a block out and return where it was, or None."""
        bucket = self._buckets[digest[0] << 8 | digest[1]]
        start = -1 if bucket is None else _find(bucket, digest)
        if bucket is None or start < 0:
            return None
        place = Place(*_PLACE.unpack_from(bucket, start + DIGEST_BYTES))
        del bucket[start : start + _RECORD_BYTES]
        self._count -= 1
        return place


def _find(bucket: bytearray, digest: bytes) -> int:
    start = bucket.find(digest)
    # Somebody could choose digests such that one shows up across the border of two others.
    while start > 0 and start % _RECORD_BYTES:
        start = bucket.find(digest, start + 1)
    return start
