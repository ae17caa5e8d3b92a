"""Upstreams that die, stall, reset, lie: an edge between them and a device, all real processes."""

import random
import urllib.error
import urllib.request

import pytest

from icnblocks.limits import MIB
from icnblocks.manifest.codec import decode
from icnblocks.naming import Digest
from icnblocks.testing.device import Device
from icnblocks.testing.lying import LyingServer, Reply
from icnblocks.testing.models import write_llama
from icnblocks.testing.processes import launch_edge, start_edge
from icnblocks.testing.relay import Relay
from icnblocks.wire.havemap import HaveMap, encode_have
from tests.faults.pulls import ASKED, QUICK, pulled


@pytest.mark.slow
def test_an_upstream_killed_within_a_block_and_restarted_costs_that_block_only(
    store, size, tmp_path, device, right
):
    """Catches: a half block that is taken for whole, and a retry budget that a dead port uses up.

    The relay holds back everything after 5.5 MB, so that the origin dies within a block.
    """
    origin = launch_edge(store)
    try:
        with (
            Relay(origin.port, hold_after=5_500_000) as relay,
            start_edge(tmp_path / "edge", "--upstream", relay.url, *QUICK,
                       "--upstream-timeout", "20s", "--upstream-retry", "20s") as edge,
        ):  # fmt: skip
            process = device.start("fetch", *ASKED, edge.url)
            assert relay.holding.wait(30)
            origin.kill()
            relay.cut()
            relay.let_go()
            origin = launch_edge(store, listen=f"127.0.0.1:{origin.port}")
            pulled(process)
            assert right(device.root / "models" / "acme" / "model")
            came = edge.metric("icn_upstream_received_bytes_total")
            assert came <= size, "a block was accepted twice"
            assert edge.metric("icn_refetched_bytes_total", cause="cut") > 0
            assert edge.metric("icn_refetched_bytes_total") <= 4 * MIB
    finally:
        origin.stop()


@pytest.mark.slow
def test_an_upstream_killed_for_good_hands_over_to_the_second(
    store, honest, size, tmp_path, device, right
):
    """Catches: blocks that were asked of the dead one and never of another.

    The second is slow: it might have brought so much that the first is never held.
    """
    origin = launch_edge(store)
    try:
        with (
            Relay(origin.port, hold_after=4_000_000) as relay,
            Relay(honest.port, rate=2e6) as second,
            start_edge(tmp_path / "edge", "--upstream", relay.url, "--upstream", second.url,
                       *QUICK) as edge,
        ):  # fmt: skip
            process = device.start("fetch", *ASKED, edge.url)
            assert relay.holding.wait(30)
            origin.kill()
            relay.cut()
            relay.let_go()
            pulled(process)
            assert right(device.root / "models" / "acme" / "model")
            assert edge.metric("icn_upstream_received_bytes_total") <= size
            assert edge.metric("icn_upstream_received_bytes_total", upstream=second.url) > 0
    finally:
        origin.stop()


@pytest.mark.slow
def test_an_upstream_that_stalls_without_closing_is_left_for_the_second(
    honest, tmp_path, device, right
):
    """Catches: waiting for ever on a connection that is open and silent.

    The second is slow: it might have brought so much that the first is never held.
    """
    with (
        Relay(honest.port, hold_after=3_000_000) as relay,
        Relay(honest.port, rate=2e6) as second,
        start_edge(tmp_path / "edge", "--upstream", relay.url, "--upstream", second.url,
                   *QUICK) as edge,
    ):  # fmt: skip
        pulled(device.start("fetch", *ASKED, edge.url))
        assert relay.holding.is_set()
        assert right(device.root / "models" / "acme" / "model")
        (first, _) = sorted(edge.status()["upstreams"], key=lambda each: each["url"] != relay.url)
        assert first["failures"] > 0


@pytest.mark.slow
def test_resets_every_5_mb_end_no_pull_that_gets_on(tmp_path, device, same):
    """Catches: retry budgets that progress does not renew (the pull takes several resets)."""
    model = write_llama(tmp_path / "model", layers=10, hidden=512, vocabulary=4000, seed=5)
    with (
        start_edge(tmp_path / "origin") as origin,
        Relay(origin.port, reset_every=5_000_000) as relay,
        start_edge(tmp_path / "edge", "--upstream", relay.url, *QUICK) as edge,
        Relay(edge.port, reset_every=5_000_000) as nearer,
    ):
        Device(tmp_path / "publisher").publish(model, "acme/model", origin.url)
        pulled(device.start("fetch", *ASKED, nearer.url))
        assert same(model, device.root / "models" / "acme" / "model")
        assert relay.resets >= 4
        assert nearer.resets >= 4
        assert edge.metric("icn_store_reserved_bytes") == 0


@pytest.mark.slow
def test_bits_flipped_at_random_on_the_way_reach_nobody(honest, tmp_path, device, right):
    """Catches: a block that is accepted unhashed, at the edge or at the device.

    Every fourth piece of 64 KiB is changed, and so are most blocks, and now and then a frame's
    head: on the way to the edge, and on the way to the device. Who is honest is slow, so that
    enough comes from who is not.
    """
    with (
        Relay(honest.port, flips=(1 / 4, random.Random(1)), skip=64 * 1024) as far,
        Relay(honest.port, rate=3e6) as slow,
        start_edge(tmp_path / "edge", "--upstream", far.url, "--upstream", slow.url,
                   *QUICK) as edge,
        Relay(edge.port, flips=(1 / 4, random.Random(2)), skip=64 * 1024) as near,
        Relay(edge.port, rate=3e6) as slower,
    ):  # fmt: skip
        pulled(device.start("fetch", *ASKED, near.url, "--from", slower.url))
        assert right(device.root / "models" / "acme" / "model")
        assert far.flipped
        assert near.flipped
        assert edge.metric("icn_corrupt_blocks_total") == 0


class Boaster:
    """Says that it has every block of every manifest, and refuses each; names come from others."""

    def __init__(self, behind):
        self.behind = behind
        self.asked_for_maps = 0

    def respond(self, request):
        try:
            with urllib.request.urlopen(self.behind.url + request.path, timeout=10) as answer:
                body = answer.read()
        except urllib.error.HTTPError:
            return None
        if request.path.endswith("/have"):
            self.asked_for_maps += 1
            manifest = self.behind.get(request.path.removesuffix("/have"))
            assert str(Digest.of(manifest)) in request.path
            count = len(decode(manifest).lengths())
            return Reply(200, encode_have(HaveMap(b"\1" * count, fetches=True)))
        return Reply(200, body)


@pytest.mark.parametrize("at", ["device", "edge"])
def test_who_says_it_has_what_it_has_not_costs_time_only(at, honest, tmp_path, device, right):
    """Catches: a want that is refused because one source's have-map was believed over its Nack.

    The good one is held until the other was asked for blocks: it might bring all of them before.
    """
    boaster = Boaster(honest)
    with (
        LyingServer({}, respond=boaster.respond) as liar,
        Relay(honest.port, hold_after=1_000_000) as good,
    ):
        if at == "device":
            process = device.start("fetch", *ASKED, liar.url, "--from", good.url)
            assert liar.asked.wait(30)
            good.let_go()
            pulled(process)
            assert boaster.asked_for_maps > 0
        else:
            upstreams = ("--upstream", liar.url, "--upstream", good.url)
            with start_edge(tmp_path / "edge", *upstreams, *QUICK) as edge:
                process = device.start("fetch", *ASKED, edge.url)
                assert liar.asked.wait(30)
                good.let_go()
                pulled(process)
    assert right(device.root / "models" / "acme" / "model")


@pytest.mark.slow
def test_a_killed_upstream_alone_is_an_error_and_nothing_that_came_is_lost(
    store, size, tmp_path, right
):
    """Catches: a pull that hangs on when nobody is left, and one that begins anew afterwards."""
    origin = launch_edge(store)
    try:
        with (
            Relay(origin.port, hold_after=5_500_000) as relay,
            start_edge(tmp_path / "edge", "--upstream", relay.url, *QUICK) as edge,
        ):
            device = Device(tmp_path / "device", ICN_RETRY_S="2", ICN_STALL_S="2")
            process = device.start("fetch", *ASKED, edge.url)
            assert relay.holding.wait(30)
            origin.kill()
            relay.cut()  # what lies in buffers on the way might be all the rest
            relay.let_go()
            out, err = process.communicate(timeout=60)
            assert process.returncode == 10, (out, err)
            assert b"Traceback" not in err
            origin = launch_edge(store, listen=f"127.0.0.1:{origin.port}")
            patient = Device(tmp_path / "device", ICN_RETRY_S="40")  # the edge lets it rest a while
            done = patient.fetch("acme/model", edge.url)
            assert right(done["path"])
            assert done["bytes_network"] < size - 3 * MIB
    finally:
        origin.stop()
