"""HTTP servers on real sockets that serve bundles, honestly or with one named misbehaviour.

A `LyingServer` runs in threads of its own and is used as a context manager; leaving it closes
every socket and joins every thread. A `RechunkingProxy` stands before another server as a stock
reverse proxy does: HTTP/1.0 upstream, payload cut into chunks at any boundary downstream.
Only for tests: nothing here is careful with what it reads.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from dataclasses import field
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Self

from icnblocks.values import dataclass
from icnblocks.wire.bundle import decode_request
from icnblocks.wire.frames import (
    ALIVE,
    MEDIA_TYPE,
    PREAMBLE,
    Reason,
    data_header,
    end_frame,
    nack_frame,
)

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator, Mapping
    from random import Random

    from icnblocks.naming import Digest
    from icnblocks.wire.bundle import BundleRequest

_TICK_S: Final = 0.05
_PATIENCE_S: Final = 20


class Lie(StrEnum):
    """What a server does wrong with a request for a bundle."""

    NONE = "none"
    STALL = "stall"  # reads the request and never answers
    STALL_HEAD = "stall-head"  # stops within the head
    STALL_MID = "stall-mid"  # stops within a payload
    RESET = "reset"  # resets the connection instead of answering
    RESET_MID = "reset-mid"  # resets it within a payload
    CLOSE = "close"  # closes instead of answering
    CLOSE_MID = "close-mid"  # closes within a payload
    CUT_CLEAN = "cut-clean"  # ends the body properly, but within a frame
    NO_END = "no-end"  # ends the body properly, without END
    TRICKLE = "trickle"  # sends a byte now and then
    ALIVE_ONLY = "alive-only"  # says for ever that it is at work
    FLIP = "flip"  # flips a bit of the first block
    LENGTH = "length"  # says another length than was asked for
    HUGE_LENGTH = "huge-length"
    MORE = "more"  # sends a frame after END
    TWICE = "twice"  # answers one want twice
    INDEX = "index"  # answers what was not asked
    CONTENT_LENGTH = "content-length"  # promises more bytes than it sends
    BAD_CHUNK = "bad-chunk"
    ENDLESS_CHUNK_LINE = "endless-chunk-line"
    ENDLESS_HEAD = "endless-head"
    HTML = "html"  # 200, and a web page
    OTHER_PROTOCOL = "other-protocol"  # greets as an SSH server does
    VERSION = "version"  # a newer major version
    STATUS_500 = "500"
    STATUS_404 = "404"
    STATUS_403 = "403"
    STATUS_429 = "429"
    REDIRECT = "redirect"
    NOT_FOUND = "not-found"  # Nacks everything
    BUSY = "busy"  # Nacks everything with a reason that may pass


@dataclass(frozen=True, slots=True)
class Request:
    """What a server was asked."""

    method: str
    path: str
    version: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Reply:
    """What to answer to a request that is not for a bundle."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


class _Cut(Exception):
    """The lie is told; close the connection (after a reset, if so)."""

    def __init__(self, *, reset: bool = False) -> None:
        super().__init__()
        self.reset = reset


class _Server:
    """Accepts connections, a thread each, until it is left."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        """Where it listens, on 127.0.0.1."""
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._stopping = threading.Event()
        self.connections = 0
        """How many were accepted."""

    @property
    def url(self) -> str:
        """Its URL."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def open_connections(self) -> int:
        """How many are open now."""
        with self._lock:
            return len(self._open)

    def __enter__(self) -> Self:
        self._spawn(self._accept)
        return self

    def __exit__(self, *exc: object) -> None:
        self._stopping.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self.close_connections()
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def close_connections(self) -> None:
        """Close every kept connection, as a server that is restarted does."""
        with self._lock:
            for sock in self._open:
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def _spawn(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._spawn(self._serve, sock)

    def _serve(self, sock: socket.socket) -> None:
        reset = False
        try:
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock, server_side=True)
            with self._lock:
                self._open.add(sock)
            with sock.makefile("rb") as file:
                while not self._stopping.is_set():
                    request = _read_request(file)
                    if request is None or not self.handle(sock, request):
                        break
        except _Cut as cut:
            reset = cut.reset
        except (OSError, ValueError):
            pass  # the client has gone
        finally:
            with self._lock:
                self._open.discard(sock)
            if reset:  # closing with an empty linger sends RST
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()

    def handle(self, sock: socket.socket, request: Request) -> bool:
        """Answer; whether the connection may be kept."""
        raise NotImplementedError


def _read_request(file: object) -> Request | None:
    readline = file.readline  # type: ignore[attr-defined]
    words = readline().decode("latin-1").split()
    if len(words) != 3:
        return None
    headers = {}
    while (line := readline().decode("latin-1").strip()) != "":
        key, _, value = line.partition(":")
        headers[key.strip().lower()] = value.strip()
    length = int(headers.get("content-length", 0))
    body = file.read(length)  # type: ignore[attr-defined]
    if len(body) < length:
        return None  # the client left
    return Request(words[0], words[1], words[2], headers, body)


class LyingServer(_Server):
    """Serves blocks in bundles, and lies as told.

    Args:
        blocks: what it has.
        lie: what it does wrong.
        times: how many bundles it lies to before it becomes honest; None for ever.
        tls: serve https.
        after: blocks of each bundle that are served well before a lie within the answer.
        respond: answers requests that are not for bundles; None answers 404.
        waits_for: answers no bundle before this happened (for 20 s at most): a server that would
            else serve all by itself, where another's part is what is tested.
    """

    def __init__(
        self,
        blocks: Mapping[Digest, bytes],
        lie: Lie = Lie.NONE,
        *,
        times: int | None = None,
        tls: ssl.SSLContext | None = None,
        after: int = 0,
        respond: Callable[[Request], Reply | None] | None = None,
        waits_for: threading.Event | None = None,
    ) -> None:
        super().__init__(tls)
        self.blocks = blocks
        self.lie = lie
        self._times = times
        self._after = after
        self._respond = respond
        self.waits_for = waits_for
        """May be changed: two that wait for each other's `asked` both get their part."""
        self.bundles: list[BundleRequest] = []
        """Every bundle that was asked for, in order of arrival."""
        self.requests: list[Request] = []
        """Every request."""
        self.sent: dict[Digest, int] = {}
        """How often each block was sent whole."""
        self.asked = threading.Event()
        """A bundle was asked for."""
        self.lied = threading.Event()
        """A lie was told."""

    def handle(self, sock: socket.socket, request: Request) -> bool:
        """As its base says."""
        self.requests.append(request)
        if request.method != "POST" or not request.path.endswith("/v1/bundles"):
            reply = (self._respond(request) if self._respond else None) or Reply(404)
            _send_reply(sock, reply)
            return request.version == "HTTP/1.1"
        asked = decode_request(request.body)
        with self._lock:
            self.bundles.append(asked)
        self.asked.set()
        if self.waits_for is not None:
            self.waits_for.wait(_PATIENCE_S)
        with self._lock:
            lie = self.lie
            if self._times is not None and lie is not Lie.NONE:
                self._times -= 1
                if self._times < 0:
                    lie = Lie.NONE
        if lie is not Lie.NONE:
            self.lied.set()
            self._lie_instead(sock, lie)
        chunked = request.version == "HTTP/1.1" and lie is not Lie.CONTENT_LENGTH
        sock.sendall(_bundle_head(lie, chunked=chunked))
        for piece in self._answer(asked, lie):
            sock.sendall(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
        if chunked:
            sock.sendall(b"0\r\n\r\n")
        return chunked

    def _lie_instead(self, sock: socket.socket, lie: Lie) -> None:
        """Lies that take the place of the answer."""
        if lie in _INSTEAD:
            sock.sendall(_INSTEAD[lie])
            raise _Cut
        match lie:
            case Lie.STALL | Lie.STALL_HEAD:
                if lie is Lie.STALL_HEAD:
                    sock.sendall(b"HTTP/1.1 200 OK\r\nIcn-Ver")
                self._stopping.wait()
                raise _Cut
            case Lie.RESET:
                raise _Cut(reset=True)
            case Lie.CLOSE:
                raise _Cut
            case Lie.ENDLESS_HEAD:
                sock.sendall(b"HTTP/1.1 200 OK\r\n")
                while not self._stopping.wait(_TICK_S):
                    sock.sendall(b"X-More: of the same\r\n")
                raise _Cut
            case _:
                pass

    def _answer(self, asked: BundleRequest, lie: Lie) -> Iterator[bytes]:
        yield PREAMBLE if lie is not Lie.VERSION else b"ICNB\x07\0\0\0"
        for index, want in enumerate(asked.wants):
            if lie in {Lie.NOT_FOUND, Lie.BUSY} or want.digest not in self.blocks:
                reason = Reason.BUSY if lie is Lie.BUSY else Reason.NOT_FOUND
                yield nack_frame(index, reason, "no such thing")
                continue
            block = self.blocks[want.digest]
            if index == min(self._after, len(asked.wants) - 1) and lie is not Lie.NONE:
                yield from self._lie_within(index, block, lie)
                if lie is Lie.CUT_CLEAN:
                    return
                if lie is Lie.FLIP:
                    continue
            yield data_header(index, len(block)) + block
            with self._lock:
                self.sent[want.digest] = self.sent.get(want.digest, 0) + 1
        if lie is not Lie.NO_END:
            yield end_frame(len(asked.wants))
        if lie is Lie.MORE:
            yield ALIVE

    def _lie_within(self, index: int, block: bytes, lie: Lie) -> Iterator[bytes]:
        """Lies that come in place of, or before, a block."""
        half = data_header(index, len(block)) + block[: len(block) // 2]
        match lie:
            case Lie.FLIP:
                flipped = bytearray(block)
                flipped[len(block) // 2] ^= 1
                yield data_header(index, len(block)) + flipped
            case Lie.STALL_MID:
                yield half
                self._stopping.wait()
                raise _Cut
            case Lie.RESET_MID | Lie.CLOSE_MID | Lie.CONTENT_LENGTH:
                yield half
                raise _Cut(reset=lie is Lie.RESET_MID)
            case Lie.CUT_CLEAN:
                yield half
            case Lie.TRICKLE:
                for at in range(len(block)):
                    yield half[at : at + 1]
                    if self._stopping.wait(_TICK_S):
                        raise _Cut
            case Lie.ALIVE_ONLY:
                while not self._stopping.wait(_TICK_S):
                    yield ALIVE
                raise _Cut
            case Lie.LENGTH:
                yield data_header(index, len(block) + 1) + block + b"x"
            case Lie.HUGE_LENGTH:
                yield data_header(index, 0xFFFFFFFF) + block
            case Lie.TWICE:
                yield data_header(index, len(block)) + block
            case Lie.INDEX:
                yield data_header(0xFFFF, len(block)) + block
            case _:
                pass


def _error(status: str, *headers: str) -> bytes:
    head = [f"HTTP/1.1 {status}", *headers, "Content-Length: 0", "", ""]
    return "\r\n".join(head).encode()


_ICN: Final = "ICN-Version: 1"
_CHUNKED: Final = b"HTTP/1.1 200 OK\r\nICN-Version: 1\r\nTransfer-Encoding: chunked\r\n\r\n"
_INSTEAD: Final[dict[Lie, bytes]] = {
    Lie.HTML: b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 26\r\n\r\n"
    b"<html>Please log in</html>",
    Lie.OTHER_PROTOCOL: b"SSH-2.0-OpenSSH_9.2p1\r\n",
    Lie.BAD_CHUNK: _CHUNKED + b"zz\r\nhello\r\n",
    Lie.ENDLESS_CHUNK_LINE: _CHUNKED + b"1" * 100_000,
    Lie.STATUS_500: _error("500 Oh", _ICN),
    Lie.STATUS_404: _error("404 Not Found"),
    Lie.STATUS_403: _error("403 Forbidden", _ICN),
    Lie.STATUS_429: _error("429 Too Many Requests", _ICN, "Retry-After: 1"),
    Lie.REDIRECT: _error("302 Found", "Location: http://127.0.0.1:1/"),
}


def _bundle_head(lie: Lie, *, chunked: bool) -> bytes:
    head = ["HTTP/1.1 200 OK", _ICN, f"Content-Type: {MEDIA_TYPE}"]
    if chunked:
        head.append("Transfer-Encoding: chunked")
    elif lie is Lie.CONTENT_LENGTH:
        head.append("Content-Length: 1000000000")
    else:
        head.append("Connection: close")
    return "\r\n".join([*head, "", ""]).encode()


def _send_reply(sock: socket.socket, reply: Reply) -> None:
    head = [f"HTTP/1.1 {reply.status} Told", f"Content-Length: {len(reply.body)}"]
    head += [f"{key}: {value}" for key, value in {"ICN-Version": "1", **reply.headers}.items()]
    sock.sendall("\r\n".join([*head, "", ""]).encode() + reply.body)


class RechunkingProxy(_Server):
    """A reverse proxy that cuts what it passes on at random places.

    Args:
        upstream: port of the server behind it, on 127.0.0.1; spoken to in HTTP/1.0.
        random: where to cut.
        most: bytes of a chunk, at most.
    """

    def __init__(self, upstream: int, random: Random, most: int = 5000) -> None:
        super().__init__()
        self._upstream = upstream
        self._random = random
        self._most = most

    def handle(self, sock: socket.socket, request: Request) -> bool:
        """As its base says."""
        head = [f"{request.method} {request.path} HTTP/1.0"]
        head += [f"{key}: {value}" for key, value in request.headers.items()]
        with socket.create_connection(("127.0.0.1", self._upstream)) as upstream:
            upstream.sendall("\r\n".join([*head, "", ""]).encode("latin-1") + request.body)
            with upstream.makefile("rb") as file:
                status = file.readline()
                sock.sendall(status.replace(b"HTTP/1.0", b"HTTP/1.1"))
                while (line := file.readline()).strip():
                    if not line.lower().startswith((b"connection", b"content-length")):
                        sock.sendall(line)
                sock.sendall(b"Transfer-Encoding: chunked\r\n\r\n")
                while piece := file.read1(self._random.randint(1, self._most)):
                    sock.sendall(b"%x;cut=here\r\n%b\r\n" % (len(piece), piece))
        sock.sendall(b"0\r\nX-Trailer: yes\r\n\r\n")
        return True


class TunnelProxy(_Server):
    """A proxy that leads every CONNECT to one server, whatever it is asked for.

    Args:
        upstream: port of the server, on 127.0.0.1.
        refuses: answers 407 instead.
    """

    def __init__(self, upstream: int, *, refuses: bool = False) -> None:
        super().__init__()
        self._upstream = upstream
        self._refuses = refuses
        self.requests: list[Request] = []

    def handle(self, sock: socket.socket, request: Request) -> bool:
        """As its base says."""
        self.requests.append(request)
        if self._refuses:
            sock.sendall(b"HTTP/1.1 407 Authentication required\r\nContent-Length: 0\r\n\r\n")
            return True
        with socket.create_connection(("127.0.0.1", self._upstream)) as upstream:
            sock.sendall(b"HTTP/1.0 200 Connection established\r\n\r\n")
            self._spawn(_pass_on, upstream, sock)
            _pass_on(sock, upstream)
        return False


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    """Bytes from one to the other, until either ends."""
    with contextlib.suppress(OSError):
        while piece := source.recv(1 << 16):
            sink.sendall(piece)
        socket.socket.shutdown(sink, socket.SHUT_RDWR)
