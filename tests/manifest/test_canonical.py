"""Canonical msgpack: one encoding a value, and nothing that bytes claim is believed."""

from __future__ import annotations

import tracemalloc

import msgpack
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from icnblocks.errors import FormatError
from icnblocks.manifest.canonical import MAX_DEPTH, pack, unpack

SETTINGS = settings(max_examples=150, deadline=None)
BOUND = 1 << 20

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.text(max_size=40)
    | st.binary(max_size=300),
    lambda inner: (
        st.lists(inner, max_size=20).map(tuple)
        | st.dictionaries(st.text(max_size=8), inner, max_size=20)
    ),
    max_leaves=30,
)

VECTORS = [
    (None, "c0"),
    (False, "c2"),
    (True, "c3"),
    (0, "00"),
    (127, "7f"),
    (128, "cc 80"),  # the first that needs a byte after its tag
    (255, "cc ff"),
    (256, "cd 0100"),
    (65_535, "cd ffff"),
    (65_536, "ce 00010000"),
    ((1 << 32) - 1, "ce ffffffff"),
    (1 << 32, "cf 0000000100000000"),
    ((1 << 64) - 1, "cf ffffffffffffffff"),
    (-1, "ff"),
    (-32, "e0"),
    (-33, "d0 df"),
    (-128, "d0 80"),
    (-129, "d1 ff7f"),
    (-32_768, "d1 8000"),
    (-32_769, "d2 ffff7fff"),
    (-(1 << 31), "d2 80000000"),
    (-(1 << 31) - 1, "d3 ffffffff7fffffff"),
    (-(1 << 63), "d3 8000000000000000"),
    ("", "a0"),
    ("é", "a2 c3a9"),
    ("a" * 31, "bf" + "61" * 31),
    ("a" * 32, "d9 20" + "61" * 32),
    ("a" * 256, "da 0100" + "61" * 256),
    (b"", "c4 00"),
    (b"\0" * 256, "c5 0100" + "00" * 256),
    (b"\0" * 65_536, "c6 00010000" + "00" * 65_536),
    ((), "90"),
    ((1, (2,)), "92 01 91 02"),
    ((0,) * 16, "dc 0010" + "00" * 16),
    ({}, "80"),
    # Keys by their UTF-8 bytes: "B" (42) before "a" (61), a prefix before what it begins.
    ({"a": 1, "B": 2, "aa": 3}, "83 a1 42 02 a1 61 01 a2 6161 03"),
]

NOT_CANONICAL = [
    ("", "ends too early"),
    ("cc 7f", "longer"),  # 127 in two bytes
    ("cd 00ff", "longer"),
    ("ce 0000ffff", "longer"),
    ("cf 00000000ffffffff", "longer"),
    ("d0 00", "longer"),
    ("d0 e0", "longer"),  # -32 in two bytes
    ("d1 ff80", "longer"),
    ("d3 0000000000000001", "longer"),  # a positive number as a signed one
    ("d9 01 61", "longer"),
    ("da 00ff" + "61" * 255, "longer"),
    ("c5 0001 00", "longer"),
    ("c6 00000001 00", "longer"),
    ("dc 0001 00", "longer"),
    ("dd 00000001 00", "longer"),
    ("de 0001 a161 00", "longer"),
    ("ca 00000000", "not allowed"),  # float 32
    ("cb 0000000000000000", "not allowed"),  # float 64
    ("c1", "not allowed"),  # never used
    ("d4 01 00", "not allowed"),  # ext
    ("c7 00 01", "not allowed"),
    ("82 a161 00 a161 00", "out of order, or twice"),
    ("82 a162 00 a161 00", "out of order, or twice"),
    ("81 01 00", "not a string"),
    ("81 c4 01 61 00", "not a string"),
    ("81 90 00", "too deep"),  # a key that holds something
    ("a1 ff", "UTF-8"),
    ("a3 eda080", "UTF-8"),  # half a surrogate pair
    ("a2 c080", "UTF-8"),  # an overlong NUL
    ("92 00", "ends too early"),
    ("81 a161", "ends too early"),
    ("a2 61", "ends too early"),
    ("cd 01", "ends too early"),
    ("d1 ff", "ends too early"),
    ("c4 02 00", "ends too early"),
    ("00 00", "1 bytes follow"),
]


@pytest.mark.parametrize(("value", "encoded"), VECTORS)
def test_golden_vectors(value, encoded):
    data = bytes.fromhex(encoded)
    assert pack(value) == data
    assert unpack(data, max_bytes=BOUND) == value


@pytest.mark.parametrize(("encoded", "says"), NOT_CANONICAL)
def test_a_second_encoding_of_a_value_is_refused(encoded, says):
    with pytest.raises(FormatError, match=says):
        unpack(bytes.fromhex(encoded), max_bytes=BOUND)


@SETTINGS
@given(values)
def test_what_is_packed_comes_back(value):
    assert unpack(pack(value), max_bytes=BOUND) == value


@SETTINGS
@given(values)
def test_a_general_reader_of_msgpack_agrees(value):
    assert msgpack.unpackb(pack(value), use_list=False) == value


@SETTINGS
@example(b"\xdd\xff\xff\xff\xff" * 100)
@example(b"\x91" * 1000)
@given(st.binary(max_size=200) | values.map(pack))
def test_any_bytes_are_a_canonical_value_or_a_format_error(data):
    try:
        value = unpack(data, max_bytes=BOUND)
    except FormatError:
        return
    assert pack(value) == data


@SETTINGS
@given(values.map(pack), st.data())
def test_a_changed_byte_never_gives_a_second_encoding(data, draw):
    position = draw.draw(st.integers(0, len(data) - 1))
    changed = bytearray(data)
    changed[position] = draw.draw(st.integers(0, 255))
    try:
        value = unpack(changed, max_bytes=BOUND)
    except FormatError:
        return
    assert pack(value) == changed


@pytest.mark.parametrize(
    "bomb",
    [
        b"\xdd\x00\x0f\xff\xff" * 200_000,  # arrays of a million, each inside the last
        b"\xdf\x00\x07\xff\xff" * 200_000,
        b"\xc6\xff\xff\xff\xff" + b"\0" * 1000,
        b"\x91" * 1_000_000,
        b"\xdd\x00\x0f\x42\x40" + b"\x90" * 1_000_000,
        b"\xdd\x00\x0f\x42\x40" + b"\x80" * 1_000_000,
    ],
    ids=["arrays", "maps", "bytes", "depth", "empty arrays", "empty maps"],
)
def test_a_bomb_is_refused_before_memory_is_given_to_it(bomb):
    tracemalloc.start()
    try:
        with pytest.raises(FormatError):
            unpack(bomb, max_bytes=len(bomb))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4_000_000


def test_depth_is_bounded_to_the_level():
    unpack(b"\x91" * MAX_DEPTH + b"\x00", max_bytes=BOUND)
    with pytest.raises(FormatError, match="too deep"):
        unpack(b"\x91" * (MAX_DEPTH + 1) + b"\x00", max_bytes=BOUND)


def test_elements_are_counted_over_all_arrays_and_maps():
    data = pack([[1, 2], {"a": 3}])
    assert unpack(data, max_bytes=BOUND, max_items=6)
    with pytest.raises(FormatError, match="too many"):
        unpack(data, max_bytes=BOUND, max_items=5)


def test_size_is_bounded_before_anything_is_read():
    with pytest.raises(FormatError, match="at most 3"):
        unpack(b"\x93\x01\x02\x03", max_bytes=3)


@pytest.mark.parametrize(
    "value",
    [1.0, {1: 2}, {b"a": 1}, object(), 1 << 64, -(1 << 63) - 1, "\ud800", [[1.5]], {"a": {2}}],
    ids=["float", "int key", "bytes key", "object", "large", "small", "surrogate", "deep", "set"],
)
def test_values_outside_the_subset_cannot_be_packed(value):
    with pytest.raises(FormatError, match="cannot be encoded"):
        pack(value)


def test_endless_nesting_cannot_be_packed():
    loop = []
    loop.append(loop)
    with pytest.raises(FormatError, match="cannot be encoded"):
        pack(loop)


def test_views_are_read_like_bytes():
    assert unpack(memoryview(b"\x91\x01"), max_bytes=BOUND) == (1,)
    assert unpack(bytearray(b"\xc4\x01a"), max_bytes=BOUND) == b"a"
