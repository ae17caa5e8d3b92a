"""Replaying a trace: the daemon's content store and policies, over stores without bytes.

What a request does, and what the figures mean, stands in docs/traces.md. Everything but the
seconds that plans take follows from the trace and the arguments alone. This module must not read
files or know any policy by name.
"""

from __future__ import annotations

import math
import time
from array import array
from typing import TYPE_CHECKING, Any, Final

from icnblocks.cache.options import arguments, split
from icnblocks.cache.planning import Planner, Priced, solve
from icnblocks.cache.policy import POLICIES, policy_options
from icnblocks.cache.replay.content import VirtualContent
from icnblocks.errors import UsageError
from icnblocks.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from icnblocks.cache.policy import Policy
    from icnblocks.cache.replay.trace import Trace, TraceModel
    from icnblocks.naming import Digest

_TELL_EVERY_S: Final = 0.2
_TOLD: Final = ("rtt", "backhaul")
"""Options that policies are told from the links: seconds, and bytes a second."""


@dataclass(frozen=True, slots=True)
class Links:
    """What a pull takes.

    Attributes:
        backhaul: bytes a second from the origin to an edge.
        edge: bytes a second from an edge to a device.
        rtt: seconds lost once when anything has to be fetched from beyond the edge.
        neighbour: bytes a second from another edge; None if edges do not help each other.

    Raises:
        UsageError: if a rate is not above 0, or `rtt` is below 0.
    """

    backhaul: float = 25e6
    edge: float = 125e6
    rtt: float = 0.05
    neighbour: float | None = None

    def __post_init__(self) -> None:
        """Refuse what would make pull times meaningless, NaN too."""
        rates = (self.backhaul, self.edge, 1.0 if self.neighbour is None else self.neighbour)
        if not all(0 < rate < math.inf for rate in rates) or not 0 <= self.rtt < math.inf:
            raise UsageError(f"links need rates above 0 and a round trip from 0 on: {self}")


@dataclass(frozen=True, slots=True)
class Result:
    """Figures of one policy at one capacity, of the requests after the warm-up.

    Attributes:
        policy: as it was asked for, with its options.
        capacity: bytes of each edge.
        requests: how many were counted.
        model_hit_ratio: the share of requests of which nothing was missing.
        byte_hit_ratio: the share of the bytes asked for that were at the edge.
        requested_bytes: bytes asked for.
        backhaul_bytes: bytes from the origin.
        neighbour_bytes: bytes from other edges.
        mean_pull_time, p95_pull_time: seconds.
        evictions: blocks.
        evicted_bytes: their bytes.
        plans: plans that were made in the whole run; `plan_seconds` for all of them together,
            `longest_plan_seconds` for the slowest.
        seconds: that the whole run took.
        edges: the same figures for each edge, if there are several.
    """

    policy: str
    capacity: int
    requests: int
    model_hit_ratio: float
    byte_hit_ratio: float
    requested_bytes: int
    backhaul_bytes: int
    neighbour_bytes: int
    mean_pull_time: float
    p95_pull_time: float
    evictions: int
    evicted_bytes: int
    plans: int
    plan_seconds: float
    longest_plan_seconds: float
    seconds: float
    edges: dict[str, dict[str, Any]]


def _policy(spec: str, capacity: int, links: Links) -> Policy:
    """A fresh policy that knows the links it is scored by, where its spec does not say else."""
    declared = policy_options(split(spec)[0])
    told = {declared[key].argument: getattr(links, key) for key in _TOLD if key in declared}
    return POLICIES[split(spec)[0]](capacity, **told | arguments(spec, declared))


class _Edge:
    """One edge: its content, and what it did."""

    def __init__(self, policy: Policy, capacity: int, now: float) -> None:
        self.policy = policy
        self.content = VirtualContent(self.policy, capacity, now=now)
        self.planner = self.policy if isinstance(self.policy, Planner) else None
        self.priced = self.policy if isinstance(self.policy, Priced) else None
        self.evicted = self.evicted_bytes = 0
        if self.planner is not None:
            self.planner.plan_due(now)  # so that it knows that its plans are driven from here

    def learn(self, model: TraceModel, trace: Trace) -> None:
        self.content.learn_blocks(model.digest, trace.lengths_of(model), model.base)

    def requested(self, model: TraceModel, trace: Trace, now: float) -> None:
        if not self.content.requested(model.digest, now):
            self.learn(model, trace)
            self.content.requested(model.digest, now)

    def counted_from_here(self) -> None:
        """The warm-up is over."""
        stats = self.content.stats()
        self.evicted, self.evicted_bytes = stats.evicted, stats.evicted_bytes


class Replay:
    """One policy at one capacity over one trace.

    Args:
        trace: what is asked for.
        policy: as `make_policy` takes it.
        capacity: bytes of each edge.
        links: for the pull times; a policy with options `rtt` and `backhaul` is told them too,
            unless they stand in `policy`.
        warmup: the share of the requests, from the first, that is not counted.

    Raises:
        UsageError: for an unknown policy or option, a capacity below one byte, or a warm-up that
            is no share.
    """

    def __init__(
        self,
        trace: Trace,
        policy: str,
        capacity: int,
        *,
        links: Links | None = None,
        warmup: float = 0.0,
    ) -> None:
        if capacity < 1:
            raise UsageError("a capacity has at least one byte")
        if not 0 <= warmup < 1:
            raise UsageError(f"a warm-up is a share from 0 to below 1, not {warmup}")
        self._first = int(len(trace) * warmup)
        self._trace = trace
        self._spec = policy
        self._capacity = capacity
        self._links = links or Links()
        start = trace.times[0]
        self._edges = [
            _Edge(_policy(policy, capacity, self._links), capacity, start) for _ in trace.edge_names
        ]
        self._missing = array("q")
        self._near = array("q")
        self._plans: list[float] = []

    def run(self, progress: Callable[[int], None] | None = None) -> Result:
        """Replay everything; `progress` is told now and then how many more requests are done."""
        trace, edges = self._trace, self._edges
        began = time.perf_counter()
        told, due = 0, began + _TELL_EVERY_S

        def tell(done: int) -> None:
            nonlocal told, due
            passed = time.perf_counter()
            if progress is not None and passed >= due:
                progress(done - told)
                told, due = done, passed + _TELL_EVERY_S

        models, published, learnt = trace.models, trace.published, 0
        for number, (now, wanted, at) in enumerate(
            zip(trace.times, trace.wanted, trace.edges, strict=True)
        ):
            while learnt < len(models) and published[learnt] <= number:
                for edge in edges:
                    edge.learn(models[learnt], trace)
                learnt += 1
                tell(number)
            if number == self._first:
                for edge in edges:
                    edge.counted_from_here()
            self._request(edges[at], models[wanted], now)
            tell(number + 1)
        if progress is not None:
            progress(len(trace) - told)
        return self._result(time.perf_counter() - began)

    def _request(self, edge: _Edge, model: TraceModel, now: float) -> None:
        """One request; what it means stands in docs/traces.md."""
        if self._links.neighbour is not None and edge.priced is not None:
            edge.priced.priced(model.digest, self._price(edge, model, self._links.neighbour), now)
        edge.requested(model, self._trace, now)
        missing = edge.content.touch_all(model.blocks, now)
        if missing:
            sizes = list(map(self._trace.lengths.__getitem__, missing))
            self._missing.append(sum(sizes))
            self._near.append(self._held_near(edge, missing, sizes))
            edge.content.bring_all(missing, sizes, now)
        else:
            self._missing.append(0)
            self._near.append(0)
        if edge.planner is not None and edge.planner.plan_due(now):
            self._plan(edge.planner, now)

    def _plan(self, planner: Planner, now: float) -> None:
        """As a daemon does beside its event loop, but at once."""
        began = time.perf_counter()
        planner.adopt(solve(planner.problem(now)), now)
        self._plans.append(time.perf_counter() - began)

    def _price(self, edge: _Edge, model: TraceModel, rate: float) -> float:
        """What a miss of this model costs, of what it costs if all comes from the origin."""
        blocks = model.blocks
        sizes = list(map(self._trace.lengths.__getitem__, blocks))
        near = self._held_near(edge, blocks, sizes) / max(model.size, 1)
        return min(1 - near + near * self._links.backhaul / rate, 1.0)

    def _held_near(self, edge: _Edge, missing: Sequence[Digest], sizes: Sequence[int]) -> int:
        """Bytes of these blocks that some other edge holds."""
        if self._links.neighbour is None:
            return 0
        others = [other.content for other in self._edges if other is not edge]
        return sum(
            size
            for digest, size in zip(missing, sizes, strict=True)
            if any(other.contains(digest) for other in others)
        )

    # --- figures ----------------------------------------------------------------------------

    def _result(self, seconds: float) -> Result:
        import numpy as np

        first, trace = self._first, self._trace
        sizes = np.array([model.size for model in trace.models], dtype=np.int64)
        asked = sizes[np.frombuffer(trace.wanted, dtype=np.int32)[first:]]
        missing = np.frombuffer(self._missing, dtype=np.int64)[first:]
        near = np.frombuffer(self._near, dtype=np.int64)[first:]
        at = np.frombuffer(trace.edges, dtype=np.int32)[first:]
        links = self._links
        times = links.rtt * (missing > 0) + (missing - near) / links.backhaul + asked / links.edge
        if links.neighbour is not None:
            times += near / links.neighbour

        def figures(mask: Any, edges: Sequence[_Edge]) -> dict[str, Any]:
            wanted, gone = int(asked[mask].sum()), int(missing[mask].sum())
            from_near = int(near[mask].sum())
            stats = [edge.content.stats() for edge in edges]
            return {
                "requests": len(times[mask]),
                "model_hit_ratio": float((missing[mask] == 0).mean()),
                "byte_hit_ratio": 1 - gone / wanted if wanted else 1.0,
                "requested_bytes": wanted,
                "backhaul_bytes": gone - from_near,
                "neighbour_bytes": from_near,
                "mean_pull_time": float(times[mask].mean()),
                "p95_pull_time": float(np.percentile(times[mask], 95, method="inverted_cdf")),
                "evictions": sum(s.evicted for s in stats) - sum(e.evicted for e in edges),
                "evicted_bytes": sum(s.evicted_bytes for s in stats)
                - sum(e.evicted_bytes for e in edges),
            }

        each = {}
        if len(self._edges) > 1:
            for number, (name, edge) in enumerate(zip(trace.edge_names, self._edges, strict=True)):
                mask = at == number
                if mask.any():
                    each[name] = figures(mask, [edge])
        return Result(
            policy=self._spec,
            capacity=self._capacity,
            **figures(slice(None), self._edges),
            plans=len(self._plans),
            plan_seconds=sum(self._plans),
            longest_plan_seconds=max(self._plans, default=0.0),
            seconds=seconds,
            edges=each,
        )
