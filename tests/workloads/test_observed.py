"""What a trace tells of its library: the same sharing that it was made from."""

import numpy as np
import pytest

from icnblocks.errors import UsageError
from icnblocks.workloads.demand import Demand, draw
from icnblocks.workloads.emit import trace_of
from icnblocks.workloads.llm import llm_library
from icnblocks.workloads.observed import counts_of, library_of
from tests.siting.problems import membership

LIBRARY = llm_library(0, variants=10).in_units()
DEMAND = Demand(requests=2000, edges=2, taste=0.5)
TRACE = trace_of(LIBRARY, DEMAND, 3)


def test_the_library_of_a_trace_shares_as_the_one_it_was_made_from():
    seen = library_of(TRACE)
    assert [m.name for m in seen.models] == [m.name for m in LIBRARY.models]
    assert [m.base for m in seen.models] == [m.base for m in LIBRARY.models]
    assert seen.unique_bytes == LIBRARY.unique_bytes

    def shared(library):
        return (membership(library) * library.piece_bytes) @ membership(library).T

    assert (shared(seen) == shared(LIBRARY)).all()


def test_blocks_of_the_same_models_are_one_piece():
    columns = membership(library_of(TRACE)).T
    assert len(np.unique(columns, axis=0)) == len(columns)


def test_requests_are_counted_by_edge_and_model():
    drawn = draw(DEMAND, len(LIBRARY.models), 3)
    counts = counts_of(TRACE, 100, 900)
    assert counts.sum() == 800
    for row, name in enumerate(TRACE.edge_names):
        mine = drawn.edges[100:900] == int(name.removeprefix("edge-"))
        expected = np.bincount(drawn.wanted[100:900][mine], minlength=len(LIBRARY.models))
        assert (counts[row] == expected).all()


def test_models_that_nobody_asked_for_are_counted_too():
    assert counts_of(TRACE, 0, 1).shape == (2, len(LIBRARY.models))


def test_no_requests_are_no_counts():
    with pytest.raises(UsageError, match="no request"):
        counts_of(TRACE, 2000)
