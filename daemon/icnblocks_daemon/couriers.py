"""Couriers: one for each upstream, an engine whose threads fetch blocks into the store.

A block is verified by the engine and put into the store on the engine's thread, so that a slow
disk holds back the network and not the loop; the loop hears of it afterwards. Everything else
here happens on the loop. This module must not decide whom to ask.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final, Protocol

from icnblocks.client.engine import Engine, EngineOptions
from icnblocks.client.engine import Hint as EngineHint
from icnblocks.client.events import Demoted, Event, Received, Wasted
from icnblocks.client.scheduler import RetryOptions
from icnblocks.errors import IcnError, StorageError
from icnblocks.wire.bundle import Want

if TYPE_CHECKING:
    from collections.abc import Callable

    from icnblocks.client.source import Source
    from icnblocks.naming import Digest
    from icnblocks.store.base import Store, Verified
    from icnblocks_daemon.metrics import Metrics
    from icnblocks_daemon.pit import Fetch

_LOG = logging.getLogger(__name__)
CONNECTIONS: Final = 2
"""To each upstream, for blocks."""


class Desk(Protocol):
    """Whom a courier reports to, on the loop: the forwarder."""

    def landed(self, fetch: Fetch) -> None:
        """It is verified and in the store."""
        ...

    def refused(self, fetch: Fetch, error: IcnError) -> None:
        """The upstream did not give it."""
        ...

    def unstored(self, fetch: Fetch, error: IcnError) -> None:
        """It came, and the store would not take it."""
        ...


class Courier:
    """Fetches from one upstream. Made on the running loop.

    Args:
        source: the upstream; stays the caller's to close.
        store: where blocks are put.
        desk: told how it went.
        metrics: counts payload.
        hint: makes of a fetch what the upstream is told about it.
        retry_s: seconds of failures after which pending blocks are refused.
        busy_s: the same while the upstream says that it is busy.
        share: False fetches a block once for each fetch of it, one after the other.
    """

    def __init__(
        self,
        source: Source,
        store: Store,
        desk: Desk,
        metrics: Metrics,
        *,
        hint: Callable[[Fetch], EngineHint],
        retry_s: float,
        busy_s: float,
        share: bool,
    ) -> None:
        self._url = source.url
        self._store = store
        self._desk = desk
        self._metrics = metrics
        self._hint = hint
        self._share = share
        self._loop = asyncio.get_running_loop()
        self._wanted: dict[Digest, list[Fetch]] = {}
        self._batch: dict[Digest, Fetch] = {}
        options = EngineOptions(CONNECTIONS, retry_s, RetryOptions(busy_s=busy_s))
        self._engine = Engine([source], self, options, self._heard)

    def begin(self, fetch: Fetch) -> None:
        """Fetch this; the desk is told later, never from within this call."""
        fetches = self._wanted.setdefault(fetch.digest, [])
        fetches.append(fetch)
        if len(fetches) == 1:
            self._order(fetch)

    def abandon(self, fetch: Fetch) -> bool:
        """Fetch it no more; False if it is too late and the desk will be told all the same."""
        digest = fetch.digest
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

    def _take(self, digest: Digest) -> list[Fetch]:
        """The fetches that an outcome is for."""
        fetches = self._wanted.pop(digest, [])
        if not self._share and len(fetches) > 1:
            self._wanted[digest] = fetches[1:]
            self._order(fetches[1])
            return fetches[:1]
        return fetches

    def _stored(self, digest: Digest) -> None:
        for fetch in self._take(digest):
            self._desk.landed(fetch)

    def _unstored(self, digest: Digest, error: IcnError) -> None:
        for fetch in self._take(digest):
            self._desk.unstored(fetch, error)

    def _refused(self, digest: Digest, error: IcnError) -> None:
        for fetch in self._take(digest):
            self._desk.refused(fetch, error)

    # --- on the engine's threads --------------------------------------------------------------

    def accept(self, want: Want, block: Verified) -> None:
        """See Sink: the bytes are verified; put them into the store. Must not raise."""
        try:
            self._store.put(block)
        except IcnError as error:
            self._tell(self._unstored, want.digest, error)
        except Exception as error:
            _LOG.exception("a block could not be stored")
            self._tell(self._unstored, want.digest, StorageError(f"{error}"))
        else:
            self._tell(self._stored, want.digest)

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
            self._metrics.refetched.labels(event.cause.value).inc(event.length)
        elif isinstance(event, Demoted):
            self._metrics.upstream_errors.labels(self._url, event.error.code).inc()
            _LOG.warning(
                "an upstream failed: %s", event.error,
                extra={"upstream": self._url, "wait_s": round(event.wait_s, 1)},
            )  # fmt: skip
