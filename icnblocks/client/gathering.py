"""The scheduler of a device that has neighbours: they come and go, and are asked before sources.

To the rules of `Scheduler`, which hold for sources, it adds:
- a neighbour is asked for a few blocks at a time that it said it holds, the rarest first;
- sources are asked for what no neighbour holds, in small portions and as they deal it, or at
  random where they do not; for the rest only when nothing else waits;
- a neighbour that fails, refuses several blocks that it should have, or sends one wrong block is
  let go for good: what was expected of it waits again;
- nothing is refused while a neighbour holds it.
Pure. This module must not do I/O, read clocks or lock.
"""

from __future__ import annotations

from collections.abc import Container, Hashable, Iterable
from math import inf
from typing import TYPE_CHECKING, Final, TypeVar

from icnblocks.client.answers import nack_error
from icnblocks.client.scheduler import Refusal, Scheduler
from icnblocks.client.states import RetryOptions, SourceState
from icnblocks.client.stealing import Bundle, Queue
from icnblocks.client.swarm import Swarm
from icnblocks.errors import CorruptError, IcnError
from icnblocks.limits import BLOCK_BYTES, BUNDLE_WANTS, MAX_WANTS, MIB
from icnblocks.naming import Digest
from icnblocks.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from icnblocks.client.answers import ThrottledError
    from icnblocks.client.setbacks import Setbacks
    from icnblocks.wire.bundle import Want
    from icnblocks.wire.frames import Reason

HintT = TypeVar("HintT", bound="Hashable")

_STRIKES: Final = 3
"""Blocks that a neighbour may refuse though it said that it holds them; and how often a source is
asked to deal that deals nothing."""
_SECONDS: Final = 1.0  # what a bundle of a neighbour should take
_PORTIONS: Final = 2  # bundles that each neighbour should give until the end, at least
_FIRST_BYTES: Final = MIB  # the same, while its rate is not known
_MOST_BYTES: Final = 4 * MIB
_DEAL_SECONDS: Final = 1.0  # what a source is asked for at a time should take
_FIRST_DEAL_BYTES: Final = 2 * MIB
_EARLY_S: Final = 4.0
_EARLY_DEAL_BYTES: Final = 4 * MIB
"""So soon after the beginning no larger portion is taken: others may begin at the same moment, and
whoever is first would be dealt what its share of the link cannot bring for long."""
_COMPANY: Final = 2
"""With so many neighbours, one portion at a time is asked of a source: its link is shared, and
what comes in few streams is there sooner to be given on."""


@dataclass(frozen=True, slots=True)
class Deal:
    """What to ask a source that deals.

    Attributes:
        had: a byte for each block of the manifest, 1 for those that need not be dealt.
        most: how many blocks to deal.
    """

    had: bytes
    most: int


class _NotHeld(Container[Digest]):
    """What a neighbour does not hold, as stealing wants to see it."""

    def __init__(self, swarm: Swarm, source: int) -> None:
        self._swarm, self._source = swarm, source

    def __contains__(self, digest: object) -> bool:
        return not (isinstance(digest, Digest) and self._swarm.holds(self._source, digest))


class _NotGiven(Container[Digest]):
    """What a source lacks or has refused, also of what neighbours are asked for now."""

    def __init__(self, lacked: Container[Digest], setbacks: Setbacks, source: int) -> None:
        self._lacked, self._setbacks, self._source = lacked, setbacks, source

    def __contains__(self, digest: object) -> bool:
        return digest in self._lacked or (
            isinstance(digest, Digest) and self._source in self._setbacks.refusers(digest)
        )


class Gathering(Scheduler[HintT]):
    """A Scheduler for one manifest, with neighbours.

    Args:
        sources: name and number of lanes of each source.
        random: for jitter, and to break ties.
        options: how patient to be with sources.
        blocks: the manifest's distinct blocks, in order of their first places.
        hint: what bundles say about them.
    """

    def __init__(
        self,
        sources: Sequence[tuple[str, int]],
        random: Random,
        options: RetryOptions,
        *,
        blocks: Sequence[Digest],
        hint: HintT,
    ) -> None:
        super().__init__(sources, random, options)
        self.swarm = Swarm(blocks, random)
        self._hint = hint
        self._strikes: dict[int, int] = {}
        self._slow: set[int] = set()  # neighbours that were late with what they had begun
        self._dealing: set[int] = set()  # sources that are being asked to deal
        self._dealt_nothing: set[int] = set()  # the next bundle of these is as it comes
        self._empty: dict[int, int] = {}  # how often a source dealt nothing, in a row
        self._never_deals: set[int] = set()
        self._began: float | None = None

    # Neighbours.

    def join(self, name: str) -> int:
        """A neighbour from here on, with one lane; its index among the sources."""
        self.sources.append(SourceState(name, 1))
        self.swarm.join(len(self.sources) - 1)
        return len(self.sources) - 1

    def heard(self, source: int, flags: bytes) -> int:
        """A neighbour said what it holds; how many blocks of that are new."""
        return self.swarm.heard(source, flags) if source in self.swarm else 0

    def drop(self, source: int, error: IcnError, now: float) -> list[Refusal]:
        """A neighbour is not asked any more; what is expected of it stays expected until lost."""
        state = self.sources[source]
        state.last_error = error
        state.failures_total += 1
        state.given_up, state.retry_at = True, inf
        self.swarm.leave(source)
        return self._verdicts(now)

    def dropped(self, source: int) -> bool:
        """Whether a neighbour was let go."""
        return self.sources[source].retry_at == inf

    def _is_neighbour(self, source: int) -> bool:
        return source in self.swarm or self.dropped(source)

    # What to ask whom.

    def deal(self, source: int, now: float) -> Deal | bool:
        """Whether a source should be asked to deal before it is asked for blocks.

        Returns:
            What to ask; or True while another lane is asking; or False.
        """
        state = self.sources[source]
        if source in self._never_deals or source in self._dealt_nothing:
            return False
        if source in self._dealing:
            return True
        if state.retry_at > now or state.failures or self._is_crowded(source):
            return False
        if not self._lines.waiting_bytes or self.swarm.has_dealt(source):
            return False
        self._dealing.add(source)
        had = self.swarm.had()
        return Deal(had, self.swarm.worth(self._portion(source, now), had))

    def _portion(self, source: int, now: float) -> float:
        """Bytes to ask a source for at a time."""
        if self._began is None:
            self._began = now
        state = self.sources[source]
        if state.failures or state.lane_rate is None:
            return _FIRST_DEAL_BYTES
        early = now - self._began < _EARLY_S
        limit = _EARLY_DEAL_BYTES if early else BUNDLE_WANTS * BLOCK_BYTES
        return min(state.lane_rate * _DEAL_SECONDS, limit)

    def dealt(self, source: int, indexes: Sequence[int] | None) -> None:
        """What a source dealt; None if it does not deal."""
        self._dealing.discard(source)
        if indexes is None:
            self._never_deals.add(source)
            return
        self.swarm.dealt(source, indexes)
        if self.swarm.has_dealt(source):
            self._empty[source] = 0
            return
        self._dealt_nothing.add(source)  # or what is here already
        self._empty[source] = self._empty.get(source, 0) + 1
        if self._empty[source] == _STRIKES:
            self._never_deals.add(source)

    def put_off(self, source: int, error: ThrottledError, now: float) -> list[Refusal]:
        """See Scheduler. If it was asked to deal, it may be asked again after its rest."""
        self._dealing.discard(source)
        return super().put_off(source, error, now)

    def next_bundle(self, source: int, now: float) -> Bundle[HintT] | float | None:
        """See Scheduler."""
        if self._is_neighbour(source):
            return self._of_neighbour(source, now)
        if self._is_crowded(source):
            return None
        if self._lines.waiting_bytes and not self.swarm.has_dealt(source):
            self.swarm.dealt(source, self._lot(self._portion(source, now)))
        return super().next_bundle(source, now)

    def _lot(self, size: float) -> list[int]:
        """Blocks of about so many bytes, for a source that does not deal, or not now.

        All devices would ask it for the same else, and have nothing to give each other.
        """
        drawn: list[int] = []
        for index in self.swarm.lot():
            size -= self._open[self.swarm.blocks[index]].length
            if drawn and (size < 0 or len(drawn) == MAX_WANTS):
                break
            drawn.append(index)
        return drawn

    def _is_crowded(self, source: int) -> bool:
        """Whether a source is at work for us, and we have others to ask."""
        return bool(self.sources[source].busy) and len(self.swarm) >= _COMPANY

    def _of_neighbour(self, source: int, now: float) -> Bundle[HintT] | float | None:
        state = self.sources[source]
        if state.retry_at > now:
            return None
        wished: float = _FIRST_BYTES
        if state.lane_rate is not None:
            share = self._lines.waiting_bytes / (_PORTIONS * len(self.swarm))
            wished = min(state.lane_rate * _SECONDS, share, _MOST_BYTES)
        picked = self.swarm.pick(source, wished)
        wants = tuple(self._open[digest] for digest in picked)
        if wants:
            self._lines.waiting_bytes -= sum(want.length for want in wants)
            return self._begin(source, Queue(self._hint), wants, now)
        return None if self._lines.waiting_bytes or not self._bundles else self._steal(source, now)

    def _draw(self, queue: Queue[HintT], source: int) -> tuple[Want, ...]:
        self._dealt_nothing.discard(source)
        # What others refused, or lack, waits in a line of its own, and is asked for alone: who
        # fails with a bundle hands it on to those who may be asked for all of it.
        dealt = [self._open[digest] for digest in self.swarm.dealt_to(source)]
        drawn = [want for want in dealt if self._is_alike(want, queue)]
        if not drawn:
            return super()._draw(queue, source)
        self._lines.waiting_bytes -= sum(want.length for want in drawn)
        return tuple(drawn)

    def _plain(self, want: Want) -> Queue[HintT]:
        """Where a want waits with those that the same sources have refused."""
        return Queue(self._hint, self._setbacks.refusers(want.digest))

    def _is_alike(self, want: Want, queue: Queue[HintT]) -> bool:
        """Whether the same sources may be asked for it as for those of a queue."""
        place = self._lines.placed(want, self._plain(want))
        return (place.refused, place.lacking) == (queue.refused, queue.lacking) and not queue.doubt

    def _hold_back(self, source: int, queue: Queue[HintT], now: float) -> float | None:
        if not len(self.swarm) or self.swarm.rare():
            return None
        return super()._hold_back(source, queue, now)

    def _lacked_by(self, source: int) -> Container[Digest]:
        if source in self.swarm:
            return _NotHeld(self.swarm, source)
        return _NotGiven(super()._lacked_by(source), self._setbacks, source)

    def _may_rescue(self, source: int) -> bool:
        state = self.sources[source]
        return not self._is_neighbour(source) or (
            state.lane_rate is not None and source not in self._slow
        )

    def _rescued(self, source: int, by: int) -> None:
        if self._is_neighbour(source):
            self._slow.add(source)
        elif not self._is_neighbour(by):  # a source may take it back from a neighbour soon
            super()._rescued(source, by)

    def _begin(
        self, source: int, queue: Queue[HintT], wants: tuple[Want, ...], now: float
    ) -> Bundle[HintT]:
        for want in wants:
            self.swarm.gone(want.digest)
        return super()._begin(source, queue, wants, now)

    def _wait(self, want: Want, queue: Queue[HintT], *, first: bool = False) -> None:
        super()._wait(want, queue, first=first)
        self.swarm.waits(want.digest, want.length)

    # What happened.

    def arrived(self, bundle: Bundle[HintT], digest: Digest, now: float) -> bool:
        """See Scheduler."""
        self.swarm.gone(digest)
        gone = self.dropped(bundle.source)
        wanted = super().arrived(bundle, digest, now)
        self.sources[bundle.source].given_up |= gone  # what it still gives changes nothing
        return wanted

    def cancel(self, digests: Iterable[Digest]) -> list[Digest]:
        """See Scheduler."""
        ended = super().cancel(digests)
        for digest in ended:
            self.swarm.gone(digest)
        return ended

    def nacked(
        self, bundle: Bundle[HintT], digest: Digest, reason: Reason, text: str, now: float
    ) -> list[Refusal]:
        """See Scheduler."""
        source = bundle.source
        if not self._is_neighbour(source):
            return super().nacked(bundle, digest, reason, text, now)
        error = nack_error(self.sources[source].name, digest, reason, text)
        self._strikes[source] = self._strikes.get(source, 0) + 1
        if source in self.swarm:
            self.swarm.lacks(source, digest)
        self._lost(bundle, [digest])
        if self._strikes[source] >= _STRIKES:
            return self.drop(source, error, now)
        return self._verdicts(now)

    def corrupt(self, bundle: Bundle[HintT], digest: Digest, now: float) -> list[Refusal]:
        """See Scheduler."""
        source = bundle.source
        if not self._is_neighbour(source):
            return super().corrupt(bundle, digest, now)
        self.sources[source].corrupts += 1
        error = CorruptError(f"block {digest} is corrupt at {self.sources[source].name}")
        self._lost(bundle, [digest])
        return self.drop(source, error, now)

    def failed(
        self,
        bundle: Bundle[HintT],
        digests: Iterable[Digest],
        error: IcnError,
        now: float,
        *,
        after_s: float | None = None,
    ) -> list[Refusal]:
        """See Scheduler."""
        if not self._is_neighbour(bundle.source):
            return super().failed(bundle, digests, error, now, after_s=after_s)
        self._lost(bundle, digests)
        return self.drop(bundle.source, error, now)

    def give_back(
        self, bundle: Bundle[HintT], digests: Iterable[Digest], now: float
    ) -> list[Refusal]:
        """See Scheduler."""
        if not self._is_neighbour(bundle.source):
            return super().give_back(bundle, digests, now)
        self._lost(bundle, digests)  # to other queues than the bundle's
        return self._verdicts(now)

    def _lost(self, bundle: Bundle[HintT], digests: Iterable[Digest]) -> None:
        if not self._is_neighbour(bundle.source):
            super()._lost(bundle, digests)
            return
        for digest in digests:
            want = self._taken_back(bundle, digest)
            if want is not None:
                self._wait(want, self._plain(want), first=True)

    def _verdict(self, queue: Queue[HintT], now: float) -> list[Refusal]:
        refusals = super()._verdict(queue, now)
        for refusal in refusals:
            self.swarm.gone(refusal.want.digest)
        return refusals

    def _able(self, now: float) -> set[int]:
        return {index for index in super()._able(now) if not self._is_neighbour(index)}

    def _elsewhere(self, digest: Digest) -> bool:
        return self.swarm.held(digest)
