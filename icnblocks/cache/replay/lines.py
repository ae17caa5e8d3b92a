"""Traces as JSON lines, read and written; docs/traces.md is the format.

Reading holds the compact trace in memory and nothing else: files of any length, standard input
and gzip are read line by line. This module must not decide what a trace may say: that is checked
by `trace.TraceBuilder`, and told here with the place in the file.
"""

from __future__ import annotations

import errno
import gzip
import json
import sys
import zlib
from codecs import BOM_UTF8
from io import BufferedReader
from typing import IO, TYPE_CHECKING, Any, Final

from icnblocks.cache.replay.trace import TraceBuilder
from icnblocks.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from icnblocks.cache.replay.trace import Id, Trace, TraceSink

MAX_LINE_BYTES: Final = 1 << 30
"""A model of MAX_BLOCKS blocks is below."""
_GZIP: Final = b"\x1f\x8b"


def model_line(name: Id, blocks: Iterable[tuple[Id, int]], base: Id | None = None) -> str:
    """The line, with its end, that says what a model is."""
    fields: dict[str, Any] = {"model": name, "blocks": list(blocks)}
    if base is not None:
        fields["base"] = base
    return json.dumps(fields, separators=(",", ":")) + "\n"


def get_line(t: float, name: Id, edge: Id | None = None) -> str:
    """The line, with its end, that says that somebody asked."""
    fields: dict[str, Any] = {"t": t, "get": name}
    if edge is not None:
        fields["edge"] = edge
    return json.dumps(fields, separators=(",", ":")) + "\n"


class TraceWriter:
    """A sink that writes lines to a text file. It does not check what it is told."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def model(self, name: Id, blocks: Iterable[tuple[Id, int]], base: Id | None = None) -> None:
        """Write the line of a model."""
        self._file.write(model_line(name, blocks, base))

    def get(self, t: float, name: Id, edge: Id | None = None) -> None:
        """Write the line of a request."""
        self._file.write(get_line(t, name, edge))


def read_trace(path: str) -> Trace:
    """Read a trace from a file, gzipped or not, or from standard input (`-`).

    Raises:
        FormatError: if a line is wrong; the message begins with the file and the line number.
        OSError: if the file cannot be read.
    """
    if path == "-":
        if sys.stdin is None:  # closed by whoever started the program
            raise OSError(errno.EBADF, "standard input is closed")
        return parse_trace(sys.stdin.buffer, "standard input")
    with open(path, "rb") as file:
        return parse_trace(file, path)


def parse_trace(file: IO[bytes], called: str) -> Trace:
    """Read a trace from an open binary file; errors name it as it is `called`.

    Raises:
        FormatError: if a line is wrong, or none asks for a model.
    """
    buffered = file if isinstance(file, BufferedReader) else BufferedReader(file)  # type: ignore[type-var]
    lines: IO[bytes] = buffered
    if buffered.peek(2)[:2] == _GZIP:
        lines = gzip.GzipFile(fileobj=buffered)  # type: ignore[assignment]
    builder, number = TraceBuilder(), 0
    try:
        while line := lines.readline(MAX_LINE_BYTES):
            number += 1
            _tell(builder, line if number > 1 else line.removeprefix(BOM_UTF8))
    except FormatError as error:
        raise FormatError(f"{called}, line {number}: {error}") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        text = f"{called}, after line {number}: the gzip data is broken or cut off: {error}"
        raise FormatError(text) from None
    trace = builder.build()
    if not len(trace):
        raise FormatError(f"{called}: none of its {number} lines asks for a model")
    return trace


def _tell(sink: TraceSink, line: bytes) -> None:
    """Tell the sink what a line says."""
    fields = _fields(line)
    if fields is None:
        return
    if "get" in fields:
        if "model" in fields:
            raise FormatError('the line has both "get" and "model"')
        if "t" not in fields:
            raise FormatError('the request has no time ("t")')
        sink.get(fields["t"], fields["get"], fields.get("edge"))
    elif "model" in fields:
        blocks = fields.get("blocks")
        if not isinstance(blocks, list) or not all(map(_is_pair, blocks)):
            raise FormatError('"blocks" must be a list of pairs [id, bytes]')
        sink.model(fields["model"], blocks, fields.get("base"))
    else:
        raise FormatError('the line has neither "model" nor "get"')


def _is_pair(entry: object) -> bool:
    return isinstance(entry, list) and len(entry) == 2


def _fields(line: bytes) -> dict[str, Any] | None:
    """The JSON object of a line; None if the line is blank."""
    try:
        fields = _decode(line.decode())
    except UnicodeDecodeError:
        raise FormatError("the line is not UTF-8 text") from None
    except RecursionError:
        raise FormatError("the line is nested too deeply") from None
    except json.JSONDecodeError as error:
        if not line.strip():
            return None
        what = "is not JSON" if line.endswith(b"\n") else "is cut off, or not JSON"
        raise FormatError(f"the line {what}: {error.msg} at character {error.pos + 1}") from None
    except ValueError:  # what else Python refuses to read
        raise FormatError("the line has a whole number of thousands of digits") from None
    if not isinstance(fields, dict):
        raise FormatError("the line is not a JSON object")
    return fields


_decode: Final = json.JSONDecoder().decode
"""NaN too, in fields that nobody reads; where a number is read, what is none is refused."""
