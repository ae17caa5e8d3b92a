"""docs/states/answer.toml, row by row, against the daemon's answer to a bundle."""

import pytest

from icnblocks.cache.content_store import ContentStore
from icnblocks.cache.policy import make_policy
from icnblocks.errors import NotFoundError
from icnblocks.limits import MIB
from icnblocks.manifest.codec import digest_of, encode
from icnblocks.manifest.model import Kind
from icnblocks.naming import Digest
from icnblocks.publish.scan import scan
from icnblocks.store.base import verify
from icnblocks.store.inplace import InPlaceStore
from icnblocks.store.memory import MemoryStore
from icnblocks.wire.bundle import Want
from icnblocks.wire.frames import Reason
from icnblocks_daemon.answer import Answer, Refuse, Send
from icnblocks_daemon.fib import Fib
from icnblocks_daemon.forwarder import Forwarder
from icnblocks_daemon.holdings import Holdings
from icnblocks_daemon.interests import Hint
from icnblocks_daemon.metrics import Metrics
from icnblocks_daemon.pit import Pit
from icnblocks_daemon.strategies import make_strategy
from tests.house.states.driving import drive_async, rows_of

DATA = bytes(70_000)
OURS, OTHER = (Want(Digest.of(data), len(data)) for data in (DATA, DATA + b"x"))


class Carrier:
    """Brings what it is told to, when it is told to."""

    def __init__(self):
        self.begun = {}

    def begin(self, fetch):
        self.begun[fetch.digest] = fetch

    def abandon(self, fetch):
        return self.begun.pop(fetch.digest) is fetch


def publish_in_place(places, root, data):
    root.mkdir()
    (root / "weights.bin").write_bytes(data)
    found = scan(root, Kind.PACK)
    places.add_directory(root, digest_of(encode(found.manifest)), found.manifest, found.facts)


class Scene:
    def __init__(self, condition, path):
        self.condition = condition
        self.done = []
        self.metrics = Metrics()
        self.store = MemoryStore()
        self.content = ContentStore(self.store, make_policy("lru", 64 * MIB), 64 * MIB)
        places = InPlaceStore(path / "places.sqlite")
        self.holdings = Holdings(
            self.content, places, lambda: 0.0, evicts=True, recall=lambda _: None
        )
        strategy = make_strategy("fail-over")
        self.carrier = Carrier()
        self.forwarder = Forwarder(
            self.holdings, Fib([("", "http://up")]), strategy, Pit(strategy, negative_s=0.0),
            self.carrier, self.metrics, node_id="0" * 16, room_wait_s=30.0, clock=lambda: 0.0,
        )  # fmt: skip
        self.answer = None
        self.length = OURS.length - (condition == "length")
        self.pending = set()
        self.sent = None
        if condition == "changed":
            publish_in_place(places, path / "model", DATA)
            (path / "model" / "weights.bin").write_bytes(DATA + b"more")

    def make(self):
        wants = (*([OTHER] if self.condition == "full" else []), Want(OURS.digest, self.length))
        self.answer = Answer(wants, Hint(), self.holdings, self.forwarder, 1)

    def put(self):
        room = self.content.reserve(OURS.digest, len(DATA), 0.0)
        self.store.put(verify(OURS.digest, DATA))
        self.content.commit(room, 0.0)

    async def state(self):
        if self.answer is None:
            return "new"
        ours = len(self.answer._wants) - 1
        if ours in self.answer._hits:
            return "here"
        if ours in [index for index, _ in self.answer._misses]:
            return "missing"
        if OURS.digest in self.answer._waiting:
            return "waiting"
        if ours in [send.index for send in self.answer._ready]:
            return "ready"
        refused = ours in [refusal.index for refusal in self.answer._refused]
        return "refusing" if refused else "over"

    # --- states

    async def in_new(self):
        if self.condition == "held":
            self.put()

    async def in_here(self):
        if self.condition != "changed":
            self.put()
        self.make()

    async def in_missing(self):
        self.make()
        if self.condition == "full":
            assert self.answer.next() is None

    async def in_waiting(self):
        self.make()
        assert self.answer.next() is None

    async def in_ready(self):
        await self.in_waiting()
        self.land()

    async def in_refusing(self):
        await self.in_waiting()
        self.carrier_refuses()

    async def in_over(self):
        await self.in_here()
        self.step()

    # --- events

    async def on_read(self):
        self.watch_touches()
        self.make()

    def watch_touches(self):
        touch = self.holdings.touch

        def noted(digest):
            if self.holdings.at_hand(digest):
                self.done.append("touch")
            return touch(digest)

        self.holdings.touch = noted

    async def on_turn(self):
        if self.condition == "evicted":
            self.content.discard(OURS.digest)
        if self.condition == "came":
            self.put()
        self.watch_touches()
        self.step()

    def step(self):
        leased = bool(self.answer._ready)
        begun = set(self.carrier.begun)
        step = self.answer.next()
        if set(self.carrier.begun) > begun:
            self.done.append("interest")
        if self.metrics.refetched.labels("evicted")._value.get():
            self.done.append("again")
        if isinstance(step, Send):
            assert step.lease.read() == DATA
            step.lease.close()
            assert not self.content.is_leased(OURS.digest)
            self.done += ["send"] if leased else ["lease", "send"]
        elif isinstance(step, Refuse):
            more = {Reason.LENGTH: "-length", Reason.CHANGED: "-changed"}.get(step.reason, "")
            self.done.append(f"nack{more}")

    def land(self):
        fetch = self.carrier.begun[OURS.digest]
        self.store.put(verify(fetch.digest, DATA))
        self.forwarder.landed(fetch)

    async def on_landed(self):
        if self.condition == "evicted":
            self.answer.landed(OURS.digest)
        else:
            self.land()
        if self.content.is_leased(OURS.digest):
            self.done.append("lease")

    def carrier_refuses(self):
        self.forwarder.refused(self.carrier.begun[OURS.digest], NotFoundError("no"))

    async def on_refused(self):
        self.carrier_refuses()

    async def on_gone(self):
        waiting, leased = self.forwarder.waiters, self.content.is_leased(OURS.digest)
        self.answer.close()
        if waiting and not self.forwarder.waiters:
            self.done.append("leave")
        if leased and not self.content.is_leased(OURS.digest):
            self.done.append("release")
        self.answer._hits.clear()
        self.answer._misses.clear()
        self.answer._refused.clear()


@pytest.fixture
def scene_of(tmp_path):
    made = []

    def make(condition):
        made.append(Scene(condition, tmp_path))
        return made[0]

    yield make
    for scene in made:
        if scene.answer is not None:
            scene.answer.close()
        scene.forwarder.close()
        scene.holdings.close()


@rows_of("answer")
async def test_a_want_is_answered_as_the_document_says(row, scene_of):
    await drive_async(scene_of(row.condition), row)
