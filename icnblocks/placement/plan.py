"""The plan of a model: each distinct block once, its length, and everywhere it goes.

A block that occurs many times is fetched once and placed as often as it occurs. The plan costs
some 12 bytes a block besides the manifest's own 32, so that a model of a million blocks (1 TB)
needs tens of MB. This module must do no I/O and not know what is already there.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from typing import TYPE_CHECKING, NamedTuple

from icnblocks.naming import DIGEST_BYTES, Digest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from icnblocks.manifest.model import Manifest


class Spot(NamedTuple):
    """Where a block goes: index of the file in the manifest, and the first byte in it."""

    file: int
    offset: int


class Plan:
    """Distinct digests of a valid manifest -> length and spots, in the order of the manifest.

    A hash table with open addressing over the manifest's packed digests: it holds an index for
    each block and no objects. Python's own hash of bytes is keyed anew in every process, so that
    no manifest can be made to fill one corner of it.
    """

    __slots__ = ("_again", "_distinct", "_mask", "_starts", "_table", "_where", "manifest")

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        # First block, file and run of every run that has blocks, ascending.
        self._starts = array("L")
        self._where = array("L")
        for number, file in enumerate(manifest.files):
            for position, run in enumerate(file.runs):
                if run.length:
                    self._starts.append(run.first_block)
                    self._where.extend((number, position))
        count = manifest.block_count
        self._mask = (1 << (2 * count).bit_length()) - 1
        self._table = array("I", [0]) * (self._mask + 1)
        self._again: dict[int, array[int]] = {}
        self._distinct = self._fill(count)

    def _fill(self, count: int) -> int:
        """Enter every block; the later occurrences of one go to `_again`."""
        digests, table, mask, again = self.manifest.digests, self._table, self._mask, self._again
        distinct = 0
        for index in range(count):
            at = index * DIGEST_BYTES
            digest = digests[at : at + DIGEST_BYTES]
            slot = hash(digest) & mask
            while entry := table[slot]:
                first = (entry - 1) * DIGEST_BYTES
                if digests[first : first + DIGEST_BYTES] == digest:
                    again.setdefault(entry - 1, array("I")).append(index)
                    break
                slot = (slot + 1) & mask
            else:
                table[slot] = index + 1
                distinct += 1
        return distinct

    def index(self, digest: Digest) -> int | None:
        """The block's first index in the manifest, or None if it is not part of it."""
        digests, table, mask = self.manifest.digests, self._table, self._mask
        slot = hash(digest) & mask
        while entry := table[slot]:
            first = (entry - 1) * DIGEST_BYTES
            if digests[first : first + DIGEST_BYTES] == digest:
                return entry - 1
            slot = (slot + 1) & mask
        return None

    def __contains__(self, digest: Digest) -> bool:
        return self.index(digest) is not None

    def __len__(self) -> int:
        """How many distinct blocks."""
        return self._distinct

    def length(self, digest: Digest) -> int:
        """The block's bytes.

        Raises:
            KeyError: if it is not part of the model.
        """
        return self._spot(self._known(digest))[1]

    def spots(self, digest: Digest) -> tuple[Spot, ...]:
        """Everywhere the block goes, in the order of the manifest.

        Raises:
            KeyError: if it is not part of the model.
        """
        return self.spots_at(self._known(digest))

    def spots_at(self, first: int) -> tuple[Spot, ...]:
        """As `spots`, for the block of which this is the first index."""
        again = self._again.get(first)
        if again is None:
            return (self._spot(first)[0],)
        return tuple([self._spot(index)[0] for index in (first, *again)])

    def wants(self) -> Iterator[tuple[int, Digest, int, int]]:
        """Each distinct block: its first index, digest, length and first file, ascending."""
        repeats = bytearray(self.manifest.block_count)
        for indexes in self._again.values():
            for index in indexes:
                repeats[index] = 1
        for index, (raw, length, file, _) in enumerate(self.manifest.occurrences()):
            if not repeats[index]:
                yield index, Digest(raw), length, file

    @property
    def repeats(self) -> bool:
        """Whether any block goes to more than one place."""
        return bool(self._again)

    @property
    def unique_bytes(self) -> int:
        """Bytes of all distinct blocks together: what a pull moves if nothing is here."""
        return self.manifest.size - sum(
            self._spot(index)[1] * len(indexes) for index, indexes in self._again.items()
        )

    def _known(self, digest: Digest) -> int:
        index = self.index(digest)
        if index is None:
            raise KeyError(digest)
        return index

    def _spot(self, index: int) -> tuple[Spot, int]:
        """Where the occurrence at `index` goes, and its length."""
        number = bisect_right(self._starts, index) - 1
        file = self._where[2 * number]
        run = self.manifest.files[file].runs[self._where[2 * number + 1]]
        skip = (index - run.first_block) * self.manifest.block_bytes
        return Spot(file, run.offset + skip), min(self.manifest.block_bytes, run.length - skip)
