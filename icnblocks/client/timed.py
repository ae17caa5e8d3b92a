"""A connected socket with time limits that a trickle cannot stretch, and reads that fill a buffer.

On a plain socket the kernel keeps the time (SO_RCVTIMEO, socket(7)), so that one system call may
receive a whole block, and the interpreter does not wake for every few packets of it. This module
must not know what is received.
"""

from __future__ import annotations

import socket
import struct
import time
from typing import Final

from icnblocks.limits import KIB

_SEND_BYTES: Final = 64 * KIB
_LEAST_S: Final = 0.001
"""The kernel takes 0 for no limit."""
_TIMEVAL = struct.Struct("ll")


class TimedSocket:
    """Receives and sends within time limits. For one thread.

    Args:
        raw: connected; its time limits are changed.
        stall_s: seconds after which a wait for the first byte is a stall.
        floor_bytes: less than so many bytes in `stall_s` seconds of waiting are a stall too.
        tls: whether it is an `ssl.SSLSocket` (which is not imported to be asked).
    """

    def __init__(
        self, raw: socket.socket, stall_s: float, floor_bytes: int, *, tls: bool = False
    ) -> None:
        self.raw = raw
        self.stall_s = stall_s
        self.deadline: float | None = None
        """When what is read now must be there, on the clock of `time.monotonic`."""
        self.received = 0
        self._floor_bytes = floor_bytes
        self._waited = 0.0  # seconds of waiting, and bytes that came, in the present window
        self._came = 0
        self._tls = tls
        self._limits: dict[int, float] = {}
        if not self._tls:
            raw.settimeout(None)

    def recv_into(self, view: memoryview, *, whole: bool = False) -> int:
        """Receive what has arrived, waiting while there is nothing.

        Args:
            view: where to; not empty.
            whole: all of it was promised: wait until it is full, and return early only when
                the time for a stall is over or the other side sends no more.

        Returns:
            How many bytes; 0 at the end.

        Raises:
            TimeoutError: at the deadline, or if nothing, or less than the floor, came in time.
            OSError: if the connection breaks.
        """
        wait = self.stall_s
        began = time.monotonic()
        if self.deadline is not None:
            wait = self.deadline - began
            if wait <= 0:
                raise TimeoutError
        if self._tls:
            count = self._recv_records(view, wait, began + wait if whole else began)
        else:
            self._limit(socket.SO_RCVTIMEO, wait)
            try:
                count = self.raw.recv_into(view, 0, socket.MSG_WAITALL if whole else 0)
            except BlockingIOError:
                raise TimeoutError from None
        self.received += count
        self._came += count
        self._waited += time.monotonic() - began
        if self._waited >= self.stall_s and self.deadline is None:
            if count and self._came < self._floor_bytes:
                raise TimeoutError
            self.forgive()
        return count

    def _recv_records(self, view: memoryview, wait: float, until: float) -> int:
        """TLS gives a record of at most 16 KiB at a time: go on until `until`, or it is full."""
        if self.raw.gettimeout() != wait:
            self.raw.settimeout(wait)
        receive, total = self.raw.recv_into, 0
        while count := receive(view[total:]):
            total += count
            if total == len(view) or time.monotonic() >= until:
                break
        return total

    def _limit(self, which: int, wait: float) -> None:
        if self._limits.get(which) != wait:
            self._limits[which] = wait
            seconds, rest = divmod(max(wait, _LEAST_S), 1)
            limit = _TIMEVAL.pack(int(seconds), int(rest * 1e6))
            self.raw.setsockopt(socket.SOL_SOCKET, which, limit)

    def forgive(self) -> None:
        """Begin a new window: the other side has shown that it is at work."""
        self._waited, self._came = 0.0, 0

    def sendall(self, data: bytes) -> None:
        """Send everything; each piece of it must be taken within `stall_s`.

        Raises:
            TimeoutError: if it is not.
            OSError: if the connection breaks.
        """
        if self._tls:
            self.raw.settimeout(self.stall_s)
        view = memoryview(data)
        for at in range(0, len(view), _SEND_BYTES):
            piece = view[at : at + _SEND_BYTES]
            if self._tls:
                self.raw.sendall(piece)
            else:
                self._send(piece)

    def _send(self, piece: memoryview) -> None:
        until = time.monotonic() + self.stall_s
        wait = self.stall_s
        while piece:
            self._limit(socket.SO_SNDTIMEO, wait)
            try:
                piece = piece[self.raw.send(piece) :]
            except BlockingIOError:
                raise TimeoutError from None
            wait = until - time.monotonic()
            if piece and wait <= 0:
                raise TimeoutError
