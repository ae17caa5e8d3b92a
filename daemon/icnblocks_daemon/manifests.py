"""Manifests at a daemon: those it was given, and those it fetched from upstream, within a budget.

A manifest is fetched once however many ask by the same name, hashed, validated, and told to the
content store's policy; that one asks by a wrong name concerns nobody who asks by another. One that
was published here stays; of the fetched ones the longest unused leave first.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from icnblocks.errors import CorruptError, FormatError, LoopError, NotFoundError, StorageError
from icnblocks.manifest.codec import decode, digest_of
from icnblocks_daemon.coalesce import Coalesced
from icnblocks_daemon.floods import Flood
from icnblocks_daemon.holdings import shielded
from icnblocks_daemon.records import MISSING
from icnblocks_daemon.refusals import Failures

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from icnblocks.manifest.model import Manifest
    from icnblocks.naming import Digest, Name
    from icnblocks.store.catalog import Catalog
    from icnblocks_daemon.fib import Fib, Route
    from icnblocks_daemon.holdings import Holdings
    from icnblocks_daemon.uploads import Uploads
    from icnblocks_daemon.upstreams import Upstreams

_LOG = logging.getLogger(__name__)


class Shared:
    """A manifest's bytes, in memory once for all who are being sent them.

    To be kept by each of them for as long as that takes.
    """

    __slots__ = ("__weakref__", "data")

    def __init__(self, data: bytes) -> None:
        self.data = data


class Manifests:
    """Gives, takes and fetches manifests.

    Args:
        catalog: where they are kept.
        holdings: whose content store learns them.
        uploads: told which blocks are named.
        fib: where to ask.
        upstreams: who asks.
        capacity: bytes that fetched ones may take together.
        negative_s: how long it is remembered that no upstream has one; 0 for not at all.
        clock: seconds that never go backward.
        fetched: told of each that came from upstream, with the lengths of its distinct blocks.
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
        negative_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        fetched: Callable[[Digest, Mapping[Digest, int]], None] = lambda *_: None,
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
        self._held: frozenset[Digest] = frozenset()
        self._shrinking = asyncio.Lock()
        for digest, size in catalog.manifests():
            self._count(digest, size)
        self._fetches: Coalesced[tuple[Digest, Name | None, bool], bytes] = Coalesced()
        self._shared: WeakValueDictionary[Digest, Shared] = WeakValueDictionary()
        self._clock = clock
        self._fetched = fetched
        self._missing: Failures[tuple[Digest, Name | None]] = Failures(negative_s, MISSING)
        self._unstored, self._unremoved = Flood(clock), Flood(clock)

    @property
    def cached_bytes(self) -> int:
        """Bytes of manifests that are kept."""
        return self._bytes

    def __len__(self) -> int:
        """How many are kept."""
        return len(self._sizes)

    def __contains__(self, digest: Digest) -> bool:
        """Whether one is kept."""
        return digest in self._sizes

    def __iter__(self) -> Iterator[Digest]:
        """Those that are kept, the longest unused first."""
        return iter(self._sizes)

    def keep(self, digest: Digest) -> None:
        """This one was published here: it stays whatever the budget."""
        self._own.add(digest)

    def claim(self, digest: Digest, blocks: Iterable[Digest]) -> None:
        """This one, of these blocks, is published here: all of it stays, if it does not already."""
        if digest in self._own:
            return
        self.keep(digest)
        if self._holdings.evicts:
            self._holdings.content.pin(digest, blocks)

    def hold(self, digests: Iterable[Digest]) -> None:
        """These models are pinned: their manifests stay until this is called again."""
        self._held = frozenset(digests)

    async def get(
        self, digest: Digest, name: Name | None, via: frozenset[str] = frozenset()
    ) -> bytes:
        """A manifest's bytes, from here or from upstream.

        Args:
            digest: which.
            name: under which to look upstream.
            via: ids of the daemons that the question came through.

        Raises:
            LoopError: if it came through this one.
            NotFoundError: if neither has it.
            SourceError: if no upstream could be asked.
        """
        data = await asyncio.to_thread(self._catalog.manifest, digest)
        if data is not None:
            self._use(digest)
            return data
        route = self._fib.route(name)
        if not route:
            raise NotFoundError(f"no manifest {digest} here")
        self._upstreams.refuse_loop(via, f"manifest {digest}")
        self._missing.check((digest, name), self._clock())
        return await self._fetches.do(
            (digest, name, bool(via)),
            lambda: self._fetch(digest, route, name, via),
            way=via,
            again=(LoopError, NotFoundError),
        )

    async def shared(
        self, digest: Digest, name: Name | None, via: frozenset[str] = frozenset()
    ) -> Shared:
        """The same for whoever holds it longer than a moment, such as until a slow reader took it.

        Raises:
            LoopError, NotFoundError, SourceError: as `get`.
        """
        shared = self._shared.get(digest)
        if shared is None:
            return self._shared.setdefault(digest, Shared(await self.get(digest, name, via)))
        self._use(digest)
        return shared

    async def put(self, digest: Digest, data: bytes) -> None:
        """Take one from a publisher; it is on disk when this returns.

        Once begun it is done to its end, also if the caller is cancelled: what is on disk is known.

        Raises:
            CorruptError: if it has another digest.
            FormatError: if it is not a valid manifest, or gives a block here another length.
            StorageError: if the disk refuses.
        """
        await shielded(self._put(digest, data))

    async def _put(self, digest: Digest, data: bytes) -> None:
        async with self._shrinking:  # it may be one that was fetched, and that is just removed
            named = await self._store(digest, data, own=True)
            self._own.add(digest)
        self._uploads.named(named)
        if self._holdings.evicts:
            self._holdings.content.pin(digest, named)

    async def _fetch(
        self, digest: Digest, route: Route, name: Name | None, via: frozenset[str]
    ) -> bytes:
        data = await self._asked(digest, route, name, via)
        try:
            lengths = await self._store(digest, data)
        except StorageError as error:  # its digest and form were checked before
            if times := self._unstored.due():
                told = {"times": times}
                _LOG.error("a manifest is passed on, and cannot be stored: %s", error, extra=told)
            return data
        self._fetched(digest, lengths)
        try:
            await self._shrink(digest)
        except StorageError as error:
            if times := self._unremoved.due():
                told = {"times": times}
                _LOG.error("an unused manifest cannot be removed: %s", error, extra=told)
        return data

    async def _asked(
        self, digest: Digest, route: Route, name: Name | None, via: frozenset[str]
    ) -> bytes:
        """What upstream says; that it has none under this name is remembered for a while.

        One that is here, by whatever name it came, is served without looking at that.
        """
        self._missing.check((digest, name), self._clock())  # noted by what this one waited for
        try:
            data = await self._upstreams.manifest(route, digest, name, via)
        except NotFoundError as error:
            self._missing.note((digest, name), error, self._clock())
            raise
        self._missing.forget((digest, name))
        return data

    async def _store(self, digest: Digest, data: bytes, *, own: bool = False) -> dict[Digest, int]:
        """Its distinct blocks, with their lengths; to find them takes long, so the worker does."""

        def work() -> tuple[Manifest, dict[Digest, int]]:
            if digest_of(data) != digest:
                raise CorruptError(f"the manifest does not match its digest {digest}")
            manifest = decode(data)
            lengths = manifest.lengths()
            if own:
                self._check_lengths(lengths)
            self._catalog.put_manifest(digest, data)
            return manifest, lengths

        manifest, lengths = await asyncio.to_thread(work)
        self._count(digest, len(data))
        self._holdings.learn(digest, manifest, lengths)
        return lengths

    def _check_lengths(self, lengths: Mapping[Digest, int]) -> None:
        """Refuse a manifest whose model nobody could ever pull. On a thread.

        Of fetched ones this is not asked: that the model cannot be had, its pull finds out.
        """
        length_of = self._holdings.content.store.length
        for block, length in lengths.items():
            here = length_of(block)
            if here is not None and here != length:
                raise FormatError(f"block {block} has {here} bytes, and {length} in the manifest")

    def _use(self, digest: Digest) -> None:
        if digest in self._sizes:
            self._sizes.move_to_end(digest)

    def _count(self, digest: Digest, size: int) -> None:
        if digest not in self._sizes:
            self._sizes[digest] = size
            self._bytes += size

    async def _shrink(self, spared: Digest) -> None:
        """Let the longest unused go until the budget holds."""
        async with self._shrinking:
            for digest in list(self._sizes):
                if self._bytes <= self._capacity:
                    return
                if digest == spared or digest in self._own or digest in self._held:
                    continue
                self._bytes -= self._sizes.pop(digest)
                self._holdings.content.forget(digest)
                await asyncio.to_thread(self._catalog.remove_manifest, digest)
