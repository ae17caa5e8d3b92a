"""Advice from replays: which policy, and how much disk. Pure.

The best policy is the one with the least mean pull time, geometric mean over all sizes; the size
is the smallest with which nine tenths are gained of what the largest size gains over no cache.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from icnblocks.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Sequence

    from icnblocks.cache.replay.replay import Links, Result
    from icnblocks.cache.replay.trace import Trace

ENOUGH: Final = 0.9
"""Of what the largest size gains."""
_TIE: Final = 1.005
"""Policies that are so close are equal; the one asked for first is taken."""


@dataclass(frozen=True, slots=True)
class Advice:
    """What to do.

    Attributes:
        policy: the best one, as it was asked for.
        capacity: bytes of each edge, beyond which more disk buys little.
        model_hit_ratio, mean_pull_time: of both together.
        uncached_pull_time: seconds that a mean pull takes if nothing is ever at the edge.
        largest: the largest size that was tried, and `largest_pull_time`, with this policy.
        all_fits: the largest size has room for all models of the trace.
    """

    policy: str
    capacity: int
    model_hit_ratio: float
    mean_pull_time: float
    uncached_pull_time: float
    largest: int
    largest_pull_time: float
    all_fits: bool


def advise(results: Sequence[Result], trace: Trace, links: Links) -> Advice:
    """Advice from results of every policy at every size.

    Args:
        results: all after the same warm-up.
        trace: what was replayed.
        links: by which.

    Raises:
        ValueError: if there are none.
    """
    policies = list(dict.fromkeys(result.policy for result in results))
    scores = {policy: _score(results, policy) for policy in policies}
    best = min(scores.values())
    policy = next(one for one in policies if scores[one] <= best * _TIE)
    mine = sorted((one for one in results if one.policy == policy), key=lambda one: one.capacity)
    most, uncached = mine[-1], _uncached(mine[0], trace, links)
    enough = uncached - ENOUGH * (uncached - most.mean_pull_time)
    chosen = next(one for one in mine if one.mean_pull_time <= enough or one is most)
    return Advice(
        policy=policy,
        capacity=chosen.capacity,
        model_hit_ratio=chosen.model_hit_ratio,
        mean_pull_time=chosen.mean_pull_time,
        uncached_pull_time=uncached,
        largest=most.capacity,
        largest_pull_time=most.mean_pull_time,
        all_fits=most.capacity >= trace.unique_bytes,
    )


def _uncached(result: Result, trace: Trace, links: Links) -> float:
    """Seconds of a mean pull of which all is missing; a model without bytes misses nothing."""
    has_bytes = [model.size > 0 for model in trace.models]
    fetched = sum(map(has_bytes.__getitem__, trace.wanted[-result.requests :]))
    asked = result.requested_bytes * (1 / links.backhaul + 1 / links.edge)
    return (links.rtt * fetched + asked) / result.requests


def _score(results: Sequence[Result], policy: str) -> float:
    """Mean of the logarithms of the pull times."""
    times = [max(one.mean_pull_time, 1e-9) for one in results if one.policy == policy]
    return math.exp(sum(map(math.log, times)) / len(times))
