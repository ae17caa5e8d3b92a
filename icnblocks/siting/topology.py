"""Who can be served a model in time by which edge: the radio model of TrimCaching's set-up.

Formulas follow arXiv 2405.03990 where it states them; docs/siting.md has them all. Every number of
the set-up is a parameter. This module must not know of algorithms.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from icnblocks.errors import UsageError
from icnblocks.siting.instance import Instance, check_size
from icnblocks.values import dataclass

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from icnblocks.workloads.library import Library


@dataclass(frozen=True, slots=True)
class Setup:
    """A square with edges and users, and what a user will wait for.

    Attributes:
        side_m: of the square, metres.
        edges, users: how many; they stand anywhere with equal chance.
        radius_m: an edge covers users within it, metres.
        bandwidth_hz: of each edge, shared by its active users.
        power_dbm: of each edge, shared likewise.
        path_loss: the exponent; the constant of the gain is 1.
        noise_dbm_hz: noise per hertz.
        activity: the chance that a covered user is active.
        backhaul_bits: bits a second between two edges.
        budget_s: least and most seconds that a user waits, drawn for each user and model.
        zipf: exponent of the demand; every user ranks the models for himself.
    """

    side_m: float = 1000.0
    edges: int = 10
    users: int = 30
    radius_m: float = 275.0
    bandwidth_hz: float = 400e6
    power_dbm: float = 43.0
    path_loss: float = 4.0
    noise_dbm_hz: float = -174.0
    activity: float = 0.5
    backhaul_bits: float = 10e9
    budget_s: tuple[float, float] = (0.5, 1.0)
    zipf: float = 0.8

    def __post_init__(self) -> None:
        low, high = self.budget_s
        if self.edges < 1 or self.users < 1 or not 0 <= low <= high < np.inf:
            raise UsageError("a set-up has at least one edge and one user, and budgets LOW <= HIGH")


@dataclass(frozen=True, slots=True)
class Topology:
    """Where edges and users are.

    Attributes:
        edges, users: coordinates in metres, a row each.
    """

    edges: NDArray[np.float64]
    users: NDArray[np.float64]


def draw_topology(setup: Setup, random: np.random.Generator) -> Topology:
    """Edges and users anywhere in the square."""
    return Topology(
        random.uniform(0, setup.side_m, (setup.edges, 2)),
        random.uniform(0, setup.side_m, (setup.users, 2)),
    )


def rates(setup: Setup, topology: Topology) -> NDArray[np.float64]:
    """Bits a second from each edge (row) to each user (column); 0 beyond the radius."""
    apart = np.linalg.norm(topology.edges[:, None, :] - topology.users[None, :, :], axis=2)
    covered = apart <= setup.radius_m
    active = np.maximum(setup.activity * covered.sum(axis=1), 1.0)[:, None]
    band = setup.bandwidth_hz / active
    power = 10 ** ((setup.power_dbm - 30) / 10) / active
    noise = 10 ** ((setup.noise_dbm_hz - 30) / 10)
    gain = np.maximum(apart, 1.0) ** -setup.path_loss
    return np.asarray(np.where(covered, band * np.log2(1 + power * gain / (noise * band)), 0.0))


def zipf_weights(count: int, exponent: float) -> NDArray[np.float64]:
    """The share of the demand of each rank, the first the largest."""
    weights = np.arange(1, count + 1, dtype=np.float64) ** -exponent
    return np.asarray(weights / weights.sum())


def in_time(
    speed: NDArray[np.float64],
    model_bytes: NDArray[np.int64],
    budgets: NDArray[np.float64],
    backhaul_bits: float,
) -> NDArray[np.bool_]:
    """Which edge (first axis) can serve which user (second) which model (third) in time.

    Directly, if it covers the user; else, or if that is too slow, over the backhaul to the edge
    from which the user receives fastest. Also a model without bytes needs an edge that covers him.
    """
    bits = 8.0 * model_bytes[None, :]
    best = speed.max(axis=0)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):  # nothing at rate 0 is NaN: not in time
        relayed = bits / best + bits / backhaul_bits <= budgets
        # Edge by edge: the seconds of all of them together are eight times what is told of them.
        return np.stack([relayed | (bits / row[:, None] <= budgets) for row in speed])


def draw_instance(
    setup: Setup,
    library: Library,
    seed: int,
    *,
    popularity: NDArray[np.float64] | None = None,
) -> Instance:
    """A random topology with users who want models of a library.

    Args:
        setup: the numbers.
        library: the models.
        seed: the same seed gives the same instance.
        popularity: shares of the demand, the same for all users, instead of Zipf.

    Raises:
        UsageError: if there are too many edges, users and models together.
    """
    check_size(setup.edges, setup.users, len(library.models))
    random = np.random.default_rng([seed, 2])
    topology = draw_topology(setup, random)
    models = len(library.models)
    budgets = random.uniform(*setup.budget_s, (setup.users, models))
    weights = zipf_weights(models, setup.zipf)
    demand = np.stack([weights[random.permutation(models)] for _ in range(setup.users)])
    if popularity is not None:
        demand = np.tile(popularity / popularity.sum(), (setup.users, 1))
    speed = rates(setup, topology)
    serves = in_time(speed, library.model_bytes, budgets, setup.backhaul_bits)
    return Instance(library, demand / setup.users, serves)
