"""An edge whose disk is full: what it cannot keep it passes on, and says so."""

import itertools

import pytest

from icnblocks.limits import MIB
from icnblocks.store.disk import DiskStore
from icnblocks.testing.device import Device
from icnblocks.testing.exchange import bundle, make_model, publish
from icnblocks.testing.faults import MountImpossibleError, fill_disk, small_disk
from icnblocks.testing.processes import poll_until, start_edge
from icnblocks.testing.relay import Relay
from tests.faults.pulls import ASKED, QUICK, pulled

NUMBERS = itertools.count(500)


def stored_again(edge, origin):
    """Does the edge say so, when one more block has come?"""
    number = next(NUMBERS)
    model = make_model(f"acme/more{number}", size=1000, seed=number)
    publish(origin, model, record=False)
    assert bundle(edge, model.wants)[0] == model.blocks
    return edge.status()["store"]["failing"] is False


@pytest.mark.slow
def test_a_full_disk_at_an_edge_is_passed_through_and_said(honest, size, tmp_path, right):
    """Catches: an edge that refuses what it cannot keep, or says nothing of it.

    The disk fills up in the middle of a sweep of three; a fourth comes when nothing is stored.
    """
    devices = [Device(tmp_path / f"device{number}") for number in range(4)]
    try:
        with (
            small_disk(tmp_path / "disk", 32 << 20) as disk,
            Relay(honest.port, hold_after=5_500_000) as relay,
            start_edge(disk / "edge", "--upstream", relay.url, *QUICK, "--overflow", "4MiB",
                       "--upstream-timeout", "60s") as edge,
        ):  # fmt: skip
            processes = [device.start("fetch", *ASKED, edge.url) for device in devices[:3]]
            assert relay.holding.wait(30)
            fill_disk(disk, leave=256 * 1024)
            relay.let_go()
            for process in processes:
                pulled(process)
            poll_until(lambda: edge.status()["budget"]["reserved_bytes"] == 0)
            status = edge.status()
            assert status["store"]["failing"] is True
            assert status["store"]["passed_bytes"] > 4 * MIB
            assert status["store"]["overflow_bytes"] <= 4 * MIB
            assert edge.metric("icn_storage_failing") == 1
            assert "passed on" in edge.logged()
            assert "Traceback" not in edge.logged()
            processes = [devices[3].start("fetch", *ASKED, edge.url)]
            pulled(processes[0])
            (disk / "filler").unlink()
            late = Device(tmp_path / "late")
            late.fetch("acme/model", edge.url)
            poll_until(lambda: stored_again(edge, honest), what="stored again")
            assert "stored again" in edge.logged()
            assert edge.status()["store"]["overflow_bytes"] == 0
            edge.stop()
            kept = DiskStore(disk / "edge" / "blocks", create=False)
            assert kept.used_bytes > size - 5 * MIB
            kept.close()
    except MountImpossibleError as error:
        pytest.skip(str(error))
    for device in [*devices, late]:
        assert right(device.root / "models" / "acme" / "model")


def test_a_name_that_was_never_asked_for_is_passed_through_a_full_disk_too(
    honest, tmp_path, device, right
):
    """Catches: a record or a manifest that must be stored before it is passed on.

    The disk has room for the databases as they are, and for nothing more.
    """
    try:
        with (
            small_disk(tmp_path / "disk", 8 << 20) as disk,
            start_edge(disk / "edge", "--upstream", honest.url, *QUICK) as edge,
        ):
            poll_until(edge.logged)  # its log lies on that disk too, and needs its first page
            fill_disk(disk)
            pulled(device.start("fetch", *ASKED, edge.url))
            assert right(device.root / "models" / "acme" / "model")
            assert edge.status()["store"]["failing"] is True
            assert "a record is passed on" in edge.logged()
            assert "a manifest is passed on" in edge.logged()
            assert "Traceback" not in edge.logged()
            (disk / "filler").unlink()
    except MountImpossibleError as error:
        pytest.skip(str(error))
