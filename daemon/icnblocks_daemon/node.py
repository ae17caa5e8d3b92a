"""One daemon's parts, put together: what it has, what it can get, and who may write.

The HTTP face and the server stand on this; it must not know HTTP.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import secrets
import time
from typing import TYPE_CHECKING, Any, Final, Literal

from icnblocks.cache.content_store import ContentStore
from icnblocks.cache.policy import make_policy
from icnblocks.errors import StorageError
from icnblocks.manifest.codec import decode
from icnblocks.manifest.record import open_record
from icnblocks.store.catalog import Catalog
from icnblocks.store.disk import DiskStore
from icnblocks.store.inplace import InPlaceStore
from icnblocks_daemon.config import taken_over
from icnblocks_daemon.fib import Fib
from icnblocks_daemon.forwarder import Forwarder
from icnblocks_daemon.holdings import Holdings
from icnblocks_daemon.manifests import Manifests
from icnblocks_daemon.metrics import Metrics
from icnblocks_daemon.pit import Pit
from icnblocks_daemon.records import Records
from icnblocks_daemon.rules import read_rules
from icnblocks_daemon.strategy import make_strategy
from icnblocks_daemon.uploads import Uploads
from icnblocks_daemon.upstreams import Upstreams

if TYPE_CHECKING:
    from collections.abc import Iterator

    from icnblocks.manifest.model import Manifest
    from icnblocks.naming import Digest
    from icnblocks_daemon.config import Config

_LOG = logging.getLogger(__name__)
FLUSH_S: Final = 5.0
"""How often a cache's blocks are flushed, whoever waits for it or not."""
VERSION: Final = importlib.metadata.version("icnblocks")


class Node:
    """A daemon without its face. Made on the running loop; `close` ends it.

    Raises:
        UsageError: if a policy, token or trust file is wrong.
        BusyError: if another process has the store.
        StorageError: if the disk refuses.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.clock = time.monotonic
        self.started = self.clock()
        self.stopping = False
        self.metrics = Metrics()
        self.fib = Fib(config.upstream)
        self.access, trusted = read_rules(config)
        self.node_id = secrets.token_hex(8)
        self.spool = str(config.store)
        try:
            config.store.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"store: cannot make {config.store}: {error.strerror}") from None
        damage: Literal["empty", "refuse"] = "empty" if self.fib.has_default else "refuse"
        self.store = DiskStore(config.store / "blocks", on_damage=damage)
        self.places = InPlaceStore(config.store / "places.sqlite")
        self.catalog = Catalog(config.store / "catalog.sqlite")
        evicts = bool(self.fib.upstreams) and config.capacity is not None
        content = ContentStore(
            self.store,
            make_policy(config.policy),
            config.capacity,
            evict=evicts,
            manifests=self._known() if evicts else (),
            pins=dict(self._published()) if evicts else None,
            now=self.clock(),
        )
        self.holdings = Holdings(
            content, self.places, self.clock, evicts=evicts, recall=self._manifest
        )
        strategy = make_strategy(config.strategy)
        self.strategy = strategy
        self.upstreams = Upstreams(
            config, self.fib, strategy, self.metrics, node_id=self.node_id, clock=self.clock
        )
        pit = Pit(strategy, negative_s=config.negative_ttl, share=config.pit)
        self.forwarder = Forwarder(
            self.holdings, self.fib, strategy, pit, self.upstreams, self.metrics,
            node_id=self.node_id, room_wait_s=config.room_wait, clock=self.clock,
        )  # fmt: skip
        self.uploads = Uploads(
            self.holdings, self.catalog, self.metrics, ttl_s=config.upload_ttl, clock=self.clock
        )
        self.manifests = Manifests(
            self.catalog, self.holdings, self.uploads, self.fib, self.upstreams,
            capacity=config.manifest_capacity,
        )  # fmt: skip
        self.records = Records(
            self.catalog, self.fib, self.upstreams, self.metrics,
            lifetime_cap_s=config.record_cap, stale_max_s=config.stale_max,
            clock=self.clock, wall=time.time,
        )  # fmt: skip
        self.records.trusted = trusted
        for digest in content.pins():
            self.manifests.keep(digest)
        self.upstreams.attach(self.forwarder, self.store)
        self.metrics.observe(self._figures)

    def _manifest(self, digest: Digest) -> Manifest | None:
        data = self.catalog.manifest(digest)
        return None if data is None else decode(data)

    def _known(self) -> Iterator[tuple[Digest, Manifest]]:
        """Every manifest that is kept, one in memory at a time, for a policy."""
        for digest, _ in self.catalog.manifests():
            manifest = self._manifest(digest)
            if manifest is not None:
                yield digest, manifest

    def _published(self) -> Iterator[tuple[Digest, list[Digest]]]:
        """The models whose origin this daemon is, with their blocks: they are never evicted."""
        for stored in self.catalog.records():
            record = open_record(stored.raw)
            if record.manifest is None or self.fib.route(record.name):
                continue
            manifest = self._manifest(record.manifest)
            if manifest is not None:
                yield record.manifest, list(manifest.lengths())

    def absent(self, manifest: bytes) -> int:
        """How many blocks of an encoded manifest are not here. May be called from any thread."""
        contains = self.holdings.contains
        return sum(not contains(digest) for digest in decode(manifest).lengths())

    async def keep_house(self) -> None:
        """Flush, expire uploads; until cancelled."""
        if not self.fib.has_default and not self.holdings.evicts:
            await self.uploads.find_unnamed()
        sweep = self.clock()
        while True:
            await asyncio.sleep(min(FLUSH_S, self.config.upload_ttl))
            try:
                await self.holdings.flush()
                if self.clock() - sweep > min(60.0, self.config.upload_ttl):
                    sweep = self.clock()
                    await self.uploads.expire()
            except Exception:
                _LOG.exception("keeping house failed; it is tried again")

    def reload(self, config: Config) -> tuple[str, ...]:
        """Take over what may change while running (config.RELOADED).

        Returns:
            The keys that changed and need a restart.

        Raises:
            UsageError: if something in it is wrong; nothing is changed then.
        """
        access, trusted = read_rules(config)
        if config.policy != self.config.policy:
            policy = make_policy(config.policy)
            self.holdings.content.set_policy(policy, self.clock(), self._known())
        self.access, self.records.trusted = access, trusted
        self.config, left = taken_over(self.config, config)
        return left

    def status(self) -> dict[str, Any]:
        """What /v1/status says; docs/operations.md has the fields."""
        now, stats = self.clock(), self.holdings.content.stats()
        asked = stats.hit_bytes + self._count("icn_miss_bytes_total")
        hits, misses = self._count("icn_hits_total"), self._count("icn_misses_total")
        return {
            "version": VERSION,
            "node": self.node_id,
            "role": "edge" if self.fib.upstreams else "origin",
            "uptime_s": round(now - self.started, 1),
            "stopping": self.stopping,
            "store": {
                "path": str(self.config.store),
                "blocks": stats.blocks,
                "used_bytes": stats.used_bytes,
                "in_place_blocks": len(self.places),
                "manifests": len(self.manifests),
                "manifest_bytes": self.manifests.cached_bytes,
                "unnamed_uploads": self.uploads.unnamed,
                "failing": self.forwarder.storage_failing,
            },
            "budget": {
                "capacity": stats.capacity,
                "reserved_bytes": stats.reserved_bytes,
                "pinned_bytes": stats.pinned_bytes,
                "evicted_bytes": stats.evicted_bytes,
                "waiting_for_room": self.forwarder.waiting_for_room,
            },
            "policy": stats.policy,
            "hits": {
                "blocks": hits,
                "misses": misses,
                "ratio": round(hits / (hits + misses), 4) if hits + misses else None,
                "byte_ratio": round(self._count("icn_hit_bytes_total") / asked, 4)
                if asked
                else None,
            },
            "pit": {
                "enabled": self.config.pit,
                "blocks": self.forwarder.pending,
                "waiters": self.forwarder.waiters,
            },
            "upstreams": self.upstreams.status(),
            "changed_files": [str(item.root / item.path) for item in self.places.changed()],
        }

    def _count(self, name: str) -> float:
        return self.metrics.value(name)

    def _figures(self) -> Iterator[tuple[str, str, float]]:
        stats = self.holdings.content.stats()
        yield "icn_store_blocks", "Blocks in the store", stats.blocks
        yield "icn_store_used_bytes", "Bytes that they take", stats.used_bytes
        yield "icn_store_reserved_bytes", "Room kept for blocks under way", stats.reserved_bytes
        yield "icn_store_pinned_bytes", "Bytes of blocks that must stay", stats.pinned_bytes
        yield "icn_store_capacity_bytes", "The budget; 0 for none", stats.capacity or 0
        yield "icn_in_place_blocks", "Blocks in model directories", len(self.places)
        yield "icn_evicted_blocks_total", "Blocks evicted", stats.evicted
        yield "icn_evicted_bytes_total", "Bytes evicted", stats.evicted_bytes
        yield "icn_manifests", "Manifests kept", len(self.manifests)
        yield "icn_manifest_bytes", "Bytes of manifests kept", self.manifests.cached_bytes
        yield "icn_pit_blocks", "Blocks pending", self.forwarder.pending
        yield "icn_pit_waiters", "Interests waiting for them", self.forwarder.waiters
        yield "icn_no_room_blocks", "Misses waiting for room", self.forwarder.waiting_for_room
        yield "icn_changed_files", "In-place files that changed", len(self.places.changed())
        yield "icn_unnamed_uploads", "Uploads that no manifest names", self.uploads.unnamed
        yield "icn_storage_failing", "1: blocks cannot be stored", self.forwarder.storage_failing

    async def close(self) -> None:
        """Stop asking upstreams, flush, and let go of the store."""
        await self.records.close()
        self.forwarder.close()
        await self.upstreams.close()
        await asyncio.to_thread(self.holdings.close)
        self.catalog.close()
