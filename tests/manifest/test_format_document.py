"""docs/format.md tells what the code does: its vectors are read and written back."""

from __future__ import annotations

import re
from pathlib import Path

from icnblocks import limits
from icnblocks.client.scheduler import _PASSING
from icnblocks.manifest.codec import _MAX_ITEMS, decode, digest_of, encode
from icnblocks.manifest.dtypes import DTYPE_BITS
from icnblocks.manifest.paths import _IGNORABLE, MAX_COMPONENT_BYTES
from icnblocks.manifest.record import fingerprint, open_record
from icnblocks.wire.frames import Reason

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


def test_which_refusals_are_worth_another_try_is_what_a_pull_does():
    """Catches: a reason that the page calls one that may pass, and a pull one that does not."""
    rows = re.findall(
        r"^\| (\d+) ([\w ]+) \| [^|]+ \| (yes|no|once, with `doubt`) \|$", TEXT, re.MULTILINE
    )
    told = {int(number): (name.strip(), again) for number, name, again in rows}
    assert told.keys() == {reason.value for reason in Reason}
    for reason in Reason:
        name, again = told[reason.value]
        assert name.upper().replace(" ", "_") == reason.name
        assert (again == "yes") == (reason in _PASSING)
