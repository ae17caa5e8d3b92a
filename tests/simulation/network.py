"""Links between hosts, and bundles that cross them: what `Source` and the HTTP face are for real.

A link carries pieces at its rate, one after the other; a reader that does not read holds its
server back. Links stall, part and are cut; servers are refused or vanish. What crosses is counted
at the reader's end. Payloads are the world's own bytes, never copied. This module must not decide
what is asked or answered.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from icnblocks.client.source import ThrottledError
from icnblocks.errors import SourceError
from icnblocks.limits import KIB
from icnblocks.wire.frames import Alive, Data, End, Nack
from tests.simulation.virtual import Ticket

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from icnblocks.client.endpoint import SourceOptions
    from icnblocks.naming import Digest, Name
    from icnblocks.wire.bundle import BundleRequest, Want
    from icnblocks.wire.frames import Event as Answered
    from icnblocks.wire.havemap import HaveMap
    from tests.simulation.virtual import Threads, VirtualLoop

PIECE: Final = 128 * KIB
WINDOW: Final = 2 * PIECE
"""What a server may have sent that was not read yet."""


class CutOffError(Exception):
    """A server gives up on a reader."""


class Link:
    """The way from a server to a client: both directions, but only answers take time on it."""

    def __init__(self, loop: VirtualLoop, rate: float, latency: float) -> None:
        self._loop = loop
        self.rate = rate
        self.latency = latency
        self.parted = False
        self._free_at = 0.0
        self._mended: list[asyncio.Future[None]] = []
        self.calls: dict[Call, None] = {}

    async def carry(self, count: int) -> None:
        """Return when `count` more bytes have been sent into the link."""
        start = max(self._loop.time(), self._free_at)
        self._free_at = start + count / self.rate
        await asyncio.sleep(self._free_at - self._loop.time())
        while self.parted:
            future = self._loop.create_future()
            self._mended.append(future)
            await future

    def part(self) -> None:
        """Nothing arrives any more, and nobody is told."""
        self.parted = True

    def mend(self) -> None:
        """All is as before."""
        self.parted = False
        mended, self._mended = self._mended, []
        for future in mended:
            if not future.done():
                future.set_result(None)

    def reset(self) -> None:
        """Cut all connections."""
        for call in list(self.calls):
            call.cut("the connection was reset")


@dataclass(frozen=True, slots=True)
class Piece:
    """Payload of a block; the last piece of it brings the block."""

    index: int
    count: int
    payload: memoryview | None


@dataclass(frozen=True, slots=True)
class Cut:
    """The connection has ended."""

    error: Exception


class Call:
    """One request for a bundle, and its answer under way."""

    def __init__(self, net: Net, link: Link, request: BundleRequest, via: str) -> None:
        self._net = net
        self.link = link
        self.request = request
        self.via = via
        self.task: asyncio.Task[None] | None = None
        self.ended = False
        self._inbox: deque[Any] = deque()
        self._unread = 0
        self._reader: Ticket | None = None
        self._room: asyncio.Future[None] | None = None
        link.calls[self] = None

    # --- the server's end -----------------------------------------------------------------------

    async def send(self, index: int, payload: memoryview, allowed_s: float) -> None:
        """Send a block; returns when its last byte was given to the link.

        Raises:
            CutOffError: if that takes too long.
        """
        try:
            async with asyncio.timeout(allowed_s):
                for start in range(0, len(payload), PIECE):
                    count = min(PIECE, len(payload) - start)
                    while self._unread + count > max(WINDOW, count):
                        self._room = self._net.loop.create_future()
                        await self._room
                    self._unread += count
                    await self.link.carry(count)
                    last = start + count == len(payload)
                    self._deliver(Piece(index, count, payload if last else None))
        except TimeoutError:
            raise CutOffError from None

    async def say(self, event: Nack | Alive | End) -> None:
        """Send a small frame."""
        await self.link.carry(8)
        self._deliver(event)

    def refuse(self, error: Exception) -> None:
        """Answer the whole request with an error."""
        self.cut(error)

    def cut(self, error: Exception | str) -> None:
        """End it now: the client gets what has arrived, and then an error."""
        if isinstance(error, str):
            error = SourceError(error)
        if not self.ended:
            self._over()
            self._arrive(Cut(error))

    def _over(self) -> None:
        self.ended = True
        self.link.calls.pop(self, None)
        if self.task is not None:
            self.task.cancel()

    def _deliver(self, item: Any) -> None:
        self._net.loop.call_later(self.link.latency, self._arrived, item)

    def _arrived(self, item: Any) -> None:
        if not self.ended:
            if isinstance(item, End):
                self.ended = True
                self.link.calls.pop(self, None)
            self._arrive(item)

    def _arrive(self, item: Any) -> None:
        self._inbox.append(item)
        if self._reader is not None:
            self._net.threads.call(self._reader)

    # --- the client's end -----------------------------------------------------------------------

    def receive(self, timeout: float) -> Any:
        """The next item; for the client's thread.

        Raises:
            SourceError: after `timeout`, or when the call was hung up.
        """
        if not self._inbox:
            self._reader = Ticket()
            told = self._net.threads.wait(self._reader, timeout)
            self._reader = None
            if not told:
                self.hang_up()
                raise SourceError("it stalled")
        item = self._inbox.popleft()
        if isinstance(item, Piece):
            self._unread -= item.count
            if self._room is not None and not self._room.done():
                self._room.set_result(None)
        elif isinstance(item, Cut):
            raise item.error
        return item

    def has_event(self) -> bool:
        """Whether an event, or the end, can be received without waiting."""
        return any(not isinstance(item, Piece) or item.payload is not None for item in self._inbox)

    def hang_up(self) -> None:
        """The client is gone: the server hears of it a little later."""
        if not self.ended:
            self.ended = True
            self.link.calls.pop(self, None)
            self._inbox.clear()
            self._arrive(Cut(SourceError("the request was cancelled")))
            if self.task is not None:
                self._net.loop.call_later(self.link.latency, self.task.cancel)


class Decoder:
    """What the engine asks a FrameDecoder for."""

    def __init__(self, wants: tuple[Want, ...]) -> None:
        self._open = dict.fromkeys(range(len(wants)))
        self.payload_bytes = 0
        self.partial_bytes = 0

    def unanswered(self) -> list[int]:
        """See FrameDecoder."""
        return list(self._open)

    def answered(self, index: int) -> None:
        """A want has its answer; two would be a fault of the server's."""
        del self._open[index]


@dataclass(slots=True)
class Tally:
    """What has crossed to one client from one source."""

    crossed: int = 0
    partial: int = 0  # of it, of blocks that are not complete yet
    blocks: Counter[Digest] = field(default_factory=Counter)


class Stream:
    """See BundleStream."""

    def __init__(
        self, source: SimSource, connection: SimConnection, call: Call, pacer: Any
    ) -> None:
        self._source = source
        self._connection = connection
        self._call = call
        self._pacer = pacer
        self.decoder = Decoder(call.request.wants)

    def batches(self) -> Iterator[list[Answered]]:
        """See BundleStream: what has arrived comes together."""
        events: list[Answered] = []
        with closing(self._events()) as coming:
            try:
                for event in coming:
                    events.append(event)
                    if not self._call.has_event():
                        yield events
                        events = []
            except SourceError:
                if events:
                    yield events
                raise

    def _events(self) -> Generator[Answered, None, None]:
        net, options, tally = self._source.net, self._source.options, self._source.tally
        heard_at = net.loop.time()
        try:
            while True:
                item = self._call.receive(options.stall_s)
                if isinstance(item, Alive):
                    if net.loop.time() - heard_at > options.patience_s:
                        raise SourceError(f"nothing came for {options.patience_s} s")
                    yield item
                    continue
                heard_at = net.loop.time()
                if isinstance(item, Piece):
                    self._pace(item.count)
                    tally.crossed += item.count
                    tally.partial += item.count
                    self.decoder.partial_bytes += item.count
                    if item.payload is None:
                        continue
                    self.decoder.answered(item.index)
                    tally.blocks[self._call.request.wants[item.index].digest] += 1
                    tally.partial -= self.decoder.partial_bytes
                    self.decoder.payload_bytes += self.decoder.partial_bytes
                    self.decoder.partial_bytes = 0
                    yield Data(item.index, item.payload)
                    continue
                if isinstance(item, Nack):
                    self.decoder.answered(item.index)
                yield item
                if isinstance(item, End):
                    assert not self.decoder.unanswered(), "a bundle ended too early"
                    return
        finally:
            tally.partial -= self.decoder.partial_bytes
            self._call.hang_up()
            self._connection.call = None

    def _pace(self, count: int) -> None:
        while self._pacer is not None and count:
            count -= self._pacer.take(count)


class SimConnection:
    """See Connection."""

    def __init__(self, source: SimSource) -> None:
        self.source = source
        self.call: Call | None = None
        self.waiting: Ticket | None = None  # for an answer to something small
        self.threads: Threads | None = None
        self.aborted = False

    def abort(self) -> None:
        """See Connection."""
        self.aborted = True
        if self.call is not None:
            self.call.hang_up()
        if self.waiting is not None and self.threads is not None:
            self.threads.call(self.waiting)

    def revive(self) -> None:
        """See Connection."""
        self.aborted = False

    def drop(self) -> None:
        """See Connection."""
        if self.call is not None:
            self.call.hang_up()

    def pause(self, threads: Threads, seconds: float) -> None:
        """Wait on the network.

        Raises:
            SourceError: if it was aborted.
        """
        if not self.aborted:
            self.threads, self.waiting = threads, Ticket()
            threads.wait(self.waiting, seconds)
            self.waiting = None
        if self.aborted:
            raise SourceError("the request was cancelled")


class SimSource:
    """See Source: what the engine asks of it."""

    def __init__(self, net: Net, host: str, url: str, options: SourceOptions) -> None:
        self.net = net
        self.host = host
        self.url = url
        self.options = options
        self.tally = Tally()
        net.sources.append(self)

    def __str__(self) -> str:
        return self.url

    def connect(self) -> SimConnection:
        """See Source."""
        return SimConnection(self)

    def close(self) -> None:
        """See Source."""

    def bundle(
        self, request: BundleRequest, connection: SimConnection, buffer: memoryview, *,
        headers: Any = None, pacer: Any = None,
    ) -> Stream:  # fmt: skip
        """See Source."""
        del buffer
        server = self.reach(connection)
        via = (headers or {}).get("ICN-Via", "")
        call = Call(self.net, self.net.link(self.host, self.url), request, via)
        self.net.log(f"{self.host} asks {self.url} for {len(request.wants)}")
        connection.call = call
        server.take(call)
        return Stream(self, connection, call, pacer)

    def have(
        self, manifest: Digest, count: int, name: Name | None, connection: SimConnection,
        *, known_only: bool = False,
    ) -> HaveMap | None:  # fmt: skip
        """See Source."""
        del count, known_only
        return self.reach(connection).have(manifest, name)

    def reach(self, connection: SimConnection) -> Any:
        """Connect, if anybody is there.

        Raises:
            SourceError: if not.
        """
        link = self.net.link(self.host, self.url)
        connection.pause(self.net.threads, 2 * link.latency)
        if link.parted:
            connection.pause(self.net.threads, self.options.connect_s)
            if link.parted:
                raise SourceError(f"{self.url} does not answer")
        server = self.net.servers.get(self.url)
        if server is None:
            raise SourceError(f"{self.url} cannot be reached")
        after_s = server.throttled()
        if after_s is not None:
            raise ThrottledError(f"{self.url} is busy", after_s=after_s)
        return server


class Net:
    """All links and servers.

    Args:
        loop: the time.
        threads: on which clients wait.
        links: makes the link from a client's host to a URL, when it is first used.
        log: told what happens.
    """

    def __init__(
        self,
        loop: VirtualLoop,
        threads: Threads,
        links: Callable[[str, str], Link],
        log: Callable[[str], None],
    ) -> None:
        self.loop = loop
        self.threads = threads
        self.log = log
        self.servers: dict[str, Any] = {}
        self.sources: list[SimSource] = []
        self._make = links
        self._links: dict[tuple[str, str], Link] = {}

    def link(self, host: str, url: str) -> Link:
        """The link between a client and a server."""
        if (host, url) not in self._links:
            self._links[host, url] = self._make(host, url)
        return self._links[host, url]

    def all_links(self) -> list[tuple[tuple[str, str], Link]]:
        """All links so far, each with its ends."""
        return list(self._links.items())

    def links(self, end: str) -> list[Link]:
        """All links of a host or URL so far."""
        return [link for key, link in self._links.items() if end in key]
