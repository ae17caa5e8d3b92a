"""The general-purpose policies of libcachesim, on the same requests at block level.

A request means here what it means in a replay (docs/traces.md): the blocks that are here are asked
for in manifest order, then the missing ones are brought in manifest order. Whether a block is
here is asked before anything is brought. This module must not judge a policy.
"""

from __future__ import annotations

import inspect
from array import array
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from benchmarks.caching.pulls import pull_figures
from icnblocks.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from icnblocks.cache.replay.replay import Links
    from icnblocks.cache.replay.trace import Trace

ORACLES: Final = {"Belady": "knows the future", "BeladySize": "knows the future"}
SHELLS: Final = {"PluginCache": "runs hooks that somebody else writes; no policy of its own"}
LEARNERS: Final = {"LRB", "GLCache", "ThreeLCache"}
"""Train models while they run."""
CANNOT_TELL: Final = {"LRB", "ThreeLCache"}
"""Cannot be asked what is here: LRB refuses, and 3L-Cache also finds what it has evicted lately.
Their blocks are asked for in manifest order, those that it finds first, and what the request
itself answers is counted. That a whole model was here is told exactly all the same: nothing is
brought before the first block that is missing."""


def general_policies() -> list[str]:
    """All online policies of libcachesim, by the names of their classes."""
    import libcachesim

    found = [
        name
        for name, kind in inspect.getmembers(libcachesim, inspect.isclass)
        if issubclass(kind, libcachesim.CacheBase) and kind is not libcachesim.CacheBase
    ]
    return [name for name in found if name not in ORACLES and name not in SHELLS]


def general_version() -> str:
    """The version of libcachesim that is installed."""
    from importlib.metadata import version

    return version("libcachesim")


class Blockwise:
    """One policy of libcachesim, told what a replay tells ours.

    Args:
        trace: of blocks that all have the same size.
        name: of the policy.
        capacity: bytes.

    Raises:
        UsageError: if blocks differ in size, or the cache has no room for one.
    """

    def __init__(self, trace: Trace, name: str, capacity: int) -> None:
        import libcachesim

        sizes = set(trace.lengths.values())
        if len(sizes) != 1:
            raise UsageError(f"blocks of {len(sizes)} sizes: policies are compared on equal blocks")
        self.unit = sizes.pop()
        if capacity < self.unit:
            raise UsageError(f"a capacity of {capacity} bytes has no room for a block")
        self._requests = {}
        for number, digest in enumerate(trace.lengths, 1):
            request = libcachesim.Request()
            request.obj_id, request.obj_size = number, self.unit
            self._requests[digest] = request
        # Whole blocks: parts into which policies divide the capacity lose less by rounding.
        whole = capacity // self.unit * self.unit
        cache = getattr(libcachesim, name)(whole)
        # Below the wrapper, which would add a call for each block.
        self._keeper, self._find, self._get = cache, cache._cache.find, cache._cache.get
        self._tells = name not in CANNOT_TELL
        self._finds = name != "LRB"

    def blocks_of(self, trace: Trace) -> list[list[Any]]:
        """The blocks of each model of the trace, as `request` takes them."""
        return [[self._requests[digest] for digest in model.blocks] for model in trace.models]

    def held(self) -> int:
        """How many blocks are here, as the cache itself counts them."""
        return int(self._keeper.get_n_obj())

    def found(self) -> int:
        """How many blocks are here, as found one by one."""
        return sum(self._find(one, False) is not None for one in self._requests.values())

    def request(self, blocks: Sequence[Any], t: float) -> int:
        """Somebody asks for a model; returns how many of its blocks were missing."""
        find, get, second = self._find, self._get, int(t)
        here, missing = [], []
        for block in blocks:
            block.clock_time = second
            if self._finds and find(block, False) is not None:
                here.append(block)
            else:
                missing.append(block)
        if self._tells:
            for block in here:
                get(block)
            for block in missing:
                get(block)
            return len(missing)
        return sum(not get(block) for block in [*here, *missing])


def general_replay(
    trace: Trace, name: str, capacity: int, *, links: Links, warmup: float
) -> dict[str, float]:
    """Replay a trace by a policy of libcachesim; returns what `pull_figures` gives."""
    cache = Blockwise(trace, name, capacity)
    models = cache.blocks_of(trace)
    missing = array("q")
    for t, wanted in zip(trace.times, trace.wanted, strict=True):
        missing.append(cache.request(models[wanted], t) * cache.unit)
    return pull_figures(trace, np.frombuffer(missing, dtype=np.int64), links, warmup)
