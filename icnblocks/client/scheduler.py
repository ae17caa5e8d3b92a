"""The scheduler: which source is asked for which blocks next, and when to give up.

A pure decider: it is told what happened and when, and answers what to do. Rules:
- a want is in flight at one source at most, and ends exactly once: arrived, refused or cancelled;
- bundles shrink as the work runs out, and for slow sources, so that all finish together;
- a source that fails is demoted for a time that doubles with every failure and is forgotten with
  the next block from it; then it is probed with a few wants by one of its lanes;
- a source that fails for `retry_s` without one block between counts as unable to give anything,
  until a later probe succeeds; a want is refused when every source is unable or has refused it.

There is no hedging yet; `next_bundle` is where a second source would be let in at the tail.
This module must not do I/O, read clocks or lock.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from icnblocks.client.meter import Meter
from icnblocks.errors import (
    CorruptError,
    FormatError,
    IcnError,
    IncompleteError,
    NotFoundError,
    RefusedError,
    UntrustedError,
    UsageError,
)
from icnblocks.limits import BLOCK_BYTES, BUNDLE_WANTS, KIB, MAX_WANTS, MIB
from icnblocks.wire.frames import Reason

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Sequence
    from random import Random

    from icnblocks.naming import Digest
    from icnblocks.wire.bundle import Want

HintT = TypeVar("HintT", bound="Hashable")

_MOST_BYTES: Final = BUNDLE_WANTS * BLOCK_BYTES
_MANY_BYTES: Final = 4 * MIB  # bundles of tiny blocks grow until here
_LEAST_BYTES: Final = 256 * KIB  # and are not split below this
_FIRST_BYTES: Final = 8 * MIB  # from a source whose rate is not known
_PROBE_BYTES: Final = MIB
_PROBE_S: Final = 0.5
_SECONDS: Final = 4.0  # what a bundle should take
_PASSING: Final = frozenset({Reason.BUSY, Reason.UPSTREAM, Reason.OTHER})


@dataclass(frozen=True, slots=True)
class RetryOptions:
    """How patient to be.

    Attributes:
        retry_s: seconds of failures without one block between, until a source is given up.
        busy_s: the same for a source that says that it is busy.
        first_s: the first demotion; each further one is twice as long.
        longest_s: no demotion is longer, unless the source asks for it.
    """

    retry_s: float = 60.0
    busy_s: float = 600.0
    first_s: float = 0.25
    longest_s: float = 15.0


@dataclass(frozen=True, slots=True)
class Bundle(Generic[HintT]):
    """What to ask a source for now."""

    hint: HintT
    wants: tuple[Want, ...]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A want that no source can give."""

    want: Want
    error: IcnError


class Health(Enum):
    """How a source is doing."""

    GOOD = auto()
    DEMOTED = auto()
    GIVEN_UP = auto()


@dataclass(slots=True)
class SourceState:
    """What is known of a source; read it for status, change nothing.

    Attributes:
        name: for messages.
        lanes: how many bundles it may work on at once.
        busy: how many it is working on.
        failures: in a row; 0 is healthy.
        failures_total: ever.
        corrupts: corrupt blocks ever; they are not forgotten.
        retry_at: demoted until then.
        failing_since: time of the first failure in the row.
        given_up: it failed for too long, or in a way that does not pass.
        good: it has given a block or a proper refusal.
        last_error: the last failure.
        rate: bytes of blocks a second, lately.
    """

    name: str
    lanes: int
    busy: int = 0
    failures: int = 0
    failures_total: int = 0
    corrupts: int = 0
    retry_at: float = 0.0
    failing_since: float | None = None
    given_up: bool = False
    good: bool = False
    last_error: IcnError | None = None
    lane_rate: float | None = None
    rate: Meter = field(default_factory=Meter)

    def health(self, now: float) -> Health:
        """How it is doing at `now`."""
        if self.given_up:
            return Health.GIVEN_UP
        return Health.DEMOTED if self.retry_at > now else Health.GOOD

    def hopeless(self, now: float) -> bool:
        """Nothing is to be expected of it: given up, and not yet time for the next probe."""
        return self.given_up and self.retry_at > now


_Queue = tuple["HintT", frozenset[int]]


class Scheduler(Generic[HintT]):
    """Decides for one engine. Sources are named by index.

    Args:
        sources: name and number of lanes of each.
        random: for jitter; `random()` in [0, 1).
        options: how patient to be.
    """

    def __init__(
        self, sources: Sequence[tuple[str, int]], random: Random, options: RetryOptions
    ) -> None:
        self.sources = [SourceState(name, lanes) for name, lanes in sources]
        self._random = random
        self._options = options
        self._open: dict[Digest, Want] = {}
        self._flying: dict[Digest, tuple[int, _Queue[HintT]]] = {}
        # Waiting wants, by hint and by who refused them: what is open and not in flight. Of a
        # want that was cancelled a stale entry stays behind, passed over when it is drawn.
        self._queues: dict[_Queue[HintT], deque[Want]] = {}
        self._waiting_bytes = 0
        # Of the few wants that were ever refused or lost:
        self._setbacks: dict[tuple[Digest, int], float] = {}  # since when it does not pass
        self._whys: dict[Digest, list[tuple[int, IcnError]]] = {}

    def __len__(self) -> int:
        """Wants that have not ended."""
        return len(self._open)

    def add(self, wants: Iterable[Want], hint: HintT, now: float) -> list[Refusal]:
        """Take wants on; those that are open already stay as they are.

        Returns:
            Refusals, at once, if every source is given up.
        """
        queue: _Queue[HintT] = (hint, frozenset())
        for want in wants:
            if want.digest in self._open:
                continue
            self._open[want.digest] = want
            if want.digest not in self._flying:  # else: cancelled, and still on its way
                self._wait(want, queue)
        return self._verdict(queue, now)

    def next_bundle(self, source: int, now: float) -> Bundle[HintT] | float | None:
        """What a free lane of `source` should do.

        Returns:
            A bundle to ask for, now in flight; or the time at which to ask again; or None:
            nothing until something changes.
        """
        state = self.sources[source]
        queue = self._queue_for(source)
        if queue is None:
            return None
        if state.retry_at > now:
            return state.retry_at
        if state.failures and state.busy:
            return now + _PROBE_S  # one lane probes; the others look how it went
        wants = self._draw(queue, state)
        # The next bundle is of another hint, where there are several.
        if queue in self._queues:
            self._queues[queue] = self._queues.pop(queue)
        for want in wants:
            self._flying[want.digest] = (source, queue)
        state.busy += 1
        return Bundle(queue[0], wants)

    def _queue_for(self, source: int) -> _Queue[HintT] | None:
        """The first queue with something that this source may be asked for."""
        for queue in list(self._queues):
            if source in queue[1]:
                continue
            waiting = self._queues[queue]
            while waiting and not self._is_waiting(waiting[0]):
                waiting.popleft()
            if waiting:
                return queue
            del self._queues[queue]
        return None

    def _is_waiting(self, want: Want) -> bool:
        return self._open.get(want.digest) is want and want.digest not in self._flying

    def _draw(self, queue: _Queue[HintT], state: SourceState) -> tuple[Want, ...]:
        # Half of an even share: so lanes that finish early find something left to take.
        lanes = sum(each.lanes for each in self.sources if not each.failures) or 1
        share = self._waiting_bytes / (2 * lanes)
        rated = _FIRST_BYTES if state.lane_rate is None else state.lane_rate * _SECONDS
        most = _PROBE_BYTES if state.failures else min(max(share, _LEAST_BYTES), rated, _MOST_BYTES)
        waiting, total = self._queues[queue], 0
        drawn: list[Want] = []
        mine: set[Digest] = set()
        while waiting and len(drawn) < MAX_WANTS:
            want = waiting[0]
            if want.digest in mine or not self._is_waiting(want):
                waiting.popleft()
                continue
            if drawn and total + want.length > most:
                break
            if len(drawn) >= BUNDLE_WANTS and total >= _MANY_BYTES:
                break
            waiting.popleft()
            total += want.length
            mine.add(want.digest)
            drawn.append(want)
        self._waiting_bytes -= total
        if not waiting:
            del self._queues[queue]
        return tuple(drawn)

    def _wait(self, want: Want, queue: _Queue[HintT], *, first: bool = False) -> None:
        waiting = self._queues.get(queue)
        if waiting is None:
            waiting = self._queues[queue] = deque()
        if first:
            waiting.appendleft(want)
        else:
            waiting.append(want)
        self._waiting_bytes += want.length

    def finished(self, source: int, payload: int, seconds: float) -> None:
        """A bundle of `source` has ended, well or not; call it after all that happened in it."""
        state = self.sources[source]
        state.busy -= 1
        if payload and seconds > 0:
            rate = payload / seconds
            known = state.lane_rate
            state.lane_rate = rate if known is None else 0.5 * known + 0.5 * rate

    def arrived(self, source: int, digest: Digest, now: float) -> bool:
        """A verified block came.

        Returns:
            Whether it is still wanted (it has ended then); False if it was cancelled.
        """
        self._flying.pop(digest, None)
        want = self._open.pop(digest, None)
        self._well(source)
        if want is None:
            return False
        self.sources[source].rate.add(want.length, now)
        self._forget(digest)
        return True

    def _well(self, source: int) -> None:
        state = self.sources[source]
        state.failures = 0
        state.failing_since = None
        state.given_up = False
        state.good = True

    def nacked(
        self, source: int, digest: Digest, reason: Reason, text: str, now: float
    ) -> list[Refusal]:
        """The source refused a want: others are asked, and later the same if it may pass."""
        state = self.sources[source]
        error = _nack_error(state.name, digest, reason, text)
        if reason not in _PASSING:
            self._well(source)
            return self._refused_by(source, digest, error, now)
        options = self._options
        patience_s = options.busy_s if reason is Reason.BUSY else options.retry_s
        self._setback(source, error, now, patience_s)
        if digest in self._open:
            since = self._setbacks.setdefault((digest, source), now)
            if now - since >= options.retry_s:
                return self._refused_by(source, digest, error, now)
        refusals = self._lost([digest], now)
        return refusals + (self._verdicts(now) if state.given_up else [])

    def corrupt(self, source: int, digest: Digest, now: float) -> list[Refusal]:
        """The source sent bytes of another digest: it is demoted, and not asked for it again."""
        name = self.sources[source].name
        error = CorruptError(f"block {digest} is corrupt at {name}")
        state = self.sources[source]
        self._setback(source, error, now, None, doublings=state.corrupts)
        state.corrupts += 1
        return self._refused_by(source, digest, error, now)

    def _refused_by(
        self, source: int, digest: Digest, error: IcnError, now: float
    ) -> list[Refusal]:
        flight = self._flying.pop(digest, None)
        want = self._open.get(digest)
        if want is None or flight is None:
            return []
        self._whys.setdefault(digest, []).append((source, error))
        hint, refused = flight[1]
        queue = (hint, refused | {source})
        self._wait(want, queue)
        return self._verdict(queue, now)

    def failed(
        self,
        source: int,
        digests: Iterable[Digest],
        error: IcnError,
        now: float,
        *,
        after_s: float | None = None,
    ) -> list[Refusal]:
        """A request failed: the wants that it left unanswered go back, the source is demoted.

        Args:
            source: which.
            digests: unanswered wants of the bundle.
            error: what happened; whether it may pass is judged from its class.
            now: the time.
            after_s: the source is busy and asks to be left alone for so long; None when it failed.
        """
        state = self.sources[source]
        options = self._options
        lasting = isinstance(error, (RefusedError, UntrustedError, UsageError)) or (
            isinstance(error, FormatError) and not state.good
        )
        self._setback(
            source, error, now, options.retry_s if after_s is None else options.busy_s,
            after_s or 0.0,
        )  # fmt: skip
        if lasting:
            state.given_up = True
            state.retry_at = max(state.retry_at, now + options.longest_s)
        refusals = self._lost(digests, now)
        return refusals + (self._verdicts(now) if state.given_up else [])

    def give_back(self, digests: Iterable[Digest], now: float) -> list[Refusal]:
        """Wants in flight that will not be answered, through nobody's fault."""
        return self._lost(digests, now)

    def _lost(self, digests: Iterable[Digest], now: float) -> list[Refusal]:
        queues = set()
        for digest in digests:
            flight = self._flying.pop(digest, None)
            want = self._open.get(digest)
            if flight is not None and want is not None:
                self._wait(want, flight[1], first=True)
                queues.add(flight[1])
        return [refusal for queue in queues for refusal in self._verdict(queue, now)]

    def _setback(
        self, source: int, error: IcnError, now: float, budget_s: float | None,
        after_s: float = 0.0, doublings: int = 0,
    ) -> None:  # fmt: skip
        """Demote; only once for what happens while it is demoted already (its other lanes)."""
        state, options = self.sources[source], self._options
        state.last_error = error
        state.failures_total += 1
        if state.failing_since is None:
            state.failing_since = now
        if state.retry_at <= now or not state.failures:
            doublings = min(max(doublings, state.failures), 30)
            wait = min(options.first_s * 2.0**doublings, options.longest_s)
            state.retry_at = now + wait * (0.5 + 0.5 * self._random.random())
            state.failures += 1
        state.retry_at = max(state.retry_at, now + after_s)
        if budget_s is not None and now - state.failing_since >= budget_s:
            state.given_up = True

    def cancel(self, digests: Iterable[Digest]) -> list[Digest]:
        """Nobody wants them any more.

        Returns:
            Those that were open, and now have ended.
        """
        ended = []
        for digest in digests:
            want = self._open.pop(digest, None)
            if want is None:
                continue
            if digest not in self._flying:
                self._waiting_bytes -= want.length
            self._forget(digest)
            ended.append(digest)
        if not self._open:
            self._queues.clear()
        return ended

    def _forget(self, digest: Digest) -> None:
        if self._whys:
            self._whys.pop(digest, None)
        if self._setbacks:
            for source in range(len(self.sources)):
                self._setbacks.pop((digest, source), None)

    def _verdicts(self, now: float) -> list[Refusal]:
        return [refusal for queue in list(self._queues) for refusal in self._verdict(queue, now)]

    def _verdict(self, queue: _Queue[HintT], now: float) -> list[Refusal]:
        """Refuse what waits in a queue, if nobody is left who could give it."""
        if queue not in self._queues:
            return []
        for index, state in enumerate(self.sources):
            if index not in queue[1] and not state.hopeless(now):
                return []
        refusals = []
        for want in self._queues.pop(queue):
            if self._is_waiting(want):
                refusals.append(Refusal(want, self._why(want.digest)))
                del self._open[want.digest]
                self._waiting_bytes -= want.length
                self._forget(want.digest)
        return refusals

    def _why(self, digest: Digest) -> IcnError:
        """The most telling of the reasons why nobody could give a block."""
        whys = self._whys.get(digest, [])
        for _, error in whys:
            if isinstance(error, CorruptError):
                return error
        refused = {source for source, _ in whys}
        for index, state in enumerate(self.sources):
            if index not in refused and state.last_error is not None:
                return IncompleteError(
                    f"block {digest} could not be had: {state.last_error}",
                    hint=state.last_error.hint if not state.last_error.retry else "",
                )
        for _, error in whys:
            if not isinstance(error, NotFoundError):
                return error
        return whys[0][1] if whys else IncompleteError(f"no source for block {digest}")


def _nack_error(name: str, digest: Digest, reason: Reason, text: str) -> IcnError:
    told = f": {text}" if text else ""
    if reason is Reason.NOT_FOUND:
        return NotFoundError(f"block {digest} is not at {name}{told}")
    if reason is Reason.CORRUPT:
        return CorruptError(f"block {digest} is corrupt at {name}{told}")
    word = reason.name.lower().replace("_", " ")
    return IncompleteError(f"block {digest} was refused by {name} ({word}){told}")
