"""`score`: alpha x frequency + beta x recency, as surveys of models at the edge describe it.

Frequency is the block's uses since it came, recency the uses of all blocks since its last one,
taken negative. Each is divided by its mean over the blocks that are here: the formula leaves
open how to make them comparable, and this choice lets the order be kept in a heap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from icnblocks.cache.options import Option, number
from icnblocks.cache.policies.ranked import MAX_KEY, Line, Ranked
from icnblocks.cache.policy import register

if TYPE_CHECKING:
    from collections.abc import Mapping

_UNIT: Final = 1 << 20
"""Fixed point: steps of a score."""
_SPAN: Final = 1 << 32
"""Mean ages after which ticks are counted anew."""


@register
class Score(Ranked):
    """A weighted sum of frequency and recency.

    The scores are made anew when one of the two means has doubled or halved since they were made
    last, which takes as many calls as half of the blocks that are here: O(log n), amortised.

    Args:
        capacity: the budget in bytes, or None.
        alpha: weight of the frequency; only alpha / beta matters.
        beta: weight of the recency.
    """

    name: ClassVar[str] = "score"
    options: ClassVar[Mapping[str, Option]] = {
        "alpha": Option("alpha", number, "weight of the frequency (0.5)"),
        "beta": Option("beta", number, "weight of the recency (0.5)"),
    }

    def __init__(
        self, capacity: int | None = None, *, alpha: float = 0.5, beta: float = 0.5
    ) -> None:
        super().__init__(capacity)
        total = alpha + beta or 1.0
        self._alpha, self._beta = alpha / total, beta / total
        self._sum_uses = 0
        self._sum_ticks = 0
        self._means = (1.0, 1.0)
        self._per_use = self._alpha
        self._per_tick = self._beta
        self._zero = 0

    def rank(self, slot: int, line: Line) -> int:
        """The score but for what all blocks have in common."""
        score = self._per_use * line.uses + self._per_tick * (self._ticks[slot] - self._zero)
        return min(int(_UNIT * score), MAX_KEY)

    def used(self, slot: int, before: int) -> None:  # noqa: ARG002
        """Counts in the means."""
        self._sum_uses += 1
        self._sum_ticks += self._tick - before
        if not before:
            self._check_means()

    def left(self, slot: int, line: Line, *, victim: bool) -> None:  # noqa: ARG002
        """Counts no more."""
        self._sum_uses -= line.uses
        self._sum_ticks -= self._ticks[slot]
        self._check_means()

    def _check_means(self) -> None:
        """Make the scores anew if their means have changed too much."""
        count = len(self._slots)
        if not count:
            return
        uses, age = self._means
        mean_uses = self._sum_uses / count
        mean_age = max(1.0, self._tick - self._sum_ticks / count)
        if (
            uses < 2 * mean_uses < 4 * uses
            and age < 2 * mean_age < 4 * age
            and self._tick - self._zero < _SPAN * mean_age
        ):
            return
        self._means, self._zero = (mean_uses, mean_age), self._tick
        self._per_use, self._per_tick = self._alpha / mean_uses, self._beta / mean_age
        self._make_heap()
