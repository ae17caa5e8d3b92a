"""What a fetch engine and its user agree on: where blocks go, what bundles say, how to work.

This module must not fetch anything.
"""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING, Final, Protocol

from icnblocks.client.states import RetryOptions
from icnblocks.limits import DEFAULT_PRIORITY
from icnblocks.values import dataclass
from icnblocks.wire.bundle import NO_PULL, Order

if TYPE_CHECKING:
    from collections.abc import Sequence

    from icnblocks.errors import IcnError
    from icnblocks.naming import Digest, Name
    from icnblocks.store.base import Verified
    from icnblocks.wire.bundle import Want


class Sink(Protocol):
    """Takes what the engine fetches. Its methods are called on engine threads, several at once.

    What `accept` raises stops the whole engine, and `Engine.wait` raises it.
    """

    def accept(self, blocks: Sequence[Verified]) -> None:
        """Take blocks that came together, at least one. Data are overwritten after the call."""
        ...

    def refuse(self, want: Want, error: IcnError) -> None:
        """No source can give it: NotFoundError, CorruptError or IncompleteError as a rule."""
        ...


@dataclass(frozen=True, slots=True)
class Hint:
    """What a bundle says about its wants, so that daemons can route and count it.

    Attributes:
        name: the model, or None.
        manifest: its manifest, or None.
        pull: 16 random bytes of the pull.
        hops: daemons that the request has passed.
        via: value of the ICN-Via header; none when empty.
        priority: 0 to 7; the larger goes first where not all can be served at once.
        order: in which order its bundles would best be answered; the engine's, if that is listed.
        doubt: the blocks came with wrong bytes before: who has them hashes them first.
    """

    name: Name | None = None
    manifest: Digest | None = None
    pull: bytes = NO_PULL
    hops: int = 0
    via: str = ""
    priority: int = DEFAULT_PRIORITY
    order: Order = Order.ANY
    doubt: bool = False


NO_HINT: Final = Hint()


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How an engine works.

    Attributes:
        connections: over all sources together; every source has at least one.
        retry_s: seconds without a block from a source that fails, until it is given up.
        retry: the finer points; its `retry_s` is replaced by the one above.
        order: `LISTED` asks for what was added first before the rest, in smaller bundles, and
            says so to the sources; blocks may still overtake one another.
        limit_rate: bytes a second that are read of bundles at most, over all sources; None for
            no limit.
    """

    connections: int = 4
    retry_s: float = 60.0
    retry: RetryOptions = field(default_factory=RetryOptions)
    order: Order = Order.ANY
    limit_rate: float | None = None
