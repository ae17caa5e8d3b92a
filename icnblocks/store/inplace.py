"""The store of blocks that lie in the files of model directories: nothing is copied.

An index in SQLite says in which file and at which offset a block lies; several processes use it
at once. A file is believed only while its facts (size, times, inode) are those it had before
it was hashed: they are compared when a block is opened and, by the lease, after it was sent. A file
that was changed is remembered and its blocks are refused until `recheck` finds them right. It
must not write to a model directory.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from icnblocks.errors import ChangedError, UsageError
from icnblocks.naming import Digest
from icnblocks.store import inplace_index as index
from icnblocks.store.database import Session, connect, storage_errors, transaction
from icnblocks.store.facts import (
    FileFacts,
    differs,
    facts_if,
    let_times_move_on,
    open_to_read,
    was_taken_out,
)
from icnblocks.store.files import OpenFile, OpenFiles
from icnblocks.store.inplace_index import ChangedFile, Directory, IndexedFile
from icnblocks.store.late_log import log
from icnblocks.store.lease import ExtentLease

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from icnblocks.manifest.model import Manifest

__all__ = ["ChangedFile", "Directory", "FileFacts", "InPlaceStore"]

_MAX_KNOWN: Final = 4096


class InPlaceStore:
    """Blocks inside model directories. Implements `base.ReadableStore`. Thread-safe.

    Args:
        path: the index, a SQLite file; made if it is missing, its directory too.

    Raises:
        VersionError: if a newer program wrote the index.
        DamagedError: if it is unreadable.
        StorageError: if the disk refuses.
        BusyError: if another process keeps it locked.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        self._writer = connect(path, index.SCHEMA, durable=True)
        try:
            self._reader = connect(path, index.SCHEMA, cache_kib=32_768)
        except BaseException:
            self._writer.close()
            raise
        self._read_lock = threading.Lock()
        self._write_lock = threading.Lock()
        self._files: OpenFiles[int] = OpenFiles()
        self._unsaved: dict[int, FileFacts] = {}
        """Changed files that could not be marked in the index at once, by number."""
        self._told: dict[int, FileFacts] = {}  # changed files that were said to be so
        self._known: dict[int, IndexedFile] = {}
        """Files of the index that were unchanged when last read; what another process has changed
        in their entries is seen when they do not look as they should, or by `look_again`."""
        self._counted: tuple[int, int] | None = None
        self._closed = False

    # Reading: by digest.

    def __contains__(self, digest: Digest) -> bool:
        return self.length(digest) is not None

    def __len__(self) -> int:
        with self._reading() as db:
            version = int(db.execute("PRAGMA data_version").fetchone()[0])
            if self._counted is None or self._counted[0] != version:
                self._counted = (version, int(db.execute(index.COUNT).fetchone()[0]))
            return self._counted[1]

    def length(self, digest: Digest) -> int | None:
        """The block's bytes, or None if no unchanged file has it."""
        for file, _, length in self._spots(digest):
            if not self._refused(file):
                return length
        return None

    def look(self) -> Callable[[Digest], bool]:
        """As `in`, but files are looked at: true of a block only if it could be leased now.

        What is returned is for one question about many blocks: it looks at each file once.
        """
        looked: dict[int, bool] = {}

        def is_here(digest: Digest) -> bool:
            for file, _, _ in self._spots(digest):
                if file.number not in looked:
                    looked[file.number] = self._can_be_sent(file)
                if looked[file.number]:
                    return True
            return False

        return is_here

    def open(self, digest: Digest) -> InPlaceLease | None:
        """Lease a block for sending, from the first of its files that is unchanged.

        Raises:
            ChangedError: if it is in the index, and all files it lies in were changed.
        """
        refusal: ChangedError | None = None
        for file, offset, length in self._spots(digest):
            if self._refused(file):
                refusal = _changed(file.path)
                continue
            try:
                return self._lease(file, offset, length)
            except ChangedError as error:
                refusal = error
        if refusal is not None:
            raise refusal
        return None

    def blocks(self) -> Iterator[tuple[Digest, int]]:
        """Every block with its length, in the order in which directories were added."""
        last = -1
        while True:
            with self._reading() as db:
                rows = db.execute(index.BLOCKS_AFTER, (last,)).fetchall()
                found = [(index.digest(key, rest), size) for _, key, rest, size, new in rows if new]
            if not rows:
                return
            yield from found
            last = rows[-1][0]

    # Reading: by directory.

    def directories(self) -> list[Directory]:
        """All directories in the index, by path."""
        with self._reading() as db:
            return [
                Directory(Path(os.fsdecode(root)), Digest(manifest), blocks, size, changed)
                for root, manifest, blocks, size, changed in db.execute(index.DIRECTORIES)
            ]

    def roots_of(self, manifest: Digest) -> list[Path]:
        """Directories that hold this model, the latest first."""
        with self._reading() as db:
            return [Path(os.fsdecode(root)) for (root,) in db.execute(index.ROOTS_OF, (manifest,))]

    def manifest_at(self, root: Path) -> Digest | None:
        """The manifest of a directory, or None if it is not in the index."""
        with self._reading() as db:
            row = db.execute(index.MANIFEST_AT, (_root(root),)).fetchone()
            return None if row is None else Digest(row[0])

    def facts(self, root: Path) -> dict[str, FileFacts]:
        """The unchanged files of a directory, by path below it; empty if it is not there."""
        return {
            os.fsdecode(path): facts
            for _, path, facts, changed in self._files_of(root)
            if not changed
        }

    def changed(self) -> list[ChangedFile]:
        """Files that are known to have changed; their blocks are refused."""
        self._save_marks()
        with self._reading() as db:
            rows = db.execute(index.CHANGED).fetchall()
            rows += [
                row
                for number in list(self._unsaved)
                for row in db.execute(index.FILE_UNMARKED, (number,))
            ]
            return [ChangedFile(Path(os.fsdecode(root)), os.fsdecode(path)) for root, path in rows]

    # Changing the index.

    def add_directory(
        self, root: Path, digest: Digest, manifest: Manifest, facts: Mapping[str, FileFacts]
    ) -> None:
        """Enter a directory, or replace what was known of it, in one step.

        Args:
            root: the directory.
            digest: the manifest's digest.
            manifest: what lies in the directory, verified by the caller.
            facts: of each file of the manifest, taken before its bytes were hashed.

        Raises:
            ChangedError: if a file is no longer what `facts` says; nothing is entered.
            UsageError: if `facts` lacks a file.
            StorageError, BusyError: if the index cannot be written.
        """
        let_times_move_on(facts.values())
        files: list[tuple[bytes, FileFacts]] = []
        for file in manifest.files:
            if file.path not in facts:
                raise UsageError(f"no facts are given of {file.path!r}")
            path = os.path.join(_root(root), os.fsencode(file.path))
            if differs(path, facts[file.path]) is not False:
                raise _changed(path)
            files.append((os.fsencode(file.path), facts[file.path]))
        with self._writing() as db:
            index.remove(db, _root(root))
            index.insert(db, _root(root), digest, manifest, files)
        self.close_idle()  # among them may be what these took the place of

    def remove_directory(self, root: Path) -> bool:
        """Forget a directory (its files stay); False if it was not in the index.

        Raises:
            StorageError, BusyError: if the index cannot be written.
        """
        with self._writing() as db:
            return index.remove(db, _root(root))

    def check(self, root: Path) -> list[str]:
        """Compare the facts of all files of a directory, and mark those that differ.

        A file that is back as it was is right again, unless it was hashed and found wrong. One
        that cannot be looked at now, as its disk is away, is not marked.

        Returns:
            Paths below `root` of the files that are missing, changed or cannot be looked at.
        """
        wrong: list[str] = []
        marks: list[tuple[int, int, int]] = []
        for number, path, facts, changed in self._files_of(root):
            other = differs(os.path.join(_root(root), path), facts)
            if other is not False or changed == index.ROTTEN:
                wrong.append(os.fsdecode(path))
            if other is False:
                self._told.pop(number, None)
                self._unsaved.pop(number, None)
            if changed != index.ROTTEN and other not in (None, bool(changed)):
                marks.append((int(not changed), number, changed))
        if marks:
            with self._writing() as db:
                db.executemany(index.MARK_FROM, marks)
            self._forget_known()
        return wrong

    def look_again(self) -> None:
        """Check the directories of changed files: what is back as it was is believed again.

        What another process has found wrong since is refused from here on.
        """
        self._forget_known()
        self.close_idle()
        for root in {file.root for file in self.changed()}:
            self.check(root)

    def close_idle(self) -> None:
        """Close files that nobody is sent.

        Their models may have been removed since, or the disk that they lie on is to be unmounted.
        """
        self._files.close_idle()

    def recheck(self, root: Path, is_right: Callable[[str, int], bool]) -> list[str]:
        """Have every file of a directory read again: those that are right are believed again.

        Of one that cannot be read it stays as it is known, unless its facts say that it changed.

        Args:
            root: the directory.
            is_right: whether the file of this path below `root`, opened, holds what it should.

        Returns:
            Paths below `root` of the files that do not, or cannot be read.
        """
        wrong: list[str] = []
        for number, path, facts, _ in self._files_of(root):
            full = os.path.join(_root(root), path)
            try:
                now, was_read = facts_if(full, partial(is_right, os.fsdecode(path))), True
            except OSError:
                now, was_read = None, False
            if now is not None:
                with self._writing() as db:
                    db.execute(index.REVALIDATE, (*now, number))
                self._unsaved.pop(number, None)
            else:
                wrong.append(os.fsdecode(path))
                if (other := differs(full, facts)) or (was_read and other is False):
                    with self._writing() as db:
                        db.execute(index.MARK, (1 if other else index.ROTTEN, number))
            self._forget_known()
        return wrong

    def refuse(self, root: Path, wrong: Mapping[str, FileFacts]) -> None:
        """Note that files of a directory were hashed and found wrong.

        Args:
            root: the directory; it need not be in the index.
            wrong: their paths below it, and their facts in the index before they were hashed. An
                entry that has others by now is of another file, and stays.

        Raises:
            StorageError, BusyError: if the index cannot be written.
        """
        above = _root(root)
        with self._writing() as db:
            for name, facts in wrong.items():
                path = os.fsencode(name)
                other = differs(os.path.join(above, path), facts)
                if other is not None:
                    mark = 1 if other else index.ROTTEN
                    db.execute(index.MARK_AT, (mark, above, path, *facts))
        self._forget_known()

    def close(self) -> None:
        """Let go of the index; leases stay readable. Idempotent."""
        if self._closed:
            return
        self._save_marks()
        self._closed = True
        with self._write_lock, self._read_lock, storage_errors(self._path):
            self._files.close()
            self._reader.close()
            self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # Inside.

    def _reading(self) -> Session:
        return Session(self._path, self._reader, self._read_lock)

    def _writing(self) -> Session:
        return Session(self._path, self._writer, self._write_lock, writes=True)

    def _spots(self, digest: Digest) -> list[tuple[IndexedFile, int, int]]:
        """Where the block lies, in files that may be known to have changed."""
        key = index.key(digest)
        with self._reading() as db:
            known = self._known
            rows = db.execute(index.SPOTS_OF, key).fetchall()
            if all(number in known for number, _, _ in rows):
                return [(known[number], offset, length) for number, offset, length in rows]
            if len(known) > _MAX_KNOWN:
                known.clear()
            # One statement, so that spots and files are of one moment.
            spots = []
            for number, offset, length, *rest in db.execute(index.SPOTS_AND_FILES_OF, key):
                file = index.file(number, *rest)
                if not file.changed:
                    known[number] = file
                spots.append((file, offset, length))
            return spots

    def _read_again(self, file: IndexedFile) -> IndexedFile | None:
        """The file's entry in the index as it is now, or None if it is gone."""
        with self._reading() as db:
            self._known.pop(file.number, None)
            row = db.execute(index.FILE, (file.number,)).fetchone()
            return None if row is None else index.file(file.number, *row)

    def _forget_known(self) -> None:
        with self._read_lock:
            self._known.clear()

    def _refused(self, file: IndexedFile) -> bool:
        return file.changed or self._unsaved.get(file.number) == file.facts

    def _can_be_sent(self, file: IndexedFile) -> bool:
        if self._refused(file):
            return False
        self._files.drop(file.number)  # what is open can be read though its directory was moved
        try:
            self._lease(file, 0, 0).close()
        except ChangedError:
            return False
        return True

    def _files_of(self, root: Path) -> list[tuple[int, bytes, FileFacts, int]]:
        with self._reading() as db:
            return [
                (number, os.fsencode(path), FileFacts(*facts), changed)
                for number, path, changed, *facts in db.execute(index.FILES_OF, (_root(root),))
            ]

    def _lease(self, file: IndexedFile, offset: int, length: int) -> InPlaceLease:
        opened = self._borrow(file)
        if opened is None:
            # Another process may have found it right again, with other facts.
            fresh = self._read_again(file)
            if fresh is not None and not fresh.changed and fresh.facts != file.facts:
                file, opened = fresh, self._borrow(fresh)
        if opened is None:
            self._mark(file)
            raise _changed(file.path)
        return InPlaceLease(self, file, opened, offset, length)

    def _borrow(self, file: IndexedFile) -> OpenFile | None:
        """The file, open, or None if it is not what it was."""
        for _ in range(2):
            try:
                opened = self._files.borrow(file.number, lambda: open_to_read(file.path))
            except OSError as error:
                if was_taken_out(file.path, error):
                    self._mark(file)
                raise _changed(file.path, error.strerror or "") from error
            if FileFacts.of(os.fstat(opened.fd)) == file.facts:
                return opened
            # What we have open may be a file that was replaced since: look at the path again.
            self._files.give_back(opened)
            self._files.drop(file.number)
        return None

    def _check(self, file: IndexedFile, opened: OpenFile) -> None:
        if FileFacts.of(os.fstat(opened.fd)) != file.facts:
            self._files.drop(file.number)
            self._mark(file)
            raise _changed(file.path)

    def _mark(self, file: IndexedFile) -> None:
        with self._read_lock:  # of several threads that come upon it, one says so
            told, self._told[file.number] = self._told.get(file.number), file.facts
        if told != file.facts:
            if os.path.lexists(file.path):
                say, what = log(__name__).warning, "has changed"
            else:  # who removes a model knows of it
                say, what = log(__name__).info, "is gone"
            say("%s %s; its blocks are refused", os.fsdecode(file.path), what)
        self._unsaved[file.number] = file.facts
        self._save_marks()

    def _save_marks(self) -> None:
        """Mark changed files in the index, unless that would mean to wait; then later."""
        if not self._unsaved or not self._write_lock.acquire(blocking=False):
            return
        try:
            self._writer.execute("PRAGMA busy_timeout=0")
            try:
                with transaction(self._writer):
                    saved = list(self._unsaved.items())
                    self._writer.executemany(index.MARK_IF, ((n, *facts) for n, facts in saved))
                self._forget_known()
                for number, facts in saved:
                    if self._unsaved.get(number) == facts:
                        del self._unsaved[number]
            finally:
                self._writer.execute(f"PRAGMA busy_timeout={index.BUSY_TIMEOUT_MS:d}")
        except sqlite3.Error as error:
            log(__name__).info("changed files are not marked in the index yet: %s", error)
        finally:
            self._write_lock.release()


class InPlaceLease(ExtentLease):
    """A block in a file of a model directory: it is seen whether that changed while it was sent."""

    __slots__ = ("_file", "_opened", "_store")

    def __init__(
        self, store: InPlaceStore, file: IndexedFile, opened: OpenFile, offset: int, length: int
    ) -> None:
        super().__init__(opened.fd, offset, length, partial(store._files.give_back, opened))
        self._store = store
        self._file = file
        self._opened = opened

    def check(self) -> None:
        """After sending: is the file still what it was?

        Raises:
            ChangedError: if not; the file's blocks are refused from here on.
        """
        if self._give_back is not None:
            self._store._check(self._file, self._opened)


def _root(root: Path) -> bytes:
    return os.path.abspath(os.fsencode(root))


def _changed(path: bytes, why: str = "it is not what it was when it was indexed") -> ChangedError:
    return ChangedError(f"{os.fsdecode(path)} cannot be served: {why}")
