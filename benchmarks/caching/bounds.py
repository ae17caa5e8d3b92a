"""What no policy that fetches on demand can exceed, and what one that knows the demand keeps.

The optimum for a known demand is `icnblocks.siting.optimum`'s, and for pull time a linear
program's, which no content goes below; under drift both are computed anew for every window of
requests, from the true popularity in that window, and content changes for nothing. The bound on
hits is of the PFOO-L kind (Berger, Beckmann, Harchol-Balter, 2018), like `icnblocks.siting.pfoo`,
but reckons with all blocks. Nothing here draws or replays requests.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import csr_array

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


def least_time(
    trace: Trace,
    popularity: NDArray[np.float64],
    capacity: int,
    links: Links,
    *,
    first: int,
    window: int,
) -> float:
    """The mean pull time that no content goes below, counted on these very requests.

    With requests drawn from `popularity` independently of each other, no policy can expect less:
    whatever it keeps was chosen without the next request. The bound is that of a linear program
    in which a part of a model saves the same part of its round trip.

    Args:
        trace: what is asked for.
        popularity: as for `optimum_hits`.
        capacity: bytes.
        links: what a pull takes.
        first: requests before it are not counted.
        window: as for `optimum_hits`.
    """
    groups = _groups(trace)
    sizes = np.zeros(1 + max(group for model in groups for group, _ in model))
    for group, size in (entry for model in groups for entry in model):
        sizes[group] = size
    members = np.array([group for model in groups for group, _ in model], dtype=np.int64)
    owners = np.repeat(np.arange(len(groups)), [len(model) for model in groups])
    totals = np.bincount(owners, sizes[members])
    wanted, seconds = np.asarray(trace.wanted), 0.0
    for shares, counted in _windows(popularity, wanted, first, window):
        kept, waits = _least(sizes, members, owners, shares, capacity, links)
        missing = np.bincount(owners, ((1 - kept) * sizes)[members])
        pull = links.rtt * waits + missing / links.backhaul + totals / links.edge
        seconds += float(pull[counted].sum())
    return seconds / (len(wanted) - first)


def _least(
    sizes: NDArray[np.float64],
    members: NDArray[np.int64],
    owners: NDArray[np.int64],
    shares: NDArray[np.float64],
    capacity: int,
    links: Links,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Solve it: the part of each group that is kept, and of each model's round trip that is left.

    Args:
        sizes: bytes of each group.
        members: a group of a model, and `owners` the model, for each pair of both.
        owners: see there.
        shares: popularity of each model.
        capacity: bytes.
        links: what a pull takes.
    """
    groups, models, pairs = len(sizes), len(shares), np.arange(len(members))
    saved = np.bincount(members, shares[owners], minlength=groups) * sizes / links.backhaul
    # One row for each pair, -kept - waits <= -1, and one for the room.
    rows = np.concatenate([pairs, pairs, np.full(groups, len(pairs))])
    columns = np.concatenate([members, groups + owners, np.arange(groups)])
    entries = np.concatenate([np.full(2 * len(pairs), -1.0), sizes / capacity])
    found = linprog(
        np.concatenate([-saved, shares * links.rtt]),
        A_ub=csr_array((entries, (rows, columns)), shape=(len(pairs) + 1, groups + models)),
        b_ub=np.concatenate([np.full(len(pairs), -1.0), [1.0]]),
        bounds=(0, 1),
        method="highs",
    )
    if found.status:
        raise RuntimeError(f"the linear program was not solved: {found.message}")
    return found.x[:groups], found.x[groups:]


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
