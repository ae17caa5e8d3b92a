"""Verified blocks become files: written at their final offsets under a `.partial` name, resumable.

A block goes straight to every place where it belongs, so memory does not grow with the model.
When all are there the files are renamed. What a killed run left is taken up again: its notes are
believed only when they are of this boot and no partial file is younger than they are; else the
noted blocks are hashed again, as is all that a pull of another version left. This module must not
fetch anything.
"""

from __future__ import annotations

import os
import resource
from contextlib import ExitStack
from typing import TYPE_CHECKING

from icnblocks.assembly import flushed, renaming
from icnblocks.assembly.blockmap import PATH as MAP_PATH
from icnblocks.assembly.blockmap import BlockMap
from icnblocks.assembly.directory import PARTIAL
from icnblocks.errors import IncompleteError, StorageError
from icnblocks.limits import BLOCK_BYTES, KIB
from icnblocks.manifest.cutting import is_safetensors
from icnblocks.naming import Digest
from icnblocks.store.database import storage_errors
from icnblocks.store.extents import read_all, reserve, write_all
from icnblocks.wire.bundle import Want

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from icnblocks.assembly.directory import ModelDirectory
    from icnblocks.manifest.model import Manifest
    from icnblocks.placement.plan import Plan, Spot
    from icnblocks.store.base import Verified

_KEPT_OPEN = 256
"""Partial files at most; and a quarter of the files that the system allows this process."""
_JOINED_BYTES = 256 * KIB
"""Blocks that follow one another are written together up to here."""


def on_a_disk(facts: os.stat_result) -> bool:
    """Whether a file's system has a block device of its own: one in memory has not.

    To take room in memory is to find every page of it, which those who write do side by side.
    """
    return os.major(facts.st_dev) != 0


class _Partials:
    """The partial files of a pull, made at their full size, a bounded number of them kept open."""

    def __init__(
        self,
        directory: ModelDirectory,
        manifest: Manifest,
        files: list[int],
        doubt: Callable[[], None],
    ) -> None:
        self._directory = directory
        self._doubt = doubt
        self._paths = {file: manifest.files[file].path + PARTIAL for file in files}
        self._open: dict[int, int] = {}
        self._most = min(_KEPT_OPEN, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4)
        self.youngest = 0
        self.fresh: set[int] = set()
        try:
            for file in files:
                path = directory.root / self._paths[file]
                with storage_errors(path):
                    self._make(file, manifest.files[file].size)
                    os.stat(path)  # the index and loaders reach it so: it may be too long
        except BaseException:
            self.close()
            raise

    def _make(self, file: int, size: int) -> None:
        path = self._paths[file]
        fd = self._directory.open(path, os.O_RDWR | os.O_CREAT)
        if os.fstat(fd).st_size not in {0, size}:
            # Nothing of it will be believed, but who streamed another version may have it mapped:
            # the kernel ends a process that touches what was cut off.
            os.close(fd)
            self._directory.remove(path)
            fd = self._directory.open(path, os.O_RDWR | os.O_CREAT)
        kept = len(self._open) < self._most
        if kept:
            self._open[file] = fd
        try:
            facts = os.fstat(fd)
            if facts.st_size != size:
                self.fresh.add(file)
                os.ftruncate(fd, size)
            else:
                self.youngest = max(self.youngest, facts.st_mtime_ns)
        finally:
            if not kept:
                self.let_go(file, fd)

    def use(self, file: int) -> tuple[int, bool]:
        """A descriptor of the file, and whether the caller has to close it."""
        fd = self._open.get(file)
        if fd is not None:
            return fd, False
        return self._directory.open(self._paths[file], os.O_RDWR), True

    def unallocated(self, file: int) -> int:
        """Bytes of the file for which the file system has taken no room yet."""
        fd, mine = self.use(file)
        try:
            facts = os.fstat(fd)
        finally:
            if mine:
                self.let_go(file, fd)
        return max(0, facts.st_size - facts.st_blocks * 512)

    def reserve(self, file: int, size: int) -> None:
        fd, mine = self.use(file)
        if on_a_disk(os.fstat(fd)):
            reserve(fd, size)
        if mine:
            self.let_go(file, fd)

    def path(self, file: int) -> str:
        return self._paths[file]

    def let_go(self, file: int, fd: int) -> None:
        """Close a descriptor; some file systems say only then that they could not write."""
        try:
            os.close(fd)
        except OSError as error:
            self._doubt()
            raise StorageError.of(error, str(self._directory.root / self._paths[file])) from error

    def close(self) -> None:
        with ExitStack() as stack:  # all of them, also if one fails
            while self._open:
                stack.callback(self.let_go, *self._open.popitem())


class Assembler:
    """Assembles one model in one locked directory. `accept` may be called from any thread.

    Args:
        directory: where; locked by the caller, who also closes it.
        digest: the manifest's digest.
        manifest: what to assemble.
        plan: its plan.
        whole: indexes of files that are already there and right.

    Raises:
        StorageError: if the disk refuses.
    """

    def __init__(
        self,
        directory: ModelDirectory,
        digest: Digest,
        manifest: Manifest,
        plan: Plan,
        whole: frozenset[int],
    ) -> None:
        self.directory = directory
        self.manifest = manifest
        self._digest = digest
        self._plan = plan
        self.whole = whole
        self._todo = [file for file in range(len(manifest.files)) if file not in whole]
        for file in whole:  # what another pull left of it is of another time than the notes
            directory.remove(manifest.files[file].path + PARTIAL)
        self._map = BlockMap.open(directory, digest, manifest.block_count)
        try:
            self._partials = _Partials(directory, manifest, self._todo, self._map.doubt)
            self._have = bytearray(manifest.block_count)
            for index in self._believed():
                self._have[index] = 1
        except BaseException:
            self._map.close()
            raise

    def spots(self, digest: Digest) -> Sequence[Spot]:
        """Where a block belongs in files that are not whole yet."""
        return self._spots_at(self._index(digest))

    def _spots_at(self, index: int) -> Sequence[Spot]:
        spots, whole = self._plan.spots_at(index), self.whole
        return [spot for spot in spots if spot.file not in whole] if whole else spots

    def _believed(self) -> set[int]:
        """The noted blocks (by first index in the manifest) that are really there."""
        # What an earlier version left is noted with its repeats, of which the first stands for all.
        noted = {self._index(self.manifest.digest_at(index)) for index in self._map.noted}
        fresh = self._partials.fresh
        there = {
            index
            for index in noted
            if not any(spot.file in fresh for spot in self._spots_at(index))
        }
        if self._map.same_boot and self._partials.youngest <= self._map.written_ns:
            if len(there) < len(noted):  # else the notes to come would make the others look right
                self._map.rewrite(sorted(there))
            return there
        there = {index for index in there if self._reads_right(self.manifest.digest_at(index))}
        self._map.rewrite(sorted(there))
        return there

    def _reads_right(self, digest: Digest) -> bool:
        length = self._plan.length(digest)
        for spot in self.spots(digest):
            self.directory.check()
            with self.writing(spot.file) as fd:
                data = read_all(fd, length, spot.offset)
                if Digest.of(data) != digest:
                    return False
                if self._map.lost:
                    write_all(fd, data, spot.offset)
        return True

    def missing(self) -> list[Want]:
        """Distinct blocks that are still wanted, in manifest order."""
        return [want for want, _ in self._missing()]

    def missing_bytes(self) -> int:
        """Of those blocks together."""
        if not self.whole and not any(self._have):
            return self._plan.unique_bytes
        return sum(want.length for want, _ in self._missing())

    def _missing(self) -> Iterator[tuple[Want, int]]:
        """The same, each with the first file that it belongs to."""
        have, whole = self._have, self.whole
        for index, digest, length, file in self._plan.wants():
            if not have[index] and (not whole or self._spots_at(index)):
                yield Want(digest, length), file

    def parts(self, most: int) -> list[list[Want]]:
        """What is missing, in at most `most` parts of about one size, cut between files.

        Threads that write into one file wait for each other: file systems lock it meanwhile. They
        had better work on different parts. A model in one file is one part; none is empty.
        """
        missing = list(self._missing())
        enough = sum(want.length for want, _ in missing) / most
        parts: list[list[Want]] = []
        taken, last = 0.0, -1
        for want, file in missing:
            if file != last and taken >= enough * len(parts):
                parts.append([])
            parts[-1].append(want)
            taken, last = taken + want.length, file
        return parts

    def listed(self) -> list[Want]:
        """What is missing as a loader needs it: first what tells of the model, then its tensors."""
        files = self.manifest.files
        missing = sorted(self._missing(), key=lambda each: is_safetensors(files[each[1]].path))
        return [want for want, _ in missing]

    def has(self, digest: Digest) -> bool:
        """Is a block in all its places? Of a whole file it may not be known."""
        return bool(self._have[self._index(digest)])

    def reading(self, file: int) -> int:
        """A new descriptor of a file, whole or partial; the caller closes it.

        Raises:
            StorageError: if the disk refuses.
        """
        path = self.manifest.files[file].path + ("" if file in self.whole else PARTIAL)
        with storage_errors(self.directory.root / path):
            return self.directory.open(path, os.O_RDONLY)

    def room(self, wants: Iterable[Want]) -> int:
        """Bytes of disk that blocks need: one of many places comes once, and needs it in each."""
        if self._plan.repeats:
            return sum(want.length * len(self.spots(want.digest)) for want in wants)
        return sum(want.length for want in wants)

    def unallocated(self) -> int:
        """Bytes of disk that all partial files need to be full: what lies there is written over.

        Raises:
            StorageError: if the disk refuses.
        """
        with storage_errors(self.directory.root):
            return sum(map(self._partials.unallocated, self._todo))

    def reserve(self) -> None:
        """Have a disk's file system take the room that large files still need at once, if it can.

        After what is shared with other files was: that needs none.

        Raises:
            StorageError: if the disk refuses.
        """
        for file in self._todo:
            size = self.manifest.files[file].size
            if size >= BLOCK_BYTES:
                with storage_errors(self.directory.root):
                    self._partials.reserve(file, size)

    def _index(self, digest: Digest) -> int:
        index = self._plan.index(digest)
        if index is None:
            raise KeyError(digest)
        return index

    def accept(self, blocks: Sequence[Verified]) -> None:
        """Write blocks to every place where they belong, then note them.

        Raises:
            StorageError: if the disk refuses; the blocks count as missing then.
        """
        indexes = [self._index(block.digest) for block in blocks]
        pieces = [
            (spot, block.data)
            for index, block in zip(indexes, blocks, strict=True)
            for spot in self._spots_at(index)
        ]
        for spot, data in _joined(pieces) if len(pieces) > 1 else pieces:
            with self.writing(spot.file) as fd:
                write_all(fd, data, spot.offset)
        self._note(indexes)

    def writing(self, file: int) -> _Writing:
        """A descriptor of a partial file for as long as a `with` lasts."""
        return _Writing(self._partials, file, self.directory)

    def note(self, digests: Iterable[Digest]) -> None:
        """Note that blocks have been written to all their places."""
        self._note([self._index(digest) for digest in digests])

    def _note(self, indexes: Sequence[int]) -> None:
        have = self._have
        fresh = [index for index in dict.fromkeys(indexes) if not have[index]]
        self._map.note(fresh)
        for index in fresh:
            have[index] = 1

    def finish(self, check: Callable[[str], None] = lambda _: None) -> None:
        """Rename the files to their final names; they may not be on disk yet (see `flushed`).

        The block map stays until `forget_map`, so that a kill in between is taken up again.

        Args:
            check: raises if what stands at a path must not be replaced; asked of all paths before
                anything is, and of each again right before. Nothing is asked by default.

        Raises:
            IncompleteError: if blocks are missing; everything is kept.
            StorageError: if the disk refuses.
        """
        if sum(self._have) < len(self._plan) and (missing := len(self.missing())):
            raise IncompleteError(f"{missing} blocks are missing in {self.directory.root}")
        self._partials.close()
        finals = {file: self.manifest.files[file].path for file in self._todo}
        for path in finals.values():
            check(path)
        flushed.mark(self.directory)  # also of what was there: who copied it need not have waited
        renaming.mark(self.directory, self._digest)
        flushed.keep_mark(self.directory)
        for file, path in finals.items():
            check(path)
            self.directory.rename(self._partials.path(file), path)

    def forget_map(self) -> None:
        """The pull is recorded elsewhere now."""
        self._map.close()
        self.directory.remove(MAP_PATH)
        renaming.unmark(self.directory)

    def close(self) -> None:
        """Let go of all files; what was noted stays. Idempotent.

        Raises:
            StorageError: if the disk refused some of what was written.
        """
        try:
            self._partials.close()
        finally:
            self._map.close()


def _joined(
    pieces: Iterable[tuple[Spot, bytes | memoryview]],
) -> Iterator[tuple[Spot, bytes | memoryview]]:
    """Short pieces that follow one another in a file as one: a write costs more than to copy."""
    first: Spot | None = None
    run: list[bytes | memoryview] = []
    end = 0
    for spot, data in pieces:
        follows = first is not None and (spot.file, spot.offset) == (first.file, end)
        # A block of zeros may follow itself a thousand times.
        if first is None or not follows or end + len(data) - first.offset > _JOINED_BYTES:
            if first is not None:
                yield first, run[0] if len(run) == 1 else b"".join(run)
            first, run = spot, []
        run.append(data)
        end = spot.offset + len(data)
    if first is not None:
        yield first, run[0] if len(run) == 1 else b"".join(run)


class _Writing:
    """A partial file's descriptor; errors of the disk inside the `with` become StorageErrors."""

    __slots__ = ("_directory", "_fd", "_file", "_mine", "_partials")

    def __init__(self, partials: _Partials, file: int, directory: ModelDirectory) -> None:
        self._partials, self._file, self._directory = partials, file, directory

    def __enter__(self) -> int:
        try:
            self._fd, self._mine = self._partials.use(self._file)
        except OSError as error:
            raise StorageError.of(error, self._name()) from error
        return self._fd

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._mine:
            self._partials.let_go(self._file, self._fd)
        if isinstance(error, OSError):
            raise StorageError.of(error, self._name()) from error

    def _name(self) -> str:
        return str(self._directory.root / self._partials.path(self._file))
