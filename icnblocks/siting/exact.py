"""The siting problem as a linear and an integer program, solved with HiGHS: bounds and optima.

For instances of some dozens of models and a handful of edges the integer program is solved to
the end; for larger ones its bound, or that of the relaxation, still tells how far away a siting can
be. scipy comes with the extra `sim`. No I/O, no clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from icnblocks.errors import UsageError
from icnblocks.siting.instance import Siting
from icnblocks.values import dataclass

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from icnblocks.siting.instance import Instance


@dataclass(frozen=True, slots=True)
class Solved:
    """What the solver found.

    Attributes:
        bound: no siting serves a larger share of the requests.
        siting: the best that was found; None if nothing was in time, or it is some bytes too large.
        proven: whether `siting` is the best there is (within the solver's relative gap of 1e-6).
    """

    bound: float
    siting: Siting | None
    proven: bool


def milp_bound(instance: Instance, capacity: int, *, time_limit_s: float = 60.0) -> Solved:
    """Solve the integer program.

    Args:
        instance: the problem.
        capacity: bytes of each edge.
        time_limit_s: the best solution and bound by then are given.

    Raises:
        UsageError: if scipy is not installed.
    """
    program = _Program(instance, capacity)
    result = program.solve(integral=True, time_limit_s=time_limit_s)
    ceiling = instance.ceiling()
    bound = ceiling if result.mip_dual_bound is None else min(-result.mip_dual_bound, ceiling)
    bound = max(0.0, bound)  # not -0.0
    if result.x is None:
        return Solved(bound, None, proven=False)
    held = program.held(result.x)
    siting = Siting(held, instance.value(held), "milp")
    if (siting.bytes_of(instance.library) > capacity).any():  # the solver lets 1e-7 of it pass
        return Solved(bound, None, proven=False)
    return Solved(bound, siting, proven=result.status == 0)


def lp_bound(instance: Instance, capacity: int) -> float:
    """The value of the relaxation, in which models and pieces may be held in part.

    Raises:
        UsageError: if scipy is not installed, or finds no solution.
    """
    result = _Program(instance, capacity).solve(integral=False, time_limit_s=np.inf)
    if result.x is None:
        raise UsageError(f"the linear program was not solved: {result.message}")
    return max(0.0, min(-float(result.fun), instance.ceiling()))


class _Program:
    """Variables: models held per edge, pieces held per edge, demand served.

    Users for whom a model can come from the same edges are one row; pieces may be fractions, since
    models that are whole numbers force them.
    """

    def __init__(self, instance: Instance, capacity: int) -> None:
        self._instance, self._capacity = instance, capacity
        library, edges = instance.library, instance.edges
        self._models, self._pieces = edges * len(library.models), edges * len(library.pieces)
        self._rows: list[NDArray[np.int64]] = []
        self._columns: list[NDArray[np.int64]] = []
        self._numbers: list[NDArray[np.float64]] = []
        self._tops: list[float] = []
        self._fits = library.piece_bytes <= capacity
        worth = self._served()
        self._piece_rows()
        self._space_rows()
        self._costs = np.concatenate([np.zeros(self._models + self._pieces), -worth])

    def _row(self, columns: NDArray[np.int64], numbers: NDArray[np.float64], top: float) -> None:
        self._rows.append(np.full(len(columns), len(self._tops)))
        self._columns.append(columns)
        self._numbers.append(numbers)
        self._tops.append(top)

    def _served(self) -> NDArray[np.float64]:
        """served <= the sum of the edges that hold the model, for each model and set of edges."""
        instance = self._instance
        models = len(instance.library.models)
        groups: dict[tuple[int, bytes], float] = {}
        sets: dict[tuple[int, bytes], NDArray[np.int64]] = {}
        for user, model in zip(*np.nonzero(instance.serves.any(axis=0)), strict=True):
            serving = instance.serves[:, user, model]
            key = (int(model), serving.tobytes())
            groups[key] = groups.get(key, 0.0) + float(instance.demand[user, model])
            sets[key] = np.flatnonzero(serving)
        first = self._models + self._pieces
        for number, (key, edges) in enumerate(sets.items()):
            columns = np.concatenate([[first + number], edges * models + key[0]])
            self._row(columns, np.concatenate([[1.0], -np.ones(len(edges))]), 0.0)
        return np.array(list(groups.values()))

    def _piece_rows(self) -> None:
        """A model is held at most as far as each of its pieces is."""
        library = self._instance.library
        owners = np.concatenate([np.zeros(0, dtype=np.int64), *library.owners])
        counts = np.array([len(models) for models in library.owners], dtype=np.int64)
        pieces = np.repeat(np.arange(len(counts)), counts)
        for edge in range(self._instance.edges):
            models = edge * len(library.models) + owners
            places = self._models + edge * len(library.pieces) + pieces
            first = len(self._tops)
            self._rows.append(np.repeat(np.arange(first, first + len(owners)), 2))
            self._columns.append(np.stack([models, places], axis=1).ravel())
            self._numbers.append(np.tile([1.0, -1.0], len(owners)))
            self._tops += [0.0] * len(owners)

    def _space_rows(self) -> None:
        """Pieces of an edge fit; in units of the capacity, which keeps the numbers near 1.

        One that is larger by itself has no number: it is never held (see `_most`).
        """
        sizes = np.where(self._fits, self._instance.library.piece_bytes, 0) / max(self._capacity, 1)
        for edge in range(self._instance.edges):
            first = self._models + edge * len(sizes)
            top = 1.0 if self._capacity > 0 else 0.0
            self._row(np.arange(first, first + len(sizes)), sizes, top)

    def _most(self) -> NDArray[np.float64]:
        """The upper bound of each variable: 1, but 0 for a piece that is larger than an edge."""
        most = np.ones(len(self._costs))
        of_pieces = slice(self._models, self._models + self._pieces)
        most[of_pieces] = np.tile(self._fits, self._instance.edges)
        return most

    def solve(self, *, integral: bool, time_limit_s: float) -> Any:
        """Hand it to HiGHS."""
        try:
            from scipy.optimize import Bounds, LinearConstraint, milp
            from scipy.sparse import csr_array
        except ImportError:
            raise UsageError(
                "bounds need scipy", hint="install icnblocks[sim], or leave the bound out"
            ) from None
        cells = (np.concatenate(self._rows), np.concatenate(self._columns))
        matrix = csr_array(
            (np.concatenate(self._numbers), cells), shape=(len(self._tops), len(self._costs))
        )
        whole = np.zeros(len(self._costs))
        whole[: self._models] = float(integral)
        return milp(
            self._costs,
            integrality=whole,
            bounds=Bounds(0, self._most()),
            constraints=LinearConstraint(matrix, ub=np.array(self._tops)),
            options={"time_limit": time_limit_s, "mip_rel_gap": 1e-6},
        )

    def held(self, solution: NDArray[np.float64]) -> NDArray[np.bool_]:
        """The models that a solution holds."""
        shape = (self._instance.edges, len(self._instance.library.models))
        return np.asarray(solution[: self._models].reshape(shape) > 0.5)
