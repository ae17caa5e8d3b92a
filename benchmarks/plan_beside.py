"""What answers cost while a plan is solved: on a thread of the daemon, or in a process of its own.

    python -m benchmarks.plan_beside [--seconds 6]

One client asks an origin for a stored block of 64 KiB over and over, while the plan of a large
library is solved over and over beside the event loop. Prints percentiles of the answers' times,
and how long a plan took.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
from aiohttp import web

from icnblocks.cache.planning import Plan, Problem, solve
from icnblocks.naming import Digest
from icnblocks.store.base import verify
from icnblocks_daemon.config import Config
from icnblocks_daemon.http.app import make_app
from icnblocks_daemon.node import Node
from icnblocks_daemon.solving import solve_beside

Way = Callable[[Problem], Awaitable[Plan]]
CLIENT = """
import http.client, sys, time
port, path, seconds = int(sys.argv[1]), sys.argv[2], float(sys.argv[3])
connection, took = http.client.HTTPConnection("127.0.0.1", port), []
end = time.perf_counter() + seconds
while (began := time.perf_counter()) < end:
    connection.request("GET", path)
    connection.getresponse().read()
    took.append(time.perf_counter() - began)
took.sort()
at = lambda part: 1e3 * took[min(len(took) - 1, int(part * len(took)))]
print(f"{len(took) / seconds:7.0f} answers/s   p50 {at(.5):6.2f}  p99 {at(.99):6.2f}"
      f"  longest {at(1):6.2f} ms")
"""


def library(models: int = 10_000, bases: int = 100, *, tree: bool = True) -> Problem:
    """A problem of adapters and partly frozen variants of some bases, or of any groups at all."""
    rng = np.random.default_rng(1)
    shared = bases * 4
    sizes = np.concatenate((rng.integers(20, 200, shared), rng.integers(1, 150, models))) << 20
    members, starts = [], [0]
    for model in range(models):
        base, depth = rng.integers(bases), rng.integers(1, 5)
        some = range(base * 4, base * 4 + depth) if tree else rng.choice(shared, depth, False)
        members += [*map(int, some), shared + model]
        starts.append(len(members))
    prize = 1e9 / (1 + rng.permutation(models)) ** 0.9
    worth = 0.01 * np.bincount(members, np.repeat(prize, np.diff(starts)), len(sizes))
    return Problem(
        int(sizes.sum() // 10), np.arange(len(sizes)), sizes, np.zeros_like(sizes), worth, prize,
        np.array(starts), np.array(members),
    )  # fmt: skip


async def on_a_thread(problem: Problem) -> Plan:
    """The way that the daemon goes with small problems only."""
    return await asyncio.to_thread(solve, problem)


async def measure(port: int, path: str, seconds: float, way: Way | None) -> None:
    """One row: the client's, while plans are solved this way; None solves nothing."""
    plans, stop = [], asyncio.Event()

    async def planning(solved: Way) -> None:
        problem = library(tree=False)
        while not stop.is_set():
            began = time.perf_counter()
            await solved(problem)
            plans.append(time.perf_counter() - began)

    task = asyncio.create_task(planning(way)) if way is not None else None
    client = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CLIENT, str(port), path, str(seconds)
    )
    await client.wait()
    if task is not None:
        stop.set()
        await task  # or the next row would be measured beside it
        print(f"{'':12} {len(plans)} plans, {np.mean(plans):.2f} s each")


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seconds", type=float, default=6.0)
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory() as folder:
        node = Node(Config(store=Path(folder)))
        data = bytes(64 * 1024)
        digest = Digest.of(data)
        node.store.put(verify(digest, data))
        runner = web.AppRunner(make_app(node), access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        path = f"/v1/blocks/{digest}"
        for name, way in (("no plan", None), ("thread", on_a_thread), ("process", solve_beside)):
            print(f"{name:12}", end=" ", flush=True)
            await measure(port, path, seconds, way)
        await runner.cleanup()
        await node.close()


if __name__ == "__main__":
    asyncio.run(main())
