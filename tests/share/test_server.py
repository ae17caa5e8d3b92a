"""What a device serves its neighbours: what is offered and nothing else, within its limits."""

from __future__ import annotations

import http.client
import json
import os
import socket
import threading
import time
from contextlib import contextmanager
from random import Random
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icnblocks.assembly.directory import ModelDirectory
from icnblocks.client.answers import ThrottledError
from icnblocks.client.engine import EngineOptions
from icnblocks.client.events import Waste
from icnblocks.client.holders import Catalogued
from icnblocks.client.neighbourly import NeighbourlyEngine
from icnblocks.client.neighbours import announce, listen, neighbour_source, neighbour_url
from icnblocks.client.source import Source, SourceOptions
from icnblocks.client.terms import Hint
from icnblocks.errors import FormatError, NotFoundError, SourceError, UsageError
from icnblocks.manifest.model import Kind
from icnblocks.naming import Digest, Name
from icnblocks.placement.plan import Plan
from icnblocks.publish.scan import scan
from icnblocks.share.neighbourhood import Neighbourhood
from icnblocks.share.offers import Offer, PartialShelf
from icnblocks.share.options import ShareOptions, parse_listen
from icnblocks.share.request import parse_head
from icnblocks.share.server import ShareServer
from icnblocks.share.sharer import Sharer
from icnblocks.store.lease import ExtentLease
from icnblocks.testing.lying import Lie, LyingServer, Reply
from icnblocks.wire.bundle import BundleRequest, Want
from icnblocks.wire.frames import READ_AHEAD, Data, Nack, Reason, buffer_bytes
from icnblocks.wire.havemap import HaveMap, encode_have

MANIFEST = Digest(b"m" * 32)
LOCAL = "127.0.0.1"


class Shelf:
    """Blocks one after the other in one file."""

    def __init__(self, path, blocks):
        path.write_bytes(b"".join(blocks.values()))
        self.fd = os.open(path, os.O_RDONLY)
        self.places, at = {}, 0
        for digest, block in blocks.items():
            self.places[digest] = (at, len(block))
            at += len(block)

    def open(self, digest):
        at, length = self.places[digest]
        return ExtentLease(self.fd, at, length, lambda: None)


def blocks_of(count: int, length: int = 30_000, seed: int = 0) -> dict[Digest, bytes]:
    random = Random(seed)
    made = [random.randbytes(length) for _ in range(count)]
    return {Digest.of(block): block for block in made}


@contextmanager
def sharing(tmp_path, blocks, *, missing=(), **options):
    """A server with one offer; and the offer."""
    shelf = Shelf(tmp_path / f"shelf{len(os.listdir(tmp_path))}", blocks)
    server = ShareServer(ShareOptions(host=LOCAL, **options))
    lengths = {digest: len(block) for digest, block in blocks.items()}
    offer = Offer(MANIFEST, lengths, lambda: b"the manifest", shelf, missing)
    server.offer(offer)
    try:
        yield server, offer
    finally:
        server.close()
        os.close(shelf.fd)


@pytest.fixture(autouse=True)
def nothing_left_behind():
    """A server that is closed leaves no thread behind."""
    before = set(threading.enumerate())
    yield
    assert [thread for thread in threading.enumerate() if thread not in before] == []


def url(server: ShareServer) -> str:
    return f"http://{LOCAL}:{server.port}"


def get(server: ShareServer, path: str, method: str = "GET", body: bytes | None = None):
    connection = http.client.HTTPConnection(LOCAL, server.port, timeout=10)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers
    finally:
        connection.close()


def bundle(server: ShareServer, wants: list[Want]) -> dict[int, bytes | Reason]:
    got: dict[int, bytes | Reason] = {}
    with Source(url(server)) as source:
        connection = source.connect()
        buffer = memoryview(bytearray(buffer_bytes(max(want.length for want in wants))))
        for event in source.bundle(BundleRequest(tuple(wants)), connection, buffer):
            if isinstance(event, Data):
                got[event.index] = bytes(event.payload)
            elif isinstance(event, Nack):
                got[event.index] = event.reason
        assert connection.open, "it is kept for the next one"
        connection.drop()
    return got


def test_it_answers_as_a_daemon_does(tmp_path) -> None:
    blocks = blocks_of(3)
    first, block = next(iter(blocks.items()))
    with sharing(tmp_path, blocks) as (server, _):
        assert get(server, "/healthz")[:2] == (200, b"ok")
        assert get(server, f"/v1/manifests/{MANIFEST}")[1] == b"the manifest"
        status, data, headers = get(server, f"/v1/blocks/{first}")
        assert (status, data, headers["ETag"]) == (200, block, f'"{first}"')
        status, data, headers = get(server, f"/v1/blocks/{first}", "HEAD")
        assert (status, data, headers["Content-Length"]) == (200, b"", str(len(block)))
        with Source(url(server)) as source:
            connection = source.connect()
            have = source.have(MANIFEST, 3, None, connection)
            assert have == HaveMap(b"\1\1\1", fetches=False)
            connection.drop()
        assert server.sent_bytes == len(block)


def test_a_bundle_gives_what_is_here_and_says_what_is_not(tmp_path) -> None:
    blocks = blocks_of(4)
    digests = list(blocks)
    wants = [Want(digest, len(blocks[digest])) for digest in digests]
    stranger = Want(Digest(b"s" * 32), 10)
    wrong = Want(digests[2], 11)
    with sharing(tmp_path, blocks, missing=digests[1:2]) as (server, offer):
        got = bundle(server, [wants[0], wants[1], stranger, wrong, wants[3]])
        assert got == {
            0: blocks[digests[0]],
            1: Reason.NOT_FOUND,
            2: Reason.NOT_FOUND,
            3: Reason.LENGTH,
            4: blocks[digests[3]],
        }
        offer.arrived(digests[1])
        assert bundle(server, [wants[1]]) == {0: blocks[digests[1]]}


def test_nothing_else_of_the_machine_is_served(tmp_path) -> None:
    (tmp_path / "secret").write_text("secret")
    with sharing(tmp_path, blocks_of(1)) as (server, _):
        strange = Digest(b"x" * 32)
        for path in (
            "/",
            "/secret",
            "/../secret",
            "/v1/blocks/../../secret",
            "/v1/records/a/b/main",
            "/metrics",
            "/v1/status",
            f"/v1/blocks/{strange}",
            f"/v1/manifests/{strange}",
        ):
            assert get(server, path)[0] in {400, 404}, path
        assert get(server, "/healthz", "DELETE")[0] == 405
        assert get(server, "/v1/missing", "POST", b"x" * 36)[0] == 413
        assert get(server, "/v1/bundles", "POST", b"x" * 70_000)[0] == 413
        assert get(server, "/v1/bundles", "POST", b"nonsense")[0] == 400


def test_whoever_listens_hears_at_once_of_what_came(tmp_path) -> None:
    """Else neighbours learn of a block when they next ask, and ask all the time."""
    blocks = blocks_of(3)
    digests = list(blocks)
    with sharing(tmp_path, blocks, missing=digests) as (server, offer), Source(url(server)) as one:
        connection = one.connect()
        assert listen(connection, MANIFEST, 3, 0, 0.05, 1).held == 0
        timer = threading.Timer(0.05, offer.arrived, [digests[1]])
        timer.start()
        began = time.monotonic()
        assert listen(connection, MANIFEST, 3, 0, 9.0, 1).flags == b"\0\1\0"
        assert time.monotonic() - began < 8
        timer.join()
        with pytest.raises(NotFoundError):
            listen(connection, Digest(b"x" * 32), 3, 0, 0.0, 1)
        connection.drop()


@pytest.mark.parametrize("asked", ["known=0&wait=nan", "known=x", "wait=1s"])
def test_a_wait_that_is_no_number_is_refused(tmp_path, asked) -> None:
    """Catches: one request that keeps a core of the device at work until its pull ends."""
    blocks = blocks_of(2)
    with sharing(tmp_path, blocks, missing=blocks) as (server, offer):
        assert get(server, f"/v1/manifests/{MANIFEST}/have?{asked}")[0] == 400
        offer.end()


def test_a_pull_that_failed_offers_nothing(tmp_path) -> None:
    """Its directory may be removed or changed by anybody from then on."""
    blocks = blocks_of(2)
    wants = [Want(digest, len(block)) for digest, block in blocks.items()]
    with sharing(tmp_path, blocks) as (server, offer):
        offer.is_gone()
        assert set(bundle(server, wants).values()) == {Reason.NOT_FOUND}
        assert offer.flags(-1, 0.0) == b"\0\0"


def test_what_failed_and_is_whole_by_now_is_offered_again(tmp_path) -> None:
    """Another process may have pulled it meanwhile."""
    digest = Digest.of(b"block")
    shelf = Shelf(tmp_path / "shelf", {digest: b"block"})
    manifest = SimpleNamespace(lengths=lambda: {digest: 5})
    resolved = SimpleNamespace(digest=MANIFEST, name=Name.parse("acme/x"), manifest=manifest)
    assembler = SimpleNamespace(directory=None, missing=list, whole=frozenset())
    with Sharer(ShareOptions(host=LOCAL), None, shelf, pytest.fail) as sharer:
        with pytest.raises(NotFoundError), sharer.pulling(resolved, assembler, None, []):
            raise NotFoundError("nobody has it")
        assert sharer.shared().models == 0
        sharer.whole(resolved, [])
        server = SimpleNamespace(port=sharer.port)
        assert get(server, f"/v1/blocks/{digest}")[:2] == (200, b"block")
    os.close(shelf.fd)


def test_a_file_cut_short_is_not_sent_as_something_else(tmp_path) -> None:
    blocks = blocks_of(1, 300_000)
    (digest,) = blocks
    with sharing(tmp_path, blocks) as (server, _):
        os.truncate(next(tmp_path.glob("shelf*")), 1000)
        with pytest.raises(http.client.IncompleteRead):
            get(server, f"/v1/blocks/{digest}")


def test_beyond_so_many_peers_others_are_told_to_come_back(tmp_path) -> None:
    with sharing(tmp_path, blocks_of(1), peers=1) as (server, _):
        first = http.client.HTTPConnection(LOCAL, server.port, timeout=10)
        first.request("GET", "/healthz")
        first.getresponse().read()  # it is served, and stays
        with Source(url(server)) as source:
            connection = source.connect()
            with pytest.raises(ThrottledError) as caught:
                listen(connection, MANIFEST, 1, 0, 0.0, 1)
            connection.drop()
        assert caught.value.after_s >= 1
        assert server.refused == 1
        first.close()


def test_connections_that_say_nothing_are_bounded(tmp_path) -> None:
    with sharing(tmp_path, blocks_of(1), peers=2) as (server, _):
        many = [socket.create_connection((LOCAL, server.port)) for _ in range(40)]
        closed = 0
        for sock in many[18:]:  # 2 peers, and 16 that would be told to come back
            sock.settimeout(10)
            closed += sock.recv(1) == b""
        assert closed == 22
        for sock in many:
            sock.close()


def test_a_machine_without_a_thread_to_spare_serves_again_later(tmp_path, monkeypatch) -> None:
    """Catches: a server that is silent from then on."""
    start, refused = threading.Thread.start, []

    def refuse_once(thread):
        if thread.name == "icn-share-peer" and not refused:
            refused.append(thread)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse_once)
    with sharing(tmp_path, blocks_of(1)) as (server, _):
        with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
            get(server, "/healthz")
        assert get(server, "/healthz")[0] == 200
        assert len(refused) == 1


def test_the_upload_limit_holds(tmp_path) -> None:
    """200 KB at 400 KB/s take half a second but for a burst; without a limit, nothing."""
    blocks = blocks_of(10, 20_000)
    wants = [Want(digest, len(block)) for digest, block in blocks.items()]
    with sharing(tmp_path, blocks, rate=400_000.0) as (server, _):
        began = time.monotonic()
        assert len(bundle(server, wants)) == 10
        assert time.monotonic() - began >= 0.4


HEADS = st.binary(max_size=200) | st.from_regex(rb"[A-Z]{1,5} /[!-~]{0,30} HTTP/1.1(\r\n[ -~]*)*")


@settings(max_examples=150, deadline=None)
@given(HEADS)
def test_a_head_is_read_or_refused(raw: bytes) -> None:
    try:
        request = parse_head(raw)
    except FormatError:
        return
    assert request.path.startswith("/")
    assert request.length >= 0


@pytest.mark.parametrize(
    "head",
    [
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked",
        b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2",
        b"POST / HTTP/1.1\r\nContent-Length: -1",
        b"POST / HTTP/1.1\r\nContent-Length : 1",
        b"GET http://elsewhere/ HTTP/1.1",
        b"GET / HTTP/2",
    ],
)
def test_what_two_servers_could_read_differently_is_refused(head: bytes) -> None:
    with pytest.raises(FormatError):
        parse_head(head)


def test_where_to_listen() -> None:
    assert parse_listen("10.0.0.1:80") == ("10.0.0.1", 80)
    assert parse_listen("[::1]:0") == ("::1", 0)
    assert parse_listen(":4000") == ("", 4000)
    for wrong in ("10.0.0.1", "a:b", "a:70000", "\u00fc" * 70 + ":1", "a..b:1"):
        with pytest.raises(UsageError):
            parse_listen(wrong)
    with pytest.raises(UsageError, match="cannot share"):
        ShareServer(ShareOptions(host="203.0.113.1"))


def test_only_addresses_are_taken_for_neighbours() -> None:
    """What an edge says of neighbours must not make a device look up names, or ask paths."""
    assert neighbour_url("10.0.0.1:4261") == "http://10.0.0.1:4261"
    assert neighbour_url("[fd00::1]:4261") == "http://[fd00::1]:4261"
    assert neighbour_url("[::ffff:10.0.0.1]:4261") == "http://10.0.0.1:4261"
    at_80 = neighbour_url("10.0.0.1:80")
    assert at_80 is not None
    assert neighbour_source(at_80).url == at_80, "else one that failed there is not known again"
    for wrong in ("example.org:80", "10.0.0.1", "10.0.0.1:0", "10.0.0.1:80/x", "10.0.0.1:99999",
                  "0.0.0.0:80", "224.0.0.1:80", "u@10.0.0.1:80", 7, None, "1" * 100,
                  "[fe80::1%eth0]:80", "[fe80::1%a b]:80", "[fe80::1%x@evil]:80",
                  "[::ffff:0.0.0.0]:80"):  # fmt: skip
        assert neighbour_url(wrong) is None


@pytest.mark.parametrize("ttl", ["NaN", "1e999", "-5", "1" + "0" * 400])
def test_an_edge_cannot_ask_to_be_told_all_the_time(ttl) -> None:
    """Nor say anything that ends the thread that announces."""
    told = b'{"neighbours": ["[fe80::1%a b]:80"], "ttl": ' + ttl.encode() + b"}"
    with LyingServer({}, respond=lambda _: Reply(200, told)) as edge, Source(edge.url) as source:
        connection = source.connect()
        urls, ttl_s = announce(connection, MANIFEST, None, 1)
        assert urls == []
        assert 1.0 <= ttl_s <= 3600.0
        connection.drop()


def test_nobody_waits_for_an_edge_that_is_gone_once_for_each_model(monkeypatch) -> None:
    """Catches: a device that takes minutes to end where the network is down."""
    asked = []
    announced = threading.Semaphore(0)

    def answer(*_):
        announced.release()
        return [], 60.0

    def fail(_connection, manifest, _port):
        asked.append(manifest)
        raise SourceError("no route")

    monkeypatch.setattr("icnblocks.share.neighbourhood.announce", answer)
    monkeypatch.setattr("icnblocks.share.neighbourhood.withdraw", fail)
    with Source("http://192.0.2.1:4260") as edge:
        made = Neighbourhood(4261, 8, lambda _: None)
        for number in range(3):
            made.add(Digest(bytes([number]) * 32), Name.parse("acme/x"), [edge])
        assert all(announced.acquire(timeout=10) for _ in range(3))
        made.close()
    assert len(asked) == 1


def test_one_address_cannot_take_the_places_of_all_neighbours(monkeypatch) -> None:
    """Neither by what an edge tells nor by coming itself; devices on this machine are as many."""

    class Joined:
        def __init__(self) -> None:
            self.urls: list[str] = []
            self.full = threading.Event()

        def join(self, source) -> None:
            self.urls.append(source.url)
            if len(self.urls) == 8:
                self.full.set()

        def dropped(self):
            return {}

    hostile = [f"http://10.0.0.66:{port}" for port in range(5000, 5020)]
    honest = [f"http://10.0.1.{number}:4261" for number in range(1, 5)]
    here = [f"http://127.0.0.1:{port}" for port in range(6000, 6002)]
    told = [*hostile, *honest, *here], 60.0
    monkeypatch.setattr("icnblocks.share.neighbourhood.announce", lambda *_: told)
    monkeypatch.setattr("icnblocks.share.neighbourhood.withdraw", lambda *_: None)
    digest, engine = Digest(bytes(32)), Joined()
    with Source("http://192.0.2.1:4260") as edge:
        made = Neighbourhood(4261, 8, lambda _: None)
        made.add(digest, Name.parse("acme/x"), [edge])
        made.join(digest, engine)
        assert engine.full.wait(10)
        made.visited(digest, hostile[7])
        made.visited(digest, "http://10.0.1.9:4261")
        made.close()
        made.part(digest)
    assert sorted(engine.urls) == sorted([*hostile[:2], *honest, *here, "http://10.0.1.9:4261"])


def test_what_is_whole_is_given_from_the_whole_file(tmp_path) -> None:
    """Beside it may lie a partial file that a pull of another version left."""
    root, files = tmp_path / "m", {"a": b"a" * 1000, "b": b"b" * 1000}
    root.mkdir()
    for name, data in files.items():
        (root / name).write_bytes(data)
    manifest = scan(root, Kind.PACK).manifest
    (root / "a.partial").write_bytes(b"x" * 1000)
    (root / "b").rename(root / "b.partial")
    directory = ModelDirectory(root)
    shelf = PartialShelf(directory, Plan(manifest), frozenset({0}))
    for data in files.values():
        lease = shelf.open(Digest.of(data))
        assert lease is not None
        with lease:
            assert lease.read() == data
    shelf.close()
    directory.close()


# An engine whose neighbours are of all kinds.


class Keep:
    def __init__(self):
        self.accepted = {}

    def accept(self, blocks) -> None:
        for block in blocks:
            assert block.digest not in self.accepted
            self.accepted[block.digest] = bytes(block.data)

    def refuse(self, want, error) -> None:
        raise AssertionError(error)


def holds_all(count: int):
    def respond(request):
        if request.path.partition("?")[0].endswith("/have"):
            return Reply(200, encode_have(HaveMap(b"\1" * count, fetches=False)))
        return None

    return respond


def slow(server: LyingServer) -> None:
    """So that there is something left to ask the others for."""
    answer, never = server._answer, threading.Event()

    def slowly(asked, lie):
        for piece in answer(asked, lie):
            never.wait(0.004)
            yield piece

    server._answer = slowly


def gather(blocks, edge, neighbours):
    """Pull from an edge with these neighbours, which are met before anything is asked."""
    sink = Keep()
    about = Catalogued(MANIFEST, None, list(blocks))
    hint = Hint(manifest=MANIFEST)
    quick = SourceOptions(stall_s=0.5, connect_s=2.0, patience_s=0.5, floor_bytes=64)
    sources = [Source(neighbour.url, quick) for neighbour in neighbours]
    with Source(edge.url, quick) as source:
        engine = NeighbourlyEngine(
            [source], sink, about, hint, 1, EngineOptions(connections=1), random=Random(1)
        )
        with engine:
            for each in sources:
                engine.join(each)
            engine.add([Want(digest, len(block)) for digest, block in blocks.items()], hint)
            assert engine.wait(30), "did not end"
            dropped, wasted = engine.dropped(), engine.counters().wasted
    for each in sources:
        each.close()
    return sink.accepted, dropped, wasted


@pytest.mark.parametrize(
    "lie", [Lie.FLIP, Lie.STALL, Lie.STALL_MID, Lie.RESET, Lie.NOT_FOUND, Lie.HTML, Lie.CUT_CLEAN]
)
def test_an_untrusted_neighbour_wastes_a_block_at_most(lie: Lie) -> None:
    blocks = blocks_of(200)
    with (
        LyingServer(blocks) as edge,
        LyingServer(blocks, respond=holds_all(200)) as good,
        LyingServer(blocks, lie, respond=holds_all(200)) as bad,
    ):
        slow(edge)
        slow(good)
        accepted, dropped, wasted = gather(blocks, edge, [good, bad])
        assert accepted == blocks
        assert good.sent
        # One that is silent may have been overtaken in time.
        assert list(dropped) == [bad.url] or (dropped == {} and lie in {Lie.STALL, Lie.STALL_MID})
        assert wasted[Waste.CORRUPT] <= 30_000, "one block"
        assert sum(wasted.values()) <= 30_000 + READ_AHEAD, "and what had been read with it"
        assert len(bad.bundles) <= 3


def test_nothing_more_is_read_from_a_neighbour_that_sent_a_wrong_block() -> None:
    """Its bundle may have many blocks, all of them wrong."""
    blocks = blocks_of(200, 20_000)
    with (
        LyingServer(blocks) as edge,
        LyingServer(blocks, respond=holds_all(200)) as good,
        LyingServer(blocks, Lie.FLIP, after=0, respond=holds_all(200)) as bad,
    ):
        slow(edge)
        slow(good)
        accepted, dropped, wasted = gather(blocks, edge, [bad, good])
        assert accepted == blocks
        assert list(dropped) == [bad.url]
        assert wasted[Waste.CORRUPT] <= 20_000
        assert len(bad.bundles) == 1
        assert len(bad.requests) <= 3, "nor is it asked what it holds any more"


def test_neighbours_are_not_asked_for_what_they_lack() -> None:
    blocks = blocks_of(40)
    some = dict(list(blocks.items())[:10])

    def respond(request):
        if request.path.partition("?")[0].endswith("/have"):
            return Reply(200, encode_have(HaveMap(b"\1" * 10 + b"\0" * 30, fetches=False)))
        return None

    with LyingServer(blocks) as edge, LyingServer(some, respond=respond) as neighbour:
        accepted, dropped, _ = gather(blocks, edge, [neighbour])
        assert accepted == blocks
        assert dropped == {}
        asked = {want.digest for each in neighbour.bundles for want in each.wants}
        assert asked <= set(some)


def test_a_neighbour_that_is_not_there_costs_nothing() -> None:
    blocks = blocks_of(10)
    with LyingServer(blocks) as edge, LyingServer(blocks) as gone:
        pass
    with LyingServer(blocks) as edge:
        accepted, dropped, wasted = gather(blocks, edge, [gone])
        assert accepted == blocks
        assert list(dropped) in ([gone.url], [])
        assert not any(wasted.values())


def test_a_neighbour_that_came_back_is_not_taken_for_dropped() -> None:
    """Catches: one that failed once, and is joined anew every 15 s for as long as the pull takes.

    And buffers that stay: hundreds may come and go.
    """
    blocks, asked = blocks_of(20), []

    def respond(request):
        if not request.path.partition("?")[0].endswith("/have"):
            return None
        asked.append(request)
        held = b"\1" if len(asked) == 1 else b"\0"
        return Reply(200, encode_have(HaveMap(held * 20, fetches=False)))

    hint = Hint(manifest=MANIFEST)
    about = Catalogued(MANIFEST, None, list(blocks))
    with (
        LyingServer(blocks, Lie.STALL) as edge,
        LyingServer(blocks, Lie.FLIP, respond=respond) as other,
        Source(edge.url) as source,
        Source(other.url) as neighbour,
        NeighbourlyEngine([source], Keep(), about, hint, 1) as engine,
    ):
        engine.add([Want(digest, len(block)) for digest, block in blocks.items()], hint)
        engine.join(neighbour)
        until = time.monotonic() + 30
        while not (engine.dropped() and len(engine._lanes[-1].buffer) == 0):
            assert time.monotonic() < until
            engine.wait(0.01)
        assert list(engine.dropped()) == [other.url]
        engine.join(neighbour)
        assert engine.dropped() == {}


def test_an_error_body_is_one_line_of_json(tmp_path) -> None:
    with sharing(tmp_path, blocks_of(1)) as (server, _):
        status, body, _ = get(server, "/nothing")
        assert status == 404
        assert json.loads(body)["error"] == "not-found"
