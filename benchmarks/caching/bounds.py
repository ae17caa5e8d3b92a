"""What no policy that fetches on demand can exceed, and what one that knows the demand keeps.

The optimum for a known demand is `icnblocks.siting.optimum`'s; under drift it is computed anew for
every window of requests, from the true popularity in that window, and its content changes for
nothing. The bound is of the PFOO-L kind (Berger, Beckmann, Harchol-Balter, 2018), like
`icnblocks.siting.pfoo`, but reckons with all blocks. Nothing here draws or replays requests.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import numpy as np

from icnblocks.siting.optimum import static_optimum

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from icnblocks.cache.replay.trace import Trace
    from icnblocks.naming import Digest
    from icnblocks.workloads.library import Library


def optimum_hits(
    library: Library,
    popularity: NDArray[np.float64],
    wanted: NDArray[np.int64],
    capacity: int,
    *,
    first: int,
    window: int,
) -> float:
    """The model hit ratio of the optimum on these very requests.

    Args:
        library: in units.
        popularity: the true one for each run of requests (rows; all runs equally long).
        wanted: model of each request.
        capacity: bytes.
        first: requests before it are not counted.
        window: requests for which the content stands still; rows of `popularity` are averaged.
    """
    run = -(-len(wanted) // len(popularity))
    hits = 0
    for start in range(0, len(wanted), window):
        end = min(start + window, len(wanted))
        rows = popularity[start // run : max(-(-end // run), start // run + 1)]
        kept = static_optimum(library, rows.mean(axis=0), capacity).held
        hits += int(kept[wanted[max(start, first) : end]].sum()) if end > first else 0
    return hits / (len(wanted) - first)


def hit_bound(trace: Trace, capacity: int, *, warmup: float) -> float:
    """An upper bound on the model hit ratio after the warm-up.

    Valid for every policy that brings a block only when a request for it misses, whatever it
    knows: a hit needs each block of the model to have stayed since the last request that asked
    for that block, which takes its bytes for so many requests. The cheapest hits are counted until
    the cache's bytes times requests are used up.

    Args:
        trace: what is asked for.
        capacity: bytes.
        warmup: the share of the requests that is not counted.
    """
    first = int(len(trace) * warmup)
    groups = _groups(trace)
    seen: dict[int, int] = {}
    costs: list[int] = []
    for number, wanted in enumerate(trace.wanted):
        cost, known = 0, True
        for group, size in groups[wanted]:
            last = seen.get(group)
            known = known and last is not None
            # Only what is held while requests are counted is paid for.
            cost += size * (number - max(last or 0, first - 1))
            seen[group] = number
        if known and number >= first:
            costs.append(cost)
    count = len(trace) - first
    spent = np.cumsum(np.sort(np.array(costs, dtype=np.float64)))
    return float((spent <= float(capacity) * count).sum()) / count


def _groups(trace: Trace) -> list[list[tuple[int, int]]]:
    """For each model, its groups of blocks that the same models have: a number, and bytes."""
    owners: dict[Digest, list[int]] = defaultdict(list)
    for index, model in enumerate(trace.models):
        for block in model.blocks:
            owners[block].append(index)
    numbers: dict[tuple[int, ...], int] = {}
    found = []
    for model in trace.models:
        weights: Counter[int] = Counter()
        for block in model.blocks:
            number = numbers.setdefault(tuple(owners[block]), len(numbers))
            weights[number] += trace.lengths[block]
        found.append(list(weights.items()))
    return found
