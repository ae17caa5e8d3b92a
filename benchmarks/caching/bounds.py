"""What no policy that fetches on demand can exceed, and what one that knows the demand keeps.

The optimum for a known demand is `icnblocks.siting.optimum`'s, and for pull time the solver's that
`sharing` plans with; under drift it is computed anew for every window of requests, from the true
popularity in that window, and its content changes for nothing. The bound is of the PFOO-L kind
(Berger, Beckmann, Harchol-Balter, 2018), like `icnblocks.siting.pfoo`, but reckons with all blocks.
Nothing here draws or replays requests.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import numpy as np

from icnblocks.cache.planning import Problem, solve
from icnblocks.siting.optimum import static_optimum

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from icnblocks.cache.replay.replay import Links
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
    hits = sum(
        int(static_optimum(library, shares, capacity).held[counted].sum())
        for shares, counted in _windows(popularity, wanted, first, window)
    )
    return hits / (len(wanted) - first)


def optimum_time(
    trace: Trace,
    popularity: NDArray[np.float64],
    capacity: int,
    links: Links,
    *,
    first: int,
    window: int,
) -> float:
    """The mean pull time with the content that makes it least, on these very requests.

    Content is groups of blocks that the same models have, of one of them perhaps a part. It is as
    good as the solver finds.

    Args:
        trace: what is asked for.
        popularity: as for `optimum_hits`.
        capacity: bytes.
        links: what a pull takes.
        first: requests before it are not counted.
        window: as for `optimum_hits`.
    """
    groups = _groups(trace)
    sizes = np.zeros(1 + max(group for model in groups for group, _ in model), dtype=np.int64)
    for group, size in (entry for model in groups for entry in model):
        sizes[group] = size
    starts = np.cumsum([0, *map(len, groups)])
    members = np.array([group for model in groups for group, _ in model], dtype=np.int64)
    owners = np.repeat(np.arange(len(groups)), np.diff(starts))
    totals = np.bincount(owners, sizes[members])
    wanted, seconds = np.asarray(trace.wanted), 0.0
    for shares, counted in _windows(popularity, wanted, first, window):
        problem = Problem(
            capacity=capacity,
            numbers=np.arange(len(sizes)),
            sizes=sizes,
            here=np.zeros_like(sizes),
            worth=np.bincount(members, shares[owners]) * sizes / links.backhaul,
            prize=shares * links.rtt,
            starts=starts,
            members=members,
        )
        missing = np.bincount(owners, (sizes - solve(problem).kept)[members])
        pull = links.rtt * (missing > 0) + missing / links.backhaul + totals / links.edge
        seconds += float(pull[counted].sum())
    return seconds / (len(wanted) - first)


def _windows(
    popularity: NDArray[np.float64], wanted: NDArray[np.int64], first: int, window: int
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.int64]]]:
    """For each stretch in which content stands still: true popularity, requests that count."""
    run = -(-len(wanted) // len(popularity))
    for start in range(0, len(wanted), window):
        end = min(start + window, len(wanted))
        if end > first:
            rows = popularity[start // run : max(-(-end // run), start // run + 1)]
            yield rows.mean(axis=0), wanted[max(start, first) : end]


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
