"""What a node says of itself, in /v1/status and /metrics; docs/operations.md has the fields.

This module must not change anything.
"""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from icnblocks_daemon.node import Node

VERSION: Final = importlib.metadata.version("icnblocks")


def status(node: Node) -> dict[str, Any]:
    """What /v1/status says; docs/operations.md has the fields."""
    now, stats = node.clock(), node.holdings.content.stats()
    count = node.metrics.value
    asked = count("icn_hit_bytes_total") + count("icn_miss_bytes_total")
    hits, misses = count("icn_hits_total"), count("icn_misses_total")
    return {
        "version": VERSION,
        "node": node.node_id,
        "role": "edge" if node.fib.upstreams else "origin",
        "uptime_s": round(now - node.started, 1),
        "stopping": node.stopping,
        "store": {
            "path": str(node.config.store),
            "blocks": stats.blocks,
            "used_bytes": stats.used_bytes,
            "in_place_blocks": len(node.places),
            "manifests": len(node.manifests),
            "manifest_bytes": node.manifests.cached_bytes,
            "unnamed_uploads": node.uploads.unnamed,
            "failing": node.forwarder.storage_failing,
            "passed_bytes": count("icn_passed_bytes_total"),
            "overflow_bytes": node.holdings.overflow.used_bytes,
        },
        "budget": {
            "capacity": stats.capacity,
            "reserved_bytes": stats.reserved_bytes,
            "pinned_bytes": stats.pinned_bytes,
            "evicted_bytes": stats.evicted_bytes,
            "waiting_for_room": node.forwarder.waiting_for_room,
        },
        "policy": node.config.policy,
        "plan": {
            "made": node.plans.made,
            "failed": node.plans.failed,
            "seconds": round(node.plans.last_s, 3),
            "models": node.plans.models,
            "bytes": node.plans.kept_bytes,
        },
        "trace": node.trace.status() if node.trace is not None else None,
        "hits": {
            "blocks": hits,
            "misses": misses,
            "ratio": round(hits / (hits + misses), 4) if hits + misses else None,
            "byte_ratio": round(count("icn_hit_bytes_total") / asked, 4) if asked else None,
        },
        "pit": {
            "enabled": node.config.pit,
            "blocks": node.forwarder.pending,
            "waiters": node.forwarder.waiters,
            "waiting_for_turn": node.forwarder.waiting_for_turn,
        },
        "strategy": node.config.strategy,
        "upstreams": node.upstreams.status(),
        "prefetch": node.prefetch.status(),
        "changed_files": [str(item.root / item.path) for item in node.places.changed()],
    }


def figures(node: Node) -> Iterator[tuple[str, str, float]]:
    """Name, help and value of what /metrics says besides the counters; `_total` are counters."""
    stats = node.holdings.content.stats()
    yield "icn_store_blocks", "Blocks in the store", stats.blocks
    yield "icn_store_used_bytes", "Bytes that they take", stats.used_bytes
    yield "icn_store_reserved_bytes", "Room kept for blocks under way", stats.reserved_bytes
    yield "icn_store_pinned_bytes", "Bytes of blocks that must stay", stats.pinned_bytes
    yield "icn_store_capacity_bytes", "The budget; 0 for none", stats.capacity or 0
    yield "icn_in_place_blocks", "Blocks in model directories", len(node.places)
    yield "icn_evicted_blocks_total", "Blocks evicted", stats.evicted
    yield "icn_evicted_bytes_total", "Bytes evicted", stats.evicted_bytes
    yield "icn_erase_errors_total", "Evictions that the disk refused", stats.erase_errors
    yield "icn_manifests", "Manifests kept", len(node.manifests)
    yield "icn_manifest_bytes", "Bytes of manifests kept", node.manifests.cached_bytes
    yield "icn_pit_blocks", "Blocks pending", node.forwarder.pending
    yield "icn_pit_waiters", "Interests waiting for them", node.forwarder.waiters
    waiting = node.forwarder.waiting_for_turn
    yield "icn_waiting_blocks", "Pending blocks not asked for yet", waiting
    yield "icn_no_room_blocks", "Misses waiting for room", node.forwarder.waiting_for_room
    yield "icn_changed_files", "In-place files that changed", len(node.places.changed())
    yield "icn_unnamed_uploads", "Uploads that no manifest names", node.uploads.unnamed
    yield from node.prefetch.figures()
    plans, trace = node.plans, node.trace
    yield "icn_plans_total", "Plans of the policy that were adopted", plans.made
    yield "icn_failed_plans_total", "Plans that failed", plans.failed
    yield "icn_plan_seconds", "What the last plan took", plans.last_s
    yield "icn_plan_models", "Models that it keeps whole", plans.models
    yield "icn_plan_bytes", "Bytes that it keeps", plans.kept_bytes
    yield "icn_trace_failing", "1: the trace cannot be written", bool(trace and trace.failing)
    dropped = trace.dropped if trace is not None else 0
    yield "icn_trace_dropped_total", "Lines that the trace lacks", dropped
    yield "icn_sending_waits_total", "Blocks that waited for a turn", node.sending.waits
    yield "icn_storage_failing", "1: blocks cannot be stored", node.forwarder.storage_failing
    yield "icn_overflow_bytes", "Memory of passed blocks", node.holdings.overflow.used_bytes
