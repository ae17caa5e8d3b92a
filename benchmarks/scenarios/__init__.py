"""The scenarios of `python -m benchmarks`, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from benchmarks.scenarios import load, publish, pull, reuse, serve, store

if TYPE_CHECKING:
    from benchmarks.suite.scenario import Scenario

SCENARIOS: Final[dict[str, Scenario]] = {
    scenario.name: scenario
    for scenario in (
        *pull.SCENARIOS,
        *reuse.SCENARIOS,
        *publish.SCENARIOS,
        *serve.SCENARIOS,
        *load.SCENARIOS,
        *store.SCENARIOS,
    )
}
