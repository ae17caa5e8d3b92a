"""`/v1/manifests/{digest}/neighbours` and `deal`: devices that serve each other, told of it.

A device is announced under the address that its connection comes from and no other, so nobody can
send devices elsewhere. What came through a proxy is refused: its address is the proxy's.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
from random import SystemRandom
from typing import TYPE_CHECKING, Final

from aiohttp import web

from icnblocks.errors import FormatError, RefusedError, UsageError
from icnblocks.limits import KIB, MAX_HAVE_BYTES, MAX_WANTS
from icnblocks.manifest.codec import decode
from icnblocks.naming import Digest
from icnblocks.wire.bundle import pack_indexes
from icnblocks.wire.havemap import decode_have
from icnblocks_daemon.access import FORWARDED
from icnblocks_daemon.http.body import read_body
from icnblocks_daemon.http.clients import client_of
from icnblocks_daemon.http.names import MANIFEST_PATH, hint_of
from icnblocks_daemon.http.problems import BusyServerError
from icnblocks_daemon.neighbours import Deals, Neighbour, Neighbours

if TYPE_CHECKING:
    from collections.abc import Iterator

    from icnblocks.naming import Name
    from icnblocks_daemon.node import Node

_PATH: Final = f"{MANIFEST_PATH}/neighbours"
_MAX_BODY: Final = 4 * KIB


class NeighbourFace:
    """Tells devices of each other, and deals them different blocks."""

    def __init__(self, node: Node) -> None:
        self._node = node
        random = SystemRandom()
        self._neighbours = Neighbours(random)
        self._deals = Deals(random)
        self._learning = asyncio.Lock()
        self._told = self._dealt = 0
        node.metrics.observe(self._figures)

    def _figures(self) -> Iterator[tuple[str, str, float]]:
        holding = self._neighbours.holding(self._node.clock())
        yield "icn_neighbours", "Announcements of devices that hold now", holding
        yield "icn_neighbours_told_total", "Devices that others were told of", self._told
        yield "icn_dealt_blocks_total", "Blocks that devices were told to ask for here", self._dealt

    def routes(self) -> list[web.RouteDef]:
        """The endpoints of this module."""
        return [
            web.post(_PATH, self.post),
            web.delete(_PATH, self.delete),
            web.post(f"{MANIFEST_PATH}/deal", self.deal),
        ]

    async def post(self, request: web.Request) -> web.StreamResponse:
        """Announce the device that asks, and tell it of some others."""
        digest = await self._known(request)
        address = _address(request)
        who = Neighbour(address, _port(await read_body(request, _MAX_BODY)))
        if not self._neighbours.announce(digest, who, self._node.clock(), client_of(request)):
            raise BusyServerError("too many devices are announced here")
        return self._listed(digest, who)

    async def delete(self, request: web.Request) -> web.StreamResponse:
        """Take leave."""
        self._check_on()
        digest = Digest.parse(request.match_info["digest"])
        who = Neighbour(_address(request), _read_port(request.query.get("port")))
        self._neighbours.leave(digest, who)
        return web.json_response({"left": True})

    async def deal(self, request: web.Request) -> web.StreamResponse:
        """Say which blocks this daemon would best be asked for."""
        digest = await self._known(request)
        most = request.query.get("most", "")
        number = int(most) if most.isascii() and most.isdigit() and len(most) < 10 else 0
        if not 1 <= number <= MAX_WANTS:
            raise UsageError(f"most is a number from 1 to {MAX_WANTS}")
        raw = await read_body(request, MAX_HAVE_BYTES)
        count = self._deals.count(digest)
        if count is None:
            count = await self._learn(digest, hint_of(request))
        dealt: list[int] = []
        if self._deals.deals(count):  # the map of a larger one would take long to read
            dealt = self._deals.deal(digest, decode_have(raw, count).flags, number)
        self._dealt += len(dealt)
        return web.Response(
            body=pack_indexes(dealt),
            content_type="application/octet-stream",
        )

    async def _learn(self, digest: Digest, hint: Name | None) -> int:
        """How many blocks a model has: one is counted at a time, once for all who begin with it."""
        async with self._learning:
            count = self._deals.count(digest)
            if count is None:
                manifest = await self._node.manifests.get(digest, hint)  # it is here: see _known
                count = await asyncio.to_thread(lambda: len(decode(manifest).lengths()))
                self._deals.learn(digest, count)
            return count

    async def _known(self, request: web.Request) -> Digest:
        """The manifest that is asked about; nothing is kept about one that nobody can get here."""
        self._check_on()
        digest = Digest.parse(request.match_info["digest"])
        if digest not in self._node.manifests:
            await self._node.manifests.get(digest, hint_of(request))
        return digest

    def _check_on(self) -> None:
        if not self._node.config.neighbours:
            raise RefusedError("this daemon does not tell devices of each other")

    def _listed(self, digest: Digest, but: Neighbour) -> web.Response:
        some = self._neighbours.some(digest, self._node.clock(), but)
        self._told += len(some)
        listed = [
            f"[{each.address}]:{each.port}"
            if ":" in each.address
            else f"{each.address}:{each.port}"
            for each in some
        ]
        told = {"neighbours": listed, "ttl": self._neighbours.ttl_s}
        return web.json_response(told)


def _address(request: web.Request) -> str:
    """The address that others reach the device at, as far as can be told here."""
    if any(header in request.headers for header in FORWARDED):
        raise RefusedError("devices behind a proxy have no address of their own here")
    try:
        address = ipaddress.ip_address(request.remote or "")
    except ValueError:
        raise RefusedError("no address to announce") from None
    if getattr(address, "scope_id", None):
        raise RefusedError("a link-local address holds on one link only")
    return str(getattr(address, "ipv4_mapped", None) or address)


def _port(body: bytes) -> int:
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        raise FormatError("an announcement is a JSON object") from None
    if not isinstance(told, dict):
        raise FormatError("an announcement is a JSON object")
    port = told.get("port")
    return _read_port(str(port) if type(port) is int else None)


def _read_port(text: str | None) -> int:
    if text is None or not text.isascii() or not text.isdigit() or len(text) > 5:
        raise FormatError("an announcement names the port that the device serves at")
    if not 1 <= int(text) <= 65535:
        raise FormatError("a port is a number from 1 to 65535")
    return int(text)
