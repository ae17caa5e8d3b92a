"""Demand does what its options say, never asks for what is not out, and follows from its seed."""

import io
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icnblocks.cache.replay.lines import TraceWriter, parse_trace
from icnblocks.errors import UsageError
from icnblocks.workloads.demand import DAY_S, RUN, Demand, draw, popularity
from icnblocks.workloads.emit import emit, trace_of
from icnblocks.workloads.lora import lora_library

LIBRARY = lora_library(adapters=10).in_units()
ALL = Demand(
    requests=3000, drift=20, flashes=3, daily=0.8, releases=0.5, edges=3, users=7, taste=0.5
)  # fmt: skip

_DEMANDS = st.builds(
    Demand,
    requests=st.integers(1, 500),
    zipf=st.floats(0, 3),
    drift=st.floats(0, 100),
    flashes=st.integers(0, 3),
    flash_share=st.floats(0, 1),
    daily=st.floats(0, 1),
    releases=st.floats(0, 1),
    edges=st.integers(1, 4),
    users=st.integers(0, 5),
    taste=st.floats(0, 1),
)


def _text(demand, seed):
    file = io.StringIO()
    emit(LIBRARY, demand, seed, TraceWriter(file))
    return file.getvalue()


@given(_DEMANDS, st.integers(0, 99), st.integers(1, 30))
@settings(max_examples=60, deadline=None)
def test_nothing_is_asked_for_before_it_is_published(demand, seed, models):
    drawn = draw(demand, models, seed)
    assert (drawn.published[drawn.wanted] <= np.arange(demand.requests)).all()
    assert (np.diff(drawn.times) >= 0).all()
    assert set(drawn.edges.tolist()) <= set(range(demand.edges))


@given(_DEMANDS, st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_every_trace_is_one_that_the_reader_takes(demand, seed):
    trace = parse_trace(io.BytesIO(_text(demand, seed).encode()), "made")
    assert trace == trace_of(LIBRARY, demand, seed)


def test_the_same_seed_gives_the_same_bytes_and_another_one_others():
    assert _text(ALL, 1) == _text(ALL, 1) != _text(ALL, 2)


def test_popularity_is_zipf():
    counts = np.bincount(draw(Demand(requests=50_000, zipf=1.0), 100, 0).wanted, minlength=100)
    ranked = np.sort(counts)[::-1]
    expected = 1 / np.arange(1, 101)
    assert np.allclose(ranked[:10] / 50_000, expected[:10] / expected.sum(), rtol=0.1)


def test_the_true_popularity_is_what_requests_are_drawn_by():
    """Told from another stream of chances, it would drift elsewhere than the requests do."""
    demand = Demand(requests=40_050, drift=20)
    rows = popularity(demand, 30, 0)
    assert rows.shape == (401, 30)
    assert np.allclose(rows.sum(axis=1), 1)
    wanted = draw(demand, 30, 0).wanted
    for first in (0, 36_000):
        expected = rows[first // RUN : (first + 4000) // RUN].mean(axis=0)
        counts = np.bincount(wanted[first : first + 4000], minlength=30) / 4000
        assert np.abs(counts - expected).max() < 0.02
    assert np.abs(rows[0] - rows[-1]).max() > 0.1


def _popular(wanted):
    return set(np.argsort(-np.bincount(wanted, minlength=300))[:20].tolist())


def test_popularity_drifts_as_far_as_it_is_told_to():
    """A drift among unpopular models only would have changed nothing that a cache sees."""

    def stays(drift):
        wanted = draw(Demand(requests=20_000, drift=drift), 300, 0).wanted
        return len(_popular(wanted[:5000]) & _popular(wanted[-5000:]))

    assert stays(0) >= 15
    assert stays(0) > stays(5) > stays(60)


def test_a_flash_crowd_takes_its_share_while_it_lasts():
    demand = Demand(requests=20_000, flashes=1, flash_share=0.5, flash_s=20_000.0)
    calm = draw(replace(demand, flashes=0), 300, 4)
    crowd = draw(demand, 300, 4)
    changed = np.flatnonzero(crowd.wanted != calm.wanted)
    assert len(set(crowd.wanted[changed].tolist())) == 1
    span = crowd.times[changed[-1]] - crowd.times[changed[0]]
    assert 0.9 * 20_000 < span <= 20_000
    assert 0.4 < len(changed) / (changed[-1] - changed[0] + 1) < 0.6


def test_the_rate_follows_the_hour_and_keeps_its_average():
    drawn = draw(Demand(requests=50_000, rate=0.1, daily=0.9), 10, 0)
    whole = drawn.times[drawn.times < DAY_S * (drawn.times[-1] // DAY_S)]
    hours = np.bincount((whole % DAY_S // 3600).astype(int), minlength=24)
    assert hours[11:13].sum() > 8 * (hours[0] + hours[23])
    assert 0.95 < len(whole) / (0.1 * DAY_S * (drawn.times[-1] // DAY_S)) < 1.05


def test_a_trace_of_many_days_takes_memory_for_its_requests_only():
    """Catches: 288 numbers for each day, gigabytes where requests are seldom."""
    tracemalloc.start()
    drawn = draw(Demand(requests=200, rate=1e-6, daily=1.0), 10, 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert drawn.times[-1] > 1000 * DAY_S
    assert (np.diff(drawn.times) >= 0).all()
    assert peak < 2_000_000


def test_releases_come_later_in_the_stream_and_are_asked_for():
    demand = Demand(requests=5000, releases=0.4)
    drawn = draw(demand, 30, 1)
    late = np.flatnonzero(drawn.published)
    assert len(late) == 12
    assert np.isin(late, drawn.wanted).mean() > 0.8
    lines = _text(demand, 1).splitlines()
    first = next(n for n, line in enumerate(lines) if '"get"' in line)
    assert any('"model"' in line for line in lines[first:])


def test_users_move_as_often_as_told_and_only_then():
    still = draw(Demand(requests=2000, edges=4, users=4, moves=0), 10, 0)
    assert set(still.edges.tolist()) == {0, 1, 2, 3}
    assert (still.edges == draw(Demand(requests=2000, edges=4), 10, 0).edges).all()
    moving = draw(Demand(requests=20_000, edges=4, users=1, moves=24), 10, 0)
    hours = (moving.times[-1] - moving.times[0]) / 3600
    assert 0.6 * hours < np.count_nonzero(np.diff(moving.edges)) < hours


def test_edges_differ_by_taste_only():
    def likeness(taste):
        drawn = draw(Demand(requests=20_000, edges=2, taste=taste), 100, 0)
        a, b = (np.bincount(drawn.wanted[drawn.edges == e], minlength=100) for e in (0, 1))
        return np.corrcoef(a, b)[0, 1]

    assert likeness(0) > 0.95
    assert likeness(1) < 0.5


def test_one_edge_is_not_named():
    assert trace_of(LIBRARY, Demand(requests=5), 0).edge_names == ("",)
    assert set(trace_of(LIBRARY, Demand(requests=99, edges=2), 0).edge_names) == {
        "edge-0",
        "edge-1",
    }


@pytest.mark.parametrize(
    "wrong",
    [
        {"requests": 0},
        {"edges": 0},
        {"rate": 0.0},
        {"rate": float("nan")},
        {"daily": 1.1},
        {"taste": -0.1},
        {"zipf": -1.0},
        {"drift": float("inf")},
    ],
    ids=str,
)
def test_demand_that_cannot_be_meant_is_refused(wrong):
    with pytest.raises(UsageError):
        Demand(**wrong)


def test_a_library_without_models_is_refused():
    with pytest.raises(UsageError, match="at least one model"):
        draw(Demand(), 0, 0)
