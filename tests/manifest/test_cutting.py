"""The cutting rule: runs begin where tensors begin, and cover their file."""

from __future__ import annotations

import json

import pytest

from icnblocks.errors import FormatError
from icnblocks.limits import MIN_BLOCK_BYTES
from icnblocks.manifest.codec import decode, encode
from icnblocks.manifest.cutting import CutFile, build_manifest, cut_runs
from icnblocks.manifest.model import Block, Kind, Run, Tensor
from icnblocks.naming import Digest

BLOCK = MIN_BLOCK_BYTES


def header(**tensors: tuple[str, list[int], int, int]) -> bytes:
    entries = {
        name: {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}
        for name, (dtype, shape, start, stop) in tensors.items()
    }
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text


def test_the_header_and_every_tensor_are_runs_of_their_own():
    head = header(
        last=("U8", [1], 2 * BLOCK + 1, 2 * BLOCK + 2),
        empty=("U8", [0], 2 * BLOCK + 1, 2 * BLOCK + 1),
        first=("U8", [2 * BLOCK + 1], 0, 2 * BLOCK + 1),
    )
    size = len(head) + 2 * BLOCK + 2
    assert cut_runs("x.safetensors", size, head, block_bytes=BLOCK) == (
        Run(0, len(head), 0),
        Run(len(head), 2 * BLOCK + 1, 1, Tensor("first", "U8", (2 * BLOCK + 1,))),
        Run(len(head) + 2 * BLOCK + 1, 0, 4, Tensor("empty", "U8", (0,))),
        Run(len(head) + 2 * BLOCK + 1, 1, 4, Tensor("last", "U8", (1,))),
    )


def test_a_tensor_has_the_same_blocks_wherever_it_lies():
    alone = header(t=("U8", [3 * BLOCK], 0, 3 * BLOCK))
    after = header(s=("U8", [5], 0, 5), t=("U8", [3 * BLOCK], 5, 5 + 3 * BLOCK))
    data = b"".join(bytes([number]) * BLOCK for number in range(3))

    def blocks_of_t(head, body):
        raw = head + body
        run = cut_runs("x.safetensors", len(raw), head, block_bytes=BLOCK)[-1]
        return [raw[at : at + BLOCK] for at in range(run.offset, run.offset + run.length, BLOCK)]

    assert blocks_of_t(alone, data) == blocks_of_t(after, b"12345" + data)


@pytest.mark.parametrize(
    "path", ["config.json", "m.gguf", "m.safetensors.index.json", "safetensors"]
)
def test_other_files_are_one_plain_run(path):
    assert cut_runs(path, 10_000, None, block_bytes=BLOCK) == (Run(0, 10_000, 0),)
    assert cut_runs(path, 0, None) == ()


def test_a_safetensors_file_that_is_none_is_refused_by_name():
    with pytest.raises(FormatError, match=r"dir/x\.safetensors: not a safetensors file"):
        cut_runs("dir/x.safetensors", 3, b"abc")
    with pytest.raises(FormatError, match="not read"):
        cut_runs("x.safetensors", 3, None)


def test_files_are_sorted_and_their_blocks_numbered_through():
    digests = [bytes(Digest.of(bytes([number]))) for number in range(4)]
    later = CutFile("b", 2 * BLOCK + 1, (Run(0, 2 * BLOCK + 1, 0),), b"".join(digests[1:]))
    first = CutFile("a", 5, (Run(0, 5, 0),), digests[0])
    manifest = build_manifest(Kind.PACK, iter([later, first]), block_bytes=BLOCK)
    assert [file.path for file in manifest.files] == ["a", "b"]
    assert manifest.files[1].runs[0].first_block == 1
    assert manifest.digests == b"".join(digests)
    assert decode(encode(manifest)) == manifest
    assert list(manifest.blocks()) == [
        Block(0, Digest(digests[0]), 5, 0, 0),
        Block(1, Digest(digests[1]), BLOCK, 1, 0),
        Block(2, Digest(digests[2]), BLOCK, 1, BLOCK),
        Block(3, Digest(digests[3]), 1, 1, 2 * BLOCK),
    ]


def test_digests_for_another_number_of_blocks_are_refused():
    with pytest.raises(FormatError, match="a: has 1 blocks"):
        build_manifest(Kind.PACK, [CutFile("a", 5, (Run(0, 5, 0),), bytes(64))])
