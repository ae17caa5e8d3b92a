"""A source: an origin or edge at a URL, and everything that can be asked of it.

Whatever it answers is bounded, and what has a digest is hashed, except blocks: whoever takes
them from a bundle verifies them. Failures are raised, not retried: that is the engine's choice;
but control requests wait for a busy source where whoever asks has given a Waiter that does.
Control requests may come from any thread. This module must not decide which source to use.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final, Protocol, Self

from icnblocks.client.answers import ThrottledError, check_answer, not_icn
from icnblocks.client.endpoint import Endpoint, SourceOptions, ssl_context
from icnblocks.client.http import Connection
from icnblocks.client.patience import Waiter
from icnblocks.errors import CorruptError, FormatError, NotFoundError, RefusedError, SourceError
from icnblocks.limits import (
    MAX_HAVE_BYTES,
    MAX_MANIFEST_BYTES,
    MAX_RECORD_BYTES,
    MAX_REQUEST_BYTES,
    MISSING_BATCH,
)
from icnblocks.naming import Digest
from icnblocks.values import dataclass
from icnblocks.wire.bundle import encode_request, pack_wants, unpack_indexes
from icnblocks.wire.frames import MEDIA_TYPE, Alive, FrameDecoder
from icnblocks.wire.havemap import HaveMap, decode_have
from icnblocks.wire.headers import NAME_HEADER

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from icnblocks.client.http import Answer
    from icnblocks.naming import Name
    from icnblocks.wire.bundle import BundleRequest, Want
    from icnblocks.wire.frames import Event

__all__ = ["BundleStream", "RecordAnswer", "Source", "SourceOptions", "ThrottledError"]

_CONTROL_STALLS: Final = 4
"""So often `stall_s` may pass until the answer to a control request begins: an edge may have to
ask upstream first."""
_MAX_IDLE: Final = 4
_MAX_AGE_S: Final = 10 * 365 * 86_400


@dataclass(frozen=True, slots=True)
class RecordAnswer:
    """A record as a source gave it: neither opened nor believed yet.

    Attributes:
        raw: its bytes.
        age_s: seconds since the source last had it confirmed, by its own word.
        stale: the source could not confirm it within its lifetime.
    """

    raw: bytes
    age_s: float
    stale: bool


class Pacer(Protocol):
    """Holds readers back to a rate that they share."""

    def take(self, most: int) -> int:
        """Wait, and say how many bytes may be read now: at least 1, at most `most`."""
        ...

    def give_back(self, count: int) -> None:
        """So many of them were not there to be read."""
        ...


class BundleStream:
    """One bundle under way: iterate over its events to the end, or over what comes together.

    Payloads point into the buffer and hold until the next event, or batch.
    """

    def __init__(
        self, answer: Answer, decoder: FrameDecoder, patience_s: float, pacer: Pacer | None = None
    ) -> None:
        self._answer = answer
        self._patience_s = patience_s
        self._pacer = pacer
        self.decoder = decoder
        """Knows what is still unanswered, and how much of a cut frame had come."""

    def __iter__(self) -> Iterator[Event]:
        """Yield the events, END included. Raises as `batches`."""
        for events in self.batches():
            yield from events

    def batches(self) -> Iterator[list[Event]]:
        """Yield what each read brought: short blocks come many at a time.

        Raises:
            SourceError: if the answer is cut, stalls, or the connection breaks.
            FormatError: if it is not an answer to the request.
        """
        answer, decoder = self._answer, self.decoder
        heard_at = time.monotonic()  # the last time that something but Alive came, cut or whole
        while not decoder.done:
            count = self._read(decoder.wanted())
            if not count:
                left = len(decoder.unanswered())
                raise SourceError(f"{answer.where} ended a bundle with {left} blocks to come")
            events: list[Event] = []
            alive = 0
            nonsense: FormatError | None = None
            try:
                for event in decoder.filled(count):
                    events.append(event)
                    alive += type(event) is Alive
            except FormatError as error:
                nonsense = type(error)(f"{answer.where}: {error}", hint=error.hint)
            if events:
                yield events
            if nonsense is not None:
                raise nonsense
            if alive < len(events) or decoder.partial_bytes:
                heard_at = time.monotonic()
            elif time.monotonic() - heard_at > self._patience_s:
                raise SourceError(f"{answer.where} has sent nothing for {self._patience_s:.0f} s")
            if alive:
                answer.forgive()
        answer.finish()

    def _read(self, room: memoryview) -> int:
        if self._pacer is None:
            return self._answer.readinto(room)
        room = room[: self._pacer.take(len(room))]
        count = self._answer.readinto(room)
        self._pacer.give_back(len(room) - count)
        return count


class Source:
    """An origin or edge at a URL. A context manager.

    Args:
        url: `http://` or `https://`, a path prefix allowed.
        options: how to talk to it.
        waiter: control requests are asked again as it says when the source is busy; when None,
            that is raised at once.

    Raises:
        UsageError: if the URL or the CA file cannot be meant.
    """

    def __init__(
        self, url: str, options: SourceOptions | None = None, waiter: Waiter | None = None
    ) -> None:
        self.endpoint = Endpoint.parse(url)
        self.url = str(self.endpoint)
        """The URL, normalised."""
        self.options = options or SourceOptions()
        self.waiter = waiter or Waiter(0.0)
        self._context: ssl.SSLContext | None = None
        if self.endpoint.secure:
            self._context = ssl_context(self.options.ca_file)
        self._lock = threading.Lock()
        self._idle: list[Connection] = []
        self._busy: set[Connection] = set()
        self._closed = False

    def __str__(self) -> str:
        return self.url

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def connect(self) -> Connection:
        """A connection of one's own, for one thread and many bundles; it may be open already."""
        with self._lock:
            return self._idle.pop() if self._idle else self._new_connection()

    def _new_connection(self) -> Connection:
        return Connection(self.endpoint, self.options, self._context)

    def bundle(
        self,
        request: BundleRequest,
        connection: Connection,
        buffer: memoryview,
        *,
        headers: Mapping[str, str] | None = None,
        pacer: Pacer | None = None,
    ) -> BundleStream:
        """Ask for blocks.

        Args:
            request: which blocks.
            connection: of this source; kept for the next bundle if this one ends well.
            buffer: as the FrameDecoder wants it.
            headers: more headers to send.
            pacer: holds back the reading.

        Raises:
            SourceError: if the source cannot be reached or does not answer.
            IcnError: as the source refuses.
        """
        answer = connection.request(
            "POST",
            "/v1/bundles",
            encode_request(request),
            {
                **self._authorization(writes=False),
                "Content-Type": MEDIA_TYPE,
                "Accept": MEDIA_TYPE,
                **(headers or {}),
            },
        )
        check_answer(answer, f"blocks from {self}")
        decoder = FrameDecoder(request.wants, buffer)
        return BundleStream(answer, decoder, self.options.patience_s, pacer)

    def have(
        self, manifest: Digest, count: int, name: Name | None, connection: Connection,
        *, known_only: bool = False,
    ) -> HaveMap | None:  # fmt: skip
        """Which of a manifest's blocks the source holds, and whether it would fetch the others.

        Args:
            manifest: its digest.
            count: how many distinct blocks it has.
            name: under which it may look for the manifest.
            connection: of this source; kept for what is asked next.
            known_only: it shall not look for a manifest that it does not know.

        Returns:
            None if the source does not know the manifest, or is too old to know the question.

        Raises:
            SourceError: if it cannot be reached.
            FormatError: if it answers nonsense.
            IcnError: as the source refuses.
        """
        headers = self._authorization(writes=False)
        if name is not None:
            headers[NAME_HEADER] = str(name)
        if known_only:
            headers["Cache-Control"] = "only-if-cached"
        path = f"/v1/manifests/{manifest}/have"
        answer = connection.request("GET", path, None, headers)
        try:
            check_answer(answer, f"have-map from {self}")
        except (NotFoundError, RefusedError):
            return None
        return decode_have(answer.read(MAX_HAVE_BYTES), count)

    def record(self, name: Name, *, headers: Mapping[str, str] | None = None) -> RecordAnswer:
        """The record of a name and tag.

        Raises:
            NotFoundError: if the source does not know the name.
            SourceError: if it cannot be reached.
            FormatError: if it answers nonsense.
        """
        answer, raw = self._ask(
            "GET", _record_path(name), f"{name} at {self}", most=MAX_RECORD_BYTES, headers=headers
        )
        age = answer.headers.get("icn-age", "0")
        age_s = float(age) if age.isdecimal() and len(age) <= 10 else 0.0
        return RecordAnswer(raw, min(age_s, _MAX_AGE_S), answer.headers.get("icn-stale") == "1")

    def manifest(self, digest: Digest, *, headers: Mapping[str, str] | None = None) -> bytes:
        """The manifest of that digest, hashed and found to match, not decoded.

        Raises:
            NotFoundError: if the source does not have it.
            CorruptError: if what it sends has another digest.
            SourceError: if it cannot be reached.
            FormatError: if it sends more than MAX_MANIFEST_BYTES.
        """
        what = f"manifest {digest} from {self}"
        _, data = self._ask(
            "GET", f"/v1/manifests/{digest}", what, most=MAX_MANIFEST_BYTES, headers=headers
        )
        found = Digest.of(data)
        if found != digest:
            length = len(data)
            del data  # the error's traceback keeps this frame
            raise CorruptError(f"{what}: its {length} bytes hash to {found}")
        return data

    def missing(self, wants: Sequence[Want]) -> list[int]:
        """Indexes of the wants that the source does not have, ascending.

        Raises:
            SourceError: if it cannot be reached.
            FormatError: if it answers nonsense.
        """
        found: list[int] = []
        for begin in range(0, len(wants), MISSING_BATCH):
            batch = wants[begin : begin + MISSING_BATCH]
            _, data = self._ask(
                "POST",
                "/v1/missing",
                f"missing blocks at {self}",
                pack_wants(batch),
                most=4 * len(batch),
                writes=True,  # else an origin keeps for nobody what it says that it has
            )
            found += [begin + index for index in unpack_indexes(data, len(batch))]
        return found

    def upload(self, bodies: Iterable[bytes]) -> None:
        """Send request bodies of parts (icnblocks.wire.upload), one after another.

        It does not wait for a busy source: who sends several at once should send fewer then.

        Raises:
            ThrottledError: if it is busy.
            RefusedError: if one may not write there.
            IcnError: as the source refuses.
        """
        for body in bodies:
            what = f"upload to {self}"
            self._ask("POST", "/v1/uploads", what, body, writes=True, waits=False)

    def put_manifest(self, digest: Digest, data: bytes) -> None:
        """Send a manifest, in parts where it is longer than a request may be.

        Raises:
            RefusedError: if one may not write there.
            IcnError: as the source refuses.
        """
        path, what = f"/v1/manifests/{digest}", f"manifest {digest} to {self}"
        for begin in range(0, len(data), MAX_REQUEST_BYTES):
            part = data[begin : begin + MAX_REQUEST_BYTES]
            headers = {}
            if len(part) < len(data):
                headers["Content-Range"] = f"bytes {begin}-{begin + len(part) - 1}/{len(data)}"
            self._ask("PUT", path, what, part, writes=True, headers=headers)

    def put_record(self, name: Name, raw: bytes) -> None:
        """Send a signed record.

        Raises:
            RefusedError: if one may not write there.
            ConflictError: if there is a newer one, or blocks of it are missing.
            IcnError: as the source refuses.
        """
        self._ask("PUT", _record_path(name), f"{name} to {self}", raw, writes=True)

    def coming(self) -> int:
        """Bytes that came on the connections of control requests that are under way."""
        with self._lock:
            return sum(connection.received for connection in self._busy)

    def close(self) -> None:
        """Close idle connections and cut off requests under way. Idempotent."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            for connection in self._busy:
                connection.abort()
        for connection in idle:
            connection.drop()

    def _ask(
        self,
        method: str,
        path: str,
        what: str,
        body: bytes | None = None,
        *,
        most: int = MAX_REQUEST_BYTES,
        writes: bool = False,
        headers: Mapping[str, str] | None = None,
        waits: bool = True,
    ) -> tuple[Answer, bytes]:
        """A control request on a pooled connection: the answer and its whole body.

        It is asked again while the source is busy and the waiter waits, unless `waits` is False.
        """

        def once() -> tuple[Answer, bytes]:
            more = {**self._authorization(writes=writes), **(headers or {})}
            if body is not None:
                more["Content-Type"] = "application/octet-stream"
            connection = self._take()
            try:
                until = _CONTROL_STALLS * self.options.stall_s
                answer = connection.request(method, path, body, more, answer_s=until)
                check_answer(answer, what)
                data = answer.read(most)
                if not data and method == "GET":
                    raise not_icn(str(self))
                return answer, data
            finally:
                self._give_back(connection)

        return self.waiter.ask(once) if waits else once()

    def _authorization(self, *, writes: bool) -> dict[str, str]:
        options = self.options
        if options.token is not None:
            return {"Authorization": f"Bearer {options.token}"}
        if writes and options.authorize is not None:
            return {"Authorization": options.authorize(self.endpoint.authority)}
        return {}

    def _take(self) -> Connection:
        with self._lock:
            if self._closed:
                raise SourceError(f"{self} was closed")
            connection = self._idle.pop() if self._idle else self._new_connection()
            self._busy.add(connection)
            return connection

    def _give_back(self, connection: Connection) -> None:
        with self._lock:
            self._busy.discard(connection)
            keep = not self._closed and connection.open and len(self._idle) < _MAX_IDLE
            if keep:
                self._idle.append(connection)
        if not keep:
            connection.drop()


def _record_path(name: Name) -> str:
    return f"/v1/records/{name.publisher}/{name.model}/{name.tag}"
