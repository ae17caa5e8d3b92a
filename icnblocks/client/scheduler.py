"""The scheduler: which source is asked for which blocks next, and when to give up.

A pure decider: it is told what happened and when, and answers what to do. Rules:
- a want is expected of one source at most, and ends exactly once: arrived, refused or cancelled;
- bundles are cut by measured rates and shrink as the work runs out, so that all finish together; a
  slow source leaves the last wants to fast ones that will be through with them sooner;
- a source with nothing left to ask for takes over what a slower one has not begun, or is late
  with (icnblocks.client.stealing);
- a source is not asked for what it says that it lacks, unless nobody else is left to ask;
- a source that fails is demoted for a time that doubles with every failure and is forgotten with
  the next block from it; then it is probed with a few wants by one of its lanes;
- a source that fails for `retry_s` without one block between counts as unable to give anything,
  until a later probe succeeds; a want is refused when every source is unable or has refused it.

This module must not do I/O, read clocks or lock.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from icnblocks.client.answers import nack_error
from icnblocks.client.lines import Lines
from icnblocks.client.setbacks import Setbacks
from icnblocks.client.shares import bundle_bytes, hold_back, pace
from icnblocks.client.states import Health, RetryOptions, SourceState
from icnblocks.client.stealing import Bundle, Queue, Theft, UnderWay, choose
from icnblocks.errors import (
    CorruptError,
    ForeignError,
    FormatError,
    RefusedError,
    UntrustedError,
    UsageError,
)
from icnblocks.values import dataclass
from icnblocks.wire.frames import Reason

if TYPE_CHECKING:
    from collections.abc import Collection, Container, Hashable, Iterable, Sequence
    from random import Random

    from icnblocks.client.answers import ThrottledError
    from icnblocks.errors import IcnError
    from icnblocks.naming import Digest
    from icnblocks.wire.bundle import Want

__all__ = ["Bundle", "Health", "Refusal", "RetryOptions", "Scheduler"]

HintT = TypeVar("HintT", bound="Hashable")

_PROBE_S: Final = 0.5
_MOST_VAIN: Final = 4
"""Who gave wrong bytes for so many blocks though it was told is told no more."""
_PASSING: Final = frozenset({Reason.BUSY, Reason.UPSTREAM, Reason.NO_SPACE, Reason.OTHER})


@dataclass(frozen=True, slots=True)
class Refusal:
    """A want that no source can give."""

    want: Want
    error: IcnError


class Scheduler(Generic[HintT]):
    """Decides for one engine. Sources are named by index.

    Args:
        sources: name and number of lanes of each.
        random: for jitter; `random()` in [0, 1).
        options: how patient to be.
        ordered: what was added first should come first.
    """

    def __init__(
        self,
        sources: Sequence[tuple[str, int]],
        random: Random,
        options: RetryOptions,
        *,
        ordered: bool = False,
    ) -> None:
        self.sources = [SourceState(name, lanes) for name, lanes in sources]
        self._given = len(sources)  # others may join
        self._random = random
        self._options = options
        self._open: dict[Digest, Want] = {}
        self._flying: dict[Digest, Bundle[HintT]] = {}
        self._bundles: UnderWay[HintT] = UnderWay()
        self._lines: Lines[HintT] = Lines(self._is_waiting, ordered=ordered)
        # Wants added anew while what was asked for before they were cancelled is on its way: where
        # they wait if no data comes. That may have been another length or hint: they get no blame.
        self._owed: dict[Digest, Queue[HintT]] = {}
        self._setbacks = Setbacks()

    def __len__(self) -> int:
        """Wants that have not ended."""
        return len(self._open)

    def add(self, wants: Iterable[Want], hint: HintT, now: float, part: int = 0) -> list[Refusal]:
        """Take wants on; those that are open already stay as they are.

        Args:
            wants: which.
            hint: what bundles of them say.
            now: the time.
            part: of what is added with this hint: a free lane draws from the one that the
                fewest are drawing from.

        Returns:
            Refusals, at once, if every source is given up.
        """
        queue = Queue(hint, part=part)
        for want in wants:
            if want.digest in self._open:
                continue
            self._open[want.digest] = want
            if self._lines.ordered:
                self._lines.ranks.setdefault(want.digest, len(self._lines.ranks))
            bundle = self._flying.get(want.digest)
            if bundle is None:
                self._wait(want, queue)
            else:  # cancelled, and still on its way
                bundle.left[want.digest] = want
                self._owed[want.digest] = queue
        return self._judged(queue, now)

    def told(
        self, source: int, known: Iterable[Digest], lacking: Collection[Digest], now: float
    ) -> list[Refusal]:
        """A source said which of the `known` blocks it does not hold and would not fetch."""
        self._lines.told(source, known, lacking)
        return self._verdicts(now)

    def next_bundle(self, source: int, now: float) -> Bundle[HintT] | float | None:
        """What a free lane of `source` should do.

        Returns:
            A bundle to ask for, now in flight; or the time at which to ask again; or None:
            nothing until something changes.
        """
        state = self.sources[source]
        queue = self._queue_for(source)
        if queue is None and (len(self.sources) == 1 or not self._bundles):
            return None
        if state.retry_at > now:
            return state.retry_at
        if (state.failures or state.late) and state.busy:
            return now + _PROBE_S  # one lane probes; the others look how it went
        if queue is None:
            return self._steal(source, now)
        later = self._hold_back(source, queue, now)
        if later is not None:
            return later
        wants = self._draw(queue, source)
        self._lines.to_the_end(queue.hint)  # the next bundle is of another, if there are several
        return self._begin(source, queue, wants, now)

    def _begin(
        self, source: int, queue: Queue[HintT], wants: tuple[Want, ...], now: float
    ) -> Bundle[HintT]:
        left = {want.digest: want for want in wants}
        bundle = Bundle(source, queue, wants, now, now, left=left)
        self._flying.update(dict.fromkeys(left, bundle))
        self._bundles.begin(bundle)
        state = self.sources[source]
        state.busy += 1
        state.held_since = None
        return bundle

    def _steal(self, source: int, now: float) -> Bundle[HintT] | float | None:
        """Nothing waits for an idle source: what others are slow with may be taken over."""
        state = self.sources[source]
        if state.failures:
            return None  # it must not gather what it may fail with
        under_way = ((each, self.sources[each.source].lane_rate) for each in self._bundles)
        lacking = self._lacked_by(source)
        step = choose(
            source, state.lane_rate, under_way, now, lacking,
            late=state.late, rescues=self._may_rescue(source),
        )  # fmt: skip
        if not isinstance(step, Theft):
            return step
        if step.rescues:
            self._rescued(step.victim.source, source)
        for want in step.wants:
            del step.victim.left[want.digest]
            step.victim.taken.add(want.digest)
        bundle = self._begin(source, step.victim.queue, step.wants, now)
        bundle.rescues = step.rescues
        return bundle

    def _may_rescue(self, source: int) -> bool:  # noqa: ARG002
        """Whether a source may take over what another has begun."""
        return True

    def _rescued(self, source: int, by: int) -> None:  # noqa: ARG002
        """What a source had begun was taken over by another."""
        self.sources[source].late = True

    def _lacked_by(self, source: int) -> Container[Digest]:
        return self._lines.lacked_by(source)

    def _hold_back(self, source: int, queue: Queue[HintT], now: float) -> float | None:
        """Near the end a slow source leaves the last wants to others."""
        if len(self.sources) == 1:
            return None
        rate = sum(
            pace(each, self._bundles.of(index), now)
            for index, each in enumerate(self.sources)
            if index != source and queue.may(index) and not each.failures and not each.given_up
        )
        length = self._lines[queue][0].length
        return hold_back(self.sources[source], rate, length, self._lines.waiting_bytes, now)

    def _queue_for(self, source: int) -> Queue[HintT] | None:
        """The queue that this source should be asked for: what few others can give goes first."""
        found: tuple[tuple[int, int, int], Queue[HintT]] | None = None
        for queue in self._lines:
            if not (queue.may(source) and self._heeds(source, queue)):
                continue
            head = self._lines.head(queue)
            if head is None:
                continue
            most = self._options.hint_lanes
            if most is not None and self._bundles.busy(source, queue) >= most:
                continue
            drawn_from = self._bundles.drawn_from(queue)
            if len(self.sources) == 1 and not self._lines.ordered and not drawn_from:
                return queue  # no other can come before it: an edge may have hundreds
            key = (self._lines.rank(head), -len(queue.refused | queue.lacking), drawn_from)
            if found is None or key < found[0]:
                found = (key, queue)
        return None if found is None else found[1]

    def _is_waiting(self, want: Want) -> bool:
        return self._open.get(want.digest) is want and want.digest not in self._flying

    def _draw(self, queue: Queue[HintT], source: int) -> tuple[Want, ...]:
        most = bundle_bytes(
            self.sources[source],
            self.sources,
            self._lines.waiting_bytes,
            ordered=self._lines.ordered,
        )
        return self._lines.draw(queue, most)

    def _wait(self, want: Want, queue: Queue[HintT], *, first: bool = False) -> None:
        self._lines.add(want, queue, first=first)

    def finished(self, bundle: Bundle[HintT], payload: int, seconds: float) -> None:
        """A bundle has ended, well or not; call it after all that happened in it.

        Args:
            bundle: which.
            payload: bytes of blocks that came, also of one that did not come to its end.
            seconds: how long it took.
        """
        state = self.sources[bundle.source]
        state.busy -= 1
        state.measured(payload, seconds)
        self._bundles.end(bundle)

    def arrived(self, bundle: Bundle[HintT], digest: Digest, now: float) -> bool:
        """A verified block came.

        Returns:
            Whether it is still wanted (it has ended then); False if it was cancelled, or
            came from another source before.
        """
        state = self.sources[bundle.source]
        state.late = False
        if state.failures or not state.good or state.given_up:
            state.well()
        holder = self._flying.get(digest)
        want = self._open.pop(digest, None)
        bundle.heard = now
        if bundle.queue.doubt:
            state.vain = 0
        if want is None:
            if holder is bundle:
                del self._flying[digest]
            return False
        bundle.got += want.length
        if holder is None:  # it was taken from this bundle, and given back by who took it
            self._lines.waiting_bytes -= want.length
        else:
            del self._flying[digest], holder.left[digest]
            if holder is not bundle:
                holder.taken.add(digest)
        state.rate.add(want.length, now)
        self._forget(digest)
        return True

    def nacked(
        self, bundle: Bundle[HintT], digest: Digest, reason: Reason, text: str, now: float
    ) -> list[Refusal]:
        """The source refused a want: others are asked, and later the same if it may pass."""
        state = self.sources[bundle.source]
        error = nack_error(state.name, digest, reason, text)
        passes_on = self._options.passes_on and reason is not Reason.BUSY
        if reason not in _PASSING or passes_on:
            state.well()
            return self._refused_by(bundle, digest, error, now)
        options = self._options
        self._setback(state, error, now, busy=reason is Reason.BUSY)
        if digest in self._open and digest not in self._owed:
            since = self._setbacks.since(digest, bundle.source, now)
            if now - since >= options.retry_s:
                return self._refused_by(bundle, digest, error, now)
        self._lost(bundle, [digest])
        return self._verdicts(now) if state.given_up else self._judged(bundle.queue, now)

    def corrupt(self, bundle: Bundle[HintT], digest: Digest, now: float) -> list[Refusal]:
        """The source sent bytes of another digest: it is demoted, and others are asked.

        If none of them gives it, it is asked once more, and told: what it has may have rotted.
        """
        state = self.sources[bundle.source]
        error = CorruptError(f"block {digest} is corrupt at {state.name}")
        self._setback(state, error, now, doublings=state.corrupts, fatal=False)
        state.corrupts += 1
        state.vain += bundle.queue.doubt
        refusals = self._refused_by(bundle, digest, error, now)
        if bundle.queue.doubt and state.vain >= _MOST_VAIN:
            refusals += self._verdicts(now)
        return refusals

    def _heeds(self, source: int, queue: Queue[HintT]) -> bool:
        """Whether doubts are not in vain with a source, if these wants are doubted."""
        return not queue.doubt or self.sources[source].vain < _MOST_VAIN

    def _refused_by(
        self, bundle: Bundle[HintT], digest: Digest, error: IcnError, now: float
    ) -> list[Refusal]:
        want = self._taken_back(bundle, digest)
        if want is None:
            return self._verdicts(now) if self.sources[bundle.source].given_up else []
        self._setbacks.refused(digest, bundle.source, error)
        queue = replace(bundle.queue, refused=bundle.queue.refused | {bundle.source})
        self._wait(want, queue)
        return self._judged(queue, now)

    def failed(
        self,
        bundle: Bundle[HintT],
        digests: Iterable[Digest],
        error: IcnError,
        now: float,
        *,
        after_s: float | None = None,
    ) -> list[Refusal]:
        """A request failed: the wants that it left unanswered go back, the source is demoted.

        Args:
            bundle: which.
            digests: unanswered wants of the bundle.
            error: what happened; whether it may pass is judged from its class.
            now: the time.
            after_s: the source is busy and asks to be left alone for so long; None when it failed.
        """
        state = self.sources[bundle.source]
        options = self._options
        lasting = isinstance(error, (RefusedError, UntrustedError, UsageError)) or (
            isinstance(error, (FormatError, ForeignError)) and not state.good
        )
        self._setback(state, error, now, busy=after_s is not None, after_s=after_s or 0.0)
        if lasting:
            state.given_up = True
            state.retry_at = max(state.retry_at, now + options.longest_s)
        self._lost(bundle, digests)
        return self._verdicts(now) if state.given_up else self._judged(bundle.queue, now)

    def put_off(self, source: int, error: ThrottledError, now: float) -> list[Refusal]:
        """A source that was asked something else than for blocks asks to be left alone."""
        state = self.sources[source]
        self._setback(state, error, now, busy=True, after_s=error.after_s)
        return self._verdicts(now) if state.given_up else []

    def give_back(
        self, bundle: Bundle[HintT], digests: Iterable[Digest], now: float
    ) -> list[Refusal]:
        """Wants in flight that will not be answered, through nobody's fault."""
        state = self.sources[bundle.source]
        self._lost(bundle, digests)
        return self._verdicts(now) if state.given_up else self._judged(bundle.queue, now)

    def _lost(self, bundle: Bundle[HintT], digests: Iterable[Digest]) -> None:
        """What was expected of a bundle waits again, at the front and in its order."""
        for digest in reversed(list(digests)):
            want = self._taken_back(bundle, digest)
            if want is not None:
                self._wait(want, bundle.queue, first=True)

    def _taken_back(self, bundle: Bundle[HintT], digest: Digest) -> Want | None:
        """What a bundle will not give; None if others have it in hand, or it waits already."""
        if self._flying.get(digest) is not bundle:
            return None
        del self._flying[digest]
        want, queue = bundle.left.pop(digest, None), self._owed.pop(digest, None)
        if want is not None and queue is not None:
            self._wait(want, queue, first=True)
            return None
        return want

    def _setback(
        self, state: SourceState, error: IcnError, now: float,
        *, busy: bool = False, fatal: bool = True, after_s: float = 0.0, doublings: int = 0,
    ) -> None:  # fmt: skip
        state.setback(
            error, now, self._options, self._random.random(),
            busy=busy, fatal=fatal, after_s=after_s, doublings=doublings,
        )  # fmt: skip

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
            bundle = self._flying.get(digest)
            if bundle is None:
                self._lines.waiting_bytes -= want.length
            else:
                del bundle.left[digest]
            self._forget(digest)
            ended.append(digest)
        if not self._open:
            self._lines.clear()
        return ended

    def _forget(self, digest: Digest) -> None:
        if self._owed:
            self._owed.pop(digest, None)
        self._lines.pressed.discard(digest)
        self._setbacks.forget(digest)

    def _judged(self, queue: Queue[HintT], now: float) -> list[Refusal]:
        """As `_verdict`; by what sources lack, wants of a queue may have lined up in others."""
        return self._verdicts(now) if self._lines.any_lacks else self._verdict(queue, now)

    def _verdicts(self, now: float) -> list[Refusal]:
        return [refusal for queue in self._lines for refusal in self._verdict(queue, now)]

    def _verdict(self, queue: Queue[HintT], now: float) -> list[Refusal]:
        """Refuse what waits in a queue, if nobody is left who could give it."""
        if queue not in self._lines:
            return []
        able = {index for index in self._able(now) if self._heeds(index, queue)}
        if any(queue.may(index) for index in able):
            return []
        refusals = []
        pressed = bool(able - queue.refused)  # a have-map may be old: somebody is left to ask
        for want in self._lines.take(queue):
            if self._elsewhere(want.digest):
                self._lines.line_up(want, queue)
                continue
            if pressed:
                self._lines.pressed.add(want.digest)
                self._lines.line_up(want, queue)
                continue
            doubtful = self._doubtful(want.digest) & able
            if doubtful and not queue.doubt and not self._options.passes_on:
                # It may be erased there by now: that is an answer.
                self._lines.pressed.add(want.digest)
                again = replace(queue, refused=queue.refused - doubtful, doubt=True)
                self._lines.line_up(want, again)
                continue
            error = self._setbacks.why(want.digest, self.sources[: self._given])
            refusals.append(Refusal(want, error))
            del self._open[want.digest]
            self._lines.waiting_bytes -= want.length
            self._forget(want.digest)
        return refusals

    def _doubtful(self, digest: Digest) -> set[int]:
        """Who gave wrong bytes for a block, and may heed a doubt."""
        corrupt_at = self._setbacks.corrupt_at(digest)
        return {source for source in corrupt_at if self.sources[source].vain < _MOST_VAIN}

    def _able(self, now: float) -> set[int]:
        """Sources of which something is to be expected."""
        return {index for index, each in enumerate(self.sources) if not each.hopeless(now)}

    def _elsewhere(self, digest: Digest) -> bool:  # noqa: ARG002
        """Whether somebody who is no source may give a block."""
        return False
