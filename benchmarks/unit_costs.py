"""What one of a thing costs a daemon: CPU for a request of each kind, memory for a pending block.

    python -m benchmarks.unit_costs [--seconds S] [--json]

docs/scale.md multiplies these. A daemon with a model of 35,000 blocks (a manifest and no more) and
two small ones is asked the same over and over on two kept connections; its CPU time, user and
system, is divided by the answers, so that other work on the machine matters little. Everything is
asked of an origin, which for what is here does what an edge does. Memory is what Python says was
allocated for 20,000 pending blocks, with one who waits for each, and with 32.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import tempfile
import threading
import time
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from icnblocks.limits import KIB, MIB
from icnblocks.manifest.codec import digest_of, encode
from icnblocks.manifest.cutting import CutFile, build_manifest, cut_runs
from icnblocks.manifest.model import Kind
from icnblocks.naming import Digest
from icnblocks.testing.exchange import call, make_model, publish, record_path
from icnblocks.testing.processes import start_edge
from icnblocks.wire.bundle import BundleRequest, Want, encode_request
from icnblocks.wire.havemap import HaveMap, encode_have

if TYPE_CHECKING:
    from icnblocks.testing.exchange import Model
    from icnblocks.testing.processes import Edge

BLOCKS: Final = 35_000
LANES: Final = 2
LEAST: Final = 40
"""Answers of each kind, however long that takes."""
PENDING: Final = 20_000
WAITERS: Final = 32
_TICKS: Final = os.sysconf("SC_CLK_TCK")

Ask = tuple[str, str, bytes | None]


def cpu_s(edge: Edge) -> float:
    """CPU seconds of the daemon so far, user and system."""
    fields = Path(f"/proc/{edge.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def ask_for(edge: Edge, ask: Ask, seconds: float) -> tuple[int, int]:
    """Ask the same until the time is over; answers and bytes of their bodies."""
    until = time.monotonic() + seconds
    counts: list[tuple[int, int]] = []

    def lane() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", edge.port, timeout=30)
        answers = size = 0
        while time.monotonic() < until or answers < LEAST // LANES:
            method, path, body = ask
            connection.request(method, path, body)
            answer = connection.getresponse()
            size += len(answer.read())
            if answer.status not in {200, 404}:
                raise RuntimeError(f"{path}: {answer.status}")
            answers += 1
        connection.close()
        counts.append((answers, size))

    lanes = [threading.Thread(target=lane) for _ in range(LANES)]
    for thread in lanes:
        thread.start()
    for thread in lanes:
        thread.join()
    return sum(answers for answers, _ in counts), sum(size for _, size in counts)


def bundle_of(wants: tuple[Want, ...]) -> Ask:
    body = encode_request(BundleRequest(wants, pull=bytes(range(16))))
    return "POST", "/v1/bundles", body


def large_manifest() -> tuple[Digest, bytes]:
    """Of a model of BLOCKS blocks of 1 MiB, which nobody has."""
    size = BLOCKS * MIB
    runs = cut_runs("weights.bin", size, None, block_bytes=MIB)
    packed = random.Random(5).randbytes(32 * BLOCKS)
    manifest = build_manifest(
        Kind.PACK, [CutFile("weights.bin", size, runs, packed)], block_bytes=MIB
    )
    raw = encode(manifest)
    return digest_of(raw), raw


def put_large(edge: Edge, digest: Digest, raw: bytes) -> None:
    for first in range(0, len(raw), 900_000):
        part = raw[first : first + 900_000]
        said = f"bytes {first}-{first + len(part) - 1}/{len(raw)}"
        reply = call(edge, "PUT", f"/v1/manifests/{digest}", part, Content_Range=said)
        assert reply.status in {201, 202}, reply.body


def questions(edge: Edge, small: Model, mixed: Model) -> dict[str, Ask]:
    """What is asked, by the name under which docs/scale.md knows it."""
    digest, raw = large_manifest()
    put_large(edge, digest, raw)
    announced = json.dumps({"port": 4261}).encode()
    had = encode_have(HaveMap(bytes(BLOCKS), fetches=False))
    return {
        "record": ("GET", record_path(small.name), None),
        "no such record": ("GET", "/v1/records/acme/nothing/main", None),
        f"manifest of {BLOCKS:,} blocks": ("GET", f"/v1/manifests/{digest}", None),
        f"have-map of {BLOCKS:,} blocks": ("GET", f"/v1/manifests/{digest}/have", None),
        "announcement of a device": ("POST", f"/v1/manifests/{digest}/neighbours", announced),
        "deal of 16 blocks": ("POST", f"/v1/manifests/{digest}/deal?most=16", had),
        "bundle of 1 block of 4 KiB": bundle_of(mixed.wants[:1]),
        "bundle of 64 blocks of 4 KiB": bundle_of(mixed.wants[:64]),
        "bundle of 1 block of 1 MiB": bundle_of(small.wants[:1]),
        "bundle of 16 blocks of 1 MiB": bundle_of(small.wants[:16]),
        "block of 1 MiB": ("GET", f"/v1/blocks/{small.wants[0].digest}", None),
        "metrics": ("GET", "/metrics", None),
    }


def request_costs(seconds: float) -> list[dict[str, Any]]:
    small = make_model("acme/large", size=16 * MIB, seed=3, block_bytes=MIB)
    mixed = make_model("acme/tiny", size=64 * 4 * KIB, seed=4, block_bytes=4 * KIB)
    rows = []
    with tempfile.TemporaryDirectory() as folder, start_edge(Path(folder) / "store") as edge:
        for model in (small, mixed):
            publish(edge, model)
        for name, ask in questions(edge, small, mixed).items():
            ask_for(edge, ask, 0.2)
            before = cpu_s(edge)
            answers, size = ask_for(edge, ask, seconds)
            spent = cpu_s(edge) - before
            rows.append({
                "what": name,
                "cpu_us": round(1e6 * spent / answers),
                "per_cpu_second": round(answers / spent),
                "body_bytes": round(size / answers),
            })  # fmt: skip
        series = [line for line in edge.get("/metrics").decode().splitlines() if line[0] != "#"]
        rows.append({"what": "time series", "count": len(series)})
    return rows


def pending_bytes(waiters: int) -> float:
    """Bytes that a pending block takes with so many who wait for it."""
    from icnblocks_daemon.pit import Pit
    from icnblocks_daemon.strategies import make_strategy

    digests = [Digest(number.to_bytes(32, "big")) for number in range(PENDING)]
    who = [object() for _ in range(waiters)]
    pit = Pit(make_strategy("fail-over"), negative_s=5.0)
    tracemalloc.start()
    for digest in digests:
        for one in who:
            pit.want(one, digest, MIB, ("http://up",), 0.0)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return size / PENDING


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    one, many = pending_bytes(1), pending_bytes(WAITERS)
    each = (many - one) / (WAITERS - 1)
    rows = request_costs(options.seconds)
    rows.append({"what": "pending block, with one who waits", "bytes": round(one)})
    rows.append({"what": "each more who waits", "bytes": round(each)})
    if options.json:
        print(json.dumps(rows))
        return
    for row in rows:
        told = "  ".join(f"{key} {value:,}" for key, value in row.items() if key != "what")
        print(f"{row['what']:36} {told}")


if __name__ == "__main__":
    main()
