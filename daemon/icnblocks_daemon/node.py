"""One daemon's parts, put together: what it has, what it can get, and who may write.

The HTTP face and the server stand on this; it must not know HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from math import inf
from typing import TYPE_CHECKING, Final, Literal

from icnblocks.cache.content_store import ContentStore
from icnblocks.cache.planning import Remembering
from icnblocks.cache.policy import make_policy
from icnblocks.errors import BusyError, FormatError, IcnError, StorageError
from icnblocks.manifest.codec import decode
from icnblocks.manifest.record import open_record
from icnblocks.store.catalog import Catalog
from icnblocks.store.disk import DiskStore
from icnblocks.store.home import BLOCKS, CATALOG, PLACES
from icnblocks.store.inplace import InPlaceStore
from icnblocks_daemon.config import taken_over
from icnblocks_daemon.fair_turns import FairTurns
from icnblocks_daemon.fib import Fib
from icnblocks_daemon.forwarder import Forwarder
from icnblocks_daemon.heralds import Heralds
from icnblocks_daemon.holdings import Holdings
from icnblocks_daemon.manifest_parts import ManifestParts
from icnblocks_daemon.manifests import Manifests
from icnblocks_daemon.metrics import Metrics
from icnblocks_daemon.node_report import figures
from icnblocks_daemon.overflow import Overflow
from icnblocks_daemon.pit import Pit
from icnblocks_daemon.plans import LOOK_S, Plans
from icnblocks_daemon.policy_state import FILE, SAVE_S, Memory
from icnblocks_daemon.prefetch import FILE as PREFETCH_FILE
from icnblocks_daemon.prefetch import Prefetch, kept_order, seconds_of_day
from icnblocks_daemon.rechecks import Rechecks
from icnblocks_daemon.records import Records
from icnblocks_daemon.rules import read_rules
from icnblocks_daemon.sending import Sending
from icnblocks_daemon.sibling_maps import SiblingMaps
from icnblocks_daemon.siblings import Siblings
from icnblocks_daemon.strategies import make_strategy
from icnblocks_daemon.trace_log import WRITE_S, TraceLog
from icnblocks_daemon.uploads import Uploads
from icnblocks_daemon.upstreams import Upstreams

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator
    from pathlib import Path

    from icnblocks.cache.policy import Policy
    from icnblocks.manifest.model import Manifest
    from icnblocks.naming import Digest, Name
    from icnblocks_daemon.config import Config
    from icnblocks_daemon.prefetch_order import Order

_LOG = logging.getLogger(__name__)
FLUSH_S: Final = 5.0
"""How often a cache's blocks are flushed, whoever waits for it or not."""

LOOKS: Final = 4
"""Have-maps and missing-set queries that are worked on at a time: each takes a thread for up to a
second, anybody may ask, and all else waits for threads, too."""


class Node:
    """A daemon without its face. Made on the running loop; `close` ends it.

    Args:
        config: the settings.
        clock: seconds that never go backward.
        wall: Unix seconds.

    Raises:
        UsageError: if a policy, token or trust file is wrong.
        BusyError: if another process has the store.
        StorageError: if the disk refuses.
    """

    def __init__(
        self,
        config: Config,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.config = config
        self.clock, self._wall = clock, wall
        self.started = self.clock()
        self.stopping = False
        self.metrics = Metrics()
        self.fib = Fib(config.upstream)
        self.access, trusted = read_rules(config)
        self.node_id = secrets.token_hex(8)
        try:
            config.store.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError.of(error, f"store: cannot make {config.store}") from None
        damage: Literal["empty", "refuse"] = "empty" if self.fib.has_default else "refuse"
        self.store = DiskStore(config.store / BLOCKS, on_damage=damage)
        self.places = InPlaceStore(config.store / PLACES)
        if damage == "refuse" and len(self.store):
            _refuse_lost(config.store / CATALOG)
        self.catalog = Catalog(config.store / CATALOG)
        evicts = bool(self.fib.upstreams) and config.capacity is not None
        order = kept_order(config.store / PREFETCH_FILE)
        own = set(self._published()) if self.fib.upstreams else set()
        published = dict(self._blocks_of(own)) if evicts else {}
        planned = dict(self._pinned_by(order)) if evicts and order is not None else {}
        content = ContentStore(
            self.store,
            make_policy(config.policy, config.capacity),
            config.capacity,
            evict=evicts,
            manifests=self._known(dict(self.catalog.manifests())) if evicts else (),
            pins=planned | published,
            now=self.clock(),
        )
        self.holdings = Holdings(
            content, self.places, self.clock, evicts=evicts, recall=self._manifest,
            overflow=Overflow(config.overflow),
        )  # fmt: skip
        strategy = make_strategy(config.strategy)
        self.upstreams = Upstreams(
            config, self.fib, strategy, self.metrics, node_id=self.node_id, clock=self.clock
        )
        siblings = Siblings(config.sibling)
        pit = Pit(strategy, negative_s=config.negative_ttl, share=config.pit)
        self.forwarder = Forwarder(
            self.holdings, self.fib, strategy, pit, self.upstreams, self.metrics,
            node_id=self.node_id, room_wait_s=config.room_wait, clock=self.clock,
            siblings=siblings,
        )  # fmt: skip
        self.siblings = SiblingMaps(
            siblings, self.upstreams, self.holdings, self._manifest,
            wait_s=config.sibling_wait, clock=self.clock,
        )  # fmt: skip
        self.sending = Sending(config.client_sends, clock)
        self.looking = FairTurns(LOOKS)
        self.uploads = Uploads(
            self.holdings, self.catalog, self.metrics, ttl_s=config.upload_ttl, clock=self.clock
        )
        self.heralds = Heralds(self.forwarder, self.holdings.at_hand)
        # Siblings are to be asked before; and without the table a block comes once for each.
        heralds = config.pit and not config.sibling
        self.manifests = Manifests(
            self.catalog, self.holdings, self.uploads, self.fib, self.upstreams,
            capacity=config.manifest_capacity, negative_s=config.negative_ttl, clock=self.clock,
            fetched=self.heralds.fetched if heralds else lambda *_: None,
        )  # fmt: skip
        self.manifest_parts = ManifestParts(
            str(config.store), self.manifests, self.catalog, self.clock
        )
        self.records = Records(
            self.catalog, self.fib, self.upstreams, self.metrics,
            lifetime_cap_s=config.record_cap, stale_max_s=config.stale_max,
            clock=self.clock, wall=wall, negative_s=config.negative_ttl,
        )  # fmt: skip
        self.records.trusted = trusted
        for digest in own:
            self.manifests.keep(digest)
        for digest in planned.keys() & published.keys():
            content.pin(digest, planned[digest])  # each pins it for itself
        self.upstreams.attach(self.forwarder, self.store, self.holdings.overflow)
        self.prefetch = Prefetch(
            config.store / PREFETCH_FILE, self.records, self.manifests, self.holdings,
            self.forwarder, self.metrics,
            recall=self._manifest, clock=self.clock, day=seconds_of_day,
        )  # fmt: skip
        self.prefetch.start(order, set(planned))
        self.plans = Plans(content, self.clock)
        self.plans.look()  # so that the policy knows from here on that its plans are driven
        self.memory = Memory(config.store / FILE, content, self.clock, wall)
        self.memory.restore()
        self.trace = self._trace_at(config.trace)
        self._former_traces: set[asyncio.Task[None]] = set()  # being closed; a disk may hang
        self.rechecks = Rechecks(content, self.metrics, replaceable=self.fib.has_default)
        self.holdings.listener = self
        self.metrics.observe(lambda: figures(self))
        self.metrics.observe_by("upstream", self.upstreams.figures)

    def _manifest(self, digest: Digest) -> Manifest | None:
        data = self.catalog.manifest(digest)
        return None if data is None else decode(data)

    def _known(self, digests: Iterable[Digest]) -> Iterator[tuple[Digest, Manifest]]:
        """These manifests, as far as they are kept, one in memory at a time, for a policy."""
        for digest in digests:
            manifest = self._manifest(digest)
            if manifest is not None:
                yield digest, manifest

    def _published(self) -> Iterator[Digest]:
        """Manifests of the models whose origin this daemon is, and of the bases they stand on."""
        for stored in self.catalog.records():
            try:
                record = open_record(stored.raw)
            except IcnError as error:
                _LOG.error(
                    "a record in %s has rotted, publish its model again: %s",
                    self.config.store / CATALOG, error,
                )  # fmt: skip
                continue
            if record.manifest is not None:
                yield from self._lineage(record.name, record.manifest)

    def _lineage(self, name: Name, digest: Digest) -> Iterator[Digest]:
        """A model and the bases it stands on, as far as this daemon is their origin."""
        while not self.fib.route(name):
            yield digest
            manifest = self._manifest(digest)
            if manifest is None or manifest.base is None:
                break
            digest, name = manifest.base.manifest, manifest.base.name

    async def claim(self, name: Name, digest: Digest) -> None:
        """A record that is published here names this model: it stays from now on, with its bases.

        Most are kept since their manifests came; not those that came before a restart, or from
        upstream. What is not here is passed over.
        """
        if not self.fib.upstreams:  # nothing is fetched that something would have to make room for
            return
        mine = await asyncio.to_thread(lambda: dict(self._blocks_of(self._lineage(name, digest))))
        for manifest, blocks in mine.items():
            self.manifests.claim(manifest, blocks)

    def _blocks_of(self, digests: Iterable[Digest]) -> Iterator[tuple[Digest, list[Digest]]]:
        """Models that are never evicted, with their blocks."""
        for digest in digests:
            manifest = self._manifest(digest)
            if manifest is not None:
                yield digest, list(manifest.lengths())

    def learnt(self, digest: Digest) -> None:
        """See Listener."""
        if self.trace is not None:
            self.trace.learnt(digest)

    def requested(self, digest: Digest) -> None:
        """See Listener."""
        if self.trace is not None:
            self.trace.requested(digest)

    def _trace_at(self, path: Path | None) -> TraceLog | None:
        return None if path is None else TraceLog(path, self._manifest, self.clock, self._wall)

    def _pinned_by(self, order: Order) -> Iterator[tuple[Digest, list[Digest]]]:
        """The models that a plan pins, with their blocks, as far as their manifests are here."""
        shared: dict[Digest, Digest] = {}  # one object for a block, however many models have it
        for entry in order.entries:
            if not entry.pin or entry.digest is None or entry.progress == "failed":
                continue
            manifest = self._manifest(entry.digest)
            if manifest is not None:
                blocks = manifest.lengths()
                yield entry.digest, [shared.setdefault(digest, digest) for digest in blocks]

    def absent(self, manifest: bytes) -> int:
        """How many blocks of an encoded manifest are not here (see `Holdings.look`)."""
        is_here = self.holdings.look()
        return sum(not is_here(digest) for digest in decode(manifest).lengths())

    async def keep_plans(self) -> None:
        """Begin plans when they are due, and write the trace; until cancelled."""
        writing = self.clock()
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                self.plans.look()
                if self.trace is not None and self.clock() - writing >= WRITE_S:
                    writing = self.clock()
                    self.trace.begin_write()  # not awaited: a disk that hangs holds up no plans
            except Exception:
                _LOG.exception("keeping plans and trace failed; it is tried again")

    async def keep_house(self) -> None:
        """Flush, expire uploads, look whether changed files are back; until cancelled.

        What fails is tried again in its time, and holds up nothing else.
        """
        surveys: list[Callable[[], Awaitable[object]]] = []  # each until it succeeds
        if not (self.fib.has_default or self.holdings.evicts):
            surveys = [self.uploads.find_unnamed, lambda: asyncio.to_thread(self._tell_missing)]
        sweeps = (
            self.manifest_parts.expire,
            self.uploads.expire,
            lambda: asyncio.to_thread(self.places.look_again),
        )
        saved, swept = self.clock(), -inf
        while True:
            await _tried(self.holdings.flush)
            if self.clock() - saved > SAVE_S:
                saved = self.clock()
                await _tried(self.memory.save)
            if self.clock() - swept > min(60.0, self.config.upload_ttl):
                swept = self.clock()
                surveys = [each for each in surveys if not await _tried(each)]
                for each in sweeps:
                    await _tried(each)
            await asyncio.sleep(min(FLUSH_S, self.config.upload_ttl))

    def _tell_missing(self) -> None:
        """Say which of the models that were published here lost blocks: nobody else has them."""
        for digest in self._published():
            manifest = self._manifest(digest)
            if manifest is None or self.places.roots_of(digest):
                continue
            blocks = manifest.lengths()
            missing = sum(not self.holdings.contains(block) for block in blocks)
            if missing:
                _LOG.error(
                    "of manifest %s, %d of %d blocks are missing: publish its model again",
                    digest, missing, len(blocks),
                )  # fmt: skip

    async def reload(self, config: Config) -> tuple[str, ...]:
        """Take over what may change while running (config.RELOADED). One at a time.

        Returns:
            The keys that changed and need a restart.

        Raises:
            UsageError: if something in it is wrong; nothing is changed then.
            BusyError: if another process writes to the trace; nothing is changed then either.
            StorageError: if the disk refuses; nothing is changed then either.
        """
        access, trusted = await asyncio.to_thread(read_rules, config)
        policy = make_policy(config.policy, self.config.capacity)
        strategy = make_strategy(config.strategy)
        moved = config.trace != self.config.trace
        trace = self.trace
        if moved:  # its disk may hang; nothing is changed until it is open
            trace = await asyncio.to_thread(self._trace_at, config.trace)
        try:
            if config.policy != self.config.policy:
                await self._change_policy(policy)
        except BaseException:
            if moved and trace is not None:
                trace.close()
            raise
        old, self.trace = self.trace, trace
        self.access, self.records.trusted = access, trusted
        if config.strategy != self.config.strategy:
            self.forwarder.set_strategy(strategy)
            self.upstreams.set_strategy(strategy)
        self.config, left = taken_over(self.config, config)
        if moved and old is not None:
            closing = asyncio.create_task(asyncio.to_thread(old.close), name="former trace")
            self._former_traces.add(closing)
            closing.add_done_callback(self._former_traces.discard)
        elif trace is not None:
            trace.reopen()
        return left

    async def _change_policy(self, policy: Policy) -> None:
        """Go on with another policy and the same content; it takes over the rates if it can."""
        content = self.holdings.content
        known = content.untold(policy)
        told: set[Digest] = set()

        def tell(digests: list[Digest]) -> None:
            for digest, manifest in self._known(digests):
                known.learn(digest, manifest)

        while fresh := [each for each in self.manifests if each not in told]:  # more come meanwhile
            if self.holdings.evicts:  # reading and counting takes seconds for many
                await asyncio.to_thread(tell, fresh)
            told.update(fresh)
        for digest in told.difference(self.manifests):
            known.forget(digest)
        now = self.clock()
        state = content.policy.state(now) if isinstance(content.policy, Remembering) else None
        content.go_on_with(known, now)
        self.plans.look()
        if state is not None and isinstance(policy, Remembering):
            try:
                policy.restore(state, now, 0.0)
            except FormatError as error:
                _LOG.info("the new policy starts without rates: %s", error)

    async def close(self) -> None:
        """Stop asking upstreams, flush, and let go of the store."""
        await self.rechecks.close()
        await self.prefetch.close()
        await self.siblings.close()
        await self.records.close()
        self.heralds.close()
        self.forwarder.close()
        await self.upstreams.close()
        await self.plans.close()
        self.manifest_parts.close()
        try:
            await self.memory.save()
        except StorageError as error:
            _LOG.warning("what the policy learnt is not kept: %s", error)
        if self.trace is not None:
            await asyncio.to_thread(self.trace.close)
        await asyncio.gather(*self._former_traces)
        await asyncio.to_thread(self.holdings.close)
        self.catalog.close()


async def _tried(work: Callable[[], Awaitable[object]]) -> bool:
    """Do a part of the upkeep; whether it succeeded."""
    try:
        await work()
    except (BusyError, StorageError) as error:
        _LOG.error("keeping house failed; it is tried again: %s", error)
    except Exception:
        _LOG.exception("keeping house failed; it is tried again")
    else:
        return True
    return False


def _refuse_lost(catalog: Path) -> None:
    """Refuse to begin a new catalog beside blocks: what it no longer names would be erased."""
    if not catalog.exists() or not catalog.stat().st_size:
        raise StorageError(
            f"{catalog} is missing beside the blocks that it names",
            hint="bring it back, or begin with an empty store and publish again",
        )
