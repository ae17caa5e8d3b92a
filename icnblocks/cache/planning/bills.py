"""A plan for models whose sharing is no tree: leave out who is not worth its share of the bytes.

All models share the bytes of their groups in proportion to their prizes. The one that is worth
least for its bill is left out, the others share its part, and so on until what is left fits. Then
the room that is left goes to whoever is worth most for the bytes that it still lacks. Steps are
larger where there are many models, so that the work stays near linear in the memberships.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from icnblocks.cache.planning.problem import Problem

_EXCESS: Final = 0.25
"""At most this part of the bytes that are too many leaves in one step."""
_MODELS: Final = 0.03
"""At most this part of the models leaves, or comes, in one step."""


def shared_out(problem: Problem) -> NDArray[np.bool_]:
    """Which groups to keep whole; they fit."""
    return refilled(problem, _left(problem))


def _left(problem: Problem) -> NDArray[np.bool_]:
    """The models that are left when all that is needed fits."""
    owners, members, models = problem.owners(), problem.members, problem.models
    sizes, worth = problem.sizes[members], problem.worth[members]
    active = problem.prize > 0
    while active.any():
        prize = np.where(active, problem.prize, 0.0)[owners]
        asked = np.bincount(members, prize, len(problem.sizes))
        over = int(problem.sizes[asked > 0].sum()) - problem.capacity
        if over <= 0:
            break
        part = prize / np.maximum(asked, 1e-300)[members]
        bill = np.bincount(owners, part * sizes, models)
        value = problem.prize + np.bincount(owners, part * worth, models)
        left = np.flatnonzero(active)
        left = left[np.argsort(value[left] / np.maximum(bill[left], 1e-9), kind="stable")]
        count = int(np.searchsorted(np.cumsum(bill[left]), _EXCESS * over))
        active[left[: max(1, min(count, int(_MODELS * len(left))))]] = False
    return active


def refilled(problem: Problem, models: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The groups of these models, which fit, and of others while there is room for them."""
    owners, members = problem.owners(), problem.members
    have = np.zeros(len(problem.sizes), dtype=bool)
    have[members[models[owners]]] = True
    room = problem.capacity - int(problem.sizes[have].sum())
    step = max(1, int(_MODELS * problem.models))
    while True:
        lacking = np.where(have[members], 0, problem.sizes[members])
        need = np.bincount(owners, lacking, problem.models)
        wanted = np.flatnonzero((need <= room) & (need > 0) & (problem.prize > 0))
        if not len(wanted):
            return have
        order = np.argsort(-problem.prize[wanted] / need[wanted], kind="stable")
        for model in wanted[order[:step]].tolist():
            groups = members[problem.starts[model] : problem.starts[model + 1]]
            groups = groups[~have[groups]]
            size = int(problem.sizes[groups].sum())
            if size <= room:
                room -= size
                have[groups] = True
