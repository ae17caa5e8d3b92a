"""What already lies in a model directory: which files are whole, ours to replace, or a user's.

A file that the index knows and that did not change since is believed; any other is hashed. What
a user changed is never overwritten unasked. This module must not change any file of a model.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from icnblocks.assembly import blockmap
from icnblocks.assembly.contents import file_is_right, right_blocks
from icnblocks.assembly.directory import MANIFEST, NAME, PARTIAL, STATE, ModelDirectory
from icnblocks.assembly.former import Former, former_pulls
from icnblocks.client.resolve import Resolved
from icnblocks.errors import ConflictError, FormatError, IcnError, NotFoundError, UsageError
from icnblocks.manifest.codec import decode, digest_of
from icnblocks.naming import Digest, Name
from icnblocks.store.database import storage_errors
from icnblocks.store.inplace import FileFacts
from icnblocks.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
    from pathlib import Path

    from icnblocks.assembly.assembler import Assembler
    from icnblocks.manifest.model import Manifest
    from icnblocks.store.inplace import InPlaceStore


@dataclass(frozen=True, slots=True)
class Inspection:
    """The state of a directory, compared with the manifest that shall be there.

    Attributes:
        whole: indexes of the manifest's files that are there and right.
        foreign: paths where a file stands that neither is right nor was put there by a pull.
        spoilt: indexes of files that stand there and are not right; blocks of theirs may be.
        stale: paths of files of earlier pulls, unchanged since, that are not in this manifest;
            of partial ones those that stand in the way.
        owner: the name of that earlier pull, if there was one of another manifest.
        indexed: whether all is there and the index says so already.
        seen: facts of what stands where the manifest's files belong, and of what is stale, by
            path; from before it was hashed.
    """

    whole: frozenset[int]
    foreign: tuple[str, ...]
    spoilt: tuple[int, ...]
    stale: frozenset[str]
    owner: Name | None
    indexed: bool
    seen: Mapping[str, FileFacts]


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
    begun: Callable[[Digest], bytes | None],
    *,
    thorough: bool = False,
    anew: bool = False,
) -> Inspection:
    """Compare a locked directory with a manifest.

    Args:
        directory: what to look at.
        digest: the manifest's digest.
        manifest: what shall be there.
        places: knows what was put there.
        begun: finds the manifest of a pull that did not end.
        thorough: hash what seems unchanged, too.
        anew: no file is whole, also those that read right: they are to be written anew.

    Raises:
        ConflictError: if a link or a directory stands where a file belongs.
        StorageError: if something cannot be read.
    """
    known = places.facts(directory.root)
    listed = places.manifest_at(directory.root)
    believed = listed == digest and not thorough
    # Of a directory that was removed since, and made anew, the index tells nothing.
    is_there = any(_facts(directory, path) == facts for path, facts in known.items())
    former = former_pulls(directory, digest, listed if is_there else None, begun)
    paths = {file.path for file in manifest.files}
    seen = _stale(directory, paths, known, former)
    spelt = {facts: path for path, facts in seen.items()}
    stale = set(seen)
    blocked = _in_the_way(paths, stale)
    whole: set[int] = set()
    spoilt: list[int] = []
    foreign: list[str] = []
    for number, file in enumerate(manifest.files):
        fd = None if file.path in blocked else directory.open_existing(file.path)
        if fd is None:
            continue
        try:
            with storage_errors(directory.root / file.path):
                facts = seen[file.path] = FileFacts.of(os.fstat(fd))
                unchanged = known.get(file.path) == facts
                # The same file where the file system ignores case, as an earlier pull spelt it.
                former_path = spelt.get(facts, file.path)
                stale.discard(former_path)
                if (believed and unchanged) or file_is_right(fd, file, manifest, directory.check):
                    if anew:
                        spoilt.append(number)
                    else:
                        whole.add(number)
                    continue
                spoilt.append(number)
                # What is listed was pulled, or published in place: then it is the user's.
                ours = unchanged and (listed == digest or former.name is not None)
                if not ours and not former.put(directory, former_path, fd):
                    foreign.append(file.path)
        finally:
            os.close(fd)
    # One that is missing may be noted as changed: then neither has facts, and they would agree.
    indexed = (
        listed == digest
        and len(whole) == len(manifest.files)
        and has_state(directory.root, digest)
        and all(known.get(file.path) == _facts(directory, file.path) for file in manifest.files)
    )
    return Inspection(
        frozenset(whole),
        tuple(foreign),
        tuple(spoilt),
        frozenset(stale),
        former.name,
        indexed,
        seen,
    )


def _stale(
    directory: ModelDirectory, paths: set[str], known: Mapping[str, FileFacts], former: Former
) -> dict[str, FileFacts]:
    gone = former.files.keys() - paths
    partials = _in_the_way([path + PARTIAL for path in gone], paths)
    return {
        path: facts
        for path in gone | partials
        if (facts := _facts(directory, path)) is not None
        and (path in partials or facts == known.get(path) or former.put_there(directory, path))
    }


def _in_the_way(paths: Iterable[str], others: Collection[str]) -> set[str]:
    """Of `paths`, those that one of `others` would have to lie in, or that lie in one of them."""
    folders = {folder for other in others for folder in _folders(other)}
    return {
        path
        for path in paths
        if path in folders or any(folder in others for folder in _folders(path))
    }


def _folders(path: str) -> Iterator[str]:
    while path := path.rpartition("/")[0]:
        yield path


def make_way(directory: ModelDirectory, manifest: Manifest, found: Inspection) -> None:
    """Remove what is stale and stands where files belong; the rest stays until these are there.

    Raises:
        ConflictError: if something else stands there, too.
        StorageError: if the disk refuses.
    """
    paths = {file.path for file in manifest.files}
    for path in _in_the_way(found.stale, paths):
        _remove_stale(directory, path, found)
    for path in _in_the_way(paths, found.stale):
        fd = directory.open_existing(path)
        if fd is not None:
            os.close(fd)


def _remove_stale(directory: ModelDirectory, path: str, found: Inspection) -> None:
    """Remove a file of an earlier pull; what somebody made of it meanwhile is theirs and stays."""
    if _facts(directory, path) == found.seen[path]:
        directory.remove(path)
        directory.remove_empty(path)


def refuse_changed(directory: ModelDirectory, path: str, found: Inspection) -> None:
    """See that what is about to be replaced is what the inspection judged.

    Raises:
        ConflictError: if somebody made or changed a file there meanwhile.
        StorageError: if it cannot be read.
    """
    if _facts_of_file(directory, path) != found.seen.get(path):
        raise _changed(directory, path)


def _changed(directory: ModelDirectory, path: str) -> ConflictError:
    return ConflictError(f"{directory.root / path} was changed during the pull")


def salvage(assembler: Assembler, files: tuple[int, ...]) -> None:
    """Take what is right in files that are to be replaced.

    Raises:
        StorageError: if the disk refuses.
    """
    manifest, directory = assembler.manifest, assembler.directory
    for number in files:
        file = manifest.files[number]
        fd = directory.open_existing(file.path)
        if fd is None:
            continue
        try:
            for block in right_blocks(fd, file, manifest, directory.check):
                assembler.accept((block,))
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
            f"{root} was not made by a pull",
            hint="give a pulled directory; of a store: icn-show NAME --store DIR",
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


def is_left(root: Path, digest: Digest) -> bool:
    """Whether a pull of another manifest was cut off there, and nobody is at work on it.

    False where that cannot be told.
    """
    if not (root / blockmap.PATH).exists():
        return False
    try:
        directory = ModelDirectory(root)
        try:
            directory.lock(wait=False)
            return is_cut_off(directory, digest)
        finally:
            directory.close()
    except IcnError:  # another process pulls, or we may not write there
        return False


def is_cut_off(directory: ModelDirectory, digest: Digest) -> bool:
    """The same, of a locked directory."""
    return blockmap.manifest_of(directory) not in {None, digest}


def _facts(directory: ModelDirectory, path: str) -> FileFacts | None:
    """Of the file at a path; None if there is none, or something else."""
    try:
        return _facts_of_file(directory, path)
    except ConflictError:
        return None


def _facts_of_file(directory: ModelDirectory, path: str) -> FileFacts | None:
    """The same, but what is no file is a ConflictError."""
    fd = directory.open_existing(path)
    if fd is None:
        return None
    try:
        return FileFacts.of(os.fstat(fd))
    finally:
        os.close(fd)


def remember(
    directory: ModelDirectory, resolved: Resolved, places: InPlaceStore, found: Inspection
) -> None:
    """Put the finished directory into the index, and remove what an earlier version left.

    Raises:
        ConflictError: if somebody changed it meanwhile.
        StorageError: if the disk refuses.
    """
    facts = {}
    for number, file in enumerate(resolved.manifest.files):
        fact = _facts(directory, file.path)
        expected = found.seen[file.path] if number in found.whole else fact
        if fact is None or fact.size != file.size or expected != fact:
            raise _changed(directory, file.path)
        facts[file.path] = fact
    for path in found.stale:  # while the index knows them: it is done again if this is cut off
        _remove_stale(directory, path, found)
    directory.remove(f"{STATE}/{NAME}")  # so that no name ever stands beside another's manifest
    directory.write_state(MANIFEST, resolved.encoded)
    directory.write_state(NAME, f"{resolved.name}\n".encode())
    # The index survives a power cut; without these it would list files that nobody pulled.
    directory.sync([f"{STATE}/{MANIFEST}", f"{STATE}/{NAME}"])
    places.add_directory(directory.root, resolved.digest, resolved.manifest, facts)


def is_for_models(path: Path) -> bool:
    """Is this a directory of a pull, or one that holds nothing, or none yet?"""
    try:
        return STATE in (held := os.listdir(path)) or not held
    except FileNotFoundError:
        return True
    except OSError:
        return False
