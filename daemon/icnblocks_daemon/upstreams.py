"""Upstreams: who fetches records, manifests and blocks for an edge.

Records and manifests are asked for on a few threads, one upstream of the route after the other,
as the strategy says. Blocks are left to a courier for each upstream. This module must not decide
what is kept, or who is told.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, TypeVar

from icnblocks.client.endpoint import SourceOptions
from icnblocks.client.engine import Hint as EngineHint
from icnblocks.client.source import Source
from icnblocks.errors import IcnError, NotFoundError, RefusedError, SourceError
from icnblocks.wire.bundle import NO_PULL, PULL_BYTES
from icnblocks_daemon.couriers import Courier
from icnblocks_daemon.forwarder import Hint
from icnblocks_daemon.via import NAME_HEADER, format_via

if TYPE_CHECKING:
    from collections.abc import Callable

    from icnblocks.client.source import RecordAnswer
    from icnblocks.naming import Digest, Name
    from icnblocks.store.base import Store
    from icnblocks_daemon.config import Config
    from icnblocks_daemon.couriers import Desk
    from icnblocks_daemon.fib import Fib, Route
    from icnblocks_daemon.metrics import Metrics
    from icnblocks_daemon.pit import Fetch
    from icnblocks_daemon.strategy import Strategy

T = TypeVar("T")
_CONTROL_THREADS: Final = 8
_PULL_IDLE_S: Final = 30.0
"""After so long without a miss of a model, the next one counts upstream as another request."""
_PULLS: Final = 1024


class Upstreams:
    """The upstream side of a node; of an origin, with nobody to ask. Made on the running loop.

    Args:
        config: time limits, private CAs, token.
        fib: names all upstreams.
        strategy: picks among those of a route.
        metrics: counts payload and errors.
        node_id: of this daemon.
        clock: seconds that never go backward.
    """

    def __init__(
        self,
        config: Config,
        fib: Fib,
        strategy: Strategy,
        metrics: Metrics,
        *,
        node_id: str,
        clock: Callable[[], float],
    ) -> None:
        self._config = config
        self._strategy = strategy
        self._metrics = metrics
        self._node_id = node_id
        self._clock = clock
        options = SourceOptions(
            ca_file=config.ca_file,
            token=config.upstream_token,
            stall_s=config.upstream_timeout,
            patience_s=config.upstream_wait,
            user_agent="icn-edge",
        )
        self._sources = {url: Source(url, options) for url in fib.upstreams}
        self._couriers: dict[str, Courier] = {}
        self._errors: dict[str, str] = {}
        self._pulls: OrderedDict[tuple[Name | None, Digest], tuple[bytes, float]] = OrderedDict()
        self._threads: ThreadPoolExecutor | None = None
        if self._sources:
            self._threads = ThreadPoolExecutor(_CONTROL_THREADS, "icn-upstream")

    def attach(self, desk: Desk, store: Store) -> None:
        """Say where blocks go and who is told; before the first `begin`."""
        for url, source in self._sources.items():
            self._couriers[url] = Courier(
                source, store, desk, self._metrics,
                hint=self._engine_hint,
                retry_s=self._config.upstream_retry,
                busy_s=self._config.upstream_wait,
                share=self._config.pit,
            )  # fmt: skip

    def begin(self, fetch: Fetch) -> None:
        """See Carrier."""
        self._couriers[fetch.upstream].begin(fetch)

    def abandon(self, fetch: Fetch) -> bool:
        """See Carrier."""
        return self._couriers[fetch.upstream].abandon(fetch)

    async def record(self, route: Route, name: Name) -> RecordAnswer:
        """A name's record, as an upstream gives it: neither opened nor believed yet.

        Raises:
            NotFoundError: if every upstream of the route says so.
            IcnError: as the upstream that might have had it.
        """
        return await self._ask(route, f"record of {name}", lambda source: source.record(name))

    async def manifest(self, route: Route, digest: Digest, name: Name | None) -> bytes:
        """A manifest's bytes, hashed.

        Raises:
            NotFoundError, IcnError: as `record`.
        """
        headers = {} if name is None else {NAME_HEADER: str(name)}
        return await self._ask(
            route, f"manifest {digest}", lambda source: source.manifest(digest, headers=headers)
        )

    def status(self) -> list[dict[str, Any]]:
        """How each upstream is doing."""
        now = self._clock()
        return [
            {
                "url": url,
                "resting_s": round(self._strategy.resting(url, now), 1),
                "last_control_error": self._errors.get(url),
                **courier.status(),
            }
            for url, courier in self._couriers.items()
        ]

    async def close(self) -> None:
        """Ask nobody any more; cut off what is under way."""
        for source in self._sources.values():
            source.close()
        for courier in self._couriers.values():
            await asyncio.to_thread(courier.close)
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    async def _ask(self, route: Route, what: str, question: Callable[[Source], T]) -> T:
        """Ask the upstreams of a route in turn until one answers."""
        loop, tried = asyncio.get_running_loop(), set[str]()
        worst: IcnError | None = None
        while (url := self._strategy.choose(route, tried, self._clock())) is not None:
            tried.add(url)
            try:
                answer = await loop.run_in_executor(self._threads, question, self._sources[url])
            except NotFoundError:
                # In words of our own, or each daemon on the way would put its line before it.
                worst = worst or NotFoundError(f"no {what} here or upstream")
                self._strategy.succeeded(url, self._clock())
            except IcnError as error:
                if worst is None or isinstance(worst, NotFoundError):
                    worst = error  # whoever could not be asked might have had it
                self._errors[url] = str(error)
                self._metrics.upstream_errors.labels(url, error.code).inc()
                if not isinstance(error, RefusedError):
                    self._strategy.failed(url, self._clock())
            else:
                self._strategy.succeeded(url, self._clock())
                return answer
        raise worst or SourceError("there is no upstream to ask")

    def _engine_hint(self, fetch: Fetch) -> EngineHint:
        """What the upstream is told: the requester's hint, one hop on, and this daemon's id."""
        hint = fetch.hint if isinstance(fetch.hint, Hint) else Hint()
        via = format_via(hint.via | {self._node_id})
        return EngineHint(hint.name, hint.manifest, self._pull_of(hint), hint.hops + 1, via)

    def _pull_of(self, hint: Hint) -> bytes:
        """One number for all that is missed of a model together: one request, seen upstream."""
        if hint.manifest is None:
            return NO_PULL
        key, now = (hint.name, hint.manifest), self._clock()
        pull, used = self._pulls.pop(key, (b"", 0.0))
        if not pull or now - used > _PULL_IDLE_S:
            pull = secrets.token_bytes(PULL_BYTES)
        self._pulls[key] = (pull, now)
        if len(self._pulls) > _PULLS:
            self._pulls.popitem(last=False)
        return pull
