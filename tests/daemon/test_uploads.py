"""Uploads that no manifest names: whoever asks for them while they expire keeps them."""

import asyncio
import os
import threading

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


@pytest.mark.parametrize("touched", [True, False])
async def test_what_is_asked_for_while_the_catalog_is_read_is_not_erased(
    tmp_path, monkeypatch, touched
):
    """A publisher was told that a block is here, and a moment later it was not."""
    now, data = 0.0, os.urandom(5000)
    digest = Digest.of(data)
    reached, opened = threading.Event(), threading.Event()
    with (
        DiskStore(tmp_path / "blocks") as store,
        Catalog(tmp_path / "catalog.sqlite") as catalog,
        InPlaceStore(tmp_path / "places.sqlite") as places,
    ):
        content = ContentStore(store, make_policy("lru", None), None, evict=False)
        holdings = Holdings(
            content, places, lambda: now, evicts=False, recall=lambda digest: None
        )  # fmt: skip
        uploads = Uploads(holdings, catalog, Metrics(), ttl_s=TTL_S, clock=lambda: now)
        for body in pack_parts([(digest, data)]):
            await uploads.take(body)
        manifests = catalog.manifests

        def held():
            reached.set()
            assert opened.wait(20)
            return manifests()

        monkeypatch.setattr(catalog, "manifests", held)
        now = TTL_S + 1
        expiring = asyncio.create_task(uploads.expire())
        await asyncio.to_thread(reached.wait, 20)
        assert holdings.contains(digest)
        if touched:
            uploads.touch([digest])
        opened.set()
        assert await expiring == (not touched)
        assert holdings.contains(digest) == touched
        now += TTL_S + 1
        assert await uploads.expire() == touched  # their time began anew, and is over
        assert not holdings.contains(digest)
