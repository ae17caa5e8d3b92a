"""What a model that was asked for just now may take of a plan's room."""

import random

import numpy as np
import pytest

from icnblocks.cache.planning.problem import Plan
from icnblocks.cache.policies.sharing_admission import Admission
from icnblocks.cache.replay.replay import Replay
from icnblocks.cache.replay.trace import TraceBuilder


def plan(kept, rank, loss):
    numbers = np.arange(len(kept))
    return Plan(numbers, np.array(kept), np.array(rank), np.array(loss), 0, 0.0)


def test_without_a_plan_nothing_is_given_away():
    assert not Admission().admits(1, 1e9)


def test_what_has_the_least_rank_goes_first_and_each_byte_goes_once():
    admission = Admission(plan([10, 10, 10], [3.0, 1.0, 2.0], [30.0, 5.0, 10.0]), 30)
    assert not admission.admits(10, 4.9)
    assert admission.admits(10, 5.1)
    assert not admission.admits(10, 5.1)
    assert admission.admits(5, 5.1)
    assert not admission.admits(16, 1e9)
    assert admission.admits(15, 35.1)
    assert not admission.admits(1, 1e9)


def test_what_the_plan_left_free_costs_nothing():
    admission = Admission(plan([10], [1.0], [5.0]), 15)
    assert admission.admits(5, 0.0)
    assert not admission.admits(5, 2.4)
    assert admission.admits(5, 2.6)


def roll_outs(requests, devices=20, seed=1):
    """Three models at a time, each pulled by so many devices; a third of each is shared."""
    rng, left, builder = random.Random(seed), [], TraceBuilder()
    shared = [(f"base-{n}", 1000) for n in range(10)]
    for model in range(60):
        builder.model(f"m{model}", shared + [(f"m{model}-{n}", 1000) for n in range(20)], None)
    for number in range(requests):
        while len(left) < 3:
            left.append([rng.randrange(60), devices])
        one = rng.choice(left)
        one[1] -= 1
        if not one[1]:
            left.remove(one)
        builder.get(float(number), f"m{one[0]}", None)
    return builder.build()


@pytest.mark.parametrize("objective", ["time", "hits", "bytes"])
def test_roll_outs_are_served_as_well_as_by_recency_alone(objective):
    """Catches: a model outside the plan was fetched by each of twenty devices: .42 of the hits."""
    trace = roll_outs(2500)
    results = [
        Replay(trace, policy, 130_000, warmup=0.3).run()
        for policy in ("lru", f"sharing:objective={objective}")
    ]
    lru, sharing = (result.model_hit_ratio for result in results)
    assert lru > 0.9
    assert sharing > 0.97 * lru
