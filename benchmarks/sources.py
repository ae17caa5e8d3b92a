"""Two sources of 200 Mbit/s each, beside curl alone on one of the links.

    python -m benchmarks.sources [--runs N] [--mb N] [--rates 200,200] [--json]

As root. Each source is a daemon in a network namespace of its own, joined to the device's by a
link that `tc tbf` shapes in both directions; the sources share nothing. The model is one file of
random bytes. Runs alternate: curl fetches that file over the first link, unverified (B is its
rate), then icn-fetch pulls the model from all sources, start-up, record, manifest, have-maps and
checks included.
Prints every run, medians and ranges, and rate / (B times the sum of the links over the first).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icnblocks.limits import MIB
from icnblocks.testing.device import Device
from icnblocks.testing.network import network, obstacle
from icnblocks.testing.processes import poll_until, start_edge

if TYPE_CHECKING:
    from icnblocks.testing.network import Host, Link


def timed(command: list[str], environ: dict[str, str] | None = None) -> tuple[float, str]:
    """Run a command to its end; its seconds and its output."""
    began = time.perf_counter()
    done = subprocess.run(command, env=environ, capture_output=True, check=False, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.returncode}\n{done.stderr}")
    return time.perf_counter() - began, done.stdout


def curl(root: Path, host: Host, address: str, size: int) -> dict[str, float]:
    """One download over the first link."""
    out = root / "curled"
    url = f"http://{address}:8000/weights.bin"
    words = [*host.within, "curl", "-sSf", "--noproxy", "*", "-o", str(out), url]
    seconds, _ = timed(words)
    out.unlink()
    return {"seconds": seconds, "rate": size / seconds}


def pull(root: Path, host: Host, links: list[Link], urls: list[str], size: int) -> dict[str, float]:
    """One pull on a device that has nothing yet."""
    device = Device(root / "device", NO_PROXY="*", no_proxy="*")
    words = [*host.within, sys.executable, "-m", "icnblocks_tools", "fetch", "bench/model"]
    words += [word for url in urls for word in ("--from", url)]
    before = [link.far.counters() for link in links]
    seconds, out = timed([*words, "--trust-first-use", "--json"], device.environ)
    on_links = [
        link.far.counters().since(was).received_bytes
        for link, was in zip(links, before, strict=True)
    ]
    done = json.loads(out.splitlines()[-1])
    shutil.rmtree(device.root)
    return {
        "seconds": seconds,
        "rate": size / seconds,
        "wasted": done["bytes_wasted"],
        "first_share": on_links[0] / sum(on_links),
        "on_links": sum(on_links) / size,
    }


def measure(runs: int, size: int, rates: list[int]) -> dict[str, Any]:
    """All runs, and what they come to."""
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-sources-")))
        model = root / "model"
        model.mkdir()
        with (model / "weights.bin").open("wb") as file:
            for _ in range(size // MIB):
                file.write(os.urandom(MIB))
        publisher = Device(root / "publisher")
        net = stack.enter_context(network())
        host, urls, links = net.host("device"), [], []
        for number, rate in enumerate(rates):
            source = net.host(f"source{number}")
            links.append(net.link(source, host, rate * 1_000_000))
            store = root / f"origin{number}"
            publisher.run(
                "publish", model, "bench/model", "--kind", "pack", "--store", store
            ).done()
            listen = f"{links[-1].near.address}:4260"
            daemon = start_edge(store, within=source.within, listen=listen)
            urls.append(stack.enter_context(daemon).url)
        address = links[0].near.address
        serve = (sys.executable, "-m", "http.server", "8000", "--directory", str(model))
        server = links[0].near.host.start(
            *serve, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        stack.callback(server.wait)
        stack.callback(server.terminate)
        probe = [*host.within, "curl", "-s", "--noproxy", "*", "-o", "/dev/null"]
        probe.append(f"http://{address}:8000/nothing")
        poll_until(lambda: subprocess.run(probe, check=False).returncode == 0, what="http.server")
        curls, pulls = [], []
        for _ in range(runs):
            curls.append(curl(root, host, address, size))
            pulls.append(pull(root, host, links, urls, size))
    b = statistics.median(one["rate"] for one in curls)
    over_all = sum(rates) / rates[0]
    ratios = [
        ours["rate"] / (over_all * theirs["rate"])
        for ours, theirs in zip(pulls, curls, strict=True)
    ]
    return {
        "rates_mbit": rates,
        "bytes": size,
        "load": os.getloadavg()[0],
        "curl": curls,
        "pull": pulls,
        "b": b,
        "ratio": statistics.median(one["rate"] for one in pulls) / (over_all * b),
        "pairs": ratios,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--mb", type=int, default=256, help="MiB of the model")
    parser.add_argument("--rates", default="200,200", help="Mbit/s of each link")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    if obstacle():
        raise SystemExit(obstacle())
    rates = [int(rate) for rate in asked.rates.split(",")]
    found = measure(asked.runs, asked.mb * MIB, rates)
    if asked.json:
        print(json.dumps(found))
        return
    for theirs, ours in zip(found["curl"], found["pull"], strict=True):
        print(
            f"curl {theirs['seconds']:6.2f} s {theirs['rate'] / 1e6:6.2f} MB/s   pull"
            f" {ours['seconds']:6.2f} s {ours['rate'] / 1e6:6.2f} MB/s   first link"
            f" {ours['first_share']:.3f}, on the links / model {ours['on_links']:.4f},"
            f" in vain {ours['wasted']:,}"
        )
    print(
        f"B {found['b'] / 1e6:.2f} MB/s; rate / B over all links: {found['ratio']:.3f}"
        f" (pairs {min(found['pairs']):.3f}-{max(found['pairs']):.3f}); load {found['load']:.1f}"
    )


if __name__ == "__main__":
    main()
