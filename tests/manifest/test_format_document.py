"""docs/format.md tells what the code does: its vectors are read and written back."""

from __future__ import annotations

import re
from pathlib import Path

from icnblocks import limits
from icnblocks.manifest.codec import _MAX_ITEMS, decode, digest_of, encode
from icnblocks.manifest.dtypes import DTYPE_BITS
from icnblocks.manifest.paths import _IGNORABLE, MAX_COMPONENT_BYTES
from icnblocks.manifest.record import fingerprint, open_record

TEXT = (Path(__file__).parents[2] / "docs" / "format.md").read_text()


def vectors() -> list[bytes]:
    blocks = re.findall(r"^```hex\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    return [
        bytes.fromhex("".join(line.partition("#")[0] for line in block.splitlines()))
        for block in blocks
    ]


def test_the_vectors_are_what_the_code_reads_and_writes():
    base, adapter, record, withdrawn = vectors()[:4]
    assert encode(decode(base)) == base
    assert encode(decode(adapter)) == adapter
    reference = decode(adapter).base
    assert reference is not None
    assert reference.manifest == digest_of(base) == open_record(record).manifest
    assert str(digest_of(base)) in TEXT
    assert fingerprint(open_record(record).key) in TEXT
    assert open_record(withdrawn).manifest is None
    assert open_record(withdrawn).rotations[0].old == open_record(record).key


def test_the_bounds_and_dtypes_are_those_of_the_code():
    for bound in (
        limits.MAX_FILES, limits.MAX_RUNS, limits.MAX_BLOCKS, limits.MAX_PATH_BYTES,
        limits.MAX_HEADER_BYTES, limits.MIN_BLOCK_BYTES, limits.MAX_BLOCK_BYTES, limits.BLOCK_BYTES,
        limits.MAX_LIFETIME_S, MAX_COMPONENT_BYTES, _MAX_ITEMS, limits.MAX_CLOCK_SKEW_S,
    ):  # fmt: skip
        assert f"{bound:,}" in TEXT, bound
    assert all(f"`{dtype}`" in TEXT for dtype in DTYPE_BITS)
    for first, last in _IGNORABLE:
        assert (f"U+{first:04X}-{last:04X}" if first < last else f"U+{first:04X},") in TEXT
