"""A whole swarm at work: how often its edge sends a model, and when all devices have it."""

from __future__ import annotations

import pytest

from tests.client.fluids import Network


@pytest.mark.parametrize("seed", range(3))
def test_sixteen_devices_finish_little_later_than_the_edge_can_send_it_once(seed: int) -> None:
    """From the edge alone they would take 16 times as long."""
    count = 64
    network = Network(16, count, seed)
    network.run(16 * count)
    bound = count * (1 + 4 / count)
    assert max(ended or 1e9 for ended in network.ended) <= 1.5 * bound
    assert network.sent <= 1.5 * count, "blocks that the edge sent"


@pytest.mark.parametrize("seed", range(3))
def test_small_blocks_that_were_added_last_do_not_make_portions_large(seed: int) -> None:
    """Catches: by the blocks of the last part a portion was all of the model, for each device."""
    network = Network(16, 64, seed, small=(16, 4096))
    network.run(16 * 48)
    assert max(ended or 1e9 for ended in network.ended) <= 1.6 * (48 + 4)
    assert network.sent <= 1.7 * 48, "MiB that the edge sent"


def test_a_device_that_goes_away_costs_the_others_little() -> None:
    network = Network(8, 64, 1)
    network.run(32)
    network.leave(0)
    network.leave(1)
    network.run(8 * 64)
    assert max(ended or 1e9 for ended in network.ended[2:]) <= 1.7 * 64


def test_a_device_alone_gets_it_from_the_edge() -> None:
    network = Network(1, 64, 1)
    network.run(200)
    assert network.ended[0] is not None
    assert network.ended[0] <= 66
    assert network.sent == 64


@pytest.mark.parametrize("seed", range(3))
def test_devices_that_nobody_deals_to_exchange_most_of_it_all_the_same(seed: int) -> None:
    """Catches: all asked the edge for the same blocks, in order, and it sent each to all 16."""
    network = Network(16, 64, seed)
    for device in network.devices:
        device.dealt(0, None)
    network.run(16 * 64)
    assert network.sent <= 3 * 64, "blocks that the edge sent"
