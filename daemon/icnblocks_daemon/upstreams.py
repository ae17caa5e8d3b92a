"""Upstreams: who fetches records, manifests and blocks for an edge.

Records and manifests are asked of one upstream of the route after the other, as the strategy says,
and while one is slow of the next one as well. Blocks are left to a courier for each upstream. This
module must not decide what is kept, or who is told.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

from icnblocks.client.answers import ThrottledError
from icnblocks.client.endpoint import SourceOptions
from icnblocks.client.engine import Hint as EngineHint
from icnblocks.client.hedged import SLOW_S
from icnblocks.client.source import Source
from icnblocks.errors import (
    ConflictError,
    ForeignError,
    FormatError,
    IcnError,
    LoopError,
    NotFoundError,
    RefusedError,
    SourceError,
    StorageError,
    TrustError,
    UntrustedError,
    UsageError,
)
from icnblocks.limits import MAX_HOPS
from icnblocks.wire.bundle import HERE_ONLY, NO_PULL, PULL_BYTES
from icnblocks.wire.headers import NAME_HEADER, VIA_HEADER
from icnblocks_daemon.couriers import Courier
from icnblocks_daemon.interests import Hint
from icnblocks_daemon.questions import NoTurnError, Questions, Race
from icnblocks_daemon.reasons import failure_of
from icnblocks_daemon.records import MISSING
from icnblocks_daemon.refusals import Failures
from icnblocks_daemon.strategies import Failure
from icnblocks_daemon.strategies.standing import MOST_REST_S
from icnblocks_daemon.via import format_via

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from icnblocks.client.http import Connection
    from icnblocks.client.source import RecordAnswer
    from icnblocks.naming import Digest, Name
    from icnblocks.store.base import Store
    from icnblocks_daemon.config import Config
    from icnblocks_daemon.couriers import Desk
    from icnblocks_daemon.fib import Fib, Route
    from icnblocks_daemon.metrics import Metrics
    from icnblocks_daemon.overflow import Overflow
    from icnblocks_daemon.pit import Fetch
    from icnblocks_daemon.strategies import Strategy

S = TypeVar("S")
T = TypeVar("T")
_CONTROL_THREADS: Final = 8
"""For each upstream."""
_TURN_STALLS: Final = 4
"""A question waits for its turn as many `upstream_timeout` as for the answer (client.source)."""
BUSY_S: Final = 1.0
"""A question that a busy upstream was asked is not asked again for so long, or for as long as it
asked for: not everything there need be busy, so others are."""
_PULL_IDLE_S: Final = 30.0
"""After so long without a miss of a model, the next one counts upstream as another request."""
_PULLS: Final = 1024
_SIBLING_STALL_S: Final = 5.0
"""A sibling is near, and there are upstreams to ask instead: also to connect to it."""


_THEIRS: Final = (
    FormatError, RefusedError, ConflictError, UntrustedError, ForeignError, UsageError,
)  # fmt: skip
"""Errors that tell whoever asked what to change: here that is the operator."""


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
        self.strategy = strategy
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
        self.urls = fib.upstreams
        near_s = min(options.stall_s, _SIBLING_STALL_S)
        near = replace(options, token=None, connect_s=near_s, stall_s=near_s)
        self._siblings = {url: Source(url, near) for url in config.sibling}
        self._sources = {url: Source(url, options) for url in fib.upstreams} | self._siblings
        self._near: set[Connection] = set()  # to siblings, with a question under way
        self._couriers: dict[str, Courier] = {}
        self._errors: dict[str, str] = {}
        self._pulls: OrderedDict[tuple[Name | None, Digest], tuple[bytes, float]] = OrderedDict()
        self._busy: Failures[tuple[Route, str]] = Failures(BUSY_S, MISSING)
        self._questions = Questions(
            {url: self._sources[url] for url in fib.upstreams},
            at_once=_CONTROL_THREADS,
            turn_s=_TURN_STALLS * config.upstream_timeout,
        )

    def attach(self, desk: Desk, store: Store, overflow: Overflow) -> None:
        """Say where blocks go and who is told; before the first `begin`."""
        for url, source in self._sources.items():
            self._couriers[url] = Courier(
                source, store, overflow, desk, self._metrics,
                hint=self._engine_hint,
                retry_s=self._config.upstream_retry,
                limit_rate=self._limit_of(url),
                busy_s=self._config.upstream_wait,
                share=self._config.pit,
            )  # fmt: skip

    def _limit_of(self, url: str) -> float | None:
        limits = dict(self._config.upstream_limit)
        return limits.get(url, limits.get(""))

    def set_strategy(self, strategy: Strategy) -> None:
        """Ask another strategy from now on."""
        self.strategy = strategy

    def begin(self, fetch: Fetch) -> None:
        """See Carrier."""
        self._couriers[fetch.upstream].begin(fetch)

    def abandon(self, fetch: Fetch) -> bool:
        """See Carrier."""
        return self._couriers[fetch.upstream].abandon(fetch)

    def overtaken(self, fetch: Fetch) -> None:
        """See Carrier."""
        self._couriers[fetch.upstream].overtaken(fetch)

    def refuse_loop(self, via: frozenset[str], what: str) -> None:
        """Refuse to ask for what was asked of this daemon before, or passed too many.

        To be called before waiting for what is under way: it may be what waits for the answer.

        Raises:
            LoopError: naming `what`.
        """
        if self._node_id in via or len(via) >= MAX_HOPS:
            self._metrics.loop("control", what)
            raise LoopError(f"asking for the {what} went in a circle")

    async def record(
        self,
        route: Route,
        name: Name,
        via: frozenset[str],
        keep: Callable[[RecordAnswer], Awaitable[T]],
    ) -> T:
        """A name's record.

        Args:
            route: whom to ask.
            name: whose record.
            via: ids of the daemons that the question came through.
            keep: takes what an upstream gave, which is neither opened nor believed yet; where it
                raises TrustError or FormatError, the next upstream is asked.

        Returns:
            What `keep` made of it.

        Raises:
            NotFoundError: if every upstream of the route says so.
            SourceError: if none could be asked, or gave an answer that makes sense.
            IcnError: as the upstream that might have had it.
        """
        headers = self._passed_on(via)
        what = f"record of {name}"
        return await self._ask(
            route, what, lambda source: source.record(name, headers=headers), keep
        )

    async def manifest(
        self, route: Route, digest: Digest, name: Name | None, via: frozenset[str] = frozenset()
    ) -> bytes:
        """A manifest's bytes, hashed.

        Raises:
            NotFoundError, IcnError: as `record`.
        """
        headers = self._passed_on(via)
        if name is not None:
            headers[NAME_HEADER] = str(name)

        async def keep(data: bytes) -> bytes:
            return data

        return await self._ask(
            route,
            f"manifest {digest}",
            lambda source: source.manifest(digest, headers=headers),
            keep,
        )

    def held_by(self, url: str, manifest: Digest, count: int) -> bytes:
        """Which blocks of a manifest a sibling holds: a byte for each; b"" if it does not know it.

        Asks it, so it is for a thread.

        Raises:
            IcnError: if it cannot be asked, or answers nonsense.
        """
        source = self._siblings[url]
        connection = source.connect()
        self._near.add(connection)
        try:
            have = source.have(manifest, count, None, connection, known_only=True)
        finally:
            self._near.discard(connection)
            connection.drop()
        return b"" if have is None else have.flags

    def status(self) -> list[dict[str, Any]]:
        """How each upstream is doing."""
        return [
            {
                "url": url,
                "sibling": url in self._siblings,
                **self._standing(url),
                "last_control_error": self._errors.get(url),
                **courier.status(),
            }
            for url, courier in self._couriers.items()
        ]

    def _standing(self, url: str) -> dict[str, Any]:
        now = self._clock()
        standing = self.strategy.standing(url)
        rate = standing.rate(now)
        return {
            "measured_rate": None if rate is None else round(rate),
            "limit_rate": self._limit_of(url),
            "owed_bytes": standing.owed,
            "found": round(standing.found, 3),
            "resting_s": round(standing.resting(now), 1),
            "demotions": standing.demotions,
            "why": None if standing.why is None else standing.why.value,
        }

    def figures(self) -> Iterator[tuple[str, str, str, float]]:
        """Gauges for /metrics: name, help, upstream, value."""
        now = self._clock()
        for url in self._sources:
            standing = self.strategy.standing(url)
            rate, resting = standing.rate(now) or 0.0, standing.resting(now)
            yield "icn_upstream_rate_bytes", "Bytes a second while it owed some", url, rate
            yield "icn_upstream_owed_bytes", "Asked of it and to come", url, standing.owed
            yield "icn_upstream_resting_seconds", "Passed over for so long", url, resting
            yield "icn_upstream_demotions_total", "Times made to rest", url, standing.demotions

    async def close(self) -> None:
        """Ask nobody any more; cut off what is under way."""
        for source in self._sources.values():
            source.close()
        for connection in self._near.copy():
            connection.abort()
        for courier in self._couriers.values():
            await asyncio.to_thread(courier.close)
        self._questions.close()

    async def _ask(
        self,
        route: Route,
        what: str,
        question: Callable[[Source], S],
        keep: Callable[[S], Awaitable[T]],
    ) -> T:
        """Ask the upstreams of a route in turn until one gives an answer that may be kept.

        While one is slow the next one is asked as well; who was slow and overtaken rests. What a
        busy one was asked for in vain is not asked for again before it said.
        """
        worst: IcnError | None = None
        self._busy.check((route, what), self._clock())
        async with Race[S]() as race:
            while (told := await self._next(route, race, question)) is not None:
                url, answer = told
                try:
                    kept = await keep(answer.result())
                except StorageError:
                    raise  # that is ours
                except NotFoundError:
                    # In words of our own, or each daemon on the way would put its line before it.
                    worst = worst or NotFoundError(f"no {what} here or upstream")
                    self.strategy.answered(url, self._clock())
                except IcnError as error:
                    if worst is None or isinstance(worst, NotFoundError):
                        worst = _told(error, what)  # it could not be asked, and might have had it
                    self._note_failure(url, error)
                else:
                    self.strategy.answered(url, self._clock())
                    for overtaken in race.slow:
                        self.strategy.failed(overtaken, Failure.SLOW, self._clock())
                    return kept
        if isinstance(worst, ThrottledError):
            for_s = min(worst.after_s, MOST_REST_S)
            self._busy.note((route, what), worst, self._clock(), for_s)
        raise worst or SourceError("there is no upstream to ask")

    async def _next(
        self, route: Route, race: Race[S], question: Callable[[Source], S]
    ) -> tuple[str, asyncio.Task[S]] | None:
        """What an upstream answers that none has before; None if all of the route have."""
        while True:
            url = self.strategy.choose(route, race.asked, self._clock())
            if url is not None:
                turn = self._questions.turn(url)
                race.begin(url, self._questions.ask(url, question, turn), turn)
            elif not race.waiting:
                return None
            told = await race.next(None if url is None else SLOW_S)
            if told is not None:
                return told

    def _note_failure(self, url: str, error: IcnError) -> None:
        self._errors[url] = str(error)
        self._metrics.upstream_errors.labels(url, error.code).inc()
        # An upstream may have other things that are to be believed, and time for other questions;
        # and of what cannot be asked it has not heard.
        ours = UsageError | NoTurnError
        if not isinstance(error, RefusedError | LoopError | TrustError | ours):
            least_s = error.after_s if isinstance(error, ThrottledError) else 0.0
            self.strategy.failed(url, failure_of(error), self._clock(), least_s=least_s)

    def _engine_hint(self, fetch: Fetch) -> EngineHint:
        """What the upstream is told: the requester's hint, one hop on, and this daemon's id."""
        hint = fetch.hint if isinstance(fetch.hint, Hint) else Hint()
        if fetch.upstream in self._siblings:  # which shall not count it as its own demand
            via = self._passed_on(hint.via)[VIA_HEADER]
            return EngineHint(
                hint.name, None, NO_PULL, HERE_ONLY, via, hint.priority, hint.order, hint.doubt
            )
        return EngineHint(
            hint.name, hint.manifest, self._pull_of(hint), hint.hops + 1,
            self._passed_on(hint.via)[VIA_HEADER], hint.priority, hint.order, hint.doubt,
        )  # fmt: skip

    def _passed_on(self, via: frozenset[str]) -> dict[str, str]:
        return {VIA_HEADER: format_via(via | {self._node_id})}

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


def _told(error: IcnError, what: str) -> IcnError:
    """An upstream's failure, as whoever asked here is told: it is no mistake of theirs."""
    if not isinstance(error, _THEIRS):
        return error
    return SourceError(
        f"no {what} from upstream: {error}",
        hint="try again later; the operator of this daemon must see to its upstream",
    )
