"""The facade of publishing: a directory and a name in, a published model out.

It finds the base, the key and the way to the origin, and lets its neighbours scan and deliver.
This module must not talk to people; the listener does.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from icnblocks.client.access import sign_access
from icnblocks.client.endpoint import SourceOptions
from icnblocks.client.settings import load_settings
from icnblocks.client.source import Source
from icnblocks.client.trust import KnownPublishers, Trust, read_trust_file
from icnblocks.errors import NotFoundError, UsageError
from icnblocks.manifest.model import BaseRef, Kind
from icnblocks.manifest.record import open_record
from icnblocks.naming import Name
from icnblocks.publish.deliver import known_record, next_record, place, send
from icnblocks.publish.keys import load_or_make_key
from icnblocks.publish.scan import scan, size_of
from icnblocks.store.catalog import Catalog
from icnblocks.store.inplace import InPlaceStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from icnblocks.client.settings import Settings
    from icnblocks.manifest.record import Record
    from icnblocks.publish.deliver import Published
    from icnblocks.publish.keys import PublisherKey
    from icnblocks.publish.scan import Scan


class Listener(Protocol):
    """Hears how a publish goes; all methods are called from the calling thread."""

    def begun(self, what: str, total: int) -> None:
        """`hashing` or `sending` of `total` bytes begins."""
        ...

    def moved(self, count: int) -> None:
        """`count` more bytes are done."""
        ...

    def made_key(self, publisher: str, path: Path, fingerprint: str) -> None:
        """A key was made, since there was none."""
        ...


class _Deaf:
    def begun(self, what: str, total: int) -> None:
        pass

    def moved(self, count: int) -> None:
        pass

    def made_key(self, publisher: str, path: Path, fingerprint: str) -> None:
        pass


def publisher_key(
    settings: Settings, publisher: str, path: Path | None, listener: Listener
) -> PublisherKey:
    """The key in `path`, else the publisher's in the keys directory; made on first use."""
    path = path or settings.keys / f"{publisher}.pem"
    key = load_or_make_key(path)
    if key.made:
        listener.made_key(publisher, path, key.fingerprint)
    return key


@contextmanager
def open_origin(
    settings: Settings, url: str, publisher: str, key: PublisherKey
) -> Iterator[Source]:
    """The origin at `url`, with the token of the settings or the publisher's key to show."""
    options = SourceOptions(
        ca_file=settings.ca_file,
        token=settings.token,
        stall_s=settings.stall_s,
        authorize=lambda host: sign_access(publisher, key.private, host, int(time.time())),
    )
    source = Source(url, options)
    try:
        yield source
    finally:
        source.close()


def publish(
    directory: Path,
    name: str | Name,
    *,
    to: str | None = None,
    store: Path | None = None,
    base: str | Name | None = None,
    kind: Kind | None = None,
    key: Path | None = None,
    settings: Settings | None = None,
    listener: Listener | None = None,
) -> Published:
    """Publish a model directory to an origin, or in place.

    Args:
        directory: the model.
        name: what it shall be called.
        to: URL of the origin; or
        store: a daemon's store directory, to publish in place without copying.
        base: the base that this adapter is a delta to; it must be published there already.
        kind: base or pack; by whether there is a safetensors file when None.
        key: the publisher's key file; made on first use.
        settings: the client's settings; read from file and environment when None.
        listener: hears how it goes.

    Raises:
        IcnError: as its class says; running it again goes on where it was.
    """
    if (to is None) == (store is None):
        raise UsageError("say where to publish: either to an origin's URL or in place to a store")
    wanted = name if isinstance(name, Name) else Name.parse(name)
    base_name = Name.parse(base) if isinstance(base, str) else base
    settings = settings or load_settings()
    heard: Listener = listener or _Deaf()
    size = size_of(directory)
    signer = publisher_key(settings, wanted.publisher, key, heard)
    if to is not None:
        with open_origin(settings, to, wanted.publisher, signer) as origin:
            ref = None
            if base_name is not None:
                record = known_record(origin, base_name)
                if record is not None:
                    check_base(record, wanted, signer, settings)
                ref = _base_ref(record, base_name)
            found = _scan(directory, size, kind, ref, heard)
            return send(
                origin,
                wanted,
                found,
                signer,
                int(time.time()),
                lambda total: heard.begun("sending", total),
                heard.moved,
            )
    assert store is not None
    with _stores(store) as (catalog, places):
        ref = None if base_name is None else _base_in(catalog, base_name)
        found = _scan(directory, size, kind, ref, heard)
        return place(catalog, places, wanted, found, signer, int(time.time()))


def _scan(
    directory: Path, size: int, kind: Kind | None, base: BaseRef | None, listener: Listener
) -> Scan:
    if base is not None:
        kind = Kind.ADAPTER
    elif kind is None:
        kind = Kind.BASE if any(directory.rglob("*.safetensors")) else Kind.PACK
    listener.begun("hashing", size)
    return scan(directory, kind, base, progress=listener.moved)


def check_base(record: Record, name: Name, signer: PublisherKey, settings: Settings) -> None:
    """Refuse to bind an adapter to a base that somebody else may have signed.

    One's own base must be signed by one's own key, and one of a publisher known here by the key
    that is known. A publisher never met is believed: nothing here tells better.

    Raises:
        TrustError: saying what is wrong.
    """
    publisher = record.name.publisher
    if publisher == name.publisher:
        next_record(record.name, record.manifest, signer, record, record.time)
        return
    known = KnownPublishers(settings.known_publishers)
    provisioned = read_trust_file(settings.trust_file)
    if publisher in provisioned or known.get(publisher) is not None:
        Trust(known, provisioned).judge(record)


def _base_in(catalog: Catalog, name: Name) -> BaseRef:
    stored = catalog.record(name)
    return _base_ref(open_record(stored.raw) if stored else None, name)


def _base_ref(record: Record | None, name: Name) -> BaseRef:
    if record is None or record.manifest is None:
        raise NotFoundError(f"the base {name} is not published there", hint="publish it first")
    return BaseRef(name, record.manifest)


@contextmanager
def _stores(store: Path) -> Iterator[tuple[Catalog, InPlaceStore]]:
    catalog = Catalog(store / "catalog.sqlite")
    try:
        places = InPlaceStore(store / "places.sqlite")
        try:
            yield catalog, places
        finally:
            places.close()
    finally:
        catalog.close()
