"""The token bucket under a virtual clock: never more than it allows, and never less for long."""

from __future__ import annotations

import heapq

from hypothesis import given, settings
from hypothesis import strategies as st

from icnblocks.client.bucket import TokenBucket

SETTINGS = settings(max_examples=80, deadline=None)
rates = st.floats(100.0, 1e9)


@SETTINGS
@given(
    rate=rates,
    lanes=st.integers(1, 8),
    asks=st.lists(
        st.tuples(st.floats(0.0, 0.5), st.floats(0.01, 1.0), st.floats(0.0, 1.0)),
        min_size=1, max_size=60,
    ),
)  # fmt: skip
def test_in_no_interval_is_more_read_than_rate_and_burst(rate, lanes, asks) -> None:
    """Lanes reserve, wait, read a part of it, give the rest back, and pause."""
    bucket, reads = TokenBucket(rate, 0.0), []
    ready = [(0.0, number) for number in range(lanes)]
    for pause, wants, reads_part in asks:
        now, lane = heapq.heappop(ready)
        count = max(int(bucket.burst * wants), 1)
        at = now + bucket.reserve(count, now)
        got = int(count * reads_part)
        # The others may ask while this one waits, so the rest is given back at the same time.
        bucket.refund(count - got, now)
        reads.append((at, got))
        heapq.heappush(ready, (at + pause, lane))
    reads.sort()
    for first in range(len(reads)):
        total = 0
        for at, got in reads[first:]:
            total += got
            assert total <= bucket.burst + rate * (at - reads[first][0]) + 1e-6 * rate + 1


@SETTINGS
@given(rate=rates, count=st.integers(1, 200))
def test_who_never_pauses_gets_the_whole_rate(rate: float, count: int) -> None:
    bucket, now, total = TokenBucket(rate, 0.0), 0.0, 0
    for _ in range(count):
        now += bucket.reserve(bucket.burst, now)
        total += bucket.burst
    expected = bucket.burst + rate * now
    assert abs(total - expected) <= 1e-6 * total


def test_a_pause_saves_up_no_more_than_a_burst() -> None:
    """Else a limit of 20 Mbit/s would be none for a minute after a minute's rest."""
    bucket = TokenBucket(1_000_000, 0.0)
    assert bucket.burst == 50_000
    assert bucket.reserve(50_000, 3600.0) == 0.0
    assert bucket.reserve(50_000, 3600.0) == 0.05


def test_a_clock_that_steps_back_gives_nothing_twice() -> None:
    bucket = TokenBucket(1000, 10.0)
    assert bucket.reserve(4096, 10.0) == 0.0
    assert bucket.reserve(1000, 5.0) == 1.0
    assert bucket.reserve(1000, 10.0) == 2.0


def test_what_is_given_back_is_there_for_the_next() -> None:
    bucket = TokenBucket(1000, 0.0)
    bucket.reserve(4096, 0.0)
    bucket.refund(4000, 0.0)
    assert bucket.reserve(4000, 0.0) == 0.0
