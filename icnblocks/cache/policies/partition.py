"""Which blocks are used by the same models: the partition that `sharing` thinks in.

Blocks that exactly the same manifests list form a group. A base with a thousand variants is a
handful of groups, so models hold groups instead of blocks, and a block costs a number in an
array. A manifest that is learnt splits the groups it cuts through; one that is forgotten lets
groups with the same users flow together again.

A model *holds* its groups while it is complete or arriving; an adapter then also *leans on* the
groups of its base, if that is complete. A group held by one model that no adapter leans on is
exclusive to it. This module keeps those counts and says what changed (`dirty`); it must not score
or choose.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Final

from icnblocks.cache.policies.groups import Group, Model
from icnblocks.cache.policies.slots import Chains, Slots

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from icnblocks.naming import Digest

_RESIDENT, _PINNED = 1, 2
_NO_GROUP: Final = 0
"""Number of the group of blocks that no known manifest lists."""


class Partition:
    """Blocks, groups and models, and who holds what."""

    def __init__(self) -> None:
        self.slots = Slots()
        self.chains = Chains()
        self._group_of = array("i")
        self._sizes = array("I")
        self._flags = bytearray()
        self.asked = array("d")
        """When each block was last asked for, seconds (kept up for loose blocks only)."""
        self.loose = Group(_NO_GROUP, {})
        self.groups: dict[int, Group] = {_NO_GROUP: self.loose}
        self.models: dict[Digest, Model] = {}
        self._by_number: dict[int, Model] = {}
        self._by_signature: dict[int, Group] = {}
        self._adapters: dict[Digest, dict[int, Model]] = {}
        self._leaning: Counter[Digest] = Counter()
        """Adapters of each base, known or not, that hold their groups."""
        self._adapter_weight: defaultdict[Digest, float] = defaultdict(float)
        self._next_group = _NO_GROUP + 1
        self._next_model = 1
        self.dirty: dict[Group | Model, None] = {}
        """Groups and models whose score or standing changed; the policy empties it."""

    # --- blocks ---------------------------------------------------------------------------

    def resident(self, slot: int) -> bool:
        """Is the block here?"""
        return bool(self._flags[slot] & _RESIDENT)

    def group_of(self, slot: int) -> Group:
        """The group of the block."""
        return self.groups[self._group_of[slot]]

    def insert(self, digest: Digest, size: int, now: float) -> bool:
        """The block came; returns False if it was here already."""
        slot = self.slots.find(digest)
        if slot is None:
            self._insert_loose(digest, size, now)
            return True
        if self._flags[slot] & _RESIDENT:
            return False
        self._flags[slot] = _RESIDENT
        self.asked[slot] = now
        group = self.groups[self._group_of[slot]]
        group.resident += 1
        self.chains.remove(group.others, slot)
        self._offer(group, slot)
        if group.users and group.resident == group.known:
            for model in list(group.users.values()):
                model.missing -= 1
                self._settle(model)
        return True

    def _insert_loose(self, digest: Digest, size: int, now: float) -> None:
        """Opening a store comes here for every block, so it is written out."""
        loose, slot = self.loose, self.slots.add(digest)
        if slot == len(self._flags):
            self._group_of.append(_NO_GROUP)
            self._sizes.append(size)
            self._flags.append(_RESIDENT)
            self.asked.append(now)
        else:
            self._group_of[slot] = _NO_GROUP
            self._sizes[slot] = size
            self._flags[slot] = _RESIDENT
            self.asked[slot] = now
        loose.known += 1
        loose.known_bytes += size
        loose.resident += 1
        self.chains.append(loose.evictable, slot)
        if loose.evictable.count == 1:
            self.dirty[loose] = None

    def remove(self, slot: int) -> None:
        """The block, which was here, left."""
        group = self.groups[self._group_of[slot]]
        was_whole = group.whole
        if not self._flags[slot] & _PINNED:
            self.chains.remove(group.evictable, slot)
            self.chains.append(group.others, slot)
        self._flags[slot] = 0
        group.resident -= 1
        if not group.users:
            self._drop(slot)
        elif was_whole:
            for model in list(group.users.values()):
                model.missing += 1
                self._settle(model)

    def pin(self, slot: int) -> None:
        """Take the block, which is here, from what may be evicted."""
        if self._flags[slot] == _RESIDENT:
            group = self.group_of(slot)
            self._flags[slot] |= _PINNED
            self.chains.remove(group.evictable, slot)
            self.chains.append(group.others, slot)

    def unpin(self, slot: int, now: float) -> None:
        """Give it back."""
        if self._flags[slot] & _PINNED:
            self._flags[slot] &= ~_PINNED
            self.asked[slot] = now
            group = self.group_of(slot)
            self.chains.remove(group.others, slot)
            self._offer(group, slot)

    def touch(self, slot: int, now: float) -> None:
        """A loose block was asked for: it goes to the end of its chain."""
        if self._flags[slot] == _RESIDENT and self._group_of[slot] == _NO_GROUP:
            self.asked[slot] = now
            self.chains.remove(self.loose.evictable, slot)
            self.chains.append(self.loose.evictable, slot)

    def _add(self, digest: Digest, size: int, group: Group) -> None:
        """Get to know a block that is not here."""
        slot = self.slots.add(digest)
        if slot == len(self._flags):
            self._group_of.append(group.number)
            self._sizes.append(size)
            self._flags.append(0)
            self.asked.append(0.0)
        else:
            self._group_of[slot] = group.number
            self._sizes[slot] = size
            self._flags[slot] = 0
        group.known += 1
        group.known_bytes += size
        self.chains.append(group.others, slot)

    def _drop(self, slot: int) -> None:
        """Forget a block that is not here."""
        group = self.groups[self._group_of[slot]]
        self.chains.remove(group.others, slot)
        group.known -= 1
        group.known_bytes -= self._sizes[slot]
        self.slots.drop(slot)

    def _offer(self, group: Group, slot: int) -> None:
        """Put a block at the end of what its group can give."""
        self.chains.append(group.evictable, slot)
        if group.evictable.count == 1:
            self._mark(group)

    def _mark(self, group: Group) -> None:
        self.dirty[group] = None
        holder = self.sole_holder(group)
        if holder is not None:
            self.dirty[holder] = None

    # --- models ---------------------------------------------------------------------------

    def learn(self, digest: Digest, blocks: Mapping[Digest, int], base: Digest | None) -> None:
        """A manifest became known. Linear in its blocks."""
        if digest in self.models:
            return
        model = Model(self._next_model, digest, base)
        self._next_model += 1
        if base is not None:
            self._adapters.setdefault(base, {})[model.number] = model
        self.models[digest] = self._by_number[model.number] = model
        fresh = Group(self._next_group, {})
        met: dict[int, list[int]] = {}
        for block, size in blocks.items():
            slot = self.slots.find(block)
            if slot is None:
                self._add(block, size, fresh)
            else:
                met.setdefault(self._group_of[slot], []).append(slot)
        if fresh.known:
            self._next_group += 1
            self.groups[fresh.number] = fresh
            self._join(fresh, model)
        for number, slots in met.items():
            group = self.groups[number]
            if number == _NO_GROUP or len(slots) < group.known:
                group = self._split(group, slots)
            self._join(group, model)
        self._settle(model)

    def forget(self, digest: Digest) -> None:
        """A manifest is no longer known."""
        model = self.models.get(digest)
        if model is None:
            return
        model.arriving = False
        self._hold(model, holding=False)
        model.version += 1
        if model.base is not None:
            del self._adapters[model.base][model.number]
            if not self._adapters[model.base]:
                del self._adapters[model.base]
                self._leaning.pop(model.base, None)
                self._adapter_weight.pop(model.base, None)
            else:
                self._adapter_weight[model.base] -= model.weight
        for group in list(model.groups.values()):
            self._part(group, model)
        del self.models[digest], self._by_number[model.number]
        self.dirty.pop(model, None)

    def set_arriving(self, model: Model, *, arriving: bool) -> None:
        """A pull of it began, or is over."""
        model.arriving = arriving
        self._settle(model)

    def weigh(self, model: Model, more: float) -> None:
        """Add to the weight of a model."""
        model.weight += more
        self.dirty[model] = None
        if model.base is not None:
            self._adapter_weight[model.base] += more
        for group in model.groups.values():
            group.weight += more
            self.dirty[group] = None

    def fade(self, halvings: int) -> None:
        """Halve all weights so many times; a power of two keeps their order exactly."""
        units: list[Group | Model] = [*self.groups.values(), *self.models.values()]
        for unit in units:
            unit.weight = math.ldexp(unit.weight, -halvings)
            self.dirty[unit] = None
        for base in self._adapter_weight:
            self._adapter_weight[base] = math.ldexp(self._adapter_weight[base], -halvings)

    def base_share(self, model: Model) -> float:
        """How many of an adapter's pulls also need its base from here, 0 to 1.

        Judged from the requests for the base and for all its adapters: who has the base
        already does not ask for it.
        """
        base = self.models.get(model.base) if model.base is not None else None
        if base is None or model.base is None:
            return 0.0
        adapters = self._adapter_weight[model.base]
        return min(1.0, base.weight / adapters) if adapters > 0 else 0.0

    def base_lacks(self, model: Model) -> bool:
        """Is it an adapter of a base that is known, but neither here nor arriving?"""
        base = self.models.get(model.base) if model.base is not None else None
        return base is not None and not base.holding

    def sole_holder(self, group: Group) -> Model | None:
        """The model to which the group is exclusive, if there is one."""
        if group.holders == 1 and not group.leaners:
            return self._by_number[group.holder_sum]
        return None

    def exclusive_groups(self, model: Model) -> Iterator[Group]:
        """The groups that would be nobody's if the model let go of them."""
        for group in list(model.groups.values()):
            if self.sole_holder(group) is model:
                yield group

    def _settle(self, model: Model) -> None:
        """Let a model hold its groups or let go of them, as it should."""
        if model.complete:
            model.arriving = False
        self._hold(model, holding=model.complete or model.arriving)
        self._lean(model)

    def _hold(self, model: Model, *, holding: bool) -> None:
        if model.holding == holding:
            return
        model.holding = holding
        step = 1 if holding else -1
        for group in model.groups.values():
            self._shift(group, step, step * model.number, 0)
        if model.base is not None:
            self._leaning[model.base] += step
            base = self.models.get(model.base)
            if base is not None:
                self._lean(base)
        self.dirty[model] = None
        for adapter in self._adapters.get(model.digest, {}).values():
            self.dirty[adapter] = None

    def _lean(self, base: Model) -> None:
        """Let its adapters lean on a base that is complete, and on no other."""
        leaners = self._leaning[base.digest] if base.complete else 0
        change, base.leaners = leaners - base.leaners, leaners
        for group in base.groups.values() if change else ():
            self._shift(group, 0, 0, change)

    def _shift(self, group: Group, holders: int, holder_sum: int, leaners: int) -> None:
        before = self.sole_holder(group)
        group.holders += holders
        group.holder_sum += holder_sum
        group.leaners += leaners
        after = self.sole_holder(group)
        if before is not after:
            if before is not None:
                before.exclusive -= group.known_bytes
                self.dirty[before] = None
            if after is not None:
                after.exclusive += group.known_bytes
                self.dirty[after] = None
        self.dirty[group] = None

    # --- groups ---------------------------------------------------------------------------

    def _join(self, group: Group, model: Model) -> None:
        """Make `model`, which holds nothing yet, a user of the group."""
        if self._by_signature.get(group.signature) is group:
            del self._by_signature[group.signature]
        group.users[model.number] = model
        group.signature ^= model.signature
        self._by_signature[group.signature] = group
        group.weight += model.weight
        model.groups[group.number] = group
        model.own_bytes += group.known_bytes
        model.missing += not group.whole
        self._shift(group, 0, 0, model.leaners)

    def _part(self, group: Group, model: Model) -> None:
        """Make `model`, which holds nothing any more, no user of the group."""
        if self._by_signature.get(group.signature) is group:
            del self._by_signature[group.signature]
        del group.users[model.number], model.groups[group.number]
        group.signature ^= model.signature
        group.weight = max(0.0, group.weight - model.weight) if group.users else 0.0
        self._shift(group, 0, 0, -model.leaners)
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
        part.holders, part.holder_sum = group.holders, group.holder_sum
        part.leaners, part.weight = group.leaners, group.weight
        part.signature = group.signature
        missing = not group.whole
        for slot in slots:
            self._move(slot, group, part)
        more = (not group.whole) + (not part.whole) - missing
        for model in part.users.values():
            model.groups[part.number] = part
            model.missing += more
        self.dirty[group] = self.dirty[part] = None
        return part

    def _merge(self, group: Group, twin: Group) -> None:
        """Let the smaller of two groups with the same users flow into the other."""
        if twin.users and twin.known < group.known:
            group, twin = twin, group
            self._by_signature[twin.signature] = twin
        missing = (not group.whole) + (not twin.whole)
        for slot in [*self.chains.walk(group.evictable), *self.chains.walk(group.others)]:
            if twin.users or self._flags[slot] & _RESIDENT:
                self._move(slot, group, twin)
            else:
                self._drop(slot)
        for model in twin.users.values():
            del model.groups[group.number]
            model.missing += (not twin.whole) - missing
        del self.groups[group.number]
        group.version += 1
        self.dirty.pop(group, None)
        self._mark(twin)

    def _move(self, slot: int, group: Group, to: Group) -> None:
        """Move one block from group to group."""
        evictable = self._flags[slot] == _RESIDENT
        self.chains.remove(group.evictable if evictable else group.others, slot)
        self.chains.append(to.evictable if evictable else to.others, slot)
        self._group_of[slot] = to.number
        size, here = self._sizes[slot], self._flags[slot] & _RESIDENT
        group.known -= 1
        group.known_bytes -= size
        group.resident -= here
        to.known += 1
        to.known_bytes += size
        to.resident += here
