"""docs/states/pending.toml, row by row, against the forwarder and its pending Interest table."""

import pytest

from icnblocks.cache.content_store import ContentStore
from icnblocks.cache.policy import make_policy
from icnblocks.errors import NotFoundError, SourceError, StorageError
from icnblocks.limits import MAX_HOPS, MIB
from icnblocks.naming import Digest, Name
from icnblocks.store.base import verify
from icnblocks.store.inplace import InPlaceStore
from icnblocks.store.memory import MemoryStore
from icnblocks.wire.bundle import HERE_ONLY, Want
from icnblocks.wire.frames import Reason
from icnblocks_daemon.fib import Fib
from icnblocks_daemon.forwarder import Forwarder
from icnblocks_daemon.holdings import Holdings
from icnblocks_daemon.interests import Hint
from icnblocks_daemon.metrics import Metrics
from icnblocks_daemon.overflow import Overflow
from icnblocks_daemon.pit import Pit
from icnblocks_daemon.strategies import make_strategy
from tests.house.states.driving import drive_async, rows_of

DATA = bytes(70_000)
OURS = Want(Digest.of(DATA), len(DATA))
LIE = Want(OURS.digest, 5)
CAPACITY = 16 * MIB
BIG = verify(Digest.of(bytes(CAPACITY)), bytes(CAPACITY))
ROOM_WAIT_S, STALLED_S = 30.0, 3.0
UP, OTHER = "http://up", "http://other"
BY_ONE, BY_OTHER, BY_BOTH, BY_NONE = (
    Name.parse(f"{publisher}/x") for publisher in ("one", "other", "both", "nobody")
)


class Who:
    """One who waits."""

    def __init__(self, scene):
        self.scene = scene

    def landed(self, digest):
        self.scene.told.append(self)
        self.scene.waiting.remove(self)

    def refused(self, digest, reason, text):
        self.scene.refusals[self] = reason
        self.scene.waiting.remove(self)


class Carrier:
    """Brings what it is told to, when it is told to."""

    def __init__(self):
        self.begun = []
        self.abandoned = []
        self.too_late = False

    def begin(self, fetch):
        self.begun.append(fetch)

    def abandon(self, fetch):
        self.abandoned.append(fetch)
        return not self.too_late

    def overtaken(self, fetch):
        assert fetch in self.begun


class Scene:
    def __init__(self, row, path):
        self.row = row
        self.now = 1000.0
        self.done, self.told, self.waiting, self.refusals = [], [], [], {}
        self.carrier = Carrier()
        self.metrics = Metrics()
        self.store = MemoryStore()
        self.content = ContentStore(self.store, make_policy("lru", CAPACITY), CAPACITY)
        memory = 0 if row.condition == "never" else CAPACITY
        self.holdings = Holdings(
            self.content, InPlaceStore(path / "places.sqlite"), lambda: self.now,
            evicts=True, recall=lambda _: None, overflow=Overflow(memory),
        )  # fmt: skip
        strategy = make_strategy("fail-over")
        self.pit = Pit(strategy, negative_s=5.0)
        routes = [("one", UP), ("other", OTHER), ("both", UP), ("both", OTHER)]
        self.forwarder = Forwarder(
            self.holdings, Fib(routes), strategy, self.pit, self.carrier, self.metrics,
            node_id="0" * 16, room_wait_s=ROOM_WAIT_S, clock=lambda: self.now,
        )  # fmt: skip
        self.strategy = strategy
        self.first = None

    async def state(self):
        if not self.pit._entries:
            return "none"
        (entry,) = self.pit._entries.values()
        if self.forwarder.waiting_for_turn:
            return "queued"
        return {1: "asked", 2: "hedged"}[len(entry.under_way)]

    def want(self, name=BY_BOTH, want=OURS, **hint):
        who = Who(self)
        self.waiting.append(who)
        self.forwarder.want(who, want, Hint(name, **hint))
        return who

    def leave(self, who):
        self.waiting.remove(who)
        self.forwarder.leave(who, OURS.digest)

    # --- states

    async def in_none(self):
        if self.row.condition == "no-room":
            self.fill()

    def fill(self):
        """All of the budget is pinned, or being sent."""
        room = self.content.reserve(BIG.digest, CAPACITY, self.now)
        self.store.put(BIG)
        self.content.commit(room, self.now)
        if self.row.condition == "taken":
            self.lease = self.content.open(BIG.digest, self.now)
        else:
            self.content.pin(BIG.digest, [BIG.digest])

    async def in_queued(self):
        if self.row.condition in {"other-room", "other-line"}:
            for upstream in (UP,) if self.row.condition == "other-room" else (UP, OTHER):
                self.strategy.asked(upstream, 64 * MIB, self.now)
        elif self.row.event.endswith("late"):
            self.give_up_too_late()
            for upstream in (UP, OTHER):  # each owes as much as it may
                self.strategy.asked(upstream, 64 * MIB, self.now)
        else:
            self.fill()
        self.enter()

    async def in_asked(self):
        if self.row.event.endswith("late") and self.row.event != "late":
            self.give_up_too_late()
        self.enter()

    async def in_hedged(self):
        await self.in_asked()
        await self.on_late()

    def enter(self):
        alone = self.row.state == "asked" and self.row.condition in {"lasting", "passing"}
        routeless = self.row.condition == "another"
        elsewhere = self.row.condition in {"other-room", "other-line"}
        self.first = self.want(BY_ONE if alone or routeless or elsewhere else BY_BOTH)
        if routeless:
            self.want(BY_OTHER)
        if self.row.condition == "others":
            self.want()
        if self.row.condition == "other-length":
            self.want(want=LIE)

    def give_up_too_late(self):
        """A fetch whose only waiter left, and which could not be stopped any more."""
        self.carrier.too_late = True
        self.leave(self.want(BY_ONE))
        self.carrier.too_late = False

    # --- events

    def watched(self, act):
        """What the parts show to have been done."""
        lines = self.forwarder._turns.lines
        begun, given_up = len(self.carrier.begun), len(self.carrier.abandoned)
        remembered, stored = len(self.pit._negative), OURS.digest in self.content.store
        hedges, passed = self.hedges(), self.metrics.passed_bytes._value.get()
        self.told.clear()
        self.refusals.clear()
        act()
        if len(self.carrier.begun) > begun:
            self.done.append("ask-second" if self.hedges() > hedges else "ask")
        if 0 < lines < self.forwarder._turns.lines:
            self.done.append("line-up")
        if len(self.carrier.abandoned) > given_up:
            self.done.append("cancel")
        if self.told:
            self.done.append("tell")
        if len(self.pit._negative) > remembered:
            self.done.append("remember")
        if OURS.digest in self.content.store and not stored and not self.reserved():
            self.done.append("store")
        if self.metrics.passed_bytes._value.get() > passed:
            self.done.append("pass-on")
        self.note_refusals()

    def reserved(self):
        """Whether room for what is stored is still on the account of what is under way."""
        return self.content.reserved_bytes if self.row.state != "hedged" else 0

    def hedges(self):
        return self.metrics.hedges.labels(UP)._value.get()

    def note_refusals(self):
        reasons = set(self.refusals.values())
        if not reasons:
            return
        if self.row.event == "wanted":
            more = "here" if self.row.condition == "here-only" else "new"
            self.done.append("refuse-loop" if reasons == {Reason.LOOP} else f"refuse-{more}")
            assert reasons <= {Reason.LOOP, Reason.NOT_FOUND}
        elif reasons == {Reason.LENGTH}:
            self.done.append("refuse-length")
        elif reasons <= {Reason.NO_SPACE, Reason.BUSY}:
            self.done.append("refuse-busy" if Reason.BUSY in reasons else "refuse-space")
        else:
            self.done.append("refuse-routeless" if self.waiting else "refuse-all")

    async def on_wanted(self):
        names = {"no-route": BY_NONE, "other-room": BY_OTHER, "other-line": BY_OTHER}
        name = names.get(self.row.condition, BY_BOTH)
        hops = {"loop": MAX_HOPS, "here-only": HERE_ONLY}.get(self.row.condition, 0)
        self.watched(lambda: self.want(name, hops=hops))

    async def on_left(self):
        self.watched(lambda: self.leave(self.first))

    async def on_turn(self):
        def act():
            self.content.unpin(BIG.digest)
            self.forwarder.room_freed()

        self.watched(act)

    async def on_starved(self):
        def act():
            self.now += ROOM_WAIT_S
            self.forwarder._on_tick()

        self.watched(act)

    async def on_late(self):
        def act():
            self.now += STALLED_S
            self.forwarder._on_tick()

        self.watched(act)

    def bring(self, fetch):
        self.store.put(verify(fetch.digest, DATA))
        self.forwarder.landed(fetch)

    async def on_landed(self):
        self.watched(lambda: self.bring(self.carrier.begun[-1]))

    async def on_passed(self):
        full = StorageError("the disk is full")
        self.watched(lambda: self.forwarder.passed(self.carrier.begun[-1], full))

    async def on_unstored(self):
        full = StorageError("the disk is full")
        self.watched(lambda: self.forwarder.unstored(self.carrier.begun[-1], full))

    async def on_refused(self):
        error = SourceError("gone") if self.row.condition == "passing" else NotFoundError("no")
        self.watched(lambda: self.forwarder.refused(self.carrier.begun[-1], error))

    def late_one(self):
        if self.row.state == "none":
            self.give_up_too_late()
        return self.carrier.begun[0]

    async def on_landed_late(self):
        fetch = self.late_one()
        self.watched(lambda: self.bring(fetch))

    async def on_refused_late(self):
        fetch = self.late_one()
        self.watched(lambda: self.forwarder.refused(fetch, NotFoundError("no")))


@pytest.fixture
def scene_of(tmp_path):
    made = []

    def make(row):
        made.append(Scene(row, tmp_path))
        return made[0]

    yield make
    for scene in made:
        scene.forwarder.close()
        scene.holdings.close()


@rows_of("pending")
async def test_a_pending_block_is_treated_as_the_document_says(row, scene_of):
    await drive_async(scene_of(row), row)
