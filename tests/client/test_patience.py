"""Busy sources: waited for as long as they ask, asked again, and given up in the end."""

from itertools import count
from random import Random

import pytest

from icnblocks.client.patience import Patience, Waiter
from icnblocks.client.scheduler import RetryOptions, Scheduler
from icnblocks.client.source import Source, ThrottledError
from icnblocks.errors import SourceError
from icnblocks.naming import Digest, Name
from icnblocks.testing.lying import LyingServer, Reply
from icnblocks.wire.bundle import Want, pack_indexes

NAME = Name("acme", "minilm", "v1")


class Time:
    """A clock that only waiting moves, and what was waited."""

    def __init__(self, chance=0.0):
        self.now, self.waits, self._chance = 0.0, [], chance

    def pause(self, seconds):
        assert len(self.waits) < 100, "it waits for ever"
        self.waits.append(seconds)
        self.now += seconds

    def waiter(self, budget_s):
        return Waiter(
            budget_s, clock=lambda: self.now, pause=self.pause, chance=lambda: self._chance
        )


def busy(after_s):
    def call():
        raise ThrottledError("busy", after_s=after_s)

    return call


@pytest.mark.parametrize("chance", [0.0, 0.5, 1.0])
def test_nobody_comes_back_sooner_than_asked_nor_much_later(chance):
    wait = Patience(60.0).refused(8.0, 100.0, chance)
    assert wait is not None
    assert 8.0 <= wait <= 10.0
    assert chance == 0.0 or wait > 8.0, "those who were refused together come back together"


def test_who_does_not_say_when_is_not_asked_without_a_pause():
    assert Patience(60.0).refused(0.0, 100.0, 0.0) == 0.5


@pytest.mark.parametrize("chance", [0.0, 1.0])
def test_the_waits_are_bounded_by_the_budget_together(chance):
    time = Time(chance)
    with pytest.raises(ThrottledError):
        time.waiter(10.0).ask(busy(3.0))
    assert len(time.waits) == (2 if chance else 3)
    assert sum(time.waits) <= 10.0


def test_chance_does_not_lead_beyond_the_budget():
    assert Patience(10.0).refused(9.0, 0.0, 1.0) == 10.0


def test_a_wait_that_ends_after_the_budget_is_not_begun():
    time = Time()
    with pytest.raises(ThrottledError):
        time.waiter(10.0).ask(busy(3600.0))
    assert time.waits == []


def test_progress_begins_the_budget_anew():
    """Catches: a publish of an hour that is given up for refusals that were minutes apart."""
    time = Time()
    waiter = time.waiter(10.0)
    for _ in range(20):
        waiter.refused(ThrottledError("busy", after_s=4.0))
        waiter.progressed()
    assert time.now == 80.0


def test_time_without_a_question_is_no_refusal():
    patience = Patience(10.0)
    assert patience.refused(4.0, 0.0, 0.0)
    patience.progressed()
    assert patience.refused(4.0, 1000.0, 0.0)


def every_second(answers):
    """Respond with 429 and 503 in between, so that each is met by every kind of question."""
    asked = count()

    def respond(request):
        number = next(asked)
        if number % 3 < 2:
            return Reply(429 if number % 3 else 503, b"", {"Retry-After": "7"})
        return Reply(200, answers.get(request.method, b"{}"))

    return respond


def test_each_control_request_is_asked_again_after_the_time_that_the_source_asks_for():
    wants = [Want(Digest.of(b"1"), 1)]
    time = Time()
    answers = {"GET": b"raw", "POST": pack_indexes([0])}
    with LyingServer({}, respond=every_second(answers)) as server:
        with Source(server.url, waiter=time.waiter(60.0)) as source:
            assert source.record(NAME).raw == b"raw"
            assert source.manifest(Digest.of(b"raw")) == b"raw"
            assert source.missing(wants) == [0]
            source.put_manifest(Digest.of(b"raw"), b"raw")
            source.put_record(NAME, b"raw")
    assert time.waits == [7.0] * 10


def test_uploads_and_sources_without_a_waiter_raise_at_once():
    time = Time()
    with LyingServer({}, respond=lambda _: Reply(429, b"", {"Retry-After": "0"})) as server:
        with Source(server.url, waiter=time.waiter(60.0)) as source:
            with pytest.raises(ThrottledError):
                source.upload([b"body"])
        with Source(server.url) as source, pytest.raises(ThrottledError):
            source.record(NAME)
    assert time.waits == []


def test_who_asked_to_be_left_alone_is_though_another_request_of_it_fails():
    """Catches: a block on another lane, a connection cut, and 2 s instead of the 30 asked for."""
    wants = [Want(Digest(bytes([number]) * 32), 1 << 20) for number in range(100)]
    scheduler = Scheduler([("a", 2)], Random(1), RetryOptions())
    scheduler.add(wants, "hint", 0.0)
    one, two = scheduler.next_bundle(0, 0.0), scheduler.next_bundle(0, 0.0)
    busy = ThrottledError("busy", after_s=30.0)
    scheduler.failed(one, list(one.left), busy, 1.0, after_s=30.0)
    scheduler.arrived(two, two.wants[0].digest, 1.5)
    scheduler.failed(two, list(two.left), SourceError("cut"), 2.0)
    assert scheduler.next_bundle(0, 30.0) == 31.0


def test_who_asks_to_be_left_alone_for_longer_than_anybody_waits_is_given_up_at_once():
    """Catches: one `Retry-After: 3600` in the middle of a pull, and an hour without a word."""
    wants = [Want(Digest(bytes([number]) * 32), 1 << 20) for number in range(100)]
    busy = ThrottledError("busy", after_s=3600.0)
    scheduler = Scheduler([("a", 1)], Random(1), RetryOptions())
    scheduler.add(wants, "hint", 0.0)
    bundle = scheduler.next_bundle(0, 0.0)
    refusals = scheduler.failed(bundle, list(bundle.left), busy, 1.0, after_s=busy.after_s)
    assert len(refusals) == len(wants)
    assert scheduler.sources[0].retry_at == 3601.0, "nor is it asked any sooner"


def test_a_source_that_was_busy_for_long_is_not_given_up_at_its_first_failure():
    """Catches: ten minutes of patience that end with the first connection that is cut."""
    wants = [Want(Digest(bytes([number]) * 32), 1 << 20) for number in range(100)]
    scheduler, now = Scheduler([("a", 1)], Random(1), RetryOptions(retry_s=60.0)), 0.0
    scheduler.add(wants, "hint", now)

    def ends(error, **how):
        bundle = scheduler.next_bundle(0, now)
        refusals = scheduler.failed(bundle, list(bundle.left), error, now, **how)
        scheduler.finished(bundle, 0, 0.1)
        return refusals

    while now < 70.0:
        assert not ends(ThrottledError("busy", after_s=5.0), after_s=5.0)
        now = scheduler.next_bundle(0, now)
    while now < 125.0:
        assert not ends(SourceError("cut"))
        now = scheduler.next_bundle(0, now)
    now = 140.0
    assert len(ends(SourceError("cut"))) == len(wants), "a minute of failures alone ends it"
