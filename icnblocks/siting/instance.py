"""The problem of siting as values: models of pieces, demand, and who can serve whom.

Maximise the share of the requests that some edge serves in time, where an edge serves only models
that it holds whole and holds each piece once (arXiv 2405.03990). Makers are `topology` (a radio
model) and `observed` (a trace). This module must not choose anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from icnblocks.errors import UsageError
from icnblocks.values import dataclass

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from icnblocks.workloads.library import Library


MAX_BYTES: Final = 2**31
"""Of the tables of an instance, roughly."""


def check_size(edges: int, users: int, models: int) -> None:
    """See that an instance is one that memory holds, before it is made.

    Raises:
        UsageError: if it is not.
    """
    # Who serves whom what takes a byte, and demand and budgets, with what they are made of, 40.
    if (edges + 40) * users * models > MAX_BYTES:
        text = f"{edges} edges, {users} users and {models} models are too many together"
        raise UsageError(text, hint="take fewer of one of them")


@dataclass(frozen=True, slots=True)
class Instance:
    """What siting is given.

    Attributes:
        library: the models.
        demand: the share of all requests, by user (row) and model (column); sums to 1.
        serves: whether an edge (first axis) could serve a user (second) a model (third) in time.
    """

    library: Library
    demand: NDArray[np.float64]
    serves: NDArray[np.bool_]

    @property
    def edges(self) -> int:
        """How many edges there are."""
        return len(self.serves)

    def ceiling(self) -> float:
        """The share of the requests that edges without any limit of space would serve."""
        return float(self.demand[self.serves.any(axis=0)].sum())

    def value(self, held: NDArray[np.bool_]) -> float:
        """The share of the requests that is served if edges (rows) hold models (columns)."""
        served = np.zeros(self.demand.shape, dtype=np.bool_)
        for serves, of_edge in zip(self.serves, held, strict=True):
            served |= serves & of_edge
        return float(self.demand[served].sum())


@dataclass(frozen=True, slots=True)
class Siting:
    """What an algorithm chose.

    Attributes:
        held: which edge (row) holds which model (column) whole.
        value: the share of the requests that is served so.
        algorithm: which one chose.
    """

    held: NDArray[np.bool_]
    value: float
    algorithm: str

    def bytes_of(self, library: Library) -> NDArray[np.int64]:
        """Bytes that each edge stores, each piece once."""
        found = []
        for row in self.held:
            models = np.flatnonzero(row).tolist()
            pieces = {piece for model in models for piece in library.models[model].pieces}
            found.append(sum(library.pieces[piece].size for piece in pieces))
        return np.array(found, dtype=np.int64)
