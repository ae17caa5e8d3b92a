"""`GET /v1/manifests/{digest}/have`: which blocks of a model are here, for who asks several."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from aiohttp import web

from icnblocks.errors import NotFoundError
from icnblocks.manifest.codec import decode
from icnblocks.naming import Digest
from icnblocks.wire.havemap import HaveMap, encode_have
from icnblocks_daemon.coalesce import Coalesced
from icnblocks_daemon.http.clients import client_of
from icnblocks_daemon.http.names import MANIFEST_PATH, hint_of, via_of

if TYPE_CHECKING:
    from icnblocks_daemon.manifests import Shared
    from icnblocks_daemon.node import Node

HAVE_PATH: Final = f"{MANIFEST_PATH}/have"


class Have:
    """Says which blocks of a manifest this daemon holds. It must not fetch any."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._maps: Coalesced[tuple[Digest, bool], bytes] = Coalesced()

    def routes(self) -> list[web.RouteDef]:
        """The endpoints of this module."""
        return [web.get(HAVE_PATH, self.get)]

    async def get(self, request: web.Request) -> web.StreamResponse:
        """A have-map; the header ICN-Name says under which name the model is known."""
        digest, name = Digest.parse(request.match_info["digest"]), hint_of(request)
        known_only = "only-if-cached" in request.headers.get("Cache-Control", "").lower()
        if known_only and digest not in self._node.manifests:
            raise NotFoundError(f"no manifest {digest} here")
        manifest = await self._node.manifests.shared(digest, name, via_of(request))
        fetches = bool(self._node.fib.route(name))
        client = client_of(request)
        body = await self._maps.do(
            (digest, fetches), lambda: self._map(manifest, client, fetches=fetches)
        )
        return web.Response(
            body=body,
            content_type="application/octet-stream",
        )

    async def _map(self, manifest: Shared, client: str, *, fetches: bool) -> bytes:
        """Made in the turn of the first who asks, for all who ask meanwhile."""

        def made() -> bytes:
            flags = self._node.holdings.held(decode(manifest.data).lengths())
            return encode_have(HaveMap(flags, fetches))

        async with self._node.looking.turn(client):
            return await asyncio.to_thread(made)
