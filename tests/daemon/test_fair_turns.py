"""Turns of which no client takes those of the others: at sending what is published, at asking."""

import asyncio
import os
import socket
import threading
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from types import SimpleNamespace

import aiohttp
import pytest
from aiohttp import web

from icnblocks.naming import Digest
from icnblocks.testing.exchange import call
from icnblocks.wire.bundle import Want, pack_wants
from icnblocks.wire.upload import pack_parts
from icnblocks_daemon.config import Config
from icnblocks_daemon.fair_turns import FairTurns
from icnblocks_daemon.holdings import to_the_end
from icnblocks_daemon.http.app import make_app
from icnblocks_daemon.node import LOOKS, Node
from icnblocks_daemon.uploads import AT_ONCE

BEGUN = b"POST /v1/uploads HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"


@asynccontextmanager
async def served(path):
    """A node, and where it answers."""
    node = Node(Config(path))
    runner = web.AppRunner(make_app(node), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield node, runner.addresses[0]
    finally:
        await runner.cleanup()
        await node.close()


async def in_work(node, count):
    while node.metrics.value("icn_requests_in_flight") < count:
        await asyncio.sleep(0)


async def test_two_publishers_on_slow_lines_leave_places_to_a_third(tmp_path):
    """Catches: each had eight bodies under way, which were all there may be at once, for as long
    as their lines took, and a third publisher gave up."""
    data = os.urandom(5000)
    (body,) = pack_parts([(Digest.of(data), data)])
    async with served(tmp_path / "s") as (node, there):
        with ExitStack() as opened:
            for address in ("127.0.0.2", "127.0.0.3"):
                for _ in range(8):
                    slow = socket.create_connection(there, source_address=(address, 0))
                    opened.enter_context(slow).sendall(BEGUN)
            await in_work(node, 16)
            async with asyncio.timeout(20):
                asking = asyncio.to_thread(
                    call, SimpleNamespace(port=there[1]), "POST", "/v1/uploads", body
                )
                assert (await asking).json["stored"] == 1


async def test_one_who_asks_over_and_over_what_is_missing_takes_few_threads(tmp_path, monkeypatch):
    """Catches: two hundred such requests, which anybody may send, took half a gigabyte, and all
    that needs a thread waited for half a minute."""
    most, begun, goes_on = 12, [], threading.Event()

    def looked(wants):
        begun.append(wants)
        assert goes_on.wait(20)
        return []

    async def ask(session, url):
        wants = pack_wants([Want(Digest.of(b"?"), 1)])
        async with session.post(url, data=wants) as answer:
            return answer.status

    async with served(tmp_path / "s") as (node, (_, port)):
        monkeypatch.setattr(node.holdings, "missing", looked)
        try:
            async with asyncio.timeout(20), aiohttp.ClientSession() as session:
                url = f"http://127.0.0.1:{port}/v1/missing"
                asking = [asyncio.create_task(ask(session, url)) for _ in range(most)]
                await in_work(node, most)
                for _ in range(9):
                    await asyncio.sleep(0)
                assert await asyncio.to_thread(int) == 0, "a thread is left"
                assert len(begun) <= LOOKS // 2
                goes_on.set()
                assert await asyncio.gather(*asking) == [200] * most
        finally:
            goes_on.set()


async def test_whoever_leaves_while_a_thread_works_for_him_keeps_his_turn_till_its_end():
    """Catches: who leaves and comes again, over and over, has any number of threads at work."""
    goes_on, turns = threading.Event(), FairTurns(2)

    async def work():
        async with turns.turn("a"):
            await to_the_end(asyncio.to_thread(goes_on.wait, 20))

    working = asyncio.create_task(work())
    for _ in range(3):
        await asyncio.sleep(0)
    working.cancel()
    async with Crowd(turns) as crowd:
        await crowd.ask("a", 1)
        assert not crowd.counts()
        goes_on.set()
        await asyncio.wait([working])
        await crowd.settle()
        assert working.cancelled()
        assert crowd.counts() == {"a": 1}


class Crowd:
    """Clients that take turns."""

    def __init__(self, turns):
        self.turns = turns
        self.tasks = []
        self.inside = {}

    async def ask(self, client, count):
        """So many turns more; those that may be are inside when this returns."""
        ends = [asyncio.Event() for _ in range(count)]
        self.tasks += [asyncio.create_task(self._hold(client, end)) for end in ends]
        await self.settle()

    async def end(self, client):
        """One of its turns is over."""
        self.inside[client].pop().set()
        await self.settle()

    async def settle(self):
        for _ in range(5):
            await asyncio.sleep(0)

    async def _hold(self, client, end):
        async with self.turns.turn(client):
            held = self.inside.setdefault(client, [])
            held.append(end)
            try:
                await end.wait()
            finally:
                if end in held:
                    held.remove(end)

    def counts(self):
        return {client: len(held) for client, held in self.inside.items()}

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def test_clients_come_to_hold_alike():
    """Whoever came first gives turns up as its bodies end, until all have about as many."""
    async with Crowd(FairTurns(AT_ONCE)) as crowd:
        await crowd.ask("a", 40)
        assert crowd.counts() == {"a": AT_ONCE // 2}
        await crowd.ask("b", 40)
        await crowd.ask("c", 40)
        assert crowd.counts() == {"a": 8, "b": 4, "c": 2}
        for _ in range(4):
            await crowd.end("a")
        assert crowd.counts() == {"a": 4, "b": 4, "c": 4}


async def test_when_no_place_is_free_those_who_have_none_go_first():
    async with Crowd(FairTurns(4)) as crowd:
        await crowd.ask("a", 9)
        for client in "bcd":
            await crowd.ask(client, 1)
        assert crowd.counts() == {"a": 2, "b": 1, "c": 1}
        await crowd.end("a")
        assert crowd.counts() == {"a": 1, "b": 1, "c": 1, "d": 1}


@pytest.mark.parametrize("given", [False, True])
async def test_whoever_leaves_gives_the_place_back(given):
    """Also one who leaves at the moment at which a place is given, or while waiting for one."""
    turns = FairTurns(2)
    async with AsyncExitStack() as held:
        await held.enter_async_context(turns.turn("a"))
        waiting = asyncio.create_task(held.enter_async_context(turns.turn("a")))
        await asyncio.sleep(0)
        if given:
            await held.aclose()
        waiting.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled()
    async with Crowd(turns) as crowd:
        await crowd.ask("b", 1)
        await crowd.ask("c", 1)
        assert crowd.counts() == {"b": 1, "c": 1}
