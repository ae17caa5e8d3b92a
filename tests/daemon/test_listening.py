"""Who reaches a daemon, by the address on which it listens."""

import http.client
import socket

import pytest

from icnblocks.testing.processes import start_edge


def has_ipv6():
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


def status_at(host, port):
    connection = http.client.HTTPConnection(host, port, timeout=10)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.skipif(not has_ipv6(), reason="needs IPv6")
def test_all_addresses_are_those_of_both_families(tmp_path):
    """`[::]`, which was said to be for everybody, refused IPv4."""
    with start_edge(tmp_path / "edge", listen="[::]:0") as edge:
        assert [status_at(host, edge.port) for host in ("::1", "127.0.0.1")] == [200, 200]
