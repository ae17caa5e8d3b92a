"""Many connections at a device that shares: of one machine, and of others beside it."""

from __future__ import annotations

import socket

from tests.share.blocks import blocks_of
from tests.share.test_server import LOCAL, sharing

OTHER = "127.0.0.2"
HELLO = b"GET /healthz HTTP/1.1\r\n\r\n"


def test_one_machine_cannot_take_the_places_of_all_peers(tmp_path, monkeypatch) -> None:
    """Catches: whoever opened 48 connections, and said nothing, kept a device from serving others.

    Connections of this machine's own are not bounded so, but for this test.
    """
    monkeypatch.setattr("icnblocks.share.server.is_loopback", lambda _: False)
    with sharing(tmp_path, blocks_of(1), peers=4) as (server, _):
        many = [socket.create_connection((LOCAL, server.port)) for _ in range(24)]
        for sock in many[2:]:  # half of the peers
            sock.settimeout(10)
            assert sock.recv(1) == b""
        with socket.create_connection((LOCAL, server.port), source_address=(OTHER, 0)) as other:
            other.settimeout(10)
            other.sendall(HELLO)
            assert other.recv(12) == b"HTTP/1.1 200"
        many[0].sendall(HELLO)
        many[0].settimeout(10)
        assert many[0].recv(12) == b"HTTP/1.1 200", "they stay"
        for sock in many:
            sock.close()
