"""Sweeps: many want the same, at the same or other moments, and it comes once."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from icnblocks.limits import MIB
from icnblocks.testing.exchange import begun, bundle, make_model, publish
from icnblocks.testing.processes import peak_mb, poll_until, start_edge
from icnblocks.testing.relay import Relay

NAMES = iter(range(1000))
RATE = 24e6


@pytest.fixture
def big(honest):
    """A model of 24 MiB that nobody has yet but the origin."""
    number = next(NAMES)
    model = make_model(f"local/sweep{number}", size=24 * MIB, seed=7000 + number, block_bytes=MIB)
    publish(honest, model, record=False)
    return model


def ask(edge, model):
    return bundle(edge, model.wants)[0] == model.blocks


def upstream(edge):
    return edge.metric("icn_upstream_received_bytes_total")


@pytest.mark.slow
@pytest.mark.parametrize("capacity", ["none", "16MiB"])
def test_who_comes_late_rides_on_and_gets_the_rest_afterwards(capacity, honest, big, tmp_path):
    """Catches: a second sweep for whoever comes while one is under way; also where the budget is
    smaller than the model, so that the blocks of the beginning are gone when they come to them.
    The sweep takes three seconds, so that who is held up for one comes in time all the same.
    """
    options = ("--capacity", capacity, "--policy", "lru", "--bundle-window", "24")
    with (
        Relay(honest.port, rate=RATE / 3) as relay,
        start_edge(tmp_path / "edge", "--upstream", relay.url, *options) as edge,
        ThreadPoolExecutor(4) as pool,
    ):
        pulls = []
        for number in range(4):
            poll_until(lambda done=number: upstream(edge) >= done * 5 * MIB, timeout_s=60)
            pulls.append(pool.submit(ask, edge, big))
        assert all(pull.result() for pull in pulls)
        poll_until(lambda: edge.metric("icn_pit_blocks") == 0)
        if capacity == "none":
            assert upstream(edge) == big.size
            assert edge.metric("icn_refetched_bytes_total") == 0
        else:
            assert upstream(edge) <= 2 * big.size
            assert edge.metric("icn_store_used_bytes") <= 16 * MIB


@pytest.mark.slow
def test_readers_at_once_of_a_model_larger_than_the_budget_cost_one_sweep(honest, big, tmp_path):
    """Catches: blocks that are fetched for one, evicted, and fetched for the next."""
    options = ("--capacity", "16MiB", "--policy", "lru", "--bundle-window", "24")
    with (
        Relay(honest.port, rate=RATE, hold_after=0) as relay,
        start_edge(tmp_path / "edge", "--upstream", relay.url, *options) as edge,
        ThreadPoolExecutor(6) as pool,
    ):
        pulls = [pool.submit(ask, edge, big) for _ in range(6)]
        poll_until(lambda: edge.metric("icn_requests_in_flight") == 6)  # none comes late
        relay.let_go()
        assert all(pull.result() for pull in pulls)
        again = edge.metric("icn_refetched_bytes_total")
        assert upstream(edge) == big.size + again, "what came twice is counted"
        assert again <= 4 * MIB


@pytest.mark.slow
def test_slow_readers_slow_nobody_and_cost_little_memory(honest, big, tmp_path):
    """Catches: a sweep that waits for its slowest reader, and buffers that grow behind it.

    Thirty readers take nothing at all while four others pull; they hold leases and sockets, and
    no payload in the daemon's memory.
    """
    with start_edge(tmp_path / "edge", "--upstream", honest.url) as edge:
        before = peak_mb(edge.process.pid)
        slow = [begun(edge, big.wants) for _ in range(30)]
        try:
            poll_until(lambda: edge.metric("icn_requests_in_flight") >= 30)
            began = time.monotonic()
            with ThreadPoolExecutor(4) as pool:
                assert all(pool.map(lambda _: ask(edge, big), range(4)))
            assert time.monotonic() - began < 60
            assert edge.metric("icn_requests_in_flight") >= 30
            assert upstream(edge) == big.size
            assert peak_mb(edge.process.pid) - before < 60
        finally:
            for sock in slow:
                sock.close()
        poll_until(lambda: edge.metric("icn_requests_in_flight") == 0)
