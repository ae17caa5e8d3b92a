"""The SQL of the in-place store: directories, their files, and the spots where blocks lie.

About 75 bytes a block: a digest is split into the eight bytes that are indexed and the rest. The
spots of a directory have consecutive ids, so that it is removed without an index on them.
"""

from __future__ import annotations

import os
import struct
from array import array
from dataclasses import field
from typing import TYPE_CHECKING, Final, NamedTuple

from icnblocks.naming import DIGEST_BYTES, Digest
from icnblocks.store.database import BUSY_TIMEOUT_S, Schema
from icnblocks.store.facts import FileFacts
from icnblocks.values import dataclass

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from icnblocks.manifest.model import Manifest

BUSY_TIMEOUT_MS: Final = int(BUSY_TIMEOUT_S * 1000)
SCHEMA: Final = Schema(
    "index of model directories",
    1,
    (
        """CREATE TABLE roots (
            id INTEGER PRIMARY KEY AUTOINCREMENT, path BLOB UNIQUE NOT NULL, manifest BLOB NOT NULL,
            first INTEGER NOT NULL, blocks INTEGER NOT NULL, size INTEGER NOT NULL)""",
        """CREATE TABLE files (
            id INTEGER PRIMARY KEY AUTOINCREMENT, root INTEGER NOT NULL, path BLOB NOT NULL,
            size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, ctime_ns INTEGER NOT NULL,
            inode INTEGER NOT NULL, changed INTEGER NOT NULL DEFAULT 0)""",
        "CREATE INDEX files_root ON files (root)",
        """CREATE TABLE spots (
            id INTEGER PRIMARY KEY, key INTEGER NOT NULL, rest BLOB NOT NULL,
            file INTEGER NOT NULL, offset INTEGER NOT NULL, length INTEGER NOT NULL)""",
        "CREATE INDEX spots_key ON spots (key)",
    ),
)

ROTTEN: Final = 2
"""As `changed` of a file: it was hashed and found wrong under unchanged facts."""

_KEY = struct.Struct(">q")
_REST: Final = DIGEST_BYTES - _KEY.size

SPOTS_OF: Final = "SELECT file, offset, length FROM spots WHERE key = ? AND rest = ?"
SPOTS_AND_FILES_OF: Final = """SELECT file, offset, length, changed,
        roots.path, files.path, files.size, mtime_ns, ctime_ns, inode
    FROM spots JOIN files ON files.id = spots.file JOIN roots ON roots.id = files.root
    WHERE key = ? AND rest = ?"""
FILE: Final = """SELECT changed, roots.path, files.path, files.size, mtime_ns, ctime_ns, inode
    FROM files JOIN roots ON roots.id = files.root WHERE files.id = ?"""
BLOCKS_AFTER: Final = """SELECT id, key, rest, length, NOT EXISTS (
        SELECT 1 FROM spots o WHERE o.key = s.key AND o.rest = s.rest AND o.id < s.id)
    FROM spots s WHERE id > ? ORDER BY id LIMIT 1024"""
# Two blocks that agree in the eight bytes of their key would count as one here; only this
# figure for people depends on it.
COUNT: Final = "SELECT count(DISTINCT key) FROM spots"
DIRECTORIES: Final = """SELECT path, manifest, blocks, size,
        (SELECT count(*) FROM files WHERE root = roots.id AND changed)
    FROM roots ORDER BY path"""
ROOTS_OF: Final = "SELECT path FROM roots WHERE manifest = ? ORDER BY id DESC"
MANIFEST_AT: Final = "SELECT manifest FROM roots WHERE path = ?"
FILES_OF: Final = """SELECT files.id, files.path, changed,
        files.size, mtime_ns, ctime_ns, inode
    FROM files JOIN roots ON roots.id = files.root WHERE roots.path = ? ORDER BY files.path"""
CHANGED: Final = """SELECT roots.path, files.path
    FROM files JOIN roots ON roots.id = files.root WHERE changed ORDER BY 1, 2"""
FILE_UNMARKED: Final = """SELECT roots.path, files.path
    FROM files JOIN roots ON roots.id = files.root WHERE files.id = ? AND NOT changed"""
MARK: Final = "UPDATE files SET changed = ? WHERE id = ?"
MARK_FROM: Final = "UPDATE files SET changed = ? WHERE id = ? AND changed = ?"
MARK_IF: Final = """UPDATE files SET changed = 1
    WHERE id = ? AND NOT changed AND size = ? AND mtime_ns = ? AND ctime_ns = ? AND inode = ?"""
MARK_AT: Final = """UPDATE files SET changed = ?
    WHERE root = (SELECT id FROM roots WHERE path = ?) AND path = ?
        AND size = ? AND mtime_ns = ? AND ctime_ns = ? AND inode = ?"""
REVALIDATE: Final = """UPDATE files
    SET size = ?, mtime_ns = ?, ctime_ns = ?, inode = ?, changed = 0 WHERE id = ?"""


@dataclass(frozen=True, slots=True)
class Directory:
    """A model directory in the index.

    Attributes:
        root: its absolute path.
        manifest: digest of the manifest that describes it.
        blocks: distinct blocks in it.
        size: bytes of those blocks.
        changed: files of it that are known to have changed.
    """

    root: Path
    manifest: Digest
    blocks: int
    size: int
    changed: int


@dataclass(frozen=True, slots=True)
class ChangedFile:
    """A file whose blocks are refused: the directory it is in, and its path below that."""

    root: Path
    path: str


class IndexedFile(NamedTuple):
    """A file of the index, with its full path."""

    number: int
    path: bytes
    facts: FileFacts
    changed: bool


def key(digest: Digest) -> tuple[int, bytes]:
    """A digest as its index key and the rest."""
    return int.from_bytes(digest[:8], "big", signed=True), digest[8:]


def digest(number: int, rest: bytes) -> Digest:
    """The digest of a key and the rest."""
    return Digest(int.to_bytes(number, 8, "big", signed=True) + rest)


@dataclass(slots=True)
class Staged:
    """The distinct blocks of a manifest, packed: 48 bytes each."""

    keys: array[int] = field(default_factory=lambda: array("q"))
    rests: bytearray = field(default_factory=bytearray)
    files: array[int] = field(default_factory=lambda: array("L"))
    offsets: array[int] = field(default_factory=lambda: array("Q"))
    lengths: array[int] = field(default_factory=lambda: array("L"))
    size: int = 0

    def __len__(self) -> int:
        return len(self.files)

    def rows(self, first: int, numbers: Sequence[int]) -> Iterator[tuple[object, ...]]:
        """Rows of `spots`, from id `first` on; `numbers` are the ids of the files."""
        rests = bytes(self.rests)
        return zip(
            range(first, first + len(self)),
            self.keys,
            [rests[at : at + _REST] for at in range(0, len(rests), _REST)],
            [numbers[file] for file in self.files],
            self.offsets,
            self.lengths,
            strict=True,
        )


def stage(manifest: Manifest) -> Staged:
    """Pack the first spot of each distinct block of a manifest."""
    staged = Staged()
    seen: set[bytes] = set()
    for raw, length, file, offset in manifest.occurrences():
        if raw not in seen:
            seen.add(raw)
            staged.keys.append(_KEY.unpack_from(raw)[0])
            staged.rests += raw[_KEY.size :]
            staged.files.append(file)
            staged.offsets.append(offset)
            staged.lengths.append(length)
    staged.size = sum(staged.lengths)
    return staged


def remove(db: sqlite3.Connection, root: bytes) -> bool:
    """Forget a directory; False if it was not there. In a transaction."""
    row = db.execute("SELECT id, first, blocks FROM roots WHERE path = ?", (root,)).fetchone()
    if row is None:
        return False
    number, first, blocks = row
    db.execute("DELETE FROM spots WHERE id BETWEEN ? AND ?", (first, first + blocks - 1))
    db.execute("DELETE FROM files WHERE root = ?", (number,))
    db.execute("DELETE FROM roots WHERE id = ?", (number,))
    return True


def insert(
    db: sqlite3.Connection,
    root: bytes,
    manifest: Digest,
    files: Sequence[tuple[bytes, FileFacts]],
    staged: Staged,
) -> None:
    """Enter a directory that is not there. In a transaction."""
    first = int(db.execute("SELECT coalesce(max(id), 0) + 1 FROM spots").fetchone()[0])
    number = db.execute(
        "INSERT INTO roots (path, manifest, first, blocks, size) VALUES (?, ?, ?, ?, ?)",
        (root, manifest, first, len(staged), staged.size),
    ).lastrowid
    numbers = [
        db.execute(
            "INSERT INTO files (root, path, size, mtime_ns, ctime_ns, inode)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (number, path, *facts),
        ).lastrowid
        or 0
        for path, facts in files
    ]
    db.executemany("INSERT INTO spots VALUES (?, ?, ?, ?, ?, ?)", staged.rows(first, numbers))


def file(number: int, changed: int, root: bytes, path: bytes, *facts: int) -> IndexedFile:
    """An entry from its columns, as `SPOTS_AND_FILES_OF` and `FILE` give them."""
    return IndexedFile(number, os.path.join(root, path), FileFacts(*facts), bool(changed))
