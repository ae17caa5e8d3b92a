"""`sharing`: evicts by what whole models are worth, since a pull waits for all of its blocks.

What leaves is a *unit*, the one with the least density (worth per byte) first:

- an orphan group (blocks that no model holds): `beta` x the request rate of its users;
- a model's exclusive closure (blocks that it alone holds): its rate x
  (`alpha` / bytes of the closure + `beta`). Without one of them the model is not complete any
  more, so they go together;
- loose blocks (of no known manifest): `beta` x the rate of one request, when last asked for.

Blocks that several complete models hold go last, so a base leaves only after its last adapter.
A model that is being pulled is weighed as if it were complete: if it is worth less than all that
is here, it is its own blocks that make room. Admission (not letting such a model in at all) and a
plan over all models are the next step: they would rank units in `_density` and need nothing else.

Rates fade by half each `half_life_s`. They are kept as sums of 2**((t - t0) / half_life), which
puts every rate on one scale: no score changes by the passing of time alone.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, ClassVar, Final

from icnblocks.cache.policies.groups import Group, Model
from icnblocks.cache.policies.partition import Partition
from icnblocks.cache.policy import register
from icnblocks.limits import MIB

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from icnblocks.naming import Digest

_ARRIVE_S: Final = 60.0
"""A pull that brings no block for so long is over."""
_RESCALE: Final = 500
"""Half-lives after which the scale of weights starts anew (a float holds 1023)."""
_NEAR_TWIN: Final = 64
"""A closure counts as at least this part of its model. Else two big models that differ in a few
bytes would each have a tiny closure of enormous density, and stay for ever."""


@register
class Sharing:
    """Sharing-aware eviction of whole models.

    Args:
        alpha: what going upstream at all costs, in bytes: the dial between whole models
            (large) and little backhaul (small).
        beta: what a byte from upstream costs.
        half_life_s: after this many seconds a request counts half.

    Operations on blocks are O(log n), amortised, when a group has no more users than blocks;
    those on models are linear in the model's blocks (`learn`, `forget`) or groups (`requested`).
    """

    name: ClassVar[str] = "sharing"

    def __init__(
        self, *, alpha: float = 1024 * MIB, beta: float = 1.0, half_life_s: float = 12 * 3600.0
    ) -> None:
        self._alpha = alpha
        self._beta = beta
        self._half_life_s = half_life_s
        self._start: float | None = None
        self._blocks = Partition()
        self._heap: list[tuple[float, int, int, int, Group | Model]] = []
        self._arriving: OrderedDict[Model, tuple[float, int]] = OrderedDict()

    def inserted(self, digest: Digest, size: int, now: float) -> None:
        """May make a model complete."""
        if not self._blocks.insert(digest, size, now):
            self.hit(digest, now)

    def hit(self, digest: Digest, now: float) -> None:
        """Counts for loose blocks only: for others, the requests for models do."""
        slot = self._blocks.slots.find(digest)
        if slot is not None:
            self._blocks.touch(slot, now)

    def removed(self, digest: Digest) -> None:
        """May make models incomplete."""
        slot = self._blocks.slots.find(digest)
        if slot is not None and self._blocks.resident(slot):
            self._blocks.remove(slot)

    def pinned(self, digest: Digest) -> None:
        """Still counts as here, so that models with pinned blocks can be complete."""
        slot = self._blocks.slots.find(digest)
        if slot is not None:
            self._blocks.pin(slot)

    def unpinned(self, digest: Digest, now: float) -> None:
        """May leave again."""
        slot = self._blocks.slots.find(digest)
        if slot is not None:
            self._blocks.unpin(slot, now)

    def learn(self, manifest: Digest, blocks: Mapping[Digest, int], base: Digest | None) -> None:
        """The model has no requests yet, but shares what it shares."""
        self._blocks.learn(manifest, blocks, base)

    def forget(self, manifest: Digest) -> None:
        """Its blocks, if nobody else's, become loose."""
        model = self._blocks.models.get(manifest)
        if model is not None:
            self._arriving.pop(model, None)
            self._blocks.forget(manifest)

    def requested(self, manifest: Digest, now: float) -> None:
        """Raises the model's rate; if it is not complete, it is arriving from now on."""
        model = self._blocks.models.get(manifest)
        if model is None:
            return
        self._blocks.weigh(model, self._weight_at(now))
        if not model.complete:
            self._arriving[model] = (now + _ARRIVE_S, model.resident())
            self._arriving.move_to_end(model)
            self._blocks.set_arriving(model, arriving=True)

    def victims(self, now: float) -> Iterator[Digest]:
        """Unit after unit, the least density first; then what is held by several."""
        self._expire(now)
        passed: set[int] = set()
        spent: list[Group | Model] = []
        try:
            while True:
                unit = self._least(now)
                if unit is None:
                    groups = iter(sorted(self._blocks.groups.values(), key=_by_weight))
                elif isinstance(unit, Model):
                    spent.append(unit)
                    groups = self._blocks.exclusive_groups(unit)
                else:
                    spent.append(unit)
                    groups = iter((unit,))
                removed = False
                for slot in self._walk(groups, passed):
                    yield self._blocks.slots.digest(slot)
                    if not self._blocks.slots.used(slot) or not self._blocks.resident(slot):
                        removed = True
                        if self._blocks.dirty:
                            break  # scores changed: choose anew
                    else:
                        passed.add(slot)
                if removed and spent and unit is spent[-1]:
                    self._blocks.dirty[spent.pop()] = None
                elif unit is None and not removed:
                    return
        finally:
            for unit in spent:
                self._blocks.dirty[unit] = None

    def _walk(self, groups: Iterator[Group], passed: set[int]) -> Iterator[int]:
        for group in groups:
            for slot in self._blocks.chains.walk(group.evictable):
                if slot not in passed:
                    yield slot

    def _least(self, now: float) -> Group | Model | None:
        """Take the unit of the least density out of the heap, if there is one."""
        self._rescore(now)
        while self._heap:
            density, _, _, version, unit = heappop(self._heap)
            if version != unit.version:
                continue
            if unit is self._blocks.loose and self._density(unit, now) != density:
                self._push(unit, now)  # its oldest block was asked for meanwhile
                continue
            return unit
        return None

    def _rescore(self, now: float) -> None:
        dirty = self._blocks.dirty
        if len(self._heap) > 4 * (len(self._blocks.groups) + len(self._blocks.models)) + 1024:
            self._heap = [entry for entry in self._heap if entry[3] == entry[4].version]
            heapify(self._heap)
        while dirty:
            unit, _ = dirty.popitem()
            self._push(unit, now)

    def _push(self, unit: Group | Model, now: float) -> None:
        unit.version += 1
        if self._evictable(unit):
            rank = int(isinstance(unit, Model))
            density = self._density(unit, now)
            heappush(self._heap, (density, rank, unit.number, unit.version, unit))

    def _evictable(self, unit: Group | Model) -> bool:
        if isinstance(unit, Group):
            return unit.evictable.count > 0 and not unit.holders and not unit.leaners
        return unit.holding and any(
            group.evictable.count for group in self._blocks.exclusive_groups(unit)
        )

    def _density(self, unit: Group | Model, now: float) -> float:
        """What a byte of it is worth."""
        if isinstance(unit, Model):
            size = max(unit.exclusive, unit.own_bytes // _NEAR_TWIN, 1)
            alpha = self._alpha
            if self._blocks.base_lacks(unit):
                # Most pulls of it go upstream for the base anyway, whether it is here or not.
                alpha *= 1.0 - self._blocks.base_share(unit)
            return unit.weight * (alpha / size + self._beta)
        if unit is self._blocks.loose:
            return self._beta * self._weight_at(min(now, self._blocks.asked[unit.evictable.first]))
        return self._beta * unit.weight

    def _weight_at(self, now: float) -> float:
        """What one request at this time weighs."""
        if self._start is None:
            self._start = now
        age = (now - self._start) / self._half_life_s
        if age > _RESCALE:
            halvings = int(age)
            self._blocks.fade(halvings)
            self._start += halvings * self._half_life_s
            age = (now - self._start) / self._half_life_s
        return math.exp2(age)

    def _expire(self, now: float) -> None:
        """Pulls that brought nothing for a while are over."""
        while self._arriving:
            model, (deadline, seen) = next(iter(self._arriving.items()))
            if not model.arriving:
                del self._arriving[model]
            elif deadline > now:
                return
            elif (here := model.resident()) > seen:
                self._arriving[model] = (now + _ARRIVE_S, here)
                self._arriving.move_to_end(model)
            else:
                del self._arriving[model]
                self._blocks.set_arriving(model, arriving=False)


def _by_weight(group: Group) -> tuple[float, int]:
    return group.weight, group.number
