"""Stores and policies of 10,000 to a million blocks: opening, memory, hit, insert, eviction."""

from __future__ import annotations

import json
import re
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from benchmarks.policy_scale import BARE
from benchmarks.suite.figures import Aim
from benchmarks.suite.processes import Command
from benchmarks.suite.runner import Side, Stage
from benchmarks.suite.scenario import Scenario
from icnblocks.cache.policy import POLICIES, make_policy

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from benchmarks.suite.figures import Cost
    from benchmarks.suite.processes import Ended
    from benchmarks.suite.scenario import Bench

_MOST: Final = 1_000_000
_FEWER: Final = (10_000, 100_000)
_EVERYWHERE: Final = ("sharing", *BARE)
"""Those that are shown at every size."""
_LINE: Final = re.compile(r"^  (.+?)\s+([0-9.]+) (?:us|MB)$", re.MULTILINE)
_FACTS: Final = {
    "inserted, at opening (with digest)": "insert_us",
    "insert (with digest)": "insert_us",
    "hit": "hit_us",
    "victim drawn, removed, and inserted": "evict_us",
    "victim removed, and inserted": "evict_us",
    "memory of the state": "state_mb",
}


def _policy_facts(_: Cost, ended: list[Ended]) -> dict[str, float]:
    found = dict(_LINE.findall(ended[0].out))
    facts = {_FACTS[what]: float(value) for what, value in found.items() if what in _FACTS}
    return {**facts, "slowest_us": max(facts[x] for x in ("insert_us", "hit_us", "evict_us"))}


def _store_facts(_: Cost, ended: list[Ended]) -> dict[str, float]:
    disk = json.loads(ended[0].out.splitlines()[-1])["disk"]
    return {
        "open_s": disk["open_s"],
        "hit_us": disk["open_block_us"],
        "insert_us": disk["put_beyond_io_us"],
        "evict_us": disk["erase_beyond_io_us"],
        "slowest_us": max(
            disk[x] for x in ("open_block_us", "put_beyond_io_us", "erase_beyond_io_us")
        ),
        "state_mb": (disk["rss_open_mib"] - disk["rss_before_mib"]) * 1.048576,
    }


def _blocks(count: int) -> str:
    return "1 M" if count == _MOST else f"{count // 1000} k"


def _policy(name: str, count: int) -> Side:
    words = [sys.executable, "-m", "benchmarks.policy_scale", name, "--blocks", str(count)]
    return Side(
        f"{name}, {_blocks(count)}",
        steps=lambda: [[Command(words)]],
        facts=_policy_facts,
        ours=True,
        note="without a policy" if name in BARE else "the policy alone",
    )


def _store(bench: Bench, count: int) -> Side:
    words = [sys.executable, "-m", "benchmarks.store_scale", "--blocks", str(count)]
    return Side(
        f"disk store, {_blocks(count)}",
        steps=lambda: [[Command([*words, "--policy", "", "--dir", bench.root])]],
        facts=_store_facts,
        ours=True,
        note="beyond its I/O; nothing is flushed by the calls that are timed",
    )


@contextmanager
def _open(bench: Bench) -> Iterator[Stage]:
    make_policy("lru")  # registers all of them
    most = bench.size // 10**6 * 1000  # a size of 1000 MB stands for a million blocks
    sides = [_policy(name, most) for name in (*BARE, *sorted(POLICIES))]
    for count in (fewer for fewer in _FEWER if fewer < most):
        sides += [_policy(name, count) for name in _EVERYWHERE]
    sides += [_store(bench, count) for count in (*_FEWER, most) if count <= most]
    yield Stage(sides, 0, {"blocks": most})


def _aims(facts: Mapping[str, float]) -> Sequence[Aim]:
    where = _blocks(int(facts["blocks"]))
    return tuple(
        Aim(
            f"{name} at {where} blocks: the slowest of hit, insert and eviction",
            "slowest_us",
            f"{name}, {where}",
            None,
            10,
            5,
            unit="us",
        )
        for name in (*sorted(POLICIES), "disk store")
    )


SCENARIOS: Final = (
    Scenario(
        "store",
        "Stores and policies at a million blocks",
        "CPU microseconds for each hit, insert and eviction of every policy, in a process of its"
        " own, beside an OrderedDict and a heap of the same size without a policy, whose cache"
        " misses grow with their size too; and of the disk store beyond its I/O, with the time to"
        " open it. Memory is what the state adds, the digests included.",
        1000,
        2,
        _open,
        _aims,
        (
            ("hit_us", "hit us"),
            ("insert_us", "insert us"),
            ("evict_us", "eviction us"),
            ("state_mb", "state MB"),
            ("open_s", "open s"),
            ("wall_s", "whole run s"),
            ("rss_mb", "peak RSS MB"),
        ),
        (
            ("hit_us", "us of CPU for a hit"),
            ("evict_us", "us of CPU for an eviction and an insert"),
        ),
        (),
    ),
)
