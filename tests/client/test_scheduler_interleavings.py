"""The scheduler as a state machine that tries every interleaving of failures."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from icnblocks.client.scheduler import Bundle
from icnblocks.errors import RefusedError
from icnblocks.limits import BLOCK_BYTES
from icnblocks.naming import Digest
from icnblocks.wire.frames import Reason
from tests.client.test_scheduler import DOWN, digests, make, wants


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
