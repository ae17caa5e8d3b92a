"""The forwarder, with a carrier of the tests' own: how it asks for what waits."""

import asyncio

import pytest

from icnblocks.cache.content_store import ContentStore
from icnblocks.cache.policy import make_policy
from icnblocks.client.answers import ThrottledError, nack_error
from icnblocks.errors import StorageError
from icnblocks.limits import MIB
from icnblocks.naming import Digest, Name
from icnblocks.store.base import verify
from icnblocks.store.inplace import InPlaceStore
from icnblocks.store.memory import MemoryStore
from icnblocks.wire.bundle import Want
from icnblocks.wire.frames import Reason
from icnblocks_daemon.fib import Fib, parse_upstream
from icnblocks_daemon.forwarder import Forwarder
from icnblocks_daemon.holdings import Holdings
from icnblocks_daemon.interests import Hint
from icnblocks_daemon.metrics import Metrics
from icnblocks_daemon.overflow import Overflow
from icnblocks_daemon.pit import Pit
from icnblocks_daemon.strategies import make_strategy
from icnblocks_daemon.turns import Turns

PAGE = 4096
FULL = StorageError("disk full")
WANT = Want(Digest.of(b"wanted"), PAGE)


class World:
    """An edge whose disk takes nothing, with memory for two pages."""

    def __init__(self, path, *upstreams):
        self.now, self.begun = 100.0, []
        content = ContentStore(MemoryStore(), make_policy("lru", None), None)
        self.holdings = Holdings(
            content, InPlaceStore(path / "places.sqlite"), lambda: self.now,
            evicts=True, recall=lambda _: None, overflow=Overflow(2 * PAGE),
        )  # fmt: skip
        strategy = make_strategy("fail-over")
        self.forwarder = Forwarder(
            self.holdings, Fib(map(parse_upstream, upstreams or ("http://up",))), strategy,
            Pit(strategy, negative_s=5.0), self, Metrics(),
            node_id="0" * 16, room_wait_s=30.0, clock=lambda: self.now,
        )  # fmt: skip
        self.told = []

    def begin(self, fetch):
        self.begun.append(fetch)

    def abandon(self, fetch):
        return True

    def overtaken(self, fetch):
        assert fetch in self.begun

    def close(self):
        self.forwarder.close()
        self.holdings.close()

    def landed(self, digest):
        self.told.append(digest)

    def refused(self, digest, reason, text):
        self.told.append(reason)

    def held(self):
        """What memory is full of is being sent to a slow reader."""
        data = bytes(2 * PAGE)
        self.holdings.overflow.put(verify(Digest.of(data), data))
        return self.holdings.overflow.open(Digest.of(data))


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    yield world
    world.close()


async def test_what_memory_has_no_room_for_is_not_fetched_over_and_over(world):
    """One block came again and again, as fast as upstream gave it, until the reader was done."""
    lease = world.held()
    world.forwarder.want(world, WANT, Hint())
    seen = 0
    for _ in range(20):
        world.now += 0.1
        for fetch in world.begun[seen:]:
            seen += 1
            world.forwarder.unstored(fetch, FULL)
        world.forwarder._go_on()  # as the timer does
    assert not world.told
    assert seen <= 3, "once a second, to see whether blocks are stored again"
    seen = len(world.begun)
    lease.close()
    world.forwarder.room_freed()
    assert len(world.begun) == seen + 1, "at once, when there is room"


async def test_what_happens_at_once_with_many_models_is_one_look_at_who_waits(world, monkeypatch):
    """With 400 models, each block that came and each that was wanted took 3 ms of the loop."""
    looks, look = 0, Turns.heads

    def counted(self, *args):
        nonlocal looks
        looks += 1
        return look(self, *args)

    monkeypatch.setattr(Turns, "heads", counted)
    for model in (Digest.of(b"model %d" % number) for number in range(40)):
        for number in range(8):
            digest = Digest.of(b"%s %d" % (str(model).encode(), number))
            world.forwarder.want(world, Want(digest, MIB), Hint(manifest=model))
    await asyncio.sleep(0)
    assert len(world.begun) == 5, "what an upstream may owe, and one to see whether it is quick"
    assert looks < 100, "of 320 that were wanted"
    looks, came = 0, world.begun[:]
    for fetch in came:
        world.forwarder.landed(fetch)
    await asyncio.sleep(0)
    assert len(world.begun) == 8 * 40, "and then the others"
    assert looks <= 2, "one, and where the machine is slow one by the timer"


@pytest.mark.parametrize(("winner", "rests"), [(0, False), (1, True)])
async def test_one_that_was_asked_to_help_and_came_too_late_is_not_slow(tmp_path, winner, rests):
    """The first gave the block a moment after the second was asked: the second had to rest."""
    world = World(tmp_path, "http://up", "http://other")
    world.forwarder.want(world, WANT, Hint())
    world.now += 4.0  # it has stalled
    world.forwarder._hedge()
    assert len(world.begun) == 2
    world.now += 0.001
    world.forwarder.landed(world.begun[winner])
    loser = world.begun[1 - winner].upstream
    assert world.told == [WANT.digest]
    why = world.forwarder._strategy.standing("http://other").why
    assert why is None
    assert bool(world.forwarder._strategy.resting(loser, world.now)) is rests
    world.close()


async def test_an_upstream_that_is_busy_to_the_end_rests_on(world):
    """Catches: that it says so of a block, too, ends its rest, and counts as if it had it not."""
    world.forwarder.want(world, WANT, Hint())
    world.forwarder.faltered("http://up", ThrottledError("later", after_s=30.0), 30.0)
    busy = nack_error("http://up", WANT.digest, Reason.BUSY, "too much to do")
    world.forwarder.refused(world.begun[0], busy)
    assert world.told == [Reason.BUSY]
    standing = world.forwarder._strategy.standing("http://up")
    assert (standing.resting(world.now), standing.found, standing.owed) == (30.0, 1.0, 0)


class Waiter:
    """One who asks under a name of its own, and how that ended."""

    def __init__(self, world, name, *wants):
        self.told = []
        for want in wants:
            world.forwarder.want(self, want, Hint(Name.parse(name), Digest.of(name.encode())))

    def landed(self, digest):
        self.told.append(digest)

    def refused(self, digest, reason, text):
        self.told.append(reason)


@pytest.fixture
def prefixes(tmp_path):
    world = World(tmp_path, "zoo=http://slow", "acme=http://fast")
    yield world
    world.close()


OTHERS = [Want(Digest.of(b"other %d" % number), MIB) for number in range(5)]


async def test_a_wrong_length_for_a_frozen_upstream_keeps_a_block_from_nobody_else(prefixes):
    """Catches: they waited as long as the frozen one is waited for, for what it would refuse."""
    liar = Waiter(prefixes, "zoo/x", Want(WANT.digest, 5))
    honest = Waiter(prefixes, "acme/x", WANT)
    prefixes.now += 4.0  # it has stalled
    prefixes.forwarder._hedge()
    assert [fetch.upstream for fetch in prefixes.begun] == ["http://slow", "http://fast"]
    prefixes.forwarder.landed(prefixes.begun[1])
    assert (honest.told, liar.told) == ([WANT.digest], [Reason.LENGTH])


async def test_a_block_is_asked_as_those_say_whose_turn_it_is(prefixes):
    """Catches: behind what a slow upstream owes, others wait for a length that one made up."""
    Waiter(prefixes, "zoo/x", *OTHERS, Want(WANT.digest, 5))
    Waiter(prefixes, "acme/x", WANT)
    fetch = prefixes.begun[-1]
    assert (fetch.digest, fetch.upstream, fetch.length) == (WANT.digest, "http://fast", PAGE)


async def test_who_may_not_ask_the_full_one_of_two_upstreams_does_not_wait_for_it(tmp_path):
    """Catches: only who shares no upstream with those who wait has a line of its own."""
    world = World(tmp_path, "zoo=http://slow", "zoo=http://fast", "acme=http://fast")
    Waiter(world, "zoo/x", *OTHERS, WANT)
    assert {fetch.upstream for fetch in world.begun} == {"http://slow"}, "the first of the route"
    assert WANT.digest not in {fetch.digest for fetch in world.begun}
    Waiter(world, "acme/x", WANT)
    assert (world.begun[-1].digest, world.begun[-1].upstream) == (WANT.digest, "http://fast")
    world.close()


async def test_a_block_stands_in_no_line_of_upstreams_that_nobody_who_waits_may_ask(prefixes):
    """Catches: it is asked of one that its name is not to be asked of, as others who left were."""
    leaves = Waiter(prefixes, "zoo/x", *OTHERS, WANT)
    own = [Want(Digest.of(b"own %d" % number), MIB) for number in range(5)]
    Waiter(prefixes, "acme/x", *own, WANT)
    begun = prefixes.begun
    assert WANT.digest not in {fetch.digest for fetch in begun}, "both owe as much as they may"
    prefixes.forwarder.leave(leaves, WANT.digest)
    slow, fast = (
        [fetch for fetch in begun if fetch.upstream == url]
        for url in ("http://slow", "http://fast")
    )
    before = len(begun)
    for fetch in slow[:3]:
        prefixes.forwarder.landed(fetch)
    assert {fetch.upstream for fetch in begun[before:]} <= {"http://slow"}
    assert WANT.digest not in {fetch.digest for fetch in begun}
    for fetch in fast[:3]:
        prefixes.forwarder.landed(fetch)
    assert [fetch.upstream for fetch in begun if fetch.digest == WANT.digest] == ["http://fast"]


class Link:
    """An upstream that gives what it was asked for in that order, a MiB every tenth of a second."""

    def __init__(self, world):
        self.world, self.came = world, []

    def want(self, client, models, priority=3, blocks=20):
        """Blocks of so many models that a client wants, all at once."""
        wanted = []
        for model in range(models):
            manifest = Digest.of(b"%s %d" % (client.encode(), model))
            hint = Hint(manifest=manifest, priority=priority, client=client)
            for number in range(blocks):
                digest = Digest.of(b"%s %d" % (str(manifest).encode(), number))
                self.world.forwarder.want(self.world, Want(digest, MIB), hint)
                wanted.append(digest)
        return wanted

    async def give(self, count):
        for _ in range(count):
            fetch = self.world.begun[len(self.came)]
            self.came.append(fetch.digest)
            self.world.now += 0.1
            self.world.forwarder.landed(fetch)
            await asyncio.sleep(0)

    async def give_all(self, wanted):
        """Seconds until all these came."""
        began = self.world.now
        while not set(wanted) <= set(self.came):
            await self.give(1)
        return self.world.now - began


async def test_what_is_urgent_overtakes_other_models_at_a_narrow_upstream(world):
    """It came as the last of all: of each model, half a second's worth stood in line before it."""
    link = Link(world)
    link.want("one", 12, priority=0)
    await link.give(10)
    assert await link.give_all(link.want("other", 1, priority=7)) <= 2.0 + 1.0


async def test_a_greedy_client_gets_its_share_of_a_narrow_upstream_and_no_more(world):
    """Who asked for twelve models had twelve times the share of who asked for one."""
    link = Link(world)
    link.want("greedy", 12)
    await link.give(10)
    assert await link.give_all(link.want("modest", 1)) <= 2 * 2.0 + 1.0


async def test_what_models_share_comes_at_the_pace_of_whoever_has_the_better_turn(world):
    """Catches: blocks that a client with many models has asked for first came to all others, who
    want them for a model of their own, as the twelfth part of what that client is given."""
    shared = [Want(Digest.of(b"shared %d" % number), MIB) for number in range(20)]
    link = Link(world)
    for want in shared:
        world.forwarder.want(world, want, Hint(manifest=Digest.of(b"greedy 0"), client="greedy"))
    link.want("greedy", 12)
    await link.give(10)
    for want in shared:
        hint = Hint(manifest=Digest.of(b"modest"), client="modest")
        world.forwarder.want(Waiter(world, "acme/modest"), want, hint)
    assert await link.give_all([want.digest for want in shared]) <= 2 * 2.0 + 1.0
