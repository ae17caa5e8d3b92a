"""What all strategies share: a standing for each upstream, and rescue from one that fails. Pure.

This module must not prefer one upstream to another that is well: each strategy says how.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from icnblocks_daemon.strategies.standing import Failure, Standing
from icnblocks_daemon.strategies.strategy import Strategy

if TYPE_CHECKING:
    from collections.abc import Container, Hashable, Iterable, Mapping

    from icnblocks.cache.options import Option
    from icnblocks_daemon.fib import Route
    from icnblocks_daemon.strategies.standing import Asked

SILENT_S: Final = 0.25
"""One that failed and then gave nothing for so long: others are asked for what it owes."""
STALLED_S: Final = 3.0
"""One that owes something and gave nothing for so long has stalled, if there is another to ask."""
LATE: Final = 2.0
"""One that would give a block so many times sooner is asked instead, or as well,"""
_APART_S: Final = 1.0
"""and by so much sooner, where who waits may not ask the first: one that is well does not need so
long for all that it owes."""


class Measured(Strategy):
    """Keeps the standings. A subclass says whom to choose of those that are well."""

    options: ClassVar[Mapping[str, Option]] = {}

    def __init__(self) -> None:
        self._standings: dict[str, Standing] = {}

    def prefer(
        self, well: Route, now: float, length: int, waiting: int, model: Hashable = None
    ) -> str:
        """The one to ask of these, at least two, none of which rests."""
        raise NotImplementedError

    # --- decisions ------------------------------------------------------------------------

    def choose(
        self, route: Route, refused: Container[str], now: float, length: int = 0, waiting: int = 0,
        model: Hashable = None,
    ) -> str | None:  # fmt: skip
        """See Strategy. When all rest, the one that rests shortest."""
        left = tuple(upstream for upstream in route if upstream not in refused)
        well = tuple(upstream for upstream in left if not self.resting(upstream, now))
        if len(well) > 1:
            return self.prefer(well, now, length, waiting, model)
        if well:
            return well[0]
        return min(left, key=lambda upstream: self.resting(upstream, now), default=None)

    def may_ask(self, upstream: str, length: int, now: float, model: Hashable = None) -> bool:
        """See Strategy."""
        return self.standing(upstream).may_ask(length, now, model)

    def second(self, asked: Asked, others: Route, now: float, *, idle: bool) -> str | None:
        """See Strategy. For what an upstream owes that failed and is silent, another is asked."""
        del idle
        standing = self.standing(asked.upstream)
        silent = standing.silence(now)
        if silent < (SILENT_S if standing.resting(now) else STALLED_S):
            return None
        rescuer = self.quickest(others, asked.length, now, asked.model)
        if rescuer is not None:
            self.failed(asked.upstream, Failure.SLOW, now)
        return rescuer

    def sooner(
        self, asked: Asked, others: Route, now: float, gain_s: float = _APART_S
    ) -> str | None:
        """See Strategy."""
        second = self.quickest(others, asked.length, now, asked.model)
        if second is None:
            return None
        mine, theirs = self._left(asked, now), self.due_in(second, asked.length, now)
        return second if mine > LATE * theirs + gain_s else None

    def _left(self, asked: Asked, now: float) -> float:
        """Seconds until a block that is under way is expected, at least the silence so far."""
        standing = self.standing(asked.upstream)
        rate = standing.rate(now)
        silent = standing.silence(now)
        if rate is None:
            return silent
        return max(silent, (standing.ahead_of(asked) + asked.length) / rate)

    def quickest(
        self, others: Iterable[str], length: int, now: float, model: Hashable = None
    ) -> str | None:
        """Of these, the one that is well, has room, and would give a block soonest."""
        able = [
            upstream
            for upstream in others
            if not self.resting(upstream, now)
            and self.standing(upstream).may_help(length, now, model)
        ]
        return min(able, key=lambda upstream: self.due_in(upstream, length, now), default=None)

    def due_in(self, upstream: str, length: int, now: float) -> float:
        """Seconds until it would have given a block that it is asked for now."""
        standing = self.standing(upstream)
        rate = standing.rate(now) or self.usual_rate(now)
        return (standing.owed + length) / (rate * standing.found)

    def usual_rate(self, now: float) -> float:
        """What an upstream of which nothing is known is taken for: the mean of the others."""
        known = [rate for each in self._standings.values() if (rate := each.rate(now))]
        return sum(known) / len(known) if known else 1.0

    # --- events ---------------------------------------------------------------------------

    def asked(self, upstream: str, length: int, now: float, model: Hashable = None) -> Asked:
        """See Strategy."""
        return self.standing(upstream).asked(upstream, length, now, model)

    def delivered(self, asked: Asked, now: float) -> None:
        """See Strategy."""
        self.standing(asked.upstream).delivered(asked, now)

    def lacked(self, asked: Asked, now: float) -> None:
        """See Strategy."""
        self.standing(asked.upstream).lacked(asked, now)

    def let_go(self, asked: Asked, now: float) -> None:
        """See Strategy."""
        del now
        self.standing(asked.upstream).end(asked)

    def overtaken(self, asked: Asked, now: float) -> None:
        """See Strategy. One that gave nothing at all since it was asked is slow."""
        if self.standing(asked.upstream).heard_at <= asked.at:
            self.failed(asked.upstream, Failure.SLOW, now)

    def answered(self, upstream: str, now: float) -> None:
        """See Strategy."""
        self.standing(upstream).well(now)

    def failed(self, upstream: str, kind: Failure, now: float, *, least_s: float = 0.0) -> None:
        """See Strategy."""
        self.standing(upstream).failed(kind, now, least_s=least_s)

    # --- questions ------------------------------------------------------------------------

    def resting(self, upstream: str, now: float) -> float:
        """See Strategy."""
        known = self._standings.get(upstream)
        return known.resting(now) if known is not None else 0.0

    def stalled(self, now: float) -> dict[str, int]:
        """See Strategy."""
        known = self._standings.items()
        return {url: each.owed for url, each in known if each.silence(now) >= STALLED_S}

    def standing(self, upstream: str) -> Standing:
        """See Strategy."""
        known = self._standings.get(upstream)
        if known is None:
            known = self._standings[upstream] = Standing()
        return known

    def take_over(self, other: Strategy) -> None:
        """See Strategy."""
        if isinstance(other, Measured):
            self._standings = other._standings
