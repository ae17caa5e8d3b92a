"""Origins and edges: the daemon's own deciders and drivers, with the network of this simulation.

A node is killed and started again with what its store held. What stands in for the HTTP face is
here too, and what a node may do wrong. This module must not decide when something goes wrong.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from greenlet import getcurrent

from icnblocks.cache.content_store import ContentStore
from icnblocks.cache.policy import make_policy
from icnblocks.cache.replay.virtual import VirtualStore
from icnblocks.errors import StorageError
from icnblocks.wire.bundle import HERE_ONLY
from icnblocks.wire.frames import Alive, End, Nack, Reason
from icnblocks.wire.havemap import HaveMap
from icnblocks_daemon.answer import Answer, Send, SendBytes
from icnblocks_daemon.config import Config
from icnblocks_daemon.fib import Fib
from icnblocks_daemon.forwarder import Forwarder
from icnblocks_daemon.holdings import Holdings
from icnblocks_daemon.http.outlet import SMALL_BYTES
from icnblocks_daemon.interests import Hint
from icnblocks_daemon.metrics import Metrics
from icnblocks_daemon.neighbours import Deals, Neighbours
from icnblocks_daemon.overflow import Overflow
from icnblocks_daemon.pit import MOST_FETCHES, Pit
from icnblocks_daemon.sibling_maps import SiblingMaps
from icnblocks_daemon.siblings import Siblings
from icnblocks_daemon.strategies import make_strategy
from icnblocks_daemon.upstreams import Upstreams
from icnblocks_daemon.via import parse_via
from tests.simulation.network import Call, CutOffError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from icnblocks.naming import Digest, Name
    from icnblocks.store.base import Verified
    from tests.simulation.network import Net
    from tests.simulation.scenario import NodePlan
    from tests.simulation.world import World


@dataclass(slots=True)
class Faults:
    """What a node does wrong at present.

    Attributes:
        corrupt: how likely the bytes of a block are wrong.
        nack: how likely it refuses what it could give.
        reason: what it says then.
        throttle_s: it answers every request that it is busy for so long; None: it does not.
        lies: its have-maps say that it holds everything (True) or nothing (False).
        full: its disk takes no more blocks.
    """

    corrupt: float = 0.0
    nack: float = 0.0
    reason: Reason = Reason.OTHER
    throttle_s: float | None = None
    lies: bool | None = None
    full: bool = False


class Store(VirtualStore):
    """A node's store: takes only what is right. It outlives the node that is killed."""

    def __init__(self, world: World, faults: Faults, *, hedges: bool, disk_s: float) -> None:
        super().__init__()
        self._hedges = hedges
        self._disk_s = disk_s
        self._world = world
        self._faults = faults

    def put(self, block: Verified) -> bool:
        """See Store; a disk takes its time."""
        world = self._world
        assert world.is_right(block.digest, block.data), f"wrong bytes of {block.digest!r} stored"
        if getcurrent() in world.threads.alive:
            world.threads.sleep(world.random.random() * self._disk_s)
        if self._faults.full:
            raise StorageError("no space left on device")
        new = super().put(block)
        assert new or self._hedges, f"{block.digest!r} was fetched though it is here"
        return new

    def read(self, digest: Digest, length: int) -> bytes | None:
        """See Store."""
        return bytes(self._world.payload(digest)) if self.length(digest) == length else None


class Incarnation:
    """A store as one life of a node sees it: of no use to threads that outlive the node."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.dead = False

    def put(self, block: Verified) -> bool:
        """See Store."""
        if self.dead:
            raise StorageError("the process is gone")
        return self._store.put(block)

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def __contains__(self, digest: Digest) -> bool:
        return digest in self._store

    def __len__(self) -> int:
        return len(self._store)


class WatchedAnswer(Answer):
    """An answer that is told of each Interest once, while it waits for it, and never after."""

    def landed(self, digest: Digest) -> None:
        """See Waiter."""
        assert digest in self._waiting, f"{digest!r} landed for one who does not wait"
        super().landed(digest)

    def refused(self, digest: Digest, reason: Reason, text: str) -> None:
        """See Waiter."""
        assert digest in self._waiting, f"{digest!r} was refused to one who does not wait"
        super().refused(digest, reason, text)

    @property
    def waiting(self) -> dict[Digest, int]:
        """Its Interests."""
        return self._waiting


class Node:
    """An origin or an edge at a URL.

    Args:
        world: where it is.
        plan: what it is like.
    """

    def __init__(self, world: World, plan: NodePlan) -> None:
        self.world = world
        self.plan = plan
        self.url = plan.url
        self.capacity = plan.capacity
        self.faults = Faults()
        self.blocks = Store(world, self.faults, hedges=plan.chooses, disk_s=plan.disk_s)
        self.most_fetches = MOST_FETCHES if plan.chooses else 1
        self.up = False
        self.lives = 0
        self.answers: dict[WatchedAnswer, None] = {}
        self._calls: dict[Call, None] = {}

    def start(self) -> None:
        """Come up, with what the store holds."""
        world, plan, clock = self.world, self.plan, self.world.loop.time
        self.lives += 1
        self.config = Config(
            Path("/nowhere"),
            upstream=plan.upstreams,
            sibling=plan.siblings,
            strategy=plan.strategy,
            capacity=self.capacity,
            policy=plan.policy,
            bundle_window=plan.window,
            negative_ttl=plan.negative_ttl,
            upstream_timeout=plan.timeout,
            upstream_retry=plan.retry,
            upstream_wait=plan.wait,
            room_wait=30.0,
            send_floor=64 * 1024,
            send_grace=3.0,
            alive_interval=1.0,
        )
        self.metrics = Metrics()
        self.fib = Fib(plan.upstreams)
        self.neighbours = Neighbours(world.random)
        self.deals = Deals(world.random)
        evicts = bool(plan.upstreams) and self.capacity is not None
        self.incarnation = Incarnation(self.blocks)
        self.content = ContentStore(
            self.incarnation,
            make_policy(plan.policy, self.capacity),
            self.capacity,
            evict=evicts,
            manifests=world.manifests.items() if evicts else (),
            now=clock(),
        )
        self.holdings = Holdings(
            self.content, VirtualStore(), clock, evicts=evicts, recall=world.manifests.get,
            overflow=Overflow(plan.overflow),
        )  # fmt: skip
        strategy = make_strategy(plan.strategy)
        node_id = f"{plan.number:08x}{self.lives:08x}"
        with world.hosting(self.url):
            self.upstreams = Upstreams(
                self.config, self.fib, strategy, self.metrics, node_id=node_id, clock=clock
            )
            self.pit = Pit(strategy, negative_s=plan.negative_ttl)
            siblings = Siblings(plan.siblings)
            self.forwarder = Forwarder(
                self.holdings, self.fib, strategy, self.pit, self.upstreams, self.metrics,
                node_id=node_id, room_wait_s=self.config.room_wait, clock=clock,
                siblings=siblings,
            )  # fmt: skip
            self.upstreams.attach(self.forwarder, self.incarnation, self.holdings.overflow)
        self.siblings = SiblingMaps(
            siblings, self.upstreams, self.holdings, world.manifests.get,
            wait_s=self.config.sibling_wait, clock=clock,
        )  # fmt: skip
        couriers = self.upstreams._couriers.values()
        self.schedulers = [courier._engine._scheduler for courier in couriers]
        self.up = True
        self.net.servers[self.url] = self
        world.log(f"{self.url} is up")

    @property
    def net(self) -> Net:
        """Where its clients are."""
        return self.world.net

    async def kill(self) -> None:
        """Vanish at once; returns when the threads have ended."""
        self.up = False
        self.incarnation.dead = True
        self.net.servers.pop(self.url, None)
        self.world.log(f"{self.url} dies")
        for call in list(self._calls):
            call.cut(f"{self.url} closed the connection")
        self.forwarder.close()
        await self.siblings.close()
        await self.upstreams.close()

    def publish(self, digests: Iterable[Digest]) -> None:
        """Take in blocks of a model that is published here."""
        now = self.world.loop.time()
        for digest in digests:
            payload = self.world.payload(digest)
            room = self.content.reserve(digest, len(payload), now)
            assert room is not None, "an origin has no budget"
            self.blocks.put_all([digest], [len(payload)])
            self.content.commit(room, now)

    def set_strategy(self, name: str) -> None:
        """As a reload of the configuration does."""
        strategy = make_strategy(name)
        self.forwarder.set_strategy(strategy)
        self.upstreams.set_strategy(strategy)

    # --- what stands in for the HTTP face -------------------------------------------------------

    def throttled(self) -> float | None:
        """Seconds for which it answers 429, or None."""
        return self.faults.throttle_s

    def have(self, manifest: Digest, name: Name | None) -> HaveMap:
        """See http/have.py."""
        blocks = self.world.manifests[manifest].lengths()
        contains, lies = self.holdings.contains, self.faults.lies
        flags = bytes(contains(digest) if lies is None else lies for digest in blocks)
        return HaveMap(flags, lies is None and bool(self.fib.route(name)))

    def take(self, call: Call) -> None:
        """A bundle is asked for."""
        self._calls[call] = None
        call.task = self.world.loop.create_task(self._answer(call))
        call.task.add_done_callback(lambda _: self._calls.pop(call))
        call.task.add_done_callback(self.world.check_task)

    async def _answer(self, call: Call) -> None:
        """See http/bundles.py."""
        asked = call.request
        if asked.manifest is not None:
            self.holdings.requested(asked.manifest, asked.pull)
        if asked.manifest is not None and asked.hops != HERE_ONLY and self.plan.siblings:
            await self.siblings.look(asked.manifest)
        via = parse_via(call.via)
        hint = Hint(asked.name, asked.manifest, asked.hops, via, asked.priority, asked.order)
        answer = WatchedAnswer(
            asked.wants,
            hint,
            self.holdings,
            self.forwarder,
            self.config.bundle_window,
            SMALL_BYTES,
        )
        self.answers[answer] = None
        try:
            await self._run(answer, call)
        except CutOffError:
            call.cut(f"{self.url} cut off a slow reader")
        finally:
            answer.close()
            del self.answers[answer]

    async def _run(self, answer: WatchedAnswer, call: Call) -> None:
        for _ in call.request.wants:
            while (step := answer.next()) is None:
                with suppress(TimeoutError):
                    async with asyncio.timeout(self.config.alive_interval):
                        await answer.news()
                        continue
                await call.say(Alive())
            if isinstance(step, Send):
                with step.lease:
                    await self._send(step.index, step.lease.length, call, waited=step.waited)
                self.forwarder.room_freed()
            elif isinstance(step, SendBytes):
                await self._send(step.index, len(step.data), call, waited=False)
            else:
                self.metrics.nacks.labels(step.reason.name.lower()).inc()
                await call.say(Nack(step.index, step.reason, step.text))
        await call.say(End())

    async def _send(self, index: int, length: int, call: Call, *, waited: bool) -> None:
        world, faults = self.world, self.faults
        if world.random.random() < faults.nack:
            await call.say(Nack(index, faults.reason, "as scripted"))
        else:
            payload = world.payload(call.request.wants[index].digest)
            if world.random.random() < faults.corrupt:
                payload = world.corrupted(payload)
            allowed_s = self.config.send_grace + length / self.config.send_floor
            await call.send(index, payload, allowed_s)
        self.metrics.sent_bytes.inc(length)
        self.metrics.sent_blocks.inc()
        if not waited:
            self.metrics.hits.inc()
            self.metrics.hit_bytes.inc(length)
