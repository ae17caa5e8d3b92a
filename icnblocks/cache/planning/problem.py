"""What a plan is made from, and what it says. Values only; they can be pickled.

Blocks that the same models list form a group. Keeping a group is worth something for each of its
bytes (what need not come from upstream), and keeping all groups of a model earns a prize on top
(a pull that need not go upstream at all). A plan says which groups to keep within the capacity.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from icnblocks.values import dataclass

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Problem:
    """A snapshot of demand and content.

    Attributes:
        capacity: bytes that the kept groups may take together.
        numbers: a name for each group, handed through to the plan.
        sizes: bytes of each group.
        here: bytes of each group that are in the store now.
        worth: what keeping all bytes of each group is worth; part of them, as much of that.
        prize: what having all groups of each model is worth on top.
        starts, members: model `m` needs the groups `members[starts[m]:starts[m + 1]]`, each once.
        blocks: bytes that losing a block of each group frees, if that counts; else 1.
    """

    capacity: int
    numbers: NDArray[np.int64]
    sizes: NDArray[np.int64]
    here: NDArray[np.int64]
    worth: NDArray[np.float64]
    prize: NDArray[np.float64]
    starts: NDArray[np.int64]
    members: NDArray[np.int64]
    blocks: NDArray[np.float64] | float = 1.0

    @property
    def models(self) -> int:
        """How many models there are."""
        return len(self.prize)

    def owners(self) -> NDArray[np.int64]:
        """The model of each entry of `members`."""
        return np.repeat(np.arange(self.models), np.diff(self.starts))

    def complete(self, there: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which models have all their groups, if those marked are `there`."""
        lacking = np.bincount(self.owners()[~there[self.members]], minlength=self.models)
        return np.asarray(lacking == 0)

    def value(self, kept: NDArray[np.int64]) -> float:
        """What it is worth to keep so many bytes of each group."""
        share = kept / np.maximum(self.sizes, 1)
        prizes = self.prize[self.complete(kept >= self.sizes)]
        return float(self.worth @ share + prizes.sum())


@dataclass(frozen=True, slots=True)
class Plan:
    """What to keep.

    Attributes:
        numbers: the groups, by the names that the problem gave them.
        kept: bytes to keep of each.
        rank: what it costs to lose a little of each, such as one block: all the prizes that need
            it; where blocks count, for each byte that one frees. What has the least rank leaves
            first, and goes on leaving.
        loss: what it costs to lose all that is kept of each. A prize is shared out evenly among
            the groups that it needs.
        models: how many models are kept whole.
        value: what it is all worth, in the problem's terms.
    """

    numbers: NDArray[np.int64]
    kept: NDArray[np.int64]
    rank: NDArray[np.float64]
    loss: NDArray[np.float64]
    models: int
    value: float
