"""Runs a scenario to its end: nodes, devices, faults, and a second pull when all is well again.

`run(seed)` raises `FailedError`, which tells the seed, the scenario, what was wrong and the last
things that happened. This module must not decide what is right: the checks do.
"""

from __future__ import annotations

import asyncio
import traceback
from collections import deque
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final
from unittest import mock

from icnblocks.cache.policy import POLICIES, make_policy
from icnblocks.client import engine as engine_module
from icnblocks.client import neighbourly as neighbourly_module
from icnblocks.client import pacing as pacing_module
from icnblocks.client.engine import Engine
from icnblocks.limits import MIB
from icnblocks.manifest.model import File, Kind, Manifest, Run
from icnblocks.naming import Digest
from icnblocks.wire.frames import Reason
from icnblocks_daemon import couriers as couriers_module
from icnblocks_daemon import upstreams as upstreams_module
from icnblocks_daemon.strategies import STRATEGIES
from tests.simulation import sharing
from tests.simulation.checks import Checks
from tests.simulation.devices import Device
from tests.simulation.network import Link, Net, SimSource
from tests.simulation.nodes import Node
from tests.simulation.scenario import HEALED_S, Scenario, scenario
from tests.simulation.virtual import StuckError, Threads, VirtualLoop

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.simulation.scenario import FaultPlan

PULL_S: Final = 400.0
"""A pull has ended so long after the last fault, one way or the other."""
QUIET_S: Final = 90.0
"""Longer than anybody is left alone after a failure, or a refusal is remembered."""
_POOL: Final = memoryview(Random(1).randbytes(4 * MIB))
_REASONS: Final = (Reason.BUSY, Reason.UPSTREAM, Reason.OTHER, Reason.NOT_FOUND, Reason.NO_SPACE)


class FailedError(AssertionError):
    """A scenario in which something was wrong."""


class World:
    """Everything that there is in one scenario.

    Args:
        plan: the scenario.
    """

    def __init__(self, plan: Scenario) -> None:
        self.plan = plan
        self.random = Random(plan.seed)
        self.loop = VirtualLoop()
        self.threads = Threads(self.loop, self.random, plan.yields)
        self.events: deque[str] = deque(maxlen=60)
        self.net = Net(self.loop, self.threads, self._link, self.log)
        self._payloads: dict[Digest, memoryview] = {}
        self.digests: list[Digest] = []
        for number, length in enumerate(plan.lengths):
            payload = _POOL[number * 4096 : number * 4096 + length]
            digest = Digest.of(payload)
            self.digests.append(digest)
            self._payloads[digest] = payload
        self.manifests: dict[Digest, Manifest] = {}
        self.models: list[Digest] = []
        for model in plan.models:
            digest = Digest.of(model.name.encode())
            self.models.append(digest)
            self.manifests[digest] = self._manifest(model.blocks)
        self.nodes = {each.url: Node(self, each) for each in plan.nodes}
        for node in self.nodes.values():
            held = list(dict.fromkeys(self.digests[number] for number in sorted(node.plan.holds)))
            node.blocks.put_all(held, [len(self._payloads[digest]) for digest in held])
        self.devices = [Device(self, each) for each in plan.devices]
        self.failures: list[BaseException] = []
        self.checks = Checks(self)
        self.loop.step = self.checks.step
        self.loop.set_exception_handler(self._wrong)
        self._host = ""

    def log(self, text: str) -> None:
        """Remember what happened, for the report of a failure."""
        self.events.append(f"{self.loop.time():10.4f} {text}")

    def payload(self, digest: Digest) -> memoryview:
        """The bytes of a block."""
        return self._payloads[digest]

    def is_right(self, digest: Digest, data: bytes | memoryview) -> bool:
        """Whether these are the bytes of a block."""
        right = self._payloads[digest]
        return data is right or bytes(data) == bytes(right)

    @staticmethod
    def corrupted(payload: memoryview) -> memoryview:
        """The same with one byte changed."""
        wrong = bytearray(payload)
        wrong[len(wrong) // 2] ^= 1
        return memoryview(wrong)

    def check_task(self, task: asyncio.Task[None]) -> None:
        """Nobody's task fails unread."""
        if not task.cancelled() and task.exception() is not None:
            self.failures.append(task.exception())

    def engine(self, *args: Any, kind: type[Engine] = Engine, **kwargs: Any) -> Engine:
        """A fetch engine in this world."""
        made = kind(
            *args, clock=self.loop.time, random=Random(self.random.getrandbits(32)), **kwargs
        )
        self.checks.engines.append(made)
        return made

    @contextmanager
    def hosting(self, host: str) -> Iterator[None]:
        """Sources that are made meanwhile are of this host."""
        self._host, before = host, self._host
        yield
        self._host = before

    def source(self, url: str, options: Any) -> SimSource:
        """See Source."""
        return SimSource(self.net, self._host, url, options)

    def _link(self, host: str, url: str) -> Link:
        rates = (self.plan.rates.get(end, self.plan.rate) for end in (host, url))
        return Link(self.loop, min(rates), self.plan.latency)

    def _manifest(self, numbers: tuple[int, ...]) -> Manifest:
        files = [
            File(f"f{at:02}", length, (Run(0, length, at),))
            for at, length in enumerate(self.plan.lengths[number] for number in numbers)
        ]
        packed = b"".join(self.digests[number] for number in numbers)
        return Manifest(kind=Kind.BASE, block_bytes=MIB, files=tuple(files), digests=packed)

    def _wrong(self, _loop: object, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.failures.append(error or AssertionError(context["message"]))

    def patience_s(self) -> float:
        """For how long a pull that begins now may last."""
        return max(HEALED_S - self.loop.time(), 0.0) + PULL_S

    # --- the story ------------------------------------------------------------------------------

    def run(self) -> None:
        """Until its end."""
        with ExitStack() as stack:
            for module, name, value in (
                (engine_module, "threading", self.threads),
                (pacing_module, "threading", self.threads),
                (couriers_module, "Engine", self.engine),
                (neighbourly_module, "listen", sharing.listen),
                (neighbourly_module, "deal", sharing.deal),
                (upstreams_module, "Source", self.source),
            ):
                stack.enter_context(mock.patch.object(module, name, value))
            stack.callback(self._clean_up)
            self.loop.run_until_complete(self._story())

    def _clean_up(self) -> None:
        """End what is left of a world that failed; there is nothing where all went well."""
        self.loop.step = lambda: None
        self.threads.end()
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        if tasks:
            with suppress(StuckError):
                self.loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self.loop.close()
        for engine in self.checks.engines:
            for lane in engine._lanes:
                lane.buffer = memoryview(b"")  # or it stays until the garbage is collected

    async def _story(self) -> None:
        for node in self.nodes.values():
            node.start()
        async with asyncio.TaskGroup() as group:
            for device in self.devices:
                group.create_task(device.live())
            for fault in self.plan.faults:
                group.create_task(self._fault(fault))
        await asyncio.sleep(max(0.0, HEALED_S + QUIET_S - self.loop.time()))
        await self._again()
        await asyncio.sleep(self.plan.latency * 4 + 1.0)
        self.checks.quiet()
        for node in self.nodes.values():
            if node.up:
                await node.kill()
        assert not self.threads.alive, f"threads that did not end: {self.threads.alive.values()}"

    async def _again(self) -> None:
        """Now that all is well, everybody gets what there is."""
        self.log("all is well")
        async with asyncio.TaskGroup() as group:
            for device in self.devices:
                group.create_task(device.pull_again())

    async def _fault(self, fault: FaultPlan) -> None:
        await asyncio.sleep(fault.at)
        self.log(f"fault: {fault}")
        node = self.nodes.get(fault.where)
        match fault.kind:
            case "kill" | "die" | "shrink":
                await self._kill(fault, node)
            case "part":
                links = self.net.links(fault.where)
                for link in links:
                    link.part()
                await asyncio.sleep(fault.lasts)
                for link in links:
                    link.mend()
            case "reset":
                for link in self.net.links(fault.where):
                    link.reset()
            case "resets":
                until = self.loop.time() + fault.lasts
                while self.loop.time() < until:
                    for link in self.net.links(fault.where):
                        link.reset()
                    await asyncio.sleep(0.05 + self.random.random())
            case "policy":
                name = sorted(POLICIES)[fault.how % len(POLICIES)]
                if node.up:
                    policy = make_policy(name, node.capacity)
                    node.content.set_policy(policy, self.loop.time(), self.manifests.items())
            case "strategy":
                if node.up:
                    node.set_strategy(sorted(STRATEGIES)[fault.how % len(STRATEGIES)])
            case "publish":
                self._publish(fault, node)
            case _:
                await self._misbehave(fault, node)

    async def _kill(self, fault: FaultPlan, node: Node) -> None:
        if not node.up:
            return
        await node.kill()
        if fault.kind == "die" and fault.how % 2:
            return  # for good
        await asyncio.sleep(fault.lasts)
        if fault.kind == "shrink" and node.capacity is not None:
            node.capacity = max(*self.plan.lengths, node.capacity // 2)
        if not node.up:
            node.start()

    def _publish(self, fault: FaultPlan, node: Node) -> None:
        """What was not there is there now."""
        if node.up and not node.plan.upstreams:
            lacking = [each for each in dict.fromkeys(self.digests) if each not in node.blocks]
            node.publish(lacking[: fault.how % (len(lacking) + 1)])

    async def _misbehave(self, fault: FaultPlan, node: Node) -> None:
        faults = node.faults
        match fault.kind:
            case "corrupt":
                faults.corrupt = fault.amount
            case "nack":
                faults.nack, faults.reason = fault.amount, _REASONS[fault.how % len(_REASONS)]
            case "throttle":
                faults.throttle_s = fault.amount
            case "lie":
                faults.lies = bool(fault.how % 2)
            case "full":
                faults.full = True
        await asyncio.sleep(fault.lasts)
        match fault.kind:
            case "corrupt":
                faults.corrupt = 0.0
            case "nack":
                faults.nack = 0.0
            case "throttle":
                faults.throttle_s = None
            case "lie":
                faults.lies = None
            case "full":
                faults.full = False


def run(seed: int | Scenario) -> World:
    """Run the world of a seed.

    Raises:
        FailedError: if anything was wrong in it.
    """
    plan = scenario(seed) if isinstance(seed, int) else seed
    world = World(plan)
    try:
        world.run()
    except BaseException as error:
        if not isinstance(error, Exception):
            raise
        told = "\n".join((*world.events, "", str(plan), "", *_causes(error)))
        raise FailedError(f"seed {plan.seed} fails:\n{told}") from error
    return world


def _causes(error: BaseException) -> list[str]:
    if isinstance(error, BaseExceptionGroup):
        return [line for each in error.exceptions for line in _causes(each)]
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    where = " < ".join(f"{Path(at.filename).name}:{at.lineno}" for at in reversed(frames))
    return [f"{type(error).__name__}: {error} ({where})"]
