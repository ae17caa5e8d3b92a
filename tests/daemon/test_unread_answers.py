"""Readers that take nothing of an answer: they hold no more than the limits allow, nor for long."""

import asyncio
import os
import socket
import time
from contextlib import ExitStack

import pytest
from aiohttp import web

from icnblocks.client.endpoint import SourceOptions
from icnblocks.client.source import Source
from icnblocks.limits import MIB
from icnblocks.manifest.codec import digest_of, encode
from icnblocks.manifest.cutting import CutFile, build_manifest, cut_runs
from icnblocks.manifest.model import Kind
from icnblocks.testing.exchange import call
from icnblocks.testing.processes import peak_mb, poll_until, start_edge
from icnblocks_daemon.http.connections import Connections

BLOCKS = 400_000
"""A manifest of so many is more than the buffers of a connection in the kernel hold."""


def put_large_manifest(edge):
    """The path of a manifest of 13 MB there, and the manifest."""
    size = BLOCKS * MIB
    cut = CutFile("weights.bin", size, cut_runs("weights.bin", size, None), os.urandom(32 * BLOCKS))
    raw = encode(build_manifest(Kind.PACK, [cut], block_bytes=MIB))
    digest = digest_of(raw)
    with Source(edge.url, SourceOptions()) as source:
        source.put_manifest(digest, raw)
    return f"/v1/manifests/{digest}", raw


def ask(port, path):
    """A connection on which an answer has begun, of which nothing more is read."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.settimeout(30)
    sock.connect(("127.0.0.1", port))
    sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    return sock, sock.recv(12)


def test_a_manifest_that_nobody_reads_is_at_work_and_then_cut_off(tmp_path):
    """Catches: it was written after its request had ended, so that no limit held: a hundred
    connections took 450 MB for as long as they liked."""
    options = ("--max-client-requests", "2", "--send-grace", "2s", "--send-floor", "1MiB")
    with start_edge(tmp_path / "origin", *options) as edge, ExitStack() as opened:
        path, raw = put_large_manifest(edge)
        heads = []
        for _ in range(6):
            sock, head = ask(edge.port, path)
            opened.enter_context(sock)
            heads.append(head[-3:])
        assert heads == [b"200"] * 2 + [b"429"] * 4
        assert edge.metric("icn_requests_in_flight") == 2
        poll_until(lambda: edge.metric("icn_cut_off_total", cause="stalled") == 2)
        assert edge.metric("icn_requests_in_flight") == 0
        reply = call(edge, "GET", path)
        assert (reply.status, reply.body == raw) == (200, True)
        head = call(edge, "HEAD", path)
        assert (head.status, int(head.headers["Content-Length"]), head.body) == (200, len(raw), b"")
        assert "Traceback" not in edge.logged()


def test_a_manifest_is_in_memory_once_for_all_who_read_it_slowly(tmp_path):
    """Catches: each had a copy until all was taken, so that one address could hold 256 of them."""
    with start_edge(tmp_path / "origin") as edge:
        path, raw = put_large_manifest(edge)  # which takes memory itself
    with start_edge(tmp_path / "origin") as edge, ExitStack() as opened:
        before = peak_mb(edge.process.pid)
        for _ in range(40):
            opened.enter_context(ask(edge.port, path)[0])
        assert edge.metric("icn_requests_in_flight") == 40
        assert peak_mb(edge.process.pid) - before < 20 * len(raw) / 1e6
        assert call(edge, "GET", path).body == raw


async def leave_some_untaken(request):
    """An answer that ends with a little of it in the daemon, since the kernel takes no more."""
    response = web.StreamResponse()
    await response.prepare(request)
    while not request.transport.get_write_buffer_size():
        await response.write(bytes(4096))
    return response


@pytest.mark.parametrize("crowded", [True, False])
async def test_a_connection_that_takes_nothing_is_closed_all_the_same(crowded):
    """Catches: closing waited until all was taken, so that neither the time for idle connections
    nor room for others ended it."""
    loop, most = asyncio.get_running_loop(), 1 if crowded else 16
    idle_s = 60.0 if crowded else 0.2
    server = web.Server(leave_some_untaken, keepalive_timeout=idle_s)
    connections = Connections(most, time.monotonic)
    make = connections.guarded(server, lambda: 60.0 if crowded else 0.2)
    listening = await loop.create_server(make, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    async with asyncio.timeout(20):
        sock, _ = await asyncio.to_thread(ask, port, "/")
        with sock:
            (first,) = server.connections
            if crowded:
                while first._waiter is None:  # it is not idle yet
                    await asyncio.sleep(0.01)
                connections.make_room(server.connections)
            while server.connections:
                await asyncio.sleep(0.01)
    listening.close()
    await server.shutdown(1)
