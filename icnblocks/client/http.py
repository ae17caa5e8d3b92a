"""One HTTP/1.1 connection on the standard library: time limits, keep-alive, TLS, proxies.

It turns every failure into one IcnError. Bodies are read straight into the caller's buffer and
never wait for more than has arrived (http.client's own `readinto` waits until the buffer is
full, which would hold back blocks). This module must not know what bodies mean, and must not
retry, except at once on a kept connection that the server had closed meanwhile.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
from typing import TYPE_CHECKING, Final

from icnblocks.client.endpoint import Endpoint, SourceOptions, proxy_for, ssl_context
from icnblocks.client.timed import TimedSocket
from icnblocks.errors import FormatError, IcnError, SourceError, UntrustedError
from icnblocks.limits import KIB

if TYPE_CHECKING:
    from collections.abc import Mapping

PROTOCOL: Final = "1"
"""What `ICN-Version` says, in requests and answers."""
_SPARE_BYTES: Final = 32 * KIB
_MAX_CHUNK_LINE: Final = 1024
_MAX_TRAILERS: Final = 32
_DIGITS: Final = frozenset(b"0123456789abcdefABCDEF")
_CLOSED: Final = (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError)
_FAILURES: Final = (OSError, http.client.HTTPException, ValueError, SourceError, FormatError)


class Answer:
    """A response whose head has come; read its body to the end to keep the connection."""

    def __init__(
        self, connection: Connection, timed: TimedSocket, response: http.client.HTTPResponse
    ) -> None:
        self.status = response.status
        self.headers = response.headers
        self.where = str(connection)
        self._connection = connection
        self._timed = timed
        self._response = response
        self._chunked = bool(response.chunked)
        self._left = 0 if self._chunked else response.length  # of the body or chunk; None: unknown
        self._between = False  # chunked: the line end after a chunk is still to come
        self._spare = memoryview(bytearray(_SPARE_BYTES))
        self._at = self._have = 0  # unread bytes are spare[at:have]
        self._first = True  # http.client may have read more than the head
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
                if total:
                    break
                if most >= _SPARE_BYTES and not self._first:
                    count = self._timed.recv_into(view[:most], whole=self._left is not None)
                    self._took(count)
                    return count
                self._fill()
            count = min(most, self._have - self._at)
            view[total : total + count] = self._spare[self._at : self._at + count]
            self._at += count
            total += count
            self._took(count)
        return total

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
        if self._first:
            self._first = False
            count = self._response.fp.readinto1(self._spare[held:])
        else:
            count = self._timed.recv_into(self._spare[held:])
        self._have += count

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
        self._response.close()  # else http.client takes the connection for busy
        self._connection.ended(keep=not self._response.will_close and self._at == self._have)

    def read(self, most: int) -> bytes:
        """The whole body.

        Raises:
            FormatError: if it has more than `most` bytes.
            SourceError: as `readinto`.
        """
        body = bytearray()
        piece = memoryview(bytearray(min(most + 1, 256 * KIB)))
        too_long = self._left is not None and self._left > most
        while not too_long and (count := self.readinto(piece)):
            body += piece[:count]
            too_long = len(body) > most
        if too_long:
            self._connection.drop()
            raise FormatError(f"{self._connection} sends more than {most} bytes")
        return bytes(body)

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
        self._http: http.client.HTTPConnection | None = None
        self._timed: TimedSocket | None = None
        self._unread = False  # an answer's body was not read to its end
        self._absolute = False  # a proxy wants whole URLs
        self._proxy_headers: dict[str, str] = {}
        self._lock = threading.Lock()  # guards _socket and _aborted
        self._socket: socket.socket | None = None
        self._aborted = False

    def __str__(self) -> str:
        return str(self.endpoint)

    @property
    def open(self) -> bool:
        """Whether a socket is held."""
        return self._http is not None

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
            FormatError: if what answers does not speak HTTP.
        """
        head = {"User-Agent": self._options.user_agent, "ICN-Version": PROTOCOL, **(headers or {})}
        wait = self._options.stall_s if answer_s is None else answer_s
        if self._unread:
            self.drop()
        while True:
            kept = self._timed
            before = 0 if kept is None else kept.received
            try:
                return self._exchange(method, path, body, head, wait)
            except _FAILURES as error:
                # A server may close a kept connection at any time: that is nobody's failure.
                stale = kept is not None and kept.received == before and not self._aborted
                failure = self.failed(error)
                if not stale or not isinstance(error, _CLOSED):
                    raise failure from None

    def _exchange(
        self, method: str, path: str, body: bytes | None, head: Mapping[str, str], wait: float
    ) -> Answer:
        if self._http is None or self._timed is None:
            self._http, self._timed = self._connect()
        timed = self._timed
        target = f"{self.endpoint.prefix}{path}"
        if self._absolute:
            target = f"http://{self.endpoint.authority}{target}"
        try:
            self._http.request(method, target, body, {**self._proxy_headers, **head})
        except (BrokenPipeError, ConnectionResetError):
            # It may have answered (413, 403) before it had read all of the body.
            if body is None:
                raise
        timed.deadline = time.monotonic() + wait
        response = self._http.getresponse()
        timed.deadline = None
        timed.forgive()
        self._unread = True
        return Answer(self, timed, response)

    def _connect(self) -> tuple[http.client.HTTPConnection, TimedSocket]:
        options, end = self._options, self.endpoint
        proxy = proxy_for(end) if options.environment else None
        host, port = (end.host, end.port) if proxy is None else (proxy.host, proxy.port)
        if end.secure:
            context = self._context or ssl_context(options.ca_file)
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                host, port, timeout=options.connect_s, context=context
            )
        else:
            connection = http.client.HTTPConnection(host, port, timeout=options.connect_s)
        if proxy is not None and end.secure:
            connection.set_tunnel(end.host, end.port, proxy.headers)
        elif proxy is not None:
            self._absolute, self._proxy_headers = True, proxy.headers
        connection._create_connection = self._open_socket  # type: ignore[attr-defined]
        connection.auto_open = 0
        try:
            connection.connect()
        except BaseException:
            connection.close()
            raise
        with self._lock:
            self._socket = connection.sock
            if self._aborted:
                raise SourceError("cancelled")
        timed = TimedSocket(connection.sock, options.stall_s, options.floor_bytes)
        connection.sock = timed
        return connection, timed

    def _open_socket(
        self, address: tuple[str, int], timeout: float, _source: object = None
    ) -> socket.socket:
        """As socket.create_connection, but `abort` reaches the socket while it connects."""
        until = time.monotonic() + timeout
        failure = OSError("the host has no address")
        found = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)
        for number, (family, kind, proto, _, where) in enumerate(found):
            sock = socket.socket(family, kind, proto)
            with self._lock:
                self._socket = sock
                if self._aborted:
                    raise SourceError("cancelled")
            try:
                # An even share: an address that swallows packets leaves time for the next.
                share = (until - time.monotonic()) / (len(found) - number)
                sock.settimeout(max(share, 0.01))
                sock.connect(where)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return sock
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
        return _explain(str(self), error)

    def drop(self) -> None:
        """Close the socket; the next request opens another."""
        self._http = self._timed = None
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


def _explain(where: str, error: BaseException) -> IcnError:
    match error:
        case ssl.SSLCertVerificationError():
            return UntrustedError(
                f"the certificate of {where} is not trusted: {error.verify_message}",
                hint="if its CA is your network's own, name the CA file in the settings (ca_file)",
            )
        case TimeoutError():
            return SourceError(f"{where} does not answer, or stalled")
        case ssl.SSLError():
            return SourceError(f"no TLS with {where}: {error.reason or error}")
        case socket.gaierror():
            return SourceError(f"{where} cannot be reached: unknown host name")
        case http.client.RemoteDisconnected() | ConnectionResetError() | BrokenPipeError():
            return SourceError(f"{where} closed the connection")
        case http.client.IncompleteRead():
            return SourceError(f"{where} cut off its answer")
        case OSError():
            return SourceError(f"{where} cannot be reached: {error.strerror or error}")
        case _:
            return FormatError(
                f"{where} does not speak HTTP ({type(error).__name__})",
                hint="check the URL: is it an icnblocks server?",
            )
