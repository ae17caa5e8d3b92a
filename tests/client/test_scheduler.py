"""The scheduler by table."""

from __future__ import annotations

from random import Random

import pytest

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
    scheduler.sources[0].lane_rate = 1e9
    scheduler.add(wants(128), "h", 0.0)
    sizes = []
    while (bundle := scheduler.next_bundle(0, 0.0)) is not None:
        assert isinstance(bundle, Bundle)
        sizes.append(len(bundle.wants))
        for want in bundle.wants:
            scheduler.arrived(bundle, want.digest, 0.0)
        scheduler.finished(bundle, 0, 0)
    assert sizes[0] == 32
    assert sizes == sorted(sizes, reverse=True)
    # One source: with ever smaller ones an edge would hear late of what it is to fetch.
    assert set(sizes[-4:-1]) == {16}
    assert sum(sizes) == 128


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


@pytest.mark.parametrize("reason", [Reason.BUSY, Reason.NO_SPACE])
def test_a_passing_refusal_is_tried_again_but_not_for_ever(reason: Reason) -> None:
    """A want that only ever hears BUSY must end even while other wants arrive.

    Catches: a pull that fails because all blocks of an edge's cache were being sent for a moment.
    """
    scheduler = make(1, retry_s=60.0)
    now, refusals = 0.0, []
    scheduler.add(wants(1, first=1), "h", 0.0)
    while not refusals and now < 200:
        step = scheduler.next_bundle(0, now)
        if isinstance(step, float):
            now = step
            step = drawn(scheduler, 0, now)
        assert isinstance(step, Bundle)
        refusals = scheduler.nacked(step, step.wants[0].digest, reason, "", now)
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
