"""A daemon that has as much to do as it may: it says so, and clients come back as asked."""

import contextlib
import time
from functools import partial

import pytest

from icnblocks.limits import MIB
from icnblocks.testing.device import Device
from icnblocks.testing.exchange import begun, make_model, publish
from icnblocks.testing.processes import poll_until, start_edge
from icnblocks.testing.relay import Relay
from tests.faults.pulls import ASKED, pulled


@pytest.mark.slow
def test_pulls_through_a_daemon_that_takes_one_request_at_a_time_end_well(store, tmp_path, right):
    """Catches: a refusal that is taken for a failure of the source.

    Somebody who does not read holds the only place until all have been refused.
    """
    model = make_model("local/held", size=8 * MIB, block_bytes=MIB)
    devices = [Device(tmp_path / f"device{number}", ICN_RETRY_S="30") for number in range(3)]
    with start_edge(store, "--max-client-requests", "1") as origin:
        publish(origin, model)
        with begun(origin, model.wants):
            poll_until(lambda: origin.metric("icn_requests_in_flight") == 1)
            processes = [each.start("fetch", *ASKED, origin.url) for each in devices]
            limited = partial(origin.metric, "icn_requests_limited_total", limit="client")
            poll_until(lambda: limited() >= 2 * len(devices))
        for process in processes:
            pulled(process)
    assert all(right(each.root / "models" / "acme" / "model") for each in devices)


@pytest.mark.slow
def test_a_pull_that_finds_every_place_taken_waits_from_the_first_question_on(
    store, tmp_path, device, right
):
    """Catches: a 429 to the question for the name or the manifest that ends the pull, and a client
    that passes Retry-After over: three refusals a second apart take two seconds at least.
    """
    model = make_model("local/held", size=8 * MIB, block_bytes=MIB)
    with start_edge(store, "--max-requests", "2") as origin, contextlib.ExitStack() as stack:
        publish(origin, model)
        for _ in range(2):  # readers who do not read keep their places
            stack.enter_context(begun(origin, model.wants))
        poll_until(lambda: origin.metric("icn_requests_in_flight") == 2)
        refused = partial(origin.metric, "icn_requests_limited_total", limit="total")
        looks = [time.monotonic()]

        def is_refused():
            looks.append(time.monotonic())
            return refused()

        process = device.start("fetch", *ASKED, origin.url)
        poll_until(is_refused)
        poll_until(lambda: refused() >= 3)
        # Since the last look that found nothing yet: what we see may be a second old.
        assert time.monotonic() - looks[-2] > 1.5
        assert process.poll() is None
        stack.close()
        pulled(process)
    assert right(device.root / "models" / "acme" / "model")


def test_the_last_who_leaves_ends_the_transfer_and_none_before(honest, tmp_path, size, right):
    """Catches: a fetch that ends with the first reader who is cancelled, or with none."""
    devices = [Device(tmp_path / f"device{number}") for number in range(3)]
    with (
        Relay(honest.port, hold_after=5_500_000) as relay,
        start_edge(tmp_path / "edge", "--upstream", relay.url, "--upstream-timeout", "60s",
                   "--alive-interval", "500ms") as edge,
    ):  # fmt: skip
        processes = [each.start("fetch", *ASKED, edge.url) for each in devices]
        assert relay.holding.wait(60)
        # More than two can have been sent: the third one reads too.
        sent, came = "icn_sent_bytes_total", "icn_upstream_received_bytes_total"
        poll_until(
            lambda: edge.metric(sent) > 2 * edge.metric(came) > 0, timeout_s=60, what="readers"
        )
        for process in processes[:2]:
            process.kill()
            process.communicate()
        assert edge.metric("icn_pit_blocks") > 0
        relay.let_go()
        pulled(processes[2])
        assert right(devices[2].root / "models" / "acme" / "model")
        assert edge.metric("icn_upstream_received_bytes_total") <= size
        assert edge.metric("icn_refetched_bytes_total") <= 4 * MIB
