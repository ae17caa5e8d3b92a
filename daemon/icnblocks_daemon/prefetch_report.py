"""How a prefetch goes, as HTTP, status and metrics tell it. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from icnblocks_daemon.prefetch_order import Entry, Order

TOLD_FAILURES: Final = 100
"""More than there are kinds of failures: of each kind, one is among those that are told."""


def report(
    order: Order | None, planned: int, waits_for: str, working: bool, *, failures: bool
) -> dict[str, Any]:
    """What `GET /v1/prefetch` answers.

    Args:
        order: the one in force, or that was cancelled last.
        planned: bytes that all of it comes to, each block once.
        waits_for: `window`, `room`, `retry`, or nothing.
        working: something is still to be done for it.
        failures: name models that are not here, and why; of many, TOLD_FAILURES.
    """
    if order is None:
        return {"state": "none"}
    count = {"todo": 0, "done": 0, "failed": 0}
    for entry in order.entries:
        count[entry.progress] += 1
    told: dict[str, Any] = {
        "state": _state(order, waits_for, working),
        "waits_for": waits_for or None,
        "id": order.ident,
        "edge": order.edge or None,
        "rate": order.rate,
        "window": None if order.window is None else str(order.window),
        "models": {
            "planned": len(order.entries),
            "pinned": sum(entry.pin and entry.progress != "failed" for entry in order.entries),
            "done": count["done"],
            "left": count["todo"],
            "failed": count["failed"],
        },
        "bytes": {
            "planned": planned,
            "left": sum(entry.due for entry in order.entries),
            "fetched": order.fetched,
        },
    }
    if failures:
        told["failures"] = [
            {
                "model": entry.model,
                "error": entry.code,
                "message": entry.error,
                "again": entry.progress == "todo",
            }
            for entry in _to_tell([entry for entry in order.entries if entry.error])
        ]
    return told


def _to_tell(failed: list[Entry]) -> list[Entry]:
    """The first of each kind of failure and the first of all, in the order of the plan."""
    kinds = {(entry.code, entry.progress): entry for entry in reversed(failed)}
    told = set(sorted(failed, key=lambda entry: entry not in kinds.values())[:TOLD_FAILURES])
    return [entry for entry in failed if entry in told]


def gauges(told: dict[str, Any]) -> Iterator[tuple[str, str, float]]:
    """Name, help and value of each gauge; all 0 while there is no plan."""
    if told.get("state") == "cancelled":
        told = {}
    models, sizes = told.get("models", {}), told.get("bytes", {})
    yield "icn_prefetch_models", "Models of the plan in force", models.get("planned", 0)
    yield "icn_prefetch_left_models", "Those that are still to come", models.get("left", 0)
    yield "icn_prefetch_failed_models", "Those that cannot be had", models.get("failed", 0)
    yield "icn_prefetch_left_bytes", "Bytes that are still to come", sizes.get("left", 0)


def _state(order: Order, waits_for: str, working: bool) -> str:
    if order.cancelled:
        return "cancelled"
    if waits_for:
        return "waiting"
    return "fetching" if working else "done"
