"""The prefetch on a clock of its own: real pending table, forwarder, store and policy; only the
network is left out, and the time goes on when everybody waits."""

import asyncio
import threading
from dataclasses import dataclass

import pytest

from icnblocks.cache.content_store import ContentStore
from icnblocks.cache.policy import make_policy
from icnblocks.errors import NotFoundError, SourceError
from icnblocks.limits import KIB, MIB
from icnblocks.manifest.model import Manifest
from icnblocks.store.base import verify
from icnblocks.store.inplace import InPlaceStore
from icnblocks.store.memory import MemoryStore
from icnblocks.testing.exchange import make_model
from icnblocks_daemon.fib import Fib
from icnblocks_daemon.forwarder import Forwarder
from icnblocks_daemon.holdings import Holdings
from icnblocks_daemon.interests import Hint
from icnblocks_daemon.metrics import Metrics
from icnblocks_daemon.pit import Pit
from icnblocks_daemon.prefetch import Prefetch, kept_order
from icnblocks_daemon.prefetch_order import Entry, Order
from icnblocks_daemon.prefetch_pace import DEPTH_S, Window
from icnblocks_daemon.records import Served
from icnblocks_daemon.strategies import make_strategy

UP = "http://origin:4260"
BLOCK = 64 * KIB


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self):
        return self.now

    def day(self):
        return self.now % 86400

    async def pause(self, seconds):
        """Everybody else who can go on does so first."""
        for _ in range(5):
            await asyncio.sleep(0)
        self.now += seconds


class Network:
    """An origin at no distance: knows models, notes what is asked and when."""

    def __init__(self, clock, models):
        self.clock = clock
        self.models = models
        self.blocks = {d: b for model in models for d, b in model.blocks.items()}
        self.asked = []
        self.gone = False
        self.tries = 0
        self.slow = False
        self.waiting = []

    async def get(self, what, name=None):
        """A record by its name, or a manifest by its digest."""
        if self.gone:
            self.tries += 1
            raise SourceError("the origin cannot be reached")
        for model in self.models:
            if what == model.name:
                return Served(model.record(), 0.0, stale=False)
            if what == model.digest:
                return model.raw
        raise NotFoundError(f"no {what}")

    def hold(self, digests):
        self.held = set(digests)

    def begin(self, fetch):
        self.asked.append((self.clock(), fetch.length))
        if self.slow:
            self.waiting.append(fetch)
        else:
            asyncio.get_running_loop().call_soon(self.deliver, fetch)

    def abandon(self, fetch):
        return True

    def deliver(self, fetch):
        if self.gone:
            self.desk.refused(fetch, SourceError("the origin cannot be reached"))
            return
        self.store.put(verify(fetch.digest, self.blocks[fetch.digest]))
        self.desk.landed(fetch)


class Bench:
    """A daemon's parts around a prefetch."""

    def __init__(self, path, models, *, capacity=64 * MIB):
        self.clock = Clock()
        self.network = Network(self.clock, models)
        self.metrics = Metrics()
        store = MemoryStore()
        content = ContentStore(store, make_policy("lru", capacity), capacity)
        self.holdings = Holdings(
            content,
            InPlaceStore(path / "places.sqlite"),
            self.clock,
            evicts=True,
            recall=lambda _: None,
        )
        strategy = make_strategy("fail-over")
        self.forwarder = Forwarder(
            self.holdings,
            Fib([("", UP)]),
            strategy,
            Pit(strategy, negative_s=0.0),
            self.network,
            self.metrics,
            node_id="0" * 16,
            room_wait_s=30.0,
            clock=self.clock,
        )
        self.network.desk, self.network.store = self.forwarder, store
        self.file = path / "prefetch.json"
        self.prefetch = Prefetch(
            self.file,
            self.network,
            self.network,
            self.holdings,
            self.forwarder,
            self.metrics,
            recall=lambda _: None,
            clock=self.clock,
            day=self.clock.day,
            pause=self.clock.pause,
        )

    def order(self, *models, pin=False, **terms):
        entries = [Entry(str(model.name), pin, model.name) for model in models]
        return Order("1", entries, **terms)

    async def until(self, condition):
        async with asyncio.timeout(30):
            while not condition():
                await asyncio.sleep(0)

    async def done(self):
        await self.until(lambda: self.prefetch.status()["state"] == "done")

    async def close(self):
        await self.prefetch.close()
        self.forwarder.close()
        self.holdings.close()


@pytest.fixture
def models():
    return [make_model(f"acme/bench{n}", size=2_000_000, seed=40 + n) for n in range(3)]


@pytest.fixture
async def bench(tmp_path, models):
    bench = Bench(tmp_path, models)
    yield bench
    await bench.close()


async def test_the_rate_is_kept_to_from_the_first_block_to_the_last(bench, models):
    """Asking without the bucket, or filling it anew for each model, would show."""
    rate = 100_000.0
    await bench.prefetch.take(bench.order(*models, rate=rate))
    await bench.done()
    asked = bench.network.asked
    assert sum(size for _, size in asked) == 6_000_000
    for first, (begin, _) in enumerate(asked):
        moved = 0
        for at, size in asked[first:]:
            moved += size
            assert moved <= rate * (at - begin) + max(rate * DEPTH_S, BLOCK) + 1
    assert bench.clock() == pytest.approx(6_000_000 / rate, rel=0.02), "nor is it slower"


async def test_blocks_are_asked_for_in_the_window_only_night_after_night(bench, models):
    """From 23:30 to 00:30; what is not done when it closes goes on the next night."""
    bench.clock.now = 12 * 3600.0
    window = Window.parse("23:30-00:30")
    await bench.prefetch.take(bench.order(*models, rate=1000.0, window=window))
    assert bench.prefetch.status()["bytes"]["left"] == 6_000_000
    await bench.done()
    assert all(window.opens_in(at % 86400) == 0 for at, _ in bench.network.asked)
    assert len({at // 86400 for at, _ in bench.network.asked}) == 3, "two nights, over midnight"


async def test_the_blocks_of_models_are_counted_beside_the_loop(bench, models, monkeypatch):
    """Catches: once for each model of a plan they were, where requests wait for it: 60 ms for one
    of 35 GB."""
    count, threads = Manifest.lengths, []

    def noted(manifest):
        threads.append(threading.current_thread())
        return count(manifest)

    monkeypatch.setattr(Manifest, "lengths", noted)
    await bench.prefetch.take(bench.order(*models))
    await bench.done()
    assert threads
    assert threading.current_thread() not in threads


async def test_while_devices_wait_one_block_of_the_plan_is_under_way(bench, models):
    class Device:
        def landed(self, digest):
            pass

        def refused(self, digest, reason, text):
            pass

    bench.network.slow = True
    device = Device()
    for want in models[0].wants[:4]:
        bench.forwarder.want(device, want, Hint())
    await bench.prefetch.take(bench.order(models[1], models[2]))
    waiting = bench.network.waiting
    await bench.until(lambda: len(waiting) == 5)
    await bench.clock.pause(1)
    assert len(waiting) == 5
    bench.network.deliver(waiting.pop())
    await bench.until(lambda: len(waiting) == 5)
    await bench.clock.pause(1)
    assert len(waiting) == 5, "it goes on, one at a time"
    for fetch in waiting[:4]:
        bench.network.deliver(fetch)
    del waiting[:4]
    bench.network.deliver(waiting.pop())
    await bench.until(lambda: len(waiting) == 32)
    bench.network.slow = False
    for fetch in waiting:
        bench.network.deliver(fetch)
    await bench.done()


async def test_an_outage_is_waited_for_with_patience(bench, models):
    """Every try costs the origin's side something: they grow rarer, and never cease."""
    bench.network.slow = True
    await bench.prefetch.take(bench.order(models[0]))
    await bench.until(lambda: bench.network.waiting)
    bench.network.gone = True
    for fetch in bench.network.waiting:
        bench.network.deliver(fetch)
    bench.network.slow = False
    await bench.until(lambda: bench.clock() > 7200)
    assert 20 < bench.network.tries < 50
    assert bench.prefetch.status(failures=True)["failures"][0]["again"]
    bench.network.gone = False
    await bench.done()
    assert bench.prefetch.status()["bytes"] == {
        "planned": 2_000_000, "left": 0, "fetched": 2_000_000,
    }  # fmt: skip


async def test_a_plan_does_not_evict_its_own_beginning(tmp_path, models):
    """Models that are not pinned, in a store that is full already."""
    bench = Bench(tmp_path, models, capacity=5 * MIB)
    for number in range(4):  # what was there before
        want = make_model(f"acme/old{number}", size=MIB, seed=90 + number, block_bytes=MIB)
        for digest, block in want.blocks.items():
            await bench.holdings.put(digest, block)
    await bench.prefetch.take(bench.order(*models[:2]))
    await bench.done()
    for model in models[:2]:
        assert all(bench.holdings.contains(want.digest) for want in model.wants)
    assert bench.holdings.content.stats().pinned_bytes == 0, "afterwards the policy is free"
    await bench.close()


async def test_devices_that_need_room_get_it_from_what_is_only_planned(tmp_path, models):
    """While a window is closed for hours, done models must not lock the cache."""
    bench = Bench(tmp_path, models, capacity=5 * MIB)
    other = make_model("acme/other", size=3_000_000, seed=77)
    bench.network.blocks |= other.blocks
    bench.clock.now = 3600.0
    window = Window.parse("01:00-02:00")
    # At this rate the first model is here when the window closes, and the second is not.
    await bench.prefetch.take(bench.order(*models[:2], rate=700.0, window=window))
    await bench.until(lambda: bench.prefetch.status()["waits_for"] == "window")
    assert bench.prefetch.status()["models"]["done"] == 1
    leases = {}

    class Device:
        def landed(self, digest):
            leases[digest] = bench.holdings.open(digest)

        def refused(self, digest, reason, text):
            raise AssertionError(text)

    device = Device()
    for want in other.wants:
        bench.forwarder.want(device, want, Hint())
        await bench.until(lambda want=want: want.digest in leases)
    for lease in leases.values():
        lease.close()
    await bench.close()


async def test_what_was_given_up_is_waited_for_no_more(bench, models):
    bench.network.slow = True
    await bench.prefetch.take(bench.order(models[0], pin=True))
    await bench.until(lambda: len(bench.network.waiting) > 20)
    assert await bench.prefetch.cancel()
    assert bench.forwarder.pending == 0
    assert bench.holdings.content.stats().reserved_bytes == 0
    assert bench.holdings.content.pins() == {}
    assert bench.network.held == set()
    assert not await bench.prefetch.cancel()


async def test_pins_of_something_else_stay_through_plans(bench, models):
    """A published model is pinned; a plan that pins it too must not take that away."""
    content = bench.holdings.content
    content.pin(models[0].digest, list(models[0].blocks))
    for _ in range(2):
        await bench.prefetch.take(bench.order(models[0], models[1], pin=True))
        await bench.done()
        assert content.pins() == {models[0].digest: 2, models[1].digest: 1}
    await bench.prefetch.take(bench.order(models[2], pin=True))
    assert content.pins() == {models[0].digest: 1, models[2].digest: 1}
    await bench.prefetch.cancel()
    assert content.pins() == {models[0].digest: 1}


async def test_the_loop_is_free_between_the_pins_of_a_plan(bench, models, monkeypatch):
    """Half a million blocks were pinned, and released, in one step that took seconds."""
    content, turns, at = bench.holdings.content, 0, []
    for call in ("pin", "unpin"):
        right = getattr(content, call)
        monkeypatch.setattr(content, call, lambda *a, right=right: (at.append(turns), right(*a)))

    async def count():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    await bench.prefetch.take(bench.order(*models, pin=True))
    assert await bench.prefetch.cancel()
    counting.cancel()
    assert len(set(at)) == len(at) == 6
    assert not content.pins()
    assert not bench.network.held


async def test_the_file_tells_how_far_it_came(bench, models):
    await bench.prefetch.take(bench.order(*models, pin=True, rate=1e6, window=Window(0, 1440)))
    await bench.done()
    await bench.prefetch.close()
    order = kept_order(bench.file)
    assert [entry.progress for entry in order.entries] == ["done"] * 3
    assert [entry.digest for entry in order.entries] == [model.digest for model in models]
    assert (order.rate, str(order.window), order.fetched) == (1e6, "00:00-24:00", 6_000_000)
    await bench.prefetch.cancel()
    assert kept_order(bench.file) is None, "what was cancelled does not come back"


async def test_manifests_of_pinned_models_stay_while_a_plan_is_taken_up_again(tmp_path, models):
    """Catches: after a start, until all of the plan was looked at, what others fetched could push
    out the manifests of models that lie here whole: where nothing is evicted none is pinned."""
    bench = Bench(tmp_path, models)
    order = bench.order(*models[:2], pin=True)
    order.entries[0].digest, order.entries[0].progress = models[0].digest, "done"
    bench.network.gone = True
    bench.prefetch.start(order, set())
    assert bench.network.held == {models[0].digest}
    await bench.close()


async def test_at_the_end_the_file_says_of_no_model_that_it_is_here_before_it_lasts(
    bench, models, monkeypatch
):
    """Catches: a power cut while a daemon stops leaves "done" of a model whose blocks are lost."""
    store, noted = bench.holdings.content.store, []
    flush, keep = store.flush, bench.prefetch._keep

    def flushed():
        noted.append("blocks")
        flush()

    async def kept(packed):
        noted.append("file")
        await keep(packed)

    await bench.prefetch.take(bench.order(models[0]))
    await bench.done()
    monkeypatch.setattr(store, "flush", flushed)
    monkeypatch.setattr(bench.prefetch, "_keep", kept)
    await bench.prefetch.close()
    assert noted == ["blocks", "file"]


async def left_while_it_is_kept(bench, order, monkeypatch):
    """Somebody gave an order and left while it was written, which goes on when this is set."""
    begun, go, keep, kept = asyncio.Event(), asyncio.Event(), bench.prefetch._keep, []

    async def slow_disk(packed):
        kept.append(packed)
        if len(kept) == 1:
            begun.set()
            await go.wait()
        await keep(packed)

    monkeypatch.setattr(bench.prefetch, "_keep", slow_disk)
    taking = asyncio.create_task(bench.prefetch.take(order))
    await begun.wait()
    taking.cancel()
    await asyncio.wait([taking])
    assert taking.cancelled()
    return go, kept


def at_work():
    return sum(task.get_name() == "prefetch" for task in asyncio.all_tasks())


async def test_a_plan_whose_asker_left_is_not_carried_out_beside_the_next(
    bench, models, monkeypatch
):
    """Catches: the lock was given back when the asker left, while the plan was still being put
    in force: both were, and the pins and the work of the first were nobody's."""
    bench.network.slow = True
    go, kept = await left_while_it_is_kept(bench, bench.order(models[0], pin=True), monkeypatch)
    surveyed, survey = asyncio.Event(), bench.prefetch._surveyor.survey

    async def told(*args, **more):
        found = await survey(*args, **more)
        surveyed.set()
        return found

    monkeypatch.setattr(bench.prefetch._surveyor, "survey", told)
    second = asyncio.create_task(bench.prefetch.take(bench.order(models[1], pin=True)))
    await surveyed.wait()
    for _ in range(50):  # nothing else that it waits for takes more than a few turns
        await asyncio.sleep(0)
    assert len(kept) == 1, "it came in while the first was still being written"
    go.set()
    await second
    assert bench.holdings.content.pins() == {models[1].digest: 1}
    assert at_work() == 1
    assert await bench.prefetch.cancel()
    assert not bench.holdings.content.pins()
    assert not at_work()


async def test_a_plan_whose_asker_left_can_be_cancelled_at_once(bench, models, monkeypatch):
    """Catches: there is no plan to cancel, it is said, and a moment later it is in force."""
    go, _ = await left_while_it_is_kept(bench, bench.order(models[0], pin=True), monkeypatch)
    cancelling = asyncio.create_task(bench.prefetch.cancel())
    await asyncio.sleep(0)
    go.set()
    assert await cancelling
    assert not bench.holdings.content.pins()
    assert not at_work()


async def test_a_plan_whose_asker_left_does_not_begin_after_the_end(bench, models, monkeypatch):
    """Catches: a daemon that stops while a plan is written carries it out when all is closed."""
    go, _ = await left_while_it_is_kept(bench, bench.order(models[0], pin=True), monkeypatch)
    others = asyncio.all_tasks() - {asyncio.current_task()}
    closing = asyncio.create_task(bench.prefetch.close())
    await asyncio.sleep(0)
    go.set()
    await asyncio.wait([closing, *others])
    assert not at_work()
    assert kept_order(bench.file) is not None, "it goes on after the next start"
