"""The contract of strategies and their registry: which upstream of a route is asked next. Pure.

A strategy is told what happens, with the time, and is asked whom to ask, and whether a second
one should be asked for what is under way. It must do no I/O and read no clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol

from icnblocks.cache import options
from icnblocks.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Container, Hashable, Mapping

    from icnblocks_daemon.fib import Route
    from icnblocks_daemon.strategies.standing import Asked, Failure, Standing

SYNONYMS: Final = {"failover": "fail-over"}


class Strategy(Protocol):
    """Picks among the upstreams of a route and learns how they do.

    Attributes:
        name: under which it is registered.
        options: what may stand after its name in a spec (see `make_strategy`), by key.
    """

    name: ClassVar[str]
    options: ClassVar[Mapping[str, options.Option]] = {}

    # --- decisions ------------------------------------------------------------------------

    def choose(
        self, route: Route, refused: Container[str], now: float, length: int = 0, waiting: int = 0,
        model: Hashable = None,
    ) -> str | None:  # fmt: skip
        """The upstream to ask now; asking changes nothing.

        Args:
            route: the upstreams, in the order of the configuration.
            refused: those of it that must not be asked.
            now: the time.
            length: bytes of the block; 0 for a record or manifest.
            waiting: bytes of the blocks that wait behind it.
            model: what the block is of, as for `may_ask`.

        Returns:
            None if all of the route refused. It may have no room now (`may_ask`): then the block
            is to wait for it.
        """
        ...

    def may_ask(self, upstream: str, length: int, now: float, model: Hashable = None) -> bool:
        """Whether an upstream owes little enough to be asked for another block.

        More than it soon gives could neither be taken back nor overtaken by what is urgent. What
        it is slow to give of one model holds up no other: it may wait for it itself.

        Args:
            upstream: whom.
            length: bytes of the block.
            now: the time.
            model: what the block is of; the same for all of which that is not known.
        """
        ...

    def second(self, asked: Asked, others: Route, now: float, *, idle: bool) -> str | None:
        """Whom to ask as well for a block that is under way, or None.

        What is named here is asked: it counts.

        Args:
            asked: what is under way.
            others: upstreams that may have it and were not asked.
            now: the time.
            idle: no other block waits to be asked for.
        """
        ...

    def sooner(self, asked: Asked, others: Route, now: float) -> str | None:
        """Whom to ask as well for those who may not ask the one that is asked, or None.

        Args:
            asked: what is under way.
            others: upstreams that they may ask.
            now: the time.
        """
        ...

    # --- events ---------------------------------------------------------------------------

    def asked(self, upstream: str, length: int, now: float, model: Hashable = None) -> Asked:
        """An upstream is asked for a block; each such is ended by one of the three below."""
        ...

    def delivered(self, asked: Asked, now: float) -> None:
        """The block came, and was verified."""
        ...

    def lacked(self, asked: Asked, now: float) -> None:
        """The upstream refused it properly: it has not got it, or will not give it."""
        ...

    def let_go(self, asked: Asked, now: float) -> None:
        """Nobody waits for it any more, or it failed (of which `failed` tells)."""
        ...

    def overtaken(self, asked: Asked, now: float) -> None:
        """Another upstream, asked later, gave the block first; `let_go` follows."""
        ...

    def answered(self, upstream: str, now: float) -> None:
        """It answered a request for a record or manifest, also if it has not got it."""
        ...

    def failed(self, upstream: str, kind: Failure, now: float, *, least_s: float = 0.0) -> None:
        """It failed, and is demoted; `least_s`: it is to be left alone for so long."""
        ...

    # --- questions ------------------------------------------------------------------------

    def resting(self, upstream: str, now: float) -> float:
        """Seconds for which it is passed over when there is another; 0 when it is well."""
        ...

    def stalled(self, now: float) -> dict[str, int]:
        """Upstreams that owe something and give nothing any more: the bytes that each owes."""
        ...

    def standing(self, upstream: str) -> Standing:
        """What is known of it, to be read only."""
        ...

    def take_over(self, other: Strategy) -> None:
        """Go on with what another strategy knows of the upstreams."""
        ...


STRATEGIES: dict[str, type[Strategy]] = {}


def register(factory: type[Strategy]) -> type[Strategy]:
    """Class decorator: make a strategy known under its `name`."""
    STRATEGIES[factory.name] = factory
    return factory


def make_strategy(spec: str) -> Strategy:
    """A fresh strategy from `NAME[:key=value,...]`, such as `best` or `hedge:quantile=0.99`.

    Raises:
        UsageError: if there is none of that name, or an option of it is unknown or wrong.
    """
    written, _ = options.split(spec, "strategy")
    name = SYNONYMS.get(written, written)
    if name not in STRATEGIES:
        raise UsageError(f"no strategy {name!r}", hint=f"one of: {', '.join(sorted(STRATEGIES))}")
    factory = STRATEGIES[name]
    values: dict[str, Any] = options.arguments(spec, factory.options, "strategy")
    return factory(**values)
