"""Plans: each distinct block once, everywhere it goes, and little memory."""

from __future__ import annotations

import os
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icnblocks.limits import BLOCK_BYTES, MIN_BLOCK_BYTES
from icnblocks.manifest.cutting import CutFile, build_manifest
from icnblocks.manifest.model import Kind, Manifest, Run, Tensor
from icnblocks.naming import Digest
from icnblocks.placement.plan import Plan

BLOCK = MIN_BLOCK_BYTES


def model(files: list[list[list[int]]]) -> Manifest:
    """Files of runs of blocks, each given by a number; odd ones are short, and end their run."""
    cut = []
    for number, numbers in enumerate(files):
        runs, digests, offset, block = [], [], 0, 0
        for run in numbers:
            length = 0
            first = block
            for item in run:
                digests.append(Digest.of(bytes([item])))
                length += item if item % 2 else BLOCK
                block += 1
                if item % 2:
                    break
            runs.append(Run(offset, length, first, Tensor(str(offset), "U8", (length,))))
            offset += length
        cut.append(CutFile(f"{number:03}", offset, tuple(runs), b"".join(digests)))
    return build_manifest(Kind.PACK, cut, block_bytes=BLOCK)


models = st.lists(st.lists(st.lists(st.integers(0, 12), max_size=4), max_size=4), max_size=4).map(
    model
)


@settings(max_examples=150, deadline=None)
@given(models)
def test_a_plan_says_what_walking_the_manifest_says(manifest):
    plan = Plan(manifest)
    expected = {}
    for block in manifest.blocks():
        expected.setdefault(block.digest, []).append((block.file, block.offset))
    lengths = manifest.lengths()
    assert [want[1:3] for want in plan.wants()] == [
        (digest, lengths[digest]) for digest in expected
    ]
    assert all(file == plan.spots(digest)[0].file for _, digest, _, file in plan.wants())
    assert [manifest.digest_at(want[0]) for want in plan.wants()] == list(expected)
    assert len(plan) == len(expected)
    assert plan.unique_bytes == sum(lengths.values())
    for digest, spots in expected.items():
        assert list(plan.spots(digest)) == spots
        assert plan.length(digest) == lengths[digest]
        assert digest in plan
        index = plan.index(digest)
        assert index is not None
        assert manifest.digest_at(index) == digest
        assert all(manifest.digest_at(earlier) != digest for earlier in range(index))


def test_what_is_not_part_of_the_model_is_not_found():
    for manifest in (model([]), model([[[2, 4]]])):
        plan = Plan(manifest)
        stranger = Digest(bytes(32))
        assert stranger not in plan
        assert plan.index(stranger) is None
        with pytest.raises(KeyError):
            plan.spots(stranger)
        with pytest.raises(KeyError):
            plan.length(stranger)


def test_empty_tensors_between_blocks_do_not_shift_spots():
    manifest = model([[[], [2], [], [], [4, 1], []], [[2], []]])
    plan = Plan(manifest)
    assert plan.spots(Digest.of(bytes([2]))) == ((0, 0), (1, 0))
    assert plan.spots(Digest.of(bytes([1]))) == ((0, 2 * BLOCK),)


def test_a_block_that_occurs_everywhere_costs_no_more_than_others():
    count = 200_000
    digests = bytes(Digest.of(b"0")) * count
    file = CutFile("zeros", count * BLOCK_BYTES, (Run(0, count * BLOCK_BYTES, 0),), digests)
    plan = Plan(build_manifest(Kind.PACK, [file]))
    assert list(plan.wants()) == [(0, Digest.of(b"0"), BLOCK_BYTES, 0)]
    assert len(plan.spots(Digest.of(b"0"))) == count


def test_a_plan_takes_few_bytes_a_block():
    count = 200_000
    file = CutFile(
        "w", count * BLOCK_BYTES, (Run(0, count * BLOCK_BYTES, 0),), os.urandom(32 * count)
    )
    manifest = build_manifest(Kind.PACK, [file])
    tracemalloc.start()
    try:
        plan = Plan(manifest)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(plan) == count
    assert held < 16 * count
    assert peak < 20 * count


def test_digests_chosen_to_share_their_first_bytes_are_found_fast():
    # A table keyed by part of a digest would compare each of these with all the others.
    count = 20_000
    digests = b"".join(bytes(24) + number.to_bytes(8, "big") for number in range(count))
    file = CutFile("w", count * BLOCK_BYTES, (Run(0, count * BLOCK_BYTES, 0),), digests)
    plan = Plan(build_manifest(Kind.PACK, [file]))
    table = plan._table
    runs = "".join("x" if entry else " " for entry in table).split()
    assert max(map(len, runs)) < 200
