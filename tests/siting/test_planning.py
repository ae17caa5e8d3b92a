"""From siting to plan file: every model held is planned, and what brings most per byte first."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icnblocks.errors import FormatError, UsageError
from icnblocks.siting.greedy import per_byte
from icnblocks.siting.instance import Instance, Siting
from icnblocks.siting.planfile import parse_plan, serialise_plan
from icnblocks.siting.planning import edge_names, plan_of
from icnblocks.workloads.library import Library, LibraryModel, Piece
from tests.siting.problems import instances, libraries, library_from


@given(instances(libraries()), st.integers(0, 90), st.booleans())
@settings(max_examples=40, deadline=None)
def test_a_plan_is_the_siting(instance, capacity, pin):
    siting = per_byte(instance, capacity)
    plan = plan_of(instance, siting, edge_names(instance.edges), pin=pin)
    assert parse_plan(serialise_plan(plan)) == plan
    for edge, held in enumerate(siting.held):
        planned = plan.of(f"edge-{edge}")
        named = [instance.library.models[m].name for m in np.flatnonzero(held)]
        assert sorted(str(one.model) for one in planned) == sorted(named)
        assert all(one.pin == pin for one in planned)


def test_the_variant_whose_base_is_there_comes_before_one_that_needs_its_own():
    library = library_from([90, 5, 5, 60], [{0, 1}, {0, 2}, {3}])
    demand = np.array([[0.6, 0.1, 0.3]])
    instance = Instance(library, demand, np.ones((1, 1, 3), dtype=bool))
    siting = Siting(np.ones((1, 3), dtype=bool), 1.0, "all")
    planned = plan_of(instance, siting, ["edge"]).of("edge")
    assert [str(one.model) for one in planned] == ["acme/m0", "acme/m1", "acme/m2"]


def test_models_that_no_plan_can_name_are_told():
    library = Library("test", (Piece("p", 1),), (LibraryModel("plain", (0,)),), 1)
    instance = Instance(library, np.ones((1, 1)), np.ones((1, 1, 1), dtype=bool))
    with pytest.raises(UsageError, match="plain"):
        plan_of(instance, per_byte(instance, 1), ["edge"])


def test_two_spellings_of_a_name_are_planned_once():
    """Catches: a plan that `icn-edge prefetch` refused, since it had a model twice."""
    models = LibraryModel("acme/m", (0,)), LibraryModel("acme/m@main", (1,))
    library = Library("test", (Piece("p", 1), Piece("q", 2)), models, 1)
    instance = Instance(library, np.full((1, 2), 0.5), np.ones((1, 1, 2), dtype=bool))
    plan = plan_of(instance, per_byte(instance, 3), ["edge"], pin=True)
    assert [str(one.model) for one in plan.of("edge")] == ["acme/m"]
    assert parse_plan(serialise_plan(plan)) == plan


@pytest.mark.parametrize("name", ["", "a" * 256, "a\nb"])
def test_a_plan_that_nobody_could_read_again_is_not_made(name):
    """A trace may have requests without an edge, or call one as no plan can."""
    instance = Instance(library_from([1], [{0}]), np.ones((1, 1)), np.ones((1, 1, 1), dtype=bool))
    with pytest.raises(FormatError, match="name of an edge"):
        plan_of(instance, per_byte(instance, 1), [name])


def test_edges_have_names_that_can_be_printed():
    with pytest.raises(UsageError, match="printable"):
        edge_names(1, ["\udcff"])


def test_edges_need_as_many_names():
    assert edge_names(2) == ("edge-0", "edge-1")
    assert edge_names(2, ["a", "b"]) == ("a", "b")
    for wrong in (["a"], ["a", "a"]):
        with pytest.raises(UsageError, match="2 edges need 2 different names"):
            edge_names(2, wrong)
