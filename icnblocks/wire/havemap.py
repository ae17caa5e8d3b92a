"""Have-maps: which of a manifest's blocks somebody holds, and whether it would fetch the rest.

A head of 12 bytes, then bits or run-lengths, whichever is shorter: a model of 35,000 blocks takes
at most 4,387 bytes, and a dozen when it is all there. docs/format.md has it to the byte. There is
one encoding for each value. Sans-IO: this module must not know what the blocks are.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from icnblocks.errors import FormatError, VersionError
from icnblocks.limits import MAX_BLOCKS, MAX_HAVE_BYTES
from icnblocks.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator

MAGIC: Final = b"ICNH"
MAJOR: Final = 1
MINOR: Final = 0
_HEAD = struct.Struct(">4sBBBBI")
HEAD_BYTES: Final = _HEAD.size
_FETCHES: Final = 1
_BITS, _RUNS = 0, 1
_TO_TEXT: Final = bytes.maketrans(b"\0\1", b"01")
_TO_FLAGS: Final = bytes.maketrans(b"01", b"\0\1")
_MAX_VARINT: Final = 4
"""Bytes of a run's length: 28 bits are more than MAX_BLOCKS needs."""


@dataclass(frozen=True, slots=True)
class HaveMap:
    """What somebody holds of a manifest.

    Attributes:
        flags: a byte for each distinct block, in order of its first place in the manifest: 1 if
            it is held, else 0. At most MAX_BLOCKS.
        fetches: whoever says this would fetch the other blocks when asked for them.

    Raises:
        FormatError: if there are too many flags, or one is neither 0 nor 1.
    """

    flags: bytes
    fetches: bool

    def __post_init__(self) -> None:
        if len(self.flags) > MAX_BLOCKS:
            raise FormatError(f"a have-map of {len(self.flags)} blocks; at most {MAX_BLOCKS}")
        if self.flags.count(0) + self.flags.count(1) != len(self.flags):
            raise FormatError("a flag of a have-map is 0 or 1")

    @property
    def held(self) -> int:
        """How many blocks are held."""
        return self.flags.count(1)

    def absent(self) -> Iterator[int]:
        """Indexes of the blocks that are not held, ascending."""
        at = self.flags.find(0)
        while at >= 0:
            yield at
            at = self.flags.find(0, at + 1)


def encode_have(have: HaveMap) -> bytes:
    """The answer to `GET /v1/manifests/HEX/have`."""
    bits = _pack_bits(have.flags)
    runs = _pack_runs(have.flags, len(bits))
    kind, body = (_BITS, bits) if runs is None else (_RUNS, runs)
    flags = _FETCHES if have.fetches else 0
    return _HEAD.pack(MAGIC, MAJOR, MINOR, kind, flags, len(have.flags)) + body


def decode_have(data: bytes, count: int) -> HaveMap:
    """Read a have-map of `count` blocks.

    Raises:
        VersionError: if its major version is another.
        FormatError: if it is not the have-map of so many blocks, in its one encoding.
    """
    if len(data) > MAX_HAVE_BYTES or len(data) < HEAD_BYTES:
        raise FormatError(f"not a have-map: {len(data)} bytes")
    magic, major, _, kind, flags, told = _HEAD.unpack_from(data)
    if magic != MAGIC:
        raise FormatError(f"not a have-map: it begins with {magic!r}")
    if major != MAJOR:
        raise VersionError(f"a have-map of version {major}; this program speaks {MAJOR}")
    if told != count or count > MAX_BLOCKS:
        raise FormatError(f"a have-map of {told} blocks, for a manifest of {count}")
    body = data[HEAD_BYTES:]
    if kind == _BITS:
        held = _unpack_bits(body, count)
        if _pack_runs(held, len(body)) is not None:
            raise FormatError("a have-map as bits, whose runs would be shorter")
    elif kind == _RUNS:
        held = _unpack_runs(body, count)
        if len(body) >= _bits_bytes(count):
            raise FormatError("a have-map as runs, whose bits would not be longer")
    else:
        raise FormatError(f"a have-map of unknown kind {kind}")
    return HaveMap(held, bool(flags & _FETCHES))


def _bits_bytes(count: int) -> int:
    return (count + 7) // 8


def _pack_bits(flags: bytes) -> bytes:
    """First block in the highest bit of the first byte; the last byte is filled with zeros."""
    size = _bits_bytes(len(flags))
    if not size:
        return b""
    return int(flags.translate(_TO_TEXT).ljust(size * 8, b"0"), 2).to_bytes(size, "big")


def _unpack_bits(body: bytes, count: int) -> bytes:
    if len(body) != _bits_bytes(count):
        raise FormatError(f"a have-map of {count} blocks in {len(body)} bytes")
    text = f"{int.from_bytes(body, 'big'):0{len(body) * 8}b}".encode() if body else b""
    if b"1" in text[count:]:
        raise FormatError("a have-map holds more blocks than there are")
    return text[:count].translate(_TO_FLAGS)


def _pack_runs(flags: bytes, below: int) -> bytes | None:
    """Lengths of runs in turn, not held first; None unless shorter than `below` bytes."""
    packed, at, value = bytearray(), 0, 0
    while at < len(flags):
        end = flags.find(1 - value, at)
        if end < 0:
            end = len(flags)
        length = end - at
        while length >= 0x80:
            packed.append(length & 0x7F | 0x80)
            length >>= 7
        packed.append(length)
        if len(packed) >= below:
            return None
        at, value = end, 1 - value
    return bytes(packed) if len(packed) < below else None


def _unpack_runs(body: bytes, count: int) -> bytes:
    flags, value, total = bytearray(), 0, 0
    for number, length in enumerate(_varints(body)):
        if not length and number:
            raise FormatError("an empty run in a have-map")
        total += length
        if total > count:
            raise FormatError("a have-map holds more blocks than there are")
        flags += bytes((value,)) * length
        value = 1 - value
    if total != count:
        raise FormatError(f"the runs of a have-map cover {total} of {count} blocks")
    return bytes(flags)


def _varints(body: bytes) -> Iterator[int]:
    """Numbers of 7 bits a byte, the low ones first; the shortest form only."""
    value = shift = 0
    for byte in body:
        if shift == 7 * _MAX_VARINT or (shift and not byte):
            raise FormatError("a run's length in a have-map is malformed")
        value |= (byte & 0x7F) << shift
        if byte & 0x80:
            shift += 7
            continue
        yield value
        value = shift = 0
    if shift:
        raise FormatError("a have-map is cut off")
