"""Digests: a type of their own that prints what b3sum prints."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icnblocks.errors import FormatError
from icnblocks.naming import Digest, Hasher

# From the BLAKE3 reference test vectors (inputs of bytes 0, 1, ... 250, 0, 1, ...).
EMPTY = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
ONE = "2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213"


def test_golden_vectors():
    assert str(Digest.of(b"")) == EMPTY
    assert str(Digest.of(b"\0")) == ONE


def test_a_digest_is_its_bytes_as_a_key():
    digest = Digest.parse(ONE)
    assert digest == bytes.fromhex(ONE)
    assert {digest: 1}[bytes(digest)] == 1
    assert ONE not in repr(digest)  # short enough for logs
    assert not hasattr(digest, "__dict__")


@pytest.mark.parametrize(
    "text",
    [
        "",
        ONE[:-1],
        ONE + "0",
        ONE.upper(),
        " " + ONE[1:],
        ONE[:-1] + "\n",
        "١" * 64,
        "0x" + ONE[2:],
    ],
)
def test_anything_but_64_hex_digits_is_refused(text):
    with pytest.raises(FormatError):
        Digest.parse(text)


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_another_length_is_refused(length):
    with pytest.raises(FormatError, match="32 bytes"):
        Digest(bytes(length))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=2000), max_size=5))
def test_pieces_have_the_digest_of_the_whole(pieces):
    hasher = Hasher()
    for piece in pieces:
        hasher.update(memoryview(piece))
    assert hasher.digest() == Digest.of(b"".join(pieces))
    assert Digest.parse(str(hasher.digest())) == hasher.digest()
