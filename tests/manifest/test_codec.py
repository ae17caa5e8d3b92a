"""Manifests as bytes: golden vectors, round trips, and everything that lies."""

from __future__ import annotations

import time
import tracemalloc
from dataclasses import replace
from itertools import islice, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icnblocks import limits
from icnblocks.errors import FormatError, VersionError
from icnblocks.manifest import codec
from icnblocks.manifest.canonical import pack, unpack
from icnblocks.manifest.codec import decode, digest_of, encode
from icnblocks.manifest.cutting import CutFile, blocks_in, build_manifest
from icnblocks.manifest.dtypes import DTYPE_BITS, tensor_bytes
from icnblocks.manifest.model import BaseRef, File, Kind, Manifest, Run, Tensor
from icnblocks.naming import Digest, Name

SETTINGS = settings(max_examples=100, deadline=None)
BLOCK = limits.MIN_BLOCK_BYTES

CONFIG = bytes.fromhex("a7c4d54776fcb179f048728766a52d75dc450cc2a5072b7e2c238aa9b2cff3b6")
HEADER = bytes.fromhex("340616335315873f72c65b824743039bb8c948fc9ab5143165c3947bf94d8f04")
WEIGHT = bytes.fromhex("a6a492965517a830cb75fdb713465aa465f2f098233896fea44c1d98268bf9e3")

BASE_VECTOR = bytes.fromhex(
    "86"  # a map of 6
    "ab 626c6f636b5f6279746573 cd 1000"  # block_bytes: 4096
    "a7 64696765737473 c4 60"  # digests: 96 bytes, three blocks
    "a7c4d54776fcb179f048728766a52d75dc450cc2a5072b7e2c238aa9b2cff3b6"  # of config.json
    "340616335315873f72c65b824743039bb8c948fc9ab5143165c3947bf94d8f04"  # of the header
    "a6a492965517a830cb75fdb713465aa465f2f098233896fea44c1d98268bf9e3"  # of tensor a
    "a5 66696c6573 92"  # files: two
    "93 ab 636f6e6669672e6a736f6e 03 91 03"  # config.json, 3 bytes, one plain run of 3
    "93 ad 6d2e7361666574656e736f7273 cc87 93"  # m.safetensors, 135 bytes, three runs:
    "77"  # the header, 119 bytes
    "92 a1 61 00"  # tensor a, of the first type
    "92 a1 65 01"  # tensor e, of the second: no bytes, no block
    "a4 6b696e64 a4 62617365"  # kind: base
    "a5 7479706573 92"  # types: two
    "92 a3 463332 92 02 02"  # F32, [2, 2]
    "92 a2 4938 91 00"  # I8, [0]
    "a1 76 92 01 00"  # v: [1, 0]
)
BASE = Manifest(
    kind=Kind.BASE,
    block_bytes=4096,
    files=(
        File("config.json", 3, (Run(0, 3, 0),)),
        File(
            "m.safetensors",
            135,
            (
                Run(0, 119, 1),
                Run(119, 16, 2, Tensor("a", "F32", (2, 2))),
                Run(135, 0, 3, Tensor("e", "I8", (0,))),
            ),
        ),
    ),
    digests=CONFIG + HEADER + WEIGHT,
)
BASE_DIGEST = Digest.parse("02516b719efdc990164932a98ee9fbb26a89f97e1104a2709e4036f0a73926cd")

ADAPTER_VECTOR = bytes.fromhex(
    "87"
    "a4 62617365 92"  # base: name and digest
    "ab 61636d652f6d696e696c6d"  # acme/minilm (the default tag is not written)
    "c4 20 02516b719efdc990164932a98ee9fbb26a89f97e1104a2709e4036f0a73926cd"
    "ab 626c6f636b5f6279746573 ce 00100000"  # block_bytes: 1048576
    "a7 64696765737473 c4 20 a7c4d54776fcb179f048728766a52d75dc450cc2a5072b7e2c238aa9b2cff3b6"
    "a5 66696c6573 91 93 ab 636f6e6669672e6a736f6e 03 91 03"
    "a4 6b696e64 a7 61646170746572"  # kind: adapter
    "a5 7479706573 90"  # types: none
    "a1 76 92 01 00"
)
ADAPTER = Manifest(
    kind=Kind.ADAPTER,
    block_bytes=1 << 20,
    files=(File("config.json", 3, (Run(0, 3, 0),)),),
    digests=CONFIG,
    base=BaseRef(Name("acme", "minilm"), BASE_DIGEST),
)

names = st.builds(Name, *[st.from_regex(r"[a-zA-Z0-9]{1,5}(\.[a-z0-9]{1,3})?", fullmatch=True)] * 3)
parts = st.text(st.characters(codec="utf-8", categories=["L", "N"]), min_size=1, max_size=8)
dtypes = st.sampled_from(sorted(DTYPE_BITS))
tensors = st.builds(
    Tensor,
    st.text(st.characters(codec="utf-8"), max_size=12),
    dtypes,
    st.lists(st.integers(0, 60).map(lambda size: 4 * size), min_size=1, max_size=3).map(tuple),
)
pieces = st.lists(
    st.integers(1, 5 * BLOCK) | tensors,
    max_size=6,
    unique_by=lambda piece: piece.name if isinstance(piece, Tensor) else object(),
)


def cut_file(path: str, pieces: list[int | Tensor]) -> CutFile:
    """A file of plain runs and tensors, with a digest of its own for every block."""
    runs, offset, block = [], 0, 0
    for piece in pieces:
        tensor = piece if isinstance(piece, Tensor) else None
        length = tensor_bytes(tensor.dtype, tensor.shape) if tensor else piece
        runs.append(Run(offset, length, block, tensor))
        offset += length
        block += blocks_in(length, BLOCK)
    digests = b"".join(Digest.of(f"{path} {index}".encode()) for index in range(block))
    return CutFile(path, offset, tuple(runs), digests)


@st.composite
def manifests(draw):
    paths = draw(st.lists(parts, max_size=4, unique_by=str.casefold))
    files = [cut_file(f"d{index}/{path}", draw(pieces)) for index, path in enumerate(paths)]
    kind = draw(st.sampled_from(Kind))
    digest = st.binary(min_size=32, max_size=32).map(Digest)
    base = draw(st.builds(BaseRef, names, digest)) if kind is Kind.ADAPTER else None
    manifest = build_manifest(kind, files, base=base, block_bytes=BLOCK)
    if draw(st.booleans()):
        return manifest
    extra = draw(st.dictionaries(st.text("xyz", min_size=1), st.binary() | st.integers(0, 9)))
    packed = tuple((key, pack(extra[key])) for key in sorted(extra))
    return replace(manifest, minor=draw(st.integers(1, 65_535)), extra=packed)


@pytest.mark.parametrize(
    ("manifest", "data"), [(BASE, BASE_VECTOR), (ADAPTER, ADAPTER_VECTOR)], ids=["base", "adapter"]
)
def test_golden_vectors(manifest, data):
    assert encode(manifest) == data
    assert decode(data) == manifest


def test_a_manifest_is_named_by_the_digest_of_its_encoding():
    assert digest_of(BASE_VECTOR) == BASE_DIGEST


@SETTINGS
@given(manifests())
def test_what_is_encoded_is_decoded(manifest):
    data = encode(manifest)
    assert decode(data) == manifest
    assert encode(decode(data)) == data
    for block in manifest.blocks():
        assert 1 <= block.length <= manifest.block_bytes


@SETTINGS
@given(manifests().map(encode), st.data())
def test_any_change_gives_another_manifest_or_a_format_error(data, draw):
    position = draw.draw(st.integers(0, len(data) - 1))
    change = draw.draw(st.binary(max_size=3))
    changed = data[:position] + change + data[position + draw.draw(st.integers(0, 3)) :]
    try:
        manifest = decode(changed)
    except FormatError:
        return
    assert encode(manifest) == changed


@SETTINGS
@given(st.binary(max_size=300))
def test_any_bytes_are_a_manifest_or_a_format_error(data):
    try:
        manifest = decode(data)
    except FormatError:
        return
    assert encode(manifest) == data


def changed(**fields) -> bytes:
    """The golden manifest with some top-level fields replaced (None: taken away)."""
    value = unpack(BASE_VECTOR, max_bytes=1000) | fields
    return pack({key: item for key, item in value.items() if item is not None})


def with_files(*files, types=()) -> bytes:
    return changed(files=list(files), digests=b"", types=list(types))


def with_types(*types) -> bytes:
    """One file with one tensor of each type."""
    runs = [[f"t{number}", number] for number in range(len(types))]
    return with_files(["a", 1, runs], types=types)


EMPTY = ["U8", [0]]
LIES = {
    "no map": (pack([1]), "not a map"),
    "no version": (changed(v=None), "'v'"),
    "version is a number": (changed(v=1), "'v'"),
    "version is true": (changed(v=[True, 0]), "major version"),
    "version 0": (changed(v=[0, 0]), "major version"),
    "version of three": (changed(v=[1, 0, 0]), "'v'"),
    "minor below 0": (changed(v=[1, -1]), "minor version"),
    "minor is true": (changed(v=[1, True]), "minor version"),
    "field missing": (changed(files=None), "'files' is missing"),
    "unknown field": (changed(w=1), "unknown field 'w'"),
    "kind unknown": (changed(kind="delta"), "kind"),
    "kind is bytes": (changed(kind=b"base"), "kind"),
    "base without adapter": (changed(base=["a/b", bytes(32)]), "adapter names its base"),
    "adapter without base": (changed(kind="adapter"), "adapter names its base"),
    "base digest short": (changed(kind="adapter", base=["a/b", bytes(31)]), "32 bytes"),
    "base name bad": (changed(kind="adapter", base=["a/../b", bytes(32)]), "valid"),
    "base name spelt twice": (changed(kind="adapter", base=["a/b@main", bytes(32)]), "spelt"),
    "base is text": (changed(kind="adapter", base="a/b"), "base is not"),
    "base of three": (changed(kind="adapter", base=["a/b", bytes(32), 1]), "base is not"),
    "block_bytes 0": (changed(block_bytes=0), "block_bytes"),
    "block_bytes small": (changed(block_bytes=4095), "block_bytes"),
    "block_bytes large": (changed(block_bytes=limits.MAX_BLOCK_BYTES + 1), "block_bytes"),
    "block_bytes is true": (changed(block_bytes=True), "block_bytes"),
    "one block of a run less": (changed(block_bytes=4096, digests=CONFIG + HEADER), "3 blocks"),
    "one block more": (changed(digests=CONFIG * 4), "3 blocks"),
    "a torn digest": (changed(digests=(CONFIG * 3)[:-1]), "3 blocks"),
    "digests are text": (changed(digests="x" * 96), "3 blocks"),
    "files are a map": (changed(files={}), "array"),
    "file is text": (with_files("a"), "not \\[path"),
    "file of two": (with_files(["a", 0]), "not \\[path"),
    "file of four": (with_files(["a", 0, [], 0]), "not \\[path"),
    "path is bytes": (with_files([b"a", 0, []]), "not \\[path"),
    "path leads out": (with_files(["../a", 0, []]), "part '..'"),
    "path absolute": (with_files(["/a", 0, []]), "absolute"),
    "path reserved": (with_files([".icnblocks/x", 0, []]), "reserved"),
    "file twice": (with_files(["a", 0, []], ["a", 0, []]), "out of order"),
    "files unsorted": (with_files(["b", 0, []], ["a", 0, []]), "out of order"),
    "file and directory": (with_files(["a", 0, []], ["a/b", 0, []]), "clash"),
    "case only": (with_files(["A", 0, []], ["a", 0, []]), "clash"),
    "size negative": (with_files(["a", -1, []]), "size"),
    "size is true": (with_files(["a", True, [1]]), "size"),
    "size huge": (with_files(["a", 1 << 51, [1 << 51]]), "size"),
    "size more than runs": (with_files(["a", 9, [8]]), "9 bytes, its runs 8"),
    "size less than runs": (with_files(["a", 7, [8]]), "beyond its end"),
    "run of no bytes": (with_files(["a", 0, [0]]), "plain run"),
    "run negative": (with_files(["a", 1, [-1, 2]]), "plain run"),
    "run is true": (with_files(["a", 1, [True]]), "neither"),
    "run is nil": (with_files(["a", 1, [None]]), "neither"),
    "tensor of one": (with_files(["a", 0, [["t"]]], types=[EMPTY]), "neither"),
    "tensor of three": (with_files(["a", 0, [["t", 0, 0]]], types=[EMPTY]), "neither"),
    "tensor with its type inline": (with_files(["a", 0, [["t", "U8", [0]]]]), "neither"),
    "tensor twice": (with_files(["a", 0, [["t", 0], ["t", 0]]], types=[EMPTY]), "one name"),
    "tensor beyond the end": (with_types(["U8", [1 << 50]]), "beyond its end"),
    "type of one": (with_types(["U8"]), "type is not"),
    "type is text": (with_types("U8"), "type is not"),
    "types are a map": (changed(types={}, files=[], digests=b""), "types are not an array"),
    "types are a number": (changed(types=2), "types are not an array"),
    "type twice": (with_types(EMPTY, EMPTY), "type occurs twice"),
    "type not used": (with_files(["a", 0, []], types=[EMPTY]), "no tensor has"),
    "type unknown": (with_files(["a", 0, [["t", 0]]]), "first use"),
    "type negative": (with_files(["a", 0, [["t", -1]]], types=[EMPTY]), "first use"),
    "type true": (
        with_files(["a", 0, [["s", 0], ["t", True]]], types=[EMPTY, ["U8", [0, 0]]]),
        "first use",
    ),
    "types in another order": (
        with_files(["a", 0, [["s", 1], ["t", 0]]], types=[EMPTY, ["U8", [0, 0]]]),
        "first use",
    ),
    "dtype unknown": (with_types(["U9", [1]]), "unknown dtype"),
    "shape negative": (with_types(["U8", [-1, -1]]), "dimension"),
    "shape of text": (with_types(["U8", ["1"]]), "dimension"),
    "shape overflows": (with_types(["U8", [1 << 63, 4, 0]]), "overflows"),
    "tensor name long": (with_files(["a", 0, [["t" * 1025, 0]]], types=[EMPTY]), "tensor name"),
    "blocks without end": (
        changed(files=[["a", 1 << 50, [1 << 50]]], types=[]),
        "more than 8000000 blocks",
    ),
    "one digest, two short lengths": (
        changed(files=[["a", 7, [3, 4]]], digests=CONFIG * 2, types=[]),
        "two lengths",
    ),
    "one digest, short and full": (
        changed(files=[["a", 4100, [4100]]], digests=CONFIG * 2, types=[]),
        "two lengths",
    ),
}


@pytest.mark.parametrize(("data", "says"), LIES.values(), ids=LIES)
def test_manifests_that_lie_are_refused_and_named(data, says):
    with pytest.raises(FormatError, match=says) as caught:
        decode(data)
    assert not isinstance(caught.value, VersionError)
    assert str(caught.value).startswith("not a valid manifest: ")
    assert str(caught.value).isprintable()


def test_one_digest_may_occur_often_with_one_length():
    files = [["a", 3, [3]], ["b", 12_291, [12_288, 3]]]
    data = changed(files=files, digests=CONFIG + HEADER * 3 + CONFIG, types=[])
    assert len(decode(data).lengths()) == 2


def test_a_newer_major_version_says_so():
    for data in (changed(v=[2, 0]), pack({"v": [2, 7, "beta"]}), changed(v=[2, 0], files=7)):
        with pytest.raises(VersionError, match="format 2"):
            decode(data)


def test_unknown_fields_of_a_newer_minor_version_come_back_bit_for_bit():
    data = changed(v=[1, 3], hints={"b": [1, None], "a": b"x"}, zzz="last", aaa=-1)
    manifest = decode(data)
    assert manifest.minor == 3
    assert [key for key, _ in manifest.extra] == ["aaa", "hints", "zzz"]
    assert encode(manifest) == data


def test_unknown_fields_are_bounded():
    decode(changed(v=[1, 1], w=bytes(limits.MAX_EXTRA_BYTES - 10)))
    with pytest.raises(FormatError, match="unknown fields"):
        decode(changed(v=[1, 1], w=bytes(limits.MAX_EXTRA_BYTES)))


def test_a_dtype_of_a_newer_minor_version_asks_for_an_upgrade():
    data = changed(v=[1, 1], types=[["F2", [4]]])
    with pytest.raises(VersionError, match="F2"):
        decode(data)


@pytest.mark.parametrize(
    "broken",
    [
        replace(BASE, digests=CONFIG),
        replace(BASE, files=BASE.files[::-1]),
        replace(BASE, files=(File("config.json", 3, (Run(0, 3, 9),)), BASE.files[1])),
        replace(BASE, files=(File("config.json", 3, (Run(1, 3, 0),)), BASE.files[1])),
        replace(BASE, kind=Kind.ADAPTER),
        replace(BASE, extra=(("w", b"\x01"),)),
        replace(BASE, minor=1, extra=(("kind", b"\x01"),)),
        replace(BASE, minor=1, extra=(("w", b"\xff\xff"),)),
        replace(BASE, minor=1, extra=(("w", b"\x01"), ("a", b"\x01"))),
        replace(BASE, minor=-1),
        replace(BASE, block_bytes=1),
    ],
    ids=[
        "a digest missing",
        "files out of order",
        "first block wrong",
        "offset wrong",
        "adapter without base",
        "extra without newer minor",
        "extra that is known",
        "extra not canonical",
        "extras out of order",
        "minor negative",
        "block_bytes too small",
    ],
)
def test_a_manifest_that_could_not_be_read_back_is_not_written(broken):
    with pytest.raises(FormatError):
        encode(broken)


def with_tensors(count: int) -> bytes:
    """A manifest of one file with so many empty tensors of one name."""
    tensor = pack(["", 0])
    return changed(files=[["a", 7, [7]]], types=[EMPTY]).replace(
        b"\x93\xa1a\x07\x91\x07", b"\x93\xa1a\x00\xdd" + count.to_bytes(4, "big") + tensor * count
    )


@pytest.mark.parametrize("count", [limits.MAX_RUNS + 1, 10 * limits.MAX_RUNS])
def test_millions_of_tensors_are_refused(count):
    with pytest.raises(FormatError, match=r"too many|more than"):
        decode(with_tensors(count))


def test_memory_is_bounded_by_the_count_of_elements(monkeypatch):
    monkeypatch.setattr(codec, "_MAX_ITEMS", 100_000)
    data = with_tensors(90_000)
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match="too many"):
            decode(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 * len(data) + 100 * codec._MAX_ITEMS


def test_more_runs_and_files_than_allowed_are_refused(monkeypatch):
    monkeypatch.setattr(codec, "MAX_RUNS", 3)
    monkeypatch.setattr(codec, "MAX_FILES", 2)
    decode(with_files(["a", 0, []], ["b", 0, []]))
    with pytest.raises(FormatError, match="at most 2"):
        decode(with_files(["a", 0, []], ["b", 0, []], ["c", 0, []]))
    empty = [[str(number), 0] for number in range(4)]
    decode(with_files(["a", 0, empty[:2]], ["b", 0, empty[:1]], types=[EMPTY]))
    with pytest.raises(FormatError, match="more than 3"):
        decode(with_files(["a", 0, empty[:2]], ["b", 0, empty[:2]], types=[EMPTY]))


def test_an_oversized_manifest_is_refused_before_it_is_read(monkeypatch):
    monkeypatch.setattr(codec, "MAX_MANIFEST_BYTES", len(BASE_VECTOR) - 1)
    with pytest.raises(FormatError, match="at most"):
        decode(BASE_VECTOR)


def test_shapes_of_one_hash_are_told_apart_as_fast_as_any():
    """Catches: hours of work for who decodes a manifest of 13 MB, made so by its publisher.

    Numbers hash to themselves modulo 2^61 - 1, and tuples of them without salt.
    """
    alike = [1 + step * ((1 << 61) - 1) for step in range(8)]
    shapes = [(0, *rest) for rest in islice(product(alike, repeat=6), 6_000)]
    assert len({hash(shape) for shape in shapes}) == 1
    runs = tuple(Run(0, 0, 0, Tensor(str(at), "I8", shape)) for at, shape in enumerate(shapes))
    manifest = Manifest(Kind.PACK, 4096, (File("m", 0, runs),), b"")
    began = time.process_time()
    assert decode(encode(manifest)) == manifest
    assert time.process_time() - began < 5  # else three times that, and quadratic
