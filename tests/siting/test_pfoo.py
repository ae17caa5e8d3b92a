"""The upper bound on model hits: no run of a cache may beat it, and easy cases meet it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icnblocks.cache.replay.replay import Replay
from icnblocks.cache.replay.trace import TraceBuilder
from icnblocks.errors import UsageError
from icnblocks.siting.pfoo import exclusive_bytes, pfoo_bound
from tests.siting.problems import libraries, library_from

ONE_EACH = library_from([10, 10, 10], [{0}, {1}, {2}])


def _bound(wanted, capacity, warmup=0, library=ONE_EACH):
    return pfoo_bound(library, np.array(wanted), capacity, warmup=warmup)


def test_what_fits_together_misses_once_each():
    assert _bound([0, 1, 2, 0, 1, 2, 0], 30) == pytest.approx(4 / 7)


def test_without_room_nothing_hits_and_without_bytes_of_its_own_everything_may():
    assert _bound([0, 0, 0], 0) == 0
    twins = library_from([10], [{0}, {0}])
    assert _bound([0, 1, 0], 0, library=twins) == 1


def test_the_cheapest_hits_share_the_room_of_the_whole_trace():
    """Six moments give room 60: three direct repeats take 10 each, the wide one 50."""
    assert _bound([0, 1, 1, 2, 2, 0, 0], 10) == pytest.approx((3 + 3 / 5) / 7)


def test_the_warm_up_is_neither_counted_nor_charged():
    assert _bound([0, 1, 2, 0, 1, 2], 30, warmup=3) == 1
    assert _bound([0, 1, 2, 0, 1, 2], 10, warmup=3) == pytest.approx(2 / 3)
    with pytest.raises(UsageError):
        _bound([0], 30, warmup=1)


def test_exclusive_bytes_are_those_of_one_model_only():
    library = library_from([10, 3, 4], [{0, 1}, {0, 2}, {0}])
    assert exclusive_bytes(library).tolist() == [3, 4, 0]


@given(
    libraries(),
    st.lists(st.integers(0, 5), min_size=2, max_size=40),
    st.integers(1, 90),
    st.sampled_from(["lru", "lfu", "gdsf", "sharing"]),
    st.sampled_from([0.0, 0.5]),
)
@settings(max_examples=40, deadline=None)
def test_no_policy_is_above_the_bound(library, asked, capacity, policy, warmup):
    wanted = [number % len(library.models) for number in asked]
    builder = TraceBuilder()
    for number, model in enumerate(library.models):
        builder.model(model.name, library.blocks_of(number))
    for second, number in enumerate(wanted):
        builder.get(float(second), library.models[number].name)
    trace = builder.build()
    result = Replay(trace, policy, capacity, warmup=warmup).run()
    bound = _bound(wanted, capacity, len(wanted) - result.requests, library)
    assert result.model_hit_ratio <= bound + 1e-9
