"""Instances and sitings as values."""

import tracemalloc

import numpy as np

from icnblocks.siting.instance import Siting
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
