"""The SQL of the in-place store: directories, their files, and the spots where blocks lie.

About 75 bytes a block: a digest is split into the eight bytes that are indexed and the rest. The
spots of a directory have consecutive ids, so that it is removed without an index on them.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from icnblocks.naming import Digest
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

_SPLIT: Final = struct.Struct(">q24s")
"""A digest: the bytes that are indexed, and the rest."""

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
    number, rest = _SPLIT.unpack(digest)
    return number, rest


def digest(number: int, rest: bytes) -> Digest:
    """The digest of a key and the rest."""
    return Digest(int.to_bytes(number, 8, "big", signed=True) + rest)


def rows(
    manifest: Manifest, first: int, numbers: Sequence[int]
) -> Iterator[tuple[int, int, bytes, int, int, int]]:
    """Rows of `spots`: the first spot of each distinct block of a manifest, from id `first` on.

    Args:
        manifest: what lies in the directory.
        first: an id; those after it are free.
        numbers: the ids of the manifest's files.
    """
    number = first
    seen: set[bytes] = set()
    for raw, length, file, offset in manifest.occurrences():
        if raw not in seen:
            seen.add(raw)
            key, rest = _SPLIT.unpack(raw)
            yield number, key, rest, numbers[file], offset, length
            number += 1


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
    digest: Digest,
    manifest: Manifest,
    files: Sequence[tuple[bytes, FileFacts]],
) -> None:
    """Enter a directory that is not there. In a transaction.

    Args:
        db: the index.
        root: the directory.
        digest: the manifest's digest.
        manifest: what lies in the directory.
        files: path and facts of each of its files.
    """
    first = int(db.execute("SELECT coalesce(max(id), 0) + 1 FROM spots").fetchone()[0])
    number = db.execute(
        "INSERT INTO roots (path, manifest, first, blocks, size) VALUES (?, ?, ?, 0, 0)",
        (root, digest, first),
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
    db.executemany("INSERT INTO spots VALUES (?, ?, ?, ?, ?, ?)", rows(manifest, first, numbers))
    db.execute(
        "UPDATE roots SET (blocks, size) ="
        " (SELECT count(*), coalesce(sum(length), 0) FROM spots WHERE id >= ?) WHERE id = ?",
        (first, number),
    )


def file(number: int, changed: int, root: bytes, path: bytes, *facts: int) -> IndexedFile:
    """An entry from its columns, as `SPOTS_AND_FILES_OF` and `FILE` give them."""
    return IndexedFile(number, os.path.join(root, path), FileFacts(*facts), bool(changed))
