"""`POST /v1/bundles`: many blocks in one answer, in whatever order they become ready."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from aiohttp import HttpVersion11, web

from icnblocks.limits import MAX_BUNDLE_BYTES
from icnblocks.wire.bundle import HERE_ONLY, decode_request
from icnblocks.wire.frames import (
    ALIVE,
    MEDIA_TYPE,
    PREAMBLE,
    Reason,
    data_header,
    end_frame,
    nack_frame,
)
from icnblocks_daemon.answer import Answer, Send, SendBytes
from icnblocks_daemon.http.body import read_body
from icnblocks_daemon.http.clients import client_of
from icnblocks_daemon.http.names import via_of
from icnblocks_daemon.http.outlet import SMALL_BYTES, CutOffError, Outlet
from icnblocks_daemon.interests import Hint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from icnblocks.naming import Digest
    from icnblocks.wire.bundle import Want
    from icnblocks_daemon.metrics import Metrics
    from icnblocks_daemon.node import Node

_LITTLE: Final = 1024
"""Bytes that are written without a turn: frames that bring no block, or the smallest."""
_OF_OURS: Final = frozenset({Reason.CHANGED, Reason.OTHER})
"""Why a block is refused that is here and cannot be read."""


class _Tally:
    """What was sent, until the metrics are told: a counter costs as much as a small block."""

    __slots__ = ("_blocks", "_bytes", "_hit_bytes", "_hits", "_metrics")

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._blocks = self._bytes = self._hits = self._hit_bytes = 0

    def add(self, length: int, *, waited: bool) -> None:
        self._blocks += 1
        self._bytes += length
        if not waited:
            self._hits += 1
            self._hit_bytes += length

    def tell(self) -> None:
        metrics = self._metrics
        metrics.sent_blocks.inc(self._blocks)
        metrics.sent_bytes.inc(self._bytes)
        metrics.hits.inc(self._hits)
        metrics.hit_bytes.inc(self._hit_bytes)
        self._blocks = self._bytes = self._hits = self._hit_bytes = 0


class Bundles:
    """Answers bundles from what a node has or can get."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def routes(self) -> list[web.RouteDef]:
        """The endpoints of this module."""
        return [web.post("/v1/bundles", self.post)]

    async def post(self, request: web.Request) -> web.StreamResponse:
        """Read the wants, and answer each with Data or a Nack."""
        node = self._node
        asked = decode_request(await read_body(request, MAX_BUNDLE_BYTES))
        if asked.manifest is not None:
            node.holdings.requested(asked.manifest, asked.pull)
            if asked.hops != HERE_ONLY and node.config.sibling:
                await node.siblings.look(asked.manifest)
        client = client_of(request)
        hint = Hint(
            asked.name, asked.manifest, asked.hops, via_of(request), asked.priority, asked.order,
            client, asked.doubt,
        )  # fmt: skip
        if asked.doubt:
            await node.rechecks.doubted(asked.wants)
        chunked = request.version >= HttpVersion11
        response = web.StreamResponse(headers={"X-Accel-Buffering": "no"})
        response.content_type = MEDIA_TYPE
        if chunked:
            response.enable_chunked_encoding()
        else:
            response.force_close()  # the end of the connection is the end of the body
        window = node.config.bundle_window
        tally = _Tally(node.metrics)
        answer = Answer(asked.wants, hint, node.holdings, node.forwarder, window, SMALL_BYTES)
        try:
            writer = await response.prepare(request)
            if writer is None:
                return response
            outlet = Outlet(
                request,
                writer,
                chunked=chunked,
                floor=node.config.send_floor,
                grace_s=node.config.send_grace,
            )
            await self._run(answer, outlet, asked.wants, tally, client)
        except CutOffError as cut:
            node.metrics.cut("a bundle", cut.cause, cut, request.remote)
        finally:
            tally.tell()
            answer.close()
        return response

    async def _run(
        self, answer: Answer, outlet: Outlet, asked: Sequence[Want], tally: _Tally, client: str
    ) -> None:
        await outlet.gather(PREAMBLE)
        answered = 0
        while answered < len(asked):
            step = answer.next()
            if step is None:
                tally.tell()
                await self._flush(outlet, client)
                await self._wait(answer, outlet)
                continue
            if isinstance(step, SendBytes):
                head = data_header(step.index, len(step.data))
                if not outlet.add(head, step.data):  # a turn is for what is written
                    await self._gather_in_turn(head, step.data, outlet, client)
                tally.add(len(step.data), waited=False)
            elif isinstance(step, Send):
                await self._send(step, asked[step.index].digest, outlet, client)
                tally.add(step.lease.length, waited=step.waited)
            elif step.reason in _OF_OURS and await self._node.rechecks.recheck(
                asked[step.index].digest
            ):
                answer.again(step)
                continue
            else:
                self._node.metrics.nacks.labels(step.reason.name.lower()).inc()
                await outlet.gather(nack_frame(step.index, step.reason, step.text))
            answered += 1
        await outlet.gather(end_frame(answered))
        await self._flush(outlet, client)
        await outlet.finish()

    async def _gather_in_turn(self, head: bytes, data: bytes, outlet: Outlet, client: str) -> None:
        turn = await self._begin(outlet, client)
        try:
            await outlet.gather(head, data)
        finally:
            self._node.sending.end(client, turn)

    async def _send(self, step: Send, digest: Digest, outlet: Outlet, client: str) -> None:
        turn = None
        try:
            with step.lease as lease:
                if not outlet.gathers(lease.length):
                    turn = await self._begin(outlet, client)
                await outlet.send(data_header(step.index, lease.length), lease)
        except CutOffError as cut:
            if cut.cause == "changed":  # else it would cut off whoever wants it
                self._node.rechecks.suspect(digest)
            raise
        finally:
            if turn is not None:
                self._node.sending.end(client, turn)
        self._node.forwarder.room_freed()

    async def _flush(self, outlet: Outlet, client: str) -> None:
        if outlet.gathered_bytes <= _LITTLE:
            await outlet.flush()
            return
        turn = await self._begin(outlet, client)
        try:
            await outlet.flush()
        finally:
            self._node.sending.end(client, turn)

    async def _begin(self, outlet: Outlet, client: str) -> int:
        """Take a turn at writing to this client, in `sending`, which is told of its end."""
        sending = self._node.sending
        turn = sending.begin(client)
        if turn is None or sending.has_many(client):
            outlet.hold_little()
        if turn is not None:
            return turn
        # What was gathered waits too; that we live is said meanwhile.
        alive_s = self._node.config.alive_interval
        return await sending.wait(client, lambda: outlet.say(ALIVE), alive_s)

    async def _wait(self, answer: Answer, outlet: Outlet) -> None:
        """Until there is something to send; say that we live while there is not."""
        while True:
            try:
                async with asyncio.timeout(self._node.config.alive_interval):
                    return await answer.news()
            except TimeoutError:
                await outlet.gather(ALIVE)
                await outlet.flush()
