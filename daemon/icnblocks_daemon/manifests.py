"""Manifests at a daemon: those it was given, and those it fetched from upstream, within a budget.

A manifest is fetched once however many ask, hashed, validated, and told to the content store's
policy. One that was published here stays; of the fetched ones the longest unused leave first.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from typing import TYPE_CHECKING

from icnblocks.errors import CorruptError, NotFoundError
from icnblocks.manifest.codec import decode, digest_of
from icnblocks_daemon.coalesce import Coalesced

if TYPE_CHECKING:
    from icnblocks.manifest.model import Manifest
    from icnblocks.naming import Digest, Name
    from icnblocks.store.catalog import Catalog
    from icnblocks_daemon.fib import Fib, Route
    from icnblocks_daemon.holdings import Holdings
    from icnblocks_daemon.uploads import Uploads
    from icnblocks_daemon.upstreams import Upstreams

_LOG = logging.getLogger(__name__)


class Manifests:
    """Gives, takes and fetches manifests.

    Args:
        catalog: where they are kept.
        holdings: whose content store learns them.
        uploads: told which blocks are named.
        fib: where to ask.
        upstreams: who asks.
        capacity: bytes that fetched ones may take together.
    """

    def __init__(
        self,
        catalog: Catalog,
        holdings: Holdings,
        uploads: Uploads,
        fib: Fib,
        upstreams: Upstreams,
        *,
        capacity: int,
    ) -> None:
        self._catalog = catalog
        self._holdings = holdings
        self._uploads = uploads
        self._fib = fib
        self._upstreams = upstreams
        self._capacity = capacity
        self._sizes: OrderedDict[Digest, int] = OrderedDict()  # least recently used first
        self._bytes = 0
        self._own: set[Digest] = set()
        for digest, size in catalog.manifests():
            self._count(digest, size)
        self._fetches: Coalesced[Digest, bytes] = Coalesced()

    @property
    def cached_bytes(self) -> int:
        """Bytes of manifests that are kept."""
        return self._bytes

    def __len__(self) -> int:
        """How many are kept."""
        return len(self._sizes)

    def keep(self, digest: Digest) -> None:
        """This one was published here: it stays whatever the budget."""
        self._own.add(digest)

    async def get(self, digest: Digest, name: Name | None) -> bytes:
        """A manifest's bytes, from here or from upstream.

        Raises:
            NotFoundError: if neither has it.
            SourceError: if no upstream could be asked.
        """
        data = await asyncio.to_thread(self._catalog.manifest, digest)
        if data is not None:
            if digest in self._sizes:
                self._sizes.move_to_end(digest)
            return data
        route = self._fib.route(name)
        if not route:
            raise NotFoundError(f"no manifest {digest} here")
        return await self._fetches.do(digest, lambda: self._fetch(digest, route, name))

    async def put(self, digest: Digest, data: bytes) -> Manifest:
        """Take one from a publisher; it is on disk when this returns.

        Raises:
            CorruptError: if it has another digest.
            FormatError: if it is not a valid manifest.
            StorageError: if the disk refuses.
        """
        manifest = await self._store(digest, data)
        self._own.add(digest)
        named = await asyncio.to_thread(manifest.lengths)
        self._uploads.named(named)
        if self._holdings.evicts:
            self._holdings.content.pin(digest, named)
        return manifest

    async def _fetch(self, digest: Digest, route: Route, name: Name | None) -> bytes:
        data = await self._upstreams.manifest(route, digest, name)
        await self._store(digest, data)
        await self._shrink(digest)
        return data

    async def _store(self, digest: Digest, data: bytes) -> Manifest:
        def work() -> Manifest:
            if digest_of(data) != digest:
                raise CorruptError(f"the manifest does not match its digest {digest}")
            manifest = decode(data)
            self._catalog.put_manifest(digest, data)
            return manifest

        manifest = await asyncio.to_thread(work)
        self._count(digest, len(data))
        self._holdings.content.learn(digest, manifest)
        return manifest

    def _count(self, digest: Digest, size: int) -> None:
        if digest not in self._sizes:
            self._sizes[digest] = size
            self._bytes += size

    async def _shrink(self, spared: Digest) -> None:
        """Let the longest unused go until the budget holds."""
        for digest in list(self._sizes):
            if self._bytes <= self._capacity:
                return
            if digest == spared or digest in self._own:
                continue
            self._bytes -= self._sizes.pop(digest)
            self._holdings.content.forget(digest)
            await asyncio.to_thread(self._catalog.remove_manifest, digest)
