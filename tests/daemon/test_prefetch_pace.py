"""The pace of a prefetch, by arithmetic alone: no clock runs here."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icnblocks.errors import UsageError
from icnblocks.limits import MIB
from icnblocks_daemon.prefetch_pace import (
    DEPTH_S,
    MIN_DEPTH,
    UNDER_WAY_BLOCKS,
    Window,
    bucket_of,
    may_ask,
)

HOUR = 3600.0


@settings(max_examples=100, deadline=None)
@given(
    rate=st.floats(1e3, 1e9),
    pieces=st.lists(st.tuples(st.integers(1, 16 * MIB), st.floats(0, 3)), min_size=1, max_size=40),
)
def test_no_stretch_of_time_sees_more_than_the_rate(rate, pieces):
    """A bucket that fills beyond its depth, or forgets a debt, lets a burst through."""
    bucket, now, went = bucket_of(rate, 0.0), 0.0, []
    for size, idle in pieces:
        now += idle
        while (pause := bucket.wait(size, now)) > 0:
            now += max(pause, 1e-3)
        bucket.reserve(size, now)
        went.append((now, size))
    slack = max(rate * DEPTH_S, MIN_DEPTH, *(size for size, _ in pieces))
    for first, (begin, _) in enumerate(went):
        total = 0
        for at, size in went[first:]:
            total += size
            assert total <= rate * (at - begin) * (1 + 1e-9) + slack + 1


def test_a_bucket_does_not_hold_back_more_than_its_rate():
    """A stream that is always there gets its rate: neither half of it nor a stall for ever."""
    bucket, now = bucket_of(1e6, 0.0), 0.0
    for _ in range(100):
        while (pause := bucket.wait(MIB, now)) > 0:
            now += pause + 1e-9
        bucket.reserve(MIB, now)
    assert 99 * MIB / 1e6 - 2 * DEPTH_S < now < 101 * MIB / 1e6


def test_a_clock_that_stands_still_or_goes_back_gives_nothing():
    bucket = bucket_of(1e6, 100.0)
    bucket.reserve(MIB, 100.0)
    assert bucket.wait(1, 50.0) == bucket.wait(1, 100.0) > 0


@pytest.mark.parametrize(
    ("text", "hour", "opens_in"),
    [
        ("01:00-05:00", 0.5, 0.5),
        ("01:00-05:00", 1, 0),
        ("01:00-05:00", 4.99, 0),
        ("01:00-05:00", 5, 20),
        ("22:30-06:00", 23, 0),
        ("22:30-06:00", 0, 0),
        ("22:30-06:00", 6, 16.5),
        ("22:30-06:00", 22, 0.5),
        ("00:00-24:00", 12, 0),
        ("20:00-24:00", 23.99, 0),
        ("20:00-24:00", 0, 20),
        ("20:00-00:00", 21, 0),
    ],
)
def test_a_window_is_open_when_it_says(text, hour, opens_in):
    assert Window.parse(text).opens_in(hour * HOUR) == pytest.approx(opens_in * HOUR)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 1439), st.integers(1, 1439), st.floats(0, 86399.9))
def test_a_window_opens_when_it_said_it_would(begin, length, second):
    """Over midnight too; and it is open for exactly its length a day."""
    window = Window(begin, (begin + length) % 1440 or 1440)
    assert Window.parse(str(window)) == window
    wait = window.opens_in(second)
    assert window.opens_in((second + wait + 1e-6) % 86400) == 0 or wait == 0
    minutes = sum(window.opens_in(60.0 * minute) == 0 for minute in range(1440))
    assert minutes == length


@pytest.mark.parametrize(
    "text", ["", "1-5", "01:00", "25:00-26:00", "01:60-02:00", "05:00-05:00", "00:00-00:00", "x"]
)
def test_what_is_no_window_is_refused_in_one_line(text):
    with pytest.raises(UsageError, match="is not a window of local time such as"):
        Window.parse(text)


def test_devices_that_wait_leave_a_prefetch_one_block():
    """It must neither stand in their way with a queue of its own, nor starve behind them."""
    assert may_ask(MIB, mine=0, my_bytes=0, others=500)
    assert not may_ask(MIB, mine=1, my_bytes=MIB, others=1)
    assert may_ask(MIB, mine=1, my_bytes=MIB, others=0)


def test_what_is_under_way_is_bounded_in_blocks_and_bytes():
    assert not may_ask(1, mine=UNDER_WAY_BLOCKS, my_bytes=UNDER_WAY_BLOCKS, others=0)
    assert not may_ask(MIB, mine=8, my_bytes=8 * MIB, others=0)
    assert may_ask(16 * MIB, mine=0, my_bytes=0, others=0), "a block larger than that goes alone"
