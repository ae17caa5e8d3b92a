"""Two upstreams behind one full cache, of which one gives nothing any more."""

import pytest

from icnblocks.cache.content_store import ContentStore
from icnblocks.cache.policy import make_policy
from icnblocks.limits import MIB
from icnblocks.naming import Digest, Name
from icnblocks.store.base import verify
from icnblocks.store.inplace import InPlaceStore
from icnblocks.store.memory import MemoryStore
from icnblocks.wire.bundle import Want
from icnblocks.wire.frames import Reason
from icnblocks_daemon.fib import Fib
from icnblocks_daemon.forwarder import Forwarder
from icnblocks_daemon.holdings import Holdings
from icnblocks_daemon.interests import Hint
from icnblocks_daemon.metrics import Metrics
from icnblocks_daemon.pit import Pit
from icnblocks_daemon.strategies import make_strategy

CAPACITY = 16 * MIB
FROZEN, WELL = "http://frozen", "http://well"


class World:
    """An edge for two publishers, whose cache is full; what it asks for never comes."""

    def __init__(self, path):
        self.now, self.begun, self.reasons = 100.0, [], set()
        self.content = ContentStore(MemoryStore(), make_policy("lru", CAPACITY), CAPACITY)
        self.holdings = Holdings(
            self.content, InPlaceStore(path / "places.sqlite"), lambda: self.now,
            evicts=True, recall=lambda _: None,
        )  # fmt: skip
        strategy = make_strategy("fail-over")
        self.forwarder = Forwarder(
            self.holdings, Fib([("a", FROZEN), ("b", WELL)]), strategy,
            Pit(strategy, negative_s=5.0), self, Metrics(),
            node_id="0" * 16, room_wait_s=30.0, clock=lambda: self.now,
        )  # fmt: skip
        for number in range(CAPACITY // MIB):
            data = bytes([number]) * MIB
            block = verify(Digest.of(data), data)
            room = self.content.reserve(block.digest, MIB, self.now)
            self.content.store.put(block)
            self.content.commit(room, self.now)

    def want(self, publisher, count):
        hint = Hint(Name(publisher, "m"), manifest=Digest.of(publisher.encode()), client=publisher)
        for number in range(count):
            digest = Digest.of(f"{publisher}{number}".encode())
            self.forwarder.want(self, Want(digest, MIB), hint)

    def passes(self, seconds):
        for _ in range(round(seconds / 0.05)):
            self.now += 0.05
            self.forwarder._go_on()  # as the timer does

    def asked(self, upstream):
        return sum(fetch.upstream == upstream for fetch in self.begun)

    def begin(self, fetch):
        self.begun.append(fetch)

    def abandon(self, fetch):
        return True

    def landed(self, digest):
        pass

    def refused(self, digest, reason, text):
        self.reasons.add(reason)


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    yield world
    world.forwarder.close()
    world.holdings.close()


async def test_an_upstream_that_is_frozen_does_not_hold_up_what_others_give(world):
    """Catches: one origin's power cut, and an edge with a full cache stands still for everybody."""
    world.want("a", 32)
    world.passes(5)
    assert world.asked(FROZEN) * MIB >= 4 * MIB, "as much as may be under way"
    world.want("b", 8)
    world.passes(0.1)
    assert 1 <= world.asked(WELL) <= 4, "its own share of what may be under way"


async def test_an_upstream_that_is_well_keeps_to_the_bound(world):
    """Catches: upstreams that each push as much out of the cache as all of them may."""
    world.want("a", 32)
    world.want("b", 32)
    world.passes(1)
    assert len(world.begun) * MIB <= 4 * MIB


async def test_a_cache_full_of_what_is_being_sent_is_busy_and_one_full_of_pins_has_no_space(world):
    """Catches: slow readers that hold a small cache, and the pulls of all others end for good."""
    held = [Digest.of(bytes([number]) * MIB) for number in range(CAPACITY // MIB)]
    leases = [world.content.open(digest, world.now) for digest in held]
    world.want("a", 1)
    world.passes(31)
    assert world.reasons == {Reason.BUSY}
    for digest, lease in zip(held, leases, strict=True):
        lease.close()
        world.content.pin(digest, [digest])
    world.want("b", 1)
    world.passes(31)
    assert world.reasons == {Reason.BUSY, Reason.NO_SPACE}
    assert not world.begun
