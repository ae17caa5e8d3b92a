"""A relay before a real daemon, through which the way to it goes wrong as told.

It passes TCP on in threads of its own: at a rate, with resets, holding everything from some byte
on, or with bytes changed. Both ends are the real programs. Used as a context manager; leaving it
closes every socket and joins every thread. Only for tests.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from random import Random

_PIECE: Final = 64 * 1024
_LINGER_NOT: Final = struct.pack("ii", 1, 0)


class Relay:
    """Listens on 127.0.0.1 and passes on to a port there.

    Args:
        port: of the daemon behind it.
        rate: bytes a second from the daemon, over all connections; None is as fast as it goes.
        reset_every: each connection is reset after so many bytes from the daemon.
        hold_after: after so many bytes from the daemon over all connections, nothing more is
            passed on, without closing anything, until `let_go`.
        flips: chance for each 64 KiB from the daemon that a bit of it is flipped, and its source.
        skip: bytes at the beginning of each connection that are never flipped.
    """

    def __init__(
        self,
        port: int,
        *,
        rate: float | None = None,
        reset_every: int | None = None,
        hold_after: int | None = None,
        flips: tuple[float, Random] | None = None,
        skip: int = 0,
    ) -> None:
        self._behind = port
        self._rate = rate
        self._reset_every = reset_every
        self._hold_after = hold_after
        self._flips = flips
        self._skip = skip
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        """Where it listens."""
        self.url = f"http://127.0.0.1:{self.port}"
        """The same as a URL."""
        self.connections = 0
        """How many were accepted."""
        self.passed = 0
        """Bytes from the daemon that were passed on."""
        self.resets = 0
        """Connections that were reset."""
        self.flipped = 0
        """Bits that were flipped."""
        self.holding = threading.Event()
        """It holds something back."""
        self._going = threading.Event()
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._closed = False
        self._next_at = 0.0

    def __enter__(self) -> Self:
        self._spawn(self._accept)
        return self

    def __exit__(self, *exc: object) -> None:
        self._closed = True
        self._hold_after = None
        self._going.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self.cut()
        while self._threads:
            self._threads.pop().join()
        self._listener.close()

    def cut(self) -> None:
        """Close every connection, with what is on its way.

        After the daemon behind has been killed: the kernel keeps what it sent, which may be all,
        and would deliver it.
        """
        with self._lock:
            for sock in self._open:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def let_go(self) -> None:
        """Pass on again, for good."""
        self._hold_after = None
        self._going.set()

    def hold(self) -> None:
        """Pass nothing on from now."""
        self._going.clear()
        self._hold_after = 0

    def _spawn(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)  # type: ignore[arg-type]
        thread.start()
        self._threads.append(thread)  # not before: whoever leaves meanwhile would join it

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            try:
                server = socket.create_connection(("127.0.0.1", self._behind), timeout=10)
                server.settimeout(None)
            except OSError:
                client.close()
                continue
            with self._lock:
                self._open |= {client, server}
                if self._closed:
                    client.shutdown(socket.SHUT_RDWR)
            self._spawn(self._back, server, client)
            self._spawn(self._forth, client, server)

    def _forth(self, client: socket.socket, server: socket.socket) -> None:
        try:
            while data := client.recv(_PIECE):
                server.sendall(data)
        except OSError:
            pass
        finally:
            with contextlib.suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)

    def _back(self, server: socket.socket, client: socket.socket) -> None:
        came, reset = 0, False
        try:
            while data := server.recv(_PIECE):
                self._wait(len(data))
                if self._reset_every is not None and came + len(data) > self._reset_every:
                    client.sendall(data[: self._reset_every - came])
                    reset = True
                    return
                client.sendall(self._changed(data, came))
                came += len(data)
                with self._lock:
                    self.passed += len(data)
        except OSError:
            pass
        finally:
            self._end(server, client, reset=reset)

    def _wait(self, count: int) -> None:
        """Until this may go on: by the rate, and not while everything is held."""
        if self._rate is not None:
            with self._lock:
                at = self._next_at = max(self._next_at, time.monotonic()) + count / self._rate
            time.sleep(max(0.0, at - time.monotonic()))
        if self._hold_after is not None and self.passed + count > self._hold_after:
            self.holding.set()
            self._going.wait()

    def _changed(self, data: bytes, before: int) -> bytes:
        if self._flips is None or before < self._skip:
            return data
        chance, random = self._flips
        with self._lock:
            if random.random() >= chance:
                return data
            self.flipped += 1
            at, bit = random.randrange(len(data)), 1 << random.randrange(8)
        return data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :]

    def _end(self, server: socket.socket, client: socket.socket, *, reset: bool) -> None:
        with self._lock:
            self._open -= {client, server}
            self.resets += reset
        if reset:  # closing with an empty linger sends RST
            with contextlib.suppress(OSError):
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
                client.close()
        for sock in (client, server):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
