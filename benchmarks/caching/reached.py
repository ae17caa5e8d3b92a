"""What was asked of the caching policies, beside what was reached. Reads results only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.caching.context import geometric_mean, short, table
from benchmarks.caching.online import best, of_optimum, others, paired, reference, shown

if TYPE_CHECKING:
    from collections.abc import Callable

Row = tuple[str, str, str, str]
_HITS = "sharing:objective=hits"
_TIME = "sharing:objective=time"
_BYTES = "sharing:objective=bytes"
_FEW = 0.01
"""Where the fastest hold bases only, hits are chance, and zero has no ratio."""


def reached(found: dict[str, dict[str, Any]]) -> str:
    """A table of all rows for which there are results."""
    rows: list[Row] = []
    makers: dict[str, Callable[[dict[str, Any]], list[Row]]] = {
        "online": _online,
        "gaps": _gaps,
        "speed": _speed,
    }
    for name, make in makers.items():
        if name in found:
            rows += make(found[name])
    return table(["what", "asked", "reached", ""], rows)


def _word(*, kept: bool) -> str:
    return "yes" if kept else "**no**"


def _online(found: dict[str, Any]) -> list[Row]:
    cells = found["cells"]
    rows = []
    for drifting, floor, middle in ((False, 0.90, 0.94), (True, 0.85, 0.85)):
        chosen = [c for c in cells if c["drifting"] is drifting and not c["name"].startswith("llm")]
        ratios = [of_optimum(c) for c in chosen]
        if ratios:
            word = "optimum computed anew" if drifting else "static optimum"
            rows.append((
                f"model hit ratio, `hits` / {word}, {len(ratios)} cells of ResNet and LoRA",
                f"least >= {floor:.2f}, mean >= {middle:.2f}",
                f"{short(min(ratios))}, {short(float(np.mean(ratios)))}",
                _word(kept=min(ratios) >= floor and float(np.mean(ratios)) >= middle),
            ))  # fmt: skip
    gains = [paired(c, _HITS, "model_hit_ratio") / best(c, "model_hit_ratio")[1] for c in cells]
    rows.append((
        f"model hit ratio, `hits` / best general policy, geometric mean of {len(cells)} cells",
        ">= 1.5",
        f"{geometric_mean(gains):.2f} ({min(gains):.2f} to {max(gains):.2f})",
        _word(kept=geometric_mean(gains) >= 1.5),
    ))  # fmt: skip
    for library in ("resnet", "lora", "llm"):
        some = [g for g, c in zip(gains, cells, strict=True) if c["name"].startswith(library)]
        rows.append((f"- of these, {library}", "", f"{geometric_mean(some):.2f}", ""))
    times = [paired(c, _TIME, "mean_pull_time") / best(c, "mean_pull_time")[1] for c in cells]
    rows.append((
        "mean pull time, `time` / best other policy: worst cell, geometric mean",
        "<= 1.01, <= 0.97",
        f"{max(times):.3f}, {geometric_mean(times):.3f}",
        _word(kept=max(times) <= 1.01 and geometric_mean(times) <= 0.97),
    ))  # fmt: skip
    name, apart = _one_for_all(cells)
    rows.append((
        f"- the same against {shown(name)} in every cell, the best single one",
        "",
        f"geometric mean {apart:.3f}",
        "",
    ))  # fmt: skip
    least = [reference(c, "least_time") / best(c, "mean_pull_time")[1] for c in cells]
    rows.append((
        "- of the least that is possible (a linear program with the true demand), the same",
        "",
        f"{max(least):.3f}, {geometric_mean(least):.3f}",
        "",
    ))  # fmt: skip
    pairs = zip(least, cells, strict=True)
    still = [v for v, c in pairs if not c["drifting"] and not c["name"].startswith("llm")]
    if still:
        rows.append((
            f"- of these, {len(still)} static cells of ResNet and LoRA",
            "",
            f"{max(still):.3f}, {geometric_mean(still):.3f}",
            "",
        ))  # fmt: skip
    told = []
    for c in cells:
        fastest = best(c, "mean_pull_time")[0]
        ours, other = (paired(c, policy, "model_hit_ratio") for policy in (_TIME, fastest))
        told.append(max(ours, _FEW) / max(other, _FEW))
    rows.append((
        "model hit ratio, `time` / the policy with the best pull time, geometric mean "
        f"(ratios below {short(_FEW, 2)} counted as that)",
        ">= 1.1",
        f"{geometric_mean(told):.2f} ({min(told):.2f} to {max(told):.2f})",
        _word(kept=geometric_mean(told) >= 1.1),
    ))  # fmt: skip
    saved = [paired(c, _BYTES, "byte_hit_ratio") / best(c, "byte_hit_ratio")[1] for c in cells]
    rows.append((
        "byte hit ratio, `bytes` / best of the others, worst cell",
        ">= 0.99",
        f"{min(saved):.3f} (mean {np.mean(saved):.3f})",
        _word(kept=min(saved) >= 0.99),
    ))  # fmt: skip
    return rows


def _one_for_all(cells: list[dict[str, Any]]) -> tuple[str, float]:
    """The policy with the least pull times over all cells, and `time` beside it."""
    names = set.intersection(*(set(others(c)) for c in cells))
    metric = "mean_pull_time"

    def beside(policy: str) -> float:
        return geometric_mean([paired(c, _TIME, metric) / paired(c, policy, metric) for c in cells])

    return max(((name, beside(name)) for name in sorted(names)), key=lambda pair: pair[1])


def _gaps(found: dict[str, Any]) -> list[Row]:
    gaps = [gap for case in found["cases"] for gap in case["spec"]]
    worst = max(gaps) * 100
    return [(
        f"Spec's gap to the MILP, {len(gaps)} reduced instances: mean, worst",
        "<= 2.5 %",
        f"{np.mean(gaps) * 100:.2f} %, {worst:.2f} %",
        _word(kept=float(np.mean(gaps)) * 100 <= 2.5),
    )]  # fmt: skip


def _speed(found: dict[str, Any]) -> list[Row]:
    return [
        (row["what"], f"< {row['limit_s']:g} s", f"{row['seconds']:.1f} s",
         _word(kept=row["seconds"] < row["limit_s"]))
        for row in found["rows"]
    ]  # fmt: skip
