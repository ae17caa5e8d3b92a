"""The fetch engine against real servers: honest, lying, behind a proxy, over TLS, cancelled."""

from __future__ import annotations

import threading
import time
import tracemalloc
from contextlib import ExitStack
from math import inf
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from icnblocks.client import stealing
from icnblocks.client.engine import Engine, EngineOptions, Hint
from icnblocks.client.events import Demoted, Received, Refused, Retried, Waste
from icnblocks.client.scheduler import Health, RetryOptions
from icnblocks.client.source import Source, SourceOptions
from icnblocks.errors import (
    CorruptError,
    IcnError,
    IncompleteError,
    NotFoundError,
    SourceError,
    StorageError,
    UsageError,
)
from icnblocks.limits import KIB
from icnblocks.naming import Digest, Name
from icnblocks.testing.lying import Lie, LyingServer, RechunkingProxy
from icnblocks.wire.bundle import Want

PLAIN = SourceOptions()
QUICK = SourceOptions(stall_s=0.25, connect_s=2.0, patience_s=0.3, floor_bytes=64)
OPTIONS = EngineOptions(retry_s=0.4, retry=RetryOptions(first_s=0.01, longest_s=0.05))
PATIENT = EngineOptions(retry_s=30, retry=RetryOptions(first_s=0.01, longest_s=0.05))


def blocks_of(count: int, length: int = 3000, seed: int = 0) -> dict[Digest, bytes]:
    random = Random(seed)
    made = [random.randbytes(random.randint(1, length)) for _ in range(count)]
    return {Digest.of(block): block for block in made}


def wants_of(blocks: dict[Digest, bytes]) -> list[Want]:
    return [Want(digest, len(block)) for digest, block in blocks.items()]


class Keep:
    """A sink that keeps everything, and fails if anything ends twice."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.accepted: dict[Digest, bytes] = {}
        self.refused: dict[Digest, IcnError] = {}

    def accept(self, blocks) -> None:
        with self.lock:
            assert blocks
            for block in blocks:
                data = bytes(block.data)
                assert block.digest not in self.accepted
                assert block.digest not in self.refused
                assert block.digest == Digest.of(data)
                self.accepted[block.digest] = data

    def refuse(self, want, error) -> None:
        with self.lock:
            assert want.digest not in self.accepted
            assert want.digest not in self.refused
            self.refused[want.digest] = error


@pytest.fixture(autouse=True)
def nothing_left_behind():
    """Cancelling, failing and closing must leave no thread and no socket (warnings are errors)."""
    before = set(threading.enumerate())
    yield
    left = [thread for thread in threading.enumerate() if thread not in before]
    assert left == []


def fetch(servers, blocks, options=PATIENT, source_options=PLAIN, listener=None):
    """Fetch everything from servers, for at most 20 s; the sink and the counters.

    Who is honest may be held up by a busy machine for longer than QUICK and OPTIONS bear.
    """
    sink = Keep()
    with ExitStack() as stack:
        sources = [stack.enter_context(Source(server.url, source_options)) for server in servers]
        engine = stack.enter_context(Engine(sources, sink, options, listener, random=Random(1)))
        engine.add(wants_of(blocks))
        assert engine.wait(20), "did not end"
        counters = engine.counters()
    return sink, counters


def test_everything_arrives_once() -> None:
    blocks = blocks_of(300)
    with LyingServer(blocks) as server:
        sink, counters = fetch([server], blocks)
        assert sink.accepted == blocks
        assert set(server.sent.values()) == {1}
        assert counters.received == sum(map(len, blocks.values()))
        assert counters.blocks == len(blocks)
        assert not any(counters.wasted.values())
        assert server.connections <= 2, "connections are kept from bundle to bundle"


def test_several_sources_share_the_work_and_no_block_comes_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A busy machine may hold one of them up for so long that the other takes over what it began,
    # or does all of it: neither answers before the other was asked.
    monkeypatch.setattr(stealing, "GAIN_S", inf)
    monkeypatch.setattr(stealing, "LATE_S", inf)
    blocks = blocks_of(400, 30_000)
    with LyingServer(blocks) as one, LyingServer(blocks) as two:
        one.waits_for, two.waits_for = two.asked, one.asked
        sink, _ = fetch([one, two], blocks)
        assert sink.accepted == blocks
        assert not set(one.sent) & set(two.sent)
        assert one.sent
        assert two.sent


PASSING = [lie for lie in Lie if lie is not Lie.NONE]


@pytest.mark.parametrize("lie", PASSING)
def test_another_source_makes_up_for_a_lying_one(lie: Lie) -> None:
    """Whatever one source does, a good one is enough, and nothing is accepted wrong."""
    blocks = blocks_of(40)
    with (
        LyingServer(blocks, lie) as liar,
        LyingServer(blocks, waits_for=liar.lied) as honest,  # it might do all by itself
    ):
        sink, _ = fetch([liar, honest], blocks, source_options=QUICK)
        assert liar.lied.is_set()
        assert sink.accepted == blocks
        assert sink.refused == {}


LASTING = {
    Lie.HTML: IncompleteError,
    Lie.OTHER_PROTOCOL: IncompleteError,
    Lie.STALL: IncompleteError,
    Lie.STALL_HEAD: IncompleteError,
    Lie.RESET: IncompleteError,
    Lie.CLOSE: IncompleteError,
    Lie.ENDLESS_HEAD: IncompleteError,
    Lie.ENDLESS_CHUNK_LINE: IncompleteError,
    Lie.BAD_CHUNK: IncompleteError,
    Lie.VERSION: IncompleteError,
    Lie.STATUS_500: IncompleteError,
    Lie.STATUS_404: IncompleteError,
    Lie.STATUS_403: IncompleteError,
    Lie.REDIRECT: IncompleteError,
    Lie.HUGE_LENGTH: IncompleteError,
    Lie.INDEX: IncompleteError,
    Lie.LENGTH: IncompleteError,
    Lie.ALIVE_ONLY: IncompleteError,
    Lie.BUSY: IncompleteError,
    Lie.NOT_FOUND: NotFoundError,
}


@pytest.mark.parametrize("lie", LASTING)
def test_a_lying_source_alone_gives_a_clear_refusal(lie: Lie) -> None:
    blocks = blocks_of(3)
    # A Nack that comes late, after OPTIONS gave the source up, would be another refusal.
    options = PATIENT if lie is Lie.NOT_FOUND else OPTIONS
    with LyingServer(blocks, lie) as server:
        sink, _ = fetch([server], blocks, options, QUICK)
    assert sink.accepted == {}
    assert set(sink.refused) == set(blocks)
    for error in sink.refused.values():
        assert error.code == LASTING[lie].code
        assert "\n" not in str(error)
        assert server.url in str(error)


@pytest.mark.parametrize(
    "lie",
    [Lie.RESET_MID, Lie.CLOSE_MID, Lie.CUT_CLEAN, Lie.NO_END, Lie.STALL_MID, Lie.TRICKLE,
     Lie.MORE, Lie.TWICE, Lie.CONTENT_LENGTH, Lie.STATUS_500, Lie.STATUS_429, Lie.BUSY],
)  # fmt: skip
def test_a_passing_failure_is_retried_and_costs_what_was_in_flight(lie: Lie) -> None:
    blocks = blocks_of(30)
    events = []
    times = 1 if lie is Lie.STATUS_429 else 2
    with LyingServer(blocks, lie, times=times, after=1) as server:
        sink, counters = fetch([server], blocks, PATIENT, QUICK, events.append)
        assert sink.accepted == blocks
        # An honest answer that a busy machine holds up is one more failure, at the same price.
        failures = max(times, sum(isinstance(event, Retried) for event in events))
        assert max(server.sent.values()) <= 1 + failures
        assert server.lied.is_set()
    if lie is not Lie.TWICE:  # there, good frames that were read behind the lie are lost too
        assert sum(counters.wasted.values()) <= max(failures, 2) * 3000
    assert {type(event) for event in events} >= {Received}
    if lie not in {Lie.BUSY, Lie.MORE, Lie.NO_END}:  # after the last block it is seen too late
        assert any(isinstance(event, Retried) for event in events)
        assert any(isinstance(event, Demoted) for event in events)


def test_a_flipped_bit_of_the_only_source_is_asked_for_once_more() -> None:
    blocks = blocks_of(30)
    with LyingServer(blocks, Lie.FLIP, times=1) as server:
        sink, counters = fetch([server], blocks)
    assert sink.accepted == blocks
    assert 0 < counters.wasted[Waste.CORRUPT] <= 3000


def test_flipped_bits_of_the_only_source_refuse_those_blocks_and_nothing_else() -> None:
    blocks = blocks_of(30)
    events = []
    with LyingServer(blocks, Lie.FLIP) as server:
        sink, counters = fetch([server], blocks, listener=events.append)
    assert 0 < len(sink.refused) < 30
    assert all(isinstance(error, CorruptError) for error in sink.refused.values())
    assert sink.accepted == {key: block for key, block in blocks.items() if key not in sink.refused}
    assert counters.wasted[Waste.CORRUPT] >= 2 * sum(len(blocks[each]) for each in sink.refused)
    assert counters.refused == len(sink.refused)
    assert any(isinstance(event, Refused) for event in events)


def test_a_flipped_bit_is_made_up_for_by_another_source() -> None:
    blocks = blocks_of(100)
    caught = threading.Event()

    def listener(event):
        if isinstance(event, Demoted) and isinstance(event.error, CorruptError):
            caught.set()

    with (
        LyingServer(blocks, Lie.FLIP) as liar,
        LyingServer(blocks, waits_for=caught) as honest,
    ):
        sink, counters = fetch([liar, honest], blocks, listener=listener)
    assert caught.is_set()
    assert sink.accepted == blocks
    assert counters.wasted[Waste.CORRUPT] > 0


def test_sources_that_have_different_parts() -> None:
    left, right = blocks_of(40, seed=1), blocks_of(40, seed=2)
    absent = blocks_of(2, seed=3)
    with LyingServer(left) as one, LyingServer(right) as two:
        sink, _ = fetch([one, two], {**left, **right, **absent})
    assert sink.accepted == {**left, **right}
    assert set(sink.refused) == set(absent)
    assert all(isinstance(error, NotFoundError) for error in sink.refused.values())


def test_a_head_that_never_ends_is_cut_off_in_time() -> None:
    """Every line of it comes in time, so that only a limit on the whole head helps.

    Without one it goes on for the minute that 32 KiB of it take, and `fetch` does not wait so long.
    """
    blocks = blocks_of(2)
    with LyingServer(blocks, Lie.ENDLESS_HEAD) as server:
        sink, _ = fetch([server], blocks, EngineOptions(retry_s=0), QUICK)
    assert set(sink.refused) == set(blocks)


def test_nobody_listens() -> None:
    blocks = blocks_of(2)
    with LyingServer(blocks) as server:
        url = server.url
    sink = Keep()
    with Source(url, QUICK) as source, Engine([source], sink, OPTIONS) as engine:
        engine.add(wants_of(blocks))
        assert engine.wait(10)
        [status] = engine.status()
    assert all(isinstance(error, IncompleteError) for error in sink.refused.values())
    assert "refused" in str(next(iter(sink.refused.values())))
    assert status.health is Health.GIVEN_UP
    assert status.failures > 1
    assert status.last_error


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 10_000), st.sampled_from([1, 7, 100, 5000]))
def test_through_a_proxy_that_cuts_anywhere_and_speaks_http_1_0(seed: int, most: int) -> None:
    blocks = blocks_of(12, 2000, seed)
    with (
        LyingServer(blocks) as server,
        RechunkingProxy(server.port, Random(seed), most) as proxy,
    ):
        sink, counters = fetch([proxy], blocks)
        assert sink.accepted == blocks
        assert not any(counters.wasted.values())


def test_a_cut_behind_the_proxy_is_seen() -> None:
    """HTTP/1.0 tells the end by closing: the proxy ends the chunks properly, and only END tells."""
    blocks = blocks_of(12)
    with (
        LyingServer(blocks, Lie.CLOSE_MID, times=1) as server,
        RechunkingProxy(server.port, Random(0)) as proxy,
    ):
        sink, _ = fetch([proxy], blocks)
        assert sink.accepted == blocks
        assert server.lied.is_set()


def test_kept_connections_that_the_server_closed_are_no_failure() -> None:
    blocks, more = blocks_of(20, seed=1), blocks_of(20, seed=2)
    events, sink = [], Keep()
    with (
        LyingServer({**blocks, **more}) as server,
        Source(server.url) as source,
        Engine([source], sink, PATIENT, events.append) as engine,
    ):
        engine.add(wants_of(blocks))
        assert engine.wait(10)
        eventually(lambda: not engine.status()[0].busy)  # the end of an answer is read, too
        server.close_connections()
        eventually(lambda: server.open_connections == 0)
        engine.add(wants_of(more))
        assert engine.wait(10)
        [status] = engine.status()
    assert sink.accepted == {**blocks, **more}
    assert {type(event) for event in events} == {Received}
    assert status.failures == 0


def eventually(true, seconds: float = 10.0) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "never came true"
        time.sleep(0.005)


def test_hints_travel_and_wants_may_come_any_time_from_any_thread() -> None:
    groups = [blocks_of(10, seed=seed) for seed in range(6)]
    everything = {digest: block for group in groups for digest, block in group.items()}
    sink = Keep()
    with (
        LyingServer(everything) as server,
        Source(server.url) as source,
        Engine([source], sink, PATIENT) as engine,
    ):
        hints = [
            Hint(Name("acme", f"m{i}"), Digest(bytes([i]) * 32), bytes([i]) * 16, i, f"id{i}")
            for i in range(len(groups))
        ]
        adders = [
            threading.Thread(target=engine.add, args=(wants_of(group), hint))
            for group, hint in zip(groups, hints, strict=True)
        ]
        for adder in adders:
            adder.start()
        for adder in adders:
            adder.join()
        assert engine.wait(10)
        for asked in server.bundles:
            assert asked.name is not None
            number = int(asked.name.model[1:])
            assert {want.digest for want in asked.wants} <= set(groups[number])
            assert (asked.manifest, asked.pull, asked.hops) == (
                hints[number].manifest, hints[number].pull, number,
            )  # fmt: skip
        assert {request.headers["icn-via"] for request in server.requests} == {
            hint.via for hint in hints
        }
    assert sink.accepted == everything


def test_cancelling_cuts_off_what_nobody_wants_and_the_engine_goes_on() -> None:
    stuck, more = blocks_of(10, seed=1), blocks_of(10, seed=2)
    sink, events = Keep(), []
    one_lane = EngineOptions(connections=1)  # it must be free again for what comes next
    with (
        LyingServer({**stuck, **more}, Lie.STALL, times=1) as server,
        Source(server.url, SourceOptions(stall_s=60)) as source,
        Engine([source], sink, one_lane, events.append) as engine,
    ):
        engine.add(wants_of(stuck))
        assert server.lied.wait(10)  # else the lie might be told to who comes next
        assert set(engine.cancel(stuck)) == set(stuck)
        assert engine.wait(10)
        engine.add(wants_of(more))
        assert engine.wait(10)
        [status] = engine.status()
    assert sink.accepted == more
    assert sink.refused == {}
    assert status.failures == 0, "a cancelled request is nobody's failure"


def wait_in_vain(engine: Engine) -> None:
    with pytest.raises(SourceError):
        engine.wait()


@pytest.mark.parametrize("lie", [Lie.STALL, Lie.STALL_MID, Lie.TRICKLE, Lie.ALIVE_ONLY])
def test_closing_cuts_off_whatever_is_under_way(lie: Lie) -> None:
    blocks = blocks_of(10)
    sink = Keep()
    endless = SourceOptions(stall_s=60, patience_s=60)
    with LyingServer(blocks, lie) as server, Source(server.url, endless) as source:
        engine = Engine([source], sink, EngineOptions())
        engine.add(wants_of(blocks))
        assert server.lied.wait(10)
        waiter = threading.Thread(target=wait_in_vain, args=(engine,))
        waiter.start()
        began = time.monotonic()
        engine.close()
        assert time.monotonic() - began < 30
        waiter.join()
        with pytest.raises(SourceError):
            engine.add(wants_of(blocks))
        engine.close()


def test_what_the_sink_raises_stops_the_engine_and_is_raised_by_wait() -> None:
    blocks = blocks_of(50)

    class Full(Keep):
        def accept(self, blocks) -> None:
            raise StorageError("disk full")

    with (
        LyingServer(blocks) as server,
        Source(server.url) as source,
        Engine([source], Full(), PATIENT) as engine,
    ):
        engine.add(wants_of(blocks))
        with pytest.raises(StorageError, match="disk full"):
            engine.wait(10)
        [status] = engine.status()
        assert status.failures == 0, "a full disk is not the source's fault"


def test_no_source_is_a_mistake() -> None:
    with pytest.raises(UsageError):
        Engine([], Keep())


def test_idle_lanes_do_nothing() -> None:
    """Polling would keep a battery awake and a core busy on an edge of a thousand routes."""
    ticks = []

    def clock() -> float:
        ticks.append(1)
        return time.monotonic()

    blocks = blocks_of(5)
    with (
        LyingServer(blocks) as server,
        Source(server.url) as source,
        Engine([source], Keep(), PATIENT, clock=clock) as engine,
    ):
        engine.add(wants_of(blocks))
        assert engine.wait(10)

        def nothing_ticks() -> bool:
            before = len(ticks)
            threading.Event().wait(0.3)
            return len(ticks) == before

        eventually(nothing_ticks)  # a lane may be held up before it comes to rest


def test_memory_does_not_grow_with_what_is_fetched() -> None:
    block = Random(0).randbytes(256 * KIB)
    count = 200

    class Unlike(dict):
        def __getitem__(self, digest):
            return int(numbers[digest]).to_bytes(8, "big") + block

        def __contains__(self, digest) -> bool:
            return digest in numbers

    numbers = {Digest.of(i.to_bytes(8, "big") + block): i for i in range(count)}
    wants = [Want(digest, len(block) + 8) for digest in numbers]

    class Count:
        def __init__(self) -> None:
            self.bytes = 0

        def accept(self, blocks) -> None:
            self.bytes += sum(len(block.data) for block in blocks)

        def refuse(self, want, error) -> None:
            raise AssertionError(error)

    with LyingServer(Unlike()) as server, Source(server.url) as source:
        with Engine([source], Count()) as engine:
            tracemalloc.start()
            engine.add(wants)
            assert engine.wait(30)
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
    assert peak < 10 * 1024 * 1024  # the server's copies are in it too; 50 MB were sent
