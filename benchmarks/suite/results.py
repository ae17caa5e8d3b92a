"""Results as JSON, and where and with what they were measured."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.suite.congestion import congestion
from benchmarks.suite.peers import versions
from benchmarks.suite.report import Result

if TYPE_CHECKING:
    from collections.abc import Sequence


def machine(began: float, *, runs: int, size_mb: int) -> dict[str, Any]:
    """What a reader must know of a measurement.

    Args:
        began: when it began, as time.time().
        runs: its rounds.
        size_mb: the size that was asked for.
    """
    info = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    model = next((x.partition(":")[2].strip() for x in info if x.startswith("model name")), "?")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    words = ["python", "-m", "benchmarks", *sys.argv[1:]]
    return {
        "date": time.strftime("%Y-%m-%d %H:%M", time.gmtime(began)),
        "seconds": round(time.time() - began),
        "command": shlex.join(words),
        "runs": runs,
        "size_mb": size_mb,
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**30),
        "kernel": platform.release(),
        "congestion": congestion(),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[1], 1),
        "versions": versions(),
    }


def write_json(path: Path, results: Sequence[Result]) -> None:
    """Write results as one JSON array."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([result.to_json() for result in results], indent=1) + "\n")


def read_json(path: Path) -> list[Result]:
    """What `write_json` wrote."""
    return [Result.from_json(value) for value in json.loads(path.read_bytes())]
