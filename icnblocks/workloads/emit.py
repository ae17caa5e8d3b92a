"""A library and its demand told to a sink: a file of JSON lines, or a trace in memory.

This module must not draw anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from icnblocks.cache.replay.trace import Trace, TraceBuilder
from icnblocks.workloads.demand import draw

if TYPE_CHECKING:
    from icnblocks.cache.replay.trace import TraceSink
    from icnblocks.workloads.demand import Demand
    from icnblocks.workloads.library import Library


def emit(library: Library, demand: Demand, seed: int, sink: TraceSink) -> None:
    """Draw requests for a library's models, and tell models and requests in order.

    A model is told before the first request that could be for it. Edges are named `edge-0` and so
    on if there are several, and not told if there is one. The pieces are cut into blocks of the
    library's unit; see `Library.in_units` to have all of them equal.

    Args:
        library: what is asked for.
        demand: by whom and when.
        seed: of the demand.
        sink: is told everything.
    """
    requests = draw(demand, len(library.models), seed)
    order = np.argsort(requests.published, kind="stable").tolist()
    due = requests.published.tolist()
    names = [model.name for model in library.models]
    several = demand.edges > 1
    waiting = iter(order)
    following = next(waiting, None)
    asked = zip(
        requests.times.tolist(), requests.wanted.tolist(), requests.edges.tolist(), strict=True
    )
    for number, (t, wanted, edge) in enumerate(asked):
        while following is not None and due[following] <= number:
            _tell(library, following, sink)
            following = next(waiting, None)
        sink.get(t, names[wanted], f"edge-{edge}" if several else None)


def _tell(library: Library, model: int, sink: TraceSink) -> None:
    base = library.models[model].base
    name = None if base is None else library.models[base].name
    sink.model(library.models[model].name, library.blocks_of(model), name)


def trace_of(library: Library, demand: Demand, seed: int) -> Trace:
    """The trace in memory that `emit` would write down."""
    builder = TraceBuilder()
    emit(library, demand, seed, builder)
    return builder.build()
