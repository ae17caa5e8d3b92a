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
from dataclasses import replace
from functools import partial
from math import inf
from random import Random
from typing import TYPE_CHECKING, Final, Self

from icnblocks.client.answers import ThrottledError
from icnblocks.client.events import Counters, Retried, SourceStatus, Waste, Wasted
from icnblocks.client.handover import Handover, SinkFailure
from icnblocks.client.holders import Catalogued, Holders
from icnblocks.client.lane import Lane
from icnblocks.client.pacing import LEAST_LIMIT_RATE, SharedPacer
from icnblocks.client.scheduler import Bundle, Scheduler
from icnblocks.client.terms import NO_HINT, EngineOptions, Hint, Sink
from icnblocks.errors import CorruptError, IcnError, SourceError, UsageError
from icnblocks.limits import KIB
from icnblocks.store.base import verify
from icnblocks.wire.bundle import Order
from icnblocks.wire.frames import Data, Nack, Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from icnblocks.client.events import Listener
    from icnblocks.client.scheduler import Refusal
    from icnblocks.client.source import BundleStream, Source
    from icnblocks.client.states import RetryOptions
    from icnblocks.naming import Digest
    from icnblocks.store.base import Verified
    from icnblocks.wire.bundle import Want
    from icnblocks.wire.frames import Event as Answered
    from icnblocks.wire.havemap import HaveMap

__all__ = ["NO_HINT", "Catalogued", "Engine", "EngineOptions", "Hint", "Sink"]

_LANES_A_SOURCE: Final = 2
_LANE_RATE: Final = 64 * KIB
"""A limit is not spread over lanes of fewer bytes a second: servers cut off slow readers."""


class Engine:
    """Fetches blocks from sources into a sink. A context manager; its threads begin with `add`.

    Args:
        sources: whom to ask; they stay the caller's to close.
        sink: where blocks and refusals go.
        options: how to work.
        listener: told of every event.
        failed: told, once and on a thread of the engine, if something other than a source failed,
            such as the sink: nothing is fetched any more then. `wait` raises it as well.
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
        failed: Callable[[BaseException], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        random: Random | None = None,
    ) -> None:
        options = options or EngineOptions()
        self._sources = len(sources)
        self._several = len(sources) > 1
        self._failed = failed
        self._clock = clock
        if not sources:
            raise UsageError("nothing can be fetched without a source")
        # Two lanes keep two cores busy; more only where more were asked for.
        most = max(_LANES_A_SOURCE, options.connections // 2)
        if options.limit_rate is not None:
            most = min(most, max(1, int(options.limit_rate / len(sources)) // _LANE_RATE))
        each = max(1, min(options.connections // len(sources), most))
        self._order = options.order
        self._scheduler = self._make_scheduler(
            [(source.url, each) for source in sources],
            random or Random(),
            replace(options.retry, retry_s=options.retry_s),
        )
        self._holders = Holders(len(sources))
        self._pacer: SharedPacer | None = None
        self._at_once = inf
        if options.limit_rate is not None:
            self._pacer = SharedPacer(options.limit_rate, clock)
            # Each source has a lane; not all may be at work, or all would cut off so slow a reader.
            self._at_once = max(1, int(options.limit_rate) // LEAST_LIMIT_RATE)
        self._lanes = [
            Lane(index, source) for index, source in enumerate(sources) for _ in range(each)
        ]
        # Guards everything below and the scheduler; notified when a lane may find work, or
        # somebody who waits may find that all is done.
        # `with` takes the lock itself, not the condition, whose entry is Python code: Ctrl-C there
        # would leave it locked.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._gates: list[threading.Lock] = []  # of those who wait for the end
        self._handover = Handover(sink, listener, self._lock, self._delivered)
        self._refusals: deque[list[Refusal]] = deque()
        self._closed = False
        self._failure: BaseException | None = None
        self._received = [0] * len(sources)

    def _make_scheduler(
        self, sources: Sequence[tuple[str, int]], random: Random, retry: RetryOptions
    ) -> Scheduler[Hint]:
        return Scheduler(sources, random, retry, ordered=self._order is Order.LISTED)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def add(
        self,
        wants: Iterable[Want],
        hint: Hint = NO_HINT,
        blocks: Callable[[], Sequence[Digest]] | None = None,
        *,
        part: int = 0,
    ) -> None:
        """Want more blocks. From any thread; returns at once. What is wanted already stays so.

        Args:
            wants: which.
            hint: what bundles say about them.
            blocks: gives the distinct blocks of the hint's manifest, in order of their first
                places: where there are several sources, each is asked first which of them it
                holds. None asks nobody.
            part: of what is added with this hint: lanes rather work on different ones.

        Raises:
            SourceError: if the engine is closed.
        """
        with self._lock:
            if self._closed:
                raise SourceError("the fetch engine is closed")
            if blocks is not None and hint.manifest is not None and self._sources > 1:
                self._holders.learn(Catalogued(hint.manifest, hint.name, blocks()))
            refusals = self._scheduler.add(wants, hint, self._clock(), part)
            if refusals:  # a lane delivers them: the caller may hold locks that the sink takes
                self._handover.due += 1
                self._refusals.append(refusals)
            self._start()
            self._wake()

    def cancel(self, digests: Iterable[Digest]) -> list[Digest]:
        """Nobody wants these any more. From any thread; returns at once.

        Returns:
            Those whose end this is: the sink hears nothing of them.
        """
        with self._lock:
            before = self._expecting()
            ended = self._scheduler.cancel(digests)
            self._cut_off(before)
            self._wake()
        return ended

    def _expecting(self) -> list[Lane]:
        """Lanes of whose bundles something is expected."""
        return [lane for lane in self._lanes if lane.bundle is not None and lane.bundle.left]

    def _cut_off(self, lanes: Iterable[Lane]) -> None:
        """Abort those of whose bundles nothing is expected any more."""
        for lane in lanes:
            if lane.bundle is not None and not lane.bundle.left:
                lane.abandoned = True
                lane.connection.abort()

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
            if done and (self._scheduler or self._handover.due):
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
        idle = not self._scheduler and not self._handover.due
        return idle or self._closed or self._failure is not None

    def close(self) -> None:
        """Cut off what is under way and wait for the threads. Idempotent.

        Wants that have not ended end here, unheard. Not to be called from the sink.
        """
        with self._lock:
            self._closed = True
            if self._pacer is not None:
                self._pacer.stop()
            for lane in self._lanes:
                lane.connection.abort()
            self._wake()
        for lane in self._lanes:
            if lane.thread is not None:
                lane.thread.join()

    def counters(self) -> Counters:
        """Payload bytes so far."""
        with self._lock:
            return self._handover.counters(sum(self._received))

    def status(self) -> tuple[SourceStatus, ...]:
        """How each source is doing."""
        with self._lock:
            now = self._clock()
            return tuple(
                SourceStatus.of(state, received, now)
                for state, received in zip(self._scheduler.sources, self._received, strict=True)
            )

    def _start(self) -> None:
        for number, lane in enumerate(self._lanes):
            if lane.thread is not None:
                continue
            thread = threading.Thread(
                target=self._run, args=(lane,), name=f"icn-lane-{number}", daemon=True
            )
            try:
                thread.start()
            except RuntimeError:  # the system has none left; at the next `add` it may
                served = {other.index for other in self._lanes if other.thread is not None}
                if not served.issuperset(range(self._sources)):  # what only it has would hang
                    raise
                return
            lane.thread = thread

    def _run(self, lane: Lane) -> None:
        try:
            while (work := self._next(lane)) is not None:
                work()
        except BaseException as error:
            failure = error.error if isinstance(error, SinkFailure) else error
            with self._lock:
                first = self._failure is None
                self._failure = self._failure or failure
                for other in self._lanes:
                    other.connection.abort()
                self._wake()
            if first and self._failed is not None:
                self._failed(failure)
        finally:
            lane.connection.drop()
            lane.buffer = memoryview(b"")  # the lane itself stays in the list

    def _next(self, lane: Lane) -> Callable[[], None] | None:
        """Wait for work; None when there will be no more."""
        with self._lock:
            while not (self._closed or self._failure is not None or self._is_over(lane)):
                if self._refusals:
                    return partial(self._handover.refuse, self._refusals.popleft())
                now = self._clock()
                errand = self._errand(lane, now)
                if callable(errand):
                    return errand
                if errand:  # another lane of the source is at it
                    self._changed.wait()
                    continue
                before = self._expecting() if self._several else ()
                enough = sum(each.bundle is not None for each in self._lanes) >= self._at_once
                step = None if enough else self._scheduler.next_bundle(lane.index, now)
                if isinstance(step, Bundle):
                    lane.bundle = step
                    self._cut_off(before)  # whose last blocks this lane took over
                    return partial(self._fetch, lane, step)
                pastime = self._pastime(lane, step, now)
                if pastime is not None:
                    return pastime
                self._changed.wait(None if step is None else max(step - now, 0.001))
            return None

    def _is_over(self, lane: Lane) -> bool:  # noqa: ARG002
        """Whether there will be nothing more to do for a lane."""
        return False

    def _errand(self, lane: Lane, now: float) -> Callable[[], None] | bool:
        """What to do before asking for blocks; or True while another lane does it; or False."""
        if self._scheduler.sources[lane.index].retry_at > now:
            return False
        about = self._holders.next(lane.index, now)
        return partial(self._look, lane, about) if isinstance(about, Catalogued) else about

    def _pastime(self, lane: Lane, until: float | None, now: float) -> Callable[[], None] | None:  # noqa: ARG002
        """What to do while there is nothing to ask for, instead of waiting."""
        return None

    def _look(self, lane: Lane, about: Catalogued) -> None:
        """Ask which blocks of a manifest a source holds. Without an answer, it is as if all."""
        have: HaveMap | None = None
        busy = False
        try:
            have = lane.source.have(about.manifest, len(about.blocks), about.name, lane.connection)
        except ThrottledError as error:
            self._put_off(lane, error)
            busy = True
        except IcnError:
            pass  # if it fails, it will fail at a bundle too, and be demoted for it
        refusals: list[Refusal] = []
        with self._lock:
            told = self._holders.told(lane.index, about.manifest, have, busy=busy)
            if told is not None:
                refusals = self._scheduler.told(lane.index, *told, self._clock())
            self._note(refusals)
        self._handover.refuse(refusals)

    def _put_off(self, lane: Lane, error: ThrottledError) -> None:
        """Leave a source alone that asks for it, and for blocks neither."""
        with self._lock:
            now = self._clock()
            refusals = self._scheduler.put_off(lane.index, error, now)
            self._note(refusals)
        self._tell_demoted(lane, error, now)
        self._handover.refuse(refusals)

    def _fetch(self, lane: Lane, bundle: Bundle[Hint]) -> None:
        """Work through one bundle; whatever happens, every want of it is accounted for."""
        began = self._clock()
        stream: BundleStream | None = None
        error: IcnError | None = None
        try:
            stream = lane.ask(bundle, self._order, self._pacer)
            for events in stream.batches():
                self._came(lane, bundle, events)
                if bundle.taken and not bundle.left and stream.decoder.unanswered():
                    lane.abandoned = True  # the rest was taken over
                    break
                if self._is_over(lane):
                    lane.abandoned = True
                    break
        except IcnError as failure:
            error = failure
        finally:
            self._ended(lane, bundle, stream, error, began)

    def _came(self, lane: Lane, bundle: Bundle[Hint], events: list[Answered]) -> None:
        """What came together: blocks one after another are counted and handed on as one."""
        blocks: list[Verified] = []
        for event in events:
            if type(event) is Data:
                want = bundle.wants[event.index]
                try:
                    blocks.append(verify(want.digest, event.payload))
                except CorruptError as error:
                    self._data(lane, bundle, blocks)
                    blocks = []
                    self._corrupt(lane, bundle, want, error)
            elif type(event) is Nack:
                self._data(lane, bundle, blocks)
                blocks = []
                self._nack(lane, bundle, bundle.wants[event.index].digest, event)
        self._data(lane, bundle, blocks)

    def _corrupt(self, lane: Lane, bundle: Bundle[Hint], want: Want, error: CorruptError) -> None:
        with self._lock:
            self._handover.wasted[Waste.CORRUPT] += want.length
            now = self._clock()
            refusals = self._scheduler.corrupt(bundle, want.digest, now)
            self._note(refusals)
        self._handover.tell(Wasted(lane.source.url, Waste.CORRUPT, want.length))
        self._tell_demoted(lane, error, now)
        self._handover.refuse(refusals)

    def _data(self, lane: Lane, bundle: Bundle[Hint], blocks: list[Verified]) -> None:
        if not blocks:
            return
        wanted: list[Verified] = []
        vain: list[Wasted] = []
        with self._lock:
            now = self._clock()
            for block in blocks:
                own = block.digest in bundle.left
                before = () if own else self._expecting()
                if self._scheduler.arrived(bundle, block.digest, now):
                    wanted.append(block)
                    self._received[lane.index] += len(block.data)
                else:
                    length, cause = len(block.data), _cause(bundle, block.digest)
                    self._handover.wasted[cause] += length
                    vain.append(Wasted(lane.source.url, cause, length, block.digest))
                if not own:  # it was taken from this bundle, and comes all the same
                    self._cut_off(before)
            self._handover.blocks += len(wanted)
            self._handover.due += bool(wanted)
        for waste in vain:
            self._handover.tell(waste)
        self._handover.accept(lane.source.url, wanted)

    def _nack(self, lane: Lane, bundle: Bundle[Hint], digest: Digest, nack: Nack) -> None:
        with self._lock:
            now = self._clock()
            if nack.reason is Reason.NOT_FOUND:
                self._holders.not_found(lane.index, bundle.hint.manifest, now)
            refusals = self._scheduler.nacked(bundle, digest, nack.reason, nack.text, now)
            self._note(refusals)
        self._handover.refuse(refusals)

    def _note(self, refusals: list[Refusal]) -> None:
        """A want is not in flight here any more, and may be another lane's work now."""
        self._handover.due += bool(refusals)
        self._wake()

    def _ended(
        self, lane: Lane, bundle: Bundle[Hint], stream: BundleStream | None,
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
                refusals = self._scheduler.give_back(bundle, left, now)
            else:
                after_s = error.after_s if isinstance(error, ThrottledError) else None
                refusals = self._scheduler.failed(bundle, left, error, now, after_s=after_s)
            self._scheduler.finished(bundle, payload + partial, now - began)
            cause = _cause(bundle) if calm else Waste.CUT
            self._handover.wasted[cause] += partial
            self._handover.due += bool(refusals)
            lane.bundle = None
            if lane.abandoned and not self._closed:
                lane.abandoned = False
                lane.connection.drop()
                lane.connection.revive()
            self._wake()
        if partial:
            self._handover.tell(Wasted(lane.source.url, cause, partial))
        if error is not None and not calm:
            self._handover.tell(Retried(lane.source.url, error, len(left)))
            self._tell_demoted(lane, error, now)
        self._handover.refuse(refusals)

    def _delivered(self) -> None:
        if not self._handover.due and not self._scheduler:
            self._wake()

    def _tell_demoted(self, lane: Lane, error: IcnError, now: float) -> None:
        self._handover.tell_demoted(self._scheduler.sources[lane.index], error, now)


def _cause(bundle: Bundle[Hint], digest: Digest | None = None) -> Waste:
    """Why payload of a bundle (of one block of it, if that is named) is in vain."""
    stolen = bool(bundle.taken) if digest is None else digest in bundle.taken
    return Waste.STOLEN if stolen else Waste.CANCELLED
