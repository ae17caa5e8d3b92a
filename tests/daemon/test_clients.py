"""Who counts as one client, and that every limit and turn of clients counts so."""

import asyncio
import os
import socket
from contextlib import ExitStack, asynccontextmanager
from types import SimpleNamespace

import pytest
from aiohttp import web

from icnblocks.naming import Digest
from icnblocks.testing.exchange import call, make_model, publish
from icnblocks.wire.bundle import BundleRequest, Want, encode_request
from icnblocks_daemon.addresses import counted_as
from icnblocks_daemon.config import Config
from icnblocks_daemon.http.app import make_app
from icnblocks_daemon.neighbours import MOST_EACH
from icnblocks_daemon.node import Node

NET = "2001:db8:1:2::/64"


@pytest.mark.parametrize(
    ("peer", "local", "client"),
    [
        ("192.0.2.7", "192.0.2.1", "192.0.2.7"),
        ("::ffff:192.0.2.7", "::ffff:192.0.2.1", "192.0.2.7"),
        ("2001:db8:1:2::1", "2001:db8:9::1", NET),
        ("2001:db8:1:2:ffff:ffff:ffff:ffff", "2001:db8:9::1", NET),
        ("2001:db8:1:3::1", "2001:db8:9::1", "2001:db8:1:3::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::9", "2001:db8:1:2::1"),  # our own link
        ("fe80::1%eth0", "fe80::9%eth0", "fe80::1%eth0"),
        ("::1", "::1", "::1"),
        ("2001:db8:1:2::1", "192.0.2.1", NET),
        ("?", "", "?"),
    ],
)
def test_an_ipv6_host_elsewhere_is_one_client_whichever_address_it_takes(peer, local, client):
    assert counted_as(peer, local) == client


@asynccontextmanager
async def served(tmp_path, monkeypatch, **settings):
    """A node and its face, which takes the peer's address from a header of the request."""
    remote = property(lambda request: request.headers.get("From", "192.0.2.1"))
    monkeypatch.setattr(web.BaseRequest, "remote", remote)
    node = Node(Config(store=tmp_path, **settings))
    runner = web.AppRunner(make_app(node), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield node, SimpleNamespace(port=runner.addresses[0][1])
    finally:
        await runner.cleanup()
        await node.close()


async def test_requests_from_many_addresses_of_one_net_are_those_of_one_client(
    tmp_path, monkeypatch
):
    """Catches: one IPv6 host takes all requests that a daemon answers at once."""
    begun = (
        "POST /v1/bundles HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n"
        "From: 2001:db8:1:2::%d\r\n\r\n"
    )
    async with served(tmp_path, monkeypatch, max_client_requests=2) as (node, edge):
        with ExitStack() as opened:
            for number in (1, 2):
                sock = opened.enter_context(socket.create_connection(("127.0.0.1", edge.port)))
                sock.sendall((begun % number).encode())
            while node.metrics.value("icn_requests_in_flight") < 2:
                await asyncio.sleep(0)

            for address, status in (("2001:db8:1:2::3", 429), ("2001:db8:1:3::1", 200)):
                reply = await asyncio.to_thread(call, edge, "GET", "/v1/prefetch", From=address)
                assert reply.status == status


async def test_announcements_from_many_addresses_of_one_net_are_those_of_one_client(
    tmp_path, monkeypatch
):
    """Catches: one IPv6 host announces so much that no other device can."""
    model = make_model("acme/model")

    def announced(edge, number):
        path, address = f"/v1/manifests/{model.digest}/neighbours", f"2001:db8:1:2::{number:x}"
        return call(edge, "POST", path, b'{"port": 4261}', From=address)

    async with served(tmp_path, monkeypatch) as (_, edge):
        await asyncio.to_thread(call, edge, "PUT", f"/v1/manifests/{model.digest}", model.raw)
        for number in range(MOST_EACH):
            answer = await asyncio.to_thread(announced, edge, number)
            assert answer.status == 200
        assert "[2001:db8:1:2:" in answer.json["neighbours"][0], "the address, where it is reached"
        assert (await asyncio.to_thread(announced, edge, MOST_EACH)).status == 429


async def test_turns_are_taken_by_clients(tmp_path, monkeypatch):
    """Catches: one IPv6 host takes turns, here and at upstreams, for each of its addresses."""
    model, lacking = make_model("acme/model"), Digest.of(os.urandom(9))
    want = next(each for each in model.wants if each.length > 4096)
    body = encode_request(BundleRequest((want, Want(lacking, 9))))
    clients = []
    async with served(tmp_path, monkeypatch) as (node, edge):
        await asyncio.to_thread(publish, edge, model)
        begin, ask = node.sending.begin, node.forwarder.want
        monkeypatch.setattr(node.sending, "begin", lambda who: clients.append(who) or begin(who))
        monkeypatch.setattr(
            node.forwarder,
            "want",
            lambda waiter, want, hint, **rest: (
                clients.append(hint.client) or ask(waiter, want, hint, **rest)
            ),
        )
        asked = (
            ("GET", f"/v1/blocks/{want.digest}", None),
            ("GET", f"/v1/blocks/{lacking}?length=9", None),
            ("POST", "/v1/bundles", body),
        )
        for method, path, sent in asked:
            await asyncio.to_thread(call, edge, method, path, sent, From="2001:db8:1:2::1")
    assert clients == [NET] * 4
