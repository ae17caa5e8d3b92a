"""A plan put in force on a real edge before a real origin: brought once, pinned, resumed."""

import json
import time

import pytest

from icnblocks.testing.exchange import bundle, call, make_model, missing, publish
from icnblocks.testing.processes import launch_edge, poll_until, start_edge
from icnblocks.testing.relay import Relay

QUICK = ("--upstream-retry", "300ms")
PATH = "/v1/prefetch"


def put(at, *models, **terms):
    """Put a plan in force; models are names or (name, pin)."""
    pairs = [(model, False) if isinstance(model, str) else model for model in models]
    asked = [{"model": model, "pin": pin} for model, pin in pairs]
    return call(at, "PUT", PATH, json.dumps({"models": asked, **terms}).encode())


def status(edge):
    return json.loads(edge.get(PATH))


def finished(edge):
    return poll_until(
        lambda: (told := status(edge))["state"] in {"done", "cancelled"} and told,
        what="the plan is carried out",
    )


def here(edge, model):
    return missing(edge, model.wants) == []


@pytest.fixture(scope="module")
def models(origin):
    """Three of one megabyte, published."""
    found = [make_model(f"acme/pre{n}", size=1_000_000, seed=500 + n) for n in range(3)]
    for model in found:
        publish(origin, model)
    return found


@pytest.fixture
def edge(origin, tmp_path):
    with start_edge(tmp_path / "edge", "--upstream", origin.url, *QUICK) as edge:
        yield edge
        assert "Traceback" not in edge.logged()


def test_a_plan_brings_its_models_and_only_those(edge, models):
    first, second, other = models
    reply = put(edge, (str(first.name), True), str(second.digest), edge="cellar")
    assert reply.status == 200, reply.body
    assert reply.json["state"] == "fetching"
    told = finished(edge)
    assert told["state"] == "done"
    assert told["models"] == {"planned": 2, "pinned": 1, "done": 2, "left": 0, "failed": 0}
    assert told["bytes"] == {"planned": 2_000_000, "left": 0, "fetched": 2_000_000}
    assert (told["edge"], told["failures"]) == ("cellar", [])
    assert here(edge, first)
    assert here(edge, second)
    assert len(missing(edge, other.wants)) == len(other.wants)
    assert edge.metric("icn_prefetched_bytes_total") == 2_000_000
    assert edge.metric("icn_misses_total") == 0, "nobody asked for anything"
    assert edge.status()["prefetch"]["state"] == "done"


def test_what_is_here_is_not_fetched_again(edge, models):
    bundle(edge, models[0].wants, name=models[0].name, manifest=models[0].digest)
    put(edge, str(models[0].name), str(models[1].name))
    assert finished(edge)["bytes"]["fetched"] == 1_000_000
    # (a block is passed on before it is counted)
    poll_until(lambda: edge.metric("icn_upstream_received_bytes_total") >= 2_000_000)
    assert edge.metric("icn_upstream_received_bytes_total") == 2_000_000
    again = put(edge, str(models[0].name), str(models[1].name))
    assert again.status == 200, again.body
    assert finished(edge)["bytes"]["fetched"] == 0


def test_a_block_that_a_device_asks_for_meanwhile_crosses_once(fresh_origin, tmp_path):
    """The plan and the device wait for the same transfer, whoever came first."""
    model = make_model("acme/both", size=8_000_000, seed=77)
    publish(fresh_origin, model)
    with start_edge(tmp_path / "edge", "--upstream", fresh_origin.url, *QUICK) as edge:
        put(edge, str(model.name))
        got = bundle(edge, model.wants, name=model.name, manifest=model.digest)[0]
        assert got == model.blocks
        finished(edge)
        assert fresh_origin.metric("icn_sent_bytes_total") == model.size


def test_an_unknown_model_does_not_hold_up_the_rest(edge, models):
    put(edge, ("acme/nobody", True), str(models[0].name))
    told = finished(edge)
    assert told["models"] == {"planned": 2, "pinned": 0, "done": 1, "left": 0, "failed": 1}
    (failure,) = told["failures"]
    assert (failure["model"], failure["error"], failure["again"]) == (
        "acme/nobody",
        "not-found",
        False,
    )
    assert here(edge, models[0])


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"{", "not JSON"),
        (b"[]", "not a JSON object"),
        (b'{"edge": "x"}', "names its `models` in a list"),
        (b'{"models": ["acme/x"]}', "model 1 of a prefetch"),
        (b'{"models": [{"model": "acme/x", "pin": 1}]}', "model 1 of a prefetch"),
        (b'{"models": [{"model": "nonsense"}]}', "neither a name nor the digest"),
        (b'{"models": [{"model": "acme/../x"}]}', "not a valid model"),
        (b'{"models": [{"model": "acme/x"}], "rate": 0}', "positive number"),
        (b'{"models": [{"model": "acme/x"}], "rate": 1e999}', "positive number"),
        (b'{"models": [{"model": "acme/x"}], "rate": 1%s}' % (400 * b"0"), "positive number"),
        (b'{"models": [{"model": "acme/x"}], "window": "noon"}', "not a window"),
        (b'{"models": [{"model": "acme/x"}], "edge": 1}', "short printable text"),
    ],
)
def test_a_wrong_order_is_refused_in_one_line_and_changes_nothing(edge, body, what):
    reply = call(edge, "PUT", PATH, body)
    assert reply.status == 400
    assert what in reply.json["message"]
    assert status(edge) == {"state": "none"}


def test_a_plan_of_nothing_releases_the_one_before(edge, models):
    put(edge, (str(models[0].name), True))
    finished(edge)
    assert put(edge).status == 200
    assert finished(edge)["models"]["planned"] == edge.status()["budget"]["pinned_bytes"] == 0


def test_who_may_not_write_may_not_plan(tmp_path, origin):
    with start_edge(tmp_path / "edge", "--upstream", origin.url) as edge:
        body = b'{"models": [{"model": "acme/x"}]}'
        for method in ("PUT", "DELETE"):
            reply = call(edge, method, PATH, body, X_Forwarded_For="10.0.0.1")
            assert (reply.status, reply.json["error"]) == (403, "refused")
        assert call(edge, "GET", PATH, X_Forwarded_For="10.0.0.1").status == 200


def small(tmp_path, origin, *args):
    return start_edge(
        tmp_path / "edge", "--upstream", origin.url, "--capacity", "16MiB", *QUICK, *args
    )


def test_pins_beyond_the_capacity_are_refused_and_the_old_plan_stays(tmp_path, origin):
    large = [make_model(f"acme/large{n}", size=9_000_000, seed=600 + n) for n in range(2)]
    for model in large:
        publish(origin, model)
    with small(tmp_path, origin) as edge:
        put(edge, (str(large[0].name), True))
        old = finished(edge)
        reply = put(edge, *[(str(model.name), True) for model in large])
        assert (reply.status, reply.json["error"]) == (403, "refused")
        assert "the capacity is 16777216" in reply.json["message"]
        assert status(edge) == old
        assert edge.status()["budget"]["pinned_bytes"] >= 9_000_000


def test_what_is_not_pinned_and_does_not_fit_is_left_out(tmp_path, origin):
    """In the order of the plan, the pinned ones first; the others are not sacrificed for it."""
    large = [make_model(f"acme/fit{n}", size=7_000_000, seed=620 + n) for n in range(3)]
    for model in large:
        publish(origin, model)
    with small(tmp_path, origin) as edge:
        put(edge, str(large[0].name), str(large[1].name), (str(large[2].name), True))
        told = finished(edge)
        assert [failure["model"] for failure in told["failures"]] == [str(large[1].name)]
        assert "no room" in told["failures"][0]["message"]
        assert here(edge, large[0])
        assert here(edge, large[2])
        assert edge.metric("icn_prefetched_bytes_total") == 14_000_000


def test_pins_outlast_what_devices_pull_and_end_with_the_next_plan(tmp_path, origin):
    kept = make_model("acme/kept", size=5_000_000, seed=640)
    crowd = [make_model(f"acme/crowd{n}", size=5_000_000, seed=641 + n) for n in range(4)]
    for model in (kept, *crowd):
        publish(origin, model)

    def pull(edge, model):
        assert bundle(edge, model.wants, name=model.name, manifest=model.digest)[0] == model.blocks

    with small(tmp_path, origin, "--policy", "lru") as edge:
        put(edge, (str(kept.name), True))
        finished(edge)
        for model in crowd:
            pull(edge, model)
        assert here(edge, kept)
        put(edge, str(crowd[3].name))
        finished(edge)
        assert edge.status()["budget"]["pinned_bytes"] == 0
        for model in crowd:
            pull(edge, model)
        assert not here(edge, kept)


def test_pins_that_fit_no_more_after_a_restart_are_let_go(tmp_path, origin):
    """They took all of the smaller budget until the second restart, and nothing else came in."""
    large, little, other = (
        make_model(f"acme/less{size}", size=size, seed=size)
        for size in (20_000_000, 2_000_000, 3_000_000)
    )
    for model in (large, little, other):
        publish(origin, model)
    with start_edge(tmp_path / "edge", "--upstream", origin.url, "--capacity", "40MB") as edge:
        put(edge, (str(large.name), True), (str(little.name), True))
        finished(edge)
    with small(tmp_path, origin) as edge:
        assert [failed["model"] for failed in finished(edge)["failures"]] == [str(large.name)]
        assert edge.status()["budget"]["pinned_bytes"] < 3_000_000
        assert bundle(edge, other.wants, name=other.name)[0] == other.blocks


def test_a_cancelled_plan_stops_and_releases_its_pins(edge, models):
    put(edge, *[(str(model.name), True) for model in models], rate=200_000)
    poll_until(lambda: edge.metric("icn_prefetched_bytes_total") > 0)
    reply = call(edge, "DELETE", PATH)
    assert (reply.status, reply.json["state"]) == (200, "cancelled")
    came = edge.metric("icn_prefetched_bytes_total")
    assert came < 3_000_000
    assert status(edge)["bytes"]["left"] == 0
    assert edge.status()["budget"]["pinned_bytes"] == 0
    assert edge.metric("icn_prefetch_models") == edge.metric("icn_prefetch_left_models") == 0
    assert call(edge, "DELETE", PATH).json["state"] == "cancelled"
    assert edge.metric("icn_prefetched_bytes_total") == came


def closed_window():
    """A window of local time that does not open within the next hours."""
    now = time.localtime()
    begin = (now.tm_hour + 6) % 24
    return f"{begin:02}:00-{(begin + 1) % 24:02}:00"


def test_nothing_moves_while_the_window_is_closed(edge, models):
    model, window = models[0], closed_window()
    told = put(edge, (str(model.name), True), window=window).json
    assert told["bytes"] == {"planned": model.size, "left": model.size, "fetched": 0}
    told = poll_until(lambda: (now := status(edge))["state"] == "waiting" and now)
    assert (told["waits_for"], told["window"]) == ("window", window)
    assert edge.metric("icn_upstream_received_bytes_total") == 0
    got = bundle(edge, model.wants, name=model.name, manifest=model.digest)[0]
    assert got == model.blocks, "devices are served whatever the hour"
    put(edge, (str(model.name), True), window="00:00-24:00")
    assert finished(edge)["bytes"]["fetched"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("end", ["kill", "stop"])
def test_a_plan_goes_on_where_it_was(tmp_path, fresh_origin, end):
    """kill -9 in the middle: the order is kept, what came is not fetched again, pins hold."""
    sizes = (2_000_000, 2_000_000, 3_500_000)
    models = [make_model(f"acme/go{n}", size=size, seed=700 + n) for n, size in enumerate(sizes)]
    for model in models:
        publish(fresh_origin, model)
    # However late it is ended, that is in the middle: the rest is held back until then.
    with Relay(fresh_origin.port, hold_after=5_000_000) as relay:
        options = ("--upstream", relay.url, "--capacity", "16MiB", "--upstream-timeout", "60s")
        edge = launch_edge(tmp_path / "edge", *options)
        put(edge, *[(str(model.name), True) for model in models], rate=1_500_000)
        file = tmp_path / "edge" / "prefetch.json"
        poll_until(lambda: end == "stop" or '"done"' in file.read_text())
        poll_until(lambda: here(edge, models[0]))
        getattr(edge, end)()
        assert fresh_origin.metric("icn_sent_bytes_total") < sum(sizes)
    options = ("--upstream", fresh_origin.url, *options[2:])
    with start_edge(tmp_path / "edge", *options) as edge:
        assert here(edge, models[0]), "what had come is still here"
        call(edge, "PUT", PATH, b"{")  # nonsense does not disturb it
        told = finished(edge)
        assert told["models"]["done"] == 3
        assert all(here(edge, model) for model in models)
        # What was on its way at the very moment is all that may have crossed twice.
        assert fresh_origin.metric("icn_sent_bytes_total") <= sum(sizes) + 33 * 65536
        assert edge.status()["budget"]["pinned_bytes"] >= sum(sizes)


def test_a_finished_plan_pins_after_a_restart(tmp_path, origin, models):
    options = ("--upstream", origin.url, "--capacity", "16MiB", *QUICK)
    with start_edge(tmp_path / "edge", *options) as edge:
        put(edge, (str(models[0].name), True), str(models[1].name))
        finished(edge)
        pinned = edge.status()["budget"]["pinned_bytes"]
        assert pinned >= 1_000_000
    with start_edge(tmp_path / "edge", *options) as edge:
        assert finished(edge)["state"] == "done"
        assert edge.status()["budget"]["pinned_bytes"] == pinned


def test_pinned_models_keep_their_manifests_where_nothing_is_evicted(tmp_path, fresh_origin):
    """Catches: an edge without capacity has all blocks of a pinned model, and let its manifest go
    for those of others: with the origin away the model could not be pulled."""
    pinned, *others = (
        make_model(f"acme/big{n}", size=400_000, seed=70 + n, block_bytes=4096) for n in range(4)
    )
    for model in (pinned, *others):
        publish(fresh_origin, model)
    options = ("--upstream", fresh_origin.url, "--manifest-capacity", "8000", *QUICK)
    with start_edge(tmp_path / "edge", *options) as edge:
        put(edge, (str(pinned.name), True))
        finished(edge)
        for model in others:
            path = f"/v1/manifests/{model.digest}"
            assert call(edge, "GET", path, ICN_Name=str(model.name)).status == 200
        fresh_origin.stop()
        assert call(edge, "GET", path, ICN_Name=str(model.name)).status == 200, "the newest is here"
        path = f"/v1/manifests/{others[0].digest}"
        assert call(edge, "GET", path, ICN_Name=str(others[0].name)).status != 200
        path = f"/v1/manifests/{pinned.digest}"
        assert call(edge, "GET", path, ICN_Name=str(pinned.name)).body == pinned.raw


def test_a_damaged_file_is_no_reason_not_to_serve(tmp_path, origin, models):
    options = ("--upstream", origin.url, "--capacity", "16MiB", *QUICK)
    with start_edge(tmp_path / "edge", *options) as edge:
        put(edge, (str(models[0].name), True))
        finished(edge)
    file = tmp_path / "edge" / "prefetch.json"
    for text in ('{"version": 1}', file.read_text()[:-9]):
        file.write_text(text)
        with start_edge(tmp_path / "edge", *options) as edge:
            assert status(edge) == {"state": "none"}
            assert "the plan in force is lost" in edge.logged()
            assert "Traceback" not in edge.logged()


@pytest.mark.slow
def test_an_origin_that_is_gone_is_waited_for(tmp_path):
    """A night's outage must not end the plan."""
    origin = launch_edge(tmp_path / "origin")
    model = make_model("acme/late", size=500_000, seed=800)
    publish(origin, model)
    origin.stop()
    with start_edge(tmp_path / "edge", "--upstream", origin.url, *QUICK) as edge:
        put(edge, str(model.name))
        told = poll_until(lambda: (now := status(edge))["state"] == "waiting" and now)
        assert told["waits_for"] == "retry"
        assert told["failures"][0]["again"]
        with start_edge(tmp_path / "origin", listen=f"127.0.0.1:{origin.port}"):
            assert finished(edge)["models"]["done"] == 1
        assert here(edge, model)
