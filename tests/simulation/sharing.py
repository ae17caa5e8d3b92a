"""Devices that serve each other: what a sharing device offers, and how it meets its neighbours.

The engine, its scheduler, the edge's list of neighbours and its deals are the product's own; this
stands in for the requests between them. This module must not decide whom to ask for what.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from icnblocks.client.neighbours import NEIGHBOUR_OPTIONS
from icnblocks.errors import SourceError
from icnblocks.wire.frames import End, Nack, Reason
from icnblocks.wire.havemap import HaveMap
from icnblocks_daemon.neighbours import Neighbour
from tests.simulation.network import CutOffError, SimSource

if TYPE_CHECKING:
    from icnblocks.client.neighbourly import NeighbourlyEngine
    from icnblocks.naming import Digest, Name
    from tests.simulation.devices import Device
    from tests.simulation.network import Call, SimConnection

PORT: Final = 4261
_MEET_S: Final = 0.5
_LOOK_S: Final = 0.1
_ALLOWED_S: Final = 5.0


class Offer:
    """What a device serves of the model that it pulls: what it has of it, verified.

    Args:
        device: whose.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._world = device.world
        self.url = f"http://{device.plan.host}:{PORT}"
        self._calls: dict[Call, None] = {}

    def open(self) -> None:
        """Serve from now on."""
        self._world.net.servers[self.url] = self

    def close(self) -> None:
        """Vanish."""
        self._world.net.servers.pop(self.url, None)
        for call in list(self._calls):
            call.cut(f"{self.url} closed the connection")

    def throttled(self) -> float | None:
        """It never says that it is busy."""
        return None

    def have(self, manifest: Digest, _name: Name | None) -> HaveMap:
        """Which blocks it holds, or says that it holds."""
        assert manifest == self._device.manifest
        boasts, accepted = self._device.plan.boasts, self._device.accepted
        return HaveMap(bytes(boasts or each in accepted for each in self._device.wants), False)

    def take(self, call: Call) -> None:
        """A bundle is asked for."""
        self._calls[call] = None
        call.task = self._world.loop.create_task(self._answer(call))
        call.task.add_done_callback(self._world.check_task)

    async def _answer(self, call: Call) -> None:
        device, world = self._device, self._world
        try:
            for index, want in enumerate(call.request.wants):
                payload = world.payload(want.digest)
                if want.digest not in device.accepted or len(payload) != want.length:
                    await call.say(Nack(index, Reason.NOT_FOUND, "not here, or not of this length"))
                    continue
                if world.random.random() < device.plan.corrupts:
                    payload = world.corrupted(payload)
                await call.send(index, payload, _ALLOWED_S)
            await call.say(End())
        except CutOffError:
            call.cut(f"{self.url} cut off a slow reader")
        finally:
            del self._calls[call]


async def meet(device: Device, engine: NeighbourlyEngine, pulling: asyncio.Future[None]) -> None:
    """Tell the edges of this device, and let the engine ask those whom they tell of."""
    world, plan = device.world, device.plan
    me, met = Neighbour(plan.host, PORT), set[str]()
    while not pulling.done():
        for url in plan.sources:
            node = world.nodes[url]
            if not node.up or world.net.link(plan.host, url).parted:
                continue
            now = world.loop.time()
            assert node.neighbours.announce(device.manifest, me, now)
            for other in node.neighbours.some(device.manifest, now, me):
                name = f"http://{other.address}:{other.port}"
                if name not in met:
                    met.add(name)
                    engine.join(SimSource(world.net, plan.host, name, NEIGHBOUR_OPTIONS))
        await asyncio.sleep(_MEET_S)


def listen(
    connection: SimConnection, manifest: Digest, count: int, known: int, wait_s: float, port: int
) -> HaveMap:
    """See icnblocks.client.neighbours."""
    assert port == PORT
    source = connection.source
    offer = source.reach(connection)
    until = source.net.loop.time() + wait_s
    while True:
        have = offer.have(manifest, None)
        assert len(have.flags) == count
        if have.held > known or source.net.loop.time() >= until:
            return have
        connection.pause(source.net.threads, _LOOK_S)
        if source.net.servers.get(source.url) is not offer:
            raise SourceError(f"{source.url} closed the connection")


def deal(
    connection: SimConnection, manifest: Digest, name: Name | None, had: bytes, most: int
) -> list[int] | None:
    """See icnblocks.client.neighbours."""
    del name
    node: Any = connection.source.reach(connection)
    node.deals.learn(manifest, len(had))
    dealt: list[int] = node.deals.deal(manifest, had, most)
    return dealt
