"""What publishers send: blocks in parts, manifests, records. docs/protocol.md has who may."""

from __future__ import annotations

import asyncio
import logging
import re
import tempfile
from typing import IO, TYPE_CHECKING, Final

from aiohttp import web

from icnblocks.errors import BusyError, ConflictError, FormatError, RefusedError
from icnblocks.limits import MAX_MANIFEST_BYTES, MAX_RECORD_BYTES, MAX_REQUEST_BYTES
from icnblocks.naming import Digest
from icnblocks_daemon.holdings import shielded
from icnblocks_daemon.http.body import read_body
from icnblocks_daemon.http.names import MANIFEST_PATH, RECORD_PATH, name_of
from icnblocks_daemon.http.problems import TooLargeError
from icnblocks_daemon.http.writer import writer_of

if TYPE_CHECKING:
    from icnblocks_daemon.node import Node

_LOG = logging.getLogger(__name__)
_CONTENT_RANGE = re.compile(r"bytes (\d{1,12})-(\d{1,12})/(\d{1,12})\Z", re.ASCII)
OPEN_MANIFESTS: Final = 16
"""Manifests of which parts are still to come, at once."""
_PARTS_EXPIRE_S: Final = 600.0


class _Growing:
    """A manifest that comes in parts, in order, in a file without a name."""

    __slots__ = ("file", "size", "total", "touched")

    def __init__(self, total: int, folder: str, now: float) -> None:
        self.file: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        self.size = 0
        self.total = total
        self.touched = now


class Writes:
    """Takes what is published, from those who may."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._growing: dict[Digest, _Growing] = {}
        self._appending = asyncio.Lock()

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
        async with self._node.uploads.turn:
            body = await read_body(request, MAX_REQUEST_BYTES)
            stored = await self._node.uploads.take(body)
        return web.json_response({"stored": stored, "open": self._node.uploads.open_parts})

    async def put_manifest(self, request: web.Request) -> web.StreamResponse:
        """A manifest, whole or by Content-Range in order."""
        writer_of(self._node, request)
        self._check_origin()
        digest = Digest.parse(request.match_info["digest"])
        async with self._node.uploads.turn:
            body = await read_body(request, MAX_REQUEST_BYTES)
            header = request.headers.get("Content-Range", "")
            data = await self._append(digest, header, body) if header else body
            if data is None:
                return web.json_response({"stored": False}, status=202)
            await self._node.manifests.put(digest, data)
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

    async def _append(self, digest: Digest, header: str, body: bytes) -> bytes | None:
        """Add a part; the whole manifest when it was the last."""
        match = _CONTENT_RANGE.match(header)
        if match is None:
            raise FormatError("not a Content-Range: bytes FIRST-LAST/TOTAL")
        first, last, total = (int(number) for number in match.groups())
        if total > MAX_MANIFEST_BYTES:
            raise TooLargeError(f"a manifest has at most {MAX_MANIFEST_BYTES} bytes")
        if not first <= last < total or len(body) != last + 1 - first:
            raise FormatError("the Content-Range does not fit the body")
        # Begun, it is done to its end, or the next part would come in beside this one's thread.
        return await shielded(self._append_alone(digest, first, total, body))

    async def _append_alone(
        self, digest: Digest, first: int, total: int, body: bytes
    ) -> bytes | None:
        async with self._appending:
            return await asyncio.to_thread(self._write_part, digest, first, total, body)

    def _write_part(self, digest: Digest, first: int, total: int, body: bytes) -> bytes | None:
        now = self._node.clock()
        for key, part in list(self._growing.items()):
            if now - part.touched > _PARTS_EXPIRE_S or (key == digest and first == 0):
                self._growing.pop(key).file.close()
        growing = self._growing.get(digest)
        if growing is None:
            if first:
                raise ConflictError(
                    f"part {first} of {digest} without those before",
                    hint="send the parts in order, from the first one on",
                )
            if len(self._growing) >= OPEN_MANIFESTS:
                raise BusyError("too many manifests at once", hint="try again in a minute")
            growing = self._growing[digest] = _Growing(total, self._node.spool, now)
        if growing.total != total or first > growing.size:
            raise ConflictError(
                f"the next part of {digest} begins at {growing.size} of {growing.total},"
                f" not {first} of {total}",
                hint="go on from there, or send all parts again, from the first one on",
            )
        growing.touched = now
        growing.file.seek(first)
        growing.file.write(body)
        growing.size = max(growing.size, first + len(body))
        if growing.size < total:
            return None
        growing.file.seek(0)
        data = growing.file.read()
        self._growing.pop(digest).file.close()
        return data

    def close(self) -> None:
        """Forget what is not whole."""
        for growing in self._growing.values():
            growing.file.close()
        self._growing.clear()
