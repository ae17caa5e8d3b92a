"""Makes a plan real: brings the models that shall be here, slowly, and keeps those pinned.

Blocks are Interests like those of devices, so a block that a device asks for at the same moment
crosses once; and they are few at a time, fewer while devices wait. While an order is worked on,
all its models are pinned, or the first of them might have to make room for the last; afterwards
only those that it pins. Lives on the event loop. It must not decide what an order comes to
(prefetch_survey.py) nor how fast it may be (prefetch_pace.py).
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any, Final

from icnblocks.errors import (
    FormatError,
    IcnError,
    NotFoundError,
    RefusedError,
    SourceError,
    StorageError,
)
from icnblocks.store.whole import write_whole
from icnblocks.values import dataclass
from icnblocks.wire.bundle import Want
from icnblocks.wire.frames import Reason
from icnblocks_daemon.holdings import shielded
from icnblocks_daemon.interests import Hint
from icnblocks_daemon.prefetch_order import Order, load_order, pack_order
from icnblocks_daemon.prefetch_pace import bucket_of, may_ask
from icnblocks_daemon.prefetch_report import gauges, report
from icnblocks_daemon.prefetch_survey import Survey, Surveyor

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from icnblocks.client.bucket import TokenBucket
    from icnblocks.manifest.model import Manifest
    from icnblocks.naming import Digest
    from icnblocks_daemon.forwarder import Forwarder
    from icnblocks_daemon.holdings import Holdings
    from icnblocks_daemon.manifests import Manifests
    from icnblocks_daemon.metrics import Metrics
    from icnblocks_daemon.prefetch_order import Entry
    from icnblocks_daemon.records import Records

_LOG = logging.getLogger(__name__)
FILE: Final = "prefetch.json"
"""Where the order in force is kept, in the store's directory."""
SAVE_S: Final = 2.0
"""How far that file may be behind; what it does not say yet is seen when it is looked for."""
RETRY_S: Final = 2.0
RETRY_MOST_S: Final = 300.0
_ROOM_S: Final = 0.25
_SPARE_S: Final = 5.0
"""How often it is looked, while nothing moves, whether devices need room that is held."""
_LOOK_S: Final = 60.0
"""The clock on the wall is looked at this often while a window is closed: it may be set."""


@dataclass(slots=True, eq=False)
class _Model:
    """A model that is being brought."""

    entry: Entry
    manifest: Manifest
    lengths: dict[Digest, int]  # of its blocks
    coming: int = 0
    fed: bool = False
    failed: bool = False


@dataclass(slots=True)
class _Asked:
    """A block that is under way for some of them."""

    length: int
    models: list[_Model]


class Prefetch:
    """Carries out one order at a time. Made on the running loop; `start` begins.

    Args:
        path: of the file in which the order is kept.
        records: follows names.
        manifests: gives manifests, and keeps those of pinned models.
        holdings: where blocks go.
        forwarder: gets them.
        metrics: counts them.
        recall: a manifest that is kept here, or None; called on threads.
        clock: seconds that never go backward.
        day: seconds since the local midnight.
        pause: waits for so many seconds.
    """

    def __init__(
        self,
        path: Path,
        records: Records,
        manifests: Manifests,
        holdings: Holdings,
        forwarder: Forwarder,
        metrics: Metrics,
        *,
        recall: Callable[[Digest], Manifest | None],
        clock: Callable[[], float],
        day: Callable[[], float],
        pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._path = path
        self._manifests = manifests
        self._holdings = holdings
        self._forwarder = forwarder
        self._metrics = metrics
        self._recall = recall
        self._clock = clock
        self._day = day
        self._pause = pause
        self._surveyor = Surveyor(records, manifests, holdings)
        self._taking = asyncio.Lock()
        self._changing = asyncio.Lock()  # held to the end of a change, also if its asker leaves
        self._writing = asyncio.Lock()
        self._order: Order | None = None
        self._known: set[Digest] = set()  # models of the order that were surveyed, and fit
        self._planned = 0
        self._waits_for = ""
        self._held: set[Digest] = set()
        self._under_way: dict[Digest, _Asked] = {}
        self._under_way_bytes = 0
        self._news = asyncio.Event()
        self._bucket: TokenBucket | None = None
        self._work: asyncio.Task[None] | None = None
        self._saved_at = clock()

    # --- orders ---------------------------------------------------------------------------

    def start(self, order: Order | None, pinned: set[Digest]) -> None:
        """Go on with the order of an earlier life of the daemon, if there is one.

        Args:
            order: as it was kept.
            pinned: those of its models that are pinned for it already.
        """
        if order is None:
            return
        self._held |= pinned
        self._order = order
        kept = [entry for entry in order.entries if entry.pin and entry.progress != "failed"]
        self._manifests.hold(pinned.union(entry.digest for entry in kept if entry.digest))
        for entry in kept:
            entry.progress = "todo"  # what is done is looked at again: blocks may have rotted
        if not order.finished():
            self._begin(order)

    async def take(self, order: Order) -> None:
        """Put an order in the place of the one in force; it is on disk when this returns.

        Names are followed and manifests fetched meanwhile; if that is given up, nothing changes.

        Raises:
            RefusedError: if what it pins does not fit; nothing changes then.
            StorageError: if it cannot be kept; nothing changes then.
        """
        async with self._taking:
            survey = await self._surveyor.survey(order, self._others(), strict=True)
            await shielded(self._replace_alone(order, survey))

    async def cancel(self) -> bool:
        """Stop, and release what the order in force pins; what came stays until it is evicted.

        Returns:
            False if there was nothing to cancel.

        Raises:
            StorageError: if that cannot be kept; it is cancelled all the same until a restart.
        """
        async with self._taking:
            return await shielded(self._cancel_alone())

    async def _replace_alone(self, order: Order, survey: Survey) -> None:
        async with self._changing:
            await self._replace(order, survey)

    async def _cancel_alone(self) -> bool:
        async with self._changing:
            order = self._order
            if order is None or order.cancelled:
                return False
            await self._cancel(order)
            return True

    async def _replace(self, order: Order, survey: Survey) -> None:
        await self._stop()
        try:
            await self._keep(pack_order(order))
        except StorageError:
            if self._order is not None and not self._order.finished():
                self._begin(self._order)
            raise
        self._order = order
        await self._hold(survey, release=True)
        _LOG.info(
            "a plan is in force", extra={"models": len(order.entries), "edge": order.edge or "-"}
        )
        self._begin(order)

    async def _cancel(self, order: Order) -> None:
        await self._stop()
        order.cancelled = True
        for entry in order.entries:
            entry.due = 0
        await self._let_go(set(self._held))
        _LOG.info("the plan in force was cancelled")
        await self._keep(pack_order(order))

    def _others(self) -> Iterator[Manifest]:
        """Models that are pinned here by something else than an order; to be drawn on a thread."""
        pins = self._holdings.content.pins().items()
        digests = [digest for digest, count in pins if count > (digest in self._held)]
        return filter(None, map(self._recall, digests))

    async def close(self) -> None:
        """Stop, and note how far it came."""
        async with self._changing:
            await self._stop()
        if self._order is not None and not self._order.cancelled:
            await self._save(self._order)

    # --- the work -------------------------------------------------------------------------

    def _begin(self, order: Order) -> None:
        self._bucket = bucket_of(order.rate, self._clock())
        self._work = asyncio.create_task(self._carry_out(order), name="prefetch")

    async def _stop(self) -> None:
        work, self._work = self._work, None
        if work is not None:
            work.cancel()
            await asyncio.wait([work])
        self._waits_for = ""

    async def _carry_out(self, order: Order) -> None:
        try:
            retry_s = RETRY_S
            while True:
                fetched = order.fetched
                try:
                    await self._go_through(order)
                except Exception:
                    _LOG.exception("carrying out the plan failed; it is tried again")
                if order.finished():
                    break
                await self._save(order)
                await self._wait("retry", retry_s)
                retry_s = RETRY_S if order.fetched > fetched else min(2 * retry_s, RETRY_MOST_S)
            await self._release_spare(order)
            await self._save(order)
            done = sum(entry.progress == "done" for entry in order.entries)
            _LOG.info(
                "the plan is carried out",
                extra={"models": done, "failed": len(order.entries) - done},
            )
        finally:
            for digest in list(self._under_way):
                self._forwarder.leave(self, digest)
            self._under_way.clear()
            self._under_way_bytes = 0

    async def _go_through(self, order: Order) -> None:
        """Try each model that is left once."""
        self._waits_for = ""
        todo = (entry for entry in order.entries if entry.progress == "todo")
        if any(entry.digest not in self._known for entry in todo):
            # After a start, or when something that was not known at first may be known now.
            await self._hold(await self._surveyor.survey(order, self._others(), strict=False))
        for entry in list(order.entries):
            if entry.progress == "todo" and entry.digest in self._known:
                await self._bring(entry)
                if self._clock() - self._saved_at > SAVE_S:
                    await self._save(order)
        while self._under_way:
            await self._heard()

    async def _bring(self, entry: Entry) -> None:
        """Ask for all that is missing of a model; it may land after this returns."""
        try:
            manifest = await self._surveyor.manifest(entry)
        except IcnError as error:
            entry.fail(error)
            return
        lengths, missing = await asyncio.to_thread(self._missing, manifest)
        entry.due = sum(missing[digest] for digest in missing if digest not in self._under_way)
        model = _Model(entry, manifest, lengths)
        for digest, length in missing.items():
            await self._bring_block(model, digest, length)
            if model.failed:
                break
        model.fed = True
        self._settle(model)

    def _missing(self, manifest: Manifest) -> tuple[dict[Digest, int], dict[Digest, int]]:
        """A model's blocks, and those that are not here. On a thread."""
        lengths, contains = manifest.lengths(), self._holdings.contains
        return lengths, {d: n for d, n in lengths.items() if not contains(d)}

    async def _bring_block(self, model: _Model, digest: Digest, length: int) -> None:
        if digest not in self._under_way:
            await self._turn(length)
        asked = self._under_way.get(digest)
        if asked is not None:
            asked.models.append(model)
            model.coming += 1
        elif self._holdings.contains(digest):
            model.entry.due -= length
        elif not model.failed:
            if self._bucket is not None:
                self._bucket.reserve(length, self._clock())
            self._under_way[digest] = _Asked(length, [model])
            self._under_way_bytes += length
            model.coming += 1
            # No manifest in the hint: upstream shall not count this as somebody's request.
            hint = Hint(model.entry.name, priority=0)
            self._forwarder.want(self, Want(digest, length), hint, counted=False)

    async def _turn(self, length: int) -> None:
        """Return when one more block may be asked for."""
        while True:
            order = self._order
            closed = order.window.opens_in(self._day()) if order and order.window else 0.0
            mine = len(self._under_way)
            if closed:
                await self._wait("window", min(closed, _LOOK_S))
            elif self._forwarder.waiting_for_room:
                await self._wait("room", _ROOM_S)
            elif not may_ask(
                length,
                mine=mine,
                my_bytes=self._under_way_bytes,
                others=self._forwarder.pending - mine,
            ):
                await self._heard()
            elif self._bucket and (pause := self._bucket.wait(length, self._clock())):
                await self._wait("", max(pause, 0.001))
            else:
                self._waits_for = ""
                return

    async def _wait(self, what: str, seconds: float) -> None:
        """Wait, while nothing is pinned for this order that devices need the room of."""
        self._waits_for = what
        left = seconds
        while left > 0:
            if self._forwarder.waiting_for_room and self._order is not None:
                await self._release_spare(self._order)
            step = min(left, _SPARE_S)
            await self._pause(step)
            left -= step

    async def _heard(self) -> None:
        await self._news.wait()
        self._news.clear()

    # --- what the forwarder says ----------------------------------------------------------

    def landed(self, digest: Digest) -> None:
        """See Waiter."""
        if not self._holdings.contains(digest):
            self.refused(digest, Reason.NO_SPACE, "it came, and could not be stored")
            return
        asked = self._take(digest)
        if asked is None or self._order is None:
            return
        self._metrics.prefetched_bytes.inc(asked.length)
        self._order.fetched += asked.length
        first = asked.models[0].entry
        first.due = max(0, first.due - asked.length)
        for model in asked.models:
            model.coming -= 1
            self._settle(model)

    def refused(self, digest: Digest, reason: Reason, text: str) -> None:
        """See Waiter."""
        asked = self._take(digest)
        for model in asked.models if asked is not None else ():
            model.coming -= 1
            model.failed = True
            model.entry.fail(_error(reason, f"block {str(digest)[:16]}: {text}"))
            self._settle(model)

    def _take(self, digest: Digest) -> _Asked | None:
        asked = self._under_way.pop(digest, None)
        if asked is not None:
            self._under_way_bytes -= asked.length
            self._news.set()
        return asked

    def _settle(self, model: _Model) -> None:
        """Note that a model is here, once it is."""
        if not model.fed or model.coming or model.failed:
            return
        entry = model.entry
        entry.progress, entry.error, entry.code, entry.due = "done", "", "", 0
        content = self._holdings.content
        if entry.digest is not None and not entry.pin:
            # The plan's word counts as much as one request: the policy knows no other use of it.
            self._holdings.learn(entry.digest, model.manifest, model.lengths)
            content.requested(entry.digest, self._clock())

    # --- pins and the file ----------------------------------------------------------------

    async def _hold(self, survey: Survey, *, release: bool = False) -> None:
        """Pin what fits of the order; with `release`, only that."""
        self._known, self._planned = set(survey.blocks), survey.planned
        former = set(self._held)
        self._manifests.hold(former | self._known)
        for digest, blocks in survey.blocks.items():
            if digest not in former:
                if self._holdings.evicts:  # else only manifests have to be kept
                    self._holdings.content.pin(digest, blocks)
                self._held.add(digest)
                await asyncio.sleep(0)  # a large plan takes seconds: others come in between
        await self._let_go(former - self._known if release else set())

    async def _release_spare(self, order: Order) -> None:
        """Let those go that are here and that the plan does not pin, and those that failed."""
        left = (entry for entry in order.entries if entry.progress != "failed")
        kept = {entry.digest for entry in left if entry.pin or entry.progress == "todo"}
        await self._let_go({digest for digest in self._held if digest not in kept})

    async def _let_go(self, digests: set[Digest]) -> None:
        """Release these, and keep the manifests of the others that are held."""
        for digest in digests & self._held:
            self._holdings.content.unpin(digest)
            self._held.discard(digest)
            await asyncio.sleep(0)
        self._manifests.hold(self._held)

    async def _save(self, order: Order) -> None:
        """Note how far it came, once that is on the disk."""
        self._saved_at = self._clock()
        packed = pack_order(order)
        try:
            await self._holdings.flush()
            await shielded(self._keep(packed))
        except StorageError as error:
            _LOG.error("how far the plan came is not kept: %s", error)

    async def _keep(self, packed: bytes) -> None:
        """Write the file; of two writes at once, the one that was asked for later stays."""
        async with self._writing:
            await asyncio.to_thread(write_whole, self._path, packed)

    # --- figures --------------------------------------------------------------------------

    def status(self, *, failures: bool = False) -> dict[str, Any]:
        """How it goes; docs/operations.md has the fields."""
        working = self._work is not None and not self._work.done()
        return report(self._order, self._planned, self._waits_for, working, failures=failures)

    def figures(self) -> Iterator[tuple[str, str, float]]:
        """Gauges for /metrics."""
        return gauges(self.status())


def seconds_of_day() -> float:
    """Seconds since the local midnight, by the clock on the wall."""
    now = time.localtime()
    return 3600.0 * now.tm_hour + 60.0 * now.tm_min + now.tm_sec


def kept_order(path: Path) -> Order | None:
    """The order that an earlier life of the daemon left, if it left a good one.

    A file that cannot be read is no reason not to serve: it is logged and left alone.
    """
    try:
        order = load_order(path)
    except (FormatError, StorageError) as error:
        _LOG.error("the plan in force is lost: %s", error)
        return None
    return None if order is None or order.cancelled else order


def _error(reason: Reason, text: str) -> IcnError:
    match reason:
        case Reason.NOT_FOUND:
            return NotFoundError(text)
        case Reason.LENGTH | Reason.LOOP | Reason.REFUSED:
            return RefusedError(text)
        case Reason.NO_SPACE:
            return StorageError(text)
        case _:
            return SourceError(text)
