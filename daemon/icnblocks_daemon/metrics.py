"""What Prometheus is told. Names begin with `icn_`; docs/operations.md has the table."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from icnblocks_daemon.floods import Flood

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from prometheus_client.metrics_core import Metric

_LOG = logging.getLogger(__name__)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """The daemon's counters. Safe to increment from any thread.

    Args:
        clock: seconds that never go backward.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._looped = {kind: Flood(clock) for kind in ("block", "control")}
        self._cut = {cause: Flood(clock) for cause in ("stalled", "changed")}
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        self.requests = self._counter("icn_requests", "Requests answered", "endpoint", "status")
        self.request_seconds = Histogram(
            "icn_request_seconds", "Time to answer a request", ["endpoint"],
            buckets=(0.001, 0.01, 0.1, 1, 10, 100), registry=self._registry,
        )  # fmt: skip
        self.in_flight = Gauge(
            "icn_requests_in_flight", "Requests in work", registry=self._registry
        )
        self.limited = self._counter("icn_requests_limited", "Requests answered 429", "limit")
        self.sent_bytes = self._counter("icn_sent_bytes", "Block payload sent to clients")
        self.sent_blocks = self._counter("icn_sent_blocks", "Blocks sent to clients")
        self.hits = self._counter("icn_hits", "Wants answered from the store at once")
        self.hit_bytes = self._counter("icn_hit_bytes", "Their block payload")
        self.misses = self._counter("icn_misses", "Wants that had to wait for an upstream")
        self.miss_bytes = self._counter("icn_miss_bytes", "Their block payload")
        self.nacks = self._counter("icn_nacks", "Wants refused", "reason")
        self.cut_off = self._counter("icn_cut_off", "Answers cut off", "cause")
        self.upstream_bytes = self._counter(
            "icn_upstream_received_bytes", "Block payload received from upstreams", "upstream"
        )
        self.upstream_blocks = self._counter(
            "icn_upstream_received_blocks", "Blocks received from upstreams", "upstream"
        )
        self.upstream_errors = self._counter(
            "icn_upstream_errors", "Failures of upstreams", "upstream", "code"
        )
        self.refetched = self._counter(
            "icn_refetched_bytes", "Block payload fetched from upstream again", "cause"
        )
        self.hedges = self._counter(
            "icn_upstream_hedges", "Blocks that another was asked for as well", "upstream"
        )
        self.loops = self._counter(
            "icn_loops", "Requests refused that came back to this daemon", "what"
        )
        self.passed_bytes = self._counter(
            "icn_passed_bytes", "Block payload passed on that could not be stored"
        )
        self.prefetched_bytes = self._counter(
            "icn_prefetched_bytes", "Block payload that a plan brought here"
        )
        self.uploaded_bytes = self._counter("icn_uploaded_bytes", "Block payload uploaded")
        self.stale_records = self._counter("icn_stale_records", "Records served stale")
        self.refused_records = self._counter(
            "icn_refused_records", "Records of upstreams that were not accepted", "why"
        )
        self.corrupt_blocks = self._counter(
            "icn_corrupt_blocks", "Stored blocks that had rotted, and were erased"
        )
        self.expired_uploads = self._counter(
            "icn_expired_uploads", "Uploaded blocks erased because no manifest names them"
        )

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self._registry)

    def loop(self, kind: str, what: str) -> None:
        """Count a loop, and say so in the log, but seldom: any client can write what is one."""
        self.loops.labels(kind).inc()
        if times := self._looped[kind].due():
            _LOG.warning(
                "daemons ask each other in a circle for %s: look at `upstream` of each",
                what,
                extra={"times": times},
            )

    def cut(self, what: str, cause: str, why: BaseException, peer: str | None) -> None:
        """Count an answer that was cut off, and say so in the log: that a client left is no fault.

        Args:
            what: which kind of answer.
            cause: as a CutOffError has it.
            why: the error.
            peer: the client's address.
        """
        self.cut_off.labels(cause).inc()
        if cause == "gone":
            _LOG.debug("%s was cut off: %s", what, why, extra={"peer": peer})
        elif times := self._cut[cause].due():
            _LOG.warning("%s was cut off: %s", what, why, extra={"peer": peer, "times": times})

    def observe(self, figures: Callable[[], Iterable[tuple[str, str, float]]]) -> None:
        """Ask `figures` for (name, help, value) at each scrape; `_total` names are counters."""
        self._registry.register(_Figures(figures))

    def observe_by(
        self, label: str, figures: Callable[[], Iterable[tuple[str, str, str, float]]]
    ) -> None:
        """As `observe`, with (name, help, the label's value, value)."""
        self._registry.register(_FiguresBy(label, figures))

    def value(self, name: str) -> float:
        """What a counter or gauge without labels says; 0 if there is none of that name."""
        return self._registry.get_sample_value(name) or 0.0

    def render(self) -> bytes:
        """The text of /metrics."""
        return generate_latest(self._registry)


class _Figures(Collector):
    def __init__(self, figures: Callable[[], Iterable[tuple[str, str, float]]]) -> None:
        self._figures = figures

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        for name, text, value in self._figures():
            if name.endswith("_total"):
                yield CounterMetricFamily(name.removesuffix("_total"), text, value)
            else:
                yield GaugeMetricFamily(name, text, value)


class _FiguresBy(Collector):
    def __init__(
        self, label: str, figures: Callable[[], Iterable[tuple[str, str, str, float]]]
    ) -> None:
        self._label = label
        self._figures = figures

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
        for name, text, which, value in self._figures():
            if name not in families:
                kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
                families[name] = kind(name.removesuffix("_total"), text, labels=[self._label])
            families[name].add_metric([which], value)
        yield from families.values()
