"""The header of a safetensors file: where its tensors lie, checked against the file's size.

The format (https://github.com/huggingface/safetensors): 8 bytes little-endian length, so many
bytes of JSON, then the tensors back to back. What the safetensors library loads is accepted, what
it refuses is refused; the few exceptions stand in docs/format.md. The JSON is read tensor by
tensor, since a header of 100 MB read as one value could take gigabytes.
This module must do no I/O: it is handed the first bytes of a file.
"""

from __future__ import annotations

import json
import re
from json import decoder
from operator import itemgetter
from sys import intern
from typing import TYPE_CHECKING, Final, Never

from icnblocks.errors import FormatError
from icnblocks.limits import MAX_HEADER_BYTES, MAX_RUNS, MAX_TENSOR_NAME_BYTES
from icnblocks.manifest.dtypes import tensor_bytes
from icnblocks.manifest.model import Tensor
from icnblocks.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LENGTH_BYTES: Final = 8
_METADATA: Final = "__metadata__"
_MAX_ENTRY_CHARS: Final = 8192
"""JSON text of one tensor's entry; a usual one has 80."""
_SPACE = re.compile(r"[ \t\n\r]*")


@dataclass(frozen=True, slots=True)
class Header:
    """What a valid header says.

    Attributes:
        length: bytes of the header, with the 8 of its length: where the first tensor begins.
        tensors: in the order of their offsets, back to back up to the end of the file.
    """

    length: int
    tensors: tuple[Tensor, ...]


def header_bytes(first_bytes: bytes, file_size: int) -> int:
    """How many of the file's first bytes are its header, from at least the first 8.

    Raises:
        FormatError: if the file is too short for it, or it is too large.
    """
    if file_size < LENGTH_BYTES or len(first_bytes) < LENGTH_BYTES:
        raise FormatError("not a safetensors file: it has fewer than 8 bytes")
    length = int.from_bytes(first_bytes[:LENGTH_BYTES], "little")
    if length > MAX_HEADER_BYTES:
        raise FormatError(
            f"not a safetensors file: a header of {length} bytes, "
            f"where at most {MAX_HEADER_BYTES} are allowed"
        )
    if LENGTH_BYTES + length > file_size:
        raise FormatError(
            f"the safetensors file is cut off: its header ends at byte {LENGTH_BYTES + length}, "
            f"the file at {file_size}"
        )
    return LENGTH_BYTES + length


def parse_header(first_bytes: bytes | memoryview, file_size: int) -> Header:
    """Read the header at the start of a safetensors file of `file_size` bytes.

    Args:
        first_bytes: at least the whole header (`header_bytes` says how much that is).
        file_size: bytes of the whole file.

    Raises:
        FormatError: naming what is wrong.
    """
    length = header_bytes(bytes(first_bytes[:LENGTH_BYTES]), file_size)
    if len(first_bytes) < length:
        raise FormatError(f"the safetensors header has {length} bytes, not {len(first_bytes)}")
    try:
        text = str(first_bytes[LENGTH_BYTES:length], "utf-8")
    except UnicodeDecodeError:
        raise _bad("it is not UTF-8") from None
    entries = sorted(_entries(text), key=itemgetter(0, 1, 2))
    end = 0
    for start, stop, name, tensor in entries:
        if start != end:
            what = "overlaps what is before it" if start < end else "leaves a hole before it"
            raise _bad(f"tensor {name[:100]!r} {what}: it begins at {start}, not {end}")
        try:
            size = tensor_bytes(tensor.dtype, tensor.shape)
        except FormatError as error:
            raise _bad(f"tensor {name[:100]!r}: {error}") from None
        if stop - start != size:
            raise _bad(f"tensor {name[:100]!r} has {stop - start} bytes, its shape needs {size}")
        end = stop
    if length + end != file_size:
        raise FormatError(
            f"the safetensors file has {file_size} bytes, where its header tells of {length + end}"
        )
    return Header(length, tuple([entry[3] for entry in entries]))


def _bad(what: str) -> FormatError:
    return FormatError(f"not a valid safetensors header: {what}")


class _NoNumberError(ValueError):
    """A number that JSON has not, such as NaN."""


def _constant(text: str) -> Never:
    raise _NoNumberError(text)


def _integer(text: str) -> int:
    # Longer than any of 64 bits, or negative (also -0): -1, which no field may have.
    return -1 if len(text) > 20 or text[0] == "-" else int(text)


def _pairs(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise _bad("a field occurs twice")
    return fields


# Floats stay text: they are no valid number for any field that is looked at.
_JSON = json.JSONDecoder(
    parse_int=_integer, parse_float=str, parse_constant=_constant, object_pairs_hook=_pairs
)


# The standard library's own string scanner; the type checkers' stubs do not know it.
_scan_string: Final[Callable[[str, int, bool], tuple[str, int]]] = decoder.scanstring  # type: ignore[attr-defined]


class _Scanner:
    """A position in the header's text."""

    __slots__ = ("at", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.space()

    def space(self) -> None:
        match = _SPACE.match(self.text, self.at)
        self.at = match.end() if match else self.at

    def next_is(self, character: str) -> bool:
        """Pass over one character and the space after it, if it is next."""
        if not self.text.startswith(character, self.at):
            return False
        self.at += 1
        self.space()
        return True

    def expect(self, character: str) -> None:
        if not self.next_is(character):
            raise _bad(f"no {character!r} at character {self.at}")

    def string(self) -> str:
        if not self.text.startswith('"', self.at):
            raise _bad(f"no string at character {self.at}")
        try:
            value, self.at = _scan_string(self.text, self.at + 1, True)
            value.encode()
        except ValueError:  # among them UnicodeEncodeError, for half a surrogate pair
            raise _bad(f"a broken string at character {self.at}") from None
        self.space()
        return value

    def members(self) -> Iterator[str]:
        """Each key of the object that begins here; the caller reads its value in between."""
        self.expect("{")
        if self.next_is("}"):
            return
        while True:
            key = self.string()
            self.expect(":")
            yield key
            if not self.next_is(","):
                self.expect("}")
                return

    def entry(self) -> object:
        """A small JSON value."""
        part = self.text[self.at : self.at + _MAX_ENTRY_CHARS]
        try:
            value, used = _JSON.raw_decode(part)
        except (ValueError, RecursionError):
            raise _bad(
                f"no JSON, or more than {_MAX_ENTRY_CHARS} characters for one tensor, "
                f"at character {self.at}"
            ) from None
        self.at += used
        self.space()
        return value

    def metadata(self) -> None:
        """Pass over the value of `__metadata__`: null, or strings by name."""
        if self.text.startswith("null", self.at):
            self.at += 4
            self.space()
            return
        for _ in self.members():
            self.string()


def _entries(text: str) -> Iterator[tuple[int, int, str, Tensor]]:
    """Each tensor's start, stop, name and description, in the order of the header."""
    scanner = _Scanner(text)
    names: set[str] = set()
    for name in scanner.members():
        if name in names:
            raise _bad(f"{name[:100]!r} occurs twice")
        names.add(name)
        if name == _METADATA:
            scanner.metadata()
            continue
        if len(names) > MAX_RUNS:
            raise _bad(f"more than {MAX_RUNS} tensors")
        if len(name.encode()) > MAX_TENSOR_NAME_BYTES:
            raise _bad(f"a tensor name of more than {MAX_TENSOR_NAME_BYTES} bytes")
        yield _tensor(name, scanner.entry())
    if scanner.at != len(text):
        raise _bad(f"something follows its end at character {scanner.at}")


def _tensor(name: str, entry: object) -> tuple[int, int, str, Tensor]:
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(start), int(stop)]}:
            pass
        case _:
            raise _bad(f"tensor {name[:100]!r} is not described by dtype, shape and data_offsets")
    if type(start) is not int or type(stop) is not int or not 0 <= start <= stop:
        raise _bad(f"tensor {name[:100]!r} has offsets that are no range")
    return start, stop, name, Tensor(name, intern(dtype), tuple(shape))
