"""Whom an Interest came through: anybody writes that header, and it is passed on upstream."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icnblocks.client.head import encode_head
from icnblocks.testing.exchange import bundle, call, make_model, publish, record_path
from icnblocks.testing.processes import start_edge
from icnblocks.wire.headers import VIA_HEADER
from icnblocks_daemon.via import format_via, parse_via

MODEL = make_model("acme/via", seed=502)
OWN = "0123456789abcdef"
NO_IDS = ["\u00e9" * 16, "\u0663" * 16, "\u212a" * 16, "g" * 16, "abc", ""]


@pytest.mark.parametrize("word", NO_IDS)
def test_what_is_no_id_is_passed_over(word):
    """Catches: letters and digits of any script are taken for an id."""
    assert parse_via(f"{word}, {OWN.upper()} ,{word}") == {OWN}


@given(st.lists(st.text(max_size=20) | st.sampled_from(NO_IDS)).map(",".join))
def test_whatever_came_can_be_sent_on(text):
    """Catches: one request's header makes what is asked upstream a fault of ours."""
    value = format_via(parse_via(text))
    assert encode_head("GET", "/", "host", {VIA_HEADER: value}, None)


def test_a_header_that_cannot_be_sent_on_costs_nobody_an_upstream(tmp_path):
    """Catches: the upstream was given up for all, for what was never sent to it."""
    as_utf_8 = NO_IDS[0].encode().decode("latin-1")  # which http.client writes
    with (
        start_edge(tmp_path / "origin") as origin,
        start_edge(tmp_path / "edge", "--upstream", origin.url) as edge,
    ):
        publish(origin, MODEL)
        path = f"/v1/blocks/{MODEL.wants[0].digest}?length={MODEL.wants[0].length}"
        for each in (path, record_path(MODEL.name)):
            call(edge, "GET", each, ICN_Via=as_utf_8)
        assert bundle(edge, MODEL.wants, name=MODEL.name)[0] == MODEL.blocks
        assert call(edge, "GET", record_path(MODEL.name)).status == 200
        assert all(each["demotions"] == 0 for each in edge.status()["upstreams"])
