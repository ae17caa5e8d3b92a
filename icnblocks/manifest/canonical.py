"""Canonical msgpack: one encoding for each value, and one value for each encoding.

The subset (docs/format.md): nil, booleans, integers from -2^63 to 2^64-1, UTF-8 strings, byte
strings, arrays, and maps with string keys. Every header is the shortest possible, map keys
ascend by their UTF-8 bytes and occur once; floats and extension types do not exist. So the
digest and the signature of a value are well defined, and whatever `unpack` accepts, `pack` gives
back byte for byte.

The reader is our own: a general one allocates what a header claims before it looks at what is
there, nested as deep as the sender likes. This module must not know what the values mean.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import msgpack

from icnblocks.errors import FormatError

Value: TypeAlias = (
    "bool | int | str | bytes | list[Value] | tuple[Value, ...] | dict[str, Value] | None"
)

MAX_DEPTH: Final = 8
MAX_ITEMS: Final = 65_536


def pack(value: Value) -> bytes:
    """The canonical encoding of `value`; lists and tuples both become arrays.

    Raises:
        FormatError: if the value is outside the subset (a float, a key that is no string, an
            integer of more than 64 bits, text that is not Unicode, nesting without end).
    """
    try:
        packed: bytes = msgpack.packb(_ordered(value), use_bin_type=True)
    except (ValueError, OverflowError, RecursionError) as error:
        raise FormatError(f"cannot be encoded: {str(error)[:200]}") from None
    return packed


def _ordered(value: Value) -> Value:
    """The same value with the keys of its maps in order; refuses what is outside the subset."""
    if isinstance(value, (str, bytes, int)) or value is None:
        return value
    if isinstance(value, (list, tuple)):
        return [_ordered(item) for item in value]
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise FormatError("cannot be encoded: a map key that is not a string")
        # Code point order is the order of the UTF-8 bytes.
        return {key: _ordered(value[key]) for key in sorted(value)}
    raise FormatError(f"cannot be encoded: a value of type {type(value).__name__}")


def unpack(
    data: bytes | bytearray | memoryview,
    *,
    max_bytes: int,
    max_depth: int = MAX_DEPTH,
    max_items: int = MAX_ITEMS,
) -> Value:
    """Read one canonical value that fills `data`; arrays come back as tuples.

    Memory is bounded by `max_bytes` and `max_items`, not by what headers claim.

    Args:
        data: the encoding.
        max_bytes: refuse more than this.
        max_depth: arrays and maps inside one another.
        max_items: elements of all arrays and maps together (a key and its value are two).

    Raises:
        FormatError: for anything that `pack` would not have made, or beyond a bound.
    """
    if len(data) > max_bytes:
        raise FormatError(f"{len(data)} bytes, where at most {max_bytes} are allowed")
    reader = _Reader(bytes(data), max_items)
    value = reader.value(max_depth)
    if reader.at != len(data):
        raise FormatError(f"{len(data) - reader.at} bytes follow the value at byte {reader.at}")
    return value


# Headers with a length or a number after the tag: tag -> (bytes of it, smallest that needs them).
_STR: Final = {0xD9: (1, 32), 0xDA: (2, 1 << 8), 0xDB: (4, 1 << 16)}
_BIN: Final = {0xC4: (1, 0), 0xC5: (2, 1 << 8), 0xC6: (4, 1 << 16)}
_ARRAY: Final = {0xDC: (2, 16), 0xDD: (4, 1 << 16)}
_MAP: Final = {0xDE: (2, 16), 0xDF: (4, 1 << 16)}
_UINT: Final = {0xCC: (1, 1 << 7), 0xCD: (2, 1 << 8), 0xCE: (4, 1 << 16), 0xCF: (8, 1 << 32)}
# Negative numbers: tag -> (bytes, largest that needs them).
_INT: Final = {
    0xD0: (1, -33),
    0xD1: (2, -(1 << 7) - 1),
    0xD2: (4, -(1 << 15) - 1),
    0xD3: (8, -(1 << 31) - 1),
}
_CONSTANTS: Final[dict[int, bool | None]] = {0xC0: None, 0xC2: False, 0xC3: True}


class _Reader:
    """A position in bytes, and how many elements may still come."""

    __slots__ = ("at", "data", "items_left")

    def __init__(self, data: bytes, max_items: int) -> None:
        self.data = data
        self.at = 0
        self.items_left = max_items

    def bad(self, what: str) -> FormatError:
        return FormatError(f"not canonical msgpack: {what} at byte {self.at}")

    def value(self, depth: int) -> Value:
        """The next value; `depth` levels of arrays and maps may still open."""
        data, at = self.data, self.at
        if at >= len(data):
            raise self.bad("ends too early")
        tag = data[at]
        if tag < 0x80:
            self.at = at + 1
            return tag
        if 0xA0 <= tag < 0xC0:
            return self._text(at + 1, tag & 0x1F)
        if 0x90 <= tag < 0xA0:
            return self._array(at + 1, tag & 0x0F, depth)
        if tag >= 0xE0:
            self.at = at + 1
            return tag - 256
        if tag < 0x90:
            return self._map(at + 1, tag & 0x0F, depth)
        return self._tagged(tag, depth)

    def _tagged(self, tag: int, depth: int) -> Value:
        if tag in _CONSTANTS:
            self.at += 1
            return _CONSTANTS[tag]
        if tag in _BIN:
            start, length = self._number(_BIN[tag])
            end = start + length
            if end > len(self.data):
                raise self.bad("ends too early")
            self.at = end
            return self.data[start:end]
        if tag in _UINT:
            self.at, number = self._number(_UINT[tag])
            return number
        if tag in _STR:
            return self._text(*self._number(_STR[tag]))
        if tag in _ARRAY:
            return self._array(*self._number(_ARRAY[tag]), depth)
        if tag in _MAP:
            return self._map(*self._number(_MAP[tag]), depth)
        if tag in _INT:
            return self._negative(*_INT[tag])
        raise self.bad(f"type 0x{tag:02x} is not allowed")

    def _number(self, header: tuple[int, int]) -> tuple[int, int]:
        """Where the header ends, and the number in it."""
        size, smallest = header
        end = self.at + 1 + size
        if end > len(self.data):
            raise self.bad("ends too early")
        number = int.from_bytes(self.data[self.at + 1 : end], "big")
        if number < smallest:
            raise self.bad("a header longer than it need be")
        return end, number

    def _negative(self, size: int, largest: int) -> int:
        end = self.at + 1 + size
        if end > len(self.data):
            raise self.bad("ends too early")
        number = int.from_bytes(self.data[self.at + 1 : end], "big", signed=True)
        if number > largest:
            raise self.bad("a header longer than it need be")
        self.at = end
        return number

    def _text(self, start: int, length: int) -> str:
        end = start + length
        if end > len(self.data):
            raise self.bad("ends too early")
        try:
            text = str(self.data[start:end], "utf-8")
        except UnicodeDecodeError:
            raise self.bad("text that is not UTF-8") from None
        self.at = end
        return text

    def _open(self, start: int, elements: int, depth: int) -> None:
        """Enter an array or map that claims so many elements."""
        if depth <= 0:
            raise self.bad("nested too deep")
        if elements > self.items_left:
            raise self.bad("too many elements")
        self.items_left -= elements
        self.at = start

    def _array(self, start: int, length: int, depth: int) -> tuple[Value, ...]:
        self._open(start, length, depth)
        value, inner = self.value, depth - 1
        return tuple([value(inner) for _ in range(length)])

    def _map(self, start: int, length: int, depth: int) -> dict[str, Value]:
        self._open(start, 2 * length, depth)
        result: dict[str, Value] = {}
        last: str | None = None
        for _ in range(length):
            key = self.value(0)
            if not isinstance(key, str):
                raise self.bad("a map key that is not a string before")
            if last is not None and key <= last:
                raise self.bad("map keys out of order, or twice, before")
            result[key] = self.value(depth - 1)
            last = key
        return result
