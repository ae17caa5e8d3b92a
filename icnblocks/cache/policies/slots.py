"""Compact state for policies: a small number for each block, and lists of blocks as arrays.

A million blocks as Python objects with links would cost hundreds of megabytes; here a block is
a slot (an index into arrays), and a list of blocks is two machine integers per slot. This module
must not know any policy.
"""

from __future__ import annotations

from array import array
from operator import itemgetter
from typing import TYPE_CHECKING, Final

from icnblocks.naming import Digest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

NONE: Final = -1
"""No slot: the end of a chain."""
_WHOLE: Final = itemgetter(slice(None))
"""The plain bytes of a digest."""


class Slots:
    """Digest to slot and back. Slots of blocks that were dropped are used again."""

    __slots__ = ("_digests", "_free", "_numbers")

    def __init__(self) -> None:
        # Plain bytes: a Digest is 16 bytes larger, and each is looked at by the garbage collector.
        self._numbers: dict[bytes, int] = {}
        self._digests: list[bytes | None] = []
        self._free = array("i")

    def __len__(self) -> int:
        return len(self._numbers)

    def __contains__(self, digest: Digest) -> bool:
        return digest in self._numbers

    def find(self, digest: Digest) -> int | None:
        """The slot of a block, or None."""
        return self._numbers.get(digest)

    def digest(self, slot: int) -> Digest:
        """The block in a slot that is in use.

        Raises:
            LookupError: if it is not.
        """
        digest = self._digests[slot]
        if digest is None:
            raise LookupError(f"slot {slot} is empty")
        return Digest(digest)

    def add(self, digest: Digest) -> int:
        """Give a new block a slot. Slots are dense: at most one above the highest so far."""
        key = bytes(digest)
        if self._free:
            slot = self._free.pop()
            self._digests[slot] = key
        else:
            slot = len(self._digests)
            self._digests.append(key)
        self._numbers[key] = slot
        return slot

    def find_all(self, digests: Iterable[Digest]) -> list[int | None]:
        """`find` for each block."""
        return list(map(self._numbers.get, digests))

    def add_all(self, digests: Iterable[Digest]) -> list[int]:
        """`add` for each new block: first the slots that are used again, then those above all."""
        keys = list(map(_WHOLE, digests))
        again = self._free[: -len(keys) - 1 : -1].tolist()
        del self._free[len(self._free) - len(again) :]
        for slot, key in zip(again, keys, strict=False):
            self._digests[slot] = key
        above = len(self._digests)
        self._digests.extend(keys[len(again) :])
        slots = [*again, *range(above, len(self._digests))]
        self._numbers.update(zip(keys, slots, strict=True))
        return slots

    def drop(self, slot: int) -> None:
        """Take the block out of its slot and keep the slot for another."""
        digest = self._digests[slot]
        if digest is not None:
            del self._numbers[digest]
            self._digests[slot] = None
        self._free.append(slot)

    def drop_all(self, slots: list[int]) -> None:
        """`drop` for each slot in use, written out for speed."""
        numbers, digests = self._numbers, self._digests
        for slot in slots:
            del numbers[digests[slot]]  # type: ignore[arg-type]
            digests[slot] = None
        self._free.extend(slots)


class Chain:
    """Ends of one list; the links lie in `Chains`."""

    __slots__ = ("count", "first", "last")

    def __init__(self) -> None:
        self.first: int = NONE
        self.last: int = NONE
        self.count: int = 0


class Chains:
    """Links of any number of doubly linked lists of slots; a slot is in at most one of them."""

    __slots__ = ("_after", "_before")

    def __init__(self) -> None:
        self._before = array("i")
        self._after = array("i")

    def append(self, chain: Chain, slot: int) -> None:
        """Put a slot, which is in no chain, at the end of `chain`."""
        while slot >= len(self._after):
            self._before.append(NONE)
            self._after.append(NONE)
        last = chain.last
        self._before[slot] = last
        self._after[slot] = NONE
        if last == NONE:
            chain.first = slot
        else:
            self._after[last] = slot
        chain.last = slot
        chain.count += 1

    def append_all(self, chain: Chain, slots: Sequence[int]) -> None:
        """`append` for each slot, one at least, written out for speed."""
        afters, befores, before = self._after, self._before, chain.last
        more = [NONE] * (max(slots) + 1 - len(afters))
        befores.extend(more)
        afters.extend(more)
        for slot in slots:
            befores[slot] = before
            if before != NONE:
                afters[before] = slot
            before = slot
        if chain.first == NONE:
            chain.first = slots[0]
        afters[before] = NONE
        chain.last = before
        chain.count += len(slots)

    def remove(self, chain: Chain, slot: int) -> None:
        """Take a slot out of `chain`, in which it is."""
        before, after = self._before[slot], self._after[slot]
        if before == NONE:
            chain.first = after
        else:
            self._after[before] = after
        if after == NONE:
            chain.last = before
        else:
            self._before[after] = before
        chain.count -= 1

    def remove_all(self, chain: Chain, slots: Iterable[int]) -> None:
        """`remove` for each slot, written out for speed."""
        afters, befores = self._after, self._before
        first, last, count = chain.first, chain.last, chain.count
        for slot in slots:
            before, after = befores[slot], afters[slot]
            if before == NONE:
                first = after
            else:
                afters[before] = after
            if after == NONE:
                last = before
            else:
                befores[after] = before
            count -= 1
        chain.first, chain.last, chain.count = first, last, count

    def after(self, slot: int) -> int:
        """What follows a slot in its chain, or NONE."""
        return self._after[slot]

    def slots(self, chain: Chain) -> list[int]:
        """Its slots from first to last, at once."""
        slots, slot, after = [], chain.first, self._after
        while slot != NONE:
            slots.append(slot)
            slot = after[slot]
        return slots

    def walk(self, chain: Chain) -> Iterator[int]:
        """Its slots from first to last; the one given last may be removed meanwhile."""
        slot = chain.first
        while slot != NONE:
            following = self._after[slot]
            yield slot
            slot = following
