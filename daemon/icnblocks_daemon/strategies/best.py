"""`best`: the upstream that gives blocks soonest, by measured rate and by what it had. Pure.

Nobody knows how fast an upstream is that is not asked, so each one is tried with a few blocks
now and then. The one that was best stays until another is clearly better: two that are alike
must not be changed at every block.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from icnblocks.cache.options import Option
from icnblocks.limits import MIB
from icnblocks.quantities import parse_duration
from icnblocks_daemon.strategies.measured import Measured
from icnblocks_daemon.strategies.strategy import register

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from icnblocks_daemon.fib import Route
    from icnblocks_daemon.strategies.standing import Asked

_PROBE_BYTES: Final = 4 * MIB
_CLEARLY: Final = 1.25


@register
class Best(Measured):
    """The upstream with the highest rate of what it is asked for, probing the others.

    Args:
        probe_s: seconds after which one that was not asked is tried with a few blocks.
    """

    name: ClassVar[str] = "best"
    options: ClassVar[Mapping[str, Option]] = {
        "probe": Option(
            "probe_s", parse_duration, "one not asked for so long is tried; 10s by default"
        ),
    }

    def __init__(self, probe_s: float = 10.0) -> None:
        super().__init__()
        self._probe_s = probe_s
        self._to_probe: dict[str, int] = {}  # bytes that it is still to be tried with
        self._stays: str | None = None  # who was best when a block was last asked for

    def prefer(
        self, well: Route, now: float, length: int, waiting: int, model: Hashable = None
    ) -> str:
        """See Measured. A probe first, if one is due and has room."""
        del waiting
        for upstream in well if length else ():
            if self._is_due(upstream, now) and self.may_ask(upstream, length, now, model):
                return upstream
        return self._best(well, now)

    def asked(self, upstream: str, length: int, now: float, model: Hashable = None) -> Asked:
        """See Strategy."""
        if self._is_due(upstream, now):
            left = self._to_probe.get(upstream) or _PROBE_BYTES
            self._to_probe[upstream] = max(left - length, 0)
        else:
            self._stays = upstream
        return super().asked(upstream, length, now, model)

    def _is_due(self, upstream: str, now: float) -> bool:
        at = self.standing(upstream).asked_at
        return at is None or now - at >= self._probe_s or self._to_probe.get(upstream, 0) > 0

    def _best(self, well: Route, now: float) -> str:
        def worth(upstream: str) -> float:
            standing = self.standing(upstream)
            rate = (standing.rate(now) or 0.0) * standing.found
            return rate * _CLEARLY if upstream == self._stays else rate

        return max(well, key=worth)
