"""Guards of the product, each taken out: seeds must fail then, or the checks see nothing.

Each is a function that returns what to put in the place of what. It must not be applied to
anything but a process that runs the simulation.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from icnblocks.cache.content_store import ContentStore
from icnblocks.client import engine
from icnblocks.client.gathering import Gathering
from icnblocks.client.scheduler import Scheduler
from icnblocks.client.states import SourceState
from icnblocks.store.base import Verified
from icnblocks_daemon.answer import Answer
from icnblocks_daemon.couriers import Courier
from icnblocks_daemon.forwarder import Forwarder
from icnblocks_daemon.pit import Pit, Step
from icnblocks_daemon.refusals import Refusals

if TYPE_CHECKING:
    from collections.abc import Callable

Change = tuple[Any, str, Any]
MUTATIONS: dict[str, Callable[[], Change]] = {}


def mutation(make: Callable[[], Change]) -> Callable[[], Change]:
    """Decorator: make it known under its name."""
    MUTATIONS[make.__name__] = make
    return make


@mutation
def blocks_are_not_verified() -> Change:
    return engine, "verify", Verified


@mutation
def the_last_one_leaving_cancels_nothing() -> Change:
    before = Pit.leave

    def leave(self, waiter, digest):
        before(self, waiter, digest)
        return Step()

    return Pit, "leave", leave


@mutation
def one_waiter_is_forgotten() -> Change:
    before = Pit.arrived

    def arrived(self, fetch):
        step = before(self, fetch)
        del step.ready[1:2]
        return step

    return Pit, "arrived", arrived


@mutation
def a_waiter_is_told_twice() -> Change:
    before = Pit.arrived

    def arrived(self, fetch):
        step = before(self, fetch)
        return Step(cancel=step.cancel, ready=step.ready * 2, refused=step.refused)

    return Pit, "arrived", arrived


@mutation
def who_gave_another_length_is_not_told() -> Change:
    before = Pit.arrived

    def arrived(self, fetch):
        step = before(self, fetch)
        step.refused.clear()
        return step

    return Pit, "arrived", arrived


@mutation
def refused_blocks_are_dealt() -> Change:
    return Gathering, "_verdict", Scheduler._verdict


@mutation
def interests_are_not_shared() -> Change:
    return Pit, "_key", lambda _self, waiter, digest: (digest, waiter)


@mutation
def what_is_in_flight_is_asked_for_again() -> Change:
    before = Scheduler._begin

    def begin(self, source, queue, wants, now):
        bundle = before(self, source, queue, wants, now)
        del self._flying[wants[-1].digest]
        self._wait(wants[-1], queue)
        return bundle

    return Scheduler, "_begin", begin


@mutation
def what_a_failed_bundle_left_is_forgotten() -> Change:
    return Scheduler, "_lost", lambda *_args, **_more: None


@mutation
def cancelled_wants_stay_open() -> Change:
    return Scheduler, "cancel", lambda _self, _digests: []


@mutation
def failed_sources_are_never_asked_again() -> Change:
    before = SourceState.setback

    def setback(self, *args, **more):
        before(self, *args, **more)
        self.retry_at = 1e12

    return SourceState, "setback", setback


@mutation
def refusals_are_remembered_for_ever() -> Change:
    before = Refusals.note

    def note(self, key, answer, _now):
        before(self, key, answer, 1e12)

    return Refusals, "note", note


@mutation
def what_is_cut_is_not_counted() -> Change:
    before = engine.Engine._ended

    def ended(self, lane, bundle, stream, error, began):
        if stream is not None:
            stream.decoder.partial_bytes = 0
        before(self, lane, bundle, stream, error, began)

    return engine.Engine, "_ended", ended


@mutation
def room_is_made_for_nothing() -> Change:
    return ContentStore, "_make_room", lambda _self, _footprint, _now: True


@mutation
def room_is_not_given_back() -> Change:
    return ContentStore, "release", lambda _self, _reservation: None


@mutation
def leases_are_not_given_back() -> Change:
    before = Answer.close

    def close(self):
        self._ready.clear()
        before(self)

    return Answer, "close", close


@mutation
def a_bundle_has_no_window() -> Change:
    return Answer, "__len__", lambda _self: 0


@mutation
def circles_are_not_noticed() -> Change:
    before = Forwarder.want

    def want(self, waiter, want, hint, **more):
        before(self, waiter, want, replace(hint, via=frozenset(), hops=0), **more)

    return Forwarder, "want", want


@mutation
def what_comes_too_late_to_be_given_up_is_not_told() -> Change:
    before = Courier.abandon

    def abandon(self, fetch):
        done = before(self, fetch)
        if not done:
            self._wanted.pop(fetch.digest, None)
        return True

    return Courier, "abandon", abandon


@mutation
def refusals_of_upstreams_are_not_passed_on() -> Change:
    return Courier, "refuse", lambda _self, _want, _error: None
