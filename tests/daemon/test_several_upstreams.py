"""An edge with several upstreams, all real: spread, failing over, hedging, priority, limits."""

import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from icnblocks.errors import UsageError
from icnblocks.limits import MIB
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


def test_spread_takes_a_pull_from_both_and_no_block_twice(origins, tmp_path):
    with (
        Relay(origins[0].port, rate=8e6) as one,
        Relay(origins[1].port, rate=8e6) as two,
        edge_of(tmp_path, "spread", one.url, two.url) as edge,
    ):
        assert bundle(edge, MODEL.wants, **NAMED)[0] == MODEL.blocks
        parts = came(edge, one.url), came(edge, two.url)
        assert min(parts) > MODEL.size / 4, parts
        again = edge.metric("icn_refetched_bytes_total")
        assert sum(parts) == MODEL.size
        assert again <= MIB, "but for a block or two at the tail, where one looked late"
        shown = {each["url"]: each for each in edge.status()["upstreams"]}
        assert shown[one.url]["measured_rate"] > 0
        assert edge.metric("icn_upstream_rate_bytes", upstream=two.url) > 0


def test_spread_gives_the_share_of_one_that_lacks_it_to_the_others(origins, lacking, tmp_path):
    with edge_of(tmp_path, "spread", lacking.url, origins[0].url, origins[1].url) as edge:
        assert bundle(edge, MODEL.wants, **NAMED)[0] == MODEL.blocks
        assert came(edge, lacking.url) == 0
        shown = {each["url"]: each for each in edge.status()["upstreams"]}
        assert shown[lacking.url]["found"] < 0.9
        assert shown[lacking.url]["demotions"] == 0, "that it lacks something is no failure"


@pytest.mark.parametrize("strategy", ["fail-over", "spread", "best", "hedge"])
def test_an_upstream_that_is_killed_is_left_for_the_other_at_once(origins, tmp_path, strategy):
    """With `upstream_retry` of 30 s, its blocks would be waited for that long."""
    doomed = launch_edge(tmp_path / "doomed")
    try:
        publish(doomed, MODEL)
        with (
            Relay(doomed.port, hold_after=2 * MIB) as relay,
            edge_of(tmp_path, strategy, relay.url, origins[1].url) as edge,
            ThreadPoolExecutor(1) as pool,
        ):
            pulled = pool.submit(bundle, edge, MODEL.wants, **NAMED)
            assert relay.holding.wait(30)
            doomed.kill()
            relay.cut()
            relay.let_go()
            assert pulled.result(20)[0] == MODEL.blocks
            assert came(edge, origins[1].url) > 0
            if strategy == "fail-over":  # others may have all before they notice
                assert edge.metric("icn_upstream_demotions_total", upstream=relay.url) >= 1
                assert edge.status()["upstreams"][0]["why"] == "broken", "not only found silent"
    finally:
        doomed.kill()


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
        LyingServer(MODEL.blocks, Lie.FLIP) as lying,
        edge_of(tmp_path, "spread", lying.url, origins[0].url) as edge,
    ):
        assert bundle(edge, MODEL.wants, **NAMED)[0] == MODEL.blocks
        shown = {each["url"]: each for each in edge.status()["upstreams"]}[lying.url]
        assert shown["why"] == "corrupt"
        assert shown["resting_s"] > 0
        assert edge.metric("icn_refetched_bytes_total", cause="corrupt") > 0


def test_what_is_urgent_overtakes_what_waits(origins, tmp_path):
    """All that is missed used to be handed over at once, first come first served."""
    low, high = MODEL.wants[:-8], MODEL.wants[-8:]
    with (
        edge_of(tmp_path, "fail-over", origins[0].url,
                more=(*CALM, "--upstream-limit", "1500kB/s", "--bundle-window", "200")) as edge,
        ThreadPoolExecutor(2) as pool,
    ):  # fmt: skip
        slow = pool.submit(bundle, edge, low, **NAMED, priority=0)
        poll_until(lambda: edge.metric("icn_upstream_received_bytes_total") > 0)
        assert edge.status()["pit"]["waiting_for_turn"] > 0
        quick = pool.submit(bundle, edge, high, **NAMED, priority=7)
        assert len(quick.result(30)[0]) == 8
        assert edge.metric("icn_pit_blocks") > 0, "the others still wait"
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
