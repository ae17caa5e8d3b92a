"""As many different LoRA adapters of one base as there are devices, all asked for at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.fanout.context import Row, spread, table, whole
from benchmarks.fanout.material import union
from benchmarks.fanout.site import site

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.fanout.context import Context


def run(context: Context) -> dict[str, Any]:
    """Each device pulls its own adapter, and with it the base."""
    count = 4 if context.quick else 32
    real = context.material.real()
    models = [context.material.adapter(number) for number in range(count)]
    laps = []
    with site(context, count) as place:
        for _ in range(context.few(3)):
            curl = place.curl(real)
            found = place.fan_out(models)
            laps.append(found | {"curl": curl})
            context.say(f"{count} adapters: {found['seconds']:.2f} s")
        unique, each = union(models), models[0].unique
    return {"union": unique, "adapter": each, "devices": count, "laps": laps}


def reached(found: dict[str, Any]) -> list[Row]:
    """Bytes over the backhaul, of those that all of it together has."""
    values = [lap["backhaul_payload"] / found["union"] for lap in found["laps"]]
    return [Row(
        f"{found['devices']} devices, one base and {found['devices']} different LoRA adapters:"
        " payload / bytes of the union",
        "<= 1.01", max(values), f"{max(values):.5f} (most of {len(values)} runs)", 1.01,
    )]  # fmt: skip


def tables(found: dict[str, Any]) -> dict[str, str]:
    """Time and bytes."""
    union_s = [found["union"] / lap["curl"]["rate"] for lap in found["laps"]]
    values = [whole(lap) / ideal for lap, ideal in zip(found["laps"], union_s, strict=True)]
    crossed = [
        lap["backhaul_wire"] / found["union"] - lap["curl"]["framing"] for lap in found["laps"]
    ]
    row = [
        found["devices"], f"{found['union']:,}", f"{found['adapter']:,}",
        spread([whole(lap) for lap in found["laps"]]), spread(values), spread(crossed, 4),
        len(found["laps"]),
    ]  # fmt: skip
    head = ["devices", "union, bytes", "an adapter, bytes", "time, s", "time / (union / B)",
            "on the backhaul / union", "runs"]  # fmt: skip
    return {"adapters": table(head, [row])}


def charts(found: dict[str, Any], folder: Path) -> None:
    """None."""
