"""`spread`: one pull over all upstreams that have it, so that the sum of their rates is used. Pure.

Each block goes to the upstream that would give it soonest, by its measured rate and what it owes
already. Since none is asked for more than it gives in half a second, all end at about the same
moment. One that is slow is given none of the last blocks, if the others have them sooner; and
when nothing is left to be asked for, an idle one is asked for what another is late with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from icnblocks.limits import MIB
from icnblocks_daemon.strategies.measured import LATE, Measured
from icnblocks_daemon.strategies.strategy import register

if TYPE_CHECKING:
    from collections.abc import Hashable

    from icnblocks_daemon.fib import Route
    from icnblocks_daemon.strategies.standing import Asked

_FIRST_OF_MANY: Final = 2 * MIB
_GAIN_S: Final = 0.1
"""What is not sooner by this is not worth another upstream: what is on its way comes in vain."""


@register
class Spread(Measured):
    """By measured rate and what is owed."""

    name: ClassVar[str] = "spread"

    def prefer(
        self, well: Route, now: float, length: int, waiting: int, model: Hashable = None
    ) -> str:
        """See Measured. A record or manifest is asked of the first."""
        if not length:
            return well[0]
        due = {upstream: self.due_in(upstream, length, now) for upstream in well}
        ranked = sorted(well, key=due.__getitem__)
        for upstream in ranked:
            if self.may_ask(upstream, length, now, model):
                rest = self._rest(ranked, upstream, waiting + length, now)
                return upstream if due[upstream] <= LATE * rest + _GAIN_S else ranked[0]
        return ranked[0]

    def _rest(self, well: list[str], but: str, waiting: int, now: float) -> float:
        """Seconds until the others would have given all that waits."""
        others = [self.standing(upstream) for upstream in well if upstream != but]
        usual = self.usual_rate(now)
        together = sum((each.rate(now) or usual) * each.found for each in others)
        return (waiting + sum(each.owed for each in others)) / together

    def may_ask(self, upstream: str, length: int, now: float, model: Hashable = None) -> bool:
        """See Strategy. One of which nothing is known may be slow: it is begun with little."""
        standing = self.standing(upstream)
        if standing.rate(now) is None:
            return not standing.owed or standing.owed + length <= _FIRST_OF_MANY
        return standing.may_ask(length, now, model)

    def second(self, asked: Asked, others: Route, now: float, *, idle: bool) -> str | None:
        """See Strategy."""
        rescuer = super().second(asked, others, now, idle=idle)
        if rescuer is not None or not idle:
            return rescuer
        free = tuple(each for each in others if not self.standing(each).owed)
        return self.sooner(asked, free, now, _GAIN_S)
