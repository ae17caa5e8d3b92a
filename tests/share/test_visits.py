"""How edges are visited: each by itself, and no more often than it likes."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from icnblocks.client.engine import EngineOptions
from icnblocks.client.holders import Catalogued
from icnblocks.client.neighbourly import NeighbourlyEngine
from icnblocks.client.source import Source
from icnblocks.client.terms import Hint
from icnblocks.errors import SourceError
from icnblocks.naming import Digest, Name
from icnblocks.share.neighbourhood import Neighbourhood
from icnblocks.share.options import ShareOptions
from icnblocks.share.sharer import Sharer
from icnblocks.testing.lying import LyingServer, Reply
from icnblocks.testing.processes import poll_until
from tests.share.blocks import MANIFEST
from tests.share.test_neighbours import Keep

NAME = Name.parse("acme/x")
TOLD = Reply(200, b'{"neighbours": [], "ttl": 60}')


class Lonely:
    """The engine of a pull that finds nobody."""

    def status(self):
        return ()

    def dropped(self):
        return {}


@contextmanager
def known_to(*urls: str):
    """A neighbourhood that is announced at these edges."""
    sources = [Source(url) for url in urls]
    made = Neighbourhood(4261, 8, lambda _: None)
    made.add(MANIFEST, NAME, sources)
    yield made
    made.close()
    for source in sources:
        source.close()


def test_a_silent_edge_keeps_a_device_from_no_other() -> None:
    """Catches: edges that are visited in turn, so that a silent one takes 15 s of all others'."""
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        LyingServer({}, respond=lambda _: TOLD) as well,
        known_to(f"http://127.0.0.1:{silent.getsockname()[1]}", well.url) as made,
    ):
        made.join(MANIFEST, Lonely())
        poll_until(lambda: len(well.requests) >= 4, timeout_s=10, what="neighbours are looked for")
        made.part(MANIFEST)


def test_an_edge_that_asks_to_be_left_alone_is() -> None:
    """Catches: `Retry-After` passed over, and forgotten when the next pull begins."""
    busy = Reply(429, b"", {"Retry-After": "3600"})
    with (
        LyingServer({}, respond=lambda _: busy) as full,
        LyingServer({}, respond=lambda _: TOLD) as well,
        known_to(full.url, well.url) as made,
    ):
        poll_until(lambda: full.requests)
        made.join(MANIFEST, Lonely())
        poll_until(lambda: len(well.requests) >= 5, what="neighbours are looked for")
        made.part(MANIFEST)
        assert len(full.requests) == 1


def refuse_once(monkeypatch, name: str) -> threading.Event:
    """The system has no thread for the first one of this name; set when it was so."""
    start, refused = threading.Thread.start, threading.Event()

    def refuse(thread):
        if thread.name == name and not refused.is_set():
            refused.set()
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    return refused


def test_a_machine_without_a_thread_to_spare_is_made_known_later(monkeypatch) -> None:
    """Catches: a pull that ends for want of a thread, or a device that no edge ever hears of."""
    refused = refuse_once(monkeypatch, "icn-neighbours")
    with LyingServer({}, respond=lambda _: TOLD) as edge, known_to(edge.url) as made:
        assert refused.is_set()
        made.join(MANIFEST, Lonely())
        poll_until(lambda: edge.requests)
        made.part(MANIFEST)


def test_a_machine_without_a_thread_for_a_neighbour_is_made_known_on(monkeypatch) -> None:
    """Catches: a traceback instead of the thread that visits an edge, which hears no more."""
    refused = refuse_once(monkeypatch, "icn-lane-1")
    named = Reply(200, b'{"neighbours": ["127.0.0.1:1", "127.0.0.1:2"], "ttl": 60}')
    about, hint = Catalogued(MANIFEST, None, []), Hint(manifest=MANIFEST)
    with (
        LyingServer({}, respond=lambda _: named) as edge,
        Source(edge.url) as source,
        known_to(edge.url) as made,
    ):
        options = EngineOptions(connections=1)
        with NeighbourlyEngine([source], Keep(), about, hint, 4261, options) as engine:
            made.join(MANIFEST, engine)
            poll_until(lambda: len(edge.requests) >= 4, what="neighbours are looked for")
            assert refused.is_set()
            assert all(lane.thread is not None for lane in engine._lanes[1:])
        made.part(MANIFEST)


class Company:
    """The engine of a pull: those whom it is told of and loses at once, and those who stay."""

    def __init__(self) -> None:
        self.joined: list[str] = []

    def join(self, source) -> None:
        self.joined.append(source.url)

    def status(self):
        return ()

    def dropped(self):
        return {url: SourceError("out of reach") for url in self.joined if "//10.0.0." in url}


def test_who_was_named_only_devices_out_of_reach_asks_for_others_soon(monkeypatch) -> None:
    """Catches: 20 s without any neighbour, since eight that are behind a NAT took all places."""
    hidden = [f"http://10.0.0.{number}:4261" for number in range(1, 9)]
    other, told = "http://10.0.1.1:4261", []

    def announce(*_):
        told.append(hidden if not told else [other])
        return told[-1], 60.0

    monkeypatch.setattr("icnblocks.share.neighbourhood.announce", announce)
    monkeypatch.setattr("icnblocks.share.neighbourhood.withdraw", lambda *_: None)
    company = Company()
    with known_to("http://192.0.2.1:4260") as made:
        poll_until(lambda: told, what="announced")
        told.clear()
        made.join(MANIFEST, company)
        poll_until(lambda: other in company.joined, timeout_s=10, what="another is found")
        made.part(MANIFEST)


def test_who_has_neighbours_enough_is_not_announced_more_often_for_it(monkeypatch) -> None:
    """Guards that looking after neighbours is no load on the edge."""
    near = [f"http://10.0.1.{number}:4261" for number in range(1, 9)]
    told, looked = threading.Semaphore(0), threading.Semaphore(0)

    def announce(*_):
        told.release()
        return near, 60.0

    class Full(Company):
        def status(self):
            return ()

        def dropped(self):
            looked.release()
            return {}

    monkeypatch.setattr("icnblocks.share.neighbourhood.announce", announce)
    monkeypatch.setattr("icnblocks.share.neighbourhood.withdraw", lambda *_: None)
    monkeypatch.setattr("icnblocks.share.neighbourhood._LONGEST_S", 0.01)
    with known_to("http://192.0.2.1:4260") as made:
        assert told.acquire(timeout=10)
        made.join(MANIFEST, Full())
        assert told.acquire(timeout=10)
        for _ in range(20):
            assert looked.acquire(timeout=10)
        assert not told.acquire(blocking=False)
        made.part(MANIFEST)


def test_devices_out_of_reach_are_tried_more_and_more_seldom() -> None:
    """Catches: a few behind a NAT, named every time, were all that a pull of hours tried."""
    hidden, waits = "http://10.0.0.1:4261", []
    with known_to() as made:
        model = made._models[MANIFEST]
        model.engine = company = Company()
        for _ in range(4):
            made._bring(model, [hidden], 8)
            assert list(model.met) == [hidden]
            now = time.monotonic()
            made._bring(model, [hidden], 8)
            assert not model.met
            waits.append(model.rests[hidden])
            assert model.away.pop(hidden) >= now + waits[-1]
        assert company.joined == [hidden] * 4
        model.engine = None
    assert waits == [15.0, 30.0, 60.0, 120.0]


def test_one_machine_cannot_use_up_the_neighbours_that_a_pull_may_try() -> None:
    """Catches: one that asked again and again, each time as a device at another port."""
    other = "http://10.0.1.1:4261"
    with known_to() as made:
        made.join(MANIFEST, company := Company())
        for port in range(1000, 1600):
            made.visited(MANIFEST, f"http://10.0.0.66:{port}")
        made.visited(MANIFEST, other)
        made.part(MANIFEST)
    assert company.joined[-1] == other
    assert len(company.joined) == 51


def test_each_pull_of_a_model_may_try_as_many_neighbours() -> None:
    """Catches: a program that pulls a model again and again, and in the end meets nobody."""
    with known_to() as made:
        for number in range(501):
            made.join(MANIFEST, company := Company())
            url = f"http://10.0.1.{1 + number // 50}:{4000 + number}"
            made._bring(made._models[MANIFEST], [url], 8)
            assert company.joined == [url]
            made.part(MANIFEST)


def test_a_model_whose_pull_failed_is_announced_no_more_until_it_is_there(tmp_path) -> None:
    """Catches: a device without a block of it that takes a place of all others for good."""
    other, digest = Digest(b"o" * 32), Digest.of(b"block")
    manifest = SimpleNamespace(lengths=lambda: {digest: 5})
    first, second = (
        SimpleNamespace(digest=each, name=NAME, manifest=manifest) for each in (MANIFEST, other)
    )
    assembler = SimpleNamespace(directory=None, missing=list, whole=frozenset())
    short = Reply(200, b'{"neighbours": [], "ttl": 1}')

    def announced(of) -> int:
        return sum(request.path.split("/")[3] == str(of) for request in edge.requests)

    def fail() -> None:
        poll_until(lambda: announced(MANIFEST), what="announced")
        raise SourceError("nobody has it")

    with (
        LyingServer({}, respond=lambda _: short) as edge,
        Source(edge.url) as source,
        Sharer(
            ShareOptions("127.0.0.1"), None, SimpleNamespace(close_idle=int), pytest.fail
        ) as sharer,
    ):
        with pytest.raises(SourceError), sharer.pulling(first, assembler, None, [source]):
            fail()
        sharer.whole(second, [source])
        poll_until(lambda: announced(other) >= 2, what="what was under way is over")
        before = announced(MANIFEST)
        poll_until(lambda: announced(other) >= 6, what="the other is announced again and again")
        assert announced(MANIFEST) == before
        sharer.whole(first, [source])
        poll_until(lambda: announced(MANIFEST) > before, what="announced again")
