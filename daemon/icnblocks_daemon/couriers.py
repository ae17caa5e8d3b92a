"""Couriers: one for each upstream, an engine whose threads fetch blocks into the store.

A block is verified by the engine and put into the store on the engine's thread, so that a slow
disk holds back the network and not the loop; the loop hears of it afterwards. Everything else
here happens on the loop. This module must not decide whom to ask.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

from icnblocks.client.engine import Engine, EngineOptions
from icnblocks.client.engine import Hint as EngineHint
from icnblocks.client.events import Demoted, Event, Received, Waste, Wasted
from icnblocks.client.scheduler import RetryOptions
from icnblocks.errors import IcnError, SourceError, StorageError
from icnblocks.wire.bundle import Want
from icnblocks_daemon.forwarder import HEDGE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from icnblocks.client.source import Source
    from icnblocks.naming import Digest
    from icnblocks.store.base import Store, Verified
    from icnblocks_daemon.metrics import Metrics
    from icnblocks_daemon.overflow import Overflow
    from icnblocks_daemon.pit import Fetch

_LOG = logging.getLogger(__name__)
_HEDGED: Final = 4096
CONNECTIONS: Final = 8
"""To each upstream, for blocks, when it is asked for so many models."""
MODEL_CONNECTIONS: Final = 2
"""For those of one model: the upstream may be waiting for it, while it has others."""


class Desk(Protocol):
    """Whom a courier reports to, on the loop: the forwarder."""

    def landed(self, fetch: Fetch) -> None:
        """It is verified and in the store."""
        ...

    def refused(self, fetch: Fetch, error: IcnError) -> None:
        """The upstream did not give it."""
        ...

    def passed(self, fetch: Fetch, error: IcnError) -> None:
        """It came, the store would not take it, and it is in memory for those who wait."""
        ...

    def unstored(self, fetch: Fetch, error: IcnError) -> None:
        """It came, and neither the store nor memory would take it."""
        ...

    def faltered(self, upstream: str, error: IcnError, wait_s: float) -> None:
        """The upstream failed, and is left alone for `wait_s`; what it was asked for may come."""
        ...


class Courier:
    """Fetches from one upstream. Made on the running loop.

    Args:
        source: the upstream; stays the caller's to close.
        store: where blocks are put.
        overflow: where those are put that the store would not take.
        desk: told how it went.
        metrics: counts payload.
        hint: makes of a fetch what the upstream is told about it.
        retry_s: seconds of failures after which pending blocks are refused.
        busy_s: the same while the upstream says that it is busy.
        share: False fetches a block once for each fetch of it, one after the other.
        limit_rate: bytes a second that are read at most; None for no limit.
    """

    def __init__(
        self,
        source: Source,
        store: Store,
        overflow: Overflow,
        desk: Desk,
        metrics: Metrics,
        *,
        hint: Callable[[Fetch], EngineHint],
        retry_s: float,
        busy_s: float,
        share: bool,
        limit_rate: float | None = None,
    ) -> None:
        self._url = source.url
        self._store = store
        self._overflow = overflow
        self._desk = desk
        self._metrics = metrics
        self._hint = hint
        self._share = share
        self._loop = asyncio.get_running_loop()
        self._wanted: dict[Digest, list[Fetch]] = {}
        self._batch: dict[Digest, Fetch] = {}
        self._hedged: OrderedDict[Digest, None] = OrderedDict()  # given up, since others gave it
        self._ended_by_hedge = False
        retry = RetryOptions(busy_s=busy_s, passes_on=True, hint_lanes=MODEL_CONNECTIONS)
        # An engine has half of its connections with one source.
        options = EngineOptions(2 * CONNECTIONS, retry_s, retry, limit_rate=limit_rate)
        self._make = partial(Engine, [source], self, options, self._heard)
        self._engine = self._begin_engine()
        self._mending: asyncio.Task[None] | None = None

    def begin(self, fetch: Fetch) -> None:
        """Fetch this; the desk is told later, never from within this call."""
        fetches = self._wanted.setdefault(fetch.digest, [])
        fetches.append(fetch)
        if len(fetches) == 1:
            self._order(fetch)

    def overtaken(self, fetch: Fetch) -> None:
        """Another upstream gave it: what still comes of it came twice."""
        self._hedged[fetch.digest] = None
        if len(self._hedged) > _HEDGED:
            self._hedged.popitem(last=False)

    def abandon(self, fetch: Fetch) -> bool:
        """Fetch it no more; False if it is too late and the desk will be told all the same."""
        digest = fetch.digest
        self._ended_by_hedge = digest in self._hedged
        fetches = self._wanted.get(digest, [])
        if fetch not in fetches:
            return True
        if len(fetches) == 1:
            if digest in self._batch:
                del self._batch[digest]
            elif digest not in self._engine.cancel([digest]):
                return False
            del self._wanted[digest]
        else:
            fetches.remove(fetch)
        return True

    def status(self) -> dict[str, Any]:
        """How the upstream is doing, for /v1/status."""
        (state,) = self._engine.status()
        return {
            "health": state.health.name.lower(),
            "wait_s": round(state.wait_s, 1),
            "rate": round(state.rate),
            "received_bytes": state.received_bytes,
            "failures": state.failures,
            "last_error": state.last_error,
            "pending": len(self._wanted),
        }

    def close(self) -> None:
        """Cut off what is under way and wait for the threads. Blocks: not for the loop."""
        self._engine.close()

    # --- on the loop --------------------------------------------------------------------------

    def _order(self, fetch: Fetch) -> None:
        if not self._batch:
            self._loop.call_soon(self._send_batch)
        self._batch[fetch.digest] = fetch

    def _send_batch(self) -> None:
        """What was wanted in one round of the loop goes to the engine together."""
        batch, self._batch = self._batch, {}
        by_hint: dict[EngineHint, list[Want]] = {}
        for fetch in batch.values():
            want = Want(fetch.digest, fetch.length)
            by_hint.setdefault(self._hint(fetch), []).append(want)
        for hint, wants in by_hint.items():
            try:
                self._engine.add(wants, hint)
            except IcnError as error:
                for want in wants:
                    self._refused(want.digest, error)
            except RuntimeError as error:  # the system has no threads left
                self._broke(self._engine, error)

    def _take(self, digest: Digest, *, share: bool) -> list[Fetch]:
        """The fetches that an outcome is for: all, or the one that was asked for."""
        fetches = self._wanted.pop(digest, [])
        if not share and len(fetches) > 1:
            self._wanted[digest] = fetches[1:]
            self._order(fetches[1])
            return fetches[:1]
        return fetches

    def _stored(self, digests: Sequence[Digest]) -> None:
        for digest in digests:
            for fetch in self._take(digest, share=self._share):
                self._desk.landed(fetch)

    def _passed(self, digest: Digest, error: IcnError) -> None:
        for fetch in self._take(digest, share=self._share):
            self._desk.passed(fetch, error)

    def _unstored(self, digest: Digest, error: IcnError) -> None:
        for fetch in self._take(digest, share=self._share):
            self._desk.unstored(fetch, error)

    def _refused(self, digest: Digest, error: IcnError) -> None:
        # Of what was given up too late: who asks now may do so under another name, or length.
        for fetch in self._take(digest, share=False):
            self._desk.refused(fetch, error)

    async def _mend(self, error: SourceError) -> None:
        """Begin anew with another engine. Nobody is left waiting for what the old one had."""
        try:
            await asyncio.to_thread(self._engine.close)
        except RuntimeError:  # no thread to be had for that either
            self._engine.close()
        self._engine = self._begin_engine()
        self._mending = None
        for digest in self._wanted.keys() - self._batch.keys():
            self._refused(digest, error)

    def _begin_mending(self, engine: Engine, error: SourceError) -> None:
        if engine is self._engine and self._mending is None:  # it may break more than once
            self._mending = self._loop.create_task(self._mend(error))

    def _begin_engine(self) -> Engine:
        engine: Engine = self._make(failed=lambda failure: self._broke(engine, failure))
        return engine

    # --- on the engine's threads --------------------------------------------------------------

    def _broke(self, engine: Engine, failure: BaseException) -> None:
        """A fault of ours, not of the upstream. May be called from any thread."""
        _LOG.error("fetching broke off, and begins anew", exc_info=failure)
        error = SourceError(f"fetching from {self._url} broke off")
        self._tell(self._begin_mending, engine, error)

    def accept(self, blocks: Sequence[Verified]) -> None:
        """See Sink: the bytes are verified; put them into the store. Must not raise."""
        stored = [block.digest for block in blocks if self._put(block)]
        if stored:
            self._tell(self._stored, stored)

    def _put(self, block: Verified) -> bool:
        try:
            self._store.put(block)
        except IcnError as error:
            self._pass(block, error)
        except Exception as error:
            _LOG.exception("a block could not be stored")
            self._pass(block, StorageError(f"{error}"))
        else:
            return True
        return False

    def _pass(self, block: Verified, error: IcnError) -> None:
        kept = self._overflow.put(block)
        self._tell(self._passed if kept else self._unstored, block.digest, error)

    def refuse(self, want: Want, error: IcnError) -> None:
        """See Sink."""
        self._tell(self._refused, want.digest, error)

    def _tell(self, report: Callable[..., None], *args: object) -> None:
        try:
            self._loop.call_soon_threadsafe(report, *args)
        except RuntimeError:
            _LOG.debug("a block came after the end of the loop")

    def _heard(self, event: Event) -> None:
        if isinstance(event, Received):
            self._metrics.upstream_bytes.labels(self._url).inc(event.length)
            self._metrics.upstream_blocks.labels(self._url).inc()
        elif isinstance(event, Wasted):
            self._metrics.refetched.labels(self._cause(event)).inc(event.length)
        elif isinstance(event, Demoted):
            self._tell(self._desk.faltered, self._url, event.error, event.wait_s)
            self._metrics.upstream_errors.labels(self._url, event.error.code).inc()
            _LOG.warning(
                "an upstream failed: %s", event.error,
                extra={"upstream": self._url, "wait_s": round(event.wait_s, 1)},
            )  # fmt: skip

    def _cause(self, event: Wasted) -> str:
        """Why a block came in vain: one that was cancelled may be one that another gave."""
        if event.cause is not Waste.CANCELLED:
            return event.cause.value
        if event.digest is None:  # a part of the one that was given up last, as a rule
            return HEDGE if self._ended_by_hedge else event.cause.value
        return HEDGE if event.digest in self._hedged else event.cause.value
