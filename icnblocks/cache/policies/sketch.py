"""How often blocks were asked for lately, here or not, in a few bytes for each: a count-min sketch.

Sources: Cormode and Muthukrishnan, "An improved data stream summary: the count-min sketch and its
applications" (2005); ageing by halving from Einziger et al., "TinyLFU: a highly efficient cache
admission policy" (2017).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from icnblocks.naming import Digest

_MAX_COUNT: Final = 15
_SAMPLE: Final = 10
"""Requests for each block in the cache after which all counts are halved."""
_SPREAD: Final = 4
"""Counters of a row for each block in the cache, at least."""
_MIN_BLOCKS: Final = 64
_HALF: Final = bytes(count >> 1 for count in range(256))
_PRIME: Final = (1 << 127) - 1
_FACTOR: Final = 0x5851F42D4C957F2D14057B7EF767814F
"""Digests of a trace need not be spread like hashes. Four fields of a product modulo a prime are,
and unlike `hash()` they are the same in each process."""


class Sketch:
    """Counts up to 15 that never are too low but for the halving, and seldom too high."""

    __slots__ = ("_additions", "_blocks", "_mask", "_other", "_rows")

    def __init__(self) -> None:
        self._blocks = _MIN_BLOCKS
        self._mask = _SPREAD * _MIN_BLOCKS - 1
        self._rows = [bytearray(_SPREAD * _MIN_BLOCKS) for _ in range(4)]
        self._additions = 0
        self._other: tuple[Digest, tuple[int, int, int, int]] | None = None

    def fit(self, blocks: int) -> None:
        """Have room for so many blocks in the cache. No count is changed by it."""
        self._blocks = max(blocks, _MIN_BLOCKS)
        while _SPREAD * self._blocks > self._mask + 1:
            # An index is the low bits of a number: one more bit leads to the copy.
            self._rows = [row + row for row in self._rows]
            self._mask = 2 * self._mask + 1
            self._other = None

    def add(self, digest: Digest) -> None:
        """It was asked for."""
        one, two, three, four = self._rows
        mask, number = self._mask, int.from_bytes(digest) * _FACTOR % _PRIME  # as in _indexes
        high = number >> 62
        index = number & mask
        if one[index] < _MAX_COUNT:
            one[index] += 1
        index = (number >> 31) & mask
        if two[index] < _MAX_COUNT:
            two[index] += 1
        index = high & mask
        if three[index] < _MAX_COUNT:
            three[index] += 1
        index = (high >> 31) & mask
        if four[index] < _MAX_COUNT:
            four[index] += 1
        self._additions += 1
        if self._additions >= _SAMPLE * self._blocks:
            self._rows = [row.translate(_HALF) for row in self._rows]
            self._additions //= 2

    def count(self, digest: Digest) -> int:
        """How often, about."""
        return self._count_at(self._indexes(digest))

    def beats(self, digest: Digest, other: Digest) -> bool:
        """Was `digest` asked for more often? Quick if `other` is the same as last time."""
        if self._other is None or self._other[0] != other:
            self._other = other, self._indexes(other)
        return self.count(digest) > self._count_at(self._other[1])

    def _indexes(self, digest: Digest) -> tuple[int, int, int, int]:
        mask, number = self._mask, int.from_bytes(digest) * _FACTOR % _PRIME
        high = number >> 62
        return number & mask, (number >> 31) & mask, high & mask, (high >> 31) & mask

    def _count_at(self, indexes: tuple[int, int, int, int]) -> int:
        one, two, three, four = self._rows
        a, b, c, d = indexes
        return min(one[a], two[b], three[c], four[d])
