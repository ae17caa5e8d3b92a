"""Bundle requests, packed wants and missing-set answers."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icnblocks.errors import FormatError, VersionError
from icnblocks.limits import MAX_BLOCK_BYTES, MAX_BUNDLE_BYTES, MAX_WANTS
from icnblocks.manifest.canonical import pack, unpack
from icnblocks.naming import Digest, Name
from icnblocks.wire.bundle import (
    BundleRequest,
    Order,
    Want,
    decode_request,
    encode_request,
    pack_indexes,
    pack_wants,
    unpack_indexes,
    unpack_wants,
)

SETTINGS = settings(max_examples=60, deadline=None)

digests = st.binary(min_size=32, max_size=32).map(Digest)
wants = st.builds(Want, digests, st.integers(1, MAX_BLOCK_BYTES))
names = st.sampled_from([None, Name("acme", "minilm"), Name("a.b", "c-d", "v1")])
requests = st.builds(
    BundleRequest,
    st.lists(wants, min_size=1, max_size=20, unique_by=lambda want: want.digest).map(tuple),
    name=names,
    manifest=st.none() | digests,
    pull=st.binary(min_size=16, max_size=16),
    hops=st.integers(0, 255),
    order=st.sampled_from(Order),
    priority=st.integers(0, 7),
)

VECTOR = BundleRequest(
    wants=(Want(Digest.of(b"hello"), 5),),
    name=Name("acme", "minilm"),
    manifest=Digest.of(b""),
    pull=bytes(range(16)),
    hops=1,
)
VECTOR_HEX = (
    "86"  # map of 6, keys in order of their bytes
    "a4686f7073" "01"  # hops: 1
    "a86d616e6966657374"  # manifest: bin 32
    "c420af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
    "a46e616d65" "ab61636d652f6d696e696c6d"  # name: acme/minilm
    "a470756c6c" "c410000102030405060708090a0b0c0d0e0f"  # pull: bin 16
    "a176" "920100"  # v: [1, 0]
    "a577616e7473" "c424"  # wants: bin 36 = one digest and the length 5
    "ea8f163db38682925e4491c5e58d4bb3506ef8c14eb78a86e908c5624a67200f" "00000005"
)  # fmt: skip


@SETTINGS
@given(requests)
def test_a_request_survives_the_wire(request: BundleRequest) -> None:
    assert decode_request(encode_request(request)) == request


def test_golden_vector() -> None:
    """Another implementation reads docs/format.md; the bytes may not change unnoticed."""
    assert encode_request(VECTOR).hex() == VECTOR_HEX
    assert decode_request(bytes.fromhex(VECTOR_HEX)) == VECTOR


ORDERED_HEX = (
    "88"  # map of 8
    "a4686f7073" "00"  # hops: 0
    "a86d616e6966657374" "c0"  # manifest: nil
    "a46e616d65" "a0"  # name: none
    "a56f72646572" "a66c6973746564"  # order: listed
    "a87072696f72697479" "07"  # priority: 7
    "a470756c6c" "c41000000000000000000000000000000000"  # pull: none
    "a176" "920101"  # v: [1, 1]
    "a577616e7473" "c424"  # wants: bin 36
    "ea8f163db38682925e4491c5e58d4bb3506ef8c14eb78a86e908c5624a67200f" "00000005"
)  # fmt: skip


def test_golden_vector_with_order_and_priority() -> None:
    request = BundleRequest((Want(Digest.of(b"hello"), 5),), order=Order.LISTED, priority=7)
    assert encode_request(request).hex() == ORDERED_HEX


DOUBTING_HEX = (
    "87"  # map of 7
    "a5646f756274" "c3"  # doubt: true
    "a4686f7073" "00"  # hops: 0
    "a86d616e6966657374" "c0"  # manifest: nil
    "a46e616d65" "a0"  # name: none
    "a470756c6c" "c41000000000000000000000000000000000"  # pull: none
    "a176" "920102"  # v: [1, 2]
    "a577616e7473" "c424"  # wants: bin 36
    "ea8f163db38682925e4491c5e58d4bb3506ef8c14eb78a86e908c5624a67200f" "00000005"
)  # fmt: skip


def test_golden_vector_with_doubt() -> None:
    request = BundleRequest((Want(Digest.of(b"hello"), 5),), doubt=True)
    assert encode_request(request).hex() == DOUBTING_HEX
    assert decode_request(bytes.fromhex(DOUBTING_HEX)).doubt


@pytest.mark.parametrize("doubt", [1, None, "yes"])
def test_a_doubt_is_true_or_false(doubt: object) -> None:
    with pytest.raises(FormatError, match="doubt"):
        decode_request(_fields(v=[1, 2], doubt=doubt))


@SETTINGS
@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_a_format_error(data: bytes) -> None:
    try:
        decode_request(data)
    except FormatError:
        pass


@SETTINGS
@given(requests, st.integers(0, 400), st.integers(0, 255))
def test_a_changed_byte_is_a_request_or_a_format_error(request, at: int, byte: int) -> None:
    data = bytearray(encode_request(request))
    data[at % len(data)] = byte
    try:
        decode_request(bytes(data))
    except FormatError:
        pass


def _fields(**changed: object) -> bytes:
    value = unpack(encode_request(VECTOR), max_bytes=MAX_BUNDLE_BYTES)
    assert isinstance(value, dict)
    fields = {**value, **changed}
    return pack({key: field for key, field in fields.items() if field is not ...})  # type: ignore[arg-type]


ONE = pack_wants(VECTOR.wants)


@pytest.mark.parametrize(
    "changed",
    [
        {"wants": b""},
        {"wants": ONE + ONE},
        {"wants": ONE[:-1]},
        {"wants": ONE[:-4] + bytes(4)},
        {"wants": ONE[:-4] + (MAX_BLOCK_BYTES + 1).to_bytes(4, "big")},
        {"wants": b"".join(i.to_bytes(32, "big") + ONE[-4:] for i in range(MAX_WANTS + 1))},
        {"wants": "x"},
        {"wants": ...},
        {"pull": b"short"},
        {"hops": -1},
        {"hops": 256},
        {"hops": True},
        {"name": "../etc"},
        {"name": None},
        {"manifest": b"short"},
        {"v": [1]},
        {"v": ...},
        {"v": 1},
        {"v": [True, 0]},
        {"order": 1},
        {"order": b"listed"},
        {"priority": 8},
        {"priority": -1},
        {"priority": True},
        {"priority": "7"},
    ],
)
def test_fields_out_of_bounds_are_refused(changed: dict[str, object]) -> None:
    with pytest.raises(FormatError):
        decode_request(_fields(**changed))


def test_a_newer_major_is_refused_and_a_newer_minor_is_read() -> None:
    with pytest.raises(VersionError):
        decode_request(_fields(v=[2, 0]))
    assert decode_request(_fields(v=[1, 7], zzz="new")) == VECTOR


def test_a_full_bundle_fits_its_bound_and_its_count_field() -> None:
    """MAX_BUNDLE_BYTES too small would make the largest bundle impossible."""
    full = BundleRequest(
        tuple(Want(Digest(i.to_bytes(32, "big")), 1) for i in range(MAX_WANTS)),
        name=Name("p" * 96, "m" * 96, "t" * 96),
        manifest=Digest(bytes(32)),
    )
    assert decode_request(encode_request(full)) == full


@SETTINGS
@given(st.lists(st.integers(0, 99), unique=True).map(sorted))
def test_missing_indexes_survive_the_wire(indexes: list[int]) -> None:
    assert unpack_indexes(pack_indexes(indexes), 100) == indexes


@pytest.mark.parametrize("data", [b"abc", pack_indexes([2, 1]), pack_indexes([1, 1]),
                                  pack_indexes([100]), pack_indexes(range(101))])  # fmt: skip
def test_lying_missing_indexes_are_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        unpack_indexes(data, 100)


def test_packed_wants_are_bounded() -> None:
    assert unpack_wants(ONE * 3, most=3) == VECTOR.wants * 3
    with pytest.raises(FormatError):
        unpack_wants(ONE * 4, most=3)


def test_a_daemon_that_knows_neither_order_nor_priority_passes_over_them() -> None:
    """It reads the fields that version 1.0 has, whatever else there is, as it does here."""
    asked = BundleRequest(VECTOR.wants, order=Order.LISTED, priority=0)
    value = unpack(encode_request(asked), max_bytes=MAX_BUNDLE_BYTES)
    assert isinstance(value, dict)
    assert value.keys() - {"v", "name", "manifest", "pull", "hops", "wants"} == {
        "order", "priority",
    }  # fmt: skip
    assert decode_request(_fields(v=[1, 9], colour="blue", shape=[1, 2])) == VECTOR


def test_an_order_of_a_newer_version_is_none_that_is_known() -> None:
    assert decode_request(_fields(v=[1, 7], order="spiral")).order is Order.ANY


def test_a_request_that_asks_for_nothing_new_says_the_first_version() -> None:
    """So that its bytes, and what caches make of them, stay as they were."""
    assert b"order" not in encode_request(VECTOR)
    assert b"priority" not in encode_request(VECTOR)
