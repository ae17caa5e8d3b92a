"""Whether a pulled directory is known to be on disk, not only in the page cache.

A pull does not wait for the disk unless told to. Until its files are flushed, or found right
after another start of the machine, `.icnblocks/unflushed` holds the boot id under which they were
written: after a power cut a file may have the size and times that the index knows, and zeros in
it. A flush notes there that it has begun: the kernel says only once that it could not write a file
back, keeps what it could not write in the page cache, and says of the next flush that all is well.
So after one that did not end the files are written anew. This module must not hash anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from icnblocks.assembly.blockmap import PATH as MAP
from icnblocks.assembly.directory import MANIFEST, NAME, STATE
from icnblocks.store.boot import boot_id
from icnblocks.store.database import storage_errors

if TYPE_CHECKING:
    from pathlib import Path

    from icnblocks.assembly.directory import ModelDirectory

_MARK: Final = "unflushed"
_BEGUN: Final = b" flushing"


def is_marked(root: Path) -> bool:
    """Whether there are files that nobody flushed."""
    return (root / STATE / _MARK).exists()


def is_doubtful(root: Path) -> bool:
    """Whether the disk may not have what the index knows.

    There are files that nobody flushed, written before the machine was started, or a flush failed.
    """
    return _doubt(root) is not None


def has_failed(root: Path) -> bool:
    """Whether a flush did not end, so that the page cache may hold what the disk has not.

    What is read after another start of the machine is the disk's.
    """
    return _read(root) == boot_id().encode() + _BEGUN


def doubtful_ns(root: Path) -> int | None:
    """When files last got their names, if the disk may not have all that was written before."""
    path = root / STATE / _MARK
    with storage_errors(path):
        return path.stat().st_mtime_ns if is_doubtful(root) else None


def _doubt(root: Path) -> bytes | None:
    """The mark, if what it says leaves a doubt."""
    written_in = _read(root)
    return None if written_in and written_in == boot_id().encode() else written_in


def _read(root: Path) -> bytes | None:
    path = root / STATE / _MARK
    with storage_errors(path):
        try:
            return path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None


def mark(directory: ModelDirectory) -> None:
    """Files are about to get their names that may be in the page cache only.

    What was doubtful stays so, though noted anew: until all have their names some are of then.
    """
    doubt = _doubt(directory.root)
    directory.write_state(_MARK, boot_id().encode() if doubt is None else doubt)


def keep_mark(directory: ModelDirectory) -> None:
    """Flush the mark, and the block map: after a power cut it says whose files these are."""
    directory.sync([f"{STATE}/{_MARK}", MAP])


def written_anew(directory: ModelDirectory) -> None:
    """No file is left of those that were doubtful: all were found right, or written, since."""
    directory.write_state(_MARK, boot_id().encode())


def unmark(directory: ModelDirectory) -> None:
    """All files are known to be on disk."""
    directory.remove(f"{STATE}/{_MARK}")


def flush(directory: ModelDirectory, paths: list[str]) -> None:
    """Flush the pull to disk, if nobody has done so: the files `paths`, and our own state."""
    if is_marked(directory.root):
        directory.write_state(_MARK, boot_id().encode() + _BEGUN)
        directory.sync([*paths, f"{STATE}/{NAME}", f"{STATE}/{MANIFEST}"])
        unmark(directory)
