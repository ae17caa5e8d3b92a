"""The two ways to publish what is being scanned: to an origin, or in place.

It finds the base, the key and the way to the origin, and lets its neighbours scan and deliver.
This module must not talk to people; the listener does.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from icnblocks.client.access import sign_access
from icnblocks.client.endpoint import SourceOptions
from icnblocks.client.patience import Waiter
from icnblocks.client.source import Source
from icnblocks.client.trust import KnownPublishers, Trust, read_trust_file
from icnblocks.errors import NotFoundError, TrustError
from icnblocks.manifest.model import BaseRef
from icnblocks.manifest.record import open_record
from icnblocks.publish.deliver import known_record, next_record, place, send
from icnblocks.publish.keys import load_or_make_key
from icnblocks.store.catalog import Catalog
from icnblocks.store.database import storage_errors
from icnblocks.store.home import CATALOG, PLACES, check_may_be_store
from icnblocks.store.inplace import InPlaceStore
from icnblocks.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from icnblocks.client.settings import Settings
    from icnblocks.manifest.model import Kind
    from icnblocks.manifest.record import Record
    from icnblocks.naming import Name
    from icnblocks.publish.deliver import Published
    from icnblocks.publish.facade import Listener
    from icnblocks.publish.keys import PublisherKey
    from icnblocks.publish.scan import Scanning


def publisher_key(
    settings: Settings, publisher: str, path: Path | None, listener: Listener
) -> PublisherKey:
    """The key in `path`, else the publisher's in the keys directory; made on first use.

    Raises:
        TrustError: if there is none, and the publisher is known here by one.
    """
    path = path or settings.keys / f"{publisher}.pem"
    known = None if path.exists() else KnownPublishers(settings.known_publishers).get(publisher)
    if known is not None:
        raise TrustError(
            f"there is no key in {path}, and {publisher} is known here by the key {known}",
            hint="name that key's file with --key; to begin anew with another one, take the line of"
            f" {publisher} out of {settings.known_publishers}",
        )
    key = load_or_make_key(path)
    if key.made:
        listener.made_key(publisher, path, key.fingerprint)
    return key


@contextmanager
def open_origin(
    settings: Settings, url: str, publisher: str, key: PublisherKey
) -> Iterator[Source]:
    """The origin at `url`, with the token of the settings or the publisher's key to show.

    While it is busy it is asked again, until `retry_s` have passed in which it took nothing.
    """
    options = SourceOptions(
        ca_file=settings.ca_file,
        token=settings.token,
        stall_s=settings.stall_s,
        authorize=lambda host: sign_access(publisher, key.private, host, int(time.time())),
    )
    source = Source(url, options, Waiter(settings.retry_s))
    try:
        yield source
    finally:
        source.close()


@dataclass(frozen=True, slots=True)
class Wish:
    """What to publish.

    Attributes:
        name: what it shall be called.
        base: the base that it is a delta to, or None.
        kind: what the manifest shall say it is.
        lifetime: seconds that copies of the record may be served unasked; None as before.
    """

    name: Name
    base: Name | None
    kind: Kind
    lifetime: int | None


def to_origin(
    scanning: Scanning,
    url: str,
    wish: Wish,
    signer: PublisherKey,
    settings: Settings,
    listener: Listener,
) -> Published:
    """Publish what is being scanned to the origin at `url`."""
    with open_origin(settings, url, wish.name.publisher, signer) as origin:
        ref = None
        if wish.base is not None:
            record = known_record(origin, wish.base)
            if record is not None:
                check_base(record, wish.name, signer, settings)
            ref = _base_ref(record, wish.base)
        return send(
            origin,
            wish.name,
            scanning.end(wish.kind, ref),
            signer,
            int(time.time()),
            wish.lifetime,
            lambda total: listener.begun("sending", total),
            listener.moved,
        )


def in_place(scanning: Scanning, store: Path, wish: Wish, signer: PublisherKey) -> Published:
    """Publish what is being scanned where it lies, through a daemon's store."""
    with _stores(store) as (catalog, places):
        ref = None if wish.base is None else _base_in(catalog, wish.base)
        scan = scanning.end(wish.kind, ref)
        return place(catalog, places, wish.name, scan, signer, int(time.time()), wish.lifetime)


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
    with storage_errors(store):
        check_may_be_store(store)
    catalog = Catalog(store / CATALOG)
    try:
        places = InPlaceStore(store / PLACES)
        try:
            yield catalog, places
        finally:
            places.close()
    finally:
        catalog.close()
