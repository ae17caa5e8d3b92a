"""The answer to a bundle: a preamble, then self-delimiting frames, then END.

Frames come in any order, each answers one want, and END says how many were answered, so that a
cut is seen even where a proxy hides it. The decoder is sans-IO: it says where the next bytes
should go (payload straight into the caller's buffer, several small frames at once) and turns
them into events. It must not hash: whoever takes a Data event verifies it.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from icnblocks.errors import FormatError, VersionError
from icnblocks.limits import BLOCK_BYTES, MAX_NACK_TEXT_BYTES
from icnblocks.values import dataclass
from icnblocks.wire.bundle import MAJOR, MINOR

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from icnblocks.wire.bundle import Want

_HEADER = struct.Struct(">BBHI")
HEADER_BYTES: Final = _HEADER.size
MAGIC: Final = b"ICNB"
PREAMBLE: Final = MAGIC + bytes((MAJOR, MINOR, 0, 0))
MEDIA_TYPE: Final = "application/x-icn-bundle"

_DATA, _NACK, _ALIVE, _END = 1, 2, 3, 255
ALIVE: Final = _HEADER.pack(_ALIVE, 0, 0, 0)
"""Sent while an upstream is slow, so that the other side does not take it for a stall."""

READ_AHEAD: Final = HEADER_BYTES + BLOCK_BYTES
"""So much is read at once: many small frames, or a block of the usual length with its header."""
_MARGIN: Final = 2 * HEADER_BYTES


class Reason(IntEnum):
    """Why a want was refused. Codes that a newer version sends are read as OTHER."""

    OTHER = 0
    NOT_FOUND = 1
    CORRUPT = 2
    CHANGED = 3
    BUSY = 4
    NO_SPACE = 5
    UPSTREAM = 6
    REFUSED = 7
    LOOP = 8
    LENGTH = 9

    @classmethod
    def _missing_(cls, value: object) -> Reason | None:
        return cls.OTHER if isinstance(value, int) and 0 <= value <= 255 else None


@dataclass(frozen=True, slots=True)
class Data:
    """A block's bytes, not verified yet; `payload` is overwritten by the next read."""

    index: int
    payload: memoryview


@dataclass(frozen=True, slots=True)
class Nack:
    """A refusal of one want. `text` is one line for people, without control characters."""

    index: int
    reason: Reason
    text: str


@dataclass(frozen=True, slots=True)
class Alive:
    """Nothing yet, but the other side is at work."""


@dataclass(frozen=True, slots=True)
class End:
    """Every want was answered; nothing follows."""


Event = Data | Nack | Alive | End
_IS_ALIVE, _IS_END = Alive(), End()


def data_header(index: int, length: int) -> bytes:
    """The 8 bytes before a block's payload."""
    return _HEADER.pack(_DATA, 0, index, length)


def nack_frame(index: int, reason: Reason, text: str = "") -> bytes:
    """A whole Nack frame; `text` is cut to MAX_NACK_TEXT_BYTES."""
    raw = text.encode("utf-8", "replace")[:MAX_NACK_TEXT_BYTES]
    raw = raw.decode("utf-8", "ignore").encode()  # a cut character goes as a whole
    return _HEADER.pack(_NACK, reason, index, len(raw)) + raw


def end_frame(answered: int) -> bytes:
    """The last frame; `answered` counts Data and Nacks and equals the number of wants."""
    return _HEADER.pack(_END, 0, answered, 0)


def buffer_bytes(longest: int) -> int:
    """How large a decoder's buffer must be when the longest want has `longest` bytes."""
    return max(longest, MAX_NACK_TEXT_BYTES, READ_AHEAD) + _MARGIN


class FrameDecoder:
    """Turns the bytes of one answer into events. Works for bytes cut at any boundary.

    Use: read into `wanted()` (any number of bytes from 1), then iterate `filled(n)` to its end.
    Payloads point into `buffer` and hold until the next `wanted()`.

    Args:
        wants: what was asked, in the order of the request.
        buffer: writable, at least `buffer_bytes(longest want)`; reused for every frame, and the
            only memory that grows with the size of blocks.
    """

    __slots__ = (
        "_answered", "_begin", "_buffer", "_end", "_need", "_open", "_wants",
        "awaited", "done", "payload_bytes",
    )  # fmt: skip

    def __init__(self, wants: Sequence[Want], buffer: memoryview) -> None:
        longest = max((want.length for want in wants), default=0)
        if len(buffer) < buffer_bytes(longest):
            raise ValueError(f"a buffer of {len(buffer)} bytes is too small")
        self._wants = wants
        self._buffer = buffer
        self._open = bytearray(b"\x01" * len(wants))  # 1 = not answered yet
        self._answered = 0
        self._begin = 0  # unparsed bytes are buffer[begin:end]
        self._end = 0
        self._need = HEADER_BYTES  # bytes of the frame under way (of its header, until known)
        self.awaited = True
        """The preamble has not come yet."""
        self.done = False
        """END has come."""
        self.payload_bytes = 0
        """Bytes of whole Data payloads so far."""

    @property
    def partial_bytes(self) -> int:
        """Payload bytes that came of a frame that is not complete: lost if it is cut now."""
        return max(self._end - self._begin - HEADER_BYTES, 0)

    def unanswered(self) -> list[int]:
        """Indexes of wants that have had neither Data nor Nack, ascending."""
        return [index for index, still in enumerate(self._open) if still]

    def wanted(self) -> memoryview:
        """Where the next bytes must go; never empty. Payloads given out before end here."""
        held = self._end - self._begin
        if self._begin:  # what is left over goes to the front: at most READ_AHEAD bytes
            if held:
                self._buffer[:held] = self._buffer[self._begin : self._end]
            self._begin, self._end = 0, held
        # A long frame is read to its end and the next one's header; short ones many at a time.
        return self._buffer[held : max(self._need + HEADER_BYTES, READ_AHEAD)]

    def filled(self, count: int) -> Iterator[Event]:
        """Take the `count` bytes that were put into `wanted()`; the events that they complete.

        Raises:
            VersionError: if the answer is of another major version.
            FormatError: for anything that is not an answer to the wants. The decoder is then
                of no more use; events that came before hold.
        """
        self._end += count
        while self._end - self._begin >= self._need:
            if self.done:
                raise FormatError("bytes after the end of a bundle")
            event = self._frame()
            if event is not None:
                yield event
        if self.done and self._end > self._begin:
            raise FormatError("bytes after the end of a bundle")

    def _frame(self) -> Event | None:
        """Parse at `begin`, where `need` bytes are known to be; None when more are needed."""
        begin = self._begin
        if self.awaited:
            self._preamble(bytes(self._buffer[begin : begin + HEADER_BYTES]))
            self._begin += HEADER_BYTES
            return None
        kind, code, index, length = _HEADER.unpack_from(self._buffer, begin)
        if self._need == HEADER_BYTES:  # the header was not checked yet
            self._check(kind, code, index, length)
            if length > self._end - begin - HEADER_BYTES:
                self._need = HEADER_BYTES + length
                return None
        start = begin + HEADER_BYTES
        payload = self._buffer[start : start + length]
        self._begin = start + length
        self._need = HEADER_BYTES
        if kind == _ALIVE:
            return _IS_ALIVE
        if kind == _END:
            self.done = True
            return _IS_END
        if kind == _DATA:
            self.payload_bytes += length
            event: Event = Data(index, payload)
        else:  # read before it counts as answered: after an error, what did not is asked again
            event = Nack(index, Reason(code), _text(bytes(payload)))
        self._open[index] = 0
        self._answered += 1
        return event

    def _preamble(self, raw: bytes) -> None:
        if raw[: len(MAGIC)] != MAGIC:
            raise FormatError(f"not a bundle: it begins with {raw!r}")
        if raw[4] != MAJOR:
            raise VersionError(f"a bundle of version {raw[4]}; this program speaks {MAJOR}")
        self.awaited = False

    def _check(self, kind: int, code: int, index: int, length: int) -> None:
        if kind in {_DATA, _NACK}:
            if index >= len(self._open):
                raise FormatError(f"an answer to want {index} of {len(self._open)}")
            if not self._open[index]:
                raise FormatError(f"a second answer to want {index}")
            if kind == _DATA:
                if length != self._wants[index].length:
                    raise FormatError(
                        f"{length} bytes for block {self._wants[index].digest},"
                        f" which has {self._wants[index].length}"
                    )
            elif length > MAX_NACK_TEXT_BYTES:
                raise FormatError(f"a Nack with a text of {length} bytes")
        elif kind == _END:
            if index != self._answered or length or self._answered != len(self._open):
                raise FormatError(
                    f"a bundle that ends after {self._answered} of {len(self._open)} answers"
                    f" and says {index}"
                )
        elif kind != _ALIVE or length or index or code:
            raise FormatError(f"a frame of unknown type {kind}")


def _text(raw: bytes) -> str:
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise FormatError("a Nack whose text is not UTF-8") from None
    return "".join(char if char.isprintable() else "?" for char in text)
