"""Sharing as a whole: a server for neighbours, the offers, and the edges that are told of them."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

from icnblocks.share.neighbourhood import Neighbourhood
from icnblocks.share.offers import Offer, PartialShelf
from icnblocks.share.server import ShareServer
from icnblocks.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from icnblocks.assembly.assembler import Assembler
    from icnblocks.client.neighbourly import NeighbourlyEngine
    from icnblocks.client.resolve import Resolved
    from icnblocks.client.source import Source
    from icnblocks.naming import Digest
    from icnblocks.placement.plan import Plan
    from icnblocks.share.offers import Shelf
    from icnblocks.share.options import ShareOptions
    from icnblocks.store.catalog import Catalog
    from icnblocks.store.inplace import InPlaceStore


@dataclass(frozen=True, slots=True)
class Shared:
    """What was shared so far.

    Attributes:
        port: where this device serves.
        models: how many models are offered.
        bytes_sent: block payload that was sent to neighbours.
        refused: requests that were asked to come back later.
        connections: how many came; none where nobody could, or wanted to.
    """

    port: int
    models: int
    bytes_sent: int
    refused: int
    connections: int


class Sharer:
    """Shares models. A context manager; it serves from its beginning to its end.

    Args:
        options: where to listen, and the limits.
        catalog: has the manifests of what is offered.
        places: where whole models lie.
        warned: told of what does not work.

    Attributes:
        port: where it serves.

    Raises:
        UsageError: if it cannot listen there.
    """

    def __init__(
        self,
        options: ShareOptions,
        catalog: Catalog,
        places: InPlaceStore,
        warned: Callable[[str], None],
    ) -> None:
        self._catalog = catalog
        self._places = places
        self._offers: dict[Digest, Offer] = {}
        self._server = ShareServer(options)
        self.port = self._server.port
        self._neighbourhood = Neighbourhood(self.port, options.neighbours, warned)
        self._server.visited = self._neighbourhood.visited
        self._server.deserted = places.close_idle

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @contextmanager
    def pulling(
        self, resolved: Resolved, assembler: Assembler, plan: Plan, sources: Sequence[Source]
    ) -> Iterator[Offer]:
        """Offer a model while it is being pulled; `Offer.arrived` says what came of it."""
        shelf = PartialShelf(assembler.directory, plan, assembler.whole)
        missing = [want.digest for want in assembler.missing()]
        offer = self._offer(resolved, shelf, missing)
        self._neighbourhood.add(resolved.digest, resolved.name, sources)
        try:
            yield offer
        except BaseException:
            offer.is_gone()
            self._neighbourhood.silence(resolved.digest)
            self._offers.pop(resolved.digest, None)  # it may be offered again
            raise
        else:
            offer.is_whole_in(self._places)
        finally:
            shelf.close()

    @contextmanager
    def joined(self, offer: Offer, engine: NeighbourlyEngine) -> Iterator[None]:
        """Bring neighbours into a pull; leave it after the engine was closed."""
        self._neighbourhood.join(offer.manifest, engine)
        try:
            yield
        finally:
            self._neighbourhood.part(offer.manifest)

    def whole(self, resolved: Resolved, sources: Sequence[Source]) -> None:
        """Offer a model that lies in place, whole."""
        if resolved.digest not in self._offers:
            self._offer(resolved, self._places)
        self._neighbourhood.add(resolved.digest, resolved.name, sources)

    def _offer(self, resolved: Resolved, shelf: Shelf, missing: Sequence[Digest] = ()) -> Offer:
        digest = resolved.digest
        offer = Offer(
            digest,
            resolved.manifest.lengths(),
            lambda: self._catalog.manifest(digest),
            shelf,
            missing,
        )
        self._offers[digest] = offer
        self._server.offer(offer)
        return offer

    def shared(self) -> Shared:
        """What was shared so far."""
        server = self._server
        return Shared(
            self.port, len(self._offers), server.sent_bytes, server.refused, server.connections
        )

    def close(self) -> None:
        """Take leave of the edges and cut off everybody. Idempotent."""
        self._neighbourhood.close()
        self._server.close()
