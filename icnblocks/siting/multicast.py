"""How long it takes to bring devices their models over one shared radio link, in three ways.

The setting of block multicast (arXiv 2307.15316) without its choice of powers: an edge sends one
thing after the other with all its bandwidth; what several devices want is sent once, at the rate of
the slowest of them. *Unicast* sends every device its model, *whole-model multicast* every distinct
model once, *block multicast* every distinct piece once. No I/O, no clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from icnblocks.errors import UsageError
from icnblocks.values import dataclass

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from icnblocks.workloads.library import Library


@dataclass(frozen=True, slots=True)
class Airtime:
    """What one way takes.

    Attributes:
        total_s: until the last device has its model.
        mean_s: until a device has its model, on the average.
        sent_bytes: over the air.
    """

    total_s: float
    mean_s: float
    sent_bytes: int


@dataclass(frozen=True, slots=True)
class Ways:
    """What each way takes."""

    unicast: Airtime
    model_multicast: Airtime
    block_multicast: Airtime


def airtimes(library: Library, wanted: NDArray[np.int64], bits: NDArray[np.float64]) -> Ways:
    """What it takes to bring each device its model.

    Things are sent in order of how many devices want them for each second that they take.

    Args:
        library: the models.
        wanted: the model of each device.
        bits: bits a second to each device.

    Raises:
        UsageError: if there is no device, or one that nothing can be sent to.
    """
    if not len(wanted) or len(wanted) != len(bits) or not (bits > 0).all():
        raise UsageError("there is at least one device, and a rate above 0 to each")
    sizes, devices = library.model_bytes[wanted], np.arange(len(wanted))
    models, which = np.unique(wanted, return_inverse=True)
    want_models = which[None, :] == np.arange(len(models))[:, None]
    want_pieces = np.zeros((len(library.pieces), len(wanted)), dtype=np.bool_)
    for device, model in enumerate(wanted.tolist()):
        want_pieces[list(library.models[model].pieces), device] = True
    used = want_pieces.any(axis=1)
    return Ways(
        _send(sizes, devices[:, None] == devices[None, :], bits),
        _send(library.model_bytes[models], want_models, bits),
        _send(library.piece_bytes[used], want_pieces[used], bits),
    )


def _send(sizes: NDArray[np.int64], wants: NDArray[np.bool_], bits: NDArray[np.float64]) -> Airtime:
    """Send things (rows of `wants`) to devices (columns), each once."""
    seconds = 8.0 * sizes / np.where(wants, bits[None, :], np.inf).min(axis=1)
    order = np.argsort(-wants.sum(axis=1) / np.maximum(seconds, 1e-300), kind="stable")
    ends = np.cumsum(seconds[order])
    done = np.where(wants[order], ends[:, None], 0.0).max(axis=0)
    return Airtime(float(ends[-1]), float(done.mean()), int(sizes.sum()))
