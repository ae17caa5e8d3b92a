"""Uploads that no manifest names: they expire, unless somebody asks for them meanwhile."""

import asyncio
import os
import threading
from contextlib import contextmanager

import pytest

from icnblocks.cache.content_store import ContentStore
from icnblocks.cache.policy import make_policy
from icnblocks.naming import Digest
from icnblocks.store.catalog import Catalog
from icnblocks.store.disk import DiskStore
from icnblocks.store.inplace import InPlaceStore
from icnblocks.wire.upload import pack_parts
from icnblocks_daemon.holdings import Holdings
from icnblocks_daemon.metrics import Metrics
from icnblocks_daemon.uploads import Uploads

TTL_S = 60.0


@contextmanager
def daemon(path):
    """Its uploads and what they need, with the time as the one item of a list."""
    now = [0.0]
    with (
        DiskStore(path / "blocks") as store,
        Catalog(path / "catalog.sqlite") as catalog,
        InPlaceStore(path / "places.sqlite") as places,
    ):
        content = ContentStore(store, make_policy("lru", None), None, evict=False)
        holdings = Holdings(
            content, places, lambda: now[0], evicts=False, recall=lambda digest: None
        )
        uploads = Uploads(holdings, catalog, Metrics(), ttl_s=TTL_S, clock=lambda: now[0])
        yield now, uploads, holdings, catalog


@pytest.mark.parametrize("touched", [True, False])
async def test_what_is_asked_for_while_the_catalog_is_read_is_not_erased(
    tmp_path, monkeypatch, touched
):
    """A publisher was told that a block is here, and a moment later it was not."""
    data = os.urandom(5000)
    digest = Digest.of(data)
    reached, opened = threading.Event(), threading.Event()
    with daemon(tmp_path) as (now, uploads, holdings, catalog):
        for body in pack_parts([(digest, data)]):
            await uploads.take(body)
        manifests = catalog.manifests

        def held():
            reached.set()
            assert opened.wait(20)
            return manifests()

        monkeypatch.setattr(catalog, "manifests", held)
        now[0] = TTL_S + 1
        expiring = asyncio.create_task(uploads.expire())
        await asyncio.to_thread(reached.wait, 20)
        assert holdings.contains(digest)
        if touched:
            uploads.touch([digest])
        opened.set()
        assert await expiring == (not touched)
        assert holdings.contains(digest) == touched
        now[0] += TTL_S + 1
        assert await uploads.expire() == touched  # their time began anew, and is over
        assert not holdings.contains(digest)


async def test_a_block_whose_publisher_leaves_while_it_is_stored_expires_too(tmp_path, monkeypatch):
    """Catches: it is stored to the end, and noted only if somebody still waits; without that
    nobody ever erases it. Anybody who may upload could fill a disk so."""
    data = os.urandom(5000)
    (body,) = pack_parts([(Digest.of(data), data)])
    reached, opened = threading.Event(), threading.Event()
    with daemon(tmp_path) as (now, uploads, holdings, _):
        store = holdings.content.store
        put = store.put

        def held(block):
            reached.set()
            assert opened.wait(20)
            return put(block)

        monkeypatch.setattr(store, "put", held)
        taking = asyncio.create_task(uploads.take(body))
        await asyncio.to_thread(reached.wait, 20)
        taking.cancel()
        await asyncio.wait([taking])
        others = asyncio.all_tasks() - {asyncio.current_task()}
        opened.set()
        await asyncio.wait(others, timeout=20)
        assert len(store) == uploads.unnamed == 1
        now[0] = TTL_S + 1
        assert await uploads.expire() == 1
        assert not len(store)
