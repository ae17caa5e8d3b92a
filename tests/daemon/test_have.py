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
from icnblocks_daemon.node import LOOKS, Node

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


class Asked:
    """A daemon that is asked for have-maps, which it cannot make before `goes_on`."""

    def __init__(self, path, monkeypatch, models, most):
        self.node, self.models, self.most = Node(Config(path)), models, most
        self.made, self.asking = [], []
        self.all_ask, self.goes_on = asyncio.Event(), threading.Event()
        self._decode, self._find = module.decode, self.node.manifests.shared
        monkeypatch.setattr(module, "decode", self._held)
        monkeypatch.setattr(self.node.manifests, "shared", self._found)

    def _held(self, raw):
        self.made.append(raw)
        assert self.goes_on.wait(20)
        return self._decode(raw)

    async def _found(self, *asked):
        manifest = await self._find(*asked)
        self.asking.append(manifest)
        if len(self.asking) == self.most:  # in a moment the last one waits for its map, too
            asyncio.get_running_loop().call_soon(self.all_ask.set)
        return manifest

    async def answers(self):
        """Ask for as many maps at once, of one model after the other; what is told of each."""
        runner = web.AppRunner(make_app(self.node), access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1/manifests"
        try:
            for model in self.models:
                await self.node.manifests.put(model.digest, model.raw)
            async with asyncio.timeout(20), aiohttp.ClientSession() as session:
                asked = (self.models * self.most)[: self.most]
                answers = [asyncio.create_task(self._ask(session, url, each)) for each in asked]
                await self.all_ask.wait()
                begun = len(self.made)
                self.goes_on.set()
                return begun, await asyncio.gather(*answers)
        finally:
            self.goes_on.set()
            await runner.cleanup()
            await self.node.close()

    async def _ask(self, session, url, model):
        async with session.get(f"{url}/{model.digest}/have") as answer:
            return decode_have(await answer.read(), len(model.blocks))


async def test_a_crowd_that_asks_what_is_here_of_a_model_has_it_made_once(
    tmp_path, model, monkeypatch
):
    """Catches: each had the manifest in memory and decoded for itself. A hundred who asked at once
    for that of a large model, or one client, took more than a gigabyte, and all threads for a
    minute."""
    asked = Asked(tmp_path / "s", monkeypatch, [model], 4)
    _, told = await asked.answers()
    assert told == [HaveMap(bytes(len(model.blocks)), fetches=False)] * 4
    assert len(asked.made) == 1


async def test_one_who_asks_what_is_here_of_many_models_takes_few_threads(tmp_path, monkeypatch):
    """Catches: all that needs a thread waits until all of them are made."""
    models = [make_model(f"acme/m{number}", size=5000, seed=number) for number in range(5)]
    asked = Asked(tmp_path / "s", monkeypatch, models, len(models))
    begun, told = await asked.answers()
    assert begun <= LOOKS // 2
    assert len(told) == len(asked.made) == len(models)
