"""What an order comes to: names followed, bases added, sizes summed, and whether it all fits.

Names and manifests are asked for where devices' are, a few at a time; payload is not. This
module must not pin, fetch blocks or keep anything.
"""

from __future__ import annotations

import asyncio
from dataclasses import field
from typing import TYPE_CHECKING, Final, Protocol

from icnblocks.errors import IcnError, RefusedError, WithdrawnError
from icnblocks.limits import MAX_BASES
from icnblocks.manifest.codec import decode
from icnblocks.manifest.record import open_record
from icnblocks.values import dataclass
from icnblocks_daemon.prefetch_order import Entry

if TYPE_CHECKING:
    from collections.abc import Iterable

    from icnblocks.manifest.model import Manifest
    from icnblocks.naming import Digest, Name
    from icnblocks_daemon.holdings import Holdings
    from icnblocks_daemon.prefetch_order import Order
    from icnblocks_daemon.records import Served

AT_ONCE: Final = 4
"""Names and manifests asked for at a time: half of the threads are left to devices."""
_TASKS: Final = 256


class RecordsOf(Protocol):
    """Who knows records (records.py)."""

    async def get(self, name: Name) -> Served:
        """The record of a name, from here or from upstream."""
        ...


class ManifestsOf(Protocol):
    """Who knows manifests (manifests.py)."""

    async def get(self, digest: Digest, name: Name | None) -> bytes:
        """A manifest, from here or from upstream."""
        ...


@dataclass(slots=True)
class Survey:
    """The sum of an order: what fits of it.

    Attributes:
        blocks: of each model that fits, by the digest of its manifest.
        planned: bytes of all of them, each block once.
        pinned: bytes that all that is pinned takes in the store, also by others than the order.
        footprint: bytes that this and the rest of the order take there.
    """

    blocks: dict[Digest, tuple[Digest, ...]] = field(default_factory=dict)
    planned: int = 0
    pinned: int = 0
    footprint: int = 0


class Surveyor:
    """Looks at orders.

    Args:
        records: follows names.
        manifests: gives manifests.
        holdings: what is here already, and what a block takes.
    """

    def __init__(self, records: RecordsOf, manifests: ManifestsOf, holdings: Holdings) -> None:
        self._records = records
        self._manifests = manifests
        self._holdings = holdings

    async def manifest(self, entry: Entry) -> Manifest:
        """The manifest of an entry; the entry's digest is set then.

        Raises:
            IcnError: if the name or the manifest cannot be had, or must not be believed.
        """
        if entry.digest is None and entry.name is not None:
            record = open_record((await self._records.get(entry.name)).raw)
            if record.manifest is None:
                raise WithdrawnError(f"{entry.name} was withdrawn by its publisher")
            entry.digest = record.manifest
        assert entry.digest is not None
        data = await self._manifests.get(entry.digest, entry.name)
        return await asyncio.to_thread(decode, data)

    async def survey(self, order: Order, others: Iterable[Manifest], *, strict: bool) -> Survey:
        """Look at a whole order: what is known of its entries afterwards stands in them.

        Pinned models count first, then the others as they stand; a model whose blocks do not fit
        beside those before it fails. The bases of adapters are added, since a pull of an adapter
        brings its base along; where there is no room for one, its adapter is still brought.

        Args:
            order: changed in place.
            others: models that are pinned here by something else.
            strict: refuse an order whose pins do not fit, instead of leaving some out.

        Raises:
            RefusedError: if it is refused.
        """
        await self._follow(order.entries)
        sums = await asyncio.to_thread(_Sums, self._holdings, others)
        look = _Look(self, order, sums)
        await look.weigh(pinned=True, force=strict)
        capacity = self._holdings.content.capacity
        if strict and capacity is not None and sums.survey.pinned > capacity:
            raise RefusedError(
                f"the pins of the plan come to {sums.survey.pinned} bytes on disk, and the"
                f" capacity is {capacity}",
                hint="pin less, or raise the daemon's `capacity`",
            )
        await look.weigh(pinned=False, force=False)
        order.entries[:] = look.with_bases()
        return sums.survey

    async def _follow(self, entries: list[Entry]) -> None:
        """Ask for names and manifests that are not known here yet, some at once."""
        turn = asyncio.Semaphore(AT_ONCE)

        async def follow(entry: Entry) -> None:
            async with turn:
                try:
                    await self.manifest(entry)
                except IcnError as error:
                    entry.fail(error)

        todo = [entry for entry in entries if entry.progress == "todo"]
        for begin in range(0, len(todo), _TASKS):
            await asyncio.gather(*(follow(entry) for entry in todo[begin : begin + _TASKS]))


class _Look:
    """One look at one order."""

    def __init__(self, surveyor: Surveyor, order: Order, sums: _Sums) -> None:
        self._surveyor = surveyor
        self._order = order
        self._sums = sums
        self._known = {
            entry.digest: entry for entry in reversed(order.entries) if entry.digest is not None
        }
        self._before: dict[Entry, Entry] = {}

    async def weigh(self, *, pinned: bool, force: bool) -> None:
        """Count in the pinned models, or the others, and then the bases that they need."""
        bases: list[Entry] = []  # many adapters may have the same: it is weighed once
        for entry in self._order.entries:
            if entry.pin is pinned and entry.progress != "failed" and entry.digest is not None:
                added = entry.base_of is not None
                bases += [entry] if added else await self._weigh(entry, force=force)
        for _ in range(MAX_BASES):
            once = dict.fromkeys(bases)
            bases = [below for base in once for below in await self._weigh(base, force=False)]

    async def _weigh(self, entry: Entry, *, force: bool) -> list[Entry]:
        """Count in one model; the base that its pull would bring along, if that is wanted."""
        entry.error = entry.code = ""
        try:
            manifest = await self._surveyor.manifest(entry)
            await asyncio.to_thread(self._sums.add, entry, manifest, force=force)
        except IcnError as error:
            entry.fail(error)
            return []
        return self._base(entry, manifest) if self._order.bases else []

    def _base(self, entry: Entry, manifest: Manifest) -> list[Entry]:
        """The entry of a model's base, made if there is none; it is pinned if the model is."""
        if manifest.base is None:
            return []
        digest, name = manifest.base.manifest, manifest.base.name
        base = self._known.get(digest)
        if base is None:
            base = Entry(str(name), entry.pin, name, digest, base_of=entry.model)
            self._known[digest] = self._before[entry] = base
        base.pin |= entry.pin
        return [base] if base.progress != "failed" else []

    def with_bases(self) -> list[Entry]:
        """The entries of the order, with the bases that were added in their places."""
        entries: list[Entry] = []
        for entry in self._order.entries:
            chain = [entry]
            while chain[-1] in self._before:
                chain.append(self._before[chain[-1]])
            entries += reversed(chain)
        return entries


class _Sums:
    """Adds up models that share blocks, each block once. For threads, one at a time."""

    def __init__(self, holdings: Holdings, others: Iterable[Manifest]) -> None:
        self._contains = holdings.contains
        self._footprint = holdings.content.store.footprint
        self._capacity = holdings.content.capacity
        self._counted: dict[Digest, Digest] = {}
        self.survey = Survey()
        for manifest in others:
            self._count({d: n for d, n in manifest.lengths().items() if d not in self._counted})
        self.survey.pinned = self.survey.footprint

    def add(self, entry: Entry, manifest: Manifest, *, force: bool) -> None:
        """Count a model in; sets what of it is due.

        Raises:
            RefusedError: if it does not fit, unless `force`.
        """
        assert entry.digest is not None
        if entry.digest in self.survey.blocks:
            return
        lengths = manifest.lengths()
        fresh = {digest: size for digest, size in lengths.items() if digest not in self._counted}
        more = sum(map(self._footprint, fresh.values()))
        if self._capacity is not None and not force:
            room = self._capacity - self.survey.footprint
            if more > room:
                raise RefusedError(
                    f"no room: {more} bytes more, and {max(room, 0)} of the capacity are left"
                    " beside what is pinned and what stands before it"
                )
        self._count(fresh)
        if entry.progress == "todo":
            entry.due = sum(size for digest, size in fresh.items() if not self._contains(digest))
        # One object for each digest, however many models share the block.
        self.survey.blocks[entry.digest] = tuple(self._counted[digest] for digest in lengths)
        self.survey.planned += sum(fresh.values())
        if entry.pin:
            self.survey.pinned = self.survey.footprint

    def _count(self, lengths: dict[Digest, int]) -> None:
        for digest, size in lengths.items():
            self._counted.setdefault(digest, digest)
            self.survey.footprint += self._footprint(size)
