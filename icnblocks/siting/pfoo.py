"""An upper bound on the model hits of any policy on a given trace.

PFOO-L of Berger, Beckmann and Harchol-Balter, "Practical bounds on optimal caching with variable
object sizes" (2018), for whole models: a hit needs the bytes that no other model has, and only the
model's own last request can have brought them, so they took their room ever since. The bound lets
all hits share the room of the whole trace, cheapest first, whatever lies there at one time. It
holds for caches that keep what was asked for, not for those that fetch ahead. No I/O, no clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from icnblocks.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from icnblocks.workloads.library import Library


def exclusive_bytes(library: Library) -> NDArray[np.int64]:
    """Bytes of each model that no other model of the library has."""
    own = np.zeros(len(library.models), dtype=np.int64)
    for models, size in zip(library.owners, library.piece_bytes, strict=True):
        if len(models) == 1:
            own[models] += size
    return own


def pfoo_bound(
    library: Library, wanted: NDArray[np.int64], capacity: int, *, warmup: int = 0
) -> float:
    """The largest share of requests that can be model hits at one edge.

    Args:
        library: the models.
        wanted: the model of each request, in order.
        capacity: bytes.
        warmup: so many first requests are not counted.

    Raises:
        UsageError: if no request is left to be counted.
    """
    if not 0 <= warmup < len(wanted):
        raise UsageError(f"a warm-up of {warmup} requests leaves none of {len(wanted)}")
    own = exclusive_bytes(library)
    before = _previous(wanted)
    counted = np.arange(len(wanted)) >= warmup
    free = counted & (own[wanted] == 0)
    again = np.flatnonzero(counted & (own[wanted] > 0) & (before >= 0))
    waits = again - np.maximum(before[again], warmup - 1)
    # In floats: a terabyte times a million requests is beyond 64 bits when summed.
    needs = np.sort(own[wanted[again]].astype(np.float64) * waits)
    # The moments just before each counted request; before the very first nothing is there.
    room = float(capacity) * (len(wanted) - max(warmup, 1))
    ends = np.cumsum(needs)
    whole = int(np.searchsorted(ends, room, side="right"))
    part = 0.0
    if whole < len(needs):
        part = (room - (ends[whole - 1] if whole else 0.0)) / needs[whole]
    return float((free.sum() + whole + part) / counted.sum())


def _previous(wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each request the one before it for the same model, or -1."""
    order = np.argsort(wanted, kind="stable")
    before = np.full(len(wanted), -1, dtype=np.int64)
    same = wanted[order[1:]] == wanted[order[:-1]]
    before[order[1:][same]] = order[:-1][same]
    return before
