"""Greedy siting for any sharing: the next (edge, model) is the one that gains most.

`gen` is TrimCaching Gen (arXiv 2405.03990): most requests served. `per_byte` weighs what is gained
by the bytes that are newly needed for it, so that a model whose pieces are there already costs
nothing. `independent` is gen for edges that store every model by itself, which is what not sharing
loses. No I/O, no clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from icnblocks.siting.instance import Siting

if TYPE_CHECKING:
    from icnblocks.siting.instance import Instance


def gen(instance: Instance, capacity: int) -> Siting:
    """Greedy by requests served; every edge has `capacity` bytes and stores each piece once."""
    return _greedy(instance, capacity, per_byte=False, sharing=True, algorithm="gen")


def per_byte(instance: Instance, capacity: int) -> Siting:
    """Greedy by requests served per newly needed byte."""
    return _greedy(instance, capacity, per_byte=True, sharing=True, algorithm="per-byte")


def independent(instance: Instance, capacity: int) -> Siting:
    """Greedy by requests served, where models share nothing on the edges."""
    return _greedy(instance, capacity, per_byte=False, sharing=False, algorithm="independent")


def _greedy(
    instance: Instance, capacity: int, *, per_byte: bool, sharing: bool, algorithm: str
) -> Siting:
    library, edges = instance.library, instance.edges
    models, sizes = len(library.models), library.piece_bytes.tolist()
    need = np.tile(library.model_bytes, (edges, 1))
    there: list[set[int]] = [set() for _ in range(edges)]
    left = np.full(edges, capacity, dtype=np.int64)
    held = np.zeros((edges, models), dtype=np.bool_)
    open_demand = instance.demand.copy()
    gains = np.einsum("mki,ki->mi", instance.serves, open_demand)
    while True:
        worth = np.where((need <= left[:, None]) & ~held & (gains > 0), gains, 0.0)
        score = worth / np.maximum(need, 1.0) if per_byte else worth
        edge, model = divmod(int(score.argmax()), models)
        if score[edge, model] <= 0:
            break
        left[edge] -= need[edge, model]
        held[edge, model] = True
        if sharing:
            fresh = set(library.models[model].pieces) - there[edge]
            there[edge] |= fresh
            for piece in fresh:
                need[edge, library.owners[piece]] -= sizes[piece]
        open_demand[instance.serves[edge, :, model], model] = 0.0
        gains[:, model] = instance.serves[:, :, model] @ open_demand[:, model]
    return Siting(held, instance.value(held), algorithm)
