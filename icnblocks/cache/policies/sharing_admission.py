"""Whether a model that was asked for just now may take room that a plan gave to others.

A plan holds for tens of requests, and what a roll-out or a new release wants by then was gone
already. What a plan keeps leaves in the order of its rank, so what it costs to make room for a
model is what the lowest ranks are worth that make up as many bytes. Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from icnblocks.cache.planning.problem import Plan


class Admission:
    """Gives away the room of one plan, from its lowest rank up. O(log n) for each model.

    Args:
        plan: the plan; None: there is nothing to give away.
        room: bytes that it was made for.
    """

    def __init__(self, plan: Plan | None = None, room: int = 0) -> None:
        self._bytes = self._losses = np.zeros(1)
        self._given = 0
        self._room = room
        if plan is None:
            return
        kept = np.flatnonzero(plan.kept)
        kept = kept[np.argsort(plan.rank[kept], kind="stable")]
        self._bytes = np.concatenate(([0], np.cumsum(plan.kept[kept])))
        self._losses = np.concatenate(([0.0], np.cumsum(plan.loss[kept])))
        self._given = -max(0, room - int(self._bytes[-1]))

    def admits(self, need: int, gain: float) -> bool:
        """Whether so many bytes are worth more than what makes room for them; then they are given.

        Args:
            need: bytes.
            gain: what they are worth, in the plan's terms.
        """
        after = self._given + need
        if after > self._room:
            return False
        before, cost = np.interp((self._given, after), self._bytes, self._losses)
        if gain < cost - before:
            return False
        self._given = after
        return True
