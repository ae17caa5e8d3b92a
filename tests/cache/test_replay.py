"""Replays: what a request does, and what the figures mean, against sums done by hand."""

import itertools
import os
import subprocess
import sys
from dataclasses import asdict

import pytest

from icnblocks.cache.policy import POLICIES, make_policy
from icnblocks.cache.replay.advise import advise
from icnblocks.cache.replay.parallel import Job, replay_all
from icnblocks.cache.replay.replay import Links, Replay
from icnblocks.cache.replay.trace import TraceBuilder
from icnblocks.errors import IcnError, UsageError

make_policy("lru")
TIMES = {"seconds", "plan_seconds", "longest_plan_seconds"}


def blocks(*names):
    return [(name, 100) for name in names]


def small(*wanted, edges=None):
    builder = TraceBuilder()
    builder.model("ab", blocks("a", "b"))
    builder.model("bc", blocks("b", "c"))
    builder.model("de", blocks("d", "e"))
    for t, name in enumerate(wanted):
        builder.get(t, name, edges[t] if edges else None)
    return builder.build()


def figures(result):
    return {name: value for name, value in asdict(result).items() if name not in TIMES}


def test_the_figures_are_those_done_by_hand():
    """lru, room for three blocks: miss ab; miss bc's c; hit ab; miss de, a or older leaves."""
    links = Links(backhaul=100, edge=1000, rtt=0.5)
    result = Replay(small("ab", "bc", "ab", "de", "ab"), "lru", 300, links=links).run()
    assert figures(result) == {
        "policy": "lru",
        "capacity": 300,
        "requests": 5,
        "model_hit_ratio": 0.2,
        # Missing: a b, c, nothing, d e (c and a leave), a (b is here: d leaves).
        "byte_hit_ratio": pytest.approx(0.4),
        "requested_bytes": 1000,
        "backhaul_bytes": 600,
        "neighbour_bytes": 0,
        "mean_pull_time": pytest.approx((2.7 + 1.7 + 0.2 + 2.7 + 1.7) / 5),
        "p95_pull_time": pytest.approx(2.7),
        "evictions": 3,
        "evicted_bytes": 300,
        "plans": 0,
        "edges": {},
    }


def test_the_warm_up_fills_the_cache_and_is_not_counted():
    result = Replay(small("ab", "bc", "ab", "ab"), "lru", 200, warmup=0.5).run()
    assert (result.requests, result.model_hit_ratio, result.backhaul_bytes) == (2, 0.5, 100)
    assert result.evictions == 1, "those of the warm-up are not counted either"


def test_what_does_not_fit_passes_through():
    builder = TraceBuilder()
    builder.model("big", [("x", 1000), ("y", 100)])
    for t in range(3):
        builder.get(t, "big")
    result = Replay(builder.build(), "lru", 500).run()
    assert (result.model_hit_ratio, result.backhaul_bytes) == (0, 3100)


def test_each_edge_has_its_own_content():
    trace = small("ab", "ab", "ab", edges=["x", "y", "x"])
    result = Replay(trace, "lru", 1000).run()
    assert result.model_hit_ratio == pytest.approx(1 / 3)
    assert {name: one["requests"] for name, one in result.edges.items()} == {"x": 2, "y": 1}
    assert {name: one["backhaul_bytes"] for name, one in result.edges.items()} == {
        "x": 200,
        "y": 200,
    }


def test_a_neighbour_gives_what_it_holds_at_its_rate():
    trace = small("ab", "bc", edges=["x", "y"])
    links = Links(backhaul=100, edge=1000, rtt=0.0, neighbour=400)
    result = Replay(trace, "lru", 1000, links=links).run()
    assert (result.backhaul_bytes, result.neighbour_bytes) == (300, 100)
    assert result.mean_pull_time == pytest.approx((2.2 + 0.2 + 1.0 + 0.25) / 2)


def test_policies_are_told_what_neighbours_hold():
    """Else neighbouring edges would all keep the same."""
    told = {}
    replay = Replay(small("ab", "bc", "ab", edges=["x", "y", "y"]), "sharing", 1000,
                    links=Links(backhaul=100, neighbour=400))  # fmt: skip
    for name, edge in zip("xy", replay._edges, strict=True):
        edge.priced.priced = lambda model, factor, now, name=name: told.setdefault(
            (name, now), factor
        )
    replay.run()
    assert told == {("x", 0): 1.0, ("y", 1): pytest.approx(5 / 8), ("y", 2): pytest.approx(1 / 4)}


def test_policies_are_told_the_links_that_they_are_scored_by(monkeypatch):
    """Else `sharing` would weigh round trips by 50 ms and 200 Mbit/s whatever `--rtt` says."""
    told, make = [], POLICIES["sharing"]
    monkeypatch.setitem(
        POLICIES, "sharing", lambda capacity, **given: told.append(given) or make(capacity, **given)
    )
    links = Links(backhaul=100.0, rtt=9.0)
    for policy in ("sharing:plan_requests=5", "sharing:rtt=20ms"):
        Replay(small("ab"), policy, 300, links=links)
    assert told == [
        {"rtt_s": 9.0, "backhaul": 100.0, "plan_requests": 5},
        {"rtt_s": 0.02, "backhaul": 100.0},
    ]


def test_a_model_is_known_from_its_line_on_and_not_before():
    known = []
    builder = TraceBuilder()
    builder.model("ab", blocks("a", "b"))
    builder.get(0, "ab")
    builder.model("bc", blocks("b", "c"))
    builder.get(1, "ab")
    replay = Replay(builder.build(), "lru", 1000)
    policy = replay._edges[0].policy
    policy.learn = lambda model, blocks, base: known.append(len(blocks))
    policy.requested = lambda model, now: known.append(now)
    replay.run()
    assert known == [2, 0, 2, 1]


def test_plans_are_made_when_they_are_due():
    result = Replay(small(*["ab", "bc", "de"] * 20), "sharing:plan_requests=10", 300).run()
    assert result.plans > 3
    assert 0 < result.longest_plan_seconds <= result.plan_seconds


def test_what_cannot_be_replayed_is_said_before_it_begins():
    trace = small("ab")
    for policy, capacity, warmup in (("lru", 0, 0), ("lru", 1, 1.0), ("nonsense", 1, 0)):
        with pytest.raises(UsageError):
            Replay(trace, policy, capacity, warmup=warmup)
    with pytest.raises(UsageError):
        list(replay_all(trace, [Job("lru", 1), Job("lru:x=1", 1)]))


def test_processes_find_what_one_process_finds():
    """In the order of the jobs, whichever is done first; the trace is shared, not sent."""
    trace = small(*["ab", "bc", "de", "ab"] * 50)
    jobs = [Job(name, capacity) for name in sorted(POLICIES) for capacity in (150, 300, 600)]
    told = []
    alone = [figures(one) for one in replay_all(trace, jobs, processes=1)]
    beside = [figures(one) for one in replay_all(trace, jobs, processes=3, progress=told.append)]
    assert alone == beside
    assert sum(told) == len(trace) * len(jobs)
    assert [(one["policy"], one["capacity"]) for one in alone] == [
        (job.policy, job.capacity) for job in jobs
    ]


def test_progress_is_told_by_time_and_not_by_requests(monkeypatch):
    """Catches: processes that noticed only after 4,096 requests that nobody waits for them."""
    told, seconds = [], itertools.count(step=0.15)
    monkeypatch.setattr("time.perf_counter", lambda: next(seconds))
    Replay(small(*["ab"] * 7), "lru", 100).run(told.append)
    assert told == [0, 1, 2, 2, 2, 0], "three models, seven requests"


def test_a_process_that_dies_is_an_error_and_no_hang(monkeypatch):
    """Also the one that was begun last, whose pipe this process held a moment ago."""
    run = Replay.run
    monkeypatch.setattr(
        Replay,
        "run",
        lambda self, progress: os._exit(9) if self._capacity == 200 else run(self, progress),
    )
    with pytest.raises(IcnError, match="died"):
        list(replay_all(small("ab"), [Job("lru", 100), Job("lru", 200)], processes=2))


def test_a_process_that_has_no_memory_says_so_and_prints_nothing(monkeypatch, capfd):
    """Catches: its traceback on the terminal, above `a replay died`."""

    def large(*_):
        raise MemoryError

    monkeypatch.setattr(Replay, "run", large)
    with pytest.raises(MemoryError):
        list(replay_all(small("ab"), [Job("lru", 100), Job("lru", 200)], processes=2))
    assert capfd.readouterr().err == ""


_TOLD_TO_END = """
import os, signal, sys
from icnblocks.cache.replay.parallel import Job, replay_all
from icnblocks.errors import IcnError
from tests.cache.test_replay import small

signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
os.register_at_fork(after_in_child=lambda: os.kill(os.getpid(), signal.SIGTERM))
try:
    list(replay_all(small("ab"), [Job("lru", 100), Job("lru", 200)], processes=2))
except IcnError as error:
    print(error)
"""


def test_a_process_that_is_told_to_end_as_it_begins_does_not_act_as_its_parent():
    """Catches: the parent's handler runs in it, and it goes on as a second parent."""
    done = subprocess.run(
        [sys.executable, "-c", _TOLD_TO_END], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "a replay died (exit status -15)\n"
    assert not done.stderr


def test_advice_is_the_best_policy_and_the_smallest_size_that_is_enough():
    trace = small(*["ab", "bc", "ab", "de"] * 30)
    links = Links(backhaul=100, edge=1000, rtt=0.5)
    jobs = [Job(name, size) for name in ("lru", "sharing") for size in (1, 300, 500, 5000)]
    advice = advise(list(replay_all(trace, jobs, links=links, processes=1)), trace, links)
    assert (advice.capacity, advice.largest) == (500, 5000)
    assert advice.policy == "sharing"
    assert advice.uncached_pull_time == pytest.approx(2.7)
    assert advice.mean_pull_time == advice.largest_pull_time
    assert advice.all_fits


def test_a_pull_of_nothing_goes_nowhere_without_a_cache_either():
    """Only models with bytes wait for the origin, also in what a cache is compared with."""
    builder = TraceBuilder()
    builder.model("empty", [])
    builder.model("a", blocks("a"))
    for t, name in enumerate(["empty", "empty", "a", "a", "empty", "empty"]):
        builder.get(t, name)
    trace, links = builder.build(), Links(backhaul=100, edge=1000, rtt=0.5)
    results = list(replay_all(trace, [Job("lru", 99)], links=links, warmup=0.5))
    advice = advise(results, trace, links)
    assert advice.uncached_pull_time == advice.mean_pull_time == pytest.approx(1.6 / 3)
    assert not advice.all_fits
