"""The manifest as a value: one model's files, tensors and blocks.

Blocks are not objects here: their digests are packed into one bytes object, 32 bytes each, in
the order of the files and their runs, so that a manifest of 100,000 blocks costs megabytes.
This module must not encode, decode, check or read anything; its neighbours do.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from icnblocks.naming import DIGEST_BYTES, Digest, Name
from icnblocks.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator


class Kind(StrEnum):
    """What a model is: weights of its own, a delta to a base, or any files."""

    BASE = "base"
    ADAPTER = "adapter"
    PACK = "pack"


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of a safetensors file: its name, dtype as the header spells it, and shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive bytes of a file that are cut from their own first byte.

    Attributes:
        offset: first byte in the file.
        length: bytes; 0 is allowed (an empty tensor) and has no blocks.
        first_block: index in the manifest of its first block.
        tensor: the tensor whose bytes these are, or None (a header, or a file of another kind).
    """

    offset: int
    length: int
    first_block: int
    tensor: Tensor | None = None


@dataclass(frozen=True, slots=True)
class File:
    """A file: its path below the model directory (`/` between parts), size, and runs in order.

    The runs cover the file from its first byte to its last without gap or overlap.
    """

    path: str
    size: int
    runs: tuple[Run, ...]


@dataclass(frozen=True, slots=True)
class BaseRef:
    """The base that an adapter is a delta to. The digest binds; the name is where to look."""

    name: Name
    manifest: Digest


@dataclass(frozen=True, slots=True)
class Block:
    """One occurrence of a block in a model.

    Attributes:
        index: position in the manifest.
        digest: its name.
        length: bytes, 1 to block_bytes.
        file: index of the file in the manifest.
        offset: first byte in that file.
    """

    index: int
    digest: Digest
    length: int
    file: int
    offset: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """An immutable description of one model; named by the digest of its encoding.

    Attributes:
        kind: base, adapter or pack.
        block_bytes: the size at which runs are cut.
        files: in ascending order of path.
        digests: 32 bytes for each block, in order of files, runs and offsets.
        base: set for adapters only.
        minor: minor version of the format that wrote it.
        extra: fields this version does not know, as (key, encoded value), kept for a round trip.
    """

    kind: Kind
    block_bytes: int
    files: tuple[File, ...]
    digests: bytes
    base: BaseRef | None = None
    minor: int = 0
    extra: tuple[tuple[str, bytes], ...] = ()

    @property
    def block_count(self) -> int:
        """Occurrences of blocks (a block that occurs twice counts twice)."""
        return len(self.digests) // DIGEST_BYTES

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(file.size for file in self.files)

    def digest_at(self, index: int) -> Digest:
        """The digest of the block at `index`."""
        return Digest(self.digests[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES])

    def blocks(self) -> Iterator[Block]:
        """Every occurrence of every block, in manifest order."""
        for index, (raw, length, file, offset) in enumerate(self.occurrences()):
            yield Block(index, Digest(raw), length, file, offset)

    def occurrences(self) -> Iterator[tuple[bytes, int, int, int]]:
        """As `blocks`, for who goes through many: raw digest, length, file and offset of each."""
        digests, block_bytes = self.digests, self.block_bytes
        at = 0  # runs come in the order of their blocks
        for number, file in enumerate(self.files):
            for run in file.runs:
                offset, left = run.offset, run.length
                while left > 0:
                    length = min(left, block_bytes)
                    yield digests[at : at + DIGEST_BYTES], length, number, offset
                    at, offset, left = at + DIGEST_BYTES, offset + length, left - length

    def lengths(self) -> dict[Digest, int]:
        """Each distinct block once, with its length: what a store must hold for this model."""
        return {Digest(raw): length for raw, length, _, _ in self.occurrences()}
