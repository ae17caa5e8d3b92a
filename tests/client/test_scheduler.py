"""The scheduler by table, and by a state machine that tries every interleaving of failures."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from icnblocks.client.scheduler import Bundle, Health, RetryOptions, Scheduler
from icnblocks.errors import (
    ForeignError,
    FormatError,
    IcnError,
    IncompleteError,
    NotFoundError,
    RefusedError,
    SourceError,
)
from icnblocks.limits import BLOCK_BYTES, BUNDLE_WANTS, KIB, MAX_WANTS, MIB
from icnblocks.naming import Digest
from icnblocks.wire.bundle import Want
from icnblocks.wire.frames import Reason


def wants(count: int, length: int = BLOCK_BYTES, first: int = 0) -> list[Want]:
    return [Want(Digest((first + i).to_bytes(32, "big")), length) for i in range(count)]


def digests(some: list[Want] | tuple[Want, ...]) -> list[Digest]:
    return [want.digest for want in some]


def make(*lanes: int, **options: float) -> Scheduler[str]:
    named = [(f"source{i}", count) for i, count in enumerate(lanes)]
    return Scheduler(named, Random(1), RetryOptions(**options))


def drawn(scheduler: Scheduler[str], source: int, now: float = 0.0) -> Bundle[str]:
    bundle = scheduler.next_bundle(source, now)
    assert isinstance(bundle, Bundle), bundle
    return bundle


DOWN = SourceError("down")


def test_idle_sources_have_nothing_to_do() -> None:
    assert make(1).next_bundle(0, 0.0) is None


def test_a_want_is_in_flight_once_and_in_order() -> None:
    scheduler = make(2, 2)
    all_wants = wants(100)
    assert scheduler.add(all_wants, "h", 0.0) == []
    seen = []
    for source in (0, 1, 0, 1):
        seen += drawn(scheduler, source).wants
    assert seen == all_wants[: len(seen)]


def test_bundles_shrink_towards_the_end_so_that_all_lanes_finish_together() -> None:
    scheduler = make(2)
    scheduler.add(wants(32), "h", 0.0)
    sizes = []
    while (bundle := scheduler.next_bundle(0, 0.0)) is not None:
        assert isinstance(bundle, Bundle)
        sizes.append(len(bundle.wants))
        for want in bundle.wants:
            scheduler.arrived(bundle, want.digest, 0.0)
        scheduler.finished(bundle, 0, 0)
    assert sizes[0] == 8
    assert sizes == sorted(sizes, reverse=True)
    # One source: with ever smaller ones an edge would hear late of what it is to fetch.
    assert set(sizes[-5:-1]) == {4}
    assert sum(sizes) == 32


def test_several_sources_share_the_last_blocks_one_by_one() -> None:
    scheduler = make(2, 2)
    scheduler.add(wants(3), "h", 0.0)
    assert len(drawn(scheduler, 0).wants) == 1


def test_bundles_of_tiny_blocks_are_larger_and_bounded() -> None:
    scheduler = make(1)
    scheduler.add(wants(10_000, KIB), "h", 0.0)
    scheduler.sources[0].lane_rate = 1e9
    assert len(drawn(scheduler, 0).wants) == MAX_WANTS


def test_bundles_of_large_blocks_are_bounded() -> None:
    scheduler = make(1)
    scheduler.add(wants(1000), "h", 0.0)
    scheduler.sources[0].lane_rate = 1e12
    assert len(drawn(scheduler, 0).wants) == BUNDLE_WANTS


def test_a_slow_source_gets_small_bundles() -> None:
    """Otherwise a pull waits for the slowest source's last bundle."""
    scheduler = make(1, 1)
    scheduler.add(wants(1000), "h", 0.0)
    scheduler.finished(drawn(scheduler, 0), MIB, 1.0)
    assert len(drawn(scheduler, 0).wants) == 4
    scheduler.finished(drawn(scheduler, 1), 100 * MIB, 1.0)
    assert len(drawn(scheduler, 1).wants) == BUNDLE_WANTS


def test_a_bundle_has_one_hint_and_hints_take_turns() -> None:
    scheduler = make(4)
    scheduler.add(wants(50), "a", 0.0)
    scheduler.add(wants(50, first=100), "b", 0.0)
    assert [drawn(scheduler, 0).hint for _ in range(4)] == ["a", "b", "a", "b"]


def test_a_failure_gives_back_and_another_source_takes_over() -> None:
    scheduler = make(1, 1)
    scheduler.add(wants(1), "h", 0.0)
    bundle = drawn(scheduler, 0)
    later = scheduler.next_bundle(1, 0.0)
    assert isinstance(later, float), "it looks whether the other is late"
    assert scheduler.failed(bundle, digests(bundle.wants), DOWN, 1.0) == []
    scheduler.finished(bundle, 0, 1.0)
    assert drawn(scheduler, 1, 1.0).wants == bundle.wants


def test_demotion_doubles_and_is_forgotten_with_the_next_block() -> None:
    scheduler = make(1, first_s=1.0, longest_s=8.0)
    scheduler.add(wants(100), "h", 0.0)
    now, waits = 0.0, []
    for _ in range(5):
        bundle = drawn(scheduler, 0, now)
        scheduler.failed(bundle, digests(bundle.wants), DOWN, now)
        scheduler.finished(bundle, 0, 0)
        until = scheduler.next_bundle(0, now)
        assert isinstance(until, float)
        waits.append(until - now)
        now = until
    for wait, full in zip(waits, [1, 2, 4, 8, 8], strict=True):
        assert full / 2 <= wait <= full
    bundle = drawn(scheduler, 0, now)
    scheduler.arrived(bundle, bundle.wants[0].digest, now)
    scheduler.failed(bundle, digests(bundle.wants[1:]), DOWN, now)
    scheduler.finished(bundle, 0, 0)
    until = scheduler.next_bundle(0, now)
    assert isinstance(until, float)
    assert until - now <= 1.0


def test_one_lane_probes_a_source_that_failed_with_little_at_stake() -> None:
    scheduler = make(2)
    scheduler.add(wants(100), "h", 0.0)
    bundle = drawn(scheduler, 0)
    scheduler.failed(bundle, digests(bundle.wants), DOWN, 0.0)
    scheduler.finished(bundle, 0, 0)
    assert len(drawn(scheduler, 0, 10.0).wants) == 1
    assert scheduler.next_bundle(0, 10.0) == pytest.approx(10.5)


def test_two_lanes_that_fail_together_count_as_one_failure() -> None:
    scheduler = make(2, first_s=1.0)
    scheduler.add(wants(100), "h", 0.0)
    bundles = [drawn(scheduler, 0), drawn(scheduler, 0)]
    for bundle in bundles:
        scheduler.failed(bundle, digests(bundle.wants), DOWN, 0.0)
        scheduler.finished(bundle, 0, 0)
    assert scheduler.sources[0].failures == 1


def fail_until_refused(scheduler: Scheduler[str], source: int, now: float = 0.0, **how: float):
    for _ in range(1000):
        step = scheduler.next_bundle(source, now)
        if isinstance(step, float):
            now = step
        elif step is None:
            break
        else:
            refusals = scheduler.failed(step, digests(step.wants), DOWN, now, **how)
            scheduler.finished(step, 0, 0)
            if refusals:
                return now, refusals
    pytest.fail("never refused")


def test_after_the_retry_budget_everything_is_refused() -> None:
    scheduler = make(1, retry_s=60.0)
    scheduler.add(wants(10), "h", 0.0)
    now, refusals = fail_until_refused(scheduler, 0)
    assert 60 <= now < 60 + 16
    assert {refusal.want for refusal in refusals} == set(wants(10))
    assert all(isinstance(refusal.error, IncompleteError) for refusal in refusals)
    assert "down" in str(refusals[0].error)
    assert len(scheduler) == 0


def test_the_retry_budget_begins_anew_with_every_block() -> None:
    """A budget that never resets loses 200 GB over a satellite link."""
    scheduler = make(1, retry_s=60.0)
    scheduler.add(wants(1000), "h", 0.0)
    now = 0.0
    for _ in range(200):
        bundle = drawn(scheduler, 0, now)
        assert scheduler.arrived(bundle, bundle.wants[0].digest, now)
        assert scheduler.failed(bundle, digests(bundle.wants[1:]), DOWN, now) == []
        scheduler.finished(bundle, 0, 0)
        now += 50
    assert len(scheduler) == 800


def test_a_given_up_source_refuses_new_wants_at_once_and_is_probed_later() -> None:
    """An edge must answer quickly while its upstream is gone, and notice when it is back."""
    scheduler = make(1, retry_s=60.0)
    scheduler.add(wants(1), "h", 0.0)
    now, _ = fail_until_refused(scheduler, 0)
    assert len(scheduler.add(wants(1, first=5), "h", now)) == 1
    later = scheduler.sources[0].retry_at
    assert scheduler.add(wants(1, first=5), "h", later) == []
    bundle = drawn(scheduler, 0, later)
    scheduler.arrived(bundle, bundle.wants[0].digest, later)
    assert scheduler.sources[0].health(later) is Health.GOOD


def test_a_refused_certificate_or_token_is_not_retried() -> None:
    scheduler = make(1)
    scheduler.add(wants(3), "h", 0.0)
    bundle = drawn(scheduler, 0)
    error = RefusedError("no token", hint="get one")
    refusals = scheduler.failed(bundle, digests(bundle.wants), error, 0.0)
    assert len(refusals) == 3
    assert refusals[0].error.hint == "get one"


@pytest.mark.parametrize("odd", [FormatError("odd"), ForeignError("odd")])
def test_another_protocol_is_not_retried_unless_the_source_was_good_before(odd: IcnError) -> None:
    scheduler = make(1)
    scheduler.add(wants(3), "h", 0.0)
    bundle = drawn(scheduler, 0)
    scheduler.arrived(bundle, bundle.wants[0].digest, 0.0)
    assert scheduler.failed(bundle, digests(bundle.wants[1:]), odd, 0.0) == []
    other = make(1)
    other.add(wants(3), "h", 0.0)
    bundle = drawn(other, 0)
    assert other.failed(bundle, digests(bundle.wants), odd, 0.0)


def test_what_a_busy_source_asks_for_is_honoured() -> None:
    scheduler = make(1, retry_s=10.0, busy_s=1000.0)
    scheduler.add(wants(1), "h", 0.0)
    bundle = drawn(scheduler, 0)
    assert scheduler.failed(bundle, digests(bundle.wants), DOWN, 0.0, after_s=120.0) == []
    assert scheduler.next_bundle(0, 1.0) == 120.0
    scheduler.finished(bundle, 0, 0)
    bundle = drawn(scheduler, 0, 120.0)
    assert scheduler.failed(bundle, digests(bundle.wants), DOWN, 120.0, after_s=0.0) == []


def test_a_corrupt_block_goes_to_another_source_and_the_first_is_demoted() -> None:
    scheduler = make(1, 1)
    scheduler.add(wants(1), "h", 0.0)
    bundle = drawn(scheduler, 0)
    [want] = bundle.wants
    assert scheduler.corrupt(bundle, want.digest, 0.0) == []
    scheduler.finished(bundle, 0, 0)
    assert scheduler.sources[0].health(0.0) is Health.DEMOTED
    assert scheduler.next_bundle(0, 100.0) is None
    bundle = drawn(scheduler, 1)
    assert bundle.wants == (want,)
    assert not bundle.queue.doubt


def test_not_found_asks_the_others_then_refuses() -> None:
    scheduler = make(1, 1)
    scheduler.add(wants(1), "h", 0.0)
    bundle = drawn(scheduler, 1)
    [want] = bundle.wants
    assert scheduler.nacked(bundle, want.digest, Reason.NOT_FOUND, "", 0.0) == []
    assert scheduler.next_bundle(1, 0.0) is None
    bundle = drawn(scheduler, 0)
    [refusal] = scheduler.nacked(bundle, want.digest, Reason.NOT_FOUND, "gone", 0.0)
    assert isinstance(refusal.error, NotFoundError)


def test_not_found_at_one_waits_for_the_other_that_is_down() -> None:
    scheduler = make(1, 1, retry_s=60.0)
    scheduler.add(wants(1), "h", 0.0)
    bundle = drawn(scheduler, 0)
    scheduler.nacked(bundle, bundle.wants[0].digest, Reason.NOT_FOUND, "", 0.0)
    scheduler.finished(bundle, 0, 0)
    now, [refusal] = fail_until_refused(scheduler, 1)
    assert now >= 60
    assert type(refusal.error) is IncompleteError


def test_lanes_draw_from_different_parts() -> None:
    """Two lanes that write into one file wait for each other."""
    scheduler = make(2)
    parts = [wants(12), wants(40, first=100), wants(2, first=200)]
    for number, part in enumerate(parts):
        scheduler.add(part, "h", 0.0, number)
    one, two = drawn(scheduler, 0), drawn(scheduler, 0)
    assert list(one.wants) == parts[0][: len(one.wants)]
    assert list(two.wants) == parts[1][: len(two.wants)]
    scheduler.finished(two, 0, 0)
    assert drawn(scheduler, 0).wants[0] == parts[1][len(two.wants)], "it goes on where it was"


def test_parts_of_an_ordered_pull_keep_the_order() -> None:
    scheduler = Scheduler([("source", 2)], Random(1), RetryOptions(), ordered=True)
    for number in range(2):
        scheduler.add(wants(40, first=100 * number), "h", 0.0, number)
    first = [*drawn(scheduler, 0).wants, *drawn(scheduler, 0).wants]
    assert first == wants(40)[: len(first)]


def test_a_passing_refusal_is_tried_again_but_not_for_ever() -> None:
    """A want that only ever hears BUSY must end even while other wants arrive."""
    scheduler = make(1, retry_s=60.0)
    now, refusals = 0.0, []
    scheduler.add(wants(1, first=1), "h", 0.0)
    while not refusals and now < 200:
        step = scheduler.next_bundle(0, now)
        if isinstance(step, float):
            now = step
            step = drawn(scheduler, 0, now)
        assert isinstance(step, Bundle)
        refusals = scheduler.nacked(step, step.wants[0].digest, Reason.BUSY, "", now)
        scheduler.finished(step, 0, 0)
        scheduler.arrived(step, wants(1)[0].digest, now)  # progress elsewhere
    assert 60 <= now < 80


def test_cancelled_wants_end_and_what_is_on_its_way_is_not_asked_for_twice() -> None:
    scheduler = make(2)
    scheduler.add(wants(1), "h", 0.0)
    bundle = drawn(scheduler, 0)
    [want] = bundle.wants
    assert scheduler.cancel([want.digest]) == [want.digest]
    assert scheduler.cancel([want.digest]) == []
    scheduler.add([want], "other", 0.0)  # somebody wants it again while it is on its way
    assert scheduler.next_bundle(0, 0.0) is None
    assert scheduler._lines.waiting_bytes == 0, "what is on its way does not wait"
    assert scheduler.arrived(bundle, want.digest, 0.0) is True
    assert scheduler.arrived(bundle, want.digest, 0.0) is False


def test_an_edge_hands_a_refusal_on_and_asks_the_same_source_for_the_rest() -> None:
    """Guards other models from one whose origin is gone: its refusals demoted the source of all."""
    scheduler = make(1, passes_on=True)
    scheduler.add(wants(1), "gone", 0.0)
    bundle = drawn(scheduler, 0)
    refused = scheduler.nacked(bundle, bundle.wants[0].digest, Reason.UPSTREAM, "", 0.0)
    assert [each.want for each in refused] == wants(1)
    scheduler.finished(bundle, 0, 0.1)
    scheduler.add(wants(1, first=1), "here", 0.0)
    assert drawn(scheduler, 0).wants == tuple(wants(1, first=1))
    assert scheduler.sources[0].health(0.0) is Health.GOOD


def test_an_edge_waits_for_a_source_that_is_busy() -> None:
    scheduler = make(1, passes_on=True)
    scheduler.add(wants(1), "h", 0.0)
    bundle = drawn(scheduler, 0)
    assert not scheduler.nacked(bundle, bundle.wants[0].digest, Reason.BUSY, "", 0.0)
    assert len(scheduler) == 1


class Interleavings(RuleBasedStateMachine):
    """Every want ends exactly once; one source at most is expected to give it; none is lost.

    What was taken from a bundle may come from it all the same: `pending` is what a server may
    still send, whatever the scheduler expects of it.
    """

    @initialize(lanes=st.lists(st.integers(1, 2), min_size=1, max_size=3))
    def begin(self, lanes: list[int]) -> None:
        self.now = 0.0
        self.scheduler = make(*lanes, retry_s=20.0)
        for state in self.scheduler.sources[:2]:
            state.lane_rate = 5e6
        self.flights: list[tuple[Bundle[str], list[Digest]]] = []
        self.lanes = lanes
        self.open: set[Digest] = set()
        self.made = 0
        self.add(30, "a", again=False)

    def end(self, ended: list[Digest]) -> None:
        for digest in ended:
            assert digest in self.open
            self.open.remove(digest)

    def refused(self, refusals) -> None:
        self.end([refusal.want.digest for refusal in refusals])

    @rule(count=st.sampled_from([1, 2, 5, 30]), hint=st.sampled_from("ab"), again=st.booleans())
    def add(self, count: int, hint: str, again: bool) -> None:
        first = max(0, self.made - 5) if again else self.made
        new = wants(count, first=first)
        self.made = max(self.made, first + count)
        self.open.update(digests(new))
        self.refused(self.scheduler.add(new, hint, self.now))

    @rule(source=st.integers(0, 2), often=st.booleans())
    def draw(self, source: int, often: bool) -> None:
        for _ in range(4 if often else 1):
            self.draw_once(source % len(self.lanes))

    def draw_once(self, source: int) -> None:
        if sum(1 for bundle, _ in self.flights if bundle.source == source) >= self.lanes[source]:
            return
        step = self.scheduler.next_bundle(source, self.now)
        if isinstance(step, Bundle):
            new = digests(step.wants)
            assert step.source == source
            assert len(set(new)) == len(new)
            assert set(new) <= self.open
            self.flights.append((step, new))

    @rule(source=st.integers(0, 2))
    def run_dry(self, source: int) -> None:
        """A fast source answers all that it is asked for, until there is nothing more."""
        for _ in range(40):
            before = len(self.flights)
            self.draw_once(source % len(self.lanes))
            if len(self.flights) == before:
                return
            bundle, pending = self.flights.pop()
            self.now += 0.2
            for digest in pending:
                if self.scheduler.arrived(bundle, digest, self.now):
                    self.end([digest])
            self.refused(self.scheduler.give_back(bundle, [], self.now))
            self.scheduler.finished(bundle, bundle.got, 0.2)

    @precondition(lambda self: self.flights)
    @rule(data=st.data(), what=st.sampled_from(["data", "data", "corrupt", *Reason]))
    def answer(self, data, what) -> None:
        bundle, pending = data.draw(st.sampled_from(self.flights))
        if not pending:
            return
        digest = pending.pop(data.draw(st.sampled_from([0, -1])))
        if what == "data":
            if self.scheduler.arrived(bundle, digest, self.now):
                self.end([digest])
            else:
                assert digest not in self.open
        elif what == "corrupt":
            self.refused(self.scheduler.corrupt(bundle, digest, self.now))
        else:
            self.refused(self.scheduler.nacked(bundle, digest, what, "", self.now))

    @precondition(lambda self: self.flights)
    @rule(data=st.data(), how=st.sampled_from(["well", "cut", "busy", "denied", "calm"]))
    def finish(self, data, how: str) -> None:
        number = data.draw(st.integers(0, len(self.flights) - 1))
        bundle, pending = self.flights[number]
        if how == "well" and pending and bundle.left:
            return
        del self.flights[number]
        if how in {"well", "calm"}:
            self.refused(self.scheduler.give_back(bundle, pending, self.now))
        else:
            error = RefusedError("no") if how == "denied" else DOWN
            after_s = 3.0 if how == "busy" else None
            self.refused(self.scheduler.failed(bundle, pending, error, self.now, after_s=after_s))
        self.scheduler.finished(bundle, bundle.got, self.now - bundle.began)

    @rule(source=st.integers(0, 2), data=st.data())
    def tell(self, source: int, data) -> None:
        """A have-map comes, right or wrong, early or late."""
        known = digests(wants(self.made))
        lacking = data.draw(st.sets(st.sampled_from(known), max_size=4)) if known else set()
        self.refused(self.scheduler.told(source % len(self.lanes), known, lacking, self.now))

    @rule(seconds=st.floats(0.01, 30.0))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(data=st.data())
    def cancel(self, data) -> None:
        some = data.draw(st.lists(st.integers(0, max(self.made - 1, 0)), max_size=10))
        self.end(self.scheduler.cancel([Digest(i.to_bytes(32, "big")) for i in set(some)]))

    @invariant()
    def counts(self) -> None:
        if hasattr(self, "scheduler"):
            assert len(self.scheduler) == len(self.open)
            expected = [digest for bundle, _ in self.flights for digest in bundle.left]
            assert len(set(expected)) == len(expected), "expected of two at once"
            assert set(expected) <= self.open
            for bundle, pending in self.flights:
                assert set(bundle.left) <= set(pending), "it has answered that"
                assert not bundle.taken & set(bundle.left)
            waiting = self.open - set(expected)
            assert self.scheduler._lines.waiting_bytes == len(waiting) * BLOCK_BYTES
            queued = {
                want.digest
                for queue in self.scheduler._lines
                for want in self.scheduler._lines[queue]
                if self.scheduler._is_waiting(want)
            }
            assert queued == waiting

    def teardown(self) -> None:
        """From wherever failures have led: with every source well again, all wants end."""
        if not hasattr(self, "scheduler"):
            return
        while self.flights:
            bundle, pending = self.flights.pop()
            self.refused(self.scheduler.give_back(bundle, pending, self.now))
            self.scheduler.finished(bundle, 0, 0)
        for _ in range(10_000):
            if not self.open:
                break
            steps = []
            for source in range(len(self.lanes)):
                step = self.scheduler.next_bundle(source, self.now)
                if isinstance(step, Bundle):
                    for digest in digests(step.wants):
                        assert self.scheduler.arrived(step, digest, self.now)
                        self.end([digest])
                    self.scheduler.finished(step, 1, 1.0)
                    break
                steps.append(step)
            else:
                times = [step for step in steps if step is not None]
                assert times, "wants are open and no source will ever ask for them"
                self.now = max(self.now, min(times))
        assert not self.open


TestInterleavings = Interleavings.TestCase
TestInterleavings.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
