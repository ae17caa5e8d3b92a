"""Daemons that ask each other in a circle: noticed and refused, for blocks, records, manifests."""

import socket
from contextlib import ExitStack

import pytest

from icnblocks.naming import Digest
from icnblocks.testing.exchange import bundle, call, make_model, publish, record_path
from icnblocks.testing.processes import start_edge
from icnblocks.wire.bundle import Want
from icnblocks.wire.frames import Reason

PATIENT = ("--upstream-timeout", "60s", "--upstream-wait", "60s", "--upstream-retry", "30s")
"""So that a test that waits for a timer to end a loop does not end in time."""
MODEL = make_model("acme/circle", seed=501)


@pytest.fixture(scope="module")
def circle(tmp_path_factory):
    """Three edges, each with the next one as its upstream."""
    path = tmp_path_factory.mktemp("circle")
    with ExitStack() as stack:
        spare = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
        ports = [each.getsockname()[1] for each in spare]
        for each in spare:
            each.close()
        yield [
            stack.enter_context(
                start_edge(
                    path / f"edge{number}",
                    *("--upstream", f"http://127.0.0.1:{ports[(number + 1) % 3]}"),
                    *PATIENT,
                    listen=f"127.0.0.1:{ports[number]}",
                )
            )
            for number in range(3)
        ]


def test_a_block_that_nobody_has_is_refused_and_called_a_loop(circle):
    want = (Want(Digest.of(b"nobody has it"), 13),)
    _, refused = bundle(circle[0], want, name=MODEL.name)
    assert refused[want[0].digest][0] is Reason.LOOP
    assert circle[0].metric("icn_loops_total", what="block") >= 1
    assert "in a circle for acme/circle" in circle[0].logged()
    reply = call(circle[1], "GET", f"/v1/blocks/{Digest.of(b'nor this')}?length=8")
    assert (reply.status, reply.json["error"]) == (508, "loop")


def test_a_record_and_a_manifest_that_nobody_has_are_refused_too(circle):
    """They used to wait for one another until a request timed out."""
    for number, path in enumerate([record_path(MODEL.name), f"/v1/manifests/{MODEL.digest}",
                                   f"/v1/manifests/{MODEL.digest}/have"]):  # fmt: skip
        reply = call(circle[number], "GET", path, ICN_Name=str(MODEL.name))
        assert (reply.status, reply.json["error"]) == (508, "loop"), path
        assert reply.json["retry"] is False
        assert circle[number].metric("icn_loops_total", what="control") >= 1
    for edge in circle:
        assert all(each["demotions"] == 0 for each in edge.status()["upstreams"])


def test_what_passed_too_many_daemons_is_a_loop_as_well(circle):
    via = ", ".join(f"{number:016x}" for number in range(16))
    reply = call(circle[0], "GET", record_path(MODEL.name), ICN_Via=via)
    assert reply.status == 508


def test_a_made_up_circle_keeps_nothing_from_others(tmp_path):
    """One bundle that had seemingly come a long way made the block unobtainable for a while."""
    with start_edge(tmp_path / "origin") as origin:
        publish(origin, MODEL)
        with (
            start_edge(tmp_path / "middle", "--upstream", origin.url) as middle,
            start_edge(tmp_path / "edge", "--upstream", middle.url) as edge,
        ):
            about = {"name": MODEL.name, "manifest": MODEL.digest}
            _, refused = bundle(edge, MODEL.wants[:2], hops=15, **about)
            assert {reason for reason, _ in refused.values()} == {Reason.LOOP}
            assert bundle(edge, MODEL.wants, **about)[0] == MODEL.blocks


def test_in_a_circle_what_one_has_is_still_served_by_all(tmp_path):
    """A detour is no loop: what a daemon has, it gives whomever the question came through."""
    with start_edge(tmp_path / "origin") as origin:
        publish(origin, MODEL)
        with (
            start_edge(tmp_path / "b", "--upstream", origin.url, *PATIENT) as b,
            start_edge(tmp_path / "a", "--upstream", b.url, *PATIENT) as a,
        ):
            assert call(b, "GET", record_path(MODEL.name)).status == 200
            via = b.status()["node"]
            reply = call(b, "GET", record_path(MODEL.name), ICN_Via=via)
            assert reply.status == 200, "it is here"
            assert call(a, "GET", record_path(MODEL.name)).body == reply.body
