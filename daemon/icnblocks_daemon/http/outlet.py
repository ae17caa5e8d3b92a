"""Writing blocks to a client: sendfile where the connection allows it, bounded memory always.

Small frames are gathered and written together; a large block goes by sendfile between
hand-written chunk heads. Every write has a deadline, so that a reader that stalls is cut off
instead of holding leases. A lease is checked after its bytes went out: when the file changed or
was cut short meanwhile, the connection is closed, since the bytes cannot be called back.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from typing import IO, TYPE_CHECKING, Final, cast

from icnblocks.errors import IcnError
from icnblocks.limits import KIB, MIB

if TYPE_CHECKING:
    from aiohttp import web
    from aiohttp.abc import AbstractStreamWriter

    from icnblocks.store.base import Lease

SMALL_BYTES: Final = 64 * KIB
"""Blocks up to here are read and gathered; larger ones go by sendfile."""
_GATHER: Final = 128 * KIB
"""Gathered frames are written when they are so many bytes."""
_HEADS: Final = 64
"""More than a frame has around a block."""
_PIECE: Final = 256 * KIB
_TURN: Final = 4 * MIB
"""What one reader is sent, if it takes it at once, before others have their turn."""
_NOTSENT_LOWAT: Final = getattr(socket, "TCP_NOTSENT_LOWAT", 25)
_HELD: Final = 128 * KIB


class CutOffError(Exception):
    """The connection was closed on purpose, before the answer was complete.

    `cause` is the word for the metric: stalled, changed or gone.
    """

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.cause = cause


class _File:
    """What `loop.sendfile` wants to see of a file: its descriptor."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        return self._fd


async def _writable(fd: int) -> None:
    """Wait until a connection takes bytes again. Its transport has one watch of its own."""
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    watched = os.dup(fd)
    try:
        loop.add_writer(watched, ready.set)
        await ready.wait()
    finally:
        loop.remove_writer(watched)
        os.close(watched)


class Outlet:
    """The body of one answer on its way to the client.

    Args:
        request: the request that is answered; its response is prepared.
        writer: what `response.prepare(request)` gave.
        chunked: write HTTP chunks around what is sent; else the body is as it is.
        floor: bytes a second that a reader must take.
        grace_s: seconds allowed for each write on top of that.

    After CutOffError the transport is aborted and the outlet is of no more use.
    """

    __slots__ = (
        "_chunked", "_corked", "_floor", "_gathered", "_gathered_bytes", "_grace_s",
        "_holds_little", "_in_turn", "_sendfile", "_socket", "_tail", "_transport", "_writer",
        "sent_bytes",
    )  # fmt: skip

    def __init__(
        self,
        request: web.BaseRequest,
        writer: AbstractStreamWriter,
        *,
        chunked: bool,
        floor: int,
        grace_s: float,
    ) -> None:
        transport = request.transport
        if transport is None:
            raise CutOffError("gone", "the client is gone")
        self._transport = transport
        self._writer = writer
        self._chunked = chunked
        self._floor = floor
        self._grace_s = grace_s
        self._sendfile = transport.get_extra_info("ssl_object") is None
        self._socket: socket.socket = transport.get_extra_info("socket")
        self._gathered: list[bytes] = []
        self._gathered_bytes = 0
        self._corked = False
        self._holds_little = False
        self._in_turn = 0
        self._tail = b""  # what closes the chunk before: written with the next one
        self.sent_bytes = 0
        """Bytes handed to the connection so far, block payload and frames."""

    def hold_little(self) -> None:
        """Keep no more than a little in the kernel that has not left yet."""
        if not self._holds_little:
            self._holds_little = True
            with contextlib.suppress(OSError):
                self._socket.setsockopt(socket.IPPROTO_TCP, _NOTSENT_LOWAT, _HELD)

    def gathers(self, length: int) -> bool:
        """Whether `send` of a block of `length` bytes would write nothing yet."""
        return length <= SMALL_BYTES and self._gathered_bytes + length < _GATHER - _HEADS

    def add(self, head: bytes, data: bytes) -> bool:
        """Add a small block, unless something would have to be written; whether it was added."""
        more = len(head) + len(data)
        if self._gathered_bytes + more >= _GATHER:
            return False
        self._gathered += (head, data)
        self._gathered_bytes += more
        return True

    async def gather(self, head: bytes, data: bytes = b"") -> None:
        """Add a few bytes; they are written when enough came together, or by `flush`."""
        if not self.add(head, data):
            self._gathered += (head, data)
            self._gathered_bytes += len(head) + len(data)
            await self._write_gathered()

    @property
    def gathered_bytes(self) -> int:
        """What `flush` would write."""
        return self._gathered_bytes

    async def say(self, frame: bytes) -> None:
        """Write a frame at once, before those that were gathered."""
        await self._write(self._framed(len(frame)) + frame, 0)
        self._uncork()

    async def flush(self) -> None:
        """Write what was gathered, and let all of it go."""
        await self._write_gathered()
        self._uncork()

    async def finish(self) -> None:
        """Write what is left. What closes the whole answer is for the response to write."""
        await self._write_gathered()
        if self._tail:
            tail, self._tail = self._tail, b""
            await self._write(tail, 0)
        self._uncork()

    async def send(
        self, head: bytes, lease: Lease, start: int = 0, length: int | None = None
    ) -> None:
        """Send `head` and then `length` bytes of the lease's block, from `start` on.

        Raises:
            CutOffError: if the reader stalled or left, or the block's file is not what it was.
        """
        length = lease.length - start if length is None else length
        try:
            if length <= SMALL_BYTES:
                await self._send_small(head, lease, start, length)
            elif self._sendfile:
                await self._send_file(head, lease, start, length)
            else:
                await self._send_copied(head, lease, start, length)
        except (IcnError, OSError) as error:
            if isinstance(error, ConnectionError):
                raise self._gone(error) from None
            raise self._cut("changed", f"{error}") from error

    async def _send_small(self, head: bytes, lease: Lease, start: int, length: int) -> None:
        data = self._read(lease, start, length)
        lease.check()
        await self.gather(head, data)

    async def _send_file(self, head: bytes, lease: Lease, start: int, length: int) -> None:
        first = self._take_gathered() + head
        first = self._framed(len(first) + length) + first
        try:
            sent = await self._straight(first, lease.fd, lease.offset + start, length)
        except TimeoutError:
            raise self._cut("stalled", f"a reader took less than {self._floor} B/s") from None
        except RuntimeError as error:  # asyncio: the transport is closing, or sendfile failed
            raise self._cut("gone", f"the client left: {error}") from None
        self.sent_bytes += len(first) + sent
        if sent < length:
            raise self._cut("changed", f"a block's file was cut short: {sent} of {length} bytes")
        lease.check()

    async def _straight(self, first: bytes, fd: int, offset: int, length: int) -> int:
        """Send `first` and then from a file, past the transport; the bytes of the file sent.

        `loop.sendfile` would do, and does where the transport holds bytes back; it costs more
        for each block.
        """
        self._check_open()
        transport, out = self._transport, self._socket.fileno()
        if transport.get_write_buffer_size() or (first := self._push(out, first)):
            transport.write(first)
            async with asyncio.timeout(self._allowed(len(first) + length)):
                return await self._sendfile_by_loop(fd, offset, length)
        sent, until = 0, 0.0
        while sent < length:
            try:
                count = os.sendfile(out, fd, offset + sent, length - sent)
            except BlockingIOError:
                until = until or asyncio.get_running_loop().time() + self._allowed(length)
                async with asyncio.timeout_at(until):
                    try:
                        await _writable(out)
                    except OSError:  # no descriptor to watch it with: the loop itself needs none
                        at, left = offset + sent, length - sent
                        return sent + await self._sendfile_by_loop(fd, at, left)
                self._check_open()  # else `out` may be another connection's by now
                self._in_turn = 0
                continue
            except OSError as error:
                if error.errno == errno.EIO:  # of the block's file
                    raise
                raise self._gone(error) from None
            sent += count
            if not count:
                break
        self._in_turn += sent
        if self._in_turn >= _TURN:
            await self._rest()
        return sent

    async def _sendfile_by_loop(self, fd: int, offset: int, length: int) -> int:
        file, loop = cast("IO[bytes]", _File(fd)), asyncio.get_running_loop()
        return await loop.sendfile(self._transport, file, offset, length, fallback=False)

    def _push(self, out: int, data: bytes) -> bytes:
        """Hand bytes to the kernel past the transport; what it did not take."""
        self._cork()
        try:
            return data[os.write(out, data) :]
        except BlockingIOError:
            return data
        except OSError as error:  # not of the block's file, as `send` would have it
            raise self._gone(error) from None

    async def _rest(self) -> None:
        """Let others have their turn: a reader that takes all is never waited for."""
        self._in_turn = 0
        await asyncio.sleep(0)

    def _cork(self) -> None:
        """Send whole packets only: a head goes with the block, and its end with the next head."""
        if not self._corked:
            self._corked = True
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)

    def _uncork(self) -> None:
        """Let go of what is no whole packet: nothing follows for a while."""
        if self._corked:
            self._corked = False
            with contextlib.suppress(OSError):  # the client left
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)

    async def _write_gathered(self) -> None:
        length = self._gathered_bytes
        if length:
            await self._write(self._take_gathered(self._framed(length)), length)

    def _take_gathered(self, frame: bytes = b"") -> bytes:
        gathered, self._gathered, self._gathered_bytes = self._gathered, [], 0
        return b"".join((frame, *gathered))

    async def _send_copied(self, head: bytes, lease: Lease, start: int, length: int) -> None:
        await self.flush()
        await self._write(self._framed(len(head) + length) + head, len(head))
        for at in range(start, start + length, _PIECE):
            size = min(_PIECE, start + length - at)
            await self._write(self._read(lease, at, size), size)
        lease.check()

    async def send_bytes(self, data: bytes) -> None:
        """Send what lies in memory, a piece at a time: a deadline for each, and never all at once.

        Raises:
            CutOffError: if the reader stalled or left.
        """
        for at in range(0, len(data), _PIECE):
            piece = data[at : at + _PIECE]
            await self._write(self._framed(len(piece)) + piece, len(piece))
        self._uncork()

    def _read(self, lease: Lease, start: int, length: int) -> bytes:
        data = os.pread(lease.fd, length, lease.offset + start)
        if len(data) < length:
            raise self._cut("changed", f"a block's file was cut short: {len(data)} of {length}")
        return data

    def _framed(self, length: int) -> bytes:
        """What stands before `length` bytes of body."""
        if not self._chunked:
            return b""
        tail, self._tail = self._tail, b"\r\n"
        return b"%b%x\r\n" % (tail, length)

    async def _write(self, data: bytes, payload: int) -> None:
        try:
            async with asyncio.timeout(self._allowed(payload)):
                self._check_open()
                self._transport.write(data)
                await self._writer.drain()
        except TimeoutError:
            raise self._cut("stalled", f"a reader took less than {self._floor} B/s") from None
        except ConnectionError as error:
            raise self._gone(error) from None
        self.sent_bytes += len(data)
        self._in_turn += len(data)
        if self._in_turn >= _TURN:
            await self._rest()

    def _check_open(self) -> None:
        if self._transport.is_closing():
            raise self._cut("gone", "the client left")

    def _allowed(self, length: int) -> float:
        return self._grace_s + length / self._floor

    def _gone(self, error: OSError) -> CutOffError:
        return self._cut("gone", f"the client left: {error.strerror or error}")

    def _cut(self, cause: str, message: str) -> CutOffError:
        self._transport.abort()
        return CutOffError(cause, message)
