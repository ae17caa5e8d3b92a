"""Instances and sitings as values."""

import tracemalloc

import numpy as np
import pytest

from icnblocks.errors import UsageError
from icnblocks.siting import knapsack
from icnblocks.siting.exact import lp_bound
from icnblocks.siting.forest import grow
from icnblocks.siting.greedy import per_byte
from icnblocks.siting.instance import Instance, Siting
from icnblocks.siting.multicast import airtimes
from icnblocks.siting.pfoo import exclusive_bytes
from icnblocks.siting.planning import plan_of
from icnblocks.siting.spec import spec
from tests.siting.problems import library_from


def test_bytes_of_a_large_library_take_no_table_of_models_by_pieces():
    count = 3000
    library = library_from([100, *[1] * count], [{0, 1 + model} for model in range(count)])
    held = np.zeros((2, count), dtype=bool)
    held[1, :5] = True
    tracemalloc.start()
    found = Siting(held, 0.0, "some").bytes_of(library)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.tolist() == [0, 105]
    assert peak < 1_000_000


def test_a_siting_of_many_models_takes_no_table_of_models_by_pieces():
    """Catches: commands killed for memory, and minutes for the order of one edge's models."""
    count = 4000
    library = library_from([100, *[1] * count], [{0, 1 + model} for model in range(count)])
    serves = np.ones((2, 1, count), dtype=bool)
    instance = Instance(library, np.full((1, count), 1 / count), serves)
    tracemalloc.start()
    siting = per_byte(instance, 100 + 50)
    everything = Siting(np.ones((2, count), dtype=bool), 1.0, "all")
    plan = plan_of(instance, everything, ["a", "b"])
    forest, own = grow(library), exclusive_bytes(library)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert siting.held.sum(axis=1).tolist() == [50, 50]
    assert len(plan.of("b")) == count
    assert (len(forest), own.sum()) == (count + 1, count)
    assert peak < 12_000_000


def test_a_bound_and_a_multicast_of_many_models_take_no_table_of_models_by_pieces():
    """Catches: a byte for each model and piece beside a program that has 2 rows for each model."""
    count = 4000
    library = library_from([100, *[1] * count], [{0, 1 + model} for model in range(count)])
    instance = Instance(library, np.full((1, count), 1 / count), np.ones((1, 1, count), dtype=bool))
    few = Instance(library_from([1], [{0}]), np.ones((1, 1)), np.ones((1, 1, 1), dtype=bool))
    lp_bound(few, 1)  # so that what the solver's modules take is not counted
    tracemalloc.start()
    bound = lp_bound(instance, 100 + 60)
    ways = airtimes(library, np.array([0, 1]), np.ones(2))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert bound == pytest.approx(160 / 4100)
    assert ways.block_multicast.sent_bytes == 102
    assert peak < 12_000_000


def test_bounds_of_models_without_bytes():
    instance = Instance(library_from([], [set()]), np.ones((1, 1)), np.ones((1, 1, 1), dtype=bool))
    assert lp_bound(instance, 1) == 1


def test_a_grid_that_no_memory_holds_is_coarser_or_refused(monkeypatch):
    """Catches: 33 kB for each of any number of models, and 8 MB with cells of one's own."""
    library = library_from([1000] * 40, [{model} for model in range(40)])
    instance = Instance(library, np.full((1, 40), 1 / 40), np.ones((1, 1, 40), dtype=bool))
    for place in ("knapsack", "spec"):
        monkeypatch.setattr(f"icnblocks.siting.{place}.MAX_CELLS", 4100)
    assert spec(instance, 20_500).held.sum() == 20
    with pytest.raises(UsageError, match="40 pieces of models are too many for a grid of 2050"):
        spec(instance, 20_500, cell=10)
    assert knapsack.best_on_grid(grow(library), np.ones(40), 3000, cell=1000).size == 3000
