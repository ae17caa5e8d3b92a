"""Have-maps from real daemons: what is here, what would be fetched, and what is not known."""

from __future__ import annotations

import pytest

from icnblocks.naming import Digest
from icnblocks.testing.exchange import bundle, call, make_model, publish
from icnblocks.testing.processes import poll_until, start_edge
from icnblocks.wire.havemap import HaveMap, decode_have

SIZE, BLOCK = 400_000, 4096


@pytest.fixture
def model():
    return make_model(size=SIZE, block_bytes=BLOCK)


def have(edge, model, **headers: str) -> HaveMap:
    reply = call(edge, "GET", f"/v1/manifests/{model.digest}/have", **headers)
    assert reply.status == 200, reply.body
    assert reply.headers["Cache-Control"] == "no-store"
    return decode_have(reply.body, len(model.manifest.lengths()))


def test_an_origin_has_all_and_fetches_nothing(tmp_path, model):
    with start_edge(tmp_path / "origin") as origin:
        publish(origin, model)
        assert have(origin, model) == HaveMap(b"\1" * len(model.blocks), fetches=False)
        unknown = call(origin, "GET", f"/v1/manifests/{Digest.of(b'?')}/have")
        assert (unknown.status, unknown.json["error"]) == (404, "not-found")
        assert call(origin, "POST", f"/v1/manifests/{model.digest}/have").status == 405


def test_an_edge_tells_what_it_holds_and_asking_fetches_no_block(tmp_path, model):
    with (
        start_edge(tmp_path / "origin") as origin,
        start_edge(tmp_path / "edge", "--upstream", origin.url) as edge,
    ):
        publish(origin, model)
        count = len(model.blocks)
        assert have(edge, model, ICN_Name="acme/model") == HaveMap(bytes(count), fetches=True)
        some = (model.wants[3], model.wants[-1])
        assert len(bundle(edge, some, name=model.name)[0]) == 2
        found = have(edge, model)
        order = list(model.manifest.lengths())
        assert {order[at] for at, flag in enumerate(found.flags) if flag} == {
            want.digest for want in some
        }
        # (a block is passed on before it is counted)
        poll_until(lambda: edge.metric("icn_upstream_received_blocks_total") >= 2)
        assert edge.metric("icn_upstream_received_blocks_total") == 2


def test_a_daemon_that_routes_other_names_only_does_not_say_that_it_fetches(tmp_path, model):
    """Else a device would wait for it instead of asking somebody who can."""
    with start_edge(tmp_path / "origin") as origin:
        publish(origin, model)
        args = ("--upstream", f"other={origin.url}")
        with start_edge(tmp_path / "mixed", *args) as mixed:
            publish(mixed, model)
            assert have(mixed, model, ICN_Name=str(model.name)).fetches is False
            assert have(mixed, model, ICN_Name="other/model").fetches is True
