"""Have-maps: one encoding for each value, compact, and no bytes that are read as anything else."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icnblocks.errors import FormatError, VersionError
from icnblocks.limits import MAX_BLOCKS, MAX_HAVE_BYTES
from icnblocks.wire.havemap import HEAD_BYTES, HaveMap, decode_have, encode_have

SETTINGS = settings(max_examples=80, deadline=None)

runs = st.lists(st.integers(1, 300), max_size=12).map(
    lambda lengths: b"".join(bytes([at % 2]) * length for at, length in enumerate(lengths))
)
bits = st.lists(st.integers(0, 1), max_size=200).map(bytes)
maps = st.builds(HaveMap, runs | bits, st.booleans())

ALL_HELD_HEX = (
    "49434e48" "01" "00"  # ICNH, version 1.0
    "01" "00"  # runs; does not fetch
    "000088b8"  # 35000 blocks
    "00"  # 0 that are not held,
    "b89102"  # then 35000 = 0x38 + 0x11 << 7 + 0x02 << 14 that are
)  # fmt: skip
MIXED_HEX = (
    "49434e48" "01" "00"  # ICNH, version 1.0
    "00" "01"  # bits; fetches the rest
    "0000000a"  # 10 blocks
    "a680"  # 1010 0110 10 and six zeros
)  # fmt: skip


def test_golden_vectors() -> None:
    """Another implementation reads docs/format.md; the bytes may not change unnoticed."""
    everything = HaveMap(b"\1" * 35_000, fetches=False)
    assert encode_have(everything).hex() == ALL_HELD_HEX
    assert decode_have(bytes.fromhex(ALL_HELD_HEX), 35_000) == everything
    mixed = HaveMap(bytes([1, 0, 1, 0, 0, 1, 1, 0, 1, 0]), fetches=True)
    assert encode_have(mixed).hex() == MIXED_HEX
    assert decode_have(bytes.fromhex(MIXED_HEX), 10) == mixed


@SETTINGS
@given(maps)
def test_a_map_survives_the_wire(have: HaveMap) -> None:
    data = encode_have(have)
    assert decode_have(data, len(have.flags)) == have
    assert len(data) <= HEAD_BYTES + (len(have.flags) + 7) // 8


@SETTINGS
@given(maps, st.integers(0, 400), st.integers(0, 255), st.integers(-1, 1))
def test_any_bytes_are_the_one_encoding_of_a_map_or_an_error(
    have: HaveMap, at: int, byte: int, more: int
) -> None:
    """A second encoding of one value would be a place where two implementations disagree."""
    data = bytearray(encode_have(have))
    data[at % len(data)] = byte
    raw = bytes(data) + b"\0" if more > 0 else bytes(data[: len(data) + more])
    try:
        found = decode_have(raw, len(have.flags))
    except FormatError:
        return
    known = bytearray(raw)
    known[5], known[7] = 0, known[7] & 1  # a newer minor version, flags that it may add
    assert encode_have(found) == bytes(known)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("49434e48" "01" "00" "00" "00" "0000000a" "a681", "more blocks"),
        ("49434e48" "01" "00" "00" "00" "0000000a" "a6", "in 1 bytes"),
        ("49434e48" "01" "00" "00" "00" "00000018" "ffffff", "runs would be shorter"),
        ("49434e48" "01" "00" "01" "00" "0000000a" "0505", "bits would not be longer"),
        ("49434e48" "01" "00" "01" "00" "00000018" "8c00", "malformed"),
        ("49434e48" "01" "00" "01" "00" "00000100" "ffffffff7f", "malformed"),
        ("49434e48" "01" "00" "01" "00" "00000028" "140014", "empty run"),
        ("49434e48" "01" "00" "01" "00" "00000018" "0a80", "cut off"),
        ("49434e48" "01" "00" "01" "00" "00000018" "0a0d", "cover 23 of 24"),
        ("49434e48" "01" "00" "01" "00" "00000018" "0a0f", "more blocks"),
        ("49434e48" "01" "00" "02" "00" "00000000" "", "unknown kind"),
        ("49434e42" "01" "00" "00" "00" "00000000" "", "begins with"),
        ("49434e48" "01" "00", "6 bytes"),
    ],
)  # fmt: skip
def test_what_is_not_a_map_is_refused_with_a_reason(body: str, why: str) -> None:
    raw = bytes.fromhex(body)
    count = int.from_bytes(raw[8:12], "big")
    with pytest.raises(FormatError, match=why):
        decode_have(raw, count)


def test_another_major_version_is_not_guessed_at() -> None:
    with pytest.raises(VersionError):
        decode_have(bytes.fromhex("49434e48" "02" "00" "00" "00" "00000000"), 0)  # fmt: skip


def test_a_map_of_another_manifest_is_refused() -> None:
    """Its indexes would mean other blocks."""
    with pytest.raises(FormatError, match="for a manifest of 9"):
        decode_have(encode_have(HaveMap(b"\1" * 10, fetches=False)), 9)


def test_maps_of_large_models_are_small_and_bounded() -> None:
    random = Random(0)
    scattered = HaveMap(bytes(random.getrandbits(1) for _ in range(35_000)), fetches=False)
    assert len(encode_have(scattered)) == HEAD_BYTES + 4375
    layers = HaveMap((b"\1" * 900 + b"\0" * 300) * 29, fetches=True)
    assert len(encode_have(layers)) < 160
    largest = HaveMap(b"\0\1" * (MAX_BLOCKS // 2), fetches=False)
    data = encode_have(largest)
    assert len(data) <= MAX_HAVE_BYTES
    assert decode_have(data, MAX_BLOCKS) == largest
    with pytest.raises(FormatError, match="at most"):
        HaveMap(bytes(MAX_BLOCKS + 1), fetches=False)


@SETTINGS
@given(maps)
def test_absent_and_held_are_all(have: HaveMap) -> None:
    absent = list(have.absent())
    assert len(absent) + have.held == len(have.flags)
    assert all(not have.flags[at] for at in absent)
