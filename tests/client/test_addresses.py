"""A host with several addresses, of which some are of no use here."""

import errno
import socket

import pytest

from icnblocks.client.source import Source
from icnblocks.errors import SourceError


@pytest.fixture
def no_ipv6(monkeypatch):
    """This host has no IPv6, but its resolver gives such addresses."""

    class Socket(socket.socket):
        def __init__(self, family=-1, *rest, **more):
            if family == socket.AF_INET6:
                raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
            super().__init__(family, *rest, **more)

    def resolved(*places):
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: places)

    monkeypatch.setattr(socket, "socket", Socket)
    return resolved


def ipv4(port):
    return socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)


def ipv6(port):
    return socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", port, 0, 0)


def test_an_address_of_a_family_that_is_not_here_is_passed_over(no_ipv6):
    """Catches: AAAA listed first, and the IPv4 address, where somebody listens, is never tried."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        no_ipv6(ipv6(port), ipv4(port))
        connection = Source(f"http://localhost:{port}").connect()
        with pytest.raises(SourceError):  # nobody answers, but somebody was reached
            connection.request("GET", "/healthz", answer_s=0.2)
        server.settimeout(5)
        server.accept()[0].close()
        connection.drop()


def test_the_failure_that_is_told_is_that_of_an_address_which_could_be_tried(no_ipv6):
    """Catches: "Address family not supported" where the connection was refused."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    no_ipv6(ipv4(port), ipv6(port))
    with pytest.raises(SourceError, match="refused"):
        Source(f"http://localhost:{port}").connect().request("GET", "/healthz", answer_s=0.2)
