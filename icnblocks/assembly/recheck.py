"""Rechecking what lies on disk: every block of a directory or a store hashed again.

It says what is wrong and changes nothing; repair is a pull's business, or a store's `erase`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from icnblocks.assembly.contents import bad_blocks, file_reads_right
from icnblocks.assembly.directory import ModelDirectory
from icnblocks.errors import ChangedError, ConflictError, CorruptError, StorageError
from icnblocks.store.base import verify
from icnblocks.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from icnblocks.manifest.model import File, Manifest
    from icnblocks.naming import Digest
    from icnblocks.store.base import ReadableStore
    from icnblocks.store.inplace import InPlaceStore


@dataclass(frozen=True, slots=True)
class Wrong:
    """Something that is not as it should be.

    Attributes:
        path: the file.
        what: in words.
        blocks: how many of its blocks are wrong; 0 when the whole file is missing.
    """

    path: str
    what: str
    blocks: int


@dataclass(frozen=True, slots=True)
class BadBlock:
    """A stored block that is not as named, or that cannot be told.

    Attributes:
        digest: its name.
        what: in words.
        was_read: False where the system refused; its bytes may be right.
    """

    digest: Digest
    what: str
    was_read: bool


def recheck_directory(
    root: Path, manifest: Manifest, check: Callable[[], None] = lambda: None
) -> Iterator[Wrong]:
    """Hash every file of a model directory against its manifest.

    Args:
        root: the directory.
        manifest: what shall be there.
        check: called before each block is read; what it raises ends the reading.

    Raises:
        StorageError: if something cannot be read.
    """
    directory = ModelDirectory(root, check)
    try:
        for file in manifest.files:
            wrong = _recheck_file(directory, file, manifest)
            if wrong is not None:
                yield wrong
    finally:
        directory.close()


def _recheck_file(directory: ModelDirectory, file: File, manifest: Manifest) -> Wrong | None:
    try:
        fd = directory.open_existing(file.path)
    except ConflictError as error:
        return Wrong(file.path, str(error), 0)
    if fd is None:
        return Wrong(file.path, "is missing", 0)
    try:
        size = os.fstat(fd).st_size
        bad = list(bad_blocks(fd, file, manifest, directory.check))
    finally:
        os.close(fd)
    if size != file.size:
        return Wrong(file.path, f"has {size} bytes, not {file.size}", len(bad))
    if not bad:
        return None
    offset, length = bad[0]
    named = next(
        (run.tensor for run in file.runs if run.offset <= offset < run.offset + run.length), None
    )
    where = f" (tensor {named.name})" if named else ""
    what = f"{len(bad)} blocks are wrong, the first at byte {offset}, {length} bytes{where}"
    return Wrong(file.path, what, len(bad))


def recheck_in_place(places: InPlaceStore, root: Path, manifest: Manifest) -> list[str]:
    """Hash every file of a directory in the index, and note there which of them are right.

    Returns:
        Paths below `root` of those that are not, or cannot be read.

    Raises:
        StorageError, BusyError: if the index cannot be written.
    """
    files = {file.path: file for file in manifest.files}

    def is_right(path: str, fd: int) -> bool:
        return path in files and file_reads_right(fd, files[path], manifest)

    return places.recheck(root, is_right)


def recheck_store(store: ReadableStore) -> Iterator[BadBlock]:
    """Read and hash every block of a store; yields the wrong ones, and those that were not read."""
    for digest, length in list(store.blocks()):
        try:
            lease = store.open(digest)
            if lease is None:
                continue
            with lease:
                if lease.length != length:
                    raise CorruptError(f"block {digest} has {lease.length} bytes, not {length}")
                verify(digest, lease.read())
        except (CorruptError, ChangedError) as error:
            yield BadBlock(digest, str(error), was_read=True)
        except StorageError as error:
            yield BadBlock(digest, f"block {digest} was not read: {error}", was_read=False)
