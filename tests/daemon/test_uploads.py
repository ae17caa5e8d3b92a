"""Uploads that no manifest names: they expire, unless somebody asks for them meanwhile."""

import asyncio
import os
import threading
from contextlib import asynccontextmanager, contextmanager
from types import SimpleNamespace

import pytest
from aiohttp import web

from icnblocks.cache.content_store import ContentStore
from icnblocks.cache.policy import make_policy
from icnblocks.naming import Digest
from icnblocks.store.catalog import Catalog
from icnblocks.store.disk import DiskStore
from icnblocks.store.inplace import InPlaceStore
from icnblocks.testing.exchange import call
from icnblocks.wire.bundle import Want, pack_wants
from icnblocks.wire.upload import pack_parts
from icnblocks_daemon.config import Config
from icnblocks_daemon.holdings import Holdings
from icnblocks_daemon.http.app import make_app
from icnblocks_daemon.metrics import Metrics
from icnblocks_daemon.node import Node
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


TOKEN = "secret-token-0123456789"
ELSEWHERE = {"X_Forwarded_For": "192.0.2.7"}


@asynccontextmanager
async def served(path):
    """A node that answers, its time as the one item of a list, and how to ask it."""
    now = [0.0]
    node = Node(Config(path, upload_ttl=TTL_S, token=(TOKEN,)), clock=lambda: now[0])
    runner = web.AppRunner(make_app(node), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    place = SimpleNamespace(port=runner.addresses[0][1])
    try:
        yield node, now, lambda *asked, **more: asyncio.to_thread(call, place, *asked, **more)
    finally:
        await runner.cleanup()
        await node.close()


@pytest.mark.parametrize(
    ("headers", "kept"),
    [
        ({}, True),
        (ELSEWHERE, False),
        ({**ELSEWHERE, "Authorization": "Bearer not-a-token-of-it"}, False),
        ({**ELSEWHERE, "Authorization": "ICN ="}, False),
        ({**ELSEWHERE, "Authorization": f"Bearer {TOKEN}"}, True),
    ],
)
async def test_whoever_may_not_write_prolongs_nobodys_uploads(tmp_path, headers, kept):
    """Catches: anybody who asked what is missing, over and over, kept on an origin's disk what no
    manifest names, for ever."""
    data = os.urandom(5000)
    (body,) = pack_parts([(Digest.of(data), data)])
    async with served(tmp_path / "s") as (node, now, ask):
        assert (await ask("POST", "/v1/uploads", body)).json["stored"] == 1
        now[0] = TTL_S
        asked = pack_wants([Want(Digest.of(data), len(data))])
        reply = await ask("POST", "/v1/missing", asked, **headers)
        assert (reply.status, reply.body) == (200, b""), "to read needs no permission"
        now[0] += 1
        assert await node.uploads.expire() == (not kept)
        now[0] += TTL_S
        assert await node.uploads.expire() == kept
