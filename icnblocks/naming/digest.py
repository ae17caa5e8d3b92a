"""The digest of bytes as a type of its own: BLAKE3-256, printed as `b3sum` prints it.

It must not read files: callers hand it bytes.
"""

from __future__ import annotations

from typing import Final, Self, TypeAlias

from blake3 import blake3

from icnblocks.errors import FormatError

Buffer: TypeAlias = bytes | bytearray | memoryview

DIGEST_BYTES: Final = 32
_HEX = frozenset("0123456789abcdef")


class Digest(bytes):
    """32 bytes of BLAKE3-256 (https://github.com/BLAKE3-team/BLAKE3-specs).

    A subclass of bytes without a dict, so that a million of them cost what a million `bytes`
    cost and hash as fast; `str()` gives 64 hex digits.

    Raises:
        FormatError: if it is not made of exactly 32 bytes.
    """

    __slots__ = ()

    def __new__(cls, raw: Buffer) -> Self:
        """Check the length and take the bytes."""
        if len(raw) != DIGEST_BYTES:
            raise FormatError(f"a digest has {DIGEST_BYTES} bytes, not {len(raw)}")
        return bytes.__new__(cls, raw)  # every block passes here, and super() is slower

    @classmethod
    def of(cls, data: Buffer) -> Self:
        """The digest of `data`, on this thread (it releases the GIL for large data)."""
        return cls(blake3(data).digest())

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read 64 lower-case hex digits.

        Raises:
            FormatError: for anything else.
        """
        if len(text) != 2 * DIGEST_BYTES or not _HEX.issuperset(text):
            raise FormatError(f"not a digest of 64 hex digits: {text[:80]!r}")
        return cls(bytes.fromhex(text))

    def __str__(self) -> str:
        return self.hex()

    def __repr__(self) -> str:
        return f"Digest({self.hex()[:16]}…)"


class Hasher:
    """Digest of bytes that come in pieces."""

    __slots__ = ("_state",)

    def __init__(self) -> None:
        self._state = blake3()

    def update(self, data: Buffer) -> None:
        """Take the next piece."""
        self._state.update(data)

    def digest(self) -> Digest:
        """The digest of all pieces so far."""
        return Digest(self._state.digest())
