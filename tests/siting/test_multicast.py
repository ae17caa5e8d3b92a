"""Air time: what is shared is sent once, at the rate of the slowest who wants it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icnblocks.errors import UsageError
from icnblocks.siting.multicast import airtimes
from tests.siting.problems import libraries, library_from, membership

BASE = library_from([800, 100, 100], [{0, 1}, {0, 2}])


def test_two_variants_of_a_base_by_hand():
    ways = airtimes(BASE, np.array([0, 1]), np.array([80.0, 800.0]))
    assert ways.unicast.total_s == pytest.approx(90 + 9)
    assert ways.unicast.mean_s == pytest.approx((9 + 99) / 2)
    assert ways.model_multicast == ways.unicast
    assert ways.block_multicast.total_s == pytest.approx(80 + 10 + 1)
    assert ways.block_multicast.sent_bytes == 1000


def test_one_model_for_all_is_sent_once_at_the_slowest_rate():
    ways = airtimes(BASE, np.array([0, 0, 0]), np.array([80.0, 800.0, 800.0]))
    assert ways.model_multicast.total_s == pytest.approx(90)
    assert ways.block_multicast.total_s == pytest.approx(90)
    assert ways.unicast.total_s == pytest.approx(90 + 9 + 9)


@given(libraries(), st.lists(st.tuples(st.integers(0, 5), st.integers(1, 50)), min_size=1))
@settings(max_examples=60, deadline=None)
def test_sending_less_never_takes_longer(library, devices):
    wanted = np.array([model % len(library.models) for model, _ in devices])
    ways = airtimes(library, wanted, np.array([float(bits) for _, bits in devices]))
    totals = [way.total_s for way in (ways.block_multicast, ways.model_multicast, ways.unicast)]
    assert totals == pytest.approx(sorted(totals))
    for way in (ways.block_multicast, ways.model_multicast, ways.unicast):
        assert 0 < way.mean_s <= way.total_s * (1 + 1e-9)
    asked = membership(library)[wanted].any(axis=0)
    assert ways.block_multicast.sent_bytes == library.piece_bytes[asked].sum()


@pytest.mark.parametrize("bits", [[], [0.0], [1.0, 1.0]], ids=str)
def test_devices_that_nothing_reaches_are_refused(bits):
    with pytest.raises(UsageError):
        airtimes(BASE, np.zeros(min(len(bits), 1), dtype=int), np.array(bits))
