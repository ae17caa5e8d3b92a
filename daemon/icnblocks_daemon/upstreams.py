"""Upstreams: who fetches records, manifests and blocks for an edge."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from icnblocks.errors import SourceError

if TYPE_CHECKING:
    from icnblocks.naming import Digest, Name
    from icnblocks.store.base import Store
    from icnblocks_daemon.config import Config
    from icnblocks_daemon.fib import Fib, Route
    from icnblocks_daemon.forwarder import Forwarder
    from icnblocks_daemon.metrics import Metrics
    from icnblocks_daemon.pit import Fetch
    from icnblocks_daemon.strategy import Strategy


class Upstreams:
    """The upstream side of a node; of an origin, which has none, for now."""

    def __init__(
        self, config: Config, fib: Fib, strategy: Strategy, metrics: Metrics, node_id: str
    ) -> None:
        del config, fib, strategy, metrics, node_id

    def attach(self, forwarder: Forwarder, store: Store) -> None: ...
    def begin(self, fetch: Fetch) -> None: ...
    def abandon(self, fetch: Fetch) -> bool:
        return True

    async def record(self, route: Route, name: Name) -> Any:
        raise SourceError("no upstream")

    async def manifest(self, route: Route, digest: Digest) -> bytes:
        raise SourceError("no upstream")

    def status(self, now: float) -> list[dict[str, Any]]:
        return []

    async def close(self) -> None: ...
