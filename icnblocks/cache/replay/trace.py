"""Traces: which models there are, and who asked for which of them when. In memory and as values.

What a trace means stands in docs/traces.md; `lines` reads and writes it as JSON lines. Whoever
makes a trace (a reader, a workload) tells it to a `TraceSink`: `TraceBuilder` keeps it in memory,
`lines.TraceWriter` writes it down. This module must not do I/O, and must not know any policy.
"""

from __future__ import annotations

import re
from array import array
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

from icnblocks.errors import FormatError
from icnblocks.limits import MAX_FILE_BYTES
from icnblocks.naming import Digest
from icnblocks.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Id: TypeAlias = str | int
"""What a trace calls a model, a block or an edge; 7 and "7" are the same."""

MAX_SIZE: Final = MAX_FILE_BYTES
MAX_TOTAL: Final = (1 << 63) - 1
"""Of all distinct blocks, and of all requests: figures are 64-bit numbers."""
MAX_TIME_S: Final = 1e11
"""Some 3,000 years: milliseconds since 1970 are above it, and noticed."""
MAX_ID_CHARS: Final = 1024
MAX_EDGES: Final = 4096

_HEX = re.compile(r"[0-9a-f]{64}\Z")


class TraceSink(Protocol):
    """Takes a trace, line by line."""

    def model(self, name: Id, blocks: Iterable[tuple[Id, int]], base: Id | None = None) -> None:
        """A model with its blocks (id, bytes) is published; `base` is kin, and need not be known.

        Told again it changes nothing.

        Raises:
            FormatError: if the trace would be wrong.
        """
        ...

    def get(self, t: float, name: Id, edge: Id | None = None) -> None:
        """At `t` seconds somebody asks the edge for the model. Times never go backward.

        Raises:
            FormatError: if the trace would be wrong.
        """
        ...


@dataclass(frozen=True, slots=True)
class TraceModel:
    """A model of a trace.

    Attributes:
        name: its id, as text.
        digest: what policies know it by.
        blocks: its distinct blocks, in the order in which a request asks for them.
        base: digest of the model that it is kin to.
        size: bytes of all.
    """

    name: str
    digest: Digest
    blocks: tuple[Digest, ...]
    base: Digest | None
    size: int


@dataclass(frozen=True, slots=True)
class Trace:
    """A whole trace, compact: a request is 16 bytes.

    Attributes:
        models: in the order in which they were published.
        published: for each model, how many requests came before it; never falls.
        times: seconds, for each request; never falls.
        wanted: for each request, the index of its model.
        edges: for each request, the index of its edge.
        edge_names: the edges, in order of appearance; the one of requests without is "".
        lengths: bytes of each block.
        unique_bytes: of all of them.
    """

    models: tuple[TraceModel, ...]
    published: array[int]
    times: array[float]
    wanted: array[int]
    edges: array[int]
    edge_names: tuple[str, ...]
    lengths: Mapping[Digest, int]
    unique_bytes: int

    def lengths_of(self, model: TraceModel) -> dict[Digest, int]:
        """Blocks of a model, with their bytes."""
        return dict(zip(model.blocks, map(self.lengths.__getitem__, model.blocks), strict=True))

    def __len__(self) -> int:
        return len(self.times)


def text_of(name: object, what: str) -> str:
    """An id as text.

    Raises:
        FormatError: if it is neither a string nor a whole number, is empty or too long.
    """
    if isinstance(name, str):
        text = name
    elif isinstance(name, int) and not isinstance(name, bool):
        text = str(name)
    else:
        raise FormatError(f"the id of {what} is neither a string nor a whole number")
    if not 0 < len(text) <= MAX_ID_CHARS:
        raise FormatError(f"the id of {what} has {len(text)} characters, not 1 to {MAX_ID_CHARS}")
    return text


def digest_of(text: str) -> Digest:
    """What an id is known by: itself if it is a digest, else the digest of its text."""
    if _HEX.match(text):
        return Digest(bytes.fromhex(text))
    return Digest.of(text.encode("utf-8", "surrogatepass"))


class TraceBuilder:
    """A sink that checks a trace and keeps it in memory."""

    def __init__(self) -> None:
        self._models: list[TraceModel] = []
        self._numbers: dict[str, int] = {}
        self._by_digest: dict[Digest, int] = {}
        self._digests: dict[Id, Digest] = {}
        self._sizes: dict[Digest, int] = {}
        self._unique_bytes = self._requested_bytes = 0
        self._published = array("q")
        self._times = array("d")
        self._wanted = array("i")
        self._edges = array("i")
        self._edge_numbers: dict[str, int] = {}
        self._last = 0.0

    def model(self, name: Id, blocks: Iterable[tuple[Id, int]], base: Id | None = None) -> None:
        """A model is published.

        Raises:
            FormatError: for bad ids and sizes, a block that had another size before (if its id is
                a digest, it is another block), a model that had other blocks or another base
                before, and more than MAX_TOTAL bytes of blocks. Nothing is kept of it.
        """
        text = text_of(name, "a model")
        digest = digest_of(text)
        base_digest = None if base is None else digest_of(text_of(base, "a base"))
        sizes: dict[Digest, int] = {}
        for block, size in blocks:
            self._add_block(sizes, block, size, text)
        found = TraceModel(text, digest, tuple(sizes), base_digest, sum(sizes.values()))
        known = self._by_digest.get(digest)
        if known is None:
            unique = self._unique_bytes + _new_bytes(sizes, self._sizes)
            if unique > MAX_TOTAL:
                raise FormatError(f"with model {text!r} the blocks come to 2^63 bytes or more")
            self._unique_bytes = unique
            self._sizes.update(sizes)
            self._by_digest[digest] = self._numbers[text] = len(self._models)
            self._models.append(found)
            self._published.append(len(self._times))
            return
        before = self._models[known]
        if before.blocks != found.blocks:
            raise FormatError(f"model {text!r} was told before with other blocks")
        if before.base != found.base:
            raise FormatError(f"model {text!r} was told before with another base")

    def _add_block(self, sizes: dict[Digest, int], block: Id, size: int, model: str) -> None:
        if not isinstance(size, int) or isinstance(size, bool) or not 0 < size <= MAX_SIZE:
            raise FormatError(
                f"a block of model {model!r} must have 1 to {MAX_SIZE} bytes, not {size!r:.40}"
            )
        digest = self._digests.get(block) if type(block) is str else None
        if digest is None:
            text = text_of(block, f"a block of model {model!r}")
            # One object for each block: finding it in a table is then a matter of identity.
            digest = self._digests.setdefault(text, digest_of(text))
        before = sizes.get(digest) or self._sizes.get(digest, size)
        if before != size:
            if type(block) is not str or not _HEX.match(block):
                raise FormatError(f"block {block!r} has {size} bytes here, and {before} before")
            # A daemon writes what manifests say, and of two that disagree one is wrong. Nobody can
            # ever have that block: it must not pass for the other, nor make the trace unreadable.
            digest = digest_of(f"{block} {size}")
        sizes[digest] = size

    def get(self, t: float, name: Id, edge: Id | None = None) -> None:
        """A request.

        Raises:
            FormatError: for a model that is not known yet, a time that runs backward or is no
                time, an edge whose id is no text, and more than MAX_EDGES edges or MAX_TOTAL
                bytes.
        """
        wanted = self._numbers.get(name) if type(name) is str else None
        if wanted is None:
            text = text_of(name, "the model asked for")
            wanted = self._numbers.get(text)
            if wanted is None:
                wanted = self._spelt_anew(text)
        if type(t) is not float and type(t) is not int:
            raise FormatError(f"the time is not a number of seconds: {t!r:.40}")
        if not (self._last <= t <= MAX_TIME_S):
            raise FormatError(self._wrong_time(t))
        requested = self._requested_bytes + self._models[wanted].size
        if requested > MAX_TOTAL:
            raise FormatError("the requests come to 2^63 bytes or more")
        number = 0 if edge is None and self._edge_numbers.get("") == 0 else self._edge(edge)
        self._last = t
        self._requested_bytes = requested
        self._times.append(t)
        self._wanted.append(wanted)
        self._edges.append(number)

    def _spelt_anew(self, text: str) -> int:
        """The model of an id by which none was told: a digest for its text, or the other way."""
        number = self._by_digest.get(digest_of(text))
        if number is None:
            raise FormatError(f"model {text!r} is not known: no line before tells its blocks")
        self._numbers[text] = number
        return number

    def _wrong_time(self, t: float) -> str:
        if not 0 <= t <= MAX_TIME_S:  # not finite, either
            return f"the time must be from 0 to {MAX_TIME_S:.0e} seconds, not {t!r:.40}"
        return f"time runs backward, from {self._last!r} to {t!r}"

    def _edge(self, edge: Id | None) -> int:
        text = "" if edge is None else text_of(edge, "an edge")
        number = self._edge_numbers.get(text)
        if number is None:
            _check_text(text)
            number = len(self._edge_numbers)
            if number >= MAX_EDGES:
                raise FormatError(f"there are more than {MAX_EDGES} edges")
            self._edge_numbers[text] = number
        return number

    def build(self) -> Trace:
        """The trace so far. The builder must not be used any more."""
        return Trace(
            models=tuple(self._models),
            published=self._published,
            times=self._times,
            wanted=self._wanted,
            edges=self._edges,
            edge_names=tuple(self._edge_numbers),
            lengths=self._sizes,
            unique_bytes=self._unique_bytes,
        )


def _check_text(text: str) -> None:
    """Edges are told to people: refuse what JSON can say and no output can, half a character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise FormatError(f"the id of an edge is not Unicode text: {text!r:.80}") from None


def _new_bytes(sizes: Mapping[Digest, int], known: Mapping[Digest, int]) -> int:
    """Bytes of the blocks that are not known."""
    return sum(size for digest, size in sizes.items() if digest not in known)
