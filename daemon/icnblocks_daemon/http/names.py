"""Records, manifests and the missing-set query: what is read before blocks are asked for."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from aiohttp import web

from icnblocks.limits import MISSING_BATCH
from icnblocks.naming import Digest, Name
from icnblocks.wire.bundle import WANT_BYTES, pack_indexes, unpack_wants
from icnblocks.wire.headers import EXPECT_BLOCKS, EXPECT_HEADER, NAME_HEADER, VIA_HEADER
from icnblocks_daemon.holdings import to_the_end
from icnblocks_daemon.http.body import read_body
from icnblocks_daemon.http.clients import client_of
from icnblocks_daemon.http.writer import may_write
from icnblocks_daemon.interests import Hint
from icnblocks_daemon.via import parse_via

if TYPE_CHECKING:
    from icnblocks_daemon.manifests import Shared
    from icnblocks_daemon.node import Node

RECORD_PATH: Final = "/v1/records/{publisher}/{model}/{tag}"
MANIFEST_PATH: Final = "/v1/manifests/{digest}"
_BINARY: Final = "application/octet-stream"


class Names:
    """Serves records and manifests, and says which blocks are missing here."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def routes(self) -> list[web.RouteDef]:
        """The endpoints of this module."""
        return [
            web.get(RECORD_PATH, self.record),
            web.get(MANIFEST_PATH, self.manifest),
            web.post("/v1/missing", self.missing),
        ]

    async def record(self, request: web.Request) -> web.StreamResponse:
        """The signed record of a name, with its age and whether it is stale."""
        served = await self._node.records.get(name_of(request), via_of(request))
        headers = {"ICN-Age": str(round(served.age_s)), "Cache-Control": "no-cache"}
        if served.stale:
            headers["ICN-Stale"] = "1"
        return _bytes(served.raw, headers)

    async def manifest(self, request: web.Request) -> web.StreamResponse:
        """A manifest; the header ICN-Name says under which name to look upstream."""
        digest = Digest.parse(request.match_info["digest"])
        name, via = hint_of(request), via_of(request)
        with ExitStack() as stack:
            if request.headers.get(EXPECT_HEADER) == EXPECT_BLOCKS:
                hint = Hint(name, digest, via=via, client=client_of(request))
                stack.enter_context(self._node.heralds.expecting(digest, hint))
            shared = await self._node.manifests.shared(digest, name, via)
        headers = {
            "ETag": f'"{digest}"',
            "Cache-Control": "public, max-age=31536000, immutable",
        }
        return _Manifest(shared, headers)

    async def missing(self, request: web.Request) -> web.StreamResponse:
        """Packed wants in, packed indexes of those that are not here out."""
        body = await read_body(request, MISSING_BATCH * WANT_BYTES)
        async with self._node.looking.turn(client_of(request)):
            wants = unpack_wants(body)
            if may_write(self._node, request):  # before it is looked: what is said to be here stays
                self._node.uploads.touch(want.digest for want in wants)
            indexes = await to_the_end(asyncio.to_thread(self._node.holdings.missing, wants))
        return _bytes(pack_indexes(indexes))


class _Manifest(web.Response):
    """Holds on to what it shares with others until it is sent."""

    def __init__(self, shared: Shared, headers: dict[str, str]) -> None:
        super().__init__(body=shared.data, headers=headers, content_type=_BINARY)
        self._shared = shared


def hint_of(request: web.Request) -> Name | None:
    """The name under which to look upstream, if the request says one.

    Raises:
        UsageError: if it says what is none.
    """
    text = request.headers.get(NAME_HEADER, "")
    return Name.parse(text) if text else None


def via_of(request: web.Request) -> frozenset[str]:
    """The ids of the daemons that a request came through."""
    return parse_via(request.headers.get(VIA_HEADER, ""))


def name_of(request: web.Request) -> Name:
    """The name that a record's path spells.

    Raises:
        UsageError: if it is outside the grammar.
    """
    parts = request.match_info
    return Name(parts["publisher"], parts["model"], parts["tag"])


def _bytes(data: bytes, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(body=data, headers=headers, content_type=_BINARY)
