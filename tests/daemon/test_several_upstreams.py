"""An edge with several upstreams, all real: spread, failing over, hedging, priority, limits."""

import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from icnblocks.errors import UsageError
from icnblocks.limits import KIB, MIB
from icnblocks.testing.device import Device
from icnblocks.testing.exchange import bundle, call, make_model, publish, record_path
from icnblocks.testing.lying import Lie, LyingServer
from icnblocks.testing.processes import launch_edge, poll_until, start_edge
from icnblocks.testing.relay import Relay
from icnblocks.wire.bundle import Order
from icnblocks_daemon.config import load_config

MODEL = make_model("acme/shared", size=6 * MIB, seed=77)
NAMED = {"name": MODEL.name, "manifest": MODEL.digest}
CALM = ("--upstream-timeout", "60s", "--upstream-retry", "30s")
"""So patient that a test ends in time only if a strategy sees what is wrong."""


@pytest.fixture(scope="module")
def origins(tmp_path_factory):
    """Two that both have the model."""
    with ExitStack() as stack:
        found = [
            stack.enter_context(start_edge(tmp_path_factory.mktemp("two") / name))
            for name in ("first", "second")
        ]
        for origin in found:
            publish(origin, MODEL)
        yield found


@pytest.fixture
def lacking(tmp_path):
    """An origin without the model."""
    with start_edge(tmp_path / "lacking") as origin:
        yield origin


def upstreams(*urls):
    return [word for url in urls for word in ("--upstream", url)]


def edge_of(path, strategy, *urls, more=CALM):
    return start_edge(path / "edge", *upstreams(*urls), "--strategy", strategy, *more)


def came(edge, url):
    return edge.metric("icn_upstream_received_bytes_total", upstream=url)


def parts_of(edge, *urls):
    """What came from each of these, once all is counted: a block is passed on before it is."""

    def counted():
        parts = [came(edge, url) for url in urls]
        return sum(parts) >= MODEL.size and parts

    return poll_until(counted, what="all that came is counted")


def shown_of(edge, upstream):
    (shown,) = (each for each in edge.status()["upstreams"] if each["url"] == upstream.url)
    return shown


def test_spread_takes_a_pull_from_both_and_no_block_twice(origins, tmp_path):
    most = MODEL.size * 2 // 5
    with (
        ThreadPoolExecutor(1) as pool,
        Relay(origins[0].port, rate=8e6, hold_after=most) as one,
        Relay(origins[1].port, rate=8e6, hold_after=most) as two,
        edge_of(tmp_path, "spread", one.url, two.url) as edge,
    ):
        pulled = pool.submit(bundle, edge, MODEL.wants, **NAMED)
        # However long one is held up, the other gives no more before that has given as much.
        assert one.holding.wait(30)
        assert two.holding.wait(30)
        one.let_go()
        two.let_go()
        assert pulled.result(30)[0] == MODEL.blocks
        parts = parts_of(edge, one.url, two.url)
        assert min(parts) > MODEL.size / 4, parts
        assert sum(parts) == MODEL.size
        again = edge.metric("icn_refetched_bytes_total")
        late = edge.metric("icn_upstream_hedges_total")
        assert again <= late * 64 * KIB, "but for what one looked late with"
        assert shown_of(edge, one)["measured_rate"] > 0
        assert edge.metric("icn_upstream_rate_bytes", upstream=two.url) > 0


def test_spread_gives_the_share_of_one_that_lacks_it_to_the_others(origins, lacking, tmp_path):
    with (
        ThreadPoolExecutor(1) as pool,
        Relay(origins[0].port, hold_after=0) as one,
        Relay(origins[1].port, hold_after=0) as two,
        edge_of(tmp_path, "spread", lacking.url, one.url, two.url) as edge,
    ):
        pulled = pool.submit(bundle, edge, MODEL.wants, **NAMED)
        # It has said so before the others can have given all without it.
        poll_until(lambda: shown_of(edge, lacking)["found"] < 0.9)
        why = shown_of(edge, lacking)["why"]
        assert why in {None, "slow"}, "that it lacks something is no failure"
        one.let_go()
        two.let_go()
        assert pulled.result(30)[0] == MODEL.blocks
        assert came(edge, lacking.url) == 0


@pytest.mark.parametrize("strategy", ["fail-over", "spread", "best", "hedge"])
def test_an_upstream_that_is_killed_is_left_for_the_other_at_once(origins, tmp_path, strategy):
    """With `upstream_retry` of 30 s, its blocks would be waited for that long."""
    doomed = launch_edge(tmp_path / "doomed")
    try:
        publish(doomed, MODEL)
        with (
            ThreadPoolExecutor(1) as pool,
            Relay(doomed.port, hold_after=2 * MIB) as relay,
            Relay(origins[1].port, hold_after=0) as other,
            edge_of(tmp_path, strategy, relay.url, other.url) as edge,
        ):
            pulled = pool.submit(bundle, edge, MODEL.wants, **NAMED)
            assert relay.holding.wait(30), "the other cannot give all before"
            doomed.kill()
            relay.cut()
            relay.let_go()
            if strategy == "fail-over":  # others may have all before they notice
                poll_until(lambda: shown_of(edge, relay)["why"] == "broken")  # not only silent
                assert edge.metric("icn_upstream_demotions_total", upstream=relay.url) >= 1
            other.let_go()
            assert pulled.result(20)[0] == MODEL.blocks
            poll_until(lambda: came(edge, other.url) > 0)
    finally:
        doomed.kill()


@pytest.mark.slow
def test_a_hedge_is_asked_when_the_first_stalls_and_the_stalled_one_rests(origins, tmp_path):
    with (
        LyingServer(MODEL.blocks, Lie.STALL_MID, after=3) as stalling,
        edge_of(tmp_path, "hedge", stalling.url, origins[0].url) as edge,
        ThreadPoolExecutor(1) as pool,
    ):
        pulled = pool.submit(bundle, edge, MODEL.wants, **NAMED)
        assert pulled.result(25)[0] == MODEL.blocks
        assert edge.metric("icn_upstream_hedges_total", upstream=stalling.url) >= 1
        assert edge.metric("icn_upstream_demotions_total", upstream=stalling.url) >= 1
        total = edge.metric("icn_upstream_received_bytes_total")
        twice = edge.metric("icn_refetched_bytes_total", cause="hedge")
        assert total <= MODEL.size + twice
        poll_until(lambda: edge.metric("icn_refetched_bytes_total", cause="hedge") > 0)


def test_one_that_sends_corrupt_blocks_rests_and_the_other_gives_them(origins, tmp_path):
    with (
        ThreadPoolExecutor(1) as pool,
        LyingServer(MODEL.blocks, Lie.FLIP) as lying,
        Relay(origins[0].port, hold_after=0) as honest,
        edge_of(tmp_path, "spread", lying.url, honest.url) as edge,
    ):
        pulled = pool.submit(bundle, edge, MODEL.wants, **NAMED)
        # The honest one cannot give all before the other was found out.
        rests = poll_until(
            lambda: (shown := shown_of(edge, lying))["why"] == "corrupt" and shown["resting_s"]
        )
        assert rests > 0
        honest.let_go()
        assert pulled.result(30)[0] == MODEL.blocks
        assert edge.metric("icn_refetched_bytes_total", cause="corrupt") > 0


@pytest.mark.slow
def test_what_is_urgent_overtakes_what_waits(tmp_path):
    """All that is missed used to be handed over at once, first come first served."""
    low, high = MODEL.wants[:-8], MODEL.wants[-8:]
    wanted = threading.Event()
    with (
        ThreadPoolExecutor(2) as pool,
        LyingServer(MODEL.blocks, waits_for=wanted) as server,
        # All but six blocks pass: without the eight, the others would be done with that.
        Relay(server.port, hold_after=MODEL.size - 6 * 64 * KIB) as relay,
        edge_of(tmp_path, "fail-over", relay.url,
                more=(*CALM, "--upstream-limit", "1500kB/s", "--bundle-window", "200")) as edge,
    ):  # fmt: skip

        def waiting():
            return edge.status()["pit"]["waiting_for_turn"]

        slow = pool.submit(bundle, edge, low, **NAMED, priority=0)
        first = poll_until(waiting)
        quick = pool.submit(bundle, edge, high, **NAMED, priority=7)
        poll_until(lambda: waiting() == first + len(high))
        wanted.set()
        assert len(quick.result(30)[0]) == 8
        assert edge.metric("icn_pit_blocks") > 0, "the others still wait"
        relay.let_go()
        assert len(slow.result(30)[0]) == len(low)


def test_priority_and_order_are_passed_on(tmp_path):
    with (
        LyingServer(MODEL.blocks) as server,
        edge_of(tmp_path, "fail-over", server.url) as edge,
    ):
        asked = {**NAMED, "priority": 6, "order": Order.LISTED}
        assert bundle(edge, MODEL.wants[:9], **asked)[0]
        assert {(each.priority, each.order) for each in server.bundles} == {(6, "listed")}


def test_a_reload_changes_the_strategy_and_keeps_what_is_known(origins, tmp_path):
    settings = tmp_path / "edge.toml"
    settings.write_text('strategy = "fail-over"\n')
    config = ("--config", str(settings), *CALM)
    with start_edge(tmp_path / "edge", *config, *upstreams(*(o.url for o in origins))) as edge:
        assert bundle(edge, MODEL.wants[:9], **NAMED)[0]
        before = edge.status()["upstreams"][0]["measured_rate"]
        assert before
        settings.write_text('strategy = "spread:x=1"\n')
        edge.process.send_signal(signal.SIGHUP)
        poll_until(lambda: "nothing was reloaded: strategy" in edge.logged())
        settings.write_text('strategy = "spread"\n')
        edge.process.send_signal(signal.SIGHUP)
        poll_until(lambda: edge.status()["strategy"] == "spread")
        assert edge.status()["upstreams"][0]["measured_rate"] == before
        assert bundle(edge, MODEL.wants, **NAMED)[0] == MODEL.blocks


def test_records_and_manifests_come_from_whoever_has_them(origins, lacking, tmp_path):
    with edge_of(tmp_path, "spread", lacking.url, origins[0].url) as edge:
        assert call(edge, "GET", record_path(MODEL.name)).status == 200
        assert call(edge, "GET", f"/v1/manifests/{MODEL.digest}").body == MODEL.raw


@pytest.mark.parametrize(
    "limits",
    [["fast"], ["http://b=1Mbit"], ["1Mbit", "2Mbit"], ["http://a=0"], ["ftp://a=1Mbit"]],
)
def test_a_wrong_limit_is_refused_in_one_line(tmp_path, limits):
    with pytest.raises(UsageError, match=r"upstream.limit") as caught:
        load_config(None, {}, {"store": str(tmp_path), "upstream": ("http://a",),
                               "upstream_limit": tuple(limits)})  # fmt: skip
    assert "\n" not in str(caught.value)


def test_a_limit_is_for_one_upstream_or_for_all(tmp_path):
    limits = ("10Mbit", "http://a/=25MB/s")
    flags = {"store": str(tmp_path), "upstream": ("http://a", "http://b"), "upstream_limit": limits}
    config = load_config(None, {}, flags)
    assert dict(config.upstream_limit) == {"": 1.25e6, "http://a": 25e6}


def test_an_upstream_with_an_older_record_does_not_hide_a_newer_one(tmp_path):
    """Catches: a name served stale for days, though the second upstream has it as it is now."""
    path, fresh = record_path(MODEL.name), ("--record-cap", "0s")
    with start_edge(tmp_path / "one") as one, start_edge(tmp_path / "two") as two:
        publish(one, MODEL)
        publish(two, MODEL)
        newer, newest = MODEL.record(seq=2), MODEL.record(seq=3)
        assert call(two, "PUT", path, newer).status == 201
        with start_edge(tmp_path / "edge", *upstreams(two.url), *fresh) as edge:
            assert call(edge, "GET", path).body == newer
        assert call(two, "PUT", path, newest).status == 201
        with edge_of(tmp_path, "fail-over", one.url, two.url, more=fresh) as edge:
            reply = call(edge, "GET", path)
            assert (reply.body, reply.headers.get("ICN-Stale")) == (newest, None)
            told = {each["url"]: each["last_control_error"] for each in edge.status()["upstreams"]}
            assert "goes back" in told[one.url]
            assert told[two.url] is None


def test_what_was_changed_at_an_origin_is_refused_as_such_through_an_edge(tmp_path):
    """Catches: a refusal for good that becomes one that may pass, and is retried for a minute."""
    root = tmp_path / "model"
    root.mkdir()
    (root / "weights").write_bytes(bytes(range(256)) * 256)
    publisher = Device(tmp_path / "publisher")
    publisher.run("publish", root, "acme/m", "--store", tmp_path / "origin").done()
    with start_edge(tmp_path / "origin") as origin:
        with start_edge(tmp_path / "edge", "--upstream", origin.url) as edge:
            (root / "weights").write_bytes(b"other")
            ran = Device(tmp_path / "device", ICN_RETRY_S="3600").run(
                "fetch", "acme/m", "--from", edge.url, "--trust-first-use"
            )
    assert (ran.code, ran.last["error"]) == (10, "incomplete")
    assert "changed" in ran.last["message"]
