"""Have-maps from real daemons: what is here, what would be fetched, and what is not known."""

from __future__ import annotations

import asyncio
import threading

import aiohttp
import pytest
from aiohttp import web

from icnblocks.naming import Digest
from icnblocks.testing.exchange import bundle, call, make_model, publish
from icnblocks.testing.processes import poll_until, start_edge
from icnblocks.wire.havemap import HaveMap, decode_have
from icnblocks_daemon.config import Config
from icnblocks_daemon.http import have as module
from icnblocks_daemon.http.app import make_app
from icnblocks_daemon.node import Node

SIZE, BLOCK = 400_000, 4096


@pytest.fixture
def model():
    return make_model(size=SIZE, block_bytes=BLOCK)


def have(edge, model, **headers: str) -> HaveMap:
    reply = call(edge, "GET", f"/v1/manifests/{model.digest}/have", **headers)
    assert reply.status == 200, reply.body
    assert reply.headers["Cache-Control"] == "no-store"
    return decode_have(reply.body, len(model.manifest.lengths()))


def test_an_origin_has_all_and_fetches_nothing(tmp_path, model):
    with start_edge(tmp_path / "origin") as origin:
        publish(origin, model)
        assert have(origin, model) == HaveMap(b"\1" * len(model.blocks), fetches=False)
        unknown = call(origin, "GET", f"/v1/manifests/{Digest.of(b'?')}/have")
        assert (unknown.status, unknown.json["error"]) == (404, "not-found")
        assert call(origin, "POST", f"/v1/manifests/{model.digest}/have").status == 405


def test_an_edge_tells_what_it_holds_and_asking_fetches_no_block(tmp_path, model):
    with (
        start_edge(tmp_path / "origin") as origin,
        start_edge(tmp_path / "edge", "--upstream", origin.url) as edge,
    ):
        publish(origin, model)
        count = len(model.blocks)
        assert have(edge, model, ICN_Name="acme/model") == HaveMap(bytes(count), fetches=True)
        some = (model.wants[3], model.wants[-1])
        assert len(bundle(edge, some, name=model.name)[0]) == 2
        found = have(edge, model)
        order = list(model.manifest.lengths())
        assert {order[at] for at, flag in enumerate(found.flags) if flag} == {
            want.digest for want in some
        }
        # (a block is passed on before it is counted)
        poll_until(lambda: edge.metric("icn_upstream_received_blocks_total") >= 2)
        assert edge.metric("icn_upstream_received_blocks_total") == 2


def test_a_daemon_that_routes_other_names_only_does_not_say_that_it_fetches(tmp_path, model):
    """Else a device would wait for it instead of asking somebody who can."""
    with start_edge(tmp_path / "origin") as origin:
        publish(origin, model)
        args = ("--upstream", f"other={origin.url}")
        with start_edge(tmp_path / "mixed", *args) as mixed:
            publish(mixed, model)
            assert have(mixed, model, ICN_Name=str(model.name)).fetches is False
            assert have(mixed, model, ICN_Name="other/model").fetches is True


async def test_a_crowd_that_asks_what_is_here_of_a_model_has_it_made_once(
    tmp_path, model, monkeypatch
):
    """Catches: each had the manifest in memory and decoded for itself. A hundred who asked at once
    for that of a large model, or one client, took more than a gigabyte, and all threads for a
    minute."""
    most, made, asking = 4, [], []
    all_ask, goes_on = asyncio.Event(), threading.Event()
    node, decode = Node(Config(tmp_path / "s")), module.decode
    find = node.manifests.shared

    def held(raw):
        made.append(raw)
        assert goes_on.wait(20)
        return decode(raw)

    async def found(*asked):
        manifest = await find(*asked)
        asking.append(manifest)
        if len(asking) == most:  # in a moment the last one waits for its map, too
            asyncio.get_running_loop().call_soon(all_ask.set)
        return manifest

    async def ask(session, url):
        async with session.get(url) as answer:
            return decode_have(await answer.read(), len(model.blocks))

    monkeypatch.setattr(module, "decode", held)
    monkeypatch.setattr(node.manifests, "shared", found)
    runner = web.AppRunner(make_app(node), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        await node.manifests.put(model.digest, model.raw)
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1/manifests/{model.digest}/have"
        async with asyncio.timeout(20), aiohttp.ClientSession() as session:
            answers = [asyncio.create_task(ask(session, url)) for _ in range(most)]
            await all_ask.wait()
            goes_on.set()
            assert set(await asyncio.gather(*answers)) == {HaveMap(bytes(len(model.blocks)), False)}
        assert len(made) == 1
    finally:
        goes_on.set()
        await runner.cleanup()
        await node.close()
