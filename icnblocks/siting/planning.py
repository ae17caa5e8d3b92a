"""From a siting to a plan file: names for edges and models, and the order in which to bring them.

This module must not choose which models are held.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from icnblocks.errors import UsageError
from icnblocks.siting.planfile import PlanFile, PlannedModel, check_edge, parse_ref

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from icnblocks.siting.instance import Instance, Siting


def plan_of(
    instance: Instance, siting: Siting, names: Sequence[str], *, pin: bool = False
) -> PlanFile:
    """The plan that makes a siting real.

    Args:
        instance: what was to be sited.
        siting: which edge holds what.
        names: of the edges.
        pin: ask the edges to hold on to the models whatever their policies think.

    Raises:
        UsageError: if a model's name is neither `publisher/model[@tag]` nor a manifest's digest.
        FormatError: if a plan cannot name an edge so.
    """
    for name in names:
        check_edge(name)
    planned = [PlannedModel(parse_ref(model.name), pin) for model in instance.library.models]
    # Each once: a trace may tell of `acme/m` and of `acme/m@main`, which are one name.
    return PlanFile(
        {
            name: tuple(dict.fromkeys(planned[model] for model in _order(instance, siting, edge)))
            for edge, name in enumerate(names)
        }
    )


def _order(instance: Instance, siting: Siting, edge: int) -> list[int]:
    """An edge's models: always the one next that is asked for most per byte still to be brought."""
    library = instance.library
    sizes, lacking = library.piece_bytes, library.model_bytes.copy()
    worth = np.where(instance.serves[edge], instance.demand, 0.0).sum(axis=0)
    left: NDArray[np.int64] = np.flatnonzero(siting.held[edge])
    there: set[int] = set()
    order: list[int] = []
    while len(left):
        best = int(np.argmax(worth[left] / np.maximum(lacking[left], 1)))
        model = int(left[best])
        order.append(model)
        fresh = set(library.models[model].pieces) - there
        there |= fresh
        for piece in fresh:
            lacking[library.owners[piece]] -= sizes[piece]
        left = np.delete(left, best)
    return order


def edge_names(count: int, given: Sequence[str] = ()) -> tuple[str, ...]:
    """Names for edges: those given, or `edge-0` and so on.

    Raises:
        UsageError: if names are given, but not one for each edge, or one is no text.
    """
    if not given:
        return tuple(f"edge-{number}" for number in range(count))
    if len(given) != count or len(set(given)) != count:
        raise UsageError(f"{count} edges need {count} different names, not {', '.join(given)}")
    for name in given:
        if not name.isprintable():
            raise UsageError(f"the name of an edge has printable characters, not {name[:80]!r}")
    return tuple(given)
