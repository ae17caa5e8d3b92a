"""Whether the files of a directory are of one version, for those who read while a pull replaces.

A pull renames one file after another. From before the first until the pull is noted,
`.icnblocks/renaming` holds the digest of its manifest; what is cut off in between is of two
versions, or of more: before it stand those of pulls that were cut off so earlier. A pull is noted
once the state names its manifest, so a mark that was left behind by a kill right after that is
harmless. This module must not read model files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from icnblocks.assembly.directory import MANIFEST, NAME, STATE
from icnblocks.naming import DIGEST_BYTES, Digest
from icnblocks.store.database import storage_errors

if TYPE_CHECKING:
    from pathlib import Path

    from icnblocks.assembly.directory import ModelDirectory

_MARK: Final = "renaming"
_MOST: Final = 1000 * DIGEST_BYTES


def mark(directory: ModelDirectory, digest: Digest) -> None:
    """Files of this manifest are about to get their names, or others to go.

    Raises:
        StorageError: if the disk refuses.
    """
    root = directory.root
    with storage_errors(root / STATE):
        if is_mixed(root) and _noted(root) == digest:
            # Back to what was there before a pull that was cut off: what the state says of then
            # must not vouch for the mixture.
            directory.remove(f"{STATE}/{NAME}")
    earlier = [one for one in manifests(directory) if one != digest]
    directory.write_state(_MARK, b"".join([*earlier, digest]))


def manifests(directory: ModelDirectory) -> list[Digest]:
    """Those whose pulls may have put files there since the last one that was noted.

    Raises:
        StorageError: if the disk refuses.
    """
    data = directory.read_state(_MARK, _MOST) or b""
    ends = range(DIGEST_BYTES, len(data) + 1, DIGEST_BYTES)
    return [Digest(data[end - DIGEST_BYTES : end]) for end in ends]


def unmark(directory: ModelDirectory) -> None:
    """The pull is noted.

    Raises:
        StorageError: if the disk refuses.
    """
    directory.remove(f"{STATE}/{_MARK}")


def is_mixed(root: Path) -> bool:
    """Whether a pull is replacing the files of a directory, or was cut off while it did.

    Raises:
        OSError: as the disk says.
    """
    if _read(root / STATE / _MARK) is None:
        return False
    # In this order: whoever reads while a pull ends or another begins must not see the mark of
    # one and what the other noted.
    noted = _noted(root)
    marked = _read(root / STATE / _MARK)
    if marked is None:
        return False
    return marked[-DIGEST_BYTES:] != noted or not (root / STATE / NAME).exists()


def _noted(root: Path) -> Digest | None:
    """The manifest of the last pull that was noted."""
    data = _read(root / STATE / MANIFEST)
    return None if data is None else Digest.of(data)


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
