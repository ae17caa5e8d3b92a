"""From a scan to a published model: only what the origin lacks is sent, the record last.

Every step may be repeated: blocks that are there are not sent again, a manifest that is there is
not harmed, and a record is made only when the name does not stand for this manifest yet. So a
publish that was cut off is resumed by running it again. In place, the directory itself becomes
the store of its blocks and nothing is copied.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from icnblocks.client.resolve import record_of
from icnblocks.errors import CorruptError, NotFoundError, RefusedError, TrustError
from icnblocks.limits import DEFAULT_LIFETIME_S, MAX_CLOCK_SKEW_S
from icnblocks.manifest.codec import digest_of, encode
from icnblocks.manifest.record import (
    Record,
    check_follows,
    check_time,
    fingerprint,
    reopen_record,
    sign_record,
    trusted_via,
)
from icnblocks.placement.plan import Plan
from icnblocks.publish.uploads import upload
from icnblocks.store.base import verify
from icnblocks.store.database import storage_error
from icnblocks.store.extents import read_all
from icnblocks.values import dataclass
from icnblocks.wire.bundle import Want
from icnblocks.wire.upload import pack_parts, unpack_parts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from icnblocks.client.source import Source
    from icnblocks.naming import Digest, Name
    from icnblocks.publish.keys import PublisherKey
    from icnblocks.publish.scan import Scan
    from icnblocks.store.catalog import Catalog
    from icnblocks.store.inplace import InPlaceStore


@dataclass(frozen=True, slots=True)
class Published:
    """What a publish came to.

    Attributes:
        manifest: the manifest's digest.
        seq: the record's sequence number.
        bytes_sent: block payload that was sent.
        bytes_manifest: length of the manifest.
        again: the name stood for this manifest already, and no record was made.
    """

    manifest: Digest
    seq: int
    bytes_sent: int
    bytes_manifest: int
    again: bool


def next_record(
    name: Name,
    manifest: Digest | None,
    key: PublisherKey,
    known: Record | None,
    now: int,
    *,
    lifetime: int | None = None,
) -> Record | None:
    """The record that shall follow `known`, or None if `known` says the same already.

    One that was made while a clock was ahead is followed in any case, by one of `now`: until its
    own time comes, it is refused by everybody, as one that were no older would be.

    Args:
        name: what is published.
        manifest: what it stands for from now on; None withdraws it.
        key: the publisher's key.
        known: the record there is, or None.
        now: Unix seconds.
        lifetime: seconds that a copy may be served unasked; as it was when None, and the default
            for a first record and for a withdrawal.

    Raises:
        TrustError: if `known` is signed by a key that this one does not follow.
    """
    if known is not None and not trusted_via(_probe(name, key), fingerprint(known.key)):
        raise TrustError(
            f"{name} was published with another key, {fingerprint(known.key)}",
            hint="publish with that key (--key FILE), or under another name",
        )
    if lifetime is None:
        goes_on = known is not None and None not in {known.manifest, manifest}
        lifetime = known.lifetime if known is not None and goes_on else DEFAULT_LIFETIME_S
    says = manifest, key.public, lifetime
    ahead = known is not None and known.time - now > MAX_CLOCK_SKEW_S
    if known is not None and not ahead and (known.manifest, known.key, known.lifetime) == says:
        return None
    seq = 1 if known is None else known.seq + 1
    time = now if known is None or ahead else max(now, known.time)
    record = Record(name, manifest, seq, time, key.public, lifetime, key.rotations)
    if known is not None:
        check_follows(known, record)
    return record


def _probe(name: Name, key: PublisherKey) -> Record:
    return Record(name, None, 1, 0, key.public, DEFAULT_LIFETIME_S, key.rotations)


class _Reader:
    """Reads blocks of a scanned directory, verified as they are read."""

    def __init__(self, scan: Scan, plan: Plan) -> None:
        self._scan = scan
        self._plan = plan
        self._file, self._fd = -1, -1

    def blocks(self, wants: list[Want]) -> Iterator[tuple[Digest, bytes]]:
        for want in wants:
            yield want.digest, self._block(want)

    def _block(self, want: Want) -> bytes:
        try:
            return self._read(want)
        except (OSError, CorruptError) as error:
            self._scan.check()  # a file that changed is no disk that lies
            if isinstance(error, OSError):
                raise storage_error(error, f"cannot read {self._scan.root}") from error
            raise

    def _read(self, want: Want) -> bytes:
        spot = self._plan.spots(want.digest)[0]
        if spot.file != self._file:
            self.close()
            path = self._scan.root / self._scan.manifest.files[spot.file].path
            self._file, self._fd = spot.file, os.open(path, os.O_RDONLY)
        data = read_all(self._fd, want.length, spot.offset)
        verify(want.digest, data)
        return data

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._file = self._fd = -1


def known_record(source: Source, name: Name) -> Record | None:
    """The record that a source has of a name, opened, or None.

    Raises:
        TrustError: if it is a record of another name.
        SourceError: if it is none.
    """
    try:
        _, record = record_of(source, name)
    except NotFoundError:
        return None
    if record.name != name:
        raise TrustError(f"asked {source} for {name}, got a record of {record.name}")
    return record


def _bodies(blocks: Iterator[tuple[Digest, bytes]]) -> Iterator[tuple[bytes, int]]:
    """Request bodies, and how many bytes of blocks are in each."""
    for body in pack_parts(blocks):
        yield body, sum(len(part.data) for part in unpack_parts(body))


def send(
    source: Source,
    name: Name,
    scan: Scan,
    key: PublisherKey,
    now: int,
    lifetime: int | None = None,
    begun: Callable[[int], None] = lambda _: None,
    sent: Callable[[int], None] = lambda _: None,
) -> Published:
    """Publish a scanned directory to an origin.

    Args:
        source: the origin.
        name: what it shall be called.
        scan: what to publish.
        key: the publisher's key.
        now: Unix seconds.
        lifetime: of the record (see `next_record`).
        begun: told how many bytes the origin lacks.
        sent: told of every count of bytes that the origin has taken.

    Raises:
        TrustError: if the name is published with another key.
        RefusedError: if the origin does not let this publisher write.
        ThrottledError: if it is busy for longer than the source's waiter waits.
        ChangedError: if a file changed meanwhile; CorruptError: if its disk lies; StorageError: if
            it cannot be read.
    """
    data = encode(scan.manifest)
    digest = digest_of(data)
    known = known_record(source, name)
    record = next_record(name, digest, key, known, now, lifetime=lifetime)
    plan = Plan(scan.manifest)
    wants = [Want(block, length) for _, block, length, _ in plan.wants()]
    missing = [wants[index] for index in source.missing(wants)]
    bytes_sent = sum(want.length for want in missing)
    begun(bytes_sent)
    reader = _Reader(scan, plan)
    try:
        upload(source, _bodies(reader.blocks(missing)), sent)
    finally:
        reader.close()
    scan.check()
    source.put_manifest(digest, data)
    if record is not None:
        record = _put(source, record, key, known, now)
    seq = record.seq if record else known.seq if known else 0
    return Published(digest, seq, bytes_sent, len(data), record is None)


def _put(
    source: Source, record: Record, key: PublisherKey, known: Record | None, now: int
) -> Record:
    """Put a record at an origin; what it has taken."""
    try:
        source.put_record(record.name, sign_record(record, key.private))
    except RefusedError:
        if known is not None or known_record(source, record.name) is not None:
            raise
        # Its own has rotted, and of that the number still binds. The time is a higher one.
        record = replace(record, seq=max(now, record.seq))
        source.put_record(record.name, sign_record(record, key.private))
    return record


def place(
    catalog: Catalog,
    places: InPlaceStore,
    name: Name,
    scan: Scan,
    key: PublisherKey,
    now: int,
    lifetime: int | None = None,
) -> Published:
    """Publish a scanned directory in place, for a daemon that serves this store.

    All of it survives a power cut when this returns, the files too.

    Raises:
        TrustError: if the name is published with another key, or a rotation that leads to this one
            is of the future: nobody would take the record.
        StorageError: if the store cannot be written, or the files cannot be flushed.
    """
    data = encode(scan.manifest)
    digest = digest_of(data)
    stored = catalog.record(name)
    known = reopen_record(stored.raw) if stored else None
    record = next_record(name, digest, key, known, now, lifetime=lifetime)
    if record is not None and stored is not None:  # also where that one has rotted
        record = replace(record, seq=stored.seq + 1)
    if record is not None:
        check_time(record, now)  # as an origin does with what is sent to it
    scan.check()
    scan.flush()
    places.add_directory(scan.root.absolute(), digest, scan.manifest, scan.facts)
    catalog.put_manifest(digest, data)
    if record is not None:
        raw = sign_record(record, key.private)
        catalog.put_record(name, raw, record.seq, fingerprint(record.key), now)
    seq = record.seq if record else known.seq if known else 0
    return Published(digest, seq, 0, len(data), record is None)


def withdraw(source: Source, name: Name, key: PublisherKey, now: int) -> int:
    """Withdraw a tag at an origin; returns the sequence number of the withdrawal.

    Raises:
        NotFoundError: if the origin does not know the name.
    """
    known = known_record(source, name)
    if known is None:
        raise NotFoundError(f"{name} is not published there")
    record = next_record(name, None, key, known, now)
    if record is None:
        return known.seq
    source.put_record(name, sign_record(record, key.private))
    return record.seq


def warn_of_local_base(adapter_config: dict[str, object]) -> str | None:
    """A line of warning where an adapter's config names its base by a local path."""
    base = adapter_config.get("base_model_name_or_path")
    if isinstance(base, str) and (base.startswith(("/", "./", "../", "~")) or os.path.isdir(base)):
        return (
            f"adapter_config.json names its base by a path of this machine, {base!r};"
            " others must say which base they mean (PeftModel.from_pretrained(base, adapter))"
        )
    return None
