"""docs/states/source.toml, row by row, against the scheduler's view of a source."""

from icnblocks.client.scheduler import Bundle, RetryOptions, Scheduler
from icnblocks.errors import RefusedError, SourceError
from icnblocks.limits import BLOCK_BYTES, MIB
from icnblocks.naming import Digest
from icnblocks.wire.bundle import Want
from icnblocks.wire.frames import Reason
from tests.house.states.driving import drive, rows_of

WANTS = [Want(Digest.of(bytes([number])), BLOCK_BYTES) for number in range(40)]
DOWN = SourceError("down")
PATIENCE = RetryOptions()
AFTER_S = 90.0


class NoLuck:
    """Chance that shortens no rest."""

    def random(self):
        return 1.0


class Scene:
    """A source with four lanes, one bundle of which was begun before anything went wrong.

    Beside it stands another one, idle, so that not all is refused when this one is given up.
    """

    def __init__(self, condition):
        self.condition = condition
        self.scheduler = Scheduler([("source", 4), ("other", 1)], NoLuck(), PATIENCE)
        self.source = self.scheduler.sources[0]
        self.now = 1000.0
        self.done = []
        self.scheduler.add(WANTS, "hint", self.now)
        self.early = self.scheduler.next_bundle(0, self.now)

    def state(self):
        if self.source.hopeless(self.now):
            return "given-up"
        if self.source.retry_at > self.now:
            return "resting"
        return "probing" if self.source.failures or self.source.given_up else "well"

    def in_well(self):
        pass

    def in_resting(self):
        if self.condition in {"tired", "too-late"}:
            self.fail(self.early, after_s=0.0 if self.event == "busy" else None)
            self.rest_for_long()
            self.now += self.budget - (AFTER_S if self.event == "busy" else 0.0)
            return
        self.fail(self.early)
        if self.condition == "forgiven":
            self.on_block()

    def in_probing(self):
        self.in_resting()
        if self.condition not in {"tired", "too-late"}:
            self.now = self.source.retry_at
        if self.condition == "probed":
            assert isinstance(self.scheduler.next_bundle(0, self.now), Bundle)

    def in_given_up(self):
        self.scheduler.failed(self.early, [], RefusedError("no"), self.now)

    def fail(self, bundle, after_s=None):
        self.scheduler.failed(bundle, [], DOWN, self.now, after_s=after_s)
        self.scheduler.finished(bundle, 0, 0.0)

    @property
    def budget(self):
        return PATIENCE.busy_s if self.event == "busy" else PATIENCE.retry_s

    def rest_for_long(self):
        """Rests must outlast the budget to be still under way when it is used up."""
        if self.target_of_entry == "resting":
            self.source.retry_at = self.now + 2 * self.budget

    def on_lane_free(self):
        step = self.scheduler.next_bundle(0, self.now)
        if not isinstance(step, Bundle):
            assert step > self.now
            self.done.append("wait")
        elif sum(want.length for want in step.wants) > MIB:
            self.done.append("ask")
        else:
            self.done.append("probe")

    def digest(self):
        return next(iter(self.early.left), WANTS[-1].digest)

    def on_block(self):
        self.forgets(lambda: self.scheduler.arrived(self.early, self.digest(), self.now))

    def on_refusal(self):
        digest = self.digest()
        self.forgets(
            lambda: self.scheduler.nacked(self.early, digest, Reason.NOT_FOUND, "", self.now)
        )

    def forgets(self, act):
        before = self.source.failures or self.source.given_up
        act()
        if before and not self.source.failures and not self.source.given_up:
            self.done.append("forget")

    def on_failed(self):
        self.rests(lambda: self.fail(self.early))

    def on_corrupt(self):
        self.source.corrupts = 3
        digest = self.digest()
        self.rests(lambda: self.scheduler.corrupt(self.early, digest, self.now))

    def on_busy(self):
        whole = self.condition == "too-late" and self.target_of_entry == "well"
        after_s = self.budget if whole else AFTER_S

        def act():
            self.scheduler.failed(self.early, [], DOWN, self.now, after_s=after_s)

        self.rests(act)

    def on_lasting(self):
        error = RefusedError("no token")
        self.rests(lambda: self.scheduler.failed(self.early, [], error, self.now))

    def rests(self, act):
        """How long it rests says why; one that rests already rests on, and no longer."""
        gave_up, until, failures = self.source.given_up, self.source.retry_at, self.source.failures
        act()
        if self.source.given_up and not gave_up:
            self.done.append("give-up")
        rest = self.source.retry_at - self.now
        doubled = min(PATIENCE.first_s * 2**failures, PATIENCE.longest_s)
        if self.event == "busy":
            assert rest >= AFTER_S
            self.done.append("rest-asked")
        elif self.event == "lasting":
            assert rest == PATIENCE.longest_s
            self.done.append("rest-longest")
        elif self.source.retry_at == until:
            return
        elif self.event == "corrupt":
            assert rest == PATIENCE.first_s * 2**3
            self.done.append("rest-corrupt")
        else:
            assert rest == doubled
            self.done.append("rest")

    def on_rested(self):
        self.now = self.source.retry_at


@rows_of("source")
def test_a_source_is_treated_as_the_document_says(row):
    scene = Scene(row.condition)
    scene.event, scene.target_of_entry = row.event, row.state
    drive(scene, row)
