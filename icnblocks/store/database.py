"""SQLite as the stores use it: one way to open it, one place where its errors become ours.

Write-ahead logging, so that several processes read while one writes; a schema version that is
refused when newer and migrated when older. It must not know what any table means.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from contextlib import contextmanager
from dataclasses import field
from typing import TYPE_CHECKING, Final

from icnblocks.errors import BusyError, IcnError, StorageError, VersionError
from icnblocks.values import dataclass

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

BUSY_TIMEOUT_S: Final = 30.0
"""How long one process waits for another's transaction before it says BusyError."""
_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR}
"""SQLITE_ERROR: a table of ours is not there."""
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}

_AS_ERRNO = {sqlite3.SQLITE_FULL: errno.ENOSPC, sqlite3.SQLITE_READONLY: errno.EROFS}


class DamagedError(StorageError):
    """A database file is not what SQLite wrote: bits have rotted, or it is another file."""

    retry = False
    advice = (
        "bring back a copy, or move the file away, and its `-wal` with it: what it lists can be"
        " published, pulled or cached again"
    )


@dataclass(frozen=True, slots=True)
class Schema:
    """What a database must look like.

    Attributes:
        what: word for messages, such as "catalog".
        version: the version this program writes, 1 or more.
        create: statements that make an empty database of that version.
        migrations: from an older version to the next one, each in the opening transaction.
    """

    what: str
    version: int
    create: tuple[str, ...]
    migrations: Mapping[int, Callable[[sqlite3.Connection], None]] = field(default_factory=dict)


def storage_error(error: Exception, what: str) -> IcnError:
    """The error of the tree that says what `error` means for somebody who stores things."""
    if isinstance(error, OSError):
        return StorageError.of(error, what)
    if isinstance(error, UnicodeDecodeError):  # SQLite names a table that rotted
        return DamagedError(f"{what}: what it names is not text")
    code = getattr(error, "sqlite_errorcode", 0)
    if not code and isinstance(error, sqlite3.OperationalError):  # Python's own: rotten text
        return DamagedError(f"{what}: {error}")
    if code == sqlite3.SQLITE_IOERR_SHMSIZE:  # of a file that it makes even to read
        return StorageError.of(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), what)
    code &= 0xFF
    if code in _BUSY:
        return BusyError(f"{what}: another process is writing")
    if code in _DAMAGE:
        return DamagedError(f"{what}: {error}")
    number = _AS_ERRNO.get(code)
    return StorageError.of(OSError(number, str(error)), what)


@contextmanager
def storage_errors(what: object) -> Iterator[None]:
    """Turn what the system and SQLite raise into StorageError, DamagedError or BusyError."""
    try:
        yield
    except (OSError, sqlite3.Error, UnicodeDecodeError) as error:
        raise storage_error(error, str(what)) from error


def connect(
    path: Path, schema: Schema, *, cache_kib: int = 2048, durable: bool = False
) -> sqlite3.Connection:
    """Open a database, creating or migrating it; statements commit one by one until BEGIN.

    The connection may be used from any thread, by one at a time. Where `is_read_only` says so, it
    can be read only.

    Args:
        path: the database file.
        schema: what must be in it.
        cache_kib: memory for its pages.
        durable: every commit survives a power cut (one fsync each).

    Raises:
        VersionError: if a newer program wrote it.
        DamagedError: if it is not a database of ours.
        BusyError: if another process keeps it locked.
        StorageError: if the disk refuses.
    """
    with storage_errors(path):
        frozen = is_read_only(path)
        connection = sqlite3.connect(
            # Else SQLite would want to make files beside it, even to read.
            f"{path.absolute().as_uri()}?immutable=1" if frozen else path,
            timeout=BUSY_TIMEOUT_S,
            isolation_level=None,
            check_same_thread=False,
            uri=frozen,
        )
        try:
            if not frozen:
                _into_wal(connection)
            connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
            connection.execute("PRAGMA temp_store=MEMORY")
            connection.execute(f"PRAGMA cache_size=-{cache_kib:d}")
            connection.execute("PRAGMA journal_size_limit=4194304")
            _bring_to_version(connection, path, schema)
        except BaseException:
            connection.close()
            raise
    return connection


def is_read_only(path: Path) -> bool:
    """Whether a database is there, whole, and nobody like us could write to it."""
    if os.access(path.parent, os.W_OK) or not path.exists():
        return False
    try:
        return not path.with_name(f"{path.name}-wal").stat().st_size
    except FileNotFoundError:
        return True


@contextmanager
def transaction(connection: sqlite3.Connection, *, durable: bool = False) -> Iterator[None]:
    """Everything inside happens, or nothing.

    Args:
        connection: as `connect` gave it; its errors are not translated here.
        durable: the commit also survives a power cut (one fsync).
    """
    if durable:
        connection.execute("PRAGMA synchronous=FULL")
    try:
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
    finally:
        if durable:
            connection.execute("PRAGMA synchronous=NORMAL")


class Session:
    """A connection under its lock, inside one transaction if it writes; errors become ours."""

    __slots__ = ("_connection", "_lock", "_path", "_writes")

    def __init__(
        self,
        path: Path,
        connection: sqlite3.Connection,
        lock: threading.Lock,
        *,
        writes: bool = False,
    ) -> None:
        self._path = path
        self._connection = connection
        self._lock = lock
        self._writes = writes

    def __enter__(self) -> sqlite3.Connection:
        self._lock.acquire()
        if self._writes:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
            except BaseException as error:
                self._lock.release()
                self._translate(error)
                raise
        return self._connection

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            if self._writes:
                self._end(failed=error is not None)
        except BaseException as second:
            self._translate(second)
            raise
        finally:
            self._lock.release()
        self._translate(error)

    def _end(self, *, failed: bool) -> None:
        try:
            if not failed:
                self._connection.execute("COMMIT")
        finally:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")

    def _translate(self, error: BaseException | None) -> None:
        if isinstance(error, TypeError):  # no column is empty, or of another type, until it rots
            raise DamagedError(f"{self._path}: what it lists makes no sense: {error}") from error
        if isinstance(error, sqlite3.Error | OSError | UnicodeDecodeError):
            raise storage_error(error, str(self._path)) from error


def _into_wal(connection: sqlite3.Connection) -> None:
    # Changing the journal mode does not wait for other processes as statements do.
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL").fetchone()
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in _BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _bring_to_version(connection: sqlite3.Connection, path: Path, schema: Schema) -> None:
    if _version(connection) == schema.version:
        return
    with transaction(connection):
        # Read again: another process may have been first.
        version = _version(connection)
        if version < 0:
            raise DamagedError(f"{path} is no {schema.what}: its version is {version}")
        if version > schema.version:
            raise VersionError(
                f"{path}: the {schema.what} is of version {version}; this program knows "
                f"{schema.version}"
            )
        if version == 0:
            if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                raise DamagedError(f"{path} is no {schema.what}")
            for statement in schema.create:
                connection.execute(statement)
        else:
            for step in range(version, schema.version):
                schema.migrations[step](connection)
        connection.execute(f"PRAGMA user_version={schema.version:d}")


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])
