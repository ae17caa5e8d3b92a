"""What any client can bring about makes neither a line of the log nor a question upstream each."""

import asyncio
import logging
import socket
import struct

import pytest

from icnblocks.errors import LoopError, NotFoundError, SourceError, StorageError
from icnblocks.limits import MIB
from icnblocks.naming import Name
from icnblocks.testing.exchange import begun, call, make_model, publish, record_path
from icnblocks.testing.processes import poll_until, start_edge
from icnblocks_daemon.coalesce import Coalesced
from icnblocks_daemon.fib import Fib
from icnblocks_daemon.floods import EVERY_S
from icnblocks_daemon.http.outlet import CutOffError
from icnblocks_daemon.manifests import Manifests
from icnblocks_daemon.metrics import Metrics

MODEL = make_model("acme/seldom")
NAMES = [Name("acme", f"m{number}") for number in range(5)]


class Upstream:
    """Gives the manifest, unless it has an `error`."""

    def __init__(self):
        self.asked, self.error = 0, None

    def refuse_loop(self, via, what):
        if via:
            raise LoopError(what)

    async def manifest(self, route, digest, name, via):
        self.asked += 1
        if self.error is not None:
            raise self.error
        return MODEL.raw


class Catalog:
    """Keeps manifests in memory, unless it is `full`."""

    def __init__(self):
        self.kept, self.full = {}, False

    def manifests(self):
        return ()

    def manifest(self, digest):
        return self.kept.get(digest)

    def put_manifest(self, digest, data):
        if self.full:
            raise StorageError("disk full")
        self.kept[digest] = data

    def remove_manifest(self, digest):
        raise StorageError("disk full")


class Rest:
    """What else learns of manifests: nothing of it matters here."""

    evicts, content, store = False, property(lambda self: self), property(lambda self: self)

    def learn(self, digest, manifest, lengths):
        pass

    def forget(self, digest):
        pass

    def length(self, digest):
        return None

    def named(self, blocks):
        pass


class World:
    def __init__(self, negative_s=5.0, upstream=None, table=(("", "http://o"),)):
        self.now, self.upstream, self.catalog = 100.0, upstream or Upstream(), Catalog()
        self.manifests = Manifests(
            self.catalog, Rest(), Rest(), Fib(table), self.upstream,
            capacity=MIB, negative_s=negative_s, clock=lambda: self.now,
        )  # fmt: skip

    async def get(self, name=None, via=frozenset()):
        return await self.manifests.get(MODEL.digest, name, via)

    async def fail(self, error, times=1, **how):
        for _ in range(times):
            with pytest.raises(error):
                await self.get(**how)


async def test_a_manifest_that_no_upstream_has_is_asked_for_once_in_a_while():
    world = World()
    world.upstream.error = NotFoundError("no manifest")
    await world.fail(NotFoundError, 5)
    assert world.upstream.asked == 1
    await world.fail(NotFoundError, 5, name=MODEL.name)  # it may be known by this one
    assert world.upstream.asked == 2
    await world.fail(LoopError, via=frozenset({"0" * 16}))
    world.upstream.error, world.now = None, world.now + 4.9
    await world.fail(NotFoundError)
    world.now += 0.2
    assert await world.get() == MODEL.raw
    assert world.upstream.asked == 3


@pytest.mark.parametrize(
    ("error", "negative_s"), [(NotFoundError, 0.0), (SourceError, 5.0), (LoopError, 5.0)]
)
async def test_what_is_not_to_be_remembered_is_asked_each_time(error, negative_s):
    world = World(negative_s)
    world.upstream.error = error("not now")
    await world.fail(error, 5)
    assert world.upstream.asked == 5


async def test_a_manifest_that_is_published_here_is_not_hidden():
    world = World()
    world.upstream.error = NotFoundError("no manifest")
    await world.fail(NotFoundError)
    await world.manifests.put(MODEL.digest, MODEL.raw)
    assert await world.get() == MODEL.raw


class Knowing:
    """Gives the manifest to who asks by `right`; the first answer waits for `gate`."""

    def __init__(self, right, error):
        self.right, self.error = right, error
        self.asked, self.reached, self.gate = [], asyncio.Event(), asyncio.Event()

    def refuse_loop(self, via, what):
        pass

    async def manifest(self, route, digest, name, via):
        self.asked.append((name, via))
        if len(self.asked) == 1:
            self.reached.set()
            await self.gate.wait()
        if (name, via) != self.right:
            raise self.error("not this way")
        return MODEL.raw


@pytest.fixture
def questions(monkeypatch):
    """How many questions were put together with others: an item for each, as they are."""
    do, put = Coalesced.do, asyncio.Queue()

    def counted(*args, **options):
        put.put_nowait(1)
        return do(*args, **options)

    monkeypatch.setattr(Coalesced, "do", counted)
    return put


A, B = frozenset({"a" * 16}), frozenset({"b" * 16})
NOBODY = frozenset()


@pytest.mark.parametrize(
    ("first", "then", "error"),
    [
        ((NAMES[0], NOBODY), (MODEL.name, NOBODY), NotFoundError),
        ((None, NOBODY), (MODEL.name, NOBODY), LoopError),
        ((NAMES[0], NOBODY), (MODEL.name, NOBODY), SourceError),  # its origin is down
        ((MODEL.name, A), (MODEL.name, B), LoopError),
    ],
)
async def test_who_asks_by_a_wrong_name_answers_for_nobody_else(questions, first, then, error):
    """All who asked meanwhile were told what came of the wrong name, or of another's circle."""
    world = World(upstream=Knowing(then, error))
    async with asyncio.timeout(20):
        wrong = asyncio.create_task(world.get(*first))
        await world.upstream.reached.wait()
        right = [asyncio.create_task(world.get(*then)) for _ in range(3)]
        for _ in range(4):
            await questions.get()
        world.upstream.gate.set()
        assert [await each for each in right] == [MODEL.raw] * 3
        with pytest.raises(error):
            await wrong
    assert world.upstream.asked == [first, then]


@pytest.mark.parametrize(
    ("first", "table"),
    [
        ((Name("evil", "x"), NOBODY), [("acme", "http://o"), ("", "http://slow")]),
        ((NAMES[0], NOBODY), [("", "http://o")]),  # slow further up
        ((MODEL.name, A), [("", "http://o")]),  # it may be waiting for what is asked next
    ],
)
async def test_nobody_waits_for_another_name_or_for_another_daemons_question(first, table):
    right = (MODEL.name, NOBODY)
    world = World(upstream=Knowing(right, NotFoundError), table=table)
    async with asyncio.timeout(20):
        wrong = asyncio.create_task(world.get(*first))
        await world.upstream.reached.wait()
        assert await world.get(*right) == MODEL.raw
    wrong.cancel()


async def test_what_nobody_has_is_asked_for_once_by_all_who_waited_for_it(questions):
    """Catches: a hundred edges below, and each is one question more, since its way is another."""
    world = World(upstream=Knowing(None, NotFoundError))
    async with asyncio.timeout(20):
        tasks = [asyncio.create_task(world.get(MODEL.name, via)) for via in (A, B, A | B)]
        for _ in tasks:
            await questions.get()
        world.upstream.gate.set()
        for task in tasks:
            with pytest.raises(NotFoundError):
                await task
    assert len(world.upstream.asked) == 1


async def test_manifests_that_a_full_disk_does_not_take_are_one_line_a_minute(caplog):
    world = World()
    world.catalog.full = True
    for _ in range(5):
        assert await world.get() == MODEL.raw
    world.now += EVERY_S
    await world.get()
    assert [line.times for line in caplog.records] == [1, 5]


async def test_an_old_manifest_that_cannot_be_removed_is_one_line_a_minute(caplog):
    world = World()
    world.manifests._capacity = 0
    for _ in range(5):
        await world.get()
        world.catalog.kept.clear()
        world.manifests._count(NAMES[0], 1)  # an unused one
    assert [line.times for line in caplog.records] == [1]


def test_readers_that_leave_are_no_fault_and_those_that_stall_are_one_line_a_minute(caplog):
    caplog.set_level(logging.DEBUG)
    now = 0.0
    metrics = Metrics(lambda: now)
    for cause in ["gone", "stalled", "changed"] * 3:
        metrics.cut("a block", cause, CutOffError(cause, cause), "::1")
    now = EVERY_S
    metrics.cut("a block", "stalled", CutOffError("stalled", "stalled"), "::1")
    told = [line for line in caplog.records if line.levelno > logging.DEBUG]
    assert [(line.message.split()[-1], line.times) for line in told] == [
        ("stalled", 1), ("changed", 1), ("stalled", 3),
    ]  # fmt: skip
    assert metrics.cut_off.labels("gone")._value.get() == 3


def test_circles_are_one_line_a_minute(caplog):
    """Seventeen made-up ids in ICN-Via are one, for each name that somebody makes up."""
    now = 0.0
    metrics = Metrics(lambda: now)
    for name in NAMES:
        metrics.loop("control", f"record of {name}")
        metrics.loop("block", str(name))  # a circle for blocks is told beside it
    now = EVERY_S
    metrics.loop("control", "record of any")
    assert [line.times for line in caplog.records] == [1, 1, 5]


def left_at_once(sock):
    """Close by a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def test_clients_that_reset_in_the_middle_of_an_answer_are_not_logged(fresh_origin):
    """Each was a WARNING: `a bundle was cut off: the client left`."""
    model = make_model("acme/large", size=32 * MIB, block_bytes=16 * MIB)
    publish(fresh_origin, model)
    for number in range(3):
        with begun(fresh_origin, model.wants) as sock:
            assert sock.recv(12) == b"HTTP/1.0 200"
            left_at_once(sock)
        with socket.create_connection(("127.0.0.1", fresh_origin.port), timeout=30) as sock:
            sock.sendall(f"GET /v1/blocks/{model.wants[0].digest} HTTP/1.0\r\n\r\n".encode())
            assert sock.recv(12) == b"HTTP/1.0 200"
            left_at_once(sock)
        gone = 2 * (number + 1)
        poll_until(lambda n=gone: fresh_origin.metric("icn_cut_off_total", cause="gone") == n)
    assert "cut off" not in fresh_origin.logged()


def test_an_edge_asks_once_for_what_nobody_has(fresh_origin, tmp_path):
    """Five gets of a name were five questions, of a manifest and its have-map ten."""
    with start_edge(
        tmp_path / "edge", "--upstream", fresh_origin.url, "--negative-ttl", "10m"
    ) as edge:
        manifest = f"/v1/manifests/{MODEL.digest}"
        for path in [record_path(MODEL.name), manifest, f"{manifest}/have"] * 5:
            assert call(edge, "GET", path).status == 404
        for kind in ("records/{publisher}/{model}/{tag}", "manifests/{digest}"):
            label = f"GET /v1/{kind}"
            assert fresh_origin.metric("icn_requests_total", endpoint=label) == 1
