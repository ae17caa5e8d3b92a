"""Devices: the fetch engine as a pull uses it, and a sink that checks what it is given.

This module must not know what is wrong with the network.
"""

from __future__ import annotations

import asyncio
from enum import IntEnum
from typing import TYPE_CHECKING

from icnblocks.client.endpoint import SourceOptions
from icnblocks.client.engine import Catalogued, EngineOptions, Hint
from icnblocks.client.neighbourly import NeighbourlyEngine
from icnblocks.errors import SourceError
from icnblocks.naming import Name
from icnblocks.wire.bundle import Order, Want
from tests.simulation.sharing import PORT, Offer, meet

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from icnblocks.client.engine import Engine
    from icnblocks.errors import IcnError
    from icnblocks.naming import Digest
    from icnblocks.store.base import Verified
    from tests.simulation.scenario import DevicePlan
    from tests.simulation.world import World


class Reach(IntEnum):
    """Whether a block can be had: surely not, perhaps where somebody is down, perhaps, surely."""

    NOWHERE = 0
    UNKNOWN = 1
    PERHAPS = 2
    SURE = 3


class Device:
    """Pulls a model, and once more what it did not get.

    Args:
        world: where it is.
        plan: what it is like.
    """

    def __init__(self, world: World, plan: DevicePlan) -> None:
        self.world = world
        self.plan = plan
        self.manifest = world.models[plan.model]
        self.name = Name.parse(world.plan.models[plan.model].name)
        lengths = world.manifests[self.manifest].lengths()
        self.mistaken = set(list(lengths)[: plan.mistakes])
        self.wants = {
            digest: Want(digest, length + (digest in self.mistaken))
            for digest, length in lengths.items()
        }
        self.accepted: set[Digest] = set()
        self.refused: dict[Digest, IcnError] = {}
        self.open: set[Digest] = set()
        self.ended: list[float] = []  # when each pull did
        self.pulls = 0
        self.offer = Offer(self) if plan.shares else None

    async def live(self) -> None:
        """Pull, as planned."""
        plan, world = self.plan, self.world
        await asyncio.sleep(plan.begins)
        if self.offer is not None:
            self.offer.open()
        hint = self._hint()
        engine = self._engine(hint)
        pulling = self._pull(engine, hint, list(self.wants.values()))
        if plan.leaves is not None:
            world.loop.call_later(plan.leaves, self._leave, engine)
        if plan.cancels:
            world.loop.call_later(0.5, self._cancel, engine)
        if isinstance(engine, NeighbourlyEngine):
            await meet(self, engine, pulling)
        await pulling

    def _leave(self, engine: Engine) -> None:
        self.world.threads.spawn(engine.close, "leaving")
        if self.offer is not None:
            self.offer.close()

    async def pull_again(self) -> None:
        """Get what is still missing: everything that can be had, and nothing else."""
        had = self.accepted | self.mistaken
        missing = [want for digest, want in self.wants.items() if digest not in had]
        if not missing:
            return
        self.refused.clear()
        before = {want.digest: self._reach(want.digest) for want in missing}
        hint = self._hint()
        await self._pull(self._engine(hint), hint, missing)
        for digest, reach in before.items():
            if digest in self.accepted:
                known = {reach, self._reach(digest)}
                found = known != {Reach.NOWHERE} or self.plan.shares
                assert found, f"{self.plan.host} got what there is not"
            elif reach is Reach.SURE and Reach.UNKNOWN not in before.values():
                why = self.refused[digest]
                raise AssertionError(f"{self.plan.host} was refused what there is: {why}")

    def _reach(self, digest: Digest) -> Reach:
        """Whether a block can be had, by whom the sources may ask."""
        nodes = self.world.nodes

        def of(url: str, passed: tuple[str, ...]) -> Reach:
            node = nodes[url]
            if not node.up:
                return Reach.UNKNOWN
            if digest in node.blocks:
                return Reach.SURE if node.capacity is None else Reach.PERHAPS
            route = [each for each in node.fib.route(self.name) if each not in (*passed, url)]
            near = any(digest in nodes[each].blocks for each in node.plan.siblings)
            least = Reach.PERHAPS if near else Reach.NOWHERE  # siblings give what they hold
            return max([least, *(of(each, (*passed, url)) for each in route)])

        return max(of(url, ()) for url in self.plan.sources)

    def _hint(self) -> Hint:
        self.pulls += 1
        pull = bytes([*self.plan.host.encode(), self.pulls]).ljust(16)
        return Hint(self.name, self.manifest, pull)

    def _engine(self, hint: Hint) -> Engine:
        plan, world = self.plan, self.world
        options = SourceOptions(connect_s=3.0, stall_s=5.0, patience_s=40.0)
        with world.hosting(plan.host):
            sources = [world.source(url, options) for url in plan.sources]
        if self.offer is not None:
            about = Catalogued(self.manifest, self.name, list(self.wants))
            how = EngineOptions(plan.connections, 20.0, limit_rate=plan.limit_rate)
            return world.engine(sources, self, about, hint, PORT, how, kind=NeighbourlyEngine)
        order = Order.LISTED if plan.ordered else Order.ANY
        how = EngineOptions(plan.connections, 20.0, order=order, limit_rate=plan.limit_rate)
        return world.engine(sources, self, how)

    def _pull(self, engine: Engine, hint: Hint, wants: list[Want]) -> asyncio.Future[None]:
        """Ends when every want has ended."""
        plan, world, done = self.plan, self.world, self.world.loop.create_future()
        self.open = {want.digest for want in wants}
        blocks: Callable[[], list[Digest]] | None = None
        if plan.maps:
            blocks = lambda: list(self.wants)  # noqa: E731

        def work() -> None:
            left = False
            try:
                each = -(-len(wants) // plan.connections)  # as icnblocks.filling adds them
                for part in range(plan.connections):
                    some = wants[part * each : (part + 1) * each]
                    engine.add(some, hint, None if part else blocks, part=part)
                ended = engine.wait(world.patience_s())
                assert ended, f"{plan.host} waits for {len(self.open)} blocks for ever"
            except SourceError:
                left = True  # it was closed
            except Exception as error:
                end(error)
                return
            engine.close()
            self.ended.append(world.loop.time())
            world.log(f"{plan.host} has {len(self.accepted)} of {len(self.wants)}")
            lost = bool(self.open) and not left
            end(AssertionError(f"wants of {plan.host} did not end") if lost else None)

        def end(error: Exception | None) -> None:
            if done.done():
                return  # the world has ended before
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)

        world.log(f"{plan.host} pulls {len(wants)} blocks")
        world.threads.spawn(work, plan.host)
        return done

    def _cancel(self, engine: Engine) -> None:
        some = [digest for digest in self.wants if digest in self.open]
        ended = engine.cancel(some[: int(len(some) * self.plan.cancels)])
        assert len(set(ended)) == len(ended)
        for digest in ended:
            assert digest in self.open, f"{digest!r} was cancelled after its end"
            self.open.remove(digest)

    # --- the sink -------------------------------------------------------------------------------

    def accept(self, blocks: Sequence[Verified]) -> None:
        """See Sink."""
        for block in blocks:
            digest = block.digest
            self._end(digest)
            assert digest not in self.mistaken, f"{digest!r} has another length"
            assert self.world.is_right(digest, block.data), f"{digest!r} has wrong bytes"
            self.accepted.add(digest)
        if self.plan.pause_s:
            self.world.threads.sleep(self.plan.pause_s * self.world.random.random())

    def refuse(self, want: Want, error: IcnError) -> None:
        """See Sink."""
        self._end(want.digest)
        self.refused[want.digest] = error

    def _end(self, digest: Digest) -> None:
        assert digest in self.open, f"{digest!r} ended twice, or was never wanted"
        self.open.remove(digest)
