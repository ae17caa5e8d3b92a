"""Several sources through the engine, with real servers: slow ones, partial ones, a limit."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from math import inf
from random import Random
from types import SimpleNamespace

import pytest

from icnblocks.client import stealing
from icnblocks.client.engine import Engine, EngineOptions, Hint
from icnblocks.client.source import Source, SourceOptions
from icnblocks.client.terms import Sink
from icnblocks.errors import FormatError
from icnblocks.limits import KIB
from icnblocks.naming import Digest, Name
from icnblocks.testing.lying import Lie, LyingServer, Reply
from icnblocks.wire.bundle import Order, Want
from icnblocks.wire.havemap import HaveMap, encode_have

MANIFEST = Digest.of(b"a manifest")
HINT = Hint(Name("acme", "model"), MANIFEST, bytes(range(16)))


class Keep(Sink):
    """Keeps what comes; nothing may come twice."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.order: list[Digest] = []
        self.refused: list[Digest] = []

    def accept(self, blocks) -> None:
        with self.lock:
            for block in blocks:
                assert block.digest not in self.order
                assert Digest.of(block.data) == block.digest
                self.order.append(block.digest)

    def refuse(self, want, error) -> None:
        with self.lock:
            self.refused.append(want.digest)


def blocks_of(count: int, length: int = 3000) -> dict[Digest, bytes]:
    random = Random(length)
    return {Digest.of(block): block for block in (random.randbytes(length) for _ in range(count))}


def fetch(servers, blocks, options=None, source_options=None, *, ask: bool = True):
    sink = Keep()
    with ExitStack() as stack:
        sources = [stack.enter_context(Source(server.url, source_options)) for server in servers]
        engine = stack.enter_context(Engine(sources, sink, options, random=Random(1)))
        wants = [Want(digest, len(block)) for digest, block in blocks.items()]
        engine.add(wants, HINT, (lambda: list(blocks)) if ask else None)
        assert engine.wait(30), "did not end"
        return sink, engine.counters()


def telling(blocks, held, fetches: bool, told: threading.Event | None = None):
    """What a server answers that says so of itself; `told`: it was asked to."""
    flags = bytes(digest in held for digest in blocks)

    def respond(request):
        if request.path.endswith("/have"):
            assert request.headers["icn-name"] == "acme/model"
            if told is not None:
                told.set()
            return Reply(200, encode_have(HaveMap(flags, fetches)))
        return None

    return respond


def asked_for(server) -> set[Digest]:
    return {want.digest for asked in server.bundles for want in asked.wants}


def maps_asked(server) -> int:
    return sum(request.path == f"/v1/manifests/{MANIFEST}/have" for request in server.requests)


class Idle(Exception):
    """A lane waits."""


def waiting(*_):
    raise Idle


@pytest.mark.parametrize(("limit", "most"), [(20_000.0, 1), (50_000.0, 2), (None, 3)])
def test_a_low_limit_is_not_spread_over_too_many_sources(limit, most: int) -> None:
    """Catches: four sources that all cut off who reads a quarter of the limit, for ever."""
    sources = [Source(f"http://127.0.0.1:{port}") for port in (1, 2, 3)]
    engine = Engine(sources, Keep(), EngineOptions(limit_rate=limit, connections=3))
    engine._start = lambda: None
    engine._changed = SimpleNamespace(wait=waiting, notify_all=lambda: None)
    engine.add([Want(digest, len(block)) for digest, block in blocks_of(300, 30_000).items()], HINT)
    for lane in engine._lanes[:most]:
        assert engine._next(lane) is not None
    for lane in engine._lanes[most:]:
        with pytest.raises(Idle):
            engine._next(lane)
    first = engine._lanes[0]
    engine._ended(first, first.bundle, None, None, 0.0)
    assert engine._next(engine._lanes[-1]) is not None


def test_nobody_is_asked_for_what_it_lacks_and_each_is_asked_once_what_it_has() -> None:
    blocks = blocks_of(300)
    some = dict(list(blocks.items())[:100])
    told = threading.Event()  # else all might come from the whole one before the other is asked
    with (
        LyingServer(some, respond=telling(blocks, some, fetches=False, told=told)) as part,
        LyingServer(
            blocks, respond=telling(blocks, blocks, fetches=False), waits_for=told
        ) as whole,
    ):
        sink, _ = fetch([part, whole], blocks)
        assert set(sink.order) == set(blocks)
        assert asked_for(part) <= set(some)
        assert maps_asked(part) == maps_asked(whole) == 1


def test_a_cache_that_would_fetch_the_rest_is_asked_for_all() -> None:
    blocks = blocks_of(400, 30_000)
    with (
        LyingServer(blocks, respond=telling(blocks, {}, fetches=True)) as cold,
        LyingServer(
            blocks, respond=telling(blocks, blocks, fetches=False), waits_for=cold.asked
        ) as warm,  # it might do all by itself
    ):
        sink, _ = fetch([cold, warm], blocks)
        assert set(sink.order) == set(blocks)
        assert asked_for(cold)


@pytest.mark.parametrize("status", [404, 405, 500])
def test_an_older_daemon_is_asked_as_before(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # Whoever is held up by a busy machine keeps its part: nothing is taken over from it, and the
    # other does not answer before it was asked.
    monkeypatch.setattr(stealing, "GAIN_S", inf)
    monkeypatch.setattr(stealing, "LATE_S", inf)
    blocks = blocks_of(400, 30_000)

    def refuses(request):
        return Reply(status, b'{"error": "usage", "message": "no such method"}')

    with LyingServer(blocks, respond=refuses) as one, LyingServer(blocks, respond=refuses) as two:
        one.waits_for, two.waits_for = two.asked, one.asked
        sink, counters = fetch([one, two], blocks)
        assert set(sink.order) == set(blocks)
        assert asked_for(one)
        assert asked_for(two)
        assert maps_asked(one) == 1
        assert not any(counters.wasted.values())


@pytest.mark.parametrize("body", [b"", b"nonsense", encode_have(HaveMap(b"\1" * 7, False))])
def test_a_map_that_is_none_is_passed_over(body: bytes) -> None:
    blocks = blocks_of(30)

    def respond(request):
        return Reply(200, body) if request.path.endswith("/have") else None

    with LyingServer(blocks, respond=respond) as one, LyingServer(blocks) as two:
        sink, _ = fetch([one, two], blocks)
        assert set(sink.order) == set(blocks)


def test_maps_that_deny_everything_cannot_refuse_anything() -> None:
    """A liar, or a neighbour that got it a moment later, must not end a pull."""
    blocks = blocks_of(50)
    with (
        LyingServer(blocks, respond=telling(blocks, {}, fetches=False)) as one,
        LyingServer(blocks, respond=telling(blocks, {}, fetches=False)) as two,
    ):
        sink, _ = fetch([one, two], blocks)
        assert set(sink.order) == set(blocks)
        assert sink.refused == []


def test_a_single_source_is_not_asked_what_it_has() -> None:
    blocks = blocks_of(5)
    with LyingServer(blocks, respond=telling(blocks, blocks, fetches=False)) as server:
        fetch([server], blocks)
        assert maps_asked(server) == 0


def test_what_a_stalled_source_was_asked_for_comes_from_the_other_long_before_it_fails() -> None:
    """Without that, a pull hangs until the source counts as stalled; `fetch` waits half as long."""
    blocks = blocks_of(60, 20_000)
    with (
        LyingServer(blocks, Lie.STALL_MID, after=1) as stuck,
        LyingServer(blocks, waits_for=stuck.lied) as good,  # it might do all by itself
    ):
        sink, counters = fetch(
            [stuck, good], blocks, source_options=SourceOptions(stall_s=60), ask=False
        )
        assert stuck.lied.is_set()
        assert set(sink.order) == set(blocks)
        # It has two lanes; where the good one is held up, it is asked once more for what that has.
        assert sum(counters.wasted.values()) <= 20_000 * max(2, 2 * (len(stuck.bundles) - 1))


def test_a_limit_holds_over_all_lanes_and_sources() -> None:
    """A lower bound on time holds however busy the machine is."""
    blocks = blocks_of(20, 10_000)
    limit, events = 200_000.0, EngineOptions(limit_rate=200_000.0)
    with LyingServer(blocks) as one, LyingServer(blocks) as two:
        began = time.monotonic()
        sink, _ = fetch([one, two], blocks, events, ask=False)
        took = time.monotonic() - began
    assert set(sink.order) == set(blocks)
    assert took >= (20 * 10_000 - 0.05 * limit) / limit


def test_closing_does_not_wait_for_a_limit() -> None:
    blocks = blocks_of(1, 200 * KIB)
    sink = Keep()
    with LyingServer(blocks) as server, Source(server.url) as source:
        engine = Engine([source], sink, EngineOptions(limit_rate=100.0))
        engine.add([Want(digest, len(block)) for digest, block in blocks.items()])
        while not server.bundles:
            threading.Event().wait(0.005)
        began = time.monotonic()
        engine.close()
        assert time.monotonic() - began < 20  # it would take half an hour


def test_order_and_priority_are_said_to_the_source() -> None:
    blocks = blocks_of(40)
    sink = Keep()
    hint = Hint(priority=6)
    with (
        LyingServer(blocks) as server,
        Source(server.url) as source,
        Engine([source], sink, EngineOptions(1, order=Order.LISTED)) as engine,
    ):
        engine.add([Want(digest, len(block)) for digest, block in blocks.items()], hint)
        assert engine.wait(20)
        assert {(asked.order, asked.priority) for asked in server.bundles} == {(Order.LISTED, 6)}
    assert sink.order == list(blocks)


def test_a_priority_out_of_bounds_is_a_mistake() -> None:
    from icnblocks.wire.bundle import BundleRequest

    with pytest.raises(FormatError):
        BundleRequest((Want(MANIFEST, 1),), priority=8)
