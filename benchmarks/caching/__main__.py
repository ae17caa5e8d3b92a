"""Evidence on caching: what docs/caching.md says, calculated anew.

    python -m benchmarks.caching [SCENARIO...] [--seeds N] [--paired-seeds N] [--quick] [--jobs N]
                                 [--out DIR] [--document FILE] [--again PREFIX] [--draw]

Writes SCENARIO.json and SVG charts to the folder, tables to `tables.md` there (or, with
`--document`, between the marks of a document), and prints what was asked for beside what was
reached. `--again sharing` replays only policies whose names begin so, and takes from the folder
what it has of the others (`--again none` goes on from where a run was stopped).
Needs the extras `sim` and `bench`.
"""

from __future__ import annotations

import argparse
import time
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from benchmarks.caching.context import Context
from benchmarks.caching.reached import reached
from benchmarks.suite.marks import fill

if TYPE_CHECKING:
    from benchmarks.caching.context import Scenario

SCENARIOS = ("online", "surges", "dial", "placement", "gaps", "multicast", "speed")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=", ".join(SCENARIOS))
    parser.add_argument("--seeds", type=int, default=3, help="of online cells (3)")
    parser.add_argument("--paired-seeds", type=int, default=1, help="of the policies beside (1)")
    parser.add_argument("--quick", action="store_true", help="seconds, to see that it runs")
    parser.add_argument("--jobs", type=int, default=2, help="processes at once (2)")
    parser.add_argument("--out", type=Path, default=Path("caching-results"))
    parser.add_argument("--document", type=Path)
    parser.add_argument("--again", default="", metavar="PREFIX")
    parser.add_argument("--draw", action="store_true", help="run nothing: tables and charts only")
    options = parser.parse_args()
    unknown = sorted(set(options.scenarios) - set(SCENARIOS))
    if unknown or min(options.seeds, options.paired_seeds, options.jobs) < 1:
        parser.error(f"scenarios are {', '.join(SCENARIOS)}; seeds and jobs are 1 or more")
    options.out.mkdir(parents=True, exist_ok=True)
    seeds = 1 if options.quick else options.seeds
    context = Context(
        seeds=seeds,
        quick=options.quick,
        jobs=options.jobs,
        out=options.out,
        paired_seeds=options.paired_seeds,
        again=options.again,
    )
    for name in () if options.draw else options.scenarios or SCENARIOS:
        began = time.monotonic()
        found = _scenario(name).run(context)
        found["seconds"] = round(time.monotonic() - began)
        context.save(name, found)
    everything = {name: found for name in SCENARIOS if (found := context.before(name))}
    tables = {"reached": reached(everything)}
    for name, found in everything.items():
        tables |= _scenario(name).tables(found)
        _scenario(name).charts(found, options.out)
    if options.document:
        options.document.write_text(fill(options.document.read_text(), tables))
    else:
        listed = (f"## {name}\n\n{text}\n" for name, text in tables.items())
        (options.out / "tables.md").write_text("\n".join(listed))
    print(tables["reached"])
    took = ", ".join(f"{name} {found.get('seconds', '?')} s" for name, found in everything.items())
    print(f"\nran for: {took}")


def _scenario(name: str) -> Scenario:
    found: Any = import_module(f"benchmarks.caching.{name}")
    return cast("Scenario", found)


if __name__ == "__main__":
    main()
