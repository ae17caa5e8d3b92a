"""How the stores behave with a million blocks: time to open, memory, time of every operation.

    python -m benchmarks.store_scale --blocks 1000000

Prints a table and one line of JSON. The blocks that fill a store are notes only (their segments
are sparse files), since nothing here reads them; those that are put are 64 bytes long. What an
operation spends on its own I/O (writing the block, punching the hole) is measured beside it on
a plain file and subtracted. Operations are in CPU time (user and system, the best of ten parts),
so that other work on the machine matters less; what ends in `_s` is wall time, but for
`open_cpu_s`.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

BLOCK = 1 << 20
SEED = 7


def digests(count: int) -> list[bytes]:
    source = random.Random(SEED)
    return [source.randbytes(32) for _ in range(count)]


def fill_disk(path: Path, count: int) -> None:
    """A cleanly closed disk store of `count` blocks of 1 MiB, without their bytes."""
    from icnblocks.store.disk import DiskStore
    from icnblocks.store.notes import Notes, State
    from icnblocks.store.segments import SEGMENT_BYTES

    DiskStore(path).close()
    per_segment = SEGMENT_BYTES // BLOCK
    for number in range(-(-count // per_segment)):
        with (path / "segments" / f"{number:010d}").open("wb") as file:
            file.truncate(per_segment * BLOCK)
    notes = Notes(path / "index.sqlite")
    notes.write(((i * (BLOCK // 4096), d, BLOCK) for i, d in enumerate(digests(count))), ())
    notes.set_state(State("", clean=True, flushed_to=count * (BLOCK // 4096)))
    notes.close()


def fill_places(path: Path, count: int) -> None:
    """An in-place index of one directory with `count` blocks in 100 sparse files."""
    from icnblocks.manifest.model import File, Kind, Manifest, Run
    from icnblocks.naming import Digest
    from icnblocks.store.inplace import FileFacts, InPlaceStore

    root = path / "model"
    root.mkdir()
    files, facts, each = [], {}, count // 100
    for number in range(100):
        name = f"{number:03d}"
        with (root / name).open("wb") as file:
            file.truncate(each * BLOCK)
        facts[name] = FileFacts.of((root / name).stat())
        files.append(File(name, each * BLOCK, (Run(0, each * BLOCK, number * each),)))
    manifest = Manifest(Kind.BASE, BLOCK, tuple(files), b"".join(digests(each * 100)))
    with InPlaceStore(path / "places.sqlite") as places:
        places.add_directory(root, Digest(bytes(32)), manifest, facts)


def peak_mib() -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(x.split()[1]) for x in lines if x.startswith("VmHWM")) / 1024


def each_us(work: Callable[[Any], object], items: Sequence[Any]) -> float:
    """CPU microseconds of `work` on an item: the mean of the best of ten parts."""
    best, size = float("inf"), max(1, len(items) // 10)
    for first in range(0, len(items), size):
        part = items[first : first + size]
        start = time.thread_time()
        for item in part:
            work(item)
        best = min(best, (time.thread_time() - start) / len(part))
    return best * 1e6


def io_us(path: Path, payload: bytes, count: int) -> tuple[float, float]:
    """What writing a small block and punching a page cost without any store."""
    from icnblocks.store.segments import punch

    fd = os.open(path / "plain", os.O_CREAT | os.O_RDWR)
    write = each_us(lambda i: os.pwrite(fd, payload, i * 4096), range(count))
    hole = each_us(lambda i: punch(fd, i * 8192, 4096), range(count // 2))
    os.close(fd)
    (path / "plain").unlink()
    return write, hole


def measure_disk(path: Path, count: int, policy_name: str) -> dict[str, float]:
    from icnblocks.naming import Digest
    from icnblocks.store.base import verify
    from icnblocks.store.disk import DiskStore

    result: dict[str, float] = {"rss_before_mib": peak_mib()}
    start, cpu = time.perf_counter(), time.thread_time()
    store = DiskStore(path / "blocks", create=False)
    result["open_s"] = time.perf_counter() - start
    result["open_cpu_s"] = time.thread_time() - cpu
    result["rss_open_mib"] = peak_mib()
    if policy_name:
        from icnblocks.cache.content_store import ContentStore
        from icnblocks.cache.policy import make_policy

        start = time.perf_counter()
        content = ContentStore(store, make_policy(policy_name), 4 * count * BLOCK)
        result["policy_s"] = time.perf_counter() - start
        result["rss_with_policy_mib"] = peak_mib()
        del content
    sample = [Digest(d) for d in random.Random(1).sample(digests(count), min(count, 50_000))]
    unknown = [Digest(d[::-1]) for d in sample]
    result["contains_us"] = each_us(store.__contains__, sample)
    result["contains_miss_us"] = each_us(store.__contains__, unknown)

    def lease(digest: Digest) -> None:
        found = store.open(digest)
        assert found is not None
        found.close()

    result["open_block_us"] = each_us(lease, sample)
    payloads = [random.Random(i).randbytes(64) for i in range(20_000)]
    blocks = [verify(Digest.of(p), p) for p in payloads]
    write, hole = io_us(path, payloads[0], len(payloads))
    result["io_write_us"], result["io_punch_us"] = write, hole
    result["put_us"] = each_us(store.put, blocks)
    result["put_beyond_io_us"] = result["put_us"] - write
    alone = blocks[::2]  # those that follow one another would be freed together
    erase = each_us(lambda block: store.erase(block.digest), alone)
    commit = each_us(lambda _: store._commit(), [None]) / len(alone)
    result["erase_call_us"], result["erase_us"] = erase, erase + commit
    result["erase_beyond_io_us"] = result["erase_us"] - hole
    start = time.perf_counter()
    store.close()
    result["close_s"] = time.perf_counter() - start
    return result


def measure_places(path: Path, count: int) -> dict[str, float]:
    from icnblocks.naming import Digest
    from icnblocks.store.inplace import InPlaceStore

    start = time.perf_counter()
    places = InPlaceStore(path / "places.sqlite")
    result = {"open_s": time.perf_counter() - start}
    sample = [Digest(d) for d in random.Random(1).sample(digests(count), min(count, 50_000))]
    before, reads = peak_mib(), read_calls()
    result["contains_us"] = each_us(places.__contains__, sample)
    result["page_reads_a_lookup"] = (read_calls() - reads) / len(sample)
    result["io_page_read_us"] = page_read_us(path / "places.sqlite")
    result["contains_miss_us"] = each_us(places.__contains__, [Digest(d[::-1]) for d in sample])

    def lease(digest: Digest) -> None:
        found = places.open(digest)
        assert found is not None
        found.check()
        found.close()

    result["open_check_block_us"] = each_us(lease, sample)
    result["rss_growth_mib"] = peak_mib() - before
    result["index_bytes_a_block"] = (path / "places.sqlite").stat().st_size / count
    places.close()
    return result


def read_calls() -> int:
    """System calls of this process so far that read."""
    return int(Path("/proc/self/io").read_text(encoding="ascii").split()[5])


def page_read_us(path: Path) -> float:
    """What reading a page of a file at random costs from the page cache."""
    fd, pages = os.open(path, os.O_RDONLY), path.stat().st_size // 4096
    order = [random.Random(2).randrange(pages) for _ in range(20_000)]
    cost = each_us(lambda page: os.pread(fd, 4096, page * 4096), order)
    os.close(fd)
    return cost


def in_fresh_process(*arguments: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.store_scale", *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


@click.command(help=__doc__)
@click.option("--blocks", default=1_000_000, show_default=True, help="Blocks in each store.")
@click.option("--policy", default="lru", show_default=True, help="Eviction policy to fill, or ''.")
@click.option("--dir", "directory", type=Path, help="Where to make the stores (default: TMPDIR).")
@click.option("--measure", type=click.Choice(["disk", "places"]), hidden=True)
def main(blocks: int, policy: str, directory: Path | None, measure: str | None) -> None:
    if measure and directory:
        work = measure_disk(directory, blocks, policy) if measure == "disk" else None
        print(json.dumps(work or measure_places(directory, blocks)))
        return
    with tempfile.TemporaryDirectory(dir=directory) as temporary:
        path = Path(temporary)
        fill_disk(path / "blocks", blocks)
        fill_places(path, blocks)
        common = ["--blocks", str(blocks), "--policy", policy, "--dir", temporary, "--measure"]
        result = {kind: in_fresh_process(*common, kind) for kind in ("disk", "places")}
    for kind, figures in result.items():
        print(f"\n{kind}, {blocks:,} blocks")
        for what, value in figures.items():
            print(f"  {what:24} {value:12.3f}")
    print(json.dumps({"blocks": blocks, "policy": policy, **result}))


if __name__ == "__main__":
    main()
