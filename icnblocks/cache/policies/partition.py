"""Which blocks are used by the same models: the partition that `sharing` thinks in.

Blocks that exactly the same manifests list form a group. A base with a thousand variants is a
handful of groups, so models hold groups instead of blocks, and a block costs a number in an
array. A manifest that is learnt splits the groups it cuts through; one that is forgotten lets
groups with the same users flow together again.

A block that is here is *held*, up to its group's quota, or it is *passing through*: in one line of
all such blocks, in the order in which they came. This module keeps those books and says which
groups got something to give (`dirty`); it must not rank or choose.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Final

from icnblocks.cache.policies.groups import Group, Model
from icnblocks.cache.policies.slots import Chain, Chains, Slots

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from icnblocks.naming import Digest

_HERE, _PINNED, _HELD = 1, 2, 4
_NO_GROUP: Final = 0
"""Number of the group of blocks that no known manifest lists."""


class Partition:
    """Blocks, groups and models, and what of them is here."""

    def __init__(self) -> None:
        self.slots = Slots()
        self._members = Chains()
        self._lines = Chains()
        self._line = Chain()
        self._group_of = array("i")
        self._sizes = array("q")
        self._flags = bytearray()
        self.loose = Group(_NO_GROUP, {})
        self.groups: dict[int, Group] = {_NO_GROUP: self.loose}
        self.models: dict[Digest, Model] = {}
        self._by_signature: dict[int, Group] = {}
        self._variants: dict[Digest, dict[int, Model]] = {}
        self._next_group = _NO_GROUP + 1
        self._next_model = 1
        self.largest = 1
        """Bytes of the largest block met so far."""
        self.pinned_bytes = 0
        self.shape = 0
        """Rises whenever groups or models are made or go, or turn out to be of another size."""
        self.dirty: dict[Group, None] = {}
        """Groups that may have got something to give; the policy empties it."""

    # --- blocks ---------------------------------------------------------------------------

    def is_here(self, slot: int) -> bool:
        """Is the block here?"""
        return bool(self._flags[slot] & _HERE)

    def insert(self, digest: Digest, size: int) -> bool:
        """The block came; returns False if it was here already."""
        slot = self.slots.find(digest)
        if slot is None:
            [slot] = self._add((digest,), (size,), self.loose)
        return self._come(slot, size)

    def insert_all(self, blocks: Mapping[Digest, int]) -> None:
        """`insert` for each block; for one that was here already, `touch`."""
        slots = self.slots.find_all(blocks)
        new = [digest for digest, slot in zip(blocks, slots, strict=True) if slot is None]
        if new:
            self._add(new, [blocks[digest] for digest in new], self.loose)
            slots = self.slots.find_all(blocks)
        for slot, size in zip(slots, blocks.values(), strict=True):
            if slot is not None and not self._come(slot, size):
                self.touch(slot)

    def _come(self, slot: int, size: int) -> bool:
        """A block that is known came; False if it was here already."""
        if self._flags[slot] & _HERE:
            return False
        group = self.groups[self._group_of[slot]]
        if size != self._sizes[slot]:  # a manifest lied: now the block itself is here
            self._resize(slot, group, size)
        group.here_bytes += size
        self._settle(slot, group, size)
        return True

    def _resize(self, slot: int, group: Group, size: int) -> None:
        """A block that is not here has another size than was said."""
        group.known_bytes += size - self._sizes[slot]
        self._sizes[slot] = size
        self.largest = max(self.largest, size)
        self.shape += 1

    def remove(self, slot: int) -> None:
        """The block, which was here, left."""
        group = self.groups[self._group_of[slot]]
        self._unsettle(slot, group)
        if self._flags[slot] & _PINNED:
            group.pinned_bytes -= self._sizes[slot]
            self.pinned_bytes -= self._sizes[slot]
        self._flags[slot] = 0
        group.here_bytes -= self._sizes[slot]
        if group is self.loose:
            self._members.remove(group.others, slot)
            group.known -= 1
            group.known_bytes -= self._sizes[slot]
            self.slots.drop(slot)

    def pin(self, slot: int) -> None:
        """Take the block, which is here, from what may be evicted."""
        if self._flags[slot] & (_HERE | _PINNED) == _HERE:
            group, size = self.groups[self._group_of[slot]], self._sizes[slot]
            self._unsettle(slot, group)
            self._flags[slot] = _HERE | _PINNED
            group.pinned_bytes += size
            self.pinned_bytes += size

    def unpin(self, slot: int) -> None:
        """Give it back."""
        if self._flags[slot] & _PINNED:
            group, size = self.groups[self._group_of[slot]], self._sizes[slot]
            group.pinned_bytes -= size
            self.pinned_bytes -= size
            self._settle(slot, group, size)

    def touch(self, slot: int) -> None:
        """A block of no known model was asked for: to the end of the line with it."""
        if self._flags[slot] == _HERE and self._group_of[slot] == _NO_GROUP:
            self._lines.remove(self._line, slot)
            self._lines.append(self._line, slot)

    def passing(self) -> Iterator[int]:
        """What passes through, the oldest first; the one given last may be removed meanwhile."""
        return self._lines.walk(self._line)

    def held(self, group: Group) -> Iterator[int]:
        """What a group holds; the one given last may be removed meanwhile."""
        return self._members.walk(group.held)

    def _settle(self, slot: int, group: Group, size: int) -> None:
        """Hold a block that is here, or put it in the line."""
        if group.held_bytes + size <= group.quota:
            self._flags[slot] = _HERE | _HELD
            group.held_bytes += size
            self._members.remove(group.others, slot)
            self._members.append(group.held, slot)
            if group.held.count == 1:
                self.dirty[group] = None
        else:
            self._flags[slot] = _HERE
            self._lines.append(self._line, slot)

    def _unsettle(self, slot: int, group: Group) -> None:
        """Neither held nor in the line."""
        flags = self._flags[slot]
        if flags & _HELD:
            group.held_bytes -= self._sizes[slot]
            self._members.remove(group.held, slot)
            self._members.append(group.others, slot)
        elif flags == _HERE:
            self._lines.remove(self._line, slot)

    def grant(self, group: Group, quota: int, rank: float) -> None:
        """Let a group hold so many bytes from now on; what it holds above stays until it leaves."""
        raised = quota > group.quota
        if raised or quota != group.quota or rank != group.rank:
            self.dirty[group] = None
        group.quota, group.rank = quota, rank
        if raised and group.here_bytes > group.held_bytes + group.pinned_bytes:
            if group.here_bytes == group.known_bytes <= quota and not group.pinned_bytes:
                self._hold_all(group)
            else:
                self._hold_more(group)

    def _hold_more(self, group: Group) -> None:
        """Hold blocks that pass through, as many as the quota lets."""
        for slot in self._members.walk(group.others):
            size = self._sizes[slot]
            if self._flags[slot] == _HERE and group.held_bytes + size <= group.quota:
                self._lines.remove(self._line, slot)
                self._settle(slot, group, size)

    def _hold_all(self, group: Group) -> None:
        """Hold a group that is all here. After a start, a plan holds most of the store at once."""
        passing = self._members.slots(group.others)
        self._lines.remove_all(self._line, passing)
        flags = self._flags
        for slot in passing:
            flags[slot] = _HERE | _HELD
        if group.held.count:
            for slot in passing:
                self._members.remove(group.others, slot)
                self._members.append(group.held, slot)
        else:
            group.held, group.others = group.others, group.held
        group.held_bytes = group.known_bytes
        self.dirty[group] = None

    def _add(self, digests: Sequence[Digest], sizes: Sequence[int], group: Group) -> list[int]:
        """Get to know blocks, perhaps very many; they are not here yet."""
        slots = self.slots.add_all(digests)
        more = max(0, max(slots) + 1 - len(self._flags))
        again = len(slots) - more
        for slot, size in zip(slots[:again], sizes, strict=False):
            self._group_of[slot] = group.number
            self._sizes[slot] = size
            self._flags[slot] = 0
        self._group_of.extend([group.number] * more)
        self._sizes.extend(sizes[again:])
        self._flags.extend(bytes(more))
        self.largest = max(self.largest, *sizes)
        group.known += len(slots)
        group.known_bytes += sum(sizes)
        self._members.append_all(group.others, slots)
        return slots

    # --- models ---------------------------------------------------------------------------

    def learn(self, digest: Digest, blocks: Mapping[Digest, int], base: Digest | None) -> Model:
        """A manifest, not known so far, became known. Linear in its blocks."""
        model = Model(self._next_model, digest, base)
        self._next_model += 1
        self.shape += 1
        if base is not None:
            self._variants.setdefault(base, {})[model.number] = model
        self.models[digest] = model
        fresh = Group(self._next_group, {})
        met: dict[int, list[int]] = {}
        new: list[Digest] = []
        for block, slot in zip(blocks, self.slots.find_all(blocks), strict=True):
            if slot is None:
                new.append(block)
            else:
                met.setdefault(self._group_of[slot], []).append(slot)
        if new:
            self._add(new, [blocks[block] for block in new], fresh)
            self._next_group += 1
            self.groups[fresh.number] = fresh
            self._join(fresh, model)
        for number, slots in met.items():
            group = self.groups[number]
            if number == _NO_GROUP or len(slots) < group.known:
                group = self._split(group, slots)
            self._join(group, model)
        return model

    def forget(self, model: Model) -> None:
        """A manifest is no longer known."""
        self.shape += 1
        if model.base is not None:
            del self._variants[model.base][model.number]
            if not self._variants[model.base]:
                del self._variants[model.base]
        for group in list(model.groups.values()):
            self._part(group, model)
        del self.models[model.digest]

    def kin(self, model: Model, part: float) -> list[Model]:
        """Other models that share at least that part of its bytes in one group, or its base."""
        found: dict[int, Model] = {}
        if model.groups:
            shared = [group for group in model.groups.values() if len(group.users) > 1]
            largest = max(shared, key=_bytes, default=self.loose)
            if largest.known_bytes >= part * model.size:
                found.update(largest.users)
        if model.base is not None:
            found.update(self._variants[model.base])
            base = self.models.get(model.base)
            if base is not None:
                found[base.number] = base
        found.pop(model.number, None)
        return list(found.values())

    # --- groups ---------------------------------------------------------------------------

    def _join(self, group: Group, model: Model) -> None:
        """Make `model` a user of the group."""
        if self._by_signature.get(group.signature) is group:
            del self._by_signature[group.signature]
        group.users[model.number] = model
        group.signature ^= model.signature
        self._by_signature[group.signature] = group
        model.groups[group.number] = group

    def _part(self, group: Group, model: Model) -> None:
        """Make `model` no user of the group any more."""
        if self._by_signature.get(group.signature) is group:
            del self._by_signature[group.signature]
        del group.users[model.number], model.groups[group.number]
        group.signature ^= model.signature
        twin = self.loose
        if group.users:
            twin = self._by_signature.setdefault(group.signature, group)
        if twin is not group and twin.users.keys() == group.users.keys():
            self._merge(group, twin)

    def _split(self, group: Group, slots: list[int]) -> Group:
        """Move some of a group's blocks into a new group with the same users."""
        part = Group(self._next_group, dict(group.users))
        self._next_group += 1
        self.groups[part.number] = part
        part.signature, part.rank = group.signature, group.rank
        bytes_moved = sum(self._sizes[slot] for slot in slots)
        part.quota = group.quota * bytes_moved // max(group.known_bytes, 1)
        group.quota -= part.quota
        for slot in slots:
            self._move(slot, group, part)
        for model in part.users.values():
            model.groups[part.number] = part
        self.dirty[group] = self.dirty[part] = None
        return part

    def _merge(self, group: Group, twin: Group) -> None:
        """Let the smaller of two groups with the same users flow into the other."""
        if twin.users and twin.known < group.known:
            group, twin = twin, group
            self._by_signature[twin.signature] = twin
        blocks = self._members.slots(group.held) + self._members.slots(group.others)
        if not twin.users:
            flags = self._flags
            self.slots.drop_all([slot for slot in blocks if not flags[slot] & _HERE])
            blocks = [slot for slot in blocks if flags[slot] & _HERE]
        for slot in blocks:
            self._move(slot, group, twin)
        for model in twin.users.values():
            del model.groups[group.number]
        del self.groups[group.number]
        group.version += 1
        self.dirty.pop(group, None)
        if twin.users:
            twin.quota += group.quota
            self.dirty[twin] = None

    def _move(self, slot: int, group: Group, to: Group) -> None:
        """Move one block from group to group."""
        flags, size = self._flags[slot], self._sizes[slot]
        held = flags & _HELD
        self._members.remove(group.held if held else group.others, slot)
        if held and to is self.loose:
            self._flags[slot] = _HERE
            self._lines.append(self._line, slot)
        self._group_of[slot] = to.number
        keeps = held and to is not self.loose
        self._members.append(to.held if keeps else to.others, slot)
        group.known -= 1
        group.known_bytes -= size
        to.known += 1
        to.known_bytes += size
        if flags & _HERE:
            group.here_bytes -= size
            to.here_bytes += size
        if held:
            group.held_bytes -= size
            to.held_bytes += size if keeps else 0
        if flags & _PINNED:
            group.pinned_bytes -= size
            to.pinned_bytes += size


def _bytes(group: Group) -> int:
    return group.known_bytes
