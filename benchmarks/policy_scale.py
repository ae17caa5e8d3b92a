"""Memory and time of eviction policies at a million blocks, beside the barest structures.

    python -m benchmarks.policy_scale [--blocks N] [NAME...]

Each subject runs in a process of its own. For a policy it prints the resident memory added by
the state (with the Digest objects, whose only owner it is), and the mean time of each operation:
rebuilding (`inserted`), `hit`, and turning over (a victim drawn and removed, a new block
inserted), the digests made beforehand; then the same through the calls for many blocks, 100 at a
time. `sharing` also learns its manifests first: bases of
100,000 blocks, a half-frozen variant of each, and adapters of 100 blocks on them.

`opening-NAME` is what a content store adds to the opening of its store: a policy rebuilt from
`store.blocks()`, over a store that has its list of blocks ready.
"""

from __future__ import annotations

import argparse
import random
import resource
import subprocess
import sys
import time
from collections import OrderedDict
from heapq import heapify, heappop, heappush
from itertools import islice, repeat
from pathlib import Path
from typing import TYPE_CHECKING

from icnblocks.cache.content_store import ContentStore
from icnblocks.cache.policy import POLICIES, make_policy
from icnblocks.naming import Digest
from icnblocks.store.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SIZE = 1 << 20
OPERATIONS = 200_000
TOGETHER = 100
BARE = ("bare-ordereddict", "bare-heap")


def rss() -> int:
    """Resident memory now, in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def digest(number: int) -> Digest:
    """Block `number`: spread like a hash, but cheap to make."""
    return Digest(((number * 0x9E3779B97F4A7C15) % (1 << 64)).to_bytes(8, "big") * 4)


def timed(what: str, count: int, run: Callable[[], None]) -> None:
    """Run it and print microseconds of CPU for each of `count` operations."""
    start = time.process_time()
    run()
    print(f"  {what:34} {1e6 * (time.process_time() - start) / count:8.2f} us", flush=True)


def models(blocks: int) -> list[tuple[Digest, range, Digest | None]]:
    """Manifests over blocks 0 to `blocks`: bases, half-frozen variants, adapters."""
    base_blocks, adapter_blocks = min(100_000, blocks // 10), 100
    found: list[tuple[Digest, range, Digest | None]] = []
    at = 0
    while at + base_blocks < blocks * 0.9:
        base = digest(-1 - len(found))
        found.append((base, range(at, at + base_blocks), None))
        half = range(at + base_blocks // 2, at + base_blocks * 3 // 2)
        found.append((digest(-1 - len(found)), half, None))
        at += base_blocks * 3 // 2
    bases = [manifest for manifest, _, _ in found[::2]]
    while at + adapter_blocks <= blocks:
        base = bases[len(found) % len(bases)]
        found.append((digest(-1 - len(found)), range(at, at + adapter_blocks), base))
        at += adapter_blocks
    return found


def measure_policy(name: str, blocks: int) -> None:
    """All figures of one policy."""
    before = rss()
    policy = make_policy(name, blocks * SIZE)
    library = models(blocks) if name == "sharing" else []

    def learn() -> None:
        for manifest, numbers, base in library:
            policy.learn(manifest, {digest(n): SIZE for n in numbers}, base)

    if library:
        timed(f"learn {len(library)} manifests, a block", blocks, learn)

    def rebuild() -> None:
        for number in range(blocks):
            policy.inserted(digest(number), SIZE, 0.0)

    timed("inserted, at opening (with digest)", blocks, rebuild)
    print(f"  {'memory of the state':34} {(rss() - before) / 1e6:8.0f} MB")
    print(f"  {'resident, whole process':34} {rss() / 1e6:8.0f} MB")
    rng = random.Random(1)
    asked = [digest(rng.randrange(blocks)) for _ in range(OPERATIONS)]

    def hits() -> None:
        for position, one in enumerate(asked):
            policy.hit(one, float(position))

    timed("hit", OPERATIONS, hits)

    def many_hits() -> None:
        for first in range(0, OPERATIONS, TOGETHER):
            policy.hits(asked[first : first + TOGETHER], OPERATIONS)

    timed(f"hit, {TOGETHER} together", OPERATIONS, many_hits)
    if library:
        wanted = rng.choices(library, k=OPERATIONS // 10)

        def requests() -> None:
            for position, (manifest, _, _) in enumerate(wanted):
                policy.requested(manifest, OPERATIONS + position)

        timed("requested", len(wanted), requests)
    fresh = [digest(blocks + n) for n in range(OPERATIONS)]
    now = 3.0 * OPERATIONS
    slowest = 0.0

    def turn_over() -> None:
        nonlocal slowest
        clock = time.perf_counter  # reading the CPU's clock takes as long as a hit
        for one in fresh:
            start = clock()
            for victim in policy.victims(now):
                policy.removed(victim)
                break
            policy.inserted(one, SIZE, now)
            slowest = max(slowest, clock() - start)

    timed("victim drawn, removed, and inserted", OPERATIONS, turn_over)
    print(f"  {'slowest of these, by the wall':34} {1e6 * slowest:8.0f} us")
    fresh = [digest(blocks + OPERATIONS + n) for n in range(OPERATIONS)]

    def many_turn_over() -> None:
        for first in range(0, OPERATIONS, TOGETHER):
            policy.removed_all(list(islice(policy.victims(now), TOGETHER)))
            coming = fresh[first : first + TOGETHER]
            policy.inserted_all(zip(coming, repeat(SIZE)), now)

    timed(f"the same, {TOGETHER} together", OPERATIONS, many_turn_over)
    print(f"  {'resident at the end':34} {rss() / 1e6:8.0f} MB")


class ListedStore(MemoryStore):
    """A store that only lists its blocks, at once."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self._listed = [(digest(number), SIZE) for number in range(blocks)]

    def blocks(self) -> Iterator[tuple[Digest, int]]:
        """The list."""
        return iter(self._listed)

    @property
    def used_bytes(self) -> int:
        """As if they were there."""
        return len(self._listed) * SIZE


def measure_opening(name: str, blocks: int) -> None:
    """Rebuilding in a content store."""
    store = ListedStore(blocks)

    def rebuild() -> None:
        ContentStore(store, make_policy(name, blocks * SIZE), blocks * SIZE)

    timed("content store opened, a block", blocks, rebuild)


def measure_bare(name: str, blocks: int) -> None:
    """The same for an OrderedDict used as LRU, or a heap of tuples with a dict."""
    before = rss()
    order: OrderedDict[Digest, int] = OrderedDict()
    heap: list[tuple[int, Digest]] = []

    def rebuild() -> None:
        for number in range(blocks):
            one = digest(number)
            order[one] = SIZE
            if name == "bare-heap":
                heap.append((number, one))
        heapify(heap)

    timed("insert (with digest)", blocks, rebuild)
    print(f"  {'memory of the state':34} {(rss() - before) / 1e6:8.0f} MB")
    rng = random.Random(1)
    asked = [digest(rng.randrange(blocks)) for _ in range(OPERATIONS)]

    def hits() -> None:
        for position, one in enumerate(asked):
            order.move_to_end(one)
            if name == "bare-heap":
                heappush(heap, (blocks + position, one))

    timed("hit", OPERATIONS, hits)
    fresh = [digest(blocks + n) for n in range(OPERATIONS)]

    def turn_over() -> None:
        for one in fresh:
            if name == "bare-heap":
                order.pop(heappop(heap)[1], None)
                heappush(heap, (2 * blocks, one))
            else:
                order.popitem(last=False)
            order[one] = SIZE

    timed("victim removed, and inserted", OPERATIONS, turn_over)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", help="policies, or " + ", ".join(BARE))
    parser.add_argument("--blocks", type=int, default=1_000_000)
    options = parser.parse_args()
    make_policy("lru")
    policies = sorted(POLICIES)
    names = options.names or [*BARE, *policies, *(f"opening-{name}" for name in policies)]
    if len(names) > 1:
        for name in names:
            command = [sys.executable, __file__, name, "--blocks", str(options.blocks)]
            subprocess.run(command, check=True)
        return
    print(f"{names[0]}, {options.blocks} blocks; {rss() / 1e6:.0f} MB before", flush=True)
    kind, _, opened = names[0].partition("opening-")
    if opened:
        measure_opening(opened, options.blocks)
    else:
        (measure_bare if kind in BARE else measure_policy)(names[0], options.blocks)


if __name__ == "__main__":
    main()
