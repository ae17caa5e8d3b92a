"""From what was missing at each request to the figures that are reported of a policy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from icnblocks.cache.replay.replay import Links
    from icnblocks.cache.replay.trace import Trace


def pull_figures(
    trace: Trace, missing: NDArray[np.int64], links: Links, warmup: float
) -> dict[str, float]:
    """Model and byte hit ratio and mean pull time, of the requests after the warm-up.

    Args:
        trace: what was asked for.
        missing: bytes that were missing, for each request.
        links: for the pull time.
        warmup: the share of the requests that is not counted.
    """
    first = int(len(trace) * warmup)
    sizes = np.array([model.size for model in trace.models], dtype=np.int64)
    asked = sizes[np.frombuffer(trace.wanted, dtype=np.int32)[first:]]
    gone = missing[first:]
    times = links.rtt * (gone > 0) + gone / links.backhaul + asked / links.edge
    return {
        "model_hit_ratio": float((gone == 0).mean()),
        "byte_hit_ratio": 1 - float(gone.sum()) / float(asked.sum()),
        "mean_pull_time": float(times.mean()),
    }
