"""The fetch engine: a few threads with blocking sockets, one buffer each, and a scheduler.

A lane is a thread with a connection to one source: it asks the scheduler for a bundle, and
receives, hashes and hands over one block after the other, in turn, so that memory is bounded by
one buffer a lane and a slow sink holds back the network by itself. A device's pull and an
edge's upstream side both use it. This module must not decide what to ask whom: the scheduler
does; nor where bytes go: the sink does.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Final, Protocol, Self

from icnblocks.client.answers import ThrottledError
from icnblocks.client.events import (
    Counters,
    Demoted,
    Received,
    Refused,
    Retried,
    SourceStatus,
    Waste,
    Wasted,
)
from icnblocks.client.scheduler import Bundle, RetryOptions, Scheduler
from icnblocks.errors import CorruptError, IcnError, SourceError, UsageError
from icnblocks.limits import BLOCK_BYTES
from icnblocks.store.base import verify
from icnblocks.wire.bundle import NO_PULL, BundleRequest
from icnblocks.wire.frames import Data, Nack, buffer_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from icnblocks.client.events import Event, Listener
    from icnblocks.client.http import Connection
    from icnblocks.client.scheduler import Refusal
    from icnblocks.client.source import BundleStream, Source
    from icnblocks.naming import Digest, Name
    from icnblocks.store.base import Verified
    from icnblocks.wire.bundle import Want

_LANES_A_SOURCE: Final = 2
_VIA_HEADER: Final = "ICN-Via"


class Sink(Protocol):
    """Takes what the engine fetches. Its methods are called on engine threads, several at once.

    What `accept` raises stops the whole engine, and `Engine.wait` raises it.
    """

    def accept(self, want: Want, block: Verified) -> None:
        """Take a block. Its data are overwritten after the call."""
        ...

    def refuse(self, want: Want, error: IcnError) -> None:
        """No source can give it: NotFoundError, CorruptError or IncompleteError as a rule."""
        ...


@dataclass(frozen=True, slots=True)
class Hint:
    """What a bundle says about its wants, so that daemons can route and count it.

    Attributes:
        name: the model, or None.
        manifest: its manifest, or None.
        pull: 16 random bytes of the pull.
        hops: daemons that the request has passed.
        via: value of the ICN-Via header; none when empty.
    """

    name: Name | None = None
    manifest: Digest | None = None
    pull: bytes = NO_PULL
    hops: int = 0
    via: str = ""


NO_HINT: Final = Hint()


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How an engine works.

    Attributes:
        connections: over all sources together; every source has at least one.
        retry_s: seconds without a block from a source that fails, until it is given up.
        retry: the finer points; its `retry_s` is replaced by the one above.
    """

    connections: int = 4
    retry_s: float = 60.0
    retry: RetryOptions = field(default_factory=RetryOptions)


class _SinkFailure(Exception):
    """Wraps what the sink raised, so that it is not taken for a source's failure."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.error = error


class _Lane:
    """A thread, its source and its connection."""

    def __init__(self, index: int, source: Source) -> None:
        self.index = index
        self.source = source
        self.connection: Connection = source.connect()
        self.open: set[Digest] = set()  # in flight on this lane and still wanted
        self.abandoned = False  # nobody wants the rest of the bundle
        self.thread: threading.Thread | None = None
        self.buffer = memoryview(b"")


class Engine:
    """Fetches blocks from sources into a sink. A context manager; its threads begin with `add`.

    Args:
        sources: whom to ask; they stay the caller's to close.
        sink: where blocks and refusals go.
        options: how to work.
        listener: told of every event.
        clock: monotonic seconds.
        random: for jitter.

    Raises:
        UsageError: if there is no source.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        sink: Sink,
        options: EngineOptions | None = None,
        listener: Listener | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        random: Random | None = None,
    ) -> None:
        options = options or EngineOptions()
        self._sink = sink
        self._listener = listener
        self._clock = clock
        if not sources:
            raise UsageError("nothing can be fetched without a source")
        # Two lanes keep two cores busy; more only where more were asked for.
        most = max(_LANES_A_SOURCE, options.connections // 2)
        each = max(1, min(options.connections // len(sources), most))
        finer = options.retry
        self._scheduler: Scheduler[Hint] = Scheduler(
            [(source.url, each) for source in sources],
            random or Random(),
            RetryOptions(options.retry_s, finer.busy_s, finer.first_s, finer.longest_s),
        )
        self._lanes = [
            _Lane(index, source) for index, source in enumerate(sources) for _ in range(each)
        ]
        # Guards everything below and the scheduler; notified when a lane may find work, or
        # somebody who waits may find that all is done.
        # `with` takes the lock itself, not the condition, whose entry is Python code: Ctrl-C there
        # would leave it locked.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._gates: list[threading.Lock] = []  # of those who wait for the end
        self._delivering = 0  # calls of the sink that have begun or are about to
        self._refusals: deque[list[Refusal]] = deque()
        self._closed = False
        self._failure: BaseException | None = None
        self._received = [0] * len(sources)
        self._wasted = dict.fromkeys(Waste, 0)
        self._blocks = 0
        self._refused = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def add(self, wants: Iterable[Want], hint: Hint = NO_HINT) -> None:
        """Want more blocks. From any thread; returns at once. What is wanted already stays so.

        Raises:
            SourceError: if the engine is closed.
        """
        with self._lock:
            if self._closed:
                raise SourceError("the fetch engine is closed")
            refusals = self._scheduler.add(wants, hint, self._clock())
            if refusals:  # a lane delivers them: the caller may hold locks that the sink takes
                self._delivering += 1
                self._refusals.append(refusals)
            self._start()
            self._wake()

    def cancel(self, digests: Iterable[Digest]) -> list[Digest]:
        """Nobody wants these any more. From any thread; returns at once.

        Returns:
            Those whose end this is: the sink hears nothing of them.
        """
        with self._lock:
            ended = self._scheduler.cancel(digests)
            for lane in self._lanes:
                if lane.open:
                    lane.open.difference_update(ended)
                    if not lane.open:
                        lane.abandoned = True
                        lane.connection.abort()
            self._wake()
        return ended

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until every want has ended.

        Args:
            timeout: seconds; None waits for ever.

        Returns:
            False if the time was over first.

        Raises:
            IcnError: what the sink raised.
            SourceError: if the engine was closed meanwhile.
        """
        gate = threading.Lock()
        gate.acquire()
        with self._lock:
            self._gates.append(gate)
            self._wake()
        # A bare lock, since Ctrl-C may come here at any time, and conditions do not bear it.
        done = gate.acquire(timeout=-1 if timeout is None else timeout)
        with self._lock:
            if gate in self._gates:
                self._gates.remove(gate)
            if self._failure is not None:
                raise self._failure
            if done and (self._scheduler or self._delivering):
                raise SourceError("the fetch engine was closed")
            return done

    def _wake(self) -> None:
        """Let idle lanes look for work, and those who wait go on if all is done."""
        self._changed.notify_all()
        if self._gates and self._settled():
            for gate in self._gates:
                gate.release()
            self._gates.clear()

    def _settled(self) -> bool:
        idle = not self._scheduler and not self._delivering
        return idle or self._closed or self._failure is not None

    def close(self) -> None:
        """Cut off what is under way and wait for the threads. Idempotent.

        Wants that have not ended end here, unheard. Not to be called from the sink.
        """
        with self._lock:
            self._closed = True
            for lane in self._lanes:
                lane.connection.abort()
            self._wake()
        for lane in self._lanes:
            if lane.thread is not None:
                lane.thread.join()

    def counters(self) -> Counters:
        """Payload bytes so far."""
        with self._lock:
            return Counters(sum(self._received), dict(self._wasted), self._blocks, self._refused)

    def status(self) -> tuple[SourceStatus, ...]:
        """How each source is doing."""
        with self._lock:
            now = self._clock()
            return tuple(
                SourceStatus(
                    state.name,
                    state.health(now),
                    max(state.retry_at - now, 0.0),
                    state.rate.rate(now),
                    received,
                    state.failures_total,
                    state.busy,
                    None if state.last_error is None else str(state.last_error),
                )
                for state, received in zip(self._scheduler.sources, self._received, strict=True)
            )

    def _start(self) -> None:
        for number, lane in enumerate(self._lanes):
            if lane.thread is None:
                lane.thread = threading.Thread(
                    target=self._run, args=(lane,), name=f"icn-lane-{number}", daemon=True
                )
                lane.thread.start()

    def _run(self, lane: _Lane) -> None:
        try:
            while (work := self._next(lane)) is not None:
                if isinstance(work, Bundle):
                    self._fetch(lane, work)
                else:
                    self._deliver(work)
        except BaseException as error:
            failure = error.error if isinstance(error, _SinkFailure) else error
            with self._lock:
                self._failure = self._failure or failure
                for other in self._lanes:
                    other.connection.abort()
                self._wake()
        finally:
            lane.connection.drop()

    def _next(self, lane: _Lane) -> Bundle[Hint] | list[Refusal] | None:
        """Wait for work; None when there will be no more."""
        with self._lock:
            while not (self._closed or self._failure is not None):
                if self._refusals:
                    return self._refusals.popleft()
                now = self._clock()
                step = self._scheduler.next_bundle(lane.index, now)
                if isinstance(step, Bundle):
                    lane.open = {want.digest for want in step.wants}
                    return step
                self._changed.wait(None if step is None else max(step - now, 0.001))
            return None

    def _fetch(self, lane: _Lane, bundle: Bundle[Hint]) -> None:
        """Work through one bundle; whatever happens, every want of it is accounted for."""
        began = self._clock()
        stream: BundleStream | None = None
        error: IcnError | None = None
        try:
            stream = self._ask(lane, bundle)
            for event in stream:
                if type(event) is Data:
                    self._data(lane, bundle.wants[event.index], event.payload)
                elif type(event) is Nack:
                    self._nack(lane, bundle.wants[event.index].digest, event)
        except IcnError as failure:
            error = failure
        finally:
            self._ended(lane, bundle, stream, error, began)

    def _ask(self, lane: _Lane, bundle: Bundle[Hint]) -> BundleStream:
        need = buffer_bytes(max(want.length for want in bundle.wants))
        if len(lane.buffer) < need:
            lane.buffer = memoryview(bytearray(max(need, buffer_bytes(BLOCK_BYTES))))
        hint = bundle.hint
        request = BundleRequest(bundle.wants, hint.name, hint.manifest, hint.pull, hint.hops)
        headers = {_VIA_HEADER: hint.via} if hint.via else None
        return lane.source.bundle(request, lane.connection, lane.buffer, headers=headers)

    def _data(self, lane: _Lane, want: Want, payload: memoryview) -> None:
        try:
            block = verify(want.digest, payload)
        except CorruptError as error:
            with self._lock:
                self._wasted[Waste.CORRUPT] += want.length
                now = self._clock()
                refusals = self._scheduler.corrupt(lane.index, want.digest, now)
                self._note(lane, want.digest, refusals)
            self._tell(Wasted(lane.source.url, Waste.CORRUPT, want.length))
            self._tell_demoted(lane, error, now)
            self._deliver(refusals)
            return
        with self._lock:
            lane.open.discard(want.digest)
            wanted = self._scheduler.arrived(lane.index, want.digest, self._clock())
            if wanted:
                self._received[lane.index] += want.length
                self._blocks += 1
                self._delivering += 1
            else:
                self._wasted[Waste.CANCELLED] += want.length
        if not wanted:
            self._tell(Wasted(lane.source.url, Waste.CANCELLED, want.length))
            return
        try:
            self._sink.accept(want, block)
        except BaseException as error:
            raise _SinkFailure(error) from error
        self._tell(Received(lane.source.url, want.digest, want.length))
        self._delivered()

    def _nack(self, lane: _Lane, digest: Digest, nack: Nack) -> None:
        with self._lock:
            refusals = self._scheduler.nacked(
                lane.index, digest, nack.reason, nack.text, self._clock()
            )
            self._note(lane, digest, refusals)
        self._deliver(refusals)

    def _note(self, lane: _Lane, digest: Digest, refusals: list[Refusal]) -> None:
        """A want is not in flight here any more, and may be another lane's work now."""
        lane.open.discard(digest)
        self._delivering += bool(refusals)
        self._wake()

    def _ended(
        self, lane: _Lane, bundle: Bundle[Hint], stream: BundleStream | None,
        error: IcnError | None, began: float,
    ) -> None:  # fmt: skip
        left = [want.digest for want in bundle.wants]
        payload = partial = 0
        if stream is not None:
            left = [left[index] for index in stream.decoder.unanswered()]
            payload, partial = stream.decoder.payload_bytes, stream.decoder.partial_bytes
        with self._lock:
            now = self._clock()
            calm = lane.abandoned or self._closed or self._failure is not None
            if error is None or calm:
                refusals = self._scheduler.give_back(left, now)
            else:
                after_s = error.after_s if isinstance(error, ThrottledError) else None
                refusals = self._scheduler.failed(lane.index, left, error, now, after_s=after_s)
            self._scheduler.finished(lane.index, payload, now - began)
            cause = Waste.CANCELLED if calm else Waste.CUT
            self._wasted[cause] += partial
            self._delivering += bool(refusals)
            lane.open = set()
            if lane.abandoned and not self._closed:
                lane.abandoned = False
                lane.connection.drop()
                lane.connection.revive()
            self._wake()
        if partial:
            self._tell(Wasted(lane.source.url, cause, partial))
        if error is not None and not calm:
            self._tell(Retried(lane.source.url, error, len(left)))
            self._tell_demoted(lane, error, now)
        self._deliver(refusals)

    def _deliver(self, refusals: Sequence[Refusal]) -> None:
        """Hand refusals to the sink. They were counted in `_delivering`, all as one."""
        if not refusals:
            return
        for refusal in refusals:
            try:
                self._sink.refuse(refusal.want, refusal.error)
            except BaseException as error:
                raise _SinkFailure(error) from error
            self._tell(Refused(refusal.want.digest, refusal.error))
        with self._lock:
            self._refused += len(refusals)
        self._delivered()

    def _delivered(self) -> None:
        with self._lock:
            self._delivering -= 1
            if not self._delivering and not self._scheduler:
                self._wake()

    def _tell(self, event: Event) -> None:
        if self._listener is not None:
            self._listener(event)

    def _tell_demoted(self, lane: _Lane, error: IcnError, now: float) -> None:
        wait_s = self._scheduler.sources[lane.index].retry_at - now
        if wait_s > 0:
            self._tell(Demoted(lane.source.url, error, wait_s))
