"""docs/states/fetch.toml, row by row, against the scheduler of the fetch engine."""

from random import Random

from icnblocks.client.scheduler import Bundle, RetryOptions, Scheduler
from icnblocks.errors import RefusedError, SourceError
from icnblocks.limits import BLOCK_BYTES
from icnblocks.naming import Digest
from icnblocks.wire.bundle import Want
from icnblocks.wire.frames import Reason
from tests.house.states.driving import drive, rows_of

OURS = Want(Digest.of(b"block"), BLOCK_BYTES)
OTHERS = [Want(Digest.of(bytes([number])), BLOCK_BYTES) for number in range(12)]
DOWN = SourceError("down")
RATE = 1e6
LASTING = RefusedError("no")


class Scene:
    """Two sources, the first of which is asked first."""

    def __init__(self, condition):
        self.condition = condition
        self.scheduler = Scheduler([("a", 2), ("b", 2)], Random(1), RetryOptions())
        self.now = 1000.0
        self.done = []
        self.bundle = None
        self.loser = None

    def state(self):
        is_open = OURS.digest in self.scheduler._open
        if OURS.digest in self.scheduler._flying:
            return "under-way" if is_open else "unwanted"
        return "waiting" if is_open else "none"

    def add(self, *wants):
        return self.scheduler.add(wants, "hint", self.now)

    def give_up(self, source):
        """A bundle of another block fails in a way that does not pass."""
        self.add(OTHERS[-1 - source])
        bundle = self.draw(source)
        refusals = self.scheduler.failed(bundle, list(bundle.left), LASTING, self.now)
        self.scheduler.finished(bundle, 0, 0.0)
        self.scheduler.cancel([OTHERS[-1 - source].digest])
        return refusals

    def draw(self, source=0):
        bundle = self.scheduler.next_bundle(source, self.now)
        assert isinstance(bundle, Bundle), bundle
        return bundle

    # --- states

    def in_none(self):
        if self.event == "overtaken":
            self.in_under_way()
            self.taken_over()
            self.scheduler.arrived(self.bundle, OURS.digest, self.now)
        if self.condition == "hopeless":
            self.give_up(0)
            self.give_up(1)

    def in_waiting(self):
        match self.event, self.condition:
            case "given-up", _:
                self.give_up(1)
            case "lacking", "hopeless":
                self.scheduler.told(1, [OURS.digest], [OURS.digest], self.now)
            case "lane-free", "slow":
                slow, fast = self.scheduler.sources
                slow.lane_rate, fast.lane_rate = RATE / 1000, RATE
                self.add(*OTHERS)
        self.add(OURS)
        if self.condition == "may-not":
            self.scheduler.told(0, [OURS.digest], [OURS.digest], self.now)

    def in_under_way(self):
        if self.condition in {"hopeless", "alone"}:
            self.give_up(1)
        self.add(*(OTHERS[:1] if self.condition == "not-begun" else []), OURS, *OTHERS[1:10])
        first, second = self.scheduler.sources
        first.lane_rate, second.lane_rate = RATE, 1.0
        self.bundle = self.draw(0)
        second.lane_rate = 4 * RATE if self.condition == "not-begun" else RATE
        self.scheduler.cancel([want.digest for want in OTHERS[1:10]])
        if self.condition == "late":
            self.now += 60.0
        if (self.event, self.condition) == ("corrupt", "hopeless"):
            self.on_corrupt()
            self.scheduler.finished(self.bundle, 0, 0.0)
            self.now = self.scheduler.sources[0].retry_at
            self.bundle = self.draw(0)

    def in_unwanted(self):
        self.in_under_way()
        self.scheduler.cancel([OURS.digest])

    # --- events

    def heard(self, refusals):
        if any(refusal.want == OURS for refusal in refusals):
            self.done.append("refuse")

    def on_wanted(self):
        self.heard(self.add(OURS))

    def on_cancelled(self):
        assert self.scheduler.cancel([OURS.digest]) == [OURS.digest]

    def on_lane_free(self):
        step = self.scheduler.next_bundle(0, self.now)
        if isinstance(step, Bundle) and OURS in step.wants:
            self.done.append("request")

    def on_lacking(self):
        refusals = self.scheduler.told(0, [OURS.digest], [OURS.digest], self.now)
        assert not refusals
        asked = [source for source in (0, 1) if self.may(source)]
        self.done += {(1,): ["exclude"], (0, 1): ["press"]}[tuple(asked)]

    def may(self, source):
        return any(
            queue.may(source) and OURS in self.scheduler._lines[queue]
            for queue in self.scheduler._lines
        )

    def on_given_up(self):
        self.heard(self.give_up(0))

    def on_arrived(self):
        wanted = self.scheduler.arrived(self.bundle, OURS.digest, self.now)
        self.done.append("deliver" if wanted else "waste")

    def taken_over(self):
        """The other source takes it; the first one is the loser."""
        self.loser, self.now = self.bundle, self.now + 60.0
        self.bundle = self.draw(1)
        assert OURS.digest in self.loser.taken
        self.done.clear()

    def on_overtaken(self):
        if self.loser is None:
            self.taken_over()
        wanted = self.scheduler.arrived(self.loser, OURS.digest, self.now)
        self.done.append("deliver" if wanted else "waste")

    def after(self, refusals):
        self.heard(refusals)
        if self.scheduler.sources[0].retry_at > self.now:
            self.done.append("rest")
        if self.state() == "waiting" and not self.may(0):
            self.done.append("exclude")
        if any(queue.doubt for queue in self.scheduler._lines):
            self.done.append("doubt")

    def nack(self, reason):
        self.after(self.scheduler.nacked(self.bundle, OURS.digest, reason, "", self.now))

    def on_refused(self):
        self.nack(Reason.NOT_FOUND)

    def tire(self):
        """What may pass is endured for a while: let that be over."""
        if self.condition == "hopeless":
            self.scheduler.sources[0].setback(
                DOWN, self.now - 60.0, RetryOptions(), 1.0, fatal=False
            )
            self.scheduler.sources[0].retry_at = 0.0

    def on_put_off(self):
        self.tire()
        self.nack(Reason.UPSTREAM)

    def on_corrupt(self):
        self.after(self.scheduler.corrupt(self.bundle, OURS.digest, self.now))

    def on_cut(self):
        self.tire()
        left = list(self.bundle.left) or [OURS.digest]
        self.after(self.scheduler.failed(self.bundle, left, DOWN, self.now))

    def on_idle(self):
        before = self.scheduler._flying[OURS.digest]
        step = self.scheduler.next_bundle(1, self.now)
        after = self.scheduler._flying[OURS.digest]
        if isinstance(step, Bundle) and after is step and after is not before:
            self.done.append("take")


@rows_of("fetch")
def test_a_block_is_fetched_as_the_document_says(row):
    scene = Scene(row.condition)
    scene.event = row.event
    drive(scene, row)
