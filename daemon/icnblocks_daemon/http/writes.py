"""What publishers send: blocks in parts, manifests, records. docs/protocol.md has who may."""

from __future__ import annotations

import asyncio
import logging
import re
from typing import TYPE_CHECKING

from aiohttp import web

from icnblocks.errors import ConflictError, FormatError, RefusedError
from icnblocks.limits import MAX_MANIFEST_BYTES, MAX_RECORD_BYTES, MAX_REQUEST_BYTES
from icnblocks.naming import Digest
from icnblocks_daemon.http.body import read_body
from icnblocks_daemon.http.clients import client_of
from icnblocks_daemon.http.names import MANIFEST_PATH, RECORD_PATH, name_of
from icnblocks_daemon.http.problems import TooLargeError
from icnblocks_daemon.http.writer import writer_of

if TYPE_CHECKING:
    from icnblocks_daemon.node import Node

_LOG = logging.getLogger(__name__)
_CONTENT_RANGE = re.compile(r"bytes (\d{1,12})-(\d{1,12})/(\d{1,12})\Z", re.ASCII)


class Writes:
    """Takes what is published, from those who may."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def routes(self) -> list[web.RouteDef]:
        """The endpoints of this module."""
        return [
            web.post("/v1/uploads", self.upload),
            web.put(MANIFEST_PATH, self.put_manifest),
            web.put(RECORD_PATH, self.put_record),
        ]

    async def upload(self, request: web.Request) -> web.StreamResponse:
        """Parts of blocks; those that became whole are on disk when this answers."""
        writer_of(self._node, request)
        self._check_origin()
        async with self._node.uploads.bodies.turn(client_of(request)):
            body = await read_body(request, MAX_REQUEST_BYTES)
            stored = await self._node.uploads.take(body)
        return web.json_response({"stored": stored, "open": self._node.uploads.open_parts})

    async def put_manifest(self, request: web.Request) -> web.StreamResponse:
        """A manifest, whole or by Content-Range in order."""
        writer_of(self._node, request)
        self._check_origin()
        digest = Digest.parse(request.match_info["digest"])
        async with self._node.uploads.bodies.turn(client_of(request)):
            body = await read_body(request, MAX_REQUEST_BYTES)
            header = request.headers.get("Content-Range", "")
            if not header:
                await self._node.manifests.put(digest, body)
            elif not await self._node.manifest_parts.take(digest, *_range_of(header, body), body):
                return web.json_response({"stored": False}, status=202)
        return web.json_response({"stored": True}, status=201)

    async def put_record(self, request: web.Request) -> web.StreamResponse:
        """A record; everything that it leads to must be here already."""
        name = name_of(request)
        writer = writer_of(self._node, request)
        writer.check(name)
        if self._node.fib.route(name):
            raise RefusedError(
                f"this is not the origin of {name}", hint="publish to its origin instead"
            )
        raw = await read_body(request, MAX_RECORD_BYTES)
        records = self._node.records
        record = await asyncio.to_thread(records.put_checked, name, raw)
        if record.manifest is not None:
            # Before it is looked, or what is here could be evicted until the record is kept.
            await self._node.claim(name, record.manifest)
            await self._check_complete(record.manifest)
        await self._node.holdings.flush()
        await records.put(name, raw)
        said = str(record.manifest) if record.manifest else "withdrawn"
        _LOG.info(
            "published %s", name, extra={"manifest": said, "seq": record.seq, "by": writer.who}
        )
        return web.json_response({"seq": record.seq}, status=201)

    def _check_origin(self) -> None:
        if self._node.fib.has_default:
            raise RefusedError(
                "this is an edge: it takes blocks from its upstreams only",
                hint="publish to the origin instead",
            )

    async def _check_complete(self, digest: Digest) -> None:
        """Everything that a manifest names must be here before a record may name it."""
        data = await asyncio.to_thread(self._node.catalog.manifest, digest)
        if data is None:
            raise ConflictError(
                f"the manifest {digest} is not here", hint="send it before the record"
            )
        absent = await asyncio.to_thread(self._node.absent, data)
        if absent:
            raise ConflictError(
                f"{absent} blocks of the manifest {digest} are not here",
                hint="send what the missing-set query names, then the record again",
            )


def _range_of(header: str, body: bytes) -> tuple[int, int]:
    """Where a part of a manifest begins, and how long the whole is."""
    match = _CONTENT_RANGE.match(header)
    if match is None:
        raise FormatError("not a Content-Range: bytes FIRST-LAST/TOTAL")
    first, last, total = (int(number) for number in match.groups())
    if total > MAX_MANIFEST_BYTES:
        raise TooLargeError(f"a manifest has at most {MAX_MANIFEST_BYTES} bytes")
    if not first <= last < total or len(body) != last + 1 - first:
        raise FormatError("the Content-Range does not fit the body")
    return first, total
