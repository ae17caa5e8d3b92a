"""Records and manifests at an edge before an origin: how old they may be, and whose they are."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from icnblocks.manifest.record import public_bytes, rotate
from icnblocks.naming import Name
from icnblocks.testing.exchange import (
    KEY,
    OTHER_KEY,
    call,
    make_model,
    publish,
    record_path,
)
from icnblocks.testing.processes import launch_edge, poll_until, start_edge

QUICK = ("--upstream-retry", "300ms")


def aged(published, tmp_path, *options):
    return start_edge(
        tmp_path / "edge", "--upstream", published.url, "--record-cap", "100ms", *QUICK, *options
    )


def test_a_new_record_is_seen_through_the_edge_within_the_lifetime(published, model, tmp_path):
    with aged(published, tmp_path) as edge:
        path = record_path(model.name)
        call(edge, "GET", path)
        newer = model.record(seq=2)
        assert call(published, "PUT", path, newer).status == 201
        poll_until(lambda: call(edge, "GET", path).body == newer)


def test_within_the_lifetime_the_origin_is_not_asked(fresh, fresh_edge, model):
    edge = fresh_edge
    path = record_path(model.name)
    for _ in range(5):
        assert call(edge, "GET", path).status == 200
    label = "GET /v1/records/{publisher}/{model}/{tag}"
    assert fresh.metric("icn_requests_total", endpoint=label) == 1


def test_an_old_record_is_served_stale_while_the_origin_is_gone_but_not_for_ever(
    fresh, model, tmp_path
):
    path = record_path(model.name)
    with aged(fresh, tmp_path) as edge:
        raw = call(edge, "GET", path).body
        fresh.stop()
        stale = poll_until(
            lambda: (reply := call(edge, "GET", path)).headers.get("ICN-Stale") and reply
        )
        assert (stale.status, stale.body) == (200, raw)
        assert edge.metric("icn_stale_records_total") > 0
    with aged(fresh, tmp_path, "--stale-max", "200ms") as edge:
        gone = poll_until(lambda: (reply := call(edge, "GET", path)).status != 200 and reply)
        assert (gone.status, gone.json["error"]) == (502, "source")
        assert call(edge, "GET", record_path(Name.parse("acme/never"))).status == 502


def test_after_a_restart_an_old_record_is_still_old(fresh, model, tmp_path):
    path = record_path(model.name)
    with aged(fresh, tmp_path) as edge:
        call(edge, "GET", path)
    fresh.stop()
    with aged(fresh, tmp_path) as edge:
        poll_until(lambda: call(edge, "GET", path).headers.get("ICN-Stale") == "1")


def replaced_origin(published, tmp_path, model, record):
    """An origin at the same place that tells another story."""
    published.stop()
    other = launch_edge(tmp_path / "other", listen=f"127.0.0.1:{published.port}")
    publish(other, model, record=False)
    assert call(other, "PUT", record_path(model.name), record).status == 201
    return other


@pytest.mark.parametrize("why", ["older", "key", "rotated"])
def test_an_edge_is_not_rolled_back_nor_given_another_key(fresh, model, tmp_path, why):
    path, first = record_path(model.name), model.record(seq=5)
    assert call(fresh, "PUT", path, first).status == 201
    rotation = rotate(KEY, public_bytes(OTHER_KEY), "acme", int(time.time()))
    second = {
        "older": model.record(seq=4),
        "key": model.record(seq=6, key=OTHER_KEY),
        "rotated": model.record(seq=6, key=OTHER_KEY, rotations=(rotation,)),
    }[why]
    with aged(fresh, tmp_path) as edge:
        assert call(edge, "GET", path).body == first
        other = replaced_origin(fresh, tmp_path, model, second)
        try:
            if why == "rotated":
                poll_until(lambda: call(edge, "GET", path).body == second)
                return
            poll_until(
                lambda: (
                    call(edge, "GET", path).headers.get("ICN-Stale") == "1"
                    and edge.metric("icn_refused_records_total") > 0
                )
            )
            reply = call(edge, "GET", path)
            assert (reply.body, reply.headers.get("ICN-Stale")) == (first, "1")
            assert "a record was refused" in edge.logged()
        finally:
            other.stop()


def test_the_trust_file_decides_whose_records_pass(published, model, tmp_path):
    trust = tmp_path / "trust.toml"
    trust.write_text(f'acme = "{"ab" * 32}"\n')
    with aged(published, tmp_path, "--trust-file", str(trust)) as edge:
        reply = call(edge, "GET", record_path(model.name))
        assert (reply.status, reply.json["error"]) == (409, "trust")


def test_many_who_ask_for_a_new_name_make_one_question(fresh, fresh_edge, model):
    edge = fresh_edge
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda _: call(edge, "GET", record_path(model.name)), range(8)))
        again = list(pool.map(lambda _: call(edge, "GET", f"/v1/manifests/{model.digest}"),
                              range(8)))  # fmt: skip
    assert {reply.status for reply in [*replies, *again]} == {200}
    label = "GET /v1/records/{publisher}/{model}/{tag}"
    assert fresh.metric("icn_requests_total", endpoint=label) <= 2


def test_cached_manifests_keep_to_their_budget(published, tmp_path):
    models = [make_model(f"acme/m{n}", seed=10 + n) for n in range(4)]
    for each in models:
        publish(published, each)
    size = len(models[0].raw)
    options = ("--upstream", published.url, "--manifest-capacity", str(2 * size + 10))
    with start_edge(tmp_path / "edge", *options) as edge:
        for each in models:
            assert call(edge, "GET", f"/v1/manifests/{each.digest}").body == each.raw
        poll_until(lambda: edge.status()["store"]["manifests"] == 2)
        assert edge.status()["store"]["manifest_bytes"] <= 2 * size + 10
