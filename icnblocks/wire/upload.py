"""Uploads: blocks cut into parts, so that no request body is longer than a stock proxy allows.

A body is a row of parts, each `digest 32, total u32, offset u32, length u32` (big-endian) and
then `length` bytes of the block, from `offset` on. A block may be spread over several bodies,
in any order; `Parts` puts them together in bounded memory. Nothing here is verified: whoever
takes a whole block hashes it. Sans-IO: the time is an argument.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from icnblocks.errors import BusyError, FormatError
from icnblocks.limits import MAX_BLOCK_BYTES, MAX_OPEN_PARTS_BYTES, MAX_REQUEST_BYTES
from icnblocks.naming import Digest
from icnblocks.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_HEADER = struct.Struct(">32sIII")
PART_HEADER_BYTES: Final = _HEADER.size
PARTS_EXPIRE_S: Final = 600.0
"""A block of which no part came for so long is forgotten."""
_MIN_PIECE: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Part:
    """Consecutive bytes of a block: `data` lies at `offset` of its `total` bytes."""

    digest: Digest
    total: int
    offset: int
    data: memoryview


def pack_parts(
    blocks: Iterable[tuple[Digest, bytes | memoryview]], *, body_bytes: int = MAX_REQUEST_BYTES
) -> Iterator[bytes]:
    """Cut blocks into request bodies of at most `body_bytes`, drawing from `blocks` lazily.

    Blocks of a length that is not 1 to MAX_BLOCK_BYTES are the caller's mistake; the other
    side refuses them.
    """
    body = bytearray()
    for digest, data in blocks:
        view, offset = memoryview(data), 0
        while offset < len(view):
            room = body_bytes - len(body) - PART_HEADER_BYTES
            rest = len(view) - offset
            if room < min(rest, _MIN_PIECE, body_bytes - PART_HEADER_BYTES):
                yield bytes(body)
                body.clear()
                continue
            piece = view[offset : offset + room]
            body += _HEADER.pack(digest, len(view), offset, len(piece))
            body += piece
            offset += len(piece)
    if body:
        yield bytes(body)


def unpack_parts(body: bytes) -> Iterator[Part]:
    """The parts of a request body; their data are views of it.

    Raises:
        FormatError: if it is not a row of whole parts within bounds.
    """
    if len(body) > MAX_REQUEST_BYTES:
        raise FormatError(f"an upload of more than {MAX_REQUEST_BYTES} bytes")
    view, at = memoryview(body), 0
    while at < len(view):
        if len(view) - at < PART_HEADER_BYTES:
            raise FormatError("an upload that ends within a part's header")
        raw, total, offset, length = _HEADER.unpack_from(view, at)
        at += PART_HEADER_BYTES
        if not 1 <= total <= MAX_BLOCK_BYTES:
            raise FormatError(f"a block has 1 to {MAX_BLOCK_BYTES} bytes, not {total}")
        if not 1 <= length <= total - offset:
            raise FormatError(f"a part of {length} bytes at {offset} of a block of {total}")
        if length > len(view) - at:
            raise FormatError("an upload that ends within a part")
        yield Part(Digest(raw), total, offset, view[at : at + length])
        at += length


class _Open:
    """A block of which some bytes have come."""

    __slots__ = ("data", "gaps", "touched")

    def __init__(self, total: int, now: float) -> None:
        self.data = bytearray(total)
        self.gaps = [(0, total)]  # what has not come yet, ascending
        self.touched = now

    def fill(self, part: Part) -> None:
        first, last = part.offset, part.offset + len(part.data)
        self.data[first:last] = part.data
        rest = []
        for begin, end in self.gaps:
            if begin < first:
                rest.append((begin, min(end, first)))
            if end > last:
                rest.append((max(begin, last), end))
        self.gaps = [gap for gap in rest if gap[0] < gap[1]]


class Parts:
    """Puts parts together into blocks, in any order, parts repeated or overlapping allowed.

    Args:
        most_bytes: how much memory unfinished blocks may take, at least MAX_BLOCK_BYTES.
        expire_s: after how long without a part a block is forgotten.
    """

    __slots__ = ("_expire_s", "_most_bytes", "_open", "held_bytes")

    _MAX_GAPS: Final = 64

    def __init__(
        self, *, most_bytes: int = MAX_OPEN_PARTS_BYTES, expire_s: float = PARTS_EXPIRE_S
    ) -> None:
        self._most_bytes = most_bytes
        self._expire_s = expire_s
        self._open: dict[Digest, _Open] = {}  # least recently touched first
        self.held_bytes = 0
        """Memory that unfinished blocks take."""

    def __len__(self) -> int:
        """How many blocks are unfinished."""
        return len(self._open)

    def add(self, part: Part, now: float) -> bytes | bytearray | memoryview | None:
        """Take a part; the whole block, not verified, when that was all that it lacked.

        A block that came in one part is a view of that part's body.

        Raises:
            FormatError: if the block was begun with another total, or came in too many pieces.
            BusyError: if there is no memory for another block now.
        """
        self.expire(now)
        if len(part.data) == part.total:
            self.drop(part.digest)
            return part.data
        block = self._open.get(part.digest)
        if block is None:
            if self.held_bytes + part.total > self._most_bytes:
                raise BusyError("too many uploads at once", hint="try again in a minute")
            block = _Open(part.total, now)
            self.held_bytes += part.total
        elif len(block.data) != part.total:
            raise FormatError(f"block {part.digest} was begun with {len(block.data)} bytes")
        self._open.pop(part.digest, None)
        self._open[part.digest] = block  # to the end: most recently touched
        block.touched = now
        block.fill(part)
        if len(block.gaps) > self._MAX_GAPS:
            self.drop(part.digest)
            raise FormatError(f"block {part.digest} came in too many pieces")
        if block.gaps:
            return None
        self.drop(part.digest)
        return block.data

    def drop(self, digest: Digest) -> None:
        """Forget what came of a block. Unknown ones are ignored."""
        block = self._open.pop(digest, None)
        if block is not None:
            self.held_bytes -= len(block.data)

    def expire(self, now: float) -> None:
        """Forget blocks of which nothing came for `expire_s`."""
        while self._open:
            digest, block = next(iter(self._open.items()))
            if now - block.touched <= self._expire_s:
                return
            self.drop(digest)
