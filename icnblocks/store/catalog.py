"""The catalog: manifests by digest, records by name, and the keys of known publishers.

SQLite, used by several processes at once. A record never goes backward: the check and the change
are one statement. Every change survives a power cut before the call returns. Signatures
are the caller's business; this module must not parse what it keeps, beyond hashing manifests.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final, Self

from icnblocks.errors import CorruptError, FormatError, TrustError
from icnblocks.limits import MAX_MANIFEST_BYTES, MAX_RECORD_BYTES
from icnblocks.naming import Digest, Name
from icnblocks.store.database import Schema, Session, connect, is_read_only, storage_errors
from icnblocks.store.late_log import log
from icnblocks.values import dataclass

if TYPE_CHECKING:
    from pathlib import Path

_SCHEMA: Final = Schema(
    "catalog",
    1,
    (
        """CREATE TABLE manifests (
            id INTEGER PRIMARY KEY, digest BLOB UNIQUE NOT NULL, size INTEGER NOT NULL,
            data BLOB NOT NULL)""",
        """CREATE TABLE records (
            publisher TEXT NOT NULL, model TEXT NOT NULL, tag TEXT NOT NULL, raw BLOB NOT NULL,
            seq INTEGER NOT NULL, key TEXT NOT NULL, fetched_at REAL NOT NULL,
            PRIMARY KEY (publisher, model, tag)) WITHOUT ROWID""",
        "CREATE TABLE publishers (publisher TEXT PRIMARY KEY, key TEXT NOT NULL) WITHOUT ROWID",
    ),
)
_PUT_RECORD: Final = """INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT DO UPDATE
    SET raw = excluded.raw, seq = excluded.seq, key = excluded.key,
        fetched_at = excluded.fetched_at
    WHERE excluded.seq > seq OR (excluded.seq = seq AND raw IN (excluded.raw, ?))"""


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """A record as it was received.

    Attributes:
        name: whose record it is.
        raw: its signed bytes.
        seq: its sequence number.
        key: fingerprint of the key that signed it.
        fetched_at: wall time (unix seconds) at which it was last known to be current.
    """

    name: Name
    raw: bytes
    seq: int
    key: str
    fetched_at: float


def _stored(name: Name, raw: object, seq: object, key: object, fetched_at: object) -> StoredRecord:
    """A row of the table; TypeError if one of its values is of another type than it was."""
    if not (
        isinstance(raw, bytes)
        and isinstance(seq, int)
        and isinstance(key, str)
        and isinstance(fetched_at, float)
    ):
        raise TypeError(f"the record of {name}")
    return StoredRecord(name, raw, seq, key, fetched_at)


class Catalog:
    """Manifests, records and publishers' keys in one SQLite file. Thread-safe.

    Args:
        path: the file; made if it is missing, its directory too.

    Raises:
        VersionError: if a newer program wrote it.
        DamagedError: if it is unreadable. It guards against roll-back, so nothing starts it
            empty by itself.
        StorageError: if the disk refuses.
        BusyError: if another process keeps it locked.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        self.read_only = is_read_only(path)
        """Whether nothing can be kept here, as in a container with a read-only disk."""
        self._writer = connect(path, _SCHEMA, durable=True)
        try:
            self._reader = connect(path, _SCHEMA)
        except BaseException:
            self._writer.close()
            raise
        self._read_lock = threading.Lock()
        self._write_lock = threading.Lock()
        self._closed = False

    def manifest(self, digest: Digest) -> bytes | None:
        """A manifest's bytes, hashed again, or None if it is not here (or has rotted)."""
        with self._reading() as db:
            row = db.execute("SELECT data FROM manifests WHERE digest = ?", (digest,)).fetchone()
            if row is not None and not isinstance(row[0], bytes):
                raise TypeError(f"manifest {digest}")
        if row is None:
            return None
        data: bytes = row[0]
        if Digest.of(data) != digest:
            log(__name__).warning(
                "manifest %s has rotted in %s and counts as missing", digest, self._path
            )
            return None
        return data

    def put_manifest(self, digest: Digest, data: bytes) -> None:
        """Keep a manifest.

        Raises:
            CorruptError: if its bytes have another digest.
            FormatError: if it is longer than a manifest may be.
            StorageError, BusyError: if it cannot be written.
        """
        if len(data) > MAX_MANIFEST_BYTES:
            raise FormatError(f"a manifest has at most {MAX_MANIFEST_BYTES} bytes")
        if Digest.of(data) != digest:
            raise CorruptError(f"manifest {digest} is corrupt: its bytes hash to another digest")
        with self._writing() as db:
            db.execute(
                "INSERT INTO manifests (digest, size, data) VALUES (?, ?, ?)"
                " ON CONFLICT DO UPDATE SET data = excluded.data",
                (digest, len(data), data),
            )

    def remove_manifest(self, digest: Digest) -> bool:
        """Forget a manifest; False if it was not here."""
        with self._writing() as db:
            return db.execute("DELETE FROM manifests WHERE digest = ?", (digest,)).rowcount > 0

    def manifests(self) -> list[tuple[Digest, int]]:
        """Every manifest with its size in bytes, oldest first."""
        with self._reading() as db:
            rows = db.execute("SELECT digest, size FROM manifests ORDER BY id").fetchall()
            return [(Digest(digest), size) for digest, size in rows]

    def record(self, name: Name) -> StoredRecord | None:
        """The record of a name, or None."""
        with self._reading() as db:
            row = db.execute(
                "SELECT raw, seq, key, fetched_at FROM records"
                " WHERE publisher = ? AND model = ? AND tag = ?",
                (name.publisher, name.model, name.tag),
            ).fetchone()
            return None if row is None else _stored(name, *row)

    def put_record(
        self,
        name: Name,
        raw: bytes,
        seq: int,
        key: str,
        now: float,
        rotted: bytes | None = None,
    ) -> None:
        """Keep a record whose signature and trust the caller has checked.

        Putting the bytes that are there already only says that they were current at `now`.

        Args:
            name: whose record it is.
            raw: its signed bytes.
            seq: its sequence number, 0 to 2^63 - 1.
            key: fingerprint of the key that signed it.
            now: wall time, unix seconds.
            rotted: bytes that are here and no record any more: one of their number may take
                their place.

        Raises:
            TrustError: if a record of a higher number, or another one of this number, is here.
            FormatError: if it is longer than a record may be, or its number out of range.
            StorageError, BusyError: if it cannot be written.
        """
        if len(raw) > MAX_RECORD_BYTES or not 0 <= seq < 1 << 63:
            raise FormatError(f"the record of {name} is too long, or its number out of range")
        row = (name.publisher, name.model, name.tag, raw, seq, key, now)
        with self._writing() as db:
            if db.execute(_PUT_RECORD, (*row, rotted)).rowcount > 0:
                return
        stored = self.record(name)
        here = stored.seq if stored else seq
        which = "another record with that number" if here == seq else f"number {here}"
        raise TrustError(
            f"the record of {name} with number {seq} is refused: {which} is known",
            hint="a record never goes backward; ask the publisher, or whoever runs the source",
        )

    def remove_record(self, name: Name) -> None:
        """Forget a record: its key is trusted no more, so its number guards nothing."""
        with self._writing() as db:
            db.execute(
                "DELETE FROM records WHERE publisher = ? AND model = ? AND tag = ?",
                (name.publisher, name.model, name.tag),
            )

    def records(self) -> list[StoredRecord]:
        """Every record, by name."""
        with self._reading() as db:
            rows = db.execute("SELECT * FROM records ORDER BY 1, 2, 3").fetchall()
            return [_stored(Name(*row[:3]), *row[3:]) for row in rows]

    def publisher_key(self, publisher: str) -> str | None:
        """Fingerprint of the key that is known for a publisher, or None."""
        with self._reading() as db:
            row = db.execute(
                "SELECT key FROM publishers WHERE publisher = ?", (publisher,)
            ).fetchone()
            if row is not None and not isinstance(row[0], str):
                raise TypeError(f"the key of {publisher}")
        return None if row is None else str(row[0])

    def set_publisher_key(self, publisher: str, key: str) -> None:
        """Know a publisher by the fingerprint of a key from now on."""
        with self._writing() as db:
            db.execute(
                "INSERT INTO publishers VALUES (?, ?) ON CONFLICT DO UPDATE SET key = excluded.key",
                (publisher, key),
            )

    def close(self) -> None:
        """Let go of the file. Idempotent."""
        with self._write_lock, self._read_lock, storage_errors(self._path):
            if not self._closed:
                self._closed = True
                self._reader.close()
                self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _reading(self) -> Session:
        return Session(self._path, self._reader, self._read_lock)

    def _writing(self) -> Session:
        return Session(self._path, self._writer, self._write_lock, writes=True)
