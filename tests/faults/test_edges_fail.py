"""An edge that dies in the middle of a sweep, or that is left for another one."""

import signal
from functools import partial
from pathlib import Path

import pytest

from icnblocks.assembly.assembler import on_a_disk
from icnblocks.limits import MIB
from icnblocks.testing.device import Device
from icnblocks.testing.processes import launch_edge, poll_until, start_edge
from icnblocks.testing.relay import Relay
from tests.faults.pulls import ASKED, QUICK, pulled


def kill_in_a_sweep(readers, origin, size, tmp_path, right):
    """`readers` pull through an edge that is killed in the middle and started again.

    The way from the origin is held, so that the edge dies with all of them in the sweep, and slow:
    the edge notes once a second which blocks it has, and what came since then it may lose.
    """
    devices = [
        Device(tmp_path / f"device{number}", ICN_RETRY_S="60", ICN_STALL_S="5")
        for number in range(readers)
    ]
    with Relay(origin.port, hold_after=8_000_000, rate=2_000_000) as relay:
        options = ("--upstream", relay.url, *QUICK, "--upstream-timeout", "60s")
        edge = launch_edge(tmp_path / "edge", *options)
        try:
            processes = [device.start("fetch", *ASKED, edge.url) for device in devices]
            assert relay.holding.wait(60)
            maps = [each.root / "models" / "acme" / "model" / ".icnblocks" for each in devices]
            poll_until(lambda: all(each.exists() for each in maps), timeout_s=60, what="readers")
            came = partial(edge.metric, "icn_upstream_received_bytes_total")
            poll_until(lambda: came() > 5_500_000, what="so much that losing all of it shows")
            before = came()
            edge.kill()
            relay.cut()
            relay.let_go()
            edge = launch_edge(tmp_path / "edge", *options, listen=f"127.0.0.1:{edge.port}")
            for process in processes:
                pulled(process)
            assert all(right(each.root / "models" / "acme" / "model") for each in devices)
            after = edge.metric("icn_upstream_received_bytes_total")
        finally:
            edge.stop()
    assert before + after <= size + 5_500_000, "what was stored before was fetched again"


@pytest.mark.slow
def test_an_edge_killed_in_a_sweep_goes_on_with_what_it_had(origin, size, tmp_path, right):
    """Catches: a store that after kill -9 has lost its blocks, or serves a torn one."""
    kill_in_a_sweep(3, origin, size, tmp_path, right)


@pytest.mark.slow
def test_an_edge_killed_in_a_sweep_of_sixteen_readers(origin, size, tmp_path, right):
    """As above: whatever the sixteen have in flight."""
    kill_in_a_sweep(16, origin, size, tmp_path, right)


@pytest.mark.slow
def test_a_cancelled_device_goes_on_at_another_edge(honest, size, tmp_path, device, right):
    """Catches: a block map that is bound to its source, and a fetch that outlives its last reader.

    When the device is cancelled the edge must end the transfer upstream: nobody wants it.
    """
    with (
        Relay(honest.port, hold_after=8_000_000) as relay,
        start_edge(tmp_path / "one", "--upstream", relay.url, *QUICK,
                   "--upstream-timeout", "60s") as one,
        start_edge(tmp_path / "two", "--upstream", honest.url, *QUICK) as two,
    ):  # fmt: skip
        process = device.start("fetch", *ASKED, one.url)
        assert relay.holding.wait(30)
        # What the edge has sent may lie in the kernel yet; this the device has written.
        pulling = device.root / "models" / "acme" / "model"

        def written():
            there = (each.read_bytes() for each in pulling.glob("*.safetensors.partial"))
            return sum(len(data) - data.count(0) for data in there)

        poll_until(lambda: written() > 4 * MIB)
        assert all(  # not one write after the other asked for room
            512 * facts.st_blocks >= facts.st_size or not on_a_disk(facts)
            for facts in map(Path.stat, pulling.glob("*.safetensors.partial"))
        )
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        assert process.returncode == 130
        poll_until(lambda: one.metric("icn_pit_blocks") == 0)
        poll_until(lambda: one.metric("icn_store_reserved_bytes") == 0)
        done = device.fetch("acme/model", two.url)
        assert right(done["path"])
        assert done["bytes_network"] < size - 3 * MIB
