"""What `lfu` and `gdsf` share: blocks in order of a value that rises with use and fades by ageing.

A block's key is `floor + value(uses, size)`; the floor is the highest key that was evicted so
far, so what was popular long ago is overtaken by what is used now, without touching it.
"""

from __future__ import annotations

from icnblocks.cache.policies.ranked import MAX_KEY, Ranked


class Ageing(Ranked):
    """A policy but for its name and `value`. All operations are O(log n), amortised."""

    def __init__(self, capacity: int | None = None) -> None:
        super().__init__(capacity)
        self._floor = 0

    def value(self, uses: int, size: int) -> int:
        """What a block is worth; must rise with `uses`."""
        raise NotImplementedError

    def rank(self, uses: int, size: int, tick: int) -> int:  # noqa: ARG002
        """Worth so much more than what was evicted last."""
        return min(self._floor + self.value(uses, size), MAX_KEY)

    def evicted(self, key: int) -> None:
        """What comes or is used from now on is worth more than this one was."""
        self._floor = max(self._floor, key)
