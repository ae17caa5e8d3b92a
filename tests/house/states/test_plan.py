"""docs/states/plan.toml, row by row, against the daemon's prefetch on a clock of its own."""

import asyncio

import pytest

from icnblocks.errors import NotFoundError, RefusedError
from icnblocks.naming import Name
from icnblocks.testing.exchange import make_model
from icnblocks_daemon.prefetch import kept_order
from icnblocks_daemon.prefetch_order import Entry, Order
from icnblocks_daemon.prefetch_pace import UNDER_WAY_BLOCKS, Window
from tests.daemon.test_prefetch_driver import Bench
from tests.house.states.driving import drive_async, rows_of

MODELS = [make_model(f"acme/plan{n}", size=2_000_000, seed=60 + n) for n in range(4)]
CAPACITY = 5_000_000
NIGHT = Window.parse("01:00-05:00")
OPEN, CLOSED = 2 * 3600.0, 12 * 3600.0


class Scene:
    """Pins one model of two, the second larger than what may be under way at once."""

    def __init__(self, row, path):
        self.row = row
        self.path = path
        self.done = []
        self.follows = 0
        self.bench = None
        self.make()

    def make(self):
        path = self.path / ("first" if self.bench is None else "second")
        path.mkdir()
        if self.bench is not None and self.bench.file.exists():
            (path / "prefetch.json").write_bytes(self.bench.file.read_bytes())
        clock = None if self.bench is None else self.bench.clock.now
        self.bench = Bench(path, MODELS, capacity=CAPACITY)
        self.bench.clock.now = OPEN if clock is None else clock
        self.bench.network.slow = True
        self.watch_names()

    def watch_names(self):
        get = self.bench.network.get

        async def noted(what, name=None):
            self.follows += isinstance(what, Name)
            return await get(what, name)

        self.bench.network.get = noted

    async def state(self):
        return self.bench.prefetch.status()["state"]

    async def until(self, state):
        await self.bench.until(lambda: self.bench.prefetch.status()["state"] == state)

    def order(self, *models, ident="new", pin=False, **terms):
        entries = [Entry(str(model.name), pin, model.name) for model in models]
        entries[0].pin = self.row.condition != "plain"
        return Order(ident, entries, **terms)

    # --- states

    async def in_none(self):
        pass

    async def in_fetching(self):
        window = NIGHT if self.row.event == "closes" else None
        await self.bench.prefetch.take(self.order(*MODELS[:2], ident="old", window=window))
        await self.bench.until(lambda: len(self.bench.network.waiting) == UNDER_WAY_BLOCKS)

    async def in_waiting(self):
        if self.row.condition == "retry":
            await self.in_fetching()
            await self.fail(gone=True)
            await self.until("waiting")
            self.bench.network.gone = False
            return
        self.bench.clock.now = CLOSED
        await self.bench.prefetch.take(self.order(*MODELS[:2], ident="old", window=NIGHT))
        await self.until("waiting")

    async def in_done(self):
        await self.in_fetching()
        await self.deliver_all()
        await self.until("done")

    async def in_cancelled(self):
        await self.in_fetching()
        await self.bench.prefetch.cancel()
        self.bench.network.waiting.clear()

    async def deliver_all(self):
        self.bench.network.slow = False
        for fetch in self.take_waiting():
            self.bench.network.deliver(fetch)

    def take_waiting(self):
        waiting, self.bench.network.waiting = self.bench.network.waiting, []
        return waiting

    async def fail(self, *, gone):
        """All that is under way is refused, and what follows as well."""
        network = self.bench.network
        network.slow, network.gone = False, gone
        while not gone and network.blocks:
            network.blocks.popitem()
        for fetch in self.take_waiting():
            self.refuse(fetch)
        if not gone:
            network.deliver = self.refuse

    def refuse(self, fetch):
        if self.bench.network.gone:
            self.bench.network.deliver(fetch)
        else:
            self.bench.network.desk.refused(fetch, NotFoundError("no such block"))

    # --- events, each with a look at what was done

    async def watched(self, act):
        follows, asked = self.follows, len(self.bench.network.asked)
        file = self.bench.file.read_bytes() if self.bench.file.exists() else b""
        pins = self.pins()
        under_way = set(self.bench.forwarder._pending)
        await act()
        network = self.bench.network
        if self.follows > follows:
            self.done.append("follow")
        if under_way and not under_way & self.bench.forwarder._pending.keys():
            self.done.append("stop")
        if self.bench.file.exists() and self.bench.file.read_bytes() != file:
            self.done.append("keep")
        if self.pins() - pins:
            self.done.append("pin")
        elif pins and not self.pins():
            self.done.append("release")
        elif pins > self.pins() == {MODELS[0].digest}:
            self.done.append("release-spare")
        if len(network.asked) > asked:
            self.done.append("ask")
        if self.bench.prefetch.status(failures=True).get("failures"):
            self.done.append("note")

    def pins(self):
        return set(self.bench.holdings.content.pins())

    async def on_put(self):
        await self.watched(self.put)

    async def put(self):
        if self.row.condition == "unfit":
            try:
                await self.bench.prefetch.take(self.order(*MODELS[:3], pin=True))
            except RefusedError:
                self.done.append("refuse")
            return
        self.bench.network.slow = True
        await self.bench.prefetch.take(self.order(*MODELS[2:]))
        await self.bench.until(lambda: self.bench.network.waiting)
        digests = {digest for model in MODELS[2:] for digest in model.blocks}
        await self.bench.until(
            lambda: any(fetch.digest in digests for fetch in self.bench.network.waiting)
        )

    async def on_deleted(self):
        await self.watched(self.bench.prefetch.cancel)

    async def on_landed(self):
        async def act():
            await self.deliver_all()
            await self.until("done")

        await self.watched(act)
        self.finished()

    def finished(self):
        """What was under way ended by itself, and what was still to be asked for was asked."""
        self.done = [one for one in self.done if one not in {"stop", "ask"}]

    async def on_lost(self):
        async def act():
            await self.fail(gone=False)
            await self.until("done")

        await self.watched(act)
        self.finished()
        # Here that is all of them: the pinned one cannot be had either.
        self.done = ["release-lost" if one == "release" else one for one in self.done]

    async def on_failed(self):
        async def act():
            await self.fail(gone=True)
            await self.until("waiting")

        await self.watched(act)
        self.finished()

    async def on_closes(self):
        async def act():
            self.bench.clock.now = CLOSED
            fetch = self.bench.network.waiting.pop(0)
            self.bench.network.deliver(fetch)
            await self.until("waiting")

        await self.watched(act)
        self.finished()

    async def on_due(self):
        async def act():
            self.bench.clock.now = OPEN
            await self.until("fetching")
            await self.bench.until(lambda: self.bench.network.waiting)

        await self.watched(act)

    async def on_restarted(self):
        await self.bench.close()
        self.make()

        async def act():
            order = kept_order(self.bench.file)
            self.bench.prefetch.start(order, set())
            if order is None or order.finished():
                await asyncio.sleep(0)
                return
            await self.bench.until(lambda: len(self.pins()) == 2)
            await self.until(self.row.target)
            if self.row.target == "fetching":
                await self.bench.until(lambda: self.bench.network.waiting)

        await self.watched(act)


@pytest.fixture
async def scene_of(tmp_path):
    made = []

    def make(row):
        made.append(Scene(row, tmp_path))
        return made[0]

    yield make
    for scene in made:
        await scene.bench.close()


@rows_of("plan")
async def test_a_plan_is_carried_out_as_the_document_says(row, scene_of):
    await drive_async(scene_of(row), row)
