"""What `lfu` and `gdsf` share: blocks in order of a value that rises with use and fades by ageing.

A block's key is `floor + value(uses, size)`; the floor is the highest key that was evicted so
far, so what was popular long ago is overtaken by what is used now, without touching it.
"""

from __future__ import annotations

from array import array

from icnblocks.cache.policies.ranked import MAX_KEY, Line, Ranked


class Ageing(Ranked):
    """A policy but for its name and `value`. All operations are O(log n), amortised."""

    def __init__(self, capacity: int | None = None) -> None:
        super().__init__(capacity)
        self._floor = 0
        self._floors = array("q")  # as it was when each block was used last

    def value(self, uses: int, size: int) -> int:
        """What a block is worth; must rise with `uses`."""
        raise NotImplementedError

    def rank(self, slot: int, line: Line) -> int:
        """Worth so much more than what had been evicted last."""
        return min(self._floors[slot] + self.value(line.uses, line.size), MAX_KEY)

    def used(self, slot: int, before: int) -> None:  # noqa: ARG002
        """Counts from the floor of now."""
        if slot == len(self._floors):
            self._floors.append(self._floor)
        else:
            self._floors[slot] = self._floor

    def left(self, slot: int, line: Line, *, victim: bool) -> None:
        """What comes or is used from now on is worth more than a victim was."""
        if victim:
            self._floor = max(self._floor, self.rank(slot, line))
