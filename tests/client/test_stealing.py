"""Several sources under a virtual clock: how long a pull takes, and what comes twice."""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icnblocks.client.scheduler import Bundle, RetryOptions, Scheduler
from icnblocks.client.shares import bundle_bytes
from icnblocks.client.states import SourceState
from icnblocks.client.stealing import Queue, Theft, choose
from icnblocks.errors import SourceError
from icnblocks.limits import MIB
from icnblocks.naming import Digest
from icnblocks.wire.bundle import Want
from icnblocks.wire.frames import Reason

SETTINGS = settings(max_examples=60, deadline=None)
ANSWER_S = 0.002  # until a request's first byte
STALL_S = 15.0


def wants(count: int, length: int = MIB, first: int = 0) -> list[Want]:
    return [Want(Digest((first + i).to_bytes(32, "big")), length) for i in range(count)]


@dataclass
class Lane:
    """A thread of the engine, and the server's side of its bundle."""

    source: int
    bundle: Bundle[str] | None = None
    pending: list[Want] = field(default_factory=list)
    block_began: float = 0.0
    serial: int = 0  # events of an earlier serial are of a bundle that is over


class Exchange:
    """Sources that send at fixed rates, and lanes that do what the engine's do.

    Args:
        rates: bytes a second of a lane of each source, as a function of the time.
        lanes: of each source.
        held: which wants a source has; None for all.
    """

    def __init__(self, rates, lanes: int = 2, held=None, ordered: bool = False) -> None:
        self.rates = rates
        self.held = held or [None] * len(rates)
        named = [(f"s{i}", lanes) for i in range(len(rates))]
        self.scheduler: Scheduler[str] = Scheduler(
            named, Random(1), RetryOptions(), ordered=ordered
        )
        self.lanes = [Lane(i) for i in range(len(rates)) for _ in range(lanes)]
        self.events: list[tuple[float, int, Lane, int, str]] = []
        self.count = 0
        self.now = 0.0
        self.accepted: list[Digest] = []
        self.refused: list[Digest] = []
        self.stolen = self.asked = 0
        self.nacks = 0

    def run(self, some: list[Want]) -> float:
        """Fetch everything; the seconds that it took."""
        self.refuse(self.scheduler.add(some, "h", 0.0))
        self.wake()
        while self.events and len(self.scheduler):
            at, _, lane, serial, what = heapq.heappop(self.events)
            if serial != lane.serial:
                continue
            self.now = at
            if what == "look":
                if lane.bundle is None:
                    self.ask(lane)
            elif what == "stalled":
                self.end(lane, SourceError("stalled"))
            else:
                self.block(lane)
        assert not len(self.scheduler), "nobody does anything any more"
        return self.now

    def at(self, when: float, lane: Lane, what: str) -> None:
        self.count += 1
        heapq.heappush(self.events, (when, self.count, lane, lane.serial, what))

    def wake(self) -> None:
        for lane in self.lanes:
            if lane.bundle is None:
                lane.serial += 1  # it looks now, and not when it meant to
                self.at(self.now, lane, "look")

    def ask(self, lane: Lane) -> None:
        before = [each for each in self.lanes if each.bundle is not None and each.bundle.left]
        step = self.scheduler.next_bundle(lane.source, self.now)
        if isinstance(step, float):
            assert step > self.now
            self.at(step, lane, "look")
        elif step is not None:
            self.asked += len(step.wants)
            lane.bundle, lane.pending = step, list(step.wants)
            lane.serial += 1
            for each in before:
                if not each.bundle.left:
                    self.cut(each)
            self.send(lane, ANSWER_S)

    def send(self, lane: Lane, later: float = 0.0) -> None:
        """The next block begins to come."""
        lane.block_began = self.now + later
        want = lane.pending[0]
        held = self.held[lane.source]
        if held is not None and want.digest not in held:
            self.at(lane.block_began, lane, "block")
            return
        rate = self.rates[lane.source](self.now)
        if rate:
            self.at(lane.block_began + want.length / rate, lane, "block")
        else:
            self.at(self.now + STALL_S, lane, "stalled")

    def block(self, lane: Lane) -> None:
        want = lane.pending.pop(0)
        held = self.held[lane.source]
        if held is not None and want.digest not in held:
            self.nacks += 1
            self.refuse(
                self.scheduler.nacked(lane.bundle, want.digest, Reason.NOT_FOUND, "", self.now)
            )
            self.wake()
        elif self.scheduler.arrived(lane.bundle, want.digest, self.now):
            self.accepted.append(want.digest)
        else:
            self.stolen += want.length
        if not lane.pending:
            self.end(lane)
        elif not lane.bundle.left:
            self.cut(lane)
        else:
            self.send(lane)

    def cut(self, lane: Lane) -> None:
        """Nothing is expected of the bundle any more; what came of a block is lost."""
        rate = self.rates[lane.source](self.now)
        came = max(self.now - lane.block_began, 0.0) * rate
        lost = int(min(came, lane.pending[0].length))
        self.stolen += lost
        self.end(lane, lost=lost)

    def end(self, lane: Lane, error: SourceError | None = None, lost: int = 0) -> None:
        bundle, left = lane.bundle, [want.digest for want in lane.pending]
        if error is None:
            self.refuse(self.scheduler.give_back(bundle, left, self.now))
        else:
            self.refuse(self.scheduler.failed(bundle, left, error, self.now))
        self.scheduler.finished(bundle, bundle.got + lost, self.now - bundle.began)
        lane.bundle, lane.pending = None, []
        lane.serial += 1
        self.wake()

    def refuse(self, refusals) -> None:
        self.refused += [refusal.want.digest for refusal in refusals]


def steady(rate: float):
    return lambda now: rate


def fast_then(rate: float, at: float, later: float):
    return lambda now: rate if now < at else later


def checked(exchange: Exchange, some: list[Want]) -> float:
    seconds = exchange.run(some)
    assert len(set(exchange.accepted)) == len(exchange.accepted), "a block was accepted twice"
    assert sorted(exchange.accepted + exchange.refused) == sorted(w.digest for w in some)
    return seconds


@SETTINGS
@given(
    rates=st.lists(st.sampled_from([0.2e6, 1e6, 5e6, 12.5e6, 50e6]), min_size=2, max_size=4),
    count=st.integers(1, 120),
    length=st.sampled_from([MIB, MIB, 4096, 300_000]),
)
def test_a_slow_source_does_not_make_a_pull_slow(rates, count: int, length: int) -> None:
    """As fast as all together would be, but for a block and a request of the fastest."""
    some, lanes = wants(count, length), 2
    exchange = Exchange([steady(rate) for rate in rates], lanes)
    seconds = checked(exchange, some)
    total = count * length
    best = total / (lanes * sum(rates))
    block_s = length / max(rates)
    # A small pull may begin at slow sources, of which nothing is known, one after the other.
    unlucky_s = 1.0 if total >= 64 * MIB else 2.2 * len(rates)
    assert seconds <= 1.25 * best + 4 * block_s + unlucky_s
    assert exchange.refused == []


@SETTINGS
@given(
    rates=st.lists(st.sampled_from([0.2e6, 1e6, 5e6, 12.5e6, 50e6]), min_size=2, max_size=4),
    count=st.integers(1, 200),
)
def test_what_comes_twice_is_less_than_a_block_for_each_lane(rates, count: int) -> None:
    exchange = Exchange([steady(rate) for rate in rates])
    checked(exchange, wants(count))
    assert exchange.stolen <= len(exchange.lanes) * MIB


@pytest.mark.parametrize("count", [10, 91, 256])
def test_two_equal_sources_are_used_to_the_end_and_nothing_comes_twice(count: int) -> None:
    exchange = Exchange([steady(12.5e6), steady(12.5e6)])
    seconds = checked(exchange, wants(count))
    best = count * MIB / 50e6
    assert seconds <= best / 0.95 + 0.1
    assert exchange.stolen == 0


def test_a_source_that_stalls_costs_a_second_not_its_time_limit() -> None:
    """It is noticed as failed after 15 s; until then what it was asked for is taken from it."""
    exchange = Exchange([steady(12.5e6), fast_then(12.5e6, 1.0, 0.0)])
    seconds = checked(exchange, wants(200))
    assert seconds <= 1 + (200 * MIB - 50e6) / 25e6 + 1.5


@pytest.mark.parametrize(
    ("count", "at"), [(30, 0.3), (60, 0.7), (100, 1.2), (100, 1.3), (200, 0.1)]
)
def test_two_of_three_that_stall_do_not_play_a_block_back_and_forth(count: int, at: float) -> None:
    """Catches: each time the third one had to wait twice as long for it, 44 s in the end."""
    stalls = fast_then(12.5e6, at, 0.0)
    exchange = Exchange([stalls, stalls, steady(12.5e6)])
    seconds = checked(exchange, wants(count))
    assert seconds <= max(at + (count * MIB - at * 75e6) / 25e6, count * MIB / 75e6) + 2.5


def test_a_source_that_becomes_slow_is_relieved() -> None:
    exchange = Exchange([steady(12.5e6), fast_then(12.5e6, 1.0, 0.05e6)])
    seconds = checked(exchange, wants(200))
    assert seconds <= 1 + (200 * MIB - 50e6) / 25e6 + 1.5


def test_nobody_is_asked_for_what_it_says_that_it_lacks() -> None:
    some = wants(100)
    left = {want.digest for want in some[:60]}
    exchange = Exchange([steady(12.5e6), steady(12.5e6)], held=[None, left])
    lacking = [want.digest for want in some if want.digest not in left]
    assert exchange.scheduler.told(1, [want.digest for want in some], lacking, 0.0) == []
    seconds = checked(exchange, some)
    assert exchange.nacks == 0
    # The first source gives what only it has before what both have, so neither waits.
    assert seconds <= 100 * MIB / 50e6 / 0.9 + 0.1


def test_what_a_source_lacks_it_does_not_take_from_others_either() -> None:
    """Its map may come when the others have begun with what it lacks."""
    scheduler: Scheduler[str] = Scheduler([("a", 1), ("b", 1)], Random(1), RetryOptions())
    some = wants(2, 100_000)
    every = [want.digest for want in some]
    scheduler.add(some, "h", 0.0)
    assert len(scheduler.next_bundle(0, 0.0).wants) == 2
    scheduler.told(1, every, every, 0.0)
    for now in (1.0, 10.0, 100.0):
        assert not isinstance(scheduler.next_bundle(1, now), Bundle)
    scheduler.told(1, every, every[:1], 100.0)
    assert scheduler.next_bundle(1, 100.0).wants == (some[1],)


def test_what_all_say_that_they_lack_is_asked_for_all_the_same_before_it_is_refused() -> None:
    """A neighbour may have got it since it said so; only a Nack is a refusal."""
    some = wants(4)
    absent = {some[3].digest}
    held = {want.digest for want in some} - absent
    exchange = Exchange([steady(1e6), steady(1e6)], held=[held, held])
    for source in (0, 1):
        exchange.scheduler.told(source, [w.digest for w in some], [some[2].digest, *absent], 0.0)
    checked(exchange, some)
    assert exchange.refused == [some[3].digest]
    assert exchange.nacks == 2


def test_a_new_map_takes_the_place_of_the_old_one() -> None:
    scheduler: Scheduler[str] = Scheduler([("a", 1), ("b", 1)], Random(1), RetryOptions())
    some = wants(4)
    every = [want.digest for want in some]
    scheduler.add(some, "h", 0.0)
    scheduler.told(1, every, every, 0.0)
    assert scheduler.next_bundle(1, 0.0) is None
    scheduler.told(1, every, [], 0.0)
    assert isinstance(scheduler.next_bundle(1, 0.0), Bundle)


def test_ordered_wants_come_in_order_but_for_what_lanes_have_in_hand() -> None:
    some = wants(200)
    exchange = Exchange([steady(12.5e6), steady(5e6)], ordered=True)
    checked(exchange, some)
    places = {want.digest: at for at, want in enumerate(some)}
    ahead = [places[digest] - at for at, digest in enumerate(exchange.accepted)]
    assert max(ahead) <= 40
    free = Exchange([steady(12.5e6), steady(5e6)])
    checked(free, some)
    unordered = [places[digest] - at for at, digest in enumerate(free.accepted)]
    assert max(unordered) > 40


def test_a_demoted_source_takes_nothing_from_others() -> None:
    """It would gather what it may fail with."""
    scheduler: Scheduler[str] = Scheduler([("a", 1), ("b", 1)], Random(1), RetryOptions())
    scheduler.add(wants(1), "h", 0.0)
    failing = scheduler.next_bundle(0, 0.0)
    scheduler.failed(failing, [wants(1)[0].digest], SourceError("down"), 0.0)
    scheduler.finished(failing, 0, 0.0)
    assert isinstance(scheduler.next_bundle(1, 0.0), Bundle)
    assert scheduler.next_bundle(0, 100.0) is None


def under_way(**fields) -> Bundle[str]:
    [want] = wants(1)
    return Bundle(0, Queue("h"), (want,), 0.0, 0.0, left={want.digest: want}, **fields)


def test_a_begun_block_changes_hands_again_only_when_it_is_later_each_time() -> None:
    """Two slow sources of which nothing was known took a block from each other for ever."""
    first_s = []
    for rescues in range(4):
        now = 0.0
        bundle = under_way(rescues=rescues)
        while not isinstance(choose(1, None, [(bundle, None)], now, late=True), Theft):
            now += 0.05
        first_s.append(now)
    assert all(later >= 1.8 * sooner for sooner, later in itertools.pairwise(first_s))


def test_a_block_that_comes_at_its_usual_pace_is_not_taken() -> None:
    """What the other has sent of it would come twice."""
    usual = MIB / 0.2
    for now in (0.0, 0.1, 0.2, 0.3):
        assert not isinstance(choose(1, usual, [(under_way(), usual)], now), Theft)


def test_what_may_lie_in_the_buffers_of_a_connection_is_not_taken() -> None:
    """Small blocks behind the begun one were sent already, and came twice."""
    some = wants(40, 30_000)
    bundle = Bundle(0, Queue("h"), tuple(some), 0.0, 0.0, left={each.digest: each for each in some})
    theft = choose(1, 10e6, [(bundle, 0.5e6)], 0.0)
    assert isinstance(theft, Theft)
    stays = some[: len(some) - len(theft.wants)]
    assert sum(want.length for want in stays[1:]) >= 480_000
    bundle.left = {each.digest: each for each in stays}
    assert not isinstance(choose(1, 10e6, [(bundle, 5e6)], 0.0), Theft)


def test_bundles_are_shared_out_by_rate() -> None:
    """Shares of the same size would leave the last ones of a slow source to be waited for."""
    fast, slow = SourceState("fast", 2, lane_rate=16e6), SourceState("slow", 2, lane_rate=4e6)
    both = [fast, slow]
    sizes = [bundle_bytes(one, both, 40 * MIB, ordered=False) for one in both]
    assert sizes == [8 * MIB, 2 * MIB]


def test_whoever_is_given_up_gets_no_share() -> None:
    """Catches: hundreds of neighbours that were let go made each bundle of the edge one block."""
    edge = SourceState("edge", 2, lane_rate=16e6)
    gone = [SourceState("gone", 1, lane_rate=16e6, given_up=True) for _ in range(400)]
    alone = bundle_bytes(edge, [edge, SourceState("new", 1)], 256 * MIB, ordered=False)
    assert (
        bundle_bytes(edge, [edge, SourceState("new", 1), *gone], 256 * MIB, ordered=False) == alone
    )
