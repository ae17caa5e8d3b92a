"""Records at a daemon: published here, or cached from upstream and asked for anew in time.

An edge serves a record for its lifetime, then asks upstream; while upstream is gone it serves
the old one and says so, for a bounded time. A record is never replaced by an older one, nor by
one of a key that the earlier key did not sign for. Ages are counted on the monotonic clock; the
wall clock is read once for each record after a start, so that a jump of it changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final, TypeVar

from icnblocks.errors import (
    ConflictError,
    FormatError,
    IcnError,
    LoopError,
    NotFoundError,
    SourceError,
    StorageError,
    TrustError,
)
from icnblocks.manifest.record import (
    check_follows,
    check_time,
    fingerprint,
    open_record,
    reopen_record,
    trusted_via,
)
from icnblocks.values import dataclass
from icnblocks_daemon.coalesce import Coalesced
from icnblocks_daemon.floods import Flood
from icnblocks_daemon.holdings import shielded
from icnblocks_daemon.refusals import Failures

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from icnblocks.client.source import RecordAnswer
    from icnblocks.manifest.record import Record
    from icnblocks.naming import Name
    from icnblocks.store.catalog import Catalog
    from icnblocks_daemon.fib import Fib, Route
    from icnblocks_daemon.metrics import Metrics
    from icnblocks_daemon.upstreams import Upstreams

T = TypeVar("T")
_LOG = logging.getLogger(__name__)
PATIENCE_S: Final = 3.0
"""How long somebody waits for upstream when there is an old record to serve instead."""
RETRY_S: Final = 2.0
"""After upstream failed for a name, or its record was refused: nobody asks again for so long."""
_CONFIRMED: Final = 65_536
MISSING: Final = 16_384
"""So many names that nobody knows are remembered: anybody can make them up, and each takes 1 KB."""


@dataclass(frozen=True, slots=True)
class Served:
    """A record to be sent.

    Attributes:
        raw: the signed bytes.
        age_s: how long ago upstream confirmed it; 0 at its origin.
        stale: its lifetime is over and upstream could not be asked.
    """

    raw: bytes
    age_s: float
    stale: bool


class Records:
    """Gives and takes records.

    Args:
        catalog: where they are kept.
        fib: where to ask for a name.
        upstreams: who asks.
        metrics: counts stale and refused ones.
        lifetime_cap_s: a record is asked for anew after this at the latest.
        stale_max_s: how old one may be served while upstream is gone.
        clock: seconds that never go backward.
        wall: Unix seconds, may jump.
        negative_s: how long it is remembered that no upstream knows a name; 0 for not at all.
    """

    def __init__(
        self,
        catalog: Catalog,
        fib: Fib,
        upstreams: Upstreams,
        metrics: Metrics,
        *,
        lifetime_cap_s: float,
        stale_max_s: float,
        clock: Callable[[], float],
        wall: Callable[[], float],
        negative_s: float = 0.0,
    ) -> None:
        self._catalog = catalog
        self._fib = fib
        self._upstreams = upstreams
        self._metrics = metrics
        self._cap_s = lifetime_cap_s
        self._stale_max_s = stale_max_s
        self._clock = clock
        self._wall = wall
        self._confirmed: dict[Name, float] = {}
        self._failed: Failures[Name] = Failures(RETRY_S)
        self._missing: Failures[Name] = Failures(negative_s, MISSING)
        self._refused, self._unrenewed, self._unstored = (Flood(clock) for _ in range(3))
        self._asking: Coalesced[tuple[Name, bool], Served] = Coalesced()
        self._writing = asyncio.Lock()
        self.trusted: Mapping[str, tuple[str, ...]] = {}
        """Fingerprints by publisher, of the trust file; other keys of these are refused."""

    async def get(self, name: Name, via: frozenset[str] = frozenset()) -> Served:
        """The record to serve for a name.

        Args:
            name: whose.
            via: ids of the daemons that the question came through.

        Raises:
            LoopError: if it came through this one, and there is none that may still be served.
            NotFoundError: if nobody knows it.
            SourceError: if upstream is gone and there is none that may still be served.
            TrustError: if upstream's is not acceptable and there is no earlier one.
        """
        stored = await asyncio.to_thread(self._catalog.record, name)
        route = self._fib.route(name)
        record = None if stored is None else reopen_record(stored.raw)
        if not route:
            if stored is None or record is None:
                raise NotFoundError(f"no record of {name} here")
            return Served(stored.raw, 0.0, stale=False)
        if stored is None or record is None:
            self._upstreams.refuse_loop(via, f"record of {name}")
            self._failed.check(name, self._clock())
            self._missing.check(name, self._clock())
            return await self._asked(name, route, via, known=False)
        age = self._age(name, stored.fetched_at)
        if age < self._lifetime(record):
            return Served(stored.raw, age, stale=False)
        try:
            return await self._renewed(name, route, via)
        except (IcnError, TimeoutError) as error:
            if age > self._stale_max_s:
                if isinstance(error, IcnError):
                    raise
                raise SourceError(f"no upstream has answered for {name}") from None
            self._metrics.stale_records.inc()
            return Served(stored.raw, age, stale=True)

    def _lifetime(self, record: Record) -> float:
        """How long it is served here before it is asked for anew."""
        return min(record.lifetime, self._cap_s)

    async def _renewed(self, name: Name, route: Route, via: frozenset[str]) -> Served:
        self._upstreams.refuse_loop(via, f"record of {name}")
        self._failed.check(name, self._clock())
        return await self._asked(name, route, via, known=True)

    async def _asked(self, name: Name, route: Route, via: frozenset[str], *, known: bool) -> Served:
        """What upstream says, asked by one for all; a circle is one for whom it is."""
        return await self._asking.do(
            (name, bool(via)),
            lambda: self._ask(name, route, via, known=known),
            patience_s=PATIENCE_S if known else None,
            way=via,
            again=(LoopError, NotFoundError),
        )

    async def _ask(self, name: Name, route: Route, via: frozenset[str], *, known: bool) -> Served:
        """Ask upstream and keep what it says, if it may be kept."""
        self._failed.check(name, self._clock())  # noted by what this one waited for
        self._missing.check(name, self._clock())
        refused: list[IcnError] = []
        try:
            served = await self._upstreams.record(
                route, name, via, lambda answer: self._served(name, answer, refused)
            )
        except IcnError as error:
            self._note(name, error, failed=known or bool(refused))
            if known and (times := self._unrenewed.due()):
                told = {"record": str(name), "times": times}
                _LOG.warning("a record was not renewed: %s", error, extra=told)
            raise
        self._failed.forget(name)
        self._missing.forget(name)
        return served

    def _note(self, name: Name, error: IcnError, *, failed: bool) -> None:
        if isinstance(error, LoopError):  # it says which way the question came, nothing of the name
            return
        if failed:  # else anybody could make us remember names while upstream is gone
            self._failed.note(name, error, self._clock())
        elif isinstance(error, NotFoundError):
            self._missing.note(name, error, self._clock())

    async def _served(self, name: Name, answer: RecordAnswer, refused: list[IcnError]) -> Served:
        """Keep what an upstream said, if it may be kept; if not, `refused` has why.

        Raises:
            TrustError, FormatError: if it may not.
        """
        try:
            kept_age = await self._alone(lambda: self._accept(name, answer))
        except (TrustError, FormatError) as error:
            refused.append(error)
            self._metrics.refused_records.labels(error.code).inc()
            if times := self._refused.due():
                told = {"record": str(name), "times": times}
                _LOG.error("a record was refused: %s", error, extra=told)
            raise
        if kept_age is not None:  # else the one that is here is as old as before
            self._confirm(name, self._clock() - kept_age)
        return Served(answer.raw, max(0.0, answer.age_s), stale=answer.stale)

    def _accept(self, name: Name, answer: RecordAnswer) -> float | None:
        """Check an upstream's record against everything known, and keep it. On a thread.

        Returns:
            How old it is from now on; None if the disk would not take it.
        """
        record = open_record(answer.raw)
        if record.name != name:
            raise TrustError(f"asked for {name}, got a record of {record.name}")
        old = self._standing(name)
        if record != old:  # what was accepted once stays so, also when its key is replaced
            self._check_key(record)
        if old is not None:
            check_follows(old, record)
        # It is as old here as it was there; what upstream had stale is stale here too, though we
        # might have it for longer: it is asked for anew.
        age = max(0.0, answer.age_s, self._lifetime(record) if answer.stale else 0.0)
        try:
            self._keep(record, answer.raw, age)
        except StorageError as error:
            if times := self._unstored.due():
                told = {"times": times}
                _LOG.error("a record is passed on, and cannot be stored: %s", error, extra=told)
            return None
        return age

    def put_checked(self, name: Name, raw: bytes) -> Record:
        """Is this a record that may be published here now? On a thread.

        Raises:
            FormatError: if it is no record, or one of another name.
            TrustError: if its key or date is not acceptable.
            ConflictError: if it is older than what is here.
        """
        record = open_record(raw)
        if record.name != name:
            raise FormatError(f"this is a record of {record.name}, not of {name}")
        check_time(record, self._wall())
        self._check_key(record)
        old = self._standing(name)
        if old is not None:
            if record.seq < old.seq or (record.seq == old.seq and record != old):
                raise ConflictError(
                    f"the record of {name} here has number {old.seq}; this one {record.seq}",
                    hint="somebody else published it meanwhile: look at that, then run it again",
                )
            check_follows(old, record)
        return record

    async def put(self, name: Name, raw: bytes) -> Record:
        """Publish a record here; it is on disk when this returns.

        Once begun it is done to its end, also if the caller is cancelled.

        Raises:
            FormatError, TrustError, ConflictError: as `put_checked`.
            StorageError: if the disk refuses.
        """

        def work() -> Record:
            record = self.put_checked(name, raw)
            self._keep(record, raw, 0.0)
            return record

        record = await self._alone(work)
        self._failed.forget(name)
        self._missing.forget(name)
        return record

    async def _alone(self, work: Callable[[], T]) -> T:
        """Run what writes on a thread, one at a time: to its end, also if the caller leaves."""

        async def run() -> T:
            async with self._writing:
                return await asyncio.to_thread(work)

        return await shielded(run())

    def _standing(self, name: Name) -> Record | None:
        """The record here that a new one has to follow.

        One whose key the trust file has overruled binds nobody any more and is forgotten: so an
        operator gets out of a lost key. Of one that has rotted only the number still binds.
        """
        stored = self._catalog.record(name)
        record = None if stored is None else reopen_record(stored.raw)
        if record is None:
            return None
        named = self.trusted.get(name.publisher)
        if named is None or any(trusted_via(record, good) for good in named):
            return record
        self._catalog.remove_record(name)
        return None

    def _check_key(self, record: Record) -> None:
        publisher, key = record.name.publisher, fingerprint(record.key)
        if publisher in self.trusted:
            if not any(trusted_via(record, good) for good in self.trusted[publisher]):
                raise TrustError(
                    f"{record.name} is signed by {key}, which the trust file does not name"
                )
            return
        known = self._catalog.publisher_key(publisher)
        if known is not None and not trusted_via(record, known):
            raise TrustError(
                f"the key of {publisher} changed from {known} to {key}, and the old key did not"
                " sign that",
                hint="if it is meant, name the new key in the trust file",
            )

    def _keep(self, record: Record, raw: bytes, age_s: float) -> None:
        key, stored = fingerprint(record.key), self._catalog.record(record.name)
        rotted = stored.raw if stored and reopen_record(stored.raw) is None else None
        when = self._wall() - age_s
        self._catalog.put_record(record.name, raw, record.seq, key, when, rotted)
        publisher = record.name.publisher
        known = self._catalog.publisher_key(publisher)
        # Never back: a record of a key that was replaced may still be kept.
        follows = known is None or publisher in self.trusted or trusted_via(record, known)
        if key != known and follows:
            self._catalog.set_publisher_key(record.name.publisher, key)

    def _confirm(self, name: Name, when: float) -> None:
        if len(self._confirmed) >= _CONFIRMED:
            self._confirmed.clear()  # their ages are then read from the catalog once more
        self._confirmed[name] = when

    def _age(self, name: Name, fetched_at: float) -> float:
        """Seconds since upstream confirmed it."""
        if name not in self._confirmed:
            age = self._wall() - fetched_at
            # Dated later than now: the clock was set back. All that is known is that it is not
            # of this process's time, so it is asked for at once, and counts as expired just now.
            self._confirm(name, self._clock() - (age if age >= 0 else self._cap_s))
        return max(0.0, self._clock() - self._confirmed[name])

    async def close(self) -> None:
        """Ask nobody any more; return when nothing is being written."""
        await self._asking.close()
        async with self._writing:
            pass
