"""The problem of siting as values: models of pieces, demand, and who can serve whom.

Maximise the share of the requests that some edge serves in time, where an edge serves only models
that it holds whole and holds each piece once (arXiv 2405.03990). Makers are `topology` (a radio
model) and `observed` (a trace). This module must not choose anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from icnblocks.workloads.library import Library


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
        served = (self.serves & held[:, None, :]).any(axis=0)
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
        there = self.held.astype(np.int64) @ library.membership > 0
        return np.asarray(there @ library.piece_bytes)
