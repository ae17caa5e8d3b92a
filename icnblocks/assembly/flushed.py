"""Whether a pulled directory is known to be on disk, not only in the page cache.

A pull does not wait for the disk unless told to. Until its files are flushed, or found right
after another start of the machine, `.icnblocks/unflushed` holds the boot id under which they were
written: after a power cut a file may have the size and times that the index knows, and zeros in
it. This module must not hash anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from icnblocks.assembly.directory import MANIFEST, NAME, STATE
from icnblocks.store.boot import boot_id
from icnblocks.store.database import storage_errors

if TYPE_CHECKING:
    from pathlib import Path

    from icnblocks.assembly.directory import ModelDirectory

_MARK: Final = "unflushed"


def is_marked(root: Path) -> bool:
    """Whether there are files that nobody flushed."""
    return (root / STATE / _MARK).exists()


def is_doubtful(root: Path) -> bool:
    """Whether there are files that nobody flushed, written before the machine was started."""
    path = root / STATE / _MARK
    with storage_errors(path):
        try:
            written_in = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return False
    return not written_in or written_in != boot_id().encode()


def mark(directory: ModelDirectory) -> None:
    """Files are about to get their names that may be in the page cache only."""
    directory.write_state(_MARK, boot_id().encode())
    directory.sync([f"{STATE}/{_MARK}"])


def unmark(directory: ModelDirectory) -> None:
    """All files are known to be on disk."""
    directory.remove(f"{STATE}/{_MARK}")


def flush(directory: ModelDirectory, paths: list[str]) -> None:
    """Flush the pull to disk, if nobody has done so: the files `paths`, and our own state."""
    if is_marked(directory.root):
        directory.sync([*paths, f"{STATE}/{NAME}", f"{STATE}/{MANIFEST}"])
        unmark(directory)
