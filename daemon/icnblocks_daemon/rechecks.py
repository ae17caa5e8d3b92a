"""Stored blocks that are under suspicion: hashed again at once, and erased if they have rotted.

Somebody could not be sent one whole, or says that its bytes were wrong. Blocks in place are not
looked at: their files tell when they were changed. This module must not send or fetch anything.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final

from icnblocks.limits import MIB
from icnblocks_daemon.scrub import erased_if_rotten

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable

    from icnblocks.cache.content_store import ContentStore
    from icnblocks.naming import Digest
    from icnblocks.wire.bundle import Want
    from icnblocks_daemon.metrics import Metrics

_LOG = logging.getLogger(__name__)
DOUBTS: Final = 2
"""So many doubting bundles are looked into at a time; the others are answered as any: anybody may
doubt, and hashing takes a core."""
DOUBTED_BYTES: Final = 64 * MIB
"""Of one bundle. Whoever asks for more has not met them one by one."""


class Rechecks:
    """Looks into the blocks of one daemon.

    Args:
        content: where they lie.
        metrics: counts what had rotted.
        replaceable: whether blocks can be fetched again.
    """

    def __init__(self, content: ContentStore, metrics: Metrics, *, replaceable: bool) -> None:
        self._content = content
        self._metrics = metrics
        self._replaceable = replaceable
        self._tasks: set[asyncio.Task[object]] = set()
        self._doubts = 0

    async def recheck(self, digest: Digest) -> bool:
        """A stored block may be rotten, or cut short: whether it was, and is erased."""
        return digest in self._content.store and await erased_if_rotten(
            self._content, digest, self._metrics, replaceable=self._replaceable
        )

    def suspect(self, digest: Digest) -> None:
        """Recheck a block that could not be sent whole; whoever wanted it is cut off by now."""
        self._begin(self.recheck(digest))

    async def doubted(self, wants: Iterable[Want]) -> None:
        """Who asks for these says that they came from here with wrong bytes. Look, then return.

        Once begun it is done to its end, and counts until then, also if the caller is cancelled:
        a thread that hashes does not stop.
        """
        if self._doubts < DOUBTS:
            self._doubts += 1
            await asyncio.shield(self._begin(self._look_into(wants)))

    async def _look_into(self, wants: Iterable[Want]) -> None:
        left = DOUBTED_BYTES
        try:
            for want in wants:
                left -= self._content.store.length(want.digest) or 0  # anybody may say any other
                if left < 0:
                    break
                await self.recheck(want.digest)
        finally:
            self._doubts -= 1

    async def close(self) -> None:
        """Wait for what is being looked into."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _begin(self, work: Coroutine[Any, Any, object]) -> asyncio.Task[object]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._rechecked)
        return task

    def _rechecked(self, task: asyncio.Task[object]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _LOG.error("a block could not be rechecked: %s", error)
