"""What is replayed: libraries, demand, sizes of the cache.

Everything follows from seeds. Blocks are uniform units of at most 64 MiB. A cell is a library, a
drift and a capacity. This module must not run anything.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from icnblocks.cache.replay.replay import Links
from icnblocks.workloads.demand import Demand, draw, popularity
from icnblocks.workloads.emit import trace_of
from icnblocks.workloads.llm import llm_library
from icnblocks.workloads.lora import lora_library
from icnblocks.workloads.resnet import resnet_library

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from icnblocks.cache.replay.trace import Trace
    from icnblocks.workloads.library import Library

LINKS: Final = Links(backhaul=25e6, edge=125e6, rtt=0.05)
"""200 Mbit/s, 1 Gbit/s, 50 ms."""
WARMUP: Final = 0.25
WINDOW: Final = 1000
"""Requests between two plans of the optimum that is computed anew, under drift."""
DRIFT: Final = 5.0
"""Rank swaps for every thousand requests, of drifting traces; one of the two ranks is drawn by
popularity. See `icnblocks.workloads.demand.Demand`."""
GB: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Setting:
    """A library under a demand.

    Attributes:
        library: `resnet`, `lora` or `llm`.
        drift: rank swaps for every thousand requests.
        requests: how many.
    """

    library: str
    drift: float = 0.0
    requests: int = 16_000

    @property
    def name(self) -> str:
        """For tables and charts."""
        return f"{self.library}-{'drifting' if self.drift else 'static'}"

    @property
    def demand(self) -> Demand:
        """Zipf 0.9 over one ranking."""
        return Demand(requests=self.requests, zipf=0.9, drift=self.drift)

    def make(self, seed: int) -> Library:
        """The library, in units."""
        if self.library == "resnet":
            return resnet_library(seed).in_units()
        if self.library == "lora":
            return lora_library().in_units()
        return llm_library(seed, variants=36).in_units()

    def capacities(self, library: Library) -> list[int]:
        """Bytes of the cache, of each cell."""
        if self.library == "resnet":
            return [GB // 4, GB // 2, GB, 2 * GB]
        if self.library == "lora":
            return [GB // 2, GB, 3 * GB // 2, 2 * GB]
        return [int(library.unique_bytes * share) for share in (0.05, 0.15, 0.30)]

    def label(self, number: int) -> str:
        """How the capacity of this index is written."""
        if self.library == "llm":
            return ("5 %", "15 %", "30 %")[number]
        sizes = (0.25, 0.5, 1, 2) if self.library == "resnet" else (0.5, 1, 1.5, 2)
        return f"{sizes[number]:g} GB"


SETTINGS: Final = (
    Setting("resnet"),
    Setting("lora"),
    Setting("llm", 0.0, 8_000),
    Setting("resnet", DRIFT, 8_000),
    Setting("lora", DRIFT, 8_000),
    Setting("llm", DRIFT, 8_000),
)


def shortened(setting: Setting, *, quick: bool) -> Setting:
    """A setting as it is, or with few requests for a quick look."""
    return replace(setting, requests=800) if quick else setting


@dataclass(frozen=True, slots=True)
class Made:
    """A setting made from a seed.

    Attributes:
        library: in units.
        trace: of the requests.
        wanted: the model of each request, by its index in the library.
        popularity: the true one of each model (column) for each run of requests (row).
    """

    library: Library
    trace: Trace
    wanted: NDArray[np.int64]
    popularity: NDArray[np.float64]


def make(setting: Setting, seed: int) -> Made:
    """The library, the requests and the truth about them."""
    library = setting.make(seed)
    models = len(library.models)
    wanted = draw(setting.demand, models, seed).wanted
    trace = trace_of(library, setting.demand, seed)
    return Made(library, trace, wanted, popularity(setting.demand, models, seed))
