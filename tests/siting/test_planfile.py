"""The plan file: what is written is read back, and slips are noticed before edges act on them."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icnblocks.errors import FormatError, UsageError, VersionError
from icnblocks.naming import Digest, Name
from icnblocks.siting import planfile
from icnblocks.siting.planfile import PlanFile, PlannedModel, parse_plan, serialise_plan

_REFS = st.one_of(
    st.binary(min_size=32, max_size=32).map(Digest),
    st.builds(Name, st.just("acme"), st.from_regex(r"[a-z0-9]{1,8}", fullmatch=True)),
    st.builds(Name, st.just("acme"), st.just("m"), st.sampled_from(["v1", "main"])),
)
_MODELS = st.lists(
    st.builds(PlannedModel, _REFS, st.booleans()), max_size=4, unique_by=lambda p: p.model
)
_EDGES = st.dictionaries(
    st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=9),
    _MODELS.map(tuple),
    min_size=1,
    max_size=3,
)


@given(_EDGES)
@settings(max_examples=60, deadline=None)
def test_what_is_written_is_read_back(edges):
    plan = PlanFile(edges)
    text = serialise_plan(plan)
    assert parse_plan(text) == plan == parse_plan(text.encode())
    assert list(parse_plan(text).edges) == list(edges)


def test_a_plan_that_is_too_large_to_be_read_is_not_written(monkeypatch):
    """Catches: plans of many edges that `icn-edge prefetch` refused."""
    plan = PlanFile({"a": (PlannedModel(Name.parse("acme/m"), pin=True),)})
    size = len(serialise_plan(plan))
    monkeypatch.setattr(planfile, "MAX_PLAN_BYTES", size)
    assert parse_plan(serialise_plan(plan)) == plan
    monkeypatch.setattr(planfile, "MAX_PLAN_BYTES", size - 1)
    with pytest.raises(FormatError, match=f"the plan has {size} bytes, more than {size - 1}"):
        serialise_plan(plan)


def _plan(models, **more):
    return json.dumps({"version": 1, "edges": {"a": {"models": models}}, **more})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not JSON"),
        (b"\xff", "not UTF-8"),
        ("[" * 100_000, "nested too deeply"),
        ("[]", "not a JSON object"),
        ('{"edges": {}}', "version"),
        ('{"version": true, "edges": {}}', "version"),
        ('{"version": 1, "edges": {}}', "at least one"),
        ('{"version": 1, "edges": [], "edges": {}}', "twice"),
        ('{"version": 1, "edges": {"a": {}}}', "must be a list"),
        ('{"version": 1, "edges": {"a": {"pins": []}}}', "unknown field 'pins'"),
        ('{"version": 1, "edges": {"": {"models": []}}}', "1 to 255"),
        ('{"version": 1, "edges": {"a\\n": {"models": []}}}', "printable"),
        ('{"version": NaN, "edges": {}}', "NaN"),
        (_plan([], more=1), "unknown field 'more'"),
        (_plan(["acme/m"]), "model 1 of edge 'a' is not a JSON object"),
        (_plan([{"pin": True}]), "has no"),
        (_plan([{"model": "acme/m", "pin": 1}]), "true or false"),
        (_plan([{"model": "../etc"}]), "model 1 of edge 'a'"),
        (_plan([{"model": "acme/m"}, {"model": "acme/m@main"}]), "twice"),
    ],
)
def test_a_slip_is_one_clear_line(text, says):
    with pytest.raises(FormatError, match=says) as caught:
        parse_plan(text)
    assert "\n" not in str(caught.value)


def test_a_newer_plan_is_not_guessed_at():
    with pytest.raises(VersionError, match="version 2"):
        parse_plan('{"version": 2, "sites": []}'.replace("sites", "edges"))


def test_an_edge_that_the_plan_does_not_name_is_told_which_it_names():
    with pytest.raises(UsageError, match="no edge 'c'") as caught:
        parse_plan(_plan([])).of("c")
    assert "a" in caught.value.hint


def test_not_all_edges_of_a_large_plan_are_told_and_that_is_said():
    """Catches: an operator who believes that a plan of ten edges has five."""
    edges = ", ".join(f'"e{number}": {{"models": []}}' for number in range(6))
    with pytest.raises(UsageError) as caught:
        parse_plan(f'{{"version": 1, "edges": {{{edges}}}}}').of("c")
    assert caught.value.hint == "its edges: e0, e1, e2, e3, e4 …"
