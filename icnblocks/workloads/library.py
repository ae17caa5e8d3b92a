"""A library: models made of pieces, where models that share bytes share the piece.

A piece is bytes that always go together; cut into blocks of one size, it is what a trace lists.
Makers of libraries (`resnet`, `lora`, `llm`) and traces (`observed`) give these values. This
module must not know of demand.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from icnblocks.cache.replay.trace import MAX_SIZE, MAX_TOTAL
from icnblocks.errors import UsageError
from icnblocks.limits import MAX_BLOCKS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes that are in a model together or not at all.

    Attributes:
        name: unique in the library.
        size: bytes.
        offset: where in its run of pieces it begins, so that a run cut into blocks loses nothing
            at the seams.
    """

    name: str
    size: int
    offset: int = 0


@dataclass(frozen=True, slots=True)
class LibraryModel:
    """A model.

    Attributes:
        name: `publisher/model`, unique in the library.
        pieces: indexes of its pieces, in the order in which a request asks for them.
        base: index of the model that it was made from, if that is in the library.
        kind: what it is: `base`, `adapter`, `partly-frozen`, `full`, `quantised`.
    """

    name: str
    pieces: tuple[int, ...]
    base: int | None = None
    kind: str = "base"


@dataclass(frozen=True)
class Library:
    """Models and their pieces.

    Attributes:
        name: which library it is.
        pieces: all of them.
        models: all of them; order means nothing.
        unit: bytes of a block, unless somebody asks for another size.
    """

    name: str
    pieces: tuple[Piece, ...]
    models: tuple[LibraryModel, ...]
    unit: int

    @cached_property
    def piece_bytes(self) -> NDArray[np.int64]:
        """Bytes of each piece."""
        return np.array([piece.size for piece in self.pieces], dtype=np.int64)

    @cached_property
    def owners(self) -> list[NDArray[np.int64]]:
        """Which models have each piece: takes no more than the models' own lists of them."""
        found: list[list[int]] = [[] for _ in self.pieces]
        for number, model in enumerate(self.models):
            for piece in set(model.pieces):
                found[piece].append(number)
        return [np.array(models, dtype=np.int64) for models in found]

    @cached_property
    def model_bytes(self) -> NDArray[np.int64]:
        """Bytes of each model."""
        return np.array(
            [sum(self.pieces[piece].size for piece in model.pieces) for model in self.models],
            dtype=np.int64,
        )

    @property
    def unique_bytes(self) -> int:
        """Bytes of all pieces, each counted once."""
        return int(self.piece_bytes.sum())

    def in_units(self, unit: int | None = None) -> Library:
        """The same library with every piece a whole number of units, so that all blocks are equal.

        Seams inside a run are moved to the nearest unit, the first at least one unit from the
        beginning, so that the run keeps its length and its first piece has bytes. A later piece
        may come to nothing; it is dropped.

        Raises:
            UsageError: if no block may have that many bytes, or there were more than MAX_BLOCKS.
        """
        unit = self.unit if unit is None else unit
        if not 0 < unit <= MAX_SIZE:
            raise UsageError(f"a block has 1 to {MAX_SIZE} bytes, not {unit}")
        if self.unique_bytes // unit > MAX_BLOCKS:
            text = f"blocks of {unit} bytes are too small for a library of {self.unique_bytes}"
            raise UsageError(f"{text}: more than {MAX_BLOCKS}")
        pieces: list[Piece] = []
        moved: dict[int, int] = {}
        for number, piece in enumerate(self.pieces):
            first, end = (_seam(at, unit) for at in (piece.offset, piece.offset + piece.size))
            count = end - first
            if count:
                moved[number] = len(pieces)
                pieces.append(Piece(piece.name, count * unit, first * unit))
        models = [
            LibraryModel(
                model.name,
                tuple(moved[piece] for piece in model.pieces if piece in moved),
                model.base,
                model.kind,
            )
            for model in self.models
        ]
        return Library(self.name, tuple(pieces), tuple(models), unit)

    def blocks_of(self, model: int) -> list[tuple[str, int]]:
        """A model's blocks: id and bytes; each piece is cut at `unit`, its last block may be less.

        Call it on what `in_units` returns and all blocks have `unit` bytes.
        """
        blocks: list[tuple[str, int]] = []
        for index in self.models[model].pieces:
            piece = self.pieces[index]
            whole, rest = divmod(piece.size, self.unit)
            blocks += [(f"{piece.name}:{number}", self.unit) for number in range(whole)]
            if rest:
                blocks.append((f"{piece.name}:{whole}", rest))
        return blocks


def _seam(at: int, unit: int) -> int:
    """The number of units nearest to a byte position (halves go up), but 0 only for 0."""
    return max((2 * at + unit) // (2 * unit), 1) if at else 0


class Pieces:
    """Collects pieces and models of a library that is being made."""

    def __init__(self) -> None:
        self._pieces: list[Piece] = []
        self._models: list[LibraryModel] = []

    def run(self, name: str, cuts: Sequence[int]) -> list[int]:
        """Add a run of bytes from 0 to the last cut, as one piece between any two cuts.

        Args:
            name: of the run.
            cuts: byte positions above 0, rising.
        """
        first = len(self._pieces)
        start = 0
        for end in cuts:
            self._pieces.append(Piece(f"{name}.{start}" if start else name, end - start, start))
            start = end
        return list(range(first, len(self._pieces)))

    def model(
        self, name: str, pieces: Sequence[int], *, base: int | None = None, kind: str = "base"
    ) -> int:
        """Add a model; returns its index."""
        self._models.append(LibraryModel(name, tuple(pieces), base, kind))
        return len(self._models) - 1

    def library(self, name: str, unit: int) -> Library:
        """What was collected.

        Raises:
            UsageError: if the pieces come to more than MAX_TOTAL bytes.
        """
        if sum(piece.size for piece in self._pieces) > MAX_TOTAL:
            raise UsageError(f"the library {name!r} comes to 2^63 bytes or more")
        return Library(name, tuple(self._pieces), tuple(self._models), unit)
