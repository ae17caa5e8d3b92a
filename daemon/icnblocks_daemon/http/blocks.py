"""`GET /v1/blocks/{digest}`: one block, immutable, so that any HTTP cache can stand in front."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from aiohttp import web

from icnblocks.errors import (
    BusyError,
    ChangedError,
    CorruptError,
    FormatError,
    IcnError,
    LoopError,
    NotFoundError,
    RefusedError,
    SourceError,
    StorageError,
)
from icnblocks.limits import MAX_BLOCK_BYTES
from icnblocks.naming import Digest
from icnblocks.wire.bundle import Want
from icnblocks.wire.frames import Reason
from icnblocks_daemon.answer import Answer, Refuse, Send
from icnblocks_daemon.http.clients import client_of
from icnblocks_daemon.http.names import hint_of, via_of
from icnblocks_daemon.http.outlet import CutOffError, Outlet
from icnblocks_daemon.interests import Hint

if TYPE_CHECKING:
    from icnblocks.store.base import Lease
    from icnblocks_daemon.node import Node

_RANGE = re.compile(r"bytes=(\d{0,12})-(\d{0,12})\Z", re.ASCII)
_ERRORS: Final[dict[Reason, type[IcnError]]] = {
    Reason.NOT_FOUND: NotFoundError,
    Reason.CORRUPT: CorruptError,
    Reason.CHANGED: ChangedError,
    Reason.BUSY: BusyError,
    Reason.NO_SPACE: StorageError,
    Reason.UPSTREAM: SourceError,
    Reason.REFUSED: RefusedError,
    Reason.LENGTH: FormatError,
    Reason.LOOP: LoopError,
}


class Blocks:
    """Serves single blocks."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def routes(self) -> list[web.RouteDef]:
        """The endpoints of this module."""
        return [web.get("/v1/blocks/{digest}", self.get)]

    async def get(self, request: web.Request) -> web.StreamResponse:
        """GET and HEAD; with `?length=N` a missing block is pulled from upstream."""
        digest = Digest.parse(request.match_info["digest"])
        known = {tag.value for tag in request.if_none_match or ()}
        if str(digest) in known:  # whether it is here or not: under its name there is no other
            return web.Response(status=304, headers=_headers(digest))
        lease = await self._lease(request, digest)
        with lease:
            if "*" in known:
                return web.Response(status=304, headers=_headers(digest))
            return await self._serve(request, digest, lease)

    async def _lease(self, request: web.Request, digest: Digest) -> Lease:
        length = request.query.get("length", "")
        if not length or self._node.holdings.contains(digest):
            lease = self._open_or_raise(digest)
            self._node.metrics.hits.inc()
            self._node.metrics.hit_bytes.inc(lease.length)
            return lease
        if not length.isascii() or not length.isdigit() or len(length) > 9:
            raise FormatError("length is not a number")
        if not 1 <= int(length) <= MAX_BLOCK_BYTES:
            raise FormatError(f"a block has 1 to {MAX_BLOCK_BYTES} bytes")
        via = via_of(request)
        hint = Hint(hint_of(request), None, len(via), via, client=client_of(request))
        return await self._pulled(Want(digest, int(length)), hint)

    async def _pulled(self, want: Want, hint: Hint) -> Lease:
        node = self._node
        answer = Answer((want,), hint, node.holdings, node.forwarder, 1)
        try:
            while True:
                step = answer.next()
                if isinstance(step, Send):
                    return step.lease
                if isinstance(step, Refuse):
                    node.metrics.nacks.labels(step.reason.name.lower()).inc()
                    raise _ERRORS.get(step.reason, SourceError)(step.text)
                await answer.news()
        finally:
            answer.close()

    def _open_or_raise(self, digest: Digest) -> Lease:
        lease = self._node.holdings.open(digest)
        if lease is None:
            raise NotFoundError(f"no block {digest} here")
        return lease

    async def _serve(
        self, request: web.Request, digest: Digest, lease: Lease
    ) -> web.StreamResponse:
        node = self._node
        start, end = _range(request.headers.get("Range", ""), lease.length)
        response = web.StreamResponse(status=200, headers=_headers(digest))
        response.content_type = "application/octet-stream"
        response.content_length = end - start
        if end - start < lease.length:
            response.set_status(206)
            response.headers["Content-Range"] = f"bytes {start}-{end - 1}/{lease.length}"
        try:
            writer = await response.prepare(request)
            if writer is None or request.method == "HEAD":
                return response
            outlet = Outlet(
                request,
                writer,
                chunked=False,
                floor=node.config.send_floor,
                grace_s=node.config.send_grace,
            )
            client, sending = client_of(request), node.sending
            turn = sending.begin(client)
            if turn is None or sending.has_many(client):
                outlet.hold_little()
            if turn is None:
                turn = await sending.wait(client, _nothing, node.config.alive_interval)
            try:
                await outlet.send(b"", lease, start, end - start)
                await outlet.finish()
            finally:
                sending.end(client, turn)
        except CutOffError as cut:
            node.metrics.cut("a block", cut.cause, cut, request.remote)
            if cut.cause == "changed":
                node.rechecks.suspect(digest)
        else:
            node.metrics.sent_bytes.inc(end - start)
            node.metrics.sent_blocks.inc()
        return response


async def _nothing() -> None:
    """A block has no frames that could say that we live."""


def _headers(digest: Digest) -> dict[str, str]:
    return {
        "ETag": f'"{digest}"',
        "Cache-Control": "public, max-age=31536000, immutable",
        "Accept-Ranges": "bytes",
    }


def _range(header: str, length: int) -> tuple[int, int]:
    """First byte and the one after the last; the whole where the header is none of ours."""
    match = _RANGE.match(header.replace(" ", ""))
    if match is None or match[1] == match[2] == "":
        return 0, length
    if not match[1]:
        start, end = max(0, length - int(match[2])), length
    else:
        start = int(match[1])
        end = min(length, int(match[2]) + 1) if match[2] else length
        if match[2] and int(match[2]) < start:
            return 0, length
    if start >= end:
        raise web.HTTPRequestRangeNotSatisfiable(headers={"Content-Range": f"bytes */{length}"})
    return start, end
