"""Sources: URLs, control requests, errors of servers, and time limits."""

from __future__ import annotations

import json
import socket
import threading
import time
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icnblocks.client.answers import ThrottledError
from icnblocks.client.endpoint import Endpoint
from icnblocks.client.source import Source, SourceOptions
from icnblocks.errors import (
    BusyError,
    ConflictError,
    CorruptError,
    Fault,
    ForeignError,
    FormatError,
    IcnError,
    NotFoundError,
    RefusedError,
    SourceError,
    UsageError,
    WithdrawnError,
)
from icnblocks.limits import MAX_RECORD_BYTES, MAX_REQUEST_BYTES
from icnblocks.naming import Digest, Name
from icnblocks.testing.lying import LyingServer, RechunkingProxy, Reply
from icnblocks.wire.bundle import Want, pack_indexes, unpack_wants
from icnblocks.wire.upload import pack_parts

QUICK = SourceOptions(stall_s=0.3, connect_s=2.0)
NAME = Name("acme", "minilm", "v1")


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(key, raising=False)
        monkeypatch.delenv(key.upper(), raising=False)


def serving(respond) -> LyingServer:
    return LyingServer({}, respond=respond)


@pytest.mark.parametrize(
    ("url", "shown", "authority"),
    [
        ("http://edge", "http://edge", "edge"),
        ("http://edge:80/", "http://edge", "edge"),
        ("http://[fe80::1%eth0]:81", "http://[fe80::1%eth0]:81", "[fe80::1]:81"),
        ("http://[fe80::1%25eth0]", "http://[fe80::1%eth0]", "[fe80::1]"),
        ("https://edge:443", "https://edge", "edge"),
        ("HTTP://Edge:8080/a/b/", "http://edge:8080/a/b", "edge:8080"),
        ("http://[::1]:8", "http://[::1]:8", "[::1]:8"),
    ],
)
def test_urls(url: str, shown: str, authority: str) -> None:
    endpoint = Endpoint.parse(url)
    assert str(endpoint) == shown
    assert endpoint.authority == authority
    assert Endpoint.parse(shown) == endpoint


@pytest.mark.parametrize(
    "url",
    ["", "edge", "edge:8080", "ftp://edge", "http://", "http://:80", "http://edge:port",
     "http://edge:99999", "http://edge:0", "http://u:p@edge", "http://u@edge", "http://edge?a=b",
     "http://edge/#x", "http://ed ge", "http://edge/\r\nX: y", "http://[::1", "http://ëdge",
     "file:///etc/passwd"],
)  # fmt: skip
def test_urls_that_cannot_be_meant_are_refused_in_one_line(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        Source(url)
    assert "\n" not in str(caught.value)
    assert ":p@" not in str(caught.value), "credentials must not end up in logs"


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=30) | st.text(max_size=20).map("http://".__add__))
def test_any_text_is_a_url_or_a_usage_error(text: str) -> None:
    try:
        endpoint = Endpoint.parse(text)
    except UsageError:
        return
    assert str(endpoint).isprintable()
    assert " " not in str(endpoint)


@pytest.mark.parametrize("host", ["edge..example", ".edge", "e" * 70])
def test_a_host_name_that_cannot_be_is_unknown(host: str) -> None:
    """Catches: "does not speak HTTP: UnicodeError", and the pull given up for that."""
    with Source(f"http://{host}") as source, pytest.raises(SourceError, match="unknown host name"):
        source.record(NAME)


def test_a_record_with_its_age() -> None:
    def respond(request):
        assert request.path == "/prefix/v1/records/acme/minilm/v1"
        assert request.headers["icn-version"] == "1"
        assert "icnblocks" in request.headers["user-agent"]
        return Reply(200, b"raw", {"ICN-Age": "42", "ICN-Stale": "1"})

    with serving(respond) as server, Source(server.url + "/prefix/") as source:
        answer = source.record(NAME)
        assert (answer.raw, answer.age_s, answer.stale) == (b"raw", 42.0, True)
        source.record(NAME)
        assert server.connections == 1


def test_a_connection_of_ones_own_is_the_one_that_is_open_already() -> None:
    with serving(lambda _: Reply(200, b"raw")) as server, Source(server.url) as source:
        source.record(NAME)
        mine = source.connect()
        assert mine.request("GET", "/x").read(10) == b"raw"
        assert server.connections == 1
        source.record(NAME)  # not on that one
        assert server.connections == 2
        mine.drop()


def test_an_endless_record_is_refused() -> None:
    with serving(lambda _: Reply(200, bytes(MAX_RECORD_BYTES + 1))) as server:
        with Source(server.url) as source, pytest.raises(FormatError, match="more than"):
            source.record(NAME)


def test_a_record_that_is_cut_off_is_no_record() -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        sock, _ = listener.accept()
        sock.recv(65536)
        sock.sendall(b"HTTP/1.1 200 OK\r\nICN-Version: 1\r\nContent-Length: 9\r\n\r\nhalf")
        sock.close()

    thread = threading.Thread(target=serve)
    thread.start()
    with Source(f"http://127.0.0.1:{listener.getsockname()[1]}") as source:
        with pytest.raises(SourceError, match="cut off"):
            source.record(NAME)
    thread.join()
    listener.close()


def test_a_manifest_is_hashed() -> None:
    good = Digest.of(b"manifest")
    with serving(lambda _: Reply(200, b"manifest")) as server, Source(server.url) as source:
        assert source.manifest(good) == b"manifest"
        with pytest.raises(CorruptError):
            source.manifest(Digest.of(b"other"))


def test_missing_is_asked_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("icnblocks.client.source.MISSING_BATCH", 10)
    wants = [Want(Digest(i.to_bytes(32, "big")), 1) for i in range(25)]

    def respond(request):
        asked = unpack_wants(request.body)
        assert len(asked) <= 10
        return Reply(200, pack_indexes([i for i, want in enumerate(asked) if want.digest[-1] % 2]))

    with serving(respond) as server, Source(server.url) as source:
        assert source.missing(wants) == list(range(1, 25, 2))
    with serving(lambda _: Reply(200, pack_indexes([11]))) as server, Source(server.url) as source:
        with pytest.raises(FormatError):
            source.missing(wants)


def test_publishing_sends_parts_with_authorization() -> None:
    seen = []

    def respond(request):
        seen.append(request)
        return Reply(201)

    options = SourceOptions(authorize=lambda host: f"ICN for {host}")
    data = bytes(2 * MAX_REQUEST_BYTES + 5)
    with serving(respond) as server, Source(server.url, options) as source:
        source.upload(pack_parts([(Digest.of(b"x"), b"x")]))
        source.put_manifest(Digest.of(data), data)
        source.put_manifest(Digest.of(b"m"), b"m")
        source.put_record(NAME, b"raw")
        assert source.missing([Want(Digest.of(b"x"), 1)]) == []  # what is there stays for us
        authority = source.endpoint.authority
    assert {request.headers["authorization"] for request in seen} == {f"ICN for {authority}"}
    assert [request.headers.get("content-range") for request in seen] == [
        None, "bytes 0-999999/2000005", "bytes 1000000-1999999/2000005",
        "bytes 2000000-2000004/2000005", None, None, None,
    ]  # fmt: skip
    assert b"".join(request.body for request in seen[1:4]) == data


def test_a_token_goes_along_and_is_not_shown() -> None:
    seen = []

    def respond(request):
        seen.append(request.headers.get("authorization"))
        return Reply(200, b"raw")

    options = SourceOptions(token="secret")
    with serving(respond) as server, Source(server.url, options) as source:
        source.record(NAME)
    assert seen == ["Bearer secret"]
    assert "secret" not in repr(options)


def told(status: int, error: str, **headers: str) -> Reply:
    body = {"error": error, "message": "so\x1b[2J\nit is", "hint": "do", "retry": False}
    return Reply(status, json.dumps(body).encode(), headers)


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (told(404, "not-found"), NotFoundError),
        (told(410, "withdrawn"), WithdrawnError),
        (told(409, "trust"), RefusedError),
        (told(507, "storage"), SourceError),
        (told(403, "refused"), RefusedError),
        (told(400, "version"), FormatError),
        (told(409, "no such code"), ConflictError),
        (Reply(401), RefusedError),
        (Reply(500, b"<html>"), SourceError),
        (Reply(404, b"[" * 60_000), NotFoundError),
        (Reply(413, b"null"), RefusedError),
        (Reply(503, b"", {"Retry-After": "7"}), ThrottledError),
        (Reply(200, b""), ForeignError),
        (Reply(410), SourceError),
        (Reply(410, b"gone"), SourceError),
    ],
)
def test_errors_of_servers(reply: Reply, kind: type[IcnError]) -> None:
    with serving(lambda _: reply) as server, Source(server.url) as source:
        with pytest.raises(kind) as caught:
            source.record(NAME)
        assert str(caught.value).isprintable()
        if isinstance(caught.value, ThrottledError):
            assert caught.value.after_s == 7
        assert caught.value.fault is not Fault.PUBLISHER or kind is WithdrawnError
        source.close()


@pytest.mark.parametrize(
    ("location", "told"),
    [
        ("https://edge.example/icn/v1/records/acme/minilm/v1", "https://edge.example/icn"),
        ("https://login.example/?for=/v1/x\x1b[2J", "https://login.example/?for=/v1/x?[2J"),
    ],
)
def test_a_redirect_says_which_source_to_name(location: str, told: str) -> None:
    """Catches: "name that as the source" of the URL of a record; "try again" beside it."""
    reply = Reply(301, b"", {"Location": location})
    with serving(lambda _: reply) as server, Source(server.url) as source:
        with pytest.raises(SourceError) as caught:
            source.record(NAME)
    assert str(caught.value).endswith(f": redirected to {told}")
    assert caught.value.hint == "name that as the source instead"


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_source_is_not_taken_for_another_process(status: int) -> None:
    """Catches: "wait for the other process, or stop it" for a server that is out of memory."""
    told = {"error": "busy", "message": "too many", "hint": BusyError.advice}
    reply = Reply(status, json.dumps(told).encode(), {"Retry-After": "2"})
    with serving(lambda _: reply) as server, Source(server.url) as source:
        with pytest.raises(ThrottledError) as caught:
            source.record(NAME)
    error = caught.value
    assert (error.fault, error.retry, error.exit_code) == (Fault.SOURCE, True, 13)
    assert "process" not in error.hint


def test_an_early_answer_to_a_long_request_is_heard() -> None:
    """A server that refuses an upload before it has read it all resets what comes after."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        sock, _ = listener.accept()
        sock.recv(100)
        sock.sendall(b"HTTP/1.1 403 No\r\nICN-Version: 1\r\nContent-Length: 0\r\n\r\n")
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(65536):
            pass
        sock.close()

    thread = threading.Thread(target=serve)
    thread.start()
    with Source(f"http://127.0.0.1:{listener.getsockname()[1]}") as source:
        with pytest.raises(RefusedError):
            source.upload([bytes(1_000_000)])
    thread.join()
    listener.close()


def test_a_server_that_does_not_accept_is_given_up_in_time() -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=0)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    fill = [socket.socket() for _ in range(3)]  # the queue is full: connecting hangs
    for sock in fill:
        sock.setblocking(False)
        sock.connect_ex(listener.getsockname())
    with Source(url, SourceOptions(connect_s=0.3)) as source:
        with pytest.raises(SourceError, match=r"in time|does not answer"):
            source.record(NAME)
    for sock in [*fill, listener]:
        sock.close()


def test_a_slow_resolver_leaves_the_time_to_connect_as_it_is(monkeypatch) -> None:
    """Catches: 10 ms for each address of a host whose name took long to resolve."""
    resolve, clock = socket.getaddrinfo, SimpleNamespace(past=0.0)
    given: list[float | None] = []

    def slow(*args, **options):
        clock.past += 60.0
        return resolve(*args, **options)

    class Socket(socket.socket):
        def connect(self, address) -> None:
            given.append(self.gettimeout())
            super().connect(address)

    real = time.monotonic
    time_ = SimpleNamespace(monotonic=lambda: real() + clock.past)
    with serving(lambda _: Reply(200, b"raw")) as server:
        monkeypatch.setattr("icnblocks.client.http.time", time_)
        monkeypatch.setattr(socket, "getaddrinfo", slow)
        monkeypatch.setattr(socket, "socket", Socket)
        with Source(server.url, SourceOptions(connect_s=20.0)) as source:
            assert source.record(NAME).raw == b"raw"
    assert given[0] == pytest.approx(20.0, abs=5.0)


def test_closing_cuts_off_a_request_of_another_thread() -> None:
    asked = threading.Event()
    stop = threading.Event()

    def respond(request):
        asked.set()
        stop.wait(60)
        return Reply(200, b"late")

    with serving(respond) as server, Source(server.url, SourceOptions(stall_s=60)) as source:
        failures = []

        def ask() -> None:
            try:
                source.record(NAME)
            except SourceError as error:
                failures.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        assert asked.wait(10)
        source.close()
        thread.join(20)
        ended = not thread.is_alive()
        stop.set()
        assert ended
        assert len(failures) == 1


def test_what_speaks_first_and_no_http_is_not_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with Source(f"http://127.0.0.1:{listener.getsockname()[1]}") as source:
            failures: list[BaseException] = []

            def ask() -> None:
                with pytest.raises(ForeignError, match="does not speak HTTP") as caught:
                    source.record(NAME)
                failures.append(caught.value)

            thread = threading.Thread(target=ask)
            thread.start()
            sock, _ = listener.accept()
            with sock:  # and now it waits for the client to go on, as an SSH server does
                sock.sendall(b"SSH-2.0-x\r\n")
                thread.join(10)
            assert failures


def test_an_answer_that_only_says_to_wait_is_passed_over() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            sock, _ = listener.accept()
            with sock:
                sock.recv(10_000)
                sock.sendall(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 20")
                sock.sendall(b"0 OK\r\nContent-Length: 3\r\nICN-Version: 1\r\n\r\nraw")

        thread = threading.Thread(target=answer)
        thread.start()
        with Source(f"http://127.0.0.1:{listener.getsockname()[1]}") as source:
            assert source.record(NAME).raw == b"raw"
        thread.join(5)


@pytest.mark.parametrize("status", [401, 403, 413])
def test_a_proxy_that_refuses_is_not_taken_for_the_server(status: int) -> None:
    """Catches: "ask for a token", which a proxy that lets only some addresses in knows not."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            sock, _ = listener.accept()
            with sock:
                sock.recv(10_000)
                sock.sendall(b"HTTP/1.1 %d No\r\nContent-Length: 0\r\n\r\n" % status)

        thread = threading.Thread(target=answer)
        thread.start()
        with Source(f"http://127.0.0.1:{listener.getsockname()[1]}") as source:
            with pytest.raises(RefusedError) as caught:
                source.record(NAME)
        thread.join(5)
    assert "proxy" in caught.value.hint


def test_a_control_request_through_a_rechunking_proxy() -> None:
    from random import Random

    digest = Digest.of(bytes(100_000))
    with serving(lambda _: Reply(200, bytes(100_000))) as server:
        with RechunkingProxy(server.port, Random(0)) as proxy, Source(proxy.url) as source:
            assert source.manifest(digest) == bytes(100_000)


def test_an_address_that_swallows_packets_leaves_time_for_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    passed = [0.0]  # seconds of waiting that nobody has to wait for
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + passed[0])
    monkeypatch.setattr("icnblocks.client.http.time", clock)
    with serving(lambda _: Reply(status=404)) as server:
        end = Endpoint.parse(server.url)
        good = socket.getaddrinfo(end.host, end.port, type=socket.SOCK_STREAM)
        bad = [(*found[:4], ("192.0.2.1", end.port)) for found in good]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: bad + good)
        connect = socket.socket.connect

        def swallowing(sock: socket.socket, where: tuple[str, int]) -> None:
            limit = sock.gettimeout()
            assert limit is not None
            if where == bad[0][4]:  # it answers nobody, as a network does that loses IPv6
                passed[0] += limit
                raise TimeoutError
            if limit < 3:  # the second server is far away
                raise TimeoutError
            connect(sock, where)

        monkeypatch.setattr(socket.socket, "connect", swallowing)
        with Source(server.url, SourceOptions(connect_s=20.0)) as source:
            connection = source.connect()
            answer = connection.request("GET", "/x")
            assert answer.status == 404
            connection.drop()
        assert passed[0] > 0
