"""The notes of a disk store: which block lies at which address, and how far all is flushed.

One SQLite table whose key is the address, so that noting new blocks appends. Only the process
that holds the store's lock uses it. It must not touch the segments.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from icnblocks.store.database import DamagedError, Schema, connect, storage_errors, transaction
from icnblocks.values import dataclass

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator
    from pathlib import Path


def _count_states(connection: sqlite3.Connection) -> None:
    connection.execute("ALTER TABLE state ADD COLUMN serial INTEGER NOT NULL DEFAULT 0")


_SCHEMA: Final = Schema(
    "block index",
    2,
    (
        "CREATE TABLE blocks (at INTEGER PRIMARY KEY, digest BLOB, length INTEGER)",
        "CREATE TABLE state"
        " (boot TEXT, clean INTEGER, flushed_to INTEGER, serial INTEGER NOT NULL DEFAULT 0)",
        "INSERT INTO state VALUES ('', 1, 0, 0)",
    ),
    {1: _count_states},
)
_CHUNK: Final = 4096

Note = tuple[int, bytes, int]
"""Address, digest, length."""


@dataclass(frozen=True, slots=True)
class State:
    """How the last process left the store.

    Attributes:
        boot: id of the boot of the machine in which it ran.
        clean: it closed the store in good order.
        flushed_to: blocks at lower addresses are known to be on the disk.
        serial: how many states were noted before it and with it.
    """

    boot: str
    clean: bool
    flushed_to: int
    serial: int = 0


NEW: Final = State("", clean=True, flushed_to=0)
"""Of notes that no store was ever opened with."""


class Notes:
    """The notes of one disk store. One thread at a time.

    All methods raise StorageError if the disk refuses, DamagedError if the file is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db = connect(path, _SCHEMA)

    def state(self) -> State:
        """How the store was left."""
        with storage_errors(self._path):
            boot, clean, *numbers = self._db.execute("SELECT * FROM state").fetchone()
        return State(boot, bool(clean), *numbers)

    def set_state(self, state: State) -> int:
        """Say how the store is; this and all earlier notes survive a power cut from here on.

        Returns:
            The serial number that it has, whatever `state` says.
        """
        with storage_errors(self._path), transaction(self._db, durable=True):
            self._db.execute(
                "UPDATE state SET boot = ?, clean = ?, flushed_to = ?, serial = serial + 1",
                (state.boot, int(state.clean), state.flushed_to),
            )
            return int(self._db.execute("SELECT serial FROM state").fetchone()[0])

    def all(self) -> Iterator[Note]:
        """Every note by ascending address; nothing may be written meanwhile."""
        with storage_errors(self._path):
            cursor = self._db.execute("SELECT at, digest, length FROM blocks ORDER BY at")
            cursor.arraysize = _CHUNK
            while chunk := cursor.fetchmany():
                yield from chunk

    def after(self, at: int, end: int = (1 << 63) - 1) -> list[Note]:
        """The next few thousand notes above an address and below `end`."""
        with storage_errors(self._path):
            notes = self._db.execute(
                "SELECT at, digest, length FROM blocks WHERE at > ? AND at < ? ORDER BY at LIMIT ?",
                (at, end, _CHUNK),
            ).fetchall()
        if any(type(note[1]) is not bytes for note in notes):
            raise DamagedError(f"{self._path}: a block that it lists has no digest")
        return notes

    def write(
        self, added: Iterable[Note], removed: Iterable[int], *, durable: bool = False
    ) -> None:
        """Note blocks, then strike some out, all or nothing; survives kill -9.

        Args:
            added: to be noted.
            removed: addresses to be struck out.
            durable: it survives a power cut, too.
        """
        with storage_errors(self._path), transaction(self._db, durable=durable):
            self._db.executemany("INSERT OR REPLACE INTO blocks VALUES (?, ?, ?)", added)
            self._db.executemany("DELETE FROM blocks WHERE at = ?", ((at,) for at in removed))

    def sync(self) -> None:
        """Make what was written since `set_state` survive a power cut."""
        # What SQLite does not sync at every commit is this file; locks lie on the others.
        log = self._path.with_name(f"{self._path.name}-wal")
        with storage_errors(self._path), suppress(FileNotFoundError), log.open("rb") as file:
            os.fdatasync(file.fileno())

    def close(self) -> None:
        """Let go of the file."""
        with storage_errors(self._path):
            self._db.close()
