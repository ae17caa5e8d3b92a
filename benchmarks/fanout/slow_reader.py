"""One reader at 1 Mbit/s among others: what it costs them, in pairs with and without it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from benchmarks.fanout.context import MBIT, PORT, Row, interval, spread, table
from benchmarks.fanout.site import fetch, site

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.fanout.context import Context
    from benchmarks.fanout.site import Site

SLOW: Final = MBIT
PAIRS: Final = 10


def run(context: Context) -> dict[str, Any]:
    """Cold edge, seven devices; with an eighth behind 1 Mbit/s every other time."""
    model = context.material.real()
    others = 2 if context.quick else 7
    pairs = 2 if context.quick else PAIRS
    laps = []
    with site(context, others + 1, ports=[PORT] * others + [SLOW]) as place:
        for number in range(pairs):
            order = (False, True) if number % 2 else (True, False)  # neither always goes first
            pair = {slow: _lap(context, place, others, slow=slow) for slow in order}
            laps.append({"with": pair[True], "without": pair[False]})
    return {"unique": model.unique, "others": others, "laps": laps}


def _lap(context: Context, place: Site, others: int, *, slow: bool) -> dict[str, Any]:
    model = context.material.real()
    context.ballast.fill(model.unique * others)
    with place.cold_edge() as edge, place.empty_devices(others + 1) as devices:
        count = others + slow
        # The eighth comes first, so that it is in the way for as long as the others take.
        commands = [
            fetch(host, device, model.name, [edge.url], awaited=number < others)
            for number, (host, device) in enumerate(
                zip(place.devices[:count], devices[:count], strict=True)
            )
        ]
        found = place.measured("with" if slow else "without", commands[::-1], edge)
    context.say(f"{others} devices {found['who']} a slow one: {found['seconds']:.2f} s")
    return found


def _slowdowns(found: dict[str, Any]) -> list[float]:
    """Of each pair: how much longer the others took, by the mean of their own times."""
    values = []
    for pair in found["laps"]:
        mean = [sum(pair[key]["each"]) / len(pair[key]["each"]) for key in ("with", "without")]
        values.append(mean[0] / mean[1] - 1)
    return values


def reached(found: dict[str, Any]) -> list[Row]:
    """The upper end of the interval."""
    low, mean, high = interval(_slowdowns(found))
    return [Row(
        f"one reader at 1 Mbit/s among {found['others'] + 1}: slowdown of the others"
        f" ({len(found['laps'])} pairs, 95 % interval)",
        "upper end <= 5 %, hoped <= 3 %", high,
        f"{mean:+.1%} ({low:+.1%} to {high:+.1%})", 0.05, 0.03,
    )]  # fmt: skip


def tables(found: dict[str, Any]) -> dict[str, str]:
    """Both sides."""
    rows: list[list[object]] = []
    for key in ("without", "with"):
        laps = [pair[key] for pair in found["laps"]]
        rows.append([
            f"{key} it", spread([seconds for lap in laps for seconds in lap["each"]]),
            spread([lap["seconds"] for lap in laps]),
            f"{max(lap['backhaul_payload'] for lap in laps) / found['unique']:.5f}",
            f"{max(lap['refetched'] for lap in laps):.0f}", len(laps),
        ])  # fmt: skip
    head = ["", "each of the others, s", "the last of them, s", "payload over the backhaul / D",
            "refetched, bytes", "runs"]  # fmt: skip
    return {"slow-reader": table(head, rows)}


def charts(found: dict[str, Any], folder: Path) -> None:
    """None."""
