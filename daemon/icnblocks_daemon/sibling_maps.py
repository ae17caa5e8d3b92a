"""Asks siblings what they hold of a model that is asked for here, briefly and off the loop.

This module must not decide whom to ask for a block: the forwarder does, by what is found here.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from icnblocks.cache.planning import Priced
from icnblocks.errors import IcnError
from icnblocks_daemon.coalesce import Coalesced
from icnblocks_daemon.reasons import failure_of
from icnblocks_daemon.strategies import Failure

if TYPE_CHECKING:
    from collections.abc import Callable

    from icnblocks.manifest.model import Manifest
    from icnblocks.naming import Digest
    from icnblocks_daemon.holdings import Holdings
    from icnblocks_daemon.siblings import Siblings
    from icnblocks_daemon.strategies import Strategy
    from icnblocks_daemon.upstreams import Upstreams

_LOG = logging.getLogger(__name__)
_AT_ONCE: Final = 4
"""Questions to one sibling: those beyond wait for their turn, and hold up no other sibling's."""
_OWN_THREADS: Final = 2
"""For what is to be computed here."""
_MAP_S: Final = 5.0
"""So long a question waits for its turn, and then for the answer, which is of use also if nobody
waits for it any more."""


class SiblingMaps:
    """Keeps `Siblings` up to date.

    Args:
        siblings: told what the siblings say.
        upstreams: asks them.
        holdings: whose policy is told what a miss of a model costs.
        recall: a manifest that is here, or None. Called on a thread.
        wait_s: how long a bundle waits for the answers.
        clock: seconds that never go backward.
    """

    def __init__(
        self,
        siblings: Siblings,
        upstreams: Upstreams,
        holdings: Holdings,
        recall: Callable[[Digest], Manifest | None],
        *,
        wait_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._siblings = siblings
        self._upstreams = upstreams
        self._holdings = holdings
        self._recall = recall
        self._wait_s = wait_s
        self._clock = clock
        self._looks: Coalesced[Digest, None] = Coalesced()
        self._lines = {url: asyncio.Semaphore(_AT_ONCE) for url in siblings.urls}
        self._threads: ThreadPoolExecutor | None = None
        if siblings.urls:
            most = _AT_ONCE * len(siblings.urls) + _OWN_THREADS
            self._threads = ThreadPoolExecutor(most, "icn-sibling")

    async def look(self, manifest: Digest) -> None:
        """See to it that it is known what siblings hold of a model; returns soon, known or not."""
        if not self._siblings.is_due(manifest, self._clock()):
            return
        try:
            await self._looks.do(manifest, lambda: self._look(manifest), patience_s=self._wait_s)
        except TimeoutError:
            _LOG.debug("siblings are slow to say what they hold")
        except IcnError as error:  # the upstreams have it all the same
            _LOG.warning("siblings cannot be asked what they hold: %s", error)

    async def _look(self, manifest: Digest) -> None:
        loop = asyncio.get_running_loop()
        lengths = await loop.run_in_executor(self._threads, self._lengths, manifest)
        if lengths is None:
            return
        able = [url for url in self._siblings.urls if not self._rests(url)]
        async with asyncio.TaskGroup() as group:
            asked = {
                url: group.create_task(self._flags(url, manifest, len(lengths))) for url in able
            }
        flags = {url: task.result() for url, task in asked.items()}
        self._siblings.told(manifest, list(lengths), flags, self._clock())
        await self._price(manifest, lengths)

    def _lengths(self, manifest: Digest) -> dict[Digest, int] | None:
        known = self._recall(manifest)
        return None if known is None else dict(known.lengths())

    def _rests(self, url: str) -> bool:
        return self._upstreams.strategy.resting(url, self._clock()) > 0

    async def _flags(self, url: str, manifest: Digest, count: int) -> bytes:
        """What a sibling says; b"" if it cannot be asked, or has too many questions already."""
        line = self._lines[url]
        try:
            async with asyncio.timeout(_MAP_S):
                await line.acquire()
        except TimeoutError:
            return b""
        if self._rests(url):  # since one of those before has failed
            line.release()
            return b""
        job = asyncio.get_running_loop().run_in_executor(
            self._threads, self._upstreams.held_by, url, manifest, count
        )

        def ended(job: asyncio.Future[bytes]) -> None:
            line.release()  # its thread was taken until now
            if not job.cancelled():
                job.exception()  # read here: whoever asked may have left

        job.add_done_callback(ended)
        try:
            async with asyncio.timeout(_MAP_S):
                return await asyncio.shield(job)
        except (IcnError, TimeoutError) as error:
            _LOG.warning("a sibling does not say what it holds: %s", error, extra={"sibling": url})
            kind = failure_of(error) if isinstance(error, IcnError) else Failure.BROKEN
            self._upstreams.strategy.failed(url, kind, self._clock())
            return b""

    async def _price(self, manifest: Digest, lengths: dict[Digest, int]) -> None:
        """Tell the policy what a miss would cost: less, where a sibling has it and is faster."""
        if not isinstance(self._holdings.content.policy, Priced):
            return
        loop, now = asyncio.get_running_loop(), self._clock()
        rates = self._rates(self._siblings.urls, self._upstreams.strategy, now)
        far = self._rates(self._upstreams.urls, self._upstreams.strategy, now)
        price = await loop.run_in_executor(
            self._threads, self._siblings.price,
            manifest, lengths, rates, max(far.values(), default=0.0),
        )  # fmt: skip
        policy = self._holdings.content.policy
        if isinstance(policy, Priced):  # it may be another one by now
            policy.priced(manifest, price, self._clock())

    @staticmethod
    def _rates(urls: tuple[str, ...], strategy: Strategy, now: float) -> dict[str, float]:
        return {url: rate for url in urls if (rate := strategy.standing(url).rate(now))}

    async def close(self) -> None:
        """Ask nobody any more."""
        await self._looks.close()
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
