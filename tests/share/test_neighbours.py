"""What a device believes of neighbours, and what each kind of them costs a pull."""

from __future__ import annotations

import json
import threading
import time
from math import inf
from random import Random

import pytest

from icnblocks.client import stealing
from icnblocks.client.engine import EngineOptions
from icnblocks.client.events import Received, Waste, Wasted
from icnblocks.client.holders import Catalogued
from icnblocks.client.neighbourly import NeighbourlyEngine
from icnblocks.client.neighbours import announce, neighbour_source, neighbour_url
from icnblocks.client.source import Source, SourceOptions
from icnblocks.client.terms import Hint
from icnblocks.errors import SourceError
from icnblocks.naming import Digest, Name
from icnblocks.share.neighbourhood import Neighbourhood
from icnblocks.testing.lying import Lie, LyingServer, Reply
from icnblocks.wire.bundle import Want
from icnblocks.wire.frames import READ_AHEAD
from icnblocks.wire.havemap import HaveMap, encode_have
from tests.share.blocks import MANIFEST, blocks_of


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


@pytest.mark.parametrize(
    ("host", "heeded"), [("127.0.0.1", True), ("localhost", True), ("2130706433", False)]
)
def test_an_edge_elsewhere_cannot_have_a_device_ask_its_own_machine(host, heeded) -> None:
    """Catches: it could name any port of what listens there for this machine alone.

    The number is an address of this machine that is not written as one: an edge elsewhere.
    """
    near = ["127.0.0.1:9", "127.9.9.9:9", "[::1]:9", "[::ffff:127.0.0.1]:9"]
    told = json.dumps({"neighbours": [*near, "10.0.0.1:9"], "ttl": 60}).encode()
    with LyingServer({}, respond=lambda _: Reply(200, told)) as edge:
        with Source(edge.url.replace("127.0.0.1", host)) as source:
            connection = source.connect()
            urls, _ = announce(connection, MANIFEST, None, 1)
            connection.drop()
    assert urls[-1] == "http://10.0.0.1:9"
    assert len(urls) == (5 if heeded else 1)


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

        def status(self):
            return ()

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


QUICK = SourceOptions(stall_s=0.5, connect_s=2.0, patience_s=0.5, floor_bytes=64)
PATIENT = SourceOptions(stall_s=60)
"""For who is honest: a busy machine may hold it up for longer than QUICK bears."""
SILENT = {Lie.STALL, Lie.STALL_MID}


def gather(blocks, edge, neighbours, listener=None):
    """Pull from an edge with these neighbours, which are met before anything is asked."""
    sink = Keep()
    about = Catalogued(MANIFEST, None, list(blocks))
    hint = Hint(manifest=MANIFEST)
    sources = [Source(each.url, QUICK if each.lie in SILENT else PATIENT) for each in neighbours]
    with Source(edge.url, PATIENT) as source:
        engine = NeighbourlyEngine(
            [source], sink, about, hint, 1, EngineOptions(connections=1), listener, random=Random(1)
        )
        with engine:
            for each in sources:
                engine.join(each)
            engine.add([Want(digest, len(block)) for digest, block in blocks.items()], hint)
            assert engine.wait(60), "did not end"
            dropped, wasted = engine.dropped(), engine.counters().wasted
    for each in sources:
        each.close()
    return sink.accepted, dropped, wasted


@pytest.mark.parametrize(
    "lie", [Lie.FLIP, Lie.STALL, Lie.STALL_MID, Lie.RESET, Lie.NOT_FOUND, Lie.HTML, Lie.CUT_CLEAN]
)
def test_an_untrusted_neighbour_wastes_a_block_at_most(
    lie: Lie, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whoever is held up by a busy machine is not overtaken, which wastes something too; and each
    # gets its part, since the good one waits for the bad one, and the edge for the good one.
    monkeypatch.setattr(stealing, "GAIN_S", inf)
    monkeypatch.setattr(stealing, "LATE_S", inf)
    blocks, gave = blocks_of(200), threading.Event()

    def listener(event):
        if isinstance(event, Received) and event.source == good.url:
            gave.set()

    with (
        LyingServer(blocks, lie, respond=holds_all(200)) as bad,
        LyingServer(blocks, respond=holds_all(200), waits_for=bad.lied) as good,
        LyingServer(blocks, waits_for=gave) as edge,
    ):
        accepted, dropped, wasted = gather(blocks, edge, [good, bad], listener)
        assert accepted == blocks
        assert gave.is_set()
        assert list(dropped) == [bad.url]
        assert wasted[Waste.CORRUPT] <= 30_000, "one block"
        assert sum(wasted.values()) <= 30_000 + READ_AHEAD, "and what had been read with it"
        assert len(bad.bundles) <= 3


def test_nothing_more_is_read_from_a_neighbour_that_sent_a_wrong_block() -> None:
    """Its bundle may have many blocks, all of them wrong."""
    blocks, caught = blocks_of(200, 20_000), threading.Event()

    def listener(event):
        if isinstance(event, Wasted) and event.cause is Waste.CORRUPT:
            caught.set()

    with (  # the others might do all before it is caught
        LyingServer(blocks, Lie.FLIP, after=0, respond=holds_all(200)) as bad,
        LyingServer(blocks, respond=holds_all(200), waits_for=caught) as good,
        LyingServer(blocks, waits_for=caught) as edge,
    ):
        accepted, dropped, wasted = gather(blocks, edge, [bad, good], listener)
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


def test_an_edge_alone_is_not_asked_what_it_holds() -> None:
    """Catches: all devices of an edge had it look for each block of a model, and waited for it.

    Whom else should they ask first?
    """
    blocks = blocks_of(40)
    with LyingServer(blocks) as edge, Source(edge.url) as source:
        hint, about = Hint(manifest=MANIFEST), Catalogued(MANIFEST, None, list(blocks))
        with NeighbourlyEngine([source], Keep(), about, hint, 1) as engine:
            wants = [Want(digest, len(block)) for digest, block in blocks.items()]
            engine.add(wants, hint, lambda: list(blocks))
            assert engine.wait(60)
    assert not [each.path for each in edge.requests if each.path.endswith("/have")]


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
    blocks = blocks_of(20)

    def respond(request):
        if not request.path.partition("?")[0].endswith("/have"):
            return None
        held = b"\0" if other.lied.is_set() else b"\1"
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
