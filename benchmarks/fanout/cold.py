"""A cold edge and N devices at once: time, and bytes over the backhaul, beside peers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from benchmarks.fanout import peers
from benchmarks.fanout.context import Row, median, spread, table, whole
from benchmarks.fanout.site import site

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.fanout.context import Context
    from benchmarks.fanout.material import Model
    from benchmarks.fanout.site import Site

COUNTS: Final = (1, 2, 4, 8, 16, 32)
MOST: Final = 32
_BESIDE: Final = ("nginx slice", "varnish", "varnish floor", "nginx lock", "swarm", "rsync", "curl")
_UNICAST: Final = ("rsync", "curl")
"""Each device takes the whole model over the backhaul: minutes for 32, so that few are enough."""
_FEW: Final = (1, 4)
_MANY: Final = (1, 8, 32)


def run(context: Context) -> dict[str, Any]:
    """Both models with 32 devices for the claims; the real one over N for the chart."""
    real, synthetic = context.material.real(), context.material.synthetic()
    most = 4 if context.quick else MOST
    laps: list[dict[str, Any]] = []
    with site(context, most) as place:
        context.say(f"a network stands; icn-fetch is loaded in {place.startup_s:.2f} s")
        for _ in range(context.runs):
            laps += [
                _lap(context, place, model, most, place.curl(real)) for model in (synthetic, real)
            ]
        for count in (*COUNTS[: COUNTS.index(most)], most):
            for number in range(context.few(2) if count == most else 1):
                laps += _round(context, place, count, swarms=number == 0)
        laps.append(_lap(context, place, real, most, place.curl(real), held=False))
    return {
        "models": {model.name: model.unique for model in (real, synthetic)},
        "most": most,
        "laps": laps,
    }


def _round(context: Context, place: Site, count: int, *, swarms: bool) -> list[dict[str, Any]]:
    """Everybody who is compared at this number of devices, one after the other."""
    real = context.material.real()
    curl = place.curl(real)
    laps = [_lap(context, place, real, count, curl)]
    for who in _BESIDE:
        if count in (_FEW if who in _UNICAST else _MANY) and (swarms or who != "swarm"):
            found = peers.run(place, who, real, count) | {"model": real.name, "curl": curl}
            told = found.get("failed") or f"{found['seconds']:.2f} s"
            context.say(f"{count} devices, {who}: {told}")
            laps.append(found)
    return laps


def _lap(
    context: Context,
    place: Site,
    model: Model,
    count: int,
    curl: dict[str, float],
    *,
    held: bool = True,
) -> dict[str, Any]:
    found = place.fan_out([model] * count, held=held)
    found |= {"model": model.name, "curl": curl, "held": held}
    ideal = model.unique / curl["rate"]
    context.say(
        f"{count} devices, {model.name}: {found['seconds']:.2f} s / {ideal:.2f} s, backhaul"
        f" {found['backhaul_payload'] / model.unique:.4f} x"
    )
    return found


def ratios(found: dict[str, Any], laps: list[dict[str, Any]]) -> list[float]:
    """Time / (D / B) of laps. B is the median of all that curl got: once slow, it flatters."""
    rate = median([lap["curl"]["rate"] for lap in found["laps"]])
    return [whole(lap) * rate / found["models"][lap["model"]] for lap in laps]


def _chosen(found: dict[str, Any], **wanted: Any) -> list[dict[str, Any]]:
    return [
        lap
        for lap in found["laps"]
        if "failed" not in lap and all(lap.get(key) == value for key, value in wanted.items())
    ]


def _names(found: dict[str, Any]) -> tuple[str, str]:
    real, synthetic = found["models"]
    return real, synthetic


def reached(found: dict[str, Any]) -> list[Row]:
    """Bytes and time with all devices."""
    rows = []
    most = found["most"]
    real, synthetic = _names(found)
    laps = _chosen(found, who="icnblocks", devices=most, held=True)
    values = [lap["backhaul_payload"] / found["models"][lap["model"]] for lap in laps]
    rows.append(Row(
        f"cold edge, {most} devices at once: payload over the backhaul / D",
        "<= 1.01, hoped <= 1.001", max(values), f"{max(values):.5f} (most of {len(values)} runs)",
        1.01, 1.001,
    ))  # fmt: skip
    for name in (synthetic, real):
        values = ratios(found, [lap for lap in laps if lap["model"] == name])
        size = found["models"][name] / 1e6
        rows.append(Row(
            f"time until all {most} have {size:.0f} MB / (D / B)",
            "<= 1.15, hoped <= 1.05", median(values), spread(values), 1.15, 1.05,
        ))  # fmt: skip
    return rows


def tables(found: dict[str, Any]) -> dict[str, str]:
    """Ours by N, and everybody with all devices."""
    real, _ = _names(found)
    size, rows = found["models"][real], []
    for who, words in peers.WORDS.items():
        for count in COUNTS:
            laps = _chosen(found, who=who, devices=count, model=real)
            laps = [lap for lap in laps if lap.get("held", True)]
            if laps:
                rows.append(_line(words, count, laps, size, found))
        rows += [
            [words, lap["devices"], f"not run: {lap['failed']}", "", "", ""]
            for lap in found["laps"]
            if lap["who"] == who and "failed" in lap
        ]
    head = ["who", "devices", "time, s", "time / (D / B)", "on the backhaul / D", "runs"]
    typed = _chosen(found, who="icnblocks", held=False)
    return {"cold": table(head, rows), "loaded": _loaded(found, typed)}


def _line(
    words: str, count: int, laps: list[dict[str, Any]], size: int, found: dict[str, Any]
) -> list[object]:
    seconds = [whole(lap) for lap in laps]
    crossed = [lap["backhaul_wire"] / size - lap["curl"]["framing"] for lap in laps]
    return [
        words, count, spread(seconds), spread(ratios(found, laps)), spread(crossed, 3), len(laps),
    ]  # fmt: skip


def _loaded(found: dict[str, Any], typed: list[dict[str, Any]]) -> str:
    rows: list[list[object]] = []
    for lap in typed:
        same = _chosen(
            found, who="icnblocks", held=True, devices=lap["devices"], model=lap["model"]
        )
        used = lap["user_s"] + lap["system_s"]
        rows.append([
            lap["devices"], f"{lap['seconds']:.2f}", spread([one["seconds"] for one in same]),
            f"{median([one['startup_s'] for one in same]):.2f}", f"{used:.1f}",
            f"{median([one['edge_processor_s'] for one in same]):.2f}",
        ])  # fmt: skip
    head = ["devices", "all started at once on this machine, s", "loaded before, s",
            "loading one alone, s", "processor, all devices, s", "processor, edge, s"]  # fmt: skip
    return table(head, rows)


def charts(found: dict[str, Any], folder: Path) -> None:
    """Time and bytes against N."""
    from benchmarks.caching.drawing import figure

    real, _ = _names(found)
    size = found["models"][real]
    with figure(folder / "cold.svg", 2, columns=2) as (left, right):
        for who, words in peers.WORDS.items():
            laps = _chosen(found, who=who, model=real)
            laps = [lap for lap in laps if lap.get("held", True)]
            counts = sorted({lap["devices"] for lap in laps})
            if not counts:
                continue
            by = [[lap for lap in laps if lap["devices"] == count] for count in counts]
            times = [median(ratios(found, some)) for some in by]
            crossed = [median([lap["backhaul_wire"] / size for lap in some]) for some in by]
            style = {"marker": "o", "linewidth": 2.4 if who == "icnblocks" else 1.2}
            left.plot(counts, times, label=words, **style)
            right.plot(counts, crossed, label=words, **style)
        for axes, text in ((left, "time / (D / B)"), (right, "bytes on the backhaul / D")):
            axes.set_xscale("log", base=2)
            axes.set_yscale("log", base=2)
            axes.set_xticks(COUNTS, [str(count) for count in COUNTS])
            axes.set_xlabel("devices at once")
            axes.set_ylabel(text)
        left.legend(fontsize=7)
