"""How large should a block be? Sharing, manifest size, hashing speed and first-byte delay by size.

    python -m benchmarks.block_size [--layers N --hidden N] [--runs N]

Makes a Llama-shaped base and three variants, cuts them at 512 KiB to 4 MiB, and prints a table
and JSON. The delay is arithmetic: one block over one hop of 100 Mbit/s, the time before an edge
that verifies can pass anything on.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from icnblocks.limits import KIB, MIB
from icnblocks.manifest.codec import encode
from icnblocks.manifest.model import Kind
from icnblocks.publish.scan import scan
from icnblocks.testing.models import extended_vocabulary, half_frozen, lora, write_llama

SIZES = (512 * KIB, MIB, 2 * MIB, 4 * MIB)
HOP_BYTES_PER_S = 100e6 / 8


def measure(models: dict[str, Path], size: int, runs: int) -> dict[str, float]:
    """One row of the table."""
    seconds = []
    for _ in range(runs):
        began = time.perf_counter()
        scan(models["base"], Kind.BASE, block_bytes=size)
        seconds.append(time.perf_counter() - began)
    manifests = {
        name: scan(path, Kind.BASE, block_bytes=size).manifest for name, path in models.items()
    }
    known = manifests["base"].lengths()
    row = {
        "block_bytes": size,
        "blocks": manifests["base"].block_count,
        "manifest_bytes": len(encode(manifests["base"])),
        "cut_and_hash_gb_s": manifests["base"].size / statistics.median(seconds) / 1e9,
        "first_byte_ms_per_hop": 1000 * size / HOP_BYTES_PER_S,
    }
    for name, manifest in manifests.items():
        if name != "base":
            fresh = sum(n for d, n in manifest.lengths().items() if d not in known)
            row[f"new_mb_{name}"] = fresh / 1e6
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        base = write_llama(
            root / "base",
            layers=options.layers,
            hidden=options.hidden,
            intermediate=options.hidden * 11 // 4,
            vocabulary=32_000,
            kv=options.hidden // 4,
        )
        models = {
            "base": base,
            "half_frozen": half_frozen(base, root / "half"),
            "extended_vocabulary": extended_vocabulary(base, root / "vocabulary"),
            "lora": lora(root / "lora", layers=options.layers, hidden=options.hidden),
        }
        rows = [measure(models, size, options.runs) for size in SIZES]
    for key in rows[0]:
        print(f"{key:28}" + "".join(f"{row[key]:14.6g}" for row in rows))
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
