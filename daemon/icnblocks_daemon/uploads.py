"""Blocks on their way in from publishers: put together, verified, kept until a manifest names them.

What no manifest names is erased after a while. An upload that is being put together lives in
bounded memory. This module must not decide who may upload.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from icnblocks.errors import IcnError, StorageError
from icnblocks.manifest.codec import decode
from icnblocks.wire.upload import Parts, unpack_parts
from icnblocks_daemon.fair_turns import FairTurns
from icnblocks_daemon.holdings import shielded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from icnblocks.naming import Digest
    from icnblocks.store.catalog import Catalog
    from icnblocks_daemon.holdings import Holdings
    from icnblocks_daemon.metrics import Metrics
    from icnblocks_daemon.prefixes import Prefixes

_LOG = logging.getLogger(__name__)
AT_ONCE: Final = 16
"""Bodies of writers that are in memory at once; half of them of one client, while it is alone."""


class Uploads:
    """Takes uploaded blocks into the store.

    Args:
        holdings: where they go.
        catalog: the manifests that may name them.
        metrics: counts bytes and expiries.
        ttl_s: how long a block may lie there unnamed.
        clock: seconds that never go backward.
    """

    def __init__(
        self,
        holdings: Holdings,
        catalog: Catalog,
        metrics: Metrics,
        *,
        ttl_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._holdings = holdings
        self._catalog = catalog
        self._metrics = metrics
        self._ttl_s = ttl_s
        self._clock = clock
        self._parts = Parts()
        self._unnamed: dict[Digest, float] = {}  # when it came
        self.bodies = FairTurns(AT_ONCE)
        """A turn of it is to be held while a writer's body is in memory."""

    @property
    def unnamed(self) -> int:
        """Blocks that no manifest names yet."""
        return len(self._unnamed)

    @property
    def open_parts(self) -> int:
        """Blocks of which parts are still to come."""
        return len(self._parts)

    async def take(self, body: bytes) -> int:
        """Take a body of parts; what came whole is verified and on disk when this returns.

        Returns:
            How many blocks that were.

        Raises:
            FormatError: if the body is not of parts.
            CorruptError: if a block is not what its digest says.
            BusyError: if too many unfinished blocks are in memory.
            StorageError: if there is no room.
        """
        stored = 0
        for part in unpack_parts(body):
            # In place does not count: who sends it was told that what lies there cannot be served.
            if part.digest in self._holdings.content.store:
                self._parts.drop(part.digest)  # somebody else brought it, or this is a repeat
                continue
            block = self._parts.add(part, self._clock())
            if block is None:
                continue
            stored += 1
            # Stored and noted, whoever leaves: what is not noted is never erased.
            await shielded(self._take_in(part.digest, block))
        if stored:
            await self._holdings.flush()
        return stored

    async def _take_in(self, digest: Digest, block: bytes | bytearray | memoryview) -> None:
        await self._holdings.put(digest, block)
        self._metrics.uploaded_bytes.inc(len(block))
        self._note(digest)

    def named(self, digests: Iterable[Digest]) -> None:
        """A manifest names these: they stay."""
        for digest in digests:
            if self._unnamed.pop(digest, None) is not None:
                self._unpin(digest)

    def touch(self, digests: Iterable[Digest]) -> None:
        """A publisher counts on these: if nobody names them yet, their time begins anew."""
        now = self._clock()
        for digest in digests:
            if digest in self._unnamed:
                self._unnamed[digest] = now

    async def expire(self) -> int:
        """Erase what nobody named for too long.

        Returns:
            How many blocks that was.

        Raises:
            StorageError: if a manifest cannot be read, and so nobody knows what it names.
        """
        now = self._clock()
        self._parts.expire(now)
        old = [digest for digest, came in self._unnamed.items() if now - came > self._ttl_s]
        if not old:
            return 0
        named = await asyncio.to_thread(self._named_by_catalog)
        erased = 0
        for digest in old:
            came = self._unnamed.get(digest)
            if came is None or now - came <= self._ttl_s:  # named, or asked for, meanwhile
                continue
            del self._unnamed[digest]
            self._unpin(digest)
            if digest not in named:
                erased += self._erase(digest)
        return erased

    async def find_unnamed(self) -> None:
        """After a start: whatever the store holds and no manifest names counts as new now."""
        for digest in await asyncio.to_thread(self._orphans):
            self._note(digest)

    def _orphans(self) -> list[Digest]:
        named = self._named_by_catalog()
        blocks = self._holdings.content.store.blocks()
        return [digest for digest, _ in blocks if digest not in named]

    def _named_by_catalog(self) -> Prefixes:
        from icnblocks_daemon.prefixes import Prefixes  # brings numpy, which an edge never needs

        found = Prefixes()
        for manifest, _ in self._catalog.manifests():
            data = self._catalog.manifest(manifest)
            if data is None:
                if manifest not in dict(self._catalog.manifests()):  # it left meanwhile
                    continue
                raise StorageError(
                    f"manifest {manifest} cannot be read, so nothing is erased",
                    hint="publish the model again",
                )
            found.add(decode(data).digests)
        return found

    def _note(self, digest: Digest) -> None:
        if digest not in self._unnamed:
            self._unnamed[digest] = self._clock()
            if self._holdings.evicts:
                self._holdings.content.pin(digest, [digest])

    def _unpin(self, digest: Digest) -> None:
        if self._holdings.evicts:
            self._holdings.content.unpin(digest)

    def _erase(self, digest: Digest) -> int:
        try:
            if not self._holdings.content.discard(digest):
                return 0  # it is being brought again, and noted then
        except IcnError as error:
            _LOG.warning("cannot erase an upload that nobody named: %s", error)
            return 0
        self._metrics.expired_uploads.inc()
        return 1
