"""Headers of safetensors files: all legal oddities, no lies, and one mind with the library."""

from __future__ import annotations

import json
import tracemalloc

import pytest
import safetensors
from hypothesis import example, given, settings
from hypothesis import strategies as st

from icnblocks.errors import FormatError
from icnblocks.limits import MAX_HEADER_BYTES
from icnblocks.manifest import safetensors_header
from icnblocks.manifest.dtypes import DTYPE_BITS, tensor_bytes
from icnblocks.manifest.model import Tensor
from icnblocks.manifest.safetensors_header import header_bytes, parse_header

SETTINGS = settings(max_examples=200, deadline=None)


def file_of(header: bytes | str | dict[str, object], body: int = 0, length: int | None = None):
    """A file: a header, with its own length unless told otherwise, and a body of zeros."""
    if isinstance(header, dict):
        header = json.dumps(header)
    if isinstance(header, str):
        header = header.encode()
    if length is None:
        length = len(header)
    return length.to_bytes(8, "little") + header + bytes(body)


def entry(dtype: str, shape: list[object], start: object, stop: object, **more: object):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop], **more}


def library(data: bytes) -> dict[str, tuple[str, tuple[int, ...], int]] | None:
    """What the safetensors library says: dtype, shape and bytes by name, or None if it refuses."""
    try:
        found = safetensors.deserialize(data)
    except safetensors.SafetensorError:
        return None
    return {name: (info["dtype"], tuple(info["shape"]), len(info["data"])) for name, info in found}


def check_text(error: FormatError) -> None:
    """What a hostile file makes us say is short, and one line."""
    assert str(error).isprintable()
    assert len(str(error)) < 800


def ours(data: bytes) -> dict[str, tuple[str, tuple[int, ...], int]] | None:
    try:
        header = parse_header(data, len(data))
    except FormatError as error:
        return check_text(error)
    sizes = [tensor_bytes(tensor.dtype, tensor.shape) for tensor in header.tensors]
    assert header.length + sum(sizes) == len(data)
    return {
        tensor.name: (tensor.dtype, tensor.shape, size)
        for tensor, size in zip(header.tensors, sizes, strict=True)
    }


LEGAL = {
    "no tensors": file_of("{}"),
    "only metadata": file_of({"__metadata__": {"format": "pt"}}),
    "metadata of nothing": file_of('{"__metadata__":{}}'),
    "metadata null": file_of('{"__metadata__":null}'),
    "metadata last": file_of({"a": entry("U8", [1], 0, 1), "__metadata__": {"x": "}"}}, 1),
    "metadata large": file_of({"__metadata__": {"ss_tags": "{" * 100_000}}),
    "metadata key twice": file_of('{"__metadata__":{"a":"1","a":"2"}}'),
    "one empty tensor": file_of({"a": entry("F32", [0], 0, 0)}),
    "empty tensors everywhere": file_of(
        {
            "b": entry("U8", [2, 0], 1, 1),
            "x": entry("U8", [0], 0, 0),
            "a": entry("U8", [1], 0, 1),
            "c": entry("I64", [0, 7], 1, 1),
        },
        1,
    ),
    "scalar": file_of({"a": entry("F64", [], 0, 8)}, 8),
    "unsorted": file_of({"b": entry("U8", [2], 1, 3), "a": entry("U8", [1], 0, 1)}, 3),
    "padded with spaces": file_of('{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}   ', 1),
    "space everywhere": file_of(
        ' \t\r\n{ "a" : { "shape" : [ 1 ] , "data_offsets" : [ 0 , 1 ] , "dtype":"U8" } } \n', 1
    ),
    "escapes in names": file_of(
        '{"\\u0061\\n\\ud83d\\ude00":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', 1
    ),
    "empty name": file_of({"": entry("U8", [1], 0, 1)}, 1),
    "name like metadata": file_of({"__metadata": entry("U8", [1], 0, 1)}, 1),
    "name beyond ASCII": file_of('{"é模":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', 1),
    "a field more": file_of({"a": entry("U8", [1], 0, 1, note=[{"x": 1.5e3, "y": None}])}, 1),
    "zero and a huge dimension": file_of({"a": entry("U8", [0, 1 << 60], 0, 0)}),
    "half bytes": file_of({"a": entry("F4", [3, 2], 0, 3)}, 3),
    "six bits": file_of({"a": entry("F6_E3M2", [4], 0, 3)}, 3),
    **{
        dtype: file_of({"a": entry(dtype, [8], 0, bits)}, bits)
        for dtype, bits in DTYPE_BITS.items()
    },
}

TENSOR = '{"dtype":"U8","shape":[1],"data_offsets":[0,1]}'
ILLEGAL = {
    "nothing": (b"", "fewer than 8"),
    "seven bytes": (bytes(7), "fewer than 8"),
    "no JSON": (bytes(8), "no '{'"),
    "cut off": (file_of("{}", length=3), "cut off"),
    "huge length": (file_of("{}", length=(1 << 64) - 1), "at most 100000000"),
    "just too large": (file_of("{}", length=MAX_HEADER_BYTES + 1), "at most 100000000"),
    "not UTF-8": (file_of(b'{"\xff":1}'), "UTF-8"),
    "byte order mark": (file_of(b"\xef\xbb\xbf{}"), "no '{'"),
    "an array": (file_of("[]"), "no '{'"),
    "two values": (file_of("{}{}"), "follows its end"),
    "NUL padding": (file_of("{}\0"), "follows its end"),
    "never closed": (file_of('{"a":' + TENSOR, 1), "no '}'"),
    "comma at the end": (file_of('{"a":' + TENSOR + ",}", 1), "no string"),
    "key without quotes": (file_of("{a:" + TENSOR + "}", 1), "no string"),
    "name never closed": (file_of('{"a'), "broken string"),
    "half a surrogate pair": (file_of('{"\\ud800":' + TENSOR + "}", 1), "broken string"),
    "control character in name": (file_of('{"a\nb":' + TENSOR + "}", 1), "broken string"),
    "tensor is a number": (file_of('{"a":1}'), "not described"),
    "tensor is nothing": (file_of('{"a":}'), "no JSON"),
    "no dtype": (file_of('{"a":{"shape":[1],"data_offsets":[0,1]}}', 1), "not described"),
    "no shape": (file_of('{"a":{"dtype":"U8","data_offsets":[0,1]}}', 1), "not described"),
    "no offsets": (file_of('{"a":{"dtype":"U8","shape":[1]}}', 1), "not described"),
    "dtype unknown": (file_of({"a": entry("Q8", [1], 0, 1)}, 1), "unknown dtype 'Q8'"),
    "dtype is a number": (file_of({"a": entry(8, [1], 0, 1)}, 1), "not described"),
    "field twice": (
        file_of('{"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}}', 1),
        "a field occurs twice",
    ),
    "metadata twice": (
        file_of('{"__metadata__":{},"__metadata__":{}}'),
        "'__metadata__' occurs twice",
    ),
    "metadata of numbers": (file_of({"__metadata__": {"a": 1}}), "no string"),
    "metadata is text": (file_of({"__metadata__": "a"}), "no '{'"),
    "overlap": (
        file_of({"a": entry("U8", [2], 0, 2), "b": entry("U8", [2], 1, 3)}, 3),
        "'b' overlaps",
    ),
    "same place": (
        file_of({"a": entry("U8", [2], 0, 2), "b": entry("U8", [2], 0, 2)}, 2),
        "overlaps",
    ),
    "hole": (file_of({"a": entry("U8", [1], 0, 1), "b": entry("U8", [1], 2, 3)}, 3), "a hole"),
    "hole at the start": (file_of({"a": entry("U8", [1], 1, 2)}, 2), "a hole"),
    "empty tensor in a hole": (file_of({"a": entry("U8", [0], 1, 1)}, 1), "a hole"),
    "trailing bytes": (file_of({"a": entry("U8", [1], 0, 1)}, 2), "its header tells of"),
    "bytes after nothing": (file_of("{}", 1), "its header tells of"),
    "body cut off": (file_of({"a": entry("U8", [9], 0, 9)}, 8), "its header tells of"),
    "backwards": (file_of({"a": entry("U8", [0], 1, 0)}, 1), "no range"),
    "negative offset": (file_of({"a": entry("U8", [2], -1, 1)}, 1), "no range"),
    "minus nought": (
        file_of('{"a":{"dtype":"U8","shape":[1],"data_offsets":[-0,1]}}', 1),
        "no range",
    ),
    "float offset": (file_of({"a": entry("U8", [1], 0.0, 1)}, 1), "not described"),
    "true offset": (file_of({"a": entry("U8", [1], 0, True)}, 1), "no range"),
    "offset of text": (file_of({"a": entry("U8", [1], "0", 1)}, 1), "not described"),
    "three offsets": (
        file_of('{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1,1]}}', 1),
        "not described",
    ),
    "offset beyond 64 bits": (file_of({"a": entry("U8", [1], 0, 1 << 64)}, 1), "has"),
    "offset of a thousand digits": (file_of({"a": entry("U8", [1], 0, 10**999)}, 1), "no range"),
    "NaN": (file_of('{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,NaN]}}', 1), "no JSON"),
    "leading nought": (
        file_of('{"a":{"dtype":"U8","shape":[01],"data_offsets":[0,1]}}', 1),
        "no JSON",
    ),
    "shape lies": (file_of({"a": entry("F32", [2], 0, 4)}, 4), "4 bytes, its shape needs 8"),
    "shape negative": (file_of({"a": entry("U8", [-1, -1], 0, 1)}, 1), "dimension"),
    "shape of floats": (file_of({"a": entry("U8", [1.0], 0, 1)}, 1), "dimension"),
    "shape true": (file_of({"a": entry("U8", [True], 0, 1)}, 1), "dimension"),
    "shape overflows": (file_of({"a": entry("U8", [1 << 63, 2], 0, 0)}), "overflows"),
    "shape overflows before 0": (file_of({"a": entry("U8", [1 << 63, 4, 0], 0, 0)}), "overflows"),
    "dimension beyond 64 bits": (file_of({"a": entry("U8", [0, 1 << 64], 0, 0)}), "dimension"),
    "half a byte over": (file_of({"a": entry("F4", [3], 0, 1)}, 1), "whole bytes"),
    "deep": (file_of('{"a":' + "[" * 5000 + "]" * 5000 + "}"), "no JSON"),
    "very deep": (file_of('{"a":' + '{"a":' * 100_000), "no JSON"),
}


@pytest.mark.parametrize("data", LEGAL.values(), ids=LEGAL)
def test_legal_oddities_are_read_as_the_library_reads_them(data):
    found = ours(data)
    assert found is not None
    assert found == library(data)


@pytest.mark.parametrize(("data", "says"), ILLEGAL.values(), ids=ILLEGAL)
def test_what_the_library_refuses_is_refused_and_named(data, says):
    with pytest.raises(FormatError, match=says):
        parse_header(data, len(data))
    assert library(data) is None
    assert ours(data) is None


STRICTER = {
    # Readers of JSON disagree on which of the two counts, so nobody may be shown either.
    "tensor twice": (file_of(f'{{"a":{TENSOR},"a":{TENSOR}}}', 1), "'a' occurs twice"),
    # Spellings that the library's JSON reader happens to take and its format does not describe.
    "tensor as an array": (file_of('{"a":["U8",[1],[0,1]]}', 1), "not described"),
    "dtype as a map": (
        file_of('{"a":{"dtype":{"U8":null},"shape":[1],"data_offsets":[0,1]}}', 1),
        "not described",
    ),
    # Our own bounds (icnblocks.limits).
    "long name": (file_of({"n" * 1025: entry("U8", [1], 0, 1)}, 1), "tensor name"),
    "many dimensions": (file_of({"a": entry("U8", [1] * 33, 0, 1)}, 1), "dimensions"),
    "long entry": (file_of({"a": entry("U8", [1], 0, 1, note="x" * 9000)}, 1), "8192 characters"),
}


@pytest.mark.parametrize(("data", "says"), STRICTER.values(), ids=STRICTER)
def test_the_documented_exceptions_are_refused_though_the_library_takes_them(data, says):
    assert library(data) is not None
    with pytest.raises(FormatError, match=says):
        parse_header(data, len(data))


def test_tensors_come_in_the_order_of_their_bytes():
    data = file_of(
        {
            "z": entry("U8", [1], 0, 1),
            "y": entry("U8", [0], 1, 1),
            "b": entry("U8", [2], 1, 3),
            "x": entry("U8", [0], 1, 1),
        },
        3,
    )
    header = parse_header(data[:-3], len(data))
    assert [tensor.name for tensor in header.tensors] == ["z", "x", "y", "b"]
    assert header.tensors[0] == Tensor("z", "U8", (1,))
    assert header.length == len(data) - 3 == header_bytes(data[:8], len(data))


def test_less_than_the_header_is_refused():
    data = LEGAL["scalar"]
    with pytest.raises(FormatError, match="bytes, not 20"):
        parse_header(data[:20], len(data))
    with pytest.raises(FormatError, match="fewer than 8"):
        header_bytes(data[:7], len(data))


@pytest.mark.slow
def test_a_header_of_many_tiny_values_takes_no_multiple_of_its_size():
    inner = '{"dtype":"U8","shape":[' + "[]," * 1_000_000
    data = file_of('{"a":' + inner)
    many = file_of('{"__metadata__":{' + '"":"",' * 300_000)
    for bad in (data, many):
        tracemalloc.start()
        try:
            with pytest.raises(FormatError):
                parse_header(bad, len(bad))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 3 * len(bad)


def test_more_tensors_than_a_manifest_may_hold_are_refused_while_reading(monkeypatch):
    monkeypatch.setattr(safetensors_header, "MAX_RUNS", 2)
    tensors = {name: entry("U8", [0], 0, 0) for name in "abc"}
    data = file_of({name: tensors[name] for name in "ab"})
    assert len(parse_header(data, len(data)).tensors) == 2
    data = file_of(tensors)
    with pytest.raises(FormatError, match="more than 2 tensors"):
        parse_header(data, len(data))


names = st.text(st.characters(codec="utf-8"), max_size=6) | st.sampled_from(["a", "b", "w.0"])
small = st.tuples(st.sampled_from(sorted(DTYPE_BITS)), st.lists(st.integers(0, 4), max_size=3)).map(
    lambda pair: (pair[0], [4 * size for size in pair[1]])
)
noise = st.sampled_from([0, 1, -1, 2.0, 1e30, True, None, "0", [], {}, 1 << 63, 1 << 64, 8])


@st.composite
def files(draw):
    """A legal file, and then perhaps one thing or another wrong with it."""
    described, at = [], 0
    for name in draw(st.lists(names, max_size=4, unique=True)):
        dtype, shape = draw(small)
        bits = DTYPE_BITS[dtype]
        for size in shape:
            bits *= size
        described.append((name, entry(dtype, shape, at, at + bits // 8)))
        at += bits // 8
    described = draw(st.permutations(described))
    if draw(st.booleans()):
        metadata = draw(st.none() | st.dictionaries(names, names, max_size=3) | noise)
        described.insert(0, ("__metadata__", metadata))
    what = draw(st.sampled_from(["right", "offset", "shape", "field", "byte", "size", "length"]))
    tensors = [item for name, item in described if name != "__metadata__"]
    if tensors and what in {"offset", "shape", "field"}:
        item = draw(st.sampled_from(tensors))
        if what == "offset":
            item["data_offsets"][draw(st.integers(0, 1))] = draw(st.integers(0, at + 2) | noise)
        elif what == "shape":
            item["shape"].append(draw(noise))
        else:
            item[draw(st.sampled_from(["dtype", "shape", "data_offsets", "more"]))] = draw(noise)
    separators = draw(st.sampled_from([(",", ":"), (" , ", ": "), (",\n\t", " :")]))
    text = json.dumps(
        dict(described), separators=separators, ensure_ascii=draw(st.booleans())
    ).encode() + b" " * draw(st.integers(0, 9))
    if what == "byte":
        position = draw(st.integers(0, len(text) - 1))
        text = text[:position] + draw(st.binary(max_size=2)) + text[position + 1 :]
    if what == "size":
        at = max(0, at + draw(st.integers(-2, 2)))
    length = len(text) + (draw(st.integers(-2, 2)) if what == "length" else 0)
    return file_of(text, at, max(0, length))


@SETTINGS
@example(file_of('{"a":{"dtype":"U8","shape":[1e0],"data_offsets":[0,1]}}', 1))
@given(files())
def test_we_accept_what_the_library_accepts_and_nothing_else(data):
    assert ours(data) == library(data)


@SETTINGS
@given(st.binary(max_size=80) | st.binary(max_size=60).map(file_of) | st.text().map(file_of))
def test_any_bytes_are_a_header_or_a_format_error(data):
    found = ours(data)
    assert found is None or found == library(data)
