"""What already lies in a model directory: which files are whole, ours to replace, or a user's.

A file that the index knows and that did not change since is believed; any other is hashed. What
a user changed is never overwritten unasked. This module must not change any file of a model.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from icnblocks.assembly.directory import MANIFEST, NAME, STATE
from icnblocks.client.resolve import Resolved
from icnblocks.errors import ConflictError, FormatError, NotFoundError, UsageError
from icnblocks.limits import MAX_MANIFEST_BYTES
from icnblocks.manifest.codec import decode, digest_of
from icnblocks.naming import Digest, Name
from icnblocks.store.base import verify
from icnblocks.store.database import storage_errors
from icnblocks.store.extents import read_all
from icnblocks.store.inplace import FileFacts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from icnblocks.assembly.assembler import Assembler
    from icnblocks.assembly.directory import ModelDirectory
    from icnblocks.manifest.model import File, Manifest
    from icnblocks.store.inplace import InPlaceStore

_NAME_BYTES: Final = 512


@dataclass(frozen=True, slots=True)
class Inspection:
    """The state of a directory, compared with the manifest that shall be there.

    Attributes:
        whole: indexes of the manifest's files that are there and right.
        foreign: paths where a file stands that neither is right nor was put there by a pull.
        spoilt: indexes of files that stand there and are not right; blocks of theirs may be.
        stale: paths of files of an earlier pull, unchanged since, that are not in this manifest.
        owner: the name of that earlier pull, if it was of another manifest.
        indexed: whether all is there and the index says so already.
        seen: facts of the files that are whole, from before they were hashed, by path.
    """

    whole: frozenset[int]
    foreign: tuple[str, ...]
    spoilt: tuple[int, ...]
    stale: tuple[str, ...]
    owner: Name | None
    indexed: bool
    seen: Mapping[str, FileFacts]


def file_is_right(fd: int, file: File, manifest: Manifest) -> bool:
    """Does the open file have the size and the blocks that the manifest says?"""
    if os.fstat(fd).st_size != file.size:
        return False
    return not any(bad for bad in bad_blocks(fd, file, manifest))


def _cut(file: File, manifest: Manifest) -> Iterator[tuple[Digest, int, int]]:
    """(digest, length, offset) of every block of a file."""
    for run in file.runs:
        end = run.offset + run.length
        offsets = range(run.offset, end, manifest.block_bytes)
        for index, offset in enumerate(offsets, run.first_block):
            yield manifest.digest_at(index), min(manifest.block_bytes, end - offset), offset


def _read_right(fd: int, digest: Digest, length: int, offset: int) -> bytes | None:
    """A block's bytes, or None where they are others or the disk cannot read them."""
    try:
        data = read_all(fd, length, offset)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return None
    return data if Digest.of(data) == digest else None


def bad_blocks(fd: int, file: File, manifest: Manifest) -> Iterator[tuple[int, int]]:
    """(offset, length) of every block of the open file whose bytes are not as named."""
    for digest, length, offset in _cut(file, manifest):
        if _read_right(fd, digest, length, offset) is None:
            yield offset, length


def is_unchanged(root: Path, manifest: Manifest, places: InPlaceStore) -> bool:
    """Whether all files of the model are what they were when the index learnt of them."""
    known = places.facts(root)
    try:
        return all(
            known.get(file.path) == FileFacts.of(os.stat(root / file.path))
            for file in manifest.files
        )
    except OSError:
        return False


def inspect(
    directory: ModelDirectory,
    digest: Digest,
    manifest: Manifest,
    places: InPlaceStore,
    *,
    thorough: bool = False,
) -> Inspection:
    """Compare a locked directory with a manifest.

    Args:
        directory: what to look at.
        digest: the manifest's digest.
        manifest: what shall be there.
        places: knows what was put there.
        thorough: hash what seems unchanged, too.

    Raises:
        ConflictError: if a link or a directory stands where a file belongs.
        StorageError: if something cannot be read.
    """
    known = places.facts(directory.root)
    listed = places.manifest_at(directory.root)
    believed = listed == digest and not thorough
    # What is listed was pulled, or published in place: then it is the user's.
    owner = None if listed is None or believed else _owner(directory, listed)
    whole: set[int] = set()
    spoilt: list[int] = []
    foreign: list[str] = []
    seen: dict[str, FileFacts] = {}
    for number, file in enumerate(manifest.files):
        fd = directory.open_existing(file.path)
        if fd is None:
            continue
        try:
            with storage_errors(directory.root / file.path):
                facts = FileFacts.of(os.fstat(fd))
                unchanged = known.get(file.path) == facts
                if (believed and unchanged) or file_is_right(fd, file, manifest):
                    whole.add(number)
                    seen[file.path] = facts
                else:
                    spoilt.append(number)
                    if not unchanged or owner is None:
                        foreign.append(file.path)
        finally:
            os.close(fd)
    # One that is missing may be noted as changed: then neither has facts, and they would agree.
    indexed = (
        believed
        and len(whole) == len(manifest.files)
        and has_state(directory.root, digest)
        and all(known.get(file.path) == _facts(directory, file.path) for file in manifest.files)
    )
    paths = {file.path for file in manifest.files}
    stale = tuple(
        path
        for path, facts in known.items()
        if owner is not None and path not in paths and facts == _facts(directory, path)
    )
    return Inspection(frozenset(whole), tuple(foreign), tuple(spoilt), stale, owner, indexed, seen)


def _owner(directory: ModelDirectory, listed: Digest) -> Name | None:
    """The name by which the manifest that is listed was pulled here, or None if it was not."""
    manifest = directory.read_state(MANIFEST, MAX_MANIFEST_BYTES)
    name = directory.read_state(NAME, _NAME_BYTES)
    if manifest is None or name is None or Digest.of(manifest) != listed:
        return None
    try:
        return Name.parse(name.decode(errors="replace").strip())
    except UsageError:
        return None


def salvage(assembler: Assembler, files: tuple[int, ...]) -> None:
    """Take what is right in files that are to be replaced.

    Raises:
        StorageError: if the disk refuses.
    """
    manifest = assembler.manifest
    for number in files:
        file = manifest.files[number]
        fd = assembler.directory.open_existing(file.path)
        if fd is None:
            continue
        try:
            for digest, length, offset in _cut(file, manifest):
                data = _read_right(fd, digest, length, offset)
                if data is not None:
                    assembler.accept((verify(digest, data),))
        finally:
            os.close(fd)


def pulled_into(root: Path) -> Resolved:
    """What a pull left in its directory.

    Raises:
        NotFoundError: if no pull was finished there, or what it left is damaged.
    """
    try:
        data = (root / STATE / MANIFEST).read_bytes()
        name = (root / STATE / NAME).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        if not root.exists():
            raise NotFoundError(f"there is no directory {root}", hint="check the path") from error
        raise NotFoundError(
            f"{root} was not made by a pull", hint="give a pulled directory or a store"
        ) from error
    try:
        return Resolved(Name.parse(name), digest_of(data), decode(data), 0, data)
    except (UsageError, FormatError) as error:
        raise NotFoundError(
            f"what {root} says of its pull is damaged: {error}", hint="pull the model there again"
        ) from error


def has_state(root: Path, digest: Digest) -> bool:
    """Whether a directory that a pull made says of which manifest; one that none made need not."""
    if not (root / STATE).is_dir():
        return True
    try:
        Name.parse((root / STATE / NAME).read_text().strip())
        return Digest.of((root / STATE / MANIFEST).read_bytes()) == digest
    except (OSError, UnicodeDecodeError, UsageError):
        return False


def _facts(directory: ModelDirectory, path: str) -> FileFacts | None:
    try:
        fd = directory.open_existing(path)
    except ConflictError:
        return None
    if fd is None:
        return None
    facts = FileFacts.of(os.fstat(fd))
    os.close(fd)
    return facts


def remember(
    directory: ModelDirectory, resolved: Resolved, places: InPlaceStore, found: Inspection
) -> None:
    """Put the finished directory into the index, and remove what an earlier version left.

    Raises:
        ConflictError: if somebody changed it meanwhile.
        StorageError: if the disk refuses.
    """
    facts = {}
    for file in resolved.manifest.files:
        fact = _facts(directory, file.path)
        if fact is None or fact.size != file.size or found.seen.get(file.path, fact) != fact:
            raise ConflictError(f"{directory.root / file.path} was changed during the pull")
        facts[file.path] = fact
    for path in found.stale:  # while the index knows them: it is done again if this is cut off
        directory.remove(path)
    directory.remove(f"{STATE}/{NAME}")  # so that no name ever stands beside another's manifest
    directory.write_state(MANIFEST, resolved.encoded)
    directory.write_state(NAME, f"{resolved.name}\n".encode())
    places.add_directory(directory.root, resolved.digest, resolved.manifest, facts)
