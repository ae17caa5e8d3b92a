"""From the books of `sharing` to the problem that its plan solves. It must not change the books."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Final

import numpy as np

from icnblocks.cache.planning.problem import Problem

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from icnblocks.cache.planning.rates import Rates
    from icnblocks.cache.policies.groups import Group, Model
    from icnblocks.cache.policies.partition import Partition
    from icnblocks.cache.policies.sharing_objective import Objective

_ADAPTER: Final = 5
"""A model that shares nothing with its base and is so many times smaller is an adapter of it."""
_TOGETHER: Final = 0.5
"""It is pulled with its base if the base is asked for so often, for each request for adapters."""
_FLOOR: Final = 0.02
"""What is not here is worth at least this part of what it would be if it were."""


class Outline:
    """Models and groups as arrays; what only changes with the models is kept.

    Args:
        blocks: the books.
    """

    def __init__(self, blocks: Partition) -> None:
        self._blocks = blocks
        self.costs = (0.0, 0.0)
        """What going upstream at all costs, and a byte from there, in the last problem."""
        self._shape = -1
        self._models: list[Model] = []
        self._groups: list[Group] = []
        none = np.zeros(0, dtype=np.int64)
        self._numbers = self._sizes = self._rows = self._starts = self._members = none
        self._means = np.zeros(0)
        self._owners = self._bytes = self._adapters = self._bases = none

    def problem(self, rates: Rates, objective: Objective, capacity: int) -> Problem:
        """A snapshot.

        What is not here counts for one request less than the estimate rests on, since the next
        request for it misses in any case. So a plan does not throw out what is here for
        something that is hardly better.
        """
        self._renew()
        groups, models = len(self._groups), len(self._models)
        price = np.fromiter((model.price for model in self._models), float, models)
        here = np.fromiter((group.here_bytes for group in self._groups), np.int64, groups)
        pinned = np.fromiter((group.pinned_bytes for group in self._groups), np.int64, groups)
        rate = rates.rates()[self._rows]
        cost, once = rate * price, price / max(rates.memory(), 1.0)

        absent = (here < self._sizes)[self._members]
        lacking = np.bincount(self._owners[absent], minlength=models) > 0
        prize = np.where(lacking, np.maximum(cost - once, _FLOOR * cost), cost)

        weight = np.bincount(self._members, cost[self._owners], groups)
        users = np.bincount(self._members, minlength=groups)
        spent = np.bincount(self._members, once[self._owners], groups) / np.maximum(users, 1)
        later = np.maximum(weight - spent, _FLOOR * weight)

        typical = float(rate @ self._bytes / max(float(rate.sum()), 1e-300))
        self.costs = upstream, byte = objective.costs(typical)
        starts, members = self._with_bases(rate, capacity)
        return Problem(
            capacity=max(0, capacity),
            numbers=self._numbers,
            sizes=self._sizes - pinned,
            here=here - pinned,
            worth=byte * (weight * (here - pinned) + later * (self._sizes - here)),
            prize=upstream * prize,
            starts=starts,
            members=members,
            blocks=self._means if objective.by_block else 1.0,
        )

    def _renew(self) -> None:
        if self._shape == self._blocks.shape:
            return
        self._shape = self._blocks.shape
        self._models = list(self._blocks.models.values())
        self._groups = [group for group in self._blocks.groups.values() if group.users]
        self._numbers = np.array([group.number for group in self._groups], dtype=np.int64)
        self._sizes = np.array([group.known_bytes for group in self._groups], dtype=np.int64)
        self._means = np.array([group.block for group in self._groups])
        self._rows = np.array([model.row for model in self._models], dtype=np.int64)
        self._bytes = np.array([model.size for model in self._models], dtype=np.float64)
        counts = [len(model.groups) for model in self._models]
        self._starts = np.concatenate(([0], np.cumsum(counts, dtype=np.int64)))
        self._owners = np.repeat(np.arange(len(counts)), counts)
        position = np.zeros(int(self._numbers.max(initial=0)) + 1, dtype=np.int64)
        position[self._numbers] = np.arange(len(self._groups))
        names = chain.from_iterable(model.groups for model in self._models)
        self._members = position[np.fromiter(names, np.int64, sum(counts))]
        places = {model.digest: place for place, model in enumerate(self._models)}
        pairs = [
            (place, places[model.base])
            for place, model in enumerate(self._models)
            if model.base in places and _is_adapter(model, self._models[places[model.base]])
        ]
        self._adapters, self._bases = np.array(pairs, dtype=np.int64).reshape(-1, 2).T

    def _with_bases(
        self, rate: NDArray[np.float64], capacity: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """What models need: their groups, and, if they are pulled with their base, the base's.

        Judged from the requests: who has the base already does not ask for it. Where both do not
        fit, an adapter is kept for itself: with a base that cannot be here it is worth nothing.
        """
        asked = np.bincount(self._bases, rate[self._adapters], len(rate))
        together = rate[self._bases] >= _TOGETHER * asked[self._bases]
        together &= self._bytes[self._bases] + self._bytes[self._adapters] <= capacity
        adapters, bases = self._adapters[together], self._bases[together]
        if not len(adapters):
            return self._starts, self._members
        counts = np.diff(self._starts)
        more = [self._members[self._starts[base] : self._starts[base + 1]] for base in bases]
        owners = np.concatenate((self._owners, np.repeat(adapters, counts[bases])))
        members = np.concatenate((self._members, *more))[np.argsort(owners, kind="stable")]
        counts[adapters] += counts[bases]
        return np.concatenate(([0], np.cumsum(counts))), members


def _is_adapter(model: Model, base: Model) -> bool:
    return model.groups.keys().isdisjoint(base.groups) and _ADAPTER * model.size <= base.size
