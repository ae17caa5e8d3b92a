"""`hedge`: a second upstream is asked for a block that is late beyond its own history. Pure.

After Dean and Barroso, "The Tail at Scale" (CACM 56/2, 2013): a second request goes out when the
first has taken longer than a high quantile of such requests, here of the upstream's own blocks,
from when it was their turn. Blocks asked for twice are at most a share of all, so that a slow
time of everybody does not double the traffic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from icnblocks.cache.options import Option, fraction
from icnblocks.limits import MIB
from icnblocks.quantities import parse_duration
from icnblocks_daemon.strategies.measured import Measured
from icnblocks_daemon.strategies.strategy import register

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from icnblocks_daemon.fib import Route
    from icnblocks_daemon.strategies.standing import Asked

_UNKNOWN_S: Final = 1.0
"""Patience with an upstream that has no history yet."""
_MOST_CREDIT: Final = 4 * MIB


@register
class Hedge(Measured):
    """The first upstream that is well, and a second one for what it is late with.

    Args:
        quantile: of an upstream's waits, beyond which a block is late.
        share: bytes that may be asked for twice, of all; and 4 MiB at a time at most.
        least_s: no block is late before.
    """

    name: ClassVar[str] = "hedge"
    options: ClassVar[Mapping[str, Option]] = {
        "quantile": Option(
            "quantile", fraction, "a block is late beyond this part of its history; 0.95"
        ),
        "share": Option("share", fraction, "the part of all bytes asked for twice; 0.05"),
        "least": Option("least_s", parse_duration, "no block is late sooner; 50ms"),
    }

    def __init__(self, quantile: float = 0.95, share: float = 0.05, least_s: float = 0.05) -> None:
        super().__init__()
        self._quantile = quantile
        self._share = share
        self._least_s = least_s
        self._credit = float(_MOST_CREDIT)

    def prefer(
        self, well: Route, now: float, length: int, waiting: int, model: Hashable = None
    ) -> str:
        """See Measured."""
        del now, length, waiting, model
        return well[0]

    def asked(self, upstream: str, length: int, now: float, model: Hashable = None) -> Asked:
        """See Strategy. What is asked for earns the right to ask for some of it twice."""
        self._credit = min(self._credit + self._share * length, _MOST_CREDIT)
        return super().asked(upstream, length, now, model)

    def second(self, asked: Asked, others: Route, now: float, *, idle: bool) -> str | None:
        """See Strategy. Rescue from one that failed costs no credit: nothing comes twice."""
        rescuer = super().second(asked, others, now, idle=idle)
        if rescuer is not None:
            return rescuer
        if self._credit < asked.length or not self._is_late(asked, now):
            return None
        second = self.quickest(others, asked.length, now, asked.model)
        if second is not None:
            self._credit -= asked.length
        return second

    def _is_late(self, asked: Asked, now: float) -> bool:
        waited = now - asked.at
        if waited < self._least_s:
            return False
        standing = self.standing(asked.upstream)
        rate = standing.past_rate()  # that of now sinks while it stalls, and would excuse it
        queued = asked.ahead / rate if rate else 0.0
        usual = standing.patience(self._quantile)
        patience = _UNKNOWN_S if usual is None else max(usual, self._least_s)
        return waited - queued > patience
