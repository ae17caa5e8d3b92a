"""The bytes of a model's file, held against its manifest block by block. Changes nothing."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from icnblocks.errors import CorruptError
from icnblocks.store.base import verify
from icnblocks.store.extents import read_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from icnblocks.manifest.model import File, Manifest
    from icnblocks.naming import Digest
    from icnblocks.store.base import Verified


def file_is_right(fd: int, file: File, manifest: Manifest, check: Callable[[], None]) -> bool:
    """Does the open file have the size and the blocks that the manifest says?

    Here and below, `check` is called before each block is read; what it raises ends the reading.
    """
    if os.fstat(fd).st_size != file.size:
        return False
    return not any(bad for bad in bad_blocks(fd, file, manifest, check))


def file_reads_right(fd: int, file: File, manifest: Manifest) -> bool:
    """The same, but what the disk cannot read is not said to be wrong.

    Raises:
        OSError: if it cannot.
    """
    if os.fstat(fd).st_size != file.size:
        return False
    return all(_read(fd, *block) is not None for block in cut(file, manifest))


def bad_blocks(
    fd: int, file: File, manifest: Manifest, check: Callable[[], None]
) -> Iterator[tuple[int, int]]:
    """(offset, length) of every block of the open file whose bytes are not as named."""
    for digest, length, offset in cut(file, manifest):
        check()
        if _read_right(fd, digest, length, offset) is None:
            yield offset, length


def right_blocks(
    fd: int, file: File, manifest: Manifest, check: Callable[[], None]
) -> Iterator[Verified]:
    """Every block of the open file whose bytes are as named."""
    for digest, length, offset in cut(file, manifest):
        check()
        block = _read_right(fd, digest, length, offset)
        if block is not None:
            yield block


def cut(file: File, manifest: Manifest) -> Iterator[tuple[Digest, int, int]]:
    """(digest, length, offset) of every block of a file."""
    for run in file.runs:
        end = run.offset + run.length
        offsets = range(run.offset, end, manifest.block_bytes)
        for index, offset in enumerate(offsets, run.first_block):
            yield manifest.digest_at(index), min(manifest.block_bytes, end - offset), offset


def _read_right(fd: int, digest: Digest, length: int, offset: int) -> Verified | None:
    """A block, or None where its bytes are others or the disk cannot read them."""
    try:
        return _read(fd, digest, length, offset)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return None


def _read(fd: int, digest: Digest, length: int, offset: int) -> Verified | None:
    """A block, or None where its bytes are others."""
    try:
        return verify(digest, read_all(fd, length, offset))
    except CorruptError:
        return None
