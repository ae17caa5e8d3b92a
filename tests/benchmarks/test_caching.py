"""What the evidence on caching rests on: that others are asked the same, and bounds are bounds."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.caching.__main__ import fill
from benchmarks.caching.bounds import hit_bound, least_time, optimum_hits
from benchmarks.caching.cells import LINKS, Setting, make
from benchmarks.caching.jobs import Failure, Job, run_all
from icnblocks.cache.replay.replay import Replay
from icnblocks.cache.replay.trace import TraceBuilder
from icnblocks.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]


def _trace(models, wanted, size=10):
    made = TraceBuilder()
    for name, blocks in enumerate(models):
        made.model(name, [(block, size) for block in blocks])
    for t, name in enumerate(wanted):
        made.get(float(t), name)
    return made.build()


@pytest.fixture(scope="module")
def general():
    pytest.importorskip("libcachesim")
    from benchmarks.caching import general

    return general


@pytest.fixture(scope="module")
def lora():
    return make(Setting("lora", 5.0, 300), 1)


def test_its_lru_and_ours_have_the_same_hits(general, lora):
    """A request that means something else there would make every comparison wrong."""
    for capacity in (10**9 // 2, 2 * 10**9 + 1):
        theirs = general.general_replay(lora.trace, "LRU", capacity, links=LINKS, warmup=0.25)
        ours = Replay(lora.trace, "lru", capacity, links=LINKS, warmup=0.25).run()
        for name, value in theirs.items():
            assert getattr(ours, name) == pytest.approx(value, rel=1e-12), name


def test_what_is_here_is_asked_for_before_anything_is_brought(general):
    """Brought in manifest order at once, the first blocks would evict the last."""
    trace = _trace([[1, 2, 3, 4], [5, 6, 7, 1]], [0, 1])
    cache = general.Blockwise(trace, "LRU", 40)
    first, second = cache.blocks_of(trace)
    assert [cache.request(first, 0.0), cache.request(second, 1.0)] == [4, 3]


def test_policies_find_what_they_hold_and_nothing_else(general, lora):
    """One that also finds what it evicted (3L-Cache does) would be given hits it never had."""
    for name in general.general_policies():
        if name in {*general.CANNOT_TELL, "LFUDA"}:
            continue
        cache = general.Blockwise(lora.trace, name, 10**9)
        models = cache.blocks_of(lora.trace)
        for wanted in lora.trace.wanted[:100]:
            cache.request(models[wanted], 0.0)
        assert cache.found() == cache.held() > 0, name


def test_no_oracle_and_no_shell_is_among_them(general):
    names = general.general_policies()
    assert {"LRU", "S3FIFO", "WTinyLFU", "ARC", "LRB"} <= set(names)
    assert not {"Belady", "BeladySize", "PluginCache", "CacheBase"} & set(names)


def test_unequal_blocks_are_refused(general):
    """Size-aware policies would look better than they are."""
    made = TraceBuilder()
    made.model(0, [(1, 10), (2, 11)])
    made.get(0.0, 0)
    with pytest.raises(UsageError, match="2 sizes"):
        general.Blockwise(made.build(), "LRU", 100)


MODELS = st.lists(st.sets(st.integers(0, 12), min_size=1, max_size=6), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(MODELS, st.lists(st.integers(0, 5), min_size=1, max_size=40), st.integers(1, 13))
def test_no_policy_beats_the_bound(models, wanted, blocks):
    trace = _trace(models, [number % len(models) for number in wanted])
    for warmup in (0.0, 0.5):
        bound = hit_bound(trace, 10 * blocks, warmup=warmup)
        for policy in ("lru", "lfu", "sharing:objective=hits"):
            result = Replay(trace, policy, 10 * blocks, warmup=warmup).run()
            assert result.model_hit_ratio <= bound + 1e-9


def test_the_bound_is_met_where_nothing_competes():
    """A bound that is always 1 would hold too."""
    trace = _trace([[1, 2], [3, 4]], [0, 1, 0, 1, 0, 1])
    assert hit_bound(trace, 40, warmup=0.0) == pytest.approx(4 / 6)
    assert hit_bound(trace, 20, warmup=0.0) == pytest.approx(3 / 6)
    assert hit_bound(trace, 10, warmup=0.0) == pytest.approx(1 / 6)


def test_the_optimum_stands_still_in_a_window_and_is_counted_after_the_warm_up(lora):
    """Counted from the first request, it would be compared with another part of the trace."""
    all_of_it = lora.library.unique_bytes

    def hits(capacity, window):
        return optimum_hits(
            lora.library, lora.popularity, lora.wanted, capacity, first=75, window=window
        )

    assert hits(all_of_it, 300) == 1.0
    assert hits(10**9, 100) > hits(10**9, 300) - 0.02
    assert hits(1, 100) == 0.0


def test_no_content_is_faster_than_the_bound():
    """By hand: a round trip and 1 s a block for what is missing, 0.2 s a block for all of it.

    Catches: a part of a model that there is room for is not counted as here; room is
    given out twice.
    """
    trace = _trace([[1, 2, 3], [4]], [0, 0, 0, 1], size=25_000_000)
    shares = np.array([[0.75, 0.25]])

    def seconds(blocks):
        return least_time(trace, shares, blocks * 25_000_000, LINKS, first=0, window=4)

    assert seconds(4) == pytest.approx((3 * 0.6 + 0.2) / 4)
    assert seconds(3) == pytest.approx((3 * 0.6 + 1.05 + 0.2) / 4)
    # A third of the model that is asked for more often, and as much of its round trip.
    assert seconds(1) == pytest.approx((3 * (0.6 + 2 + 0.05 * 2 / 3) + 1.05 + 0.2) / 4)


def test_a_job_that_is_slow_or_crashes_takes_nothing_with_it():
    def spin():
        while True:
            pass

    jobs = [
        Job("slow", spin, limit_s=1),
        Job("crash", lambda: os._exit(3)),
        Job("wrong", lambda: 1 // 0),
        Job("fine", lambda: 7),
    ]
    began = time.monotonic()
    found = run_all(jobs, 2)
    assert found["fine"] == 7
    assert found["slow"] == Failure("not done within 1 s")
    assert found["crash"] == Failure("ended with 3")
    assert found["wrong"].reason.startswith("ZeroDivisionError")
    assert time.monotonic() - began < 60


def test_tables_are_filled_in_between_their_marks():
    text = "a\n<!-- table x -->\nold\n<!-- end -->\nb\n<!-- table y -->\nkept\n<!-- end -->"
    assert fill(text, {"x": r"\1 new"}) == text.replace("old", r"\1 new")


@pytest.mark.slow
def test_a_quick_run_reaches_the_end_and_draws(tmp_path):
    """A scenario that broke would be noticed only by whoever renews the figures."""
    pytest.importorskip("libcachesim")
    pytest.importorskip("matplotlib")
    document = tmp_path / "document.md"
    document.write_text("<!-- table reached -->\n<!-- end -->\n")
    command = [sys.executable, "-m", "benchmarks.caching", "--quick", "--out", tmp_path]
    done = subprocess.run(
        [*command, "--document", document], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    charts = {path.name for path in tmp_path.glob("*.svg")}
    assert charts == {"online.svg", "dial.svg", "placement.svg", "multicast.svg"}
    assert "mean pull time" in document.read_text()
