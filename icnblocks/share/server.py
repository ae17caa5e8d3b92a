"""A small HTTP/1.1 server for neighbours: a few threads with blocking sockets, and sendfile.

It answers as a daemon does, for what is offered, and never fetches. Everything is bounded: peers,
heads, bodies, and how long a slow one may take. This module must not serve anything but offers.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from math import isnan
from typing import TYPE_CHECKING, Final

from icnblocks.client.endpoint import is_loopback
from icnblocks.client.http import PROTOCOL
from icnblocks.client.neighbours import neighbour_url
from icnblocks.client.pacing import SharedPacer
from icnblocks.errors import ChangedError, FormatError, IcnError, UsageError
from icnblocks.limits import KIB, MAX_BUNDLE_BYTES
from icnblocks.naming import Digest
from icnblocks.share.request import END, MAX_HEAD_BYTES, Request, parse_head
from icnblocks.wire.bundle import decode_request
from icnblocks.wire.frames import (
    HEADER_BYTES,
    MEDIA_TYPE,
    PREAMBLE,
    Reason,
    data_header,
    end_frame,
    nack_frame,
)
from icnblocks.wire.havemap import HaveMap, encode_have

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from icnblocks.share.offers import Offer
    from icnblocks.share.options import ShareOptions
    from icnblocks.store.base import Lease
    from icnblocks.wire.bundle import Want

_IDLE_S: Final = 30.0
_HEAD_S: Final = 5.0
"""Seconds for a whole head, and for a whole body, once it has begun."""
_TICK_S: Final = 1.0
_SEND_S: Final = 5.0
"""A peer that takes nothing for so long is cut off."""
_FLOOR: Final = 16 * KIB
_GRACE_S: Final = 10.0
_PIECE: Final = 512 * KIB
_MAX_WAIT_S: Final = 10.0
_LINGER_S: Final = 0.1
_BACKLOG: Final = 64
_REFUSED: Final = 16
"""Connections beyond the peers that are told so; those beyond them are closed unheard."""
_RETRY_AFTER: Final = {"Retry-After": "2"}
_BINARY: Final = {"Content-Type": "application/octet-stream"}
_REASONS: Final = {
    200: "OK", 304: "Not Modified", 400: "Bad Request", 404: "Not Found",
    405: "Method Not Allowed", 410: "Gone", 413: "Content Too Large", 429: "Too Many Requests",
}  # fmt: skip


class _GoneError(Exception):
    """The peer left, is too slow, or the answer cannot be ended properly: close the connection."""


class _Problem(Exception):
    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class ShareServer:
    """Serves offers to peers until it is closed.

    Args:
        options: where to listen, and the limits.

    Attributes:
        port: where it listens.
        sent_bytes: block payload that was sent.
        refused: requests that were asked to come back later.
        connections: how many came.
        visited: told of a manifest, and where whoever asked about it serves it in turn.
        deserted: told that the last peer has left.

    Raises:
        UsageError: if it cannot listen there.
    """

    def __init__(self, options: ShareOptions) -> None:
        self._options = options
        self._listener = _listen(options)
        self.port: int = self._listener.getsockname()[1]
        self.sent_bytes = 0
        self.refused = 0
        self.connections = 0
        self.visited: Callable[[Digest, str], None] = _nobody
        self.deserted: Callable[[], None] = lambda: None
        self._pacer = None if options.rate is None else SharedPacer(options.rate, time.monotonic)
        self._offers: dict[Digest, Offer] = {}
        self._lock = threading.Lock()
        self._open: dict[socket.socket, tuple[threading.Thread, str]] = {}  # and of which address
        self._closed = False
        self._thread = threading.Thread(target=self._accept, name="icn-share", daemon=True)
        self._thread.start()

    def offer(self, offer: Offer) -> None:
        """Serve this too, in the place of a former offer of the same model."""
        with self._lock:
            former = self._offers.get(offer.manifest)
            self._offers[offer.manifest] = offer
        if former is not None:
            former.end()  # who listens to it shall hear of this one, and not keep us from closing

    def close(self) -> None:
        """Cut off everybody, and wait for the threads."""
        with self._lock:
            self._closed = True
            threads = [self._thread, *(thread for thread, _ in self._open.values())]
            for sock in (self._listener, *self._open):
                _shut(sock)
        if self._pacer is not None:
            self._pacer.stop()
        for offer in self._offers.values():
            offer.end()
        for thread in threads:
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, (host, *_) = self._listener.accept()
            except OSError:
                if self._closed:
                    return
                time.sleep(0.1)  # out of descriptors, as a rule: that passes
                continue
            with self._lock:
                self.connections += 1
                many = len(self._open)
                if self._closed or many >= self._options.peers + _REFUSED or self._has_enough(host):
                    sock.close()
                    continue
                peer = _Peer(self, sock, refuse=many >= self._options.peers)
                thread = threading.Thread(target=peer.run, name="icn-share-peer", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # out of threads: that passes, as a rule
                    sock.close()
                else:
                    self._open[sock] = thread, host

    def _has_enough(self, host: str) -> bool:
        """Whether an address has its part of the places: one machine may not take those of all."""
        there = sum(each == host for _, each in self._open.values())
        return there >= max(1, self._options.peers // 2) and not is_loopback(host)

    # For peers.

    def left(self, sock: socket.socket) -> None:
        """A peer's thread is about to end."""
        with self._lock:
            self._open.pop(sock, None)
            sock.close()
            deserted = not self._open
        if deserted:
            self.deserted()

    def counted(self, sent: int = 0, refused: int = 0) -> None:
        """So many bytes of blocks were sent, and so many requests refused."""
        with self._lock:
            self.sent_bytes += sent
            self.refused += refused

    def find(self, manifest: Digest) -> Offer:
        """The offer of a model."""
        offer = self._offers.get(manifest)
        if offer is None:
            raise _Problem(404, "not-found", "that model is not shared here")
        return offer

    def open(self, digest: Digest, length: int | None = None) -> Lease | Reason:
        """A block of any offer, or why none of those that should have it gives it."""
        refusal = Reason.NOT_FOUND
        for offer in list(self._offers.values()):
            known = offer.lengths.get(digest)
            if known is None:
                continue
            if length is not None and known != length:
                refusal = Reason.LENGTH
                continue
            try:
                lease = offer.open(digest)
            except ChangedError:
                refusal = Reason.CHANGED
            except (IcnError, OSError):
                refusal = Reason.OTHER
            else:
                if lease is not None:
                    return lease
        return refusal

    def paced(self, most: int) -> int:
        """Wait until something may be sent; how much of `most`."""
        return most if self._pacer is None else self._pacer.take(most)

    def unpaced(self, count: int) -> None:
        """So much of it was not sent."""
        if self._pacer is not None:
            self._pacer.give_back(count)


class _Peer:
    """One connection, on a thread of its own."""

    def __init__(self, server: ShareServer, sock: socket.socket, *, refuse: bool) -> None:
        self._server = server
        self._sock = sock
        self._refuse = refuse
        self._unread = b""

    def run(self) -> None:
        try:
            _set_up(self._sock)
            while self._one():
                pass
        except (OSError, _GoneError):
            pass
        finally:
            self._server.left(self._sock)

    def _one(self) -> bool:
        """Answer one request; whether another may follow."""
        try:
            head = self._head()
            if head is None:
                return False
            request = parse_head(head)
            if self._refuse:
                self._server.counted(refused=1)
                raise _Problem(429, "busy", "too many peers at once")
            self._answer(request)
        except IcnError as error:
            self._problem(_Problem(400, error.code, str(error)))
            return False
        except _Problem as problem:
            self._problem(problem)
            return False
        return request.keep

    # Reading.

    def _head(self) -> bytes | None:
        """The next head; None if the peer has left or has nothing to ask."""
        data, began = self._unread, time.monotonic()
        while END not in data:
            if len(data) > MAX_HEAD_BYTES:
                raise FormatError("the head of the request is too long")
            if time.monotonic() - began > (_HEAD_S if data else _IDLE_S):
                return None
            piece = self._recv()
            if piece is None:
                continue
            if not piece:
                return None
            if not data:
                began = time.monotonic()
            data += piece
        head, _, self._unread = data.partition(END)
        return head

    def _body(self, request: Request, most: int) -> bytes:
        if request.length > most:
            raise _Problem(413, "too-large", f"a body of at most {most} bytes is taken")
        data, self._unread = self._unread[: request.length], self._unread[request.length :]
        until = time.monotonic() + _HEAD_S
        while len(data) < request.length:
            piece = self._recv(request.length - len(data))
            if piece == b"" or time.monotonic() > until:
                raise _GoneError
            data += piece or b""
        return data

    def _recv(self, most: int = 64 * KIB) -> bytes | None:
        """What has come; empty if the peer has left, None if nothing came for a while."""
        try:
            return self._sock.recv(most)
        except BlockingIOError:
            return None

    # Answering.

    def _answer(self, request: Request) -> None:
        parts = request.path.strip("/").split("/")
        if request.method == "POST" and parts == ["v1", "bundles"]:
            self._bundle(self._body(request, MAX_BUNDLE_BYTES))
            return
        if request.length:
            raise _Problem(413, "too-large", "no body is taken here")
        if request.method not in {"GET", "HEAD"}:
            raise _Problem(405, "usage", f"{request.method[:20]} is not taken here")
        match parts:
            case ["healthz"]:
                self._send(200, b"ok", request)
            case ["v1", "blocks", digest]:
                self._block(Digest.parse(digest), request)
            case ["v1", "manifests", digest]:
                with self._server.find(Digest.parse(digest)).reading() as raw:
                    if raw is None:
                        raise _Problem(404, "not-found", "that manifest is not here")
                    self._send(200, raw, request, _BINARY)
            case ["v1", "manifests", digest, "have"]:
                self._have(Digest.parse(digest), request)
            case _:
                raise _Problem(404, "not-found", "a device that shares does not answer this")

    def _have(self, manifest: Digest, request: Request) -> None:
        offer = self._server.find(manifest)
        url = neighbour_url(f"{self._address()}:{request.port}")
        if url is not None:
            self._server.visited(manifest, url)
        try:
            known = int(request.query.get("known", "-1"))
            wait_s = float(request.query.get("wait", "0"))
        except ValueError:
            raise FormatError("known and wait are numbers") from None
        if isnan(wait_s):  # it would never be over
            raise FormatError("known and wait are numbers")
        flags = offer.flags(known, min(max(wait_s, 0.0), _MAX_WAIT_S), _LINGER_S)
        body = encode_have(HaveMap(flags, fetches=False))
        self._send(200, body, request, {**_BINARY, "Cache-Control": "no-store"})

    def _address(self) -> str:
        """Of the peer, as others would write it."""
        address: str = self._sock.getpeername()[0]
        return address.removeprefix("::ffff:") if "." in address else address

    def _block(self, digest: Digest, request: Request) -> None:
        lease = self._server.open(digest)
        if isinstance(lease, Reason):
            if lease is Reason.CHANGED:
                raise _Problem(410, "changed", "the file of that block was changed")
            raise _Problem(404, "not-found", "that block is not here")
        with lease:
            headers = {
                **_BINARY,
                "ETag": f'"{digest}"',
                "Cache-Control": "public, max-age=31536000, immutable",
            }
            self._write(_head(200, lease.length, headers), more=request.method == "GET")
            if request.method == "GET":
                self._file(lease)

    def _bundle(self, body: bytes) -> None:
        wants = decode_request(body).wants
        refused = {
            index: reason
            for index, want in enumerate(wants)
            if (reason := self._refusal(want)) is not None
        }
        given = [(index, want) for index, want in enumerate(wants) if index not in refused]
        nacks = b"".join(nack_frame(index, reason) for index, reason in refused.items())
        end = end_frame(len(wants))
        total = len(PREAMBLE) + len(nacks) + len(end)
        total += sum(HEADER_BYTES + want.length for _, want in given)
        head = _head(200, total, {"Content-Type": MEDIA_TYPE})
        # Refusals first: whoever asked can ask somebody else at once.
        self._write(head + PREAMBLE + nacks, more=True)
        for index, want in given:
            # Not held since it was looked for: a thousand blocks may lie in as many files.
            lease = self._server.open(want.digest, want.length)
            if isinstance(lease, Reason):
                raise _GoneError
            with lease:
                self._write(data_header(index, lease.length), more=True)
                self._file(lease)
        self._write(end)

    def _refusal(self, want: Want) -> Reason | None:
        lease = self._server.open(want.digest, want.length)
        if isinstance(lease, Reason):
            return lease
        lease.close()
        return None

    def _send(
        self, status: int, body: bytes, request: Request, headers: Mapping[str, str] | None = None
    ) -> None:
        sends = request.method == "GET"
        head = _head(status, len(body), headers or {"Content-Type": "text/plain"})
        self._write(head, more=sends)
        if sends:
            self._write(body)

    def _problem(self, problem: _Problem) -> None:
        import json

        told = {"error": problem.code, "message": str(problem), "hint": ""}
        body = json.dumps({**told, "retry": problem.status == 429}).encode()
        headers = {"Content-Type": "application/json", "Connection": "close"}
        if problem.status == 429:
            headers |= _RETRY_AFTER
        self._write(_head(problem.status, len(body), headers) + body)
        self._sock.shutdown(socket.SHUT_WR)
        self._recv()  # what the peer still sends must not reset the answer away

    # Writing: all of it within the limit of the device.

    def _write(self, data: bytes, *, more: bool = False) -> None:
        view, flags = memoryview(data), socket.MSG_MORE if more else 0
        self._pieces(len(data), lambda at, most: self._sock.send(view[at : at + most], flags))

    def _pieces(self, length: int, send: Callable[[int, int], int]) -> None:
        """Send so many bytes; `send` is given where to go on, and says how many it sent."""
        at, allowed_s = 0, _GRACE_S + length / _FLOOR  # of waiting for the peer, not for our limit
        while at < length:
            most = self._server.paced(min(length - at, _PIECE))
            began = time.monotonic()
            sent = send(at, most)
            allowed_s -= time.monotonic() - began
            self._server.unpaced(most - sent)
            at += sent
            if not sent or (at < length and allowed_s < 0):
                raise _GoneError

    def _file(self, lease: Lease) -> None:
        """Send a block; what is not as long as it was said to be closes the connection."""
        to, begin = self._sock.fileno(), lease.offset
        self._pieces(lease.length, lambda at, most: os.sendfile(to, lease.fd, begin + at, most))
        try:
            lease.check()
        except IcnError:
            raise _GoneError from None
        self._server.counted(sent=lease.length)


def _listen(options: ShareOptions) -> socket.socket:
    """All addresses of both families where the system has both."""
    try:
        if not options.host and socket.has_dualstack_ipv6():
            return socket.create_server(
                ("", options.port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=_BACKLOG
            )
        family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
        return socket.create_server((options.host, options.port), family=family, backlog=_BACKLOG)
    except OSError as error:
        where = f"{options.host or '*'}:{options.port}"
        why = (error.strerror or str(error)).partition(" (while ")[0]  # what Python says besides
        raise UsageError(
            f"cannot share at {where}: {why}",
            hint="name another address or port with --share-listen (ShareOptions)",
        ) from None


def _set_up(sock: socket.socket) -> None:
    """Blocking calls that end after a while: one call sends a block, without Python in between."""
    sock.setblocking(True)
    for option, seconds in ((socket.SO_RCVTIMEO, _TICK_S), (socket.SO_SNDTIMEO, _SEND_S)):
        sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", int(seconds), 0))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _shut(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # not connected, or no longer


def _head(status: int, length: int, headers: Mapping[str, str]) -> bytes:
    lines = [
        f"HTTP/1.1 {status} {_REASONS[status]}", f"ICN-Version: {PROTOCOL}", "Server: icn-share",
        f"Content-Length: {length}", *(f"{key}: {value}" for key, value in headers.items()),
    ]  # fmt: skip
    return "\r\n".join(lines).encode() + END


def _nobody(_manifest: Digest, _url: str) -> None:
    """Whoever asks is not told on."""
