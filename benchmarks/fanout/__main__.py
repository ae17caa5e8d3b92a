"""Fan-out in a network of namespaces: bytes on each link and time, beside peers.

    python -m benchmarks.fanout [SCENARIO...] [--runs N] [--quick] [--json FILE] [--out DIR]
                                [--document FILE] [--draw]

As root, with iproute2. Runs real daemons and icn-fetch, and Debian's nginx, curl, Varnish, rsync
and libtorrent where they are installed. Writes SCENARIO.json and SVG charts to the folder, tables
to `tables.md` there (or, with `--document`, between the marks of a document), and prints what was
asked for beside what was reached. `--json` also writes everything into one file.
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from benchmarks.fanout.context import Context, read, save, table
from benchmarks.fanout.material import Material
from benchmarks.suite.congestion import congested_by
from benchmarks.suite.marks import fill
from benchmarks.suite.memory import Ballast
from icnblocks.testing.network import CUBIC, obstacle

if TYPE_CHECKING:
    from benchmarks.fanout.context import Scenario

SCENARIOS = (
    "cold", "arrivals", "adapters", "levels", "two", "mixed", "sharing", "slow_reader",
    "loopback", "memory",
)  # fmt: skip
_VERSIONS = {
    "nginx": ("nginx", "-v"),
    "Varnish": ("varnishd", "-V"),
    "curl": ("curl", "--version"),
    "rsync": ("rsync", "--version"),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=", ".join(SCENARIOS))
    parser.add_argument("--runs", type=int, default=5, help="of what a claim rests on (5)")
    parser.add_argument("--quick", action="store_true", help="a minute or two, to see that it runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="everything in one file")
    parser.add_argument("--out", type=Path, default=Path("fanout-results"))
    parser.add_argument("--document", type=Path)
    parser.add_argument("--congestion", default=CUBIC, help="of TCP meanwhile (%(default)s)")
    parser.add_argument("--draw", action="store_true", help="run nothing: tables and charts only")
    options = parser.parse_args()
    unknown = sorted(set(options.scenarios) - set(SCENARIOS))
    if unknown or options.runs < 1:
        parser.error(f"scenarios are {', '.join(SCENARIOS)}; runs are 1 or more")
    why = obstacle()
    if why and not options.draw:
        raise SystemExit(why)
    if not options.draw:
        _measure(options)
    _tell(options)


def _measure(options: argparse.Namespace) -> None:
    runs = 1 if options.quick else options.runs
    with (
        tempfile.TemporaryDirectory(prefix="fanout-") as disk,
        tempfile.TemporaryDirectory(prefix="fanout-", dir="/dev/shm") as memory,
        Ballast(Path(disk)) as ballast,
        congested_by(options.congestion),
    ):
        root = Path(disk)
        root.chmod(0o755)
        material = Material(root / "models", quick=options.quick)
        context = Context(
            runs, options.quick, options.out, root, Path(memory), material, ballast,
            options.congestion,
        )  # fmt: skip
        for name in options.scenarios or SCENARIOS:
            began = time.time()
            found = _scenario(name).run(context)
            found["measured"] = _machine(began)
            save(options.out / f"{name}.json", found)
            gc.collect()


def _machine(began: float) -> dict[str, Any]:
    """What a reader must know of a measurement."""
    info = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    model = next((x.partition(":")[2].strip() for x in info if x.startswith("model name")), "?")
    return {
        "date": time.strftime("%Y-%m-%d %H:%M", time.gmtime(began)),
        "seconds": round(time.time() - began),
        "command": shlex.join(["python", "-m", "benchmarks.fanout", *sys.argv[1:]]),
        "processor": model,
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "kernel": platform.release(),
        "congestion": Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip(),
        "python": platform.python_version(),
        "load_after": os.getloadavg()[0],
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    found = {}
    for name, words in _VERSIONS.items():
        if shutil.which(words[0]) is None:
            found[name] = "not installed"
            continue
        done = subprocess.run(words, capture_output=True, check=False, text=True)
        text = (done.stdout + done.stderr).splitlines()[0]
        digits = [word.strip("(),") for word in text.replace("/", " ").split() if "." in word]
        found[name] = digits[0] if digits else text
    try:
        found["libtorrent"] = version("libtorrent")
    except PackageNotFoundError:
        found["libtorrent"] = "not installed"
    return found


def _tell(options: argparse.Namespace) -> None:
    everything = {
        name: found for name in SCENARIOS if (found := read(options.out / f"{name}.json"))
    }
    rows = [row for name, found in everything.items() for row in _scenario(name).reached(found)]
    asked = table(
        ["what", "asked", "reached", ""], [[r.what, r.asked, r.text, r.word] for r in rows]
    )
    tables = {"reached": asked, "machine": _machines(everything)}
    for name, found in everything.items():
        tables |= _scenario(name).tables(found)
        _scenario(name).charts(found, options.out)
    if options.json:
        save(options.json, everything)
    if options.document:
        options.document.write_text(fill(options.document.read_text(), tables))
    else:
        listed = (f"## {name}\n\n{text}\n" for name, text in tables.items())
        (options.out / "tables.md").write_text("\n".join(listed))
    print(asked)


def _machines(everything: dict[str, dict[str, Any]]) -> str:
    rows = []
    for name, found in everything.items():
        told = found["measured"]
        rows.append([
            name, told["date"], f"{told['seconds']} s", f"{told['load_after']:.1f}",
            f"`{told['command']}`",
        ])  # fmt: skip
    last = max((found["measured"] for found in everything.values()), key=lambda one: one["date"])
    names = ", ".join(f"{name} {text}" for name, text in last["versions"].items())
    about = (
        f"{last['cores']} cores ({last['processor']}), {last['memory_gib']} GiB, Linux"
        f" {last['kernel']} (TCP of the machine itself: {last.get('congestion', '?')}), Python"
        f" {last['python']}; {names}."
    )
    return f"{about}\n\n{table(['scenario', 'begun, UTC', 'took', 'load after', 'command'], rows)}"


def _scenario(name: str) -> Scenario:
    found: Any = import_module(f"benchmarks.fanout.{name}")
    return cast("Scenario", found)


if __name__ == "__main__":
    main()
