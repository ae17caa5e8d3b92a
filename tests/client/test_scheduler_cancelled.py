"""A want that was cancelled in flight and is wanted anew: the answer is to the one before."""

from __future__ import annotations

from random import Random

import pytest

from icnblocks.client.gathering import Gathering
from icnblocks.client.scheduler import Bundle, RetryOptions, Scheduler
from icnblocks.errors import RefusedError, SourceError
from icnblocks.naming import Digest
from icnblocks.wire.bundle import Want
from icnblocks.wire.frames import Reason

D, OTHER = Digest(b"d" * 32), Digest(b"o" * 32)
RIGHT = Want(D, 4096)
BEFORE = [pytest.param("a", 999, id="another length"), pytest.param("b", 4096, id="another name")]
DOWN, NO = SourceError("down"), RefusedError("no")


def drawn(scheduler: Scheduler[str], source: int, now: float) -> Bundle[str]:
    bundle = scheduler.next_bundle(source, now)
    assert isinstance(bundle, Bundle), bundle
    return bundle


def cancelled_and_wanted_anew(
    hint: str, length: int, lanes: int = 1, **options: bool
) -> tuple[Scheduler[str], Bundle[str]]:
    """A bundle in flight in which somebody asked for D, and left; RIGHT is wanted now."""
    scheduler: Scheduler[str] = Scheduler([("up", lanes)], Random(1), RetryOptions(**options))
    scheduler.add([Want(D, length), Want(OTHER, 4096)], hint, 0.0)
    bundle = drawn(scheduler, 0, 0.0)
    assert scheduler.cancel([D]) == [D]
    assert scheduler.add([RIGHT], "a", 0.1) == []
    return scheduler, bundle


def is_asked_anew(scheduler: Scheduler[str], bundle: Bundle[str], now: float) -> None:
    """The lane goes on; RIGHT is asked for under its own hint, and charged for its own answer."""
    assert scheduler._lines.waiting_bytes >= RIGHT.length
    scheduler.give_back(bundle, [OTHER], now)
    scheduler.finished(bundle, 0, 0)
    again = drawn(scheduler, 0, now)
    if again.hint != "a":  # of the other want
        scheduler.arrived(again, OTHER, now)
        scheduler.finished(again, 4096, 0.1)
        again = drawn(scheduler, 0, now)
    assert (again.hint, again.left[D]) == ("a", RIGHT)
    assert not scheduler._owed
    [refusal] = scheduler.nacked(again, D, Reason.NOT_FOUND, "", now)
    assert refusal.want == RIGHT


@pytest.mark.parametrize(("hint", "length"), BEFORE)
@pytest.mark.parametrize("reason", [Reason.LENGTH, Reason.NOT_FOUND, Reason.UPSTREAM])
def test_its_refusal_is_not_charged_to_another(hint: str, length: int, reason: Reason) -> None:
    """Whoever asked for a wrong length, and left, had the next one's right want refused."""
    scheduler, bundle = cancelled_and_wanted_anew(hint, length, passes_on=True)
    assert scheduler.next_bundle(0, 0.1) is None, "while data may come it is not asked for twice"
    assert scheduler.nacked(bundle, D, reason, "", 0.2) == []
    is_asked_anew(scheduler, bundle, 0.3)


@pytest.mark.parametrize(("hint", "length"), BEFORE)
@pytest.mark.parametrize("how", ["busy", "corrupt", "cut", "given back"])
def test_what_else_may_become_of_it_is_not_charged(hint: str, length: int, how: str) -> None:
    scheduler, bundle = cancelled_and_wanted_anew(hint, length)
    if how == "busy":
        assert scheduler.nacked(bundle, D, Reason.BUSY, "", 0.2) == []
        assert not scheduler._setbacks
    elif how == "corrupt":
        assert scheduler.corrupt(bundle, D, 0.2) == []
    elif how == "cut":
        assert scheduler.failed(bundle, [D], DOWN, 0.2) == []
    else:
        assert scheduler.give_back(bundle, [D], 0.2) == []
    is_asked_anew(scheduler, bundle, 100.0)


def test_data_ends_it() -> None:
    scheduler, bundle = cancelled_and_wanted_anew("b", 4096)
    assert scheduler.arrived(bundle, D, 0.2) is True
    assert not scheduler._owed
    assert scheduler._lines.waiting_bytes == 0
    assert len(scheduler) == 1


def test_cancelled_twice_it_is_forgotten() -> None:
    scheduler, bundle = cancelled_and_wanted_anew("b", 4096, passes_on=True)
    assert scheduler.cancel([D]) == [D]
    assert not scheduler._owed
    assert scheduler.nacked(bundle, D, Reason.NOT_FOUND, "", 0.2) == []
    assert scheduler._lines.waiting_bytes == 0


@pytest.mark.parametrize("how", ["refused", "corrupt", "given back"])
def test_it_ends_where_its_source_was_given_up(how: str) -> None:
    """It waits in a queue of its own: who judges the bundle's only would leave it there."""
    scheduler, bundle = cancelled_and_wanted_anew("b", 4096, lanes=2)
    scheduler.add([Want(Digest(b"x" * 32), 4096)], "b", 0.1)
    [lost] = scheduler.failed(drawn(scheduler, 0, 0.1), [Digest(b"x" * 32)], NO, 0.2)
    assert lost.want.digest == Digest(b"x" * 32)
    if how == "refused":
        assert scheduler.nacked(bundle, D, Reason.NOT_FOUND, "", 0.3) == []  # it is well again
        return
    if how == "corrupt":
        refusals = scheduler.corrupt(bundle, D, 0.3)
    else:
        refusals = scheduler.give_back(bundle, [D], 0.3)
    assert [each.want for each in refusals] == [RIGHT]
    assert not scheduler._owed


def test_who_took_it_over_is_not_charged_either() -> None:
    """An idle source takes it from the bundle, and asks under that bundle's hint."""
    scheduler: Scheduler[str] = Scheduler([("slow", 1), ("fast", 1)], Random(1), RetryOptions())
    scheduler.add([Want(OTHER, 4096), Want(D, 4096)], "b", 0.0)
    slow = drawn(scheduler, 0, 0.0)
    assert len(slow.wants) == 2
    scheduler.sources[0].lane_rate, scheduler.sources[1].lane_rate = 1e3, 1e9
    scheduler.cancel([D])
    scheduler.add([RIGHT], "a", 0.1)
    fast = drawn(scheduler, 1, 5.0)
    assert D in slow.taken
    assert fast.hint == "b"
    assert scheduler.nacked(fast, D, Reason.NOT_FOUND, "", 5.1) == []
    assert not scheduler._setbacks


def test_a_device_with_neighbours_keeps_no_trace_of_it() -> None:
    scheduler = Gathering([("up", 1)], Random(1), RetryOptions(), blocks=[D], hint="a")
    near = scheduler.join("near")
    scheduler.heard(near, b"\1")
    scheduler.add([RIGHT], "a", 0.0)
    bundle = drawn(scheduler, near, 0.0)
    scheduler.cancel([D])
    scheduler.add([RIGHT], "a", 0.1)
    scheduler.nacked(bundle, D, Reason.NOT_FOUND, "", 0.2)
    assert not scheduler._owed
    [refusal] = scheduler.nacked(drawn(scheduler, 0, 0.3), D, Reason.NOT_FOUND, "", 0.3)
    assert refusal.want == RIGHT
