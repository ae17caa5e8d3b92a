"""Who may have a body in memory: no client takes all the places of the others."""

import asyncio
import os
import socket
from contextlib import AsyncExitStack, ExitStack
from types import SimpleNamespace

import pytest
from aiohttp import web

from icnblocks.naming import Digest
from icnblocks.testing.exchange import call
from icnblocks.wire.upload import pack_parts
from icnblocks_daemon.bodies import Bodies
from icnblocks_daemon.config import Config
from icnblocks_daemon.http.app import make_app
from icnblocks_daemon.node import Node
from icnblocks_daemon.uploads import AT_ONCE

BEGUN = b"POST /v1/uploads HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"


async def test_two_publishers_on_slow_lines_leave_places_to_a_third(tmp_path):
    """Catches: each had eight bodies under way, which were all there may be at once, for as long
    as their lines took, and a third publisher gave up."""
    data = os.urandom(5000)
    (body,) = pack_parts([(Digest.of(data), data)])
    node = Node(Config(tmp_path / "s"))
    runner = web.AppRunner(make_app(node), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    there = runner.addresses[0]
    try:
        with ExitStack() as opened:
            for address in ("127.0.0.2", "127.0.0.3"):
                for _ in range(8):
                    slow = socket.create_connection(there, source_address=(address, 0))
                    opened.enter_context(slow).sendall(BEGUN)
            while node.metrics.value("icn_requests_in_flight") < 16:
                await asyncio.sleep(0)
            async with asyncio.timeout(20):
                asking = asyncio.to_thread(
                    call, SimpleNamespace(port=there[1]), "POST", "/v1/uploads", body
                )
                assert (await asking).json["stored"] == 1
    finally:
        await runner.cleanup()
        await node.close()


class Crowd:
    """Clients that take places."""

    def __init__(self, bodies):
        self.bodies = bodies
        self.tasks = []
        self.inside = {}

    async def ask(self, client, count):
        """So many bodies more; those that may be are inside when this returns."""
        ends = [asyncio.Event() for _ in range(count)]
        self.tasks += [asyncio.create_task(self._hold(client, end)) for end in ends]
        await self.settle()

    async def end(self, client):
        """One of its bodies has come."""
        self.inside[client].pop().set()
        await self.settle()

    async def settle(self):
        for _ in range(5):
            await asyncio.sleep(0)

    async def _hold(self, client, end):
        async with self.bodies.turn(client):
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
    """Whoever came first gives places up as its bodies end, until all have about as many."""
    async with Crowd(Bodies(AT_ONCE)) as crowd:
        await crowd.ask("a", 40)
        assert crowd.counts() == {"a": AT_ONCE // 2}
        await crowd.ask("b", 40)
        await crowd.ask("c", 40)
        assert crowd.counts() == {"a": 8, "b": 4, "c": 2}
        for _ in range(4):
            await crowd.end("a")
        assert crowd.counts() == {"a": 4, "b": 4, "c": 4}


async def test_when_no_place_is_free_those_who_have_none_go_first():
    async with Crowd(Bodies(4)) as crowd:
        await crowd.ask("a", 9)
        for client in "bcd":
            await crowd.ask(client, 1)
        assert crowd.counts() == {"a": 2, "b": 1, "c": 1}
        await crowd.end("a")
        assert crowd.counts() == {"a": 1, "b": 1, "c": 1, "d": 1}


@pytest.mark.parametrize("given", [False, True])
async def test_whoever_leaves_gives_the_place_back(given):
    """Also one who leaves at the moment at which a place is given, or while waiting for one."""
    bodies = Bodies(2)
    async with AsyncExitStack() as held:
        await held.enter_async_context(bodies.turn("a"))
        waiting = asyncio.create_task(held.enter_async_context(bodies.turn("a")))
        await asyncio.sleep(0)
        if given:
            await held.aclose()
        waiting.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled()
    async with Crowd(bodies) as crowd:
        await crowd.ask("b", 1)
        await crowd.ask("c", 1)
        assert crowd.counts() == {"b": 1, "c": 1}
