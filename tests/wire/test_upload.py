"""Uploads in parts: any cutting, any order, bounded memory."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icnblocks.errors import BusyError, FormatError
from icnblocks.limits import MAX_BLOCK_BYTES, MAX_REQUEST_BYTES, MIB
from icnblocks.naming import Digest
from icnblocks.wire.upload import PART_HEADER_BYTES, Part, Parts, pack_parts, unpack_parts

ZERO = Digest(bytes(32))
SETTINGS = settings(max_examples=80, deadline=None)


def named(blocks: list[bytes]) -> list[tuple[Digest, bytes]]:
    return [(Digest.of(block), block) for block in blocks]


def part(total: int, offset: int, data: bytes, digest: Digest = ZERO) -> Part:
    return Part(digest, total, offset, memoryview(data))


@SETTINGS
@given(
    st.data(),
    st.lists(st.binary(min_size=1, max_size=400), unique=True, max_size=8),
    st.integers(PART_HEADER_BYTES + 1, 300),
)
def test_blocks_survive_any_body_size_and_order(data, blocks: list[bytes], size: int) -> None:
    bodies = list(pack_parts(named(blocks), body_bytes=size))
    assert all(0 < len(body) <= size for body in bodies)
    parts, whole = Parts(), {}
    for body in data.draw(st.permutations(bodies)):
        for piece in unpack_parts(body):
            block = parts.add(piece, 0.0)
            if block is not None:
                whole[piece.digest] = bytes(block)
    assert whole == dict(named(blocks))
    assert parts.held_bytes == len(parts) == 0


def test_a_block_of_a_mebibyte_takes_two_bodies() -> None:
    """A stock nginx refuses a body of more than 1 MiB, header included."""
    bodies = list(pack_parts(named([bytes(MIB)])))
    assert [len(body) for body in bodies] == [
        MAX_REQUEST_BYTES, MIB + 2 * PART_HEADER_BYTES - MAX_REQUEST_BYTES
    ]  # fmt: skip


def test_golden_vector() -> None:
    [body] = pack_parts([(Digest.of(b"hello"), b"hello")])
    assert body.hex() == (
        "ea8f163db38682925e4491c5e58d4bb3506ef8c14eb78a86e908c5624a67200f"  # digest
        "00000005" "00000000" "00000005"  # total, offset, length
        "68656c6c6f"  # "hello"
    )  # fmt: skip


@SETTINGS
@given(st.binary(max_size=300))
def test_any_bytes_are_parts_or_a_format_error(body: bytes) -> None:
    try:
        list(unpack_parts(body))
    except FormatError:
        pass


@pytest.mark.parametrize(
    ("total", "offset", "length", "data"),
    [
        (0, 0, 0, b""),
        (MAX_BLOCK_BYTES + 1, 0, 1, b"x"),
        (5, 0, 0, b""),
        (5, 0, 6, b"123456"),
        (5, 5, 1, b"1"),
        (5, 2**32 - 1, 2, b"12"),
        (5, 0, 5, b"1234"),
    ],
)
def test_lying_parts_are_refused(total: int, offset: int, length: int, data: bytes) -> None:
    body = struct.pack(">32sIII", bytes(32), total, offset, length) + data
    with pytest.raises(FormatError):
        list(unpack_parts(body))


def test_a_body_over_the_bound_is_refused() -> None:
    with pytest.raises(FormatError):
        list(unpack_parts(bytes(MAX_REQUEST_BYTES + 1)))


def test_repeated_and_overlapping_parts_count_once() -> None:
    """A retried request must neither fail nor complete a block that has a hole."""
    parts = Parts()
    assert parts.add(part(6, 0, b"abcd"), 0) is None
    assert parts.add(part(6, 0, b"abcd"), 0) is None
    assert parts.add(part(6, 2, b"cd"), 0) is None
    whole = parts.add(part(6, 3, b"def"), 0)
    assert whole is not None
    assert bytes(whole) == b"abcdef"


def test_another_total_is_refused_and_what_came_is_kept() -> None:
    parts = Parts()
    parts.add(part(6, 0, b"abc"), 0)
    with pytest.raises(FormatError):
        parts.add(part(7, 3, b"def"), 0)
    assert parts.add(part(6, 3, b"def"), 0) is not None


def test_memory_is_bounded_and_freed_after_the_expiry() -> None:
    parts = Parts(most_bytes=10, expire_s=60)
    parts.add(part(6, 0, b"a", Digest(b"1" * 32)), 0)
    with pytest.raises(BusyError):
        parts.add(part(6, 0, b"a", Digest(b"2" * 32)), 60)
    assert parts.held_bytes == 6
    parts.add(part(6, 0, b"a", Digest(b"2" * 32)), 60.1)
    assert (parts.held_bytes, len(parts)) == (6, 1)


def test_a_block_in_too_many_pieces_is_refused() -> None:
    """The list of gaps is memory too."""
    parts = Parts()
    offsets = iter(range(0, 1000, 2))
    with pytest.raises(FormatError, match="pieces"):
        all(parts.add(part(1000, offset, b"x"), 0) is None for offset in offsets)
    assert parts.held_bytes == 0


def test_parts_that_are_refused_do_not_keep_a_block_from_being_forgotten() -> None:
    """Catches: a false length that goes on barring a block as long as others are uploaded."""
    parts, other = Parts(), Digest(b"o" * 32)
    parts.add(part(9, 0, b"a"), 0.0)
    for now in range(60, 601, 60):
        parts.add(part(900, now, b"b", other), float(now))
        with pytest.raises(FormatError, match="begun with 9"):
            parts.add(part(8, 0, b"a"), float(now))
    assert parts.add(part(8, 0, b"a"), 601.0) is None
    assert parts.held_bytes == 900 + 8
