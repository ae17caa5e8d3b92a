"""Strategies: which upstream of a route is asked next. Pure: events and the time come in.

The built-in one fails over in order. A strategy must not do I/O and must not know blocks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final, Protocol

from icnblocks.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from icnblocks_daemon.fib import Route

FIRST_BACKOFF_S: Final = 1.0
MOST_BACKOFF_S: Final = 60.0


class Strategy(Protocol):
    """Picks among the upstreams of a route and learns how they did."""

    name: ClassVar[str]

    def choose(self, route: Route, refused: Container[str], now: float) -> str | None:
        """The upstream to ask now, none of `refused`; None if all of the route refused."""
        ...

    def succeeded(self, upstream: str, now: float) -> None:
        """It delivered something that was verified, or answered a request."""
        ...

    def failed(self, upstream: str, now: float) -> None:
        """It could not be reached, stalled, sent wrong bytes or broke the protocol."""
        ...

    def resting(self, upstream: str, now: float) -> float:
        """Seconds for which it is passed over when there is another; 0 when it is well."""
        ...


STRATEGIES: dict[str, Callable[[], Strategy]] = {}


def register(factory: type[Strategy]) -> type[Strategy]:
    """Class decorator: make a strategy known under its `name`."""
    STRATEGIES[factory.name] = factory
    return factory


def make_strategy(name: str) -> Strategy:
    """A fresh strategy by its registered name.

    Raises:
        UsageError: if there is none of that name.
    """
    if name not in STRATEGIES:
        raise UsageError(f"no strategy {name!r}", hint=f"one of: {', '.join(sorted(STRATEGIES))}")
    return STRATEGIES[name]()


@register
class FailOver:
    """The first upstream of the route that is well; when none is, the one that rests shortest.

    A failure makes an upstream rest, doubling from one second to a minute; success ends it.
    """

    name: ClassVar[str] = "fail-over"

    def __init__(self) -> None:
        self._failures: dict[str, tuple[int, float]] = {}  # how many in a row, rests until

    def choose(self, route: Route, refused: Container[str], now: float) -> str | None:
        """See Strategy."""
        left = [upstream for upstream in route if upstream not in refused]
        return min(left, key=lambda upstream: self.resting(upstream, now), default=None)

    def succeeded(self, upstream: str, now: float) -> None:
        """See Strategy."""
        del now
        self._failures.pop(upstream, None)

    def failed(self, upstream: str, now: float) -> None:
        """See Strategy. Failures while it rests already are of the same incident."""
        count, until = self._failures.get(upstream, (0, now))
        if until <= now:
            rest = min(FIRST_BACKOFF_S * 2.0 ** min(count, 16), MOST_BACKOFF_S)
            self._failures[upstream] = (count + 1, now + rest)

    def resting(self, upstream: str, now: float) -> float:
        """See Strategy."""
        return max(0.0, self._failures.get(upstream, (0, now))[1] - now)
