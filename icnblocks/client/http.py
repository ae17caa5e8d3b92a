"""One HTTP/1.1 connection: time limits, keep-alive, TLS, proxies.

It turns every failure into one IcnError. Bodies are read straight into the caller's buffer and
never wait for more than has arrived, which would hold back blocks. Written on bare sockets, and
TLS is imported where it is used, so that commands start sooner. This module must not know what
bodies mean, and must not retry, except at once on a kept connection that the server had closed
meanwhile.
"""

from __future__ import annotations

import io
import socket
import threading
import time
from typing import TYPE_CHECKING, Final

from icnblocks.client.answers import no_http
from icnblocks.client.breakage import explained, is_closing, no_way
from icnblocks.client.endpoint import Endpoint, Proxy, SourceOptions, proxy_for, ssl_context
from icnblocks.client.head import decode_head, encode_head, find_end
from icnblocks.client.timed import TimedSocket
from icnblocks.errors import ForeignError, FormatError, IcnError, SourceError
from icnblocks.limits import KIB
from icnblocks.wire.headers import VERSION_HEADER

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

    from icnblocks.client.head import Head

PROTOCOL: Final = "1"
"""What `ICN-Version` says, in requests and answers."""
_SPARE_BYTES: Final = 32 * KIB
_MAX_CHUNK_LINE: Final = 1024
_MAX_TRAILERS: Final = 32
_LEAST_S: Final = 0.01
_BEGINS: Final = b"HTTP/1."
_DIGITS: Final = frozenset(b"0123456789abcdefABCDEF")
_FAILURES: Final = (OSError, ValueError, SourceError, FormatError)
_TOGETHER_BYTES: Final = 64 * KIB
"""A body up to here is sent with its head."""


class Answer:
    """A response whose head has come; read its body to the end to keep the connection."""

    def __init__(
        self, connection: Connection, timed: TimedSocket, head: Head, spare: memoryview, have: int
    ) -> None:
        self.status = head.status
        self.headers = head.headers
        """By name in lower case."""
        self.where = str(connection)
        self._connection = connection
        self._timed = timed
        self._keep = head.keep
        self._chunked = head.chunked
        self._left = 0 if head.chunked else head.length  # of the body or chunk; None: unknown
        self._between = False  # chunked: the line end after a chunk is still to come
        self._spare = spare
        self._at, self._have = 0, have  # unread bytes are spare[at:have]
        self._failure: OSError | None = None
        self.ended = False
        if self._left == 0 and not self._chunked:
            self._end()

    def readinto(self, view: memoryview) -> int:
        """Read what has arrived, waiting only while there is nothing at all.

        Returns:
            How many bytes, at least one; 0 at the end of the body.

        Raises:
            SourceError: if nothing, or less than the floor, comes for `stall_s`, or the
                connection breaks or is cut before the body's end.
            FormatError: if the chunks are malformed.
        """
        if self.ended:
            return 0
        try:
            if self._failure is not None:
                raise self._failure
            return self._readinto(view)
        except _FAILURES as error:
            raise self._connection.failed(error) from None

    def _readinto(self, view: memoryview) -> int:
        total, room = 0, len(view)
        while total < room and not self.ended:
            if self._chunked and self._left == 0:
                if total and not self._line_is_here():
                    break
                if not self._next_chunk():
                    break
            most = room - total if self._left is None else min(room - total, self._left)
            if self._at == self._have:
                if most >= _SPARE_BYTES and (not total or most == self._left):
                    return total + self._straight(view[total : total + most], had=total)
                if total:  # of a long chunk: the reader may know now how much it wants of it
                    break
                self._fill()
            count = min(most, self._have - self._at)
            view[total : total + count] = self._spare[self._at : self._at + count]
            self._at += count
            total += count
            self._took(count)
        return total

    def _straight(self, view: memoryview, *, had: int) -> int:
        """Receive what was promised into the caller's buffer, past our own.

        Where it fails, the `had` bytes that are there already are given out first.
        """
        try:
            count = self._timed.recv_into(view, whole=self._left is not None)
        except OSError as error:
            if not had:
                raise
            self._failure = error
            return 0
        if count or not had:
            self._took(count)
        return count

    def _took(self, count: int) -> None:
        """Count bytes of the body; 0 of them means that the connection was closed."""
        if count == 0:
            if self._left is not None:
                raise SourceError(f"{self._connection} cut off its answer")
            self._end()  # HTTP/1.0: the end is told by closing
        elif self._left is not None:
            self._left -= count
            if self._left == 0 and self._chunked:
                self._between = True
            elif self._left == 0:
                self._end()

    def _fill(self) -> None:
        """One read into the spare buffer; what is unread there goes to its front."""
        held = self._have - self._at
        if held:
            self._spare[:held] = self._spare[self._at : self._have]
        self._at, self._have = 0, held
        self._have += self._timed.recv_into(self._spare[held:])

    def _line_is_here(self) -> bool:
        """Whether the next chunk's size can be read without waiting."""
        unread = bytes(self._spare[self._at : min(self._have, self._at + _MAX_CHUNK_LINE)])
        return unread.find(b"\n", 2 if self._between else 0) >= 0

    def _line(self) -> bytes:
        while True:
            unread = bytes(self._spare[self._at : min(self._have, self._at + _MAX_CHUNK_LINE)])
            end = unread.find(b"\n")
            if end >= 0:
                self._at += end + 1
                return unread[:end].rstrip(b"\r")
            if len(unread) == _MAX_CHUNK_LINE:
                raise FormatError(f"{self._connection} sent a malformed chunk")
            had = self._have - self._at
            self._fill()
            if self._have - self._at == had:
                raise SourceError(f"{self._connection} cut off its answer")

    def _next_chunk(self) -> bool:
        """Read the head of the next chunk; False at the end of the body."""
        if self._between and self._line():
            raise FormatError(f"{self._connection} sent a malformed chunk")
        self._between = False
        digits = self._line().split(b";", 1)[0].strip()
        if not 1 <= len(digits) <= 15 or not _DIGITS.issuperset(digits):
            raise FormatError(f"{self._connection} sent a malformed chunk")
        self._left = int(digits, 16)
        if self._left:
            return True
        for _ in range(_MAX_TRAILERS):
            if not self._line():
                self._end()
                return False
        raise FormatError(f"{self._connection} sent too many trailers")

    def _end(self) -> None:
        self.ended = True
        self._connection.ended(keep=self._keep and self._at == self._have)

    def read(self, most: int) -> bytes:
        """The whole body.

        Raises:
            FormatError: if it has more than `most` bytes.
            SourceError: as `readinto`.
        """
        # Given out without a copy; closed by a failure, since its traceback keeps this frame.
        with io.BytesIO() as body:
            piece = memoryview(bytearray(min(most + 1, 256 * KIB)))
            too_long = self._left is not None and self._left > most
            while not too_long and (count := self.readinto(piece)):
                body.write(piece[:count])
                too_long = body.tell() > most
            if too_long:
                self._connection.drop()
                raise FormatError(f"{self._connection} sends more than {most} bytes")
            return body.getvalue()

    def forgive(self) -> None:
        """The other side has shown that it is at work: the time for a stall begins anew."""
        self._timed.forgive()

    def finish(self) -> None:
        """The body should have ended: keep the connection if so, else close it. Never raises."""
        try:
            if self.readinto(memoryview(bytearray(1))):
                self._connection.drop()
        except IcnError:
            pass


class Connection:
    """A connection that is opened when needed and kept; for one thread, but `abort` for any."""

    def __init__(
        self, endpoint: Endpoint, options: SourceOptions, context: ssl.SSLContext | None = None
    ) -> None:
        self.endpoint = endpoint
        self._options = options
        self._context = context
        self._timed: TimedSocket | None = None
        self._unread = False  # an answer is to come, or its body was not read to its end
        self._proxy: Proxy | None = None  # one that wants whole URLs
        self._lock = threading.Lock()  # guards _socket and _aborted
        self._socket: socket.socket | None = None
        self._aborted = False

    def __str__(self) -> str:
        return str(self.endpoint)

    @property
    def open(self) -> bool:
        """Whether a socket is held."""
        return self._timed is not None

    @property
    def received(self) -> int:
        """Bytes that came over the socket that is held."""
        timed = self._timed
        return 0 if timed is None else timed.received

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        answer_s: float | None = None,
    ) -> Answer:
        """Send a request and wait for the head of the answer, of whatever status.

        Args:
            method: of HTTP; all that we send may be repeated.
            path: below the endpoint's prefix; begins with a slash.
            body: bytes to send.
            headers: beside those that are always sent.
            answer_s: seconds until the whole head must be there; `stall_s` when None.

        Raises:
            SourceError: if the server cannot be reached, or there is no answer.
            UntrustedError: if its certificate is not trusted.
            ForeignError: if what answers does not speak HTTP.
        """
        head = {"User-Agent": self._options.user_agent, VERSION_HEADER: PROTOCOL, **(headers or {})}
        wait = self._options.stall_s if answer_s is None else answer_s
        if self._unread:
            self.drop()
        while True:
            kept, before = self._timed, self.received
            try:
                return self._exchange(method, path, body, head, wait)
            except _FAILURES as error:
                # A server may close a kept connection at any time: that is nobody's failure.
                stale = kept is not None and kept.received == before and not self._aborted
                failure = self.failed(error)
                if not stale or not is_closing(error):
                    raise failure from None

    def _exchange(
        self, method: str, path: str, body: bytes | None, head: Mapping[str, str], wait: float
    ) -> Answer:
        timed = self._timed
        if timed is None:
            timed = self._timed = self._connect()
        target = f"{self.endpoint.prefix}{path}"
        if self._proxy is not None:
            target = f"http://{self.endpoint.authority}{target}"
            head = {**self._proxy.headers, **head}
        length = len(body) if body is not None else None
        first = encode_head(method, target, self.endpoint.authority, head, length)
        self._unread = True  # from here on: an interrupt may leave the whole answer
        try:
            _send(timed, first, body or b"")
        except (BrokenPipeError, ConnectionResetError):
            # It may have answered (413, 403) before it had read all of the body.
            if body is None:
                raise
        timed.deadline = time.monotonic() + wait
        told, spare, have = self._head(timed, method)
        timed.deadline = None
        timed.forgive()
        return Answer(self, timed, told, spare, have)

    def _head(self, timed: TimedSocket, method: str) -> tuple[Head, memoryview, int]:
        """Read the head of an answer, passing over those that only say to wait (1xx).

        Returns:
            It, and a buffer with the bytes at its front that came with it, and how many.
        """
        spare, have = memoryview(bytearray(_SPARE_BYTES)), 0
        while True:
            while not (end := find_end(spare[:have].tobytes())):
                begins = spare[: min(have, len(_BEGINS))].tobytes()
                if have == _SPARE_BYTES or not _BEGINS.startswith(begins):
                    raise no_http(str(self), "what it sends is no head of an answer")
                count = timed.recv_into(spare[have:])
                if not count:
                    raise ConnectionResetError
                have += count
            try:
                head = decode_head(spare[:end].tobytes(), method)
            except FormatError as error:
                raise no_http(str(self), str(error)) from None
            spare[: have - end] = spare[end:have]
            have -= end
            if head.status >= 200:
                return head, spare, have

    def _connect(self) -> TimedSocket:
        options, end = self._options, self.endpoint
        proxy = proxy_for(end) if options.environment else None
        self._proxy = None if end.secure else proxy
        sock, until = self._reach(proxy)
        if end.secure:
            sock.settimeout(max(until - time.monotonic(), _LEAST_S))
            context = self._context or ssl_context(options.ca_file)
            secure = context.wrap_socket(
                sock, server_hostname=end.bare_host, do_handshake_on_connect=False
            )
            sock = self._held(secure)
            secure.do_handshake()
        return TimedSocket(sock, options.stall_s, options.floor_bytes, tls=end.secure)

    def _reach(self, proxy: Proxy | None) -> tuple[socket.socket, float]:
        """A way to the server, its proxy's where there is one; and until when TLS must be there."""
        end = self.endpoint
        if proxy is None:
            return self._open_socket((end.host, end.port))
        try:
            sock, until = self._open_socket(proxy.address)
            if end.secure:
                self._tunnel(sock, proxy, until)
        except (OSError, ValueError, ForeignError) as error:  # not the server's, as others are
            raise no_way(str(self), proxy, error) from None
        return sock, until

    def _tunnel(self, sock: socket.socket, proxy: Proxy, until: float) -> None:
        """Ask a proxy for the way to the server."""
        timed = TimedSocket(sock, self._options.stall_s, self._options.floor_bytes)
        target = f"{self.endpoint.host_text}:{self.endpoint.port}"
        _send(timed, encode_head("CONNECT", target, target, proxy.headers, None), b"")
        timed.deadline = until
        status = self._head(timed, "CONNECT")[0].status
        if not 200 <= status < 300:
            told = f"the proxy {proxy} does not lead to {self}: status {status}"
            raise SourceError(told, hint=Proxy.advice)

    def _held(self, sock: socket.socket) -> socket.socket:
        """`abort` reaches this socket from now on."""
        with self._lock:
            self._socket = sock
            if self._aborted:
                raise SourceError("cancelled")
        return sock

    def _open_socket(self, address: tuple[str, int]) -> tuple[socket.socket, float]:
        """As socket.create_connection, but `abort` reaches the socket while it connects.

        Returns:
            It, and until when TLS must be there: the time begins once the name is resolved, which
            takes as long as the system's resolver lets it.
        """
        failure = OSError("the host has no address")
        host, port = address
        # Text is taken for a name in any script, for which Python loads tables; most are not.
        name = host.encode() if host.isascii() else host
        found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
        until = time.monotonic() + self._options.connect_s
        for number, (family, kind, proto, _, where) in enumerate(found):
            try:
                sock = socket.socket(family, kind, proto)
            except OSError as error:  # a family that this host does not have
                failure = error if number == 0 else failure
                continue
            self._held(sock)
            try:
                # An even share: an address that swallows packets leaves time for the next.
                share = (until - time.monotonic()) / (len(found) - number)
                sock.settimeout(max(share, _LEAST_S))
                sock.connect(where)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return sock, until
            except OSError as error:
                failure = error
                sock.close()
        raise failure

    def ended(self, *, keep: bool) -> None:
        """The body of the last answer was read to its end."""
        self._unread = False
        if not keep:
            self.drop()

    def failed(self, error: BaseException) -> IcnError:
        """Close the socket and put what happened into the project's words."""
        self.drop()
        if self._aborted:
            return SourceError(f"the request to {self} was cancelled")
        if isinstance(error, IcnError):
            return error
        return explained(str(self), error)

    def drop(self) -> None:
        """Close the socket; the next request opens another."""
        self._timed = None
        self._unread = False
        with self._lock:
            if self._socket is not None:
                self._socket.close()
                self._socket = None

    def abort(self) -> None:
        """Stop whatever another thread is doing on this connection. From any thread.

        That thread gets a SourceError and closes the socket. `revive` allows requests again.
        """
        with self._lock:
            self._aborted = True
            if self._socket is not None:
                try:
                    # Not SSLSocket's own: it would turn TLS off under the reading thread.
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
                except OSError:
                    pass  # not connected, or no longer

    def revive(self) -> None:
        """After `abort`: allow requests again."""
        with self._lock:
            self._aborted = False


def _send(timed: TimedSocket, head: bytes, body: bytes) -> None:
    if len(body) <= _TOGETHER_BYTES:
        timed.sendall(head + body)
    else:
        timed.sendall(head)
        timed.sendall(body)
