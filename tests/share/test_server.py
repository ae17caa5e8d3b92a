"""What a device serves its neighbours: what is offered and nothing else, within its limits."""

from __future__ import annotations

import http.client
import json
import os
import socket
import threading
import time
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icnblocks.assembly.directory import ModelDirectory
from icnblocks.client.answers import ThrottledError
from icnblocks.client.neighbours import listen
from icnblocks.client.source import Source
from icnblocks.errors import ChangedError, FormatError, NotFoundError, UsageError
from icnblocks.limits import MIB
from icnblocks.manifest.model import Kind
from icnblocks.naming import Digest, Name
from icnblocks.placement.plan import Plan
from icnblocks.publish.scan import scan
from icnblocks.share.offers import Offer, PartialShelf
from icnblocks.share.options import ShareOptions, parse_listen
from icnblocks.share.request import parse_head
from icnblocks.share.server import ShareServer
from icnblocks.share.sharer import Sharer
from icnblocks.store.lease import ExtentLease
from icnblocks.testing.processes import poll_until
from icnblocks.wire.bundle import BundleRequest, Want
from icnblocks.wire.frames import Data, Nack, Reason, buffer_bytes
from icnblocks.wire.havemap import HaveMap
from tests.share.blocks import MANIFEST, blocks_of

LOCAL = "127.0.0.1"


class Shelf:
    """Blocks one after the other in one file."""

    idle = False

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

    def close_idle(self):
        self.idle = True


@contextmanager
def sharing(tmp_path, blocks, *, missing=(), raw=lambda: b"the manifest", **options):
    """A server with one offer; and the offer."""
    shelf = Shelf(tmp_path / f"shelf{len(os.listdir(tmp_path))}", blocks)
    server = ShareServer(ShareOptions(host=LOCAL, **options))
    lengths = {digest: len(block) for digest, block in blocks.items()}
    offer = Offer(MANIFEST, lengths, raw, shelf, missing)
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
    left = set(threading.enumerate()) - before
    assert {thread.name for thread in left} <= {"icn-share-peer"}, "closing waits for its threads"
    # Only that of a peer that left by itself just before may have a last step to go.
    poll_until(lambda: set(threading.enumerate()) <= before, what="no thread left")


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
        poll_until(lambda: server.sent_bytes)  # it is counted when the reader may be through
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


def test_a_bundle_of_many_files_has_few_of_them_open(tmp_path) -> None:
    """Catches: a neighbour that takes all descriptors of a device, whose own pull fails then."""
    blocks, opened, most = blocks_of(1024, 10), set(), []

    class Counting(Shelf):
        def open(self, digest):
            opened.add(digest)
            most.append(len(opened))
            at, length = self.places[digest]
            return ExtentLease(self.fd, at, length, lambda: opened.discard(digest))

    shelf = Counting(tmp_path / "counted", blocks)
    with sharing(tmp_path, {}) as (server, _):
        lengths = dict.fromkeys(blocks, 10)
        server.offer(Offer(Digest(b"1" * 32), lengths, lambda: None, shelf))
        got = bundle(server, [Want(digest, 10) for digest in blocks])
        assert list(got.values()) == list(blocks.values())
    assert max(most) == 1
    os.close(shelf.fd)


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


def test_whoever_listens_is_answered_when_another_offer_takes_its_place(tmp_path) -> None:
    """Catches: a device that takes 10 s to end, as one is still told of a pull that failed."""
    blocks = blocks_of(3)
    listening = threading.Event()
    with sharing(tmp_path, blocks, missing=blocks) as (server, offer), Source(url(server)) as one:
        server.visited = lambda *_: listening.set()
        connection, answers = one.connect(), []
        thread = threading.Thread(
            target=lambda: answers.append(listen(connection, MANIFEST, 3, 0, 10.0, 1))
        )
        began = time.monotonic()
        thread.start()
        assert listening.wait(10)
        offer.is_gone()
        server.offer(Offer(MANIFEST, offer.lengths, lambda: None, offer, blocks))
        thread.join()
        assert time.monotonic() - began < 8
        assert [have.held for have in answers] == [0]
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
        poll_until(lambda: shelf.idle, what="nobody is connected")
    os.close(shelf.fd)


class Refusing:
    """A shelf whose file was changed, or cannot be read."""

    def __init__(self, error):
        self._error = error

    def open(self, digest):
        raise self._error


@pytest.mark.parametrize(
    ("error", "reason", "status"),
    [(ChangedError("touched"), Reason.CHANGED, 410), (OSError("broken"), Reason.OTHER, 404)],
)
def test_a_block_is_given_by_whichever_offer_has_it(tmp_path, error, reason, status) -> None:
    """Catches: a block refused for one model's changed file, though another model has it."""
    first, second, third = digests = [Digest.of(b"block"), Digest.of(b"other"), Digest.of(b"third")]
    wants = [Want(digest, 5) for digest in (first, second)]
    shelf = Shelf(tmp_path / "shelf", {first: b"block"})
    with sharing(tmp_path, {}) as (server, _):
        lengths = dict.fromkeys(digests, 5)
        server.offer(Offer(Digest(b"1" * 32), lengths, lambda: None, Refusing(error)))
        server.offer(Offer(Digest(b"2" * 32), {first: 5}, lambda: None, shelf))
        assert get(server, f"/v1/blocks/{first}")[:2] == (200, b"block")
        assert get(server, f"/v1/blocks/{third}")[0] == status
        assert bundle(server, wants) == {0: b"block", 1: reason}
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
        assert server.connections == 2, "those that were refused, too"
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


def test_the_upload_limit_holds_for_all_that_is_sent(tmp_path) -> None:
    """Catches: an uplink that manifests, of up to 256 MiB, take for themselves."""
    raw = bytes(200_000)
    with sharing(tmp_path, blocks_of(1), rate=400_000.0, raw=lambda: raw) as (server, _):
        began = time.monotonic()
        assert get(server, f"/v1/manifests/{MANIFEST}")[1] == raw
        assert time.monotonic() - began >= 0.4


def test_however_many_take_a_manifest_there_is_one_copy(tmp_path) -> None:
    """Catches: slow readers of a long manifest, each with a copy in the memory of the device."""
    reads = []

    def read() -> bytes:
        reads.append(None)
        return bytes(16 * MIB)  # more than fits on its way

    with sharing(tmp_path, blocks_of(1), raw=read) as (server, offer), ExitStack() as stack:
        for _ in range(3):
            sock = stack.enter_context(socket.create_connection((LOCAL, server.port)))
            sock.sendall(f"GET /v1/manifests/{MANIFEST} HTTP/1.1\r\n\r\n".encode())
            assert sock.recv(4)
        assert len(reads) == 1
        stack.close()
        poll_until(lambda: offer._read is None, what="it is let go of")
        assert len(get(server, f"/v1/manifests/{MANIFEST}")[1]) == 16 * MIB
        assert len(reads) == 2


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
    with pytest.raises(UsageError, match=r"cannot share at 203\.0\.113\.1:0: [\w ]+\nhint"):
        ShareServer(ShareOptions(host="203.0.113.1"))


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


def test_an_error_body_is_one_line_of_json(tmp_path) -> None:
    with sharing(tmp_path, blocks_of(1)) as (server, _):
        status, body, _ = get(server, "/nothing")
        assert status == 404
        assert json.loads(body)["error"] == "not-found"


@pytest.mark.parametrize("path", ["/v1/blocks/{}", "/v1/manifests/{}", "/v1/manifests/{}/have"])
def test_what_is_no_digest_is_refused_as_a_daemon_does(tmp_path, path) -> None:
    """Catches: a word of its own for it, which whoever asks takes for another error."""
    with sharing(tmp_path, blocks_of(1)) as (server, _):
        for wrong in ("x", str(MANIFEST).upper()):
            status, body, _ = get(server, path.format(wrong))
            assert (status, json.loads(body)["error"]) == (400, "format")
