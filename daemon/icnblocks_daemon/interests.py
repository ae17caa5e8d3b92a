"""What an Interest says, who waits for its Data, and who brings it: the forwarder's contracts.

This module must not do anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from icnblocks.limits import DEFAULT_PRIORITY
from icnblocks.values import dataclass
from icnblocks.wire.bundle import Order

if TYPE_CHECKING:
    from icnblocks.naming import Digest, Name
    from icnblocks.wire.frames import Reason
    from icnblocks_daemon.pit import Fetch


@dataclass(frozen=True, slots=True)
class Hint:
    """What a requester said about where a block may be found.

    Attributes:
        name: the model it is part of, if known.
        manifest: the manifest it stands in, if known.
        hops: daemons that passed the Interest on.
        via: their ids.
        priority: 0 to 7; the larger goes first where not all can be served at once.
        order: in which order the requester would like to have the blocks of its bundle.
        doubt: the block came with wrong bytes before: who has it hashes it first.
        client: who asks; clients take turns. All of whom that is not known count as one.
    """

    name: Name | None = None
    manifest: Digest | None = None
    hops: int = 0
    via: frozenset[str] = frozenset()
    priority: int = DEFAULT_PRIORITY
    order: Order = Order.ANY
    client: str = ""
    doubt: bool = False


class Waiter(Protocol):
    """Whoever waits for blocks. Called on the loop; must not call the forwarder back at once."""

    def landed(self, digest: Digest) -> None:
        """It is in the store now, and may be evicted as soon as this returns."""
        ...

    def refused(self, digest: Digest, reason: Reason, text: str) -> None:
        """It cannot be had."""
        ...

    def __hash__(self) -> int: ...


class Carrier(Protocol):
    """What fetches from upstreams (upstreams.py); reports to the forwarder on the loop."""

    def begin(self, fetch: Fetch) -> None:
        """Ask the fetch's upstream for its block, and put it into the store."""
        ...

    def abandon(self, fetch: Fetch) -> bool:
        """Stop; False if it is too late and the forwarder will be told as if nothing were."""
        ...

    def overtaken(self, fetch: Fetch) -> None:
        """Another upstream gave it, so what still comes of it came twice; `abandon` follows."""
        ...
