"""A proxy that cannot be used is named as what is broken, and not the source behind it."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager

import pytest

from icnblocks.client.endpoint import Proxy
from icnblocks.client.source import Source, SourceOptions
from icnblocks.errors import SourceError
from icnblocks.naming import Name
from icnblocks.testing.lying import LyingServer, Reply

NAME = Name("acme", "minilm", "v1")
QUICK = SourceOptions(connect_s=0.3, stall_s=0.3)


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(key, raising=False)
        monkeypatch.delenv(key.upper(), raising=False)


@contextmanager
def refusing():
    """A port where nobody listens, and nobody else will."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


@contextmanager
def swallowing():
    """A port where connecting hangs: its queue is full."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        fill = [socket.socket() for _ in range(3)]
        for sock in fill:
            sock.setblocking(False)
            sock.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]
        for sock in fill:
            sock.close()


@contextmanager
def saying(words: bytes):
    """A port where whoever connects is told this, and nothing more."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            sock, _ = listener.accept()
            with sock:
                sock.recv(65536)
                sock.sendall(words)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


def failure(url: str) -> SourceError:
    with Source(url, QUICK) as source, pytest.raises(SourceError) as caught:
        source.record(NAME)
    return caught.value


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(
    ("proxy", "why"),
    [(refusing, "refused"), (swallowing, "no answer")],
    ids=["refusing", "swallowing"],
)
def test_a_proxy_that_cannot_be_reached_is_named(proxy, why, scheme, monkeypatch) -> None:
    with proxy() as port:
        monkeypatch.setenv(f"{scheme}_proxy", f"http://me:secret@127.0.0.1:{port}")
        error = failure(f"{scheme}://far.example")
    told = f"{scheme}://far.example cannot be reached through the proxy 127.0.0.1:{port}: "
    assert str(error).startswith(told)
    assert why in str(error)
    for word in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):
        assert word in error.hint


@pytest.mark.parametrize("junk", ["junk", "http://a..b:1", "http://ä..b:1"])
def test_a_proxy_whose_name_means_nothing_is_named(junk, monkeypatch) -> None:
    def resolve(host, *_, **__):
        if isinstance(host, str):
            host.encode("idna")  # as the real one does first
        raise socket.gaierror(socket.EAI_NONAME, "not known")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setenv("http_proxy", junk)
    error = failure("http://far.example")
    assert "through the proxy " in str(error)
    assert "NO_PROXY" in error.hint


@pytest.mark.parametrize("words", [b"", b"SSH-2.0-x\r\n"], ids=["hangs up", "no HTTP"])
def test_a_proxy_that_makes_no_tunnel_is_named(words, monkeypatch) -> None:
    with saying(words) as port:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{port}")
        error = failure("https://far.example")
    assert f"through the proxy 127.0.0.1:{port}: " in str(error)
    assert "NO_PROXY" in error.hint


def test_a_proxy_that_wants_to_know_who_asks_is_what_is_to_be_looked_at(monkeypatch) -> None:
    """Catches: "check the source's URL" for who gave no password to the proxy."""
    with LyingServer({}, respond=lambda _: Reply(407)) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        error = failure("http://far.example")
    assert "proxy" in str(error)
    assert error.hint == Proxy.advice
