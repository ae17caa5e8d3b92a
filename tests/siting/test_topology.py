"""The radio model, against its formulas by hand."""

import math

import numpy as np
import pytest

from icnblocks.errors import UsageError
from icnblocks.siting.topology import (
    Setup,
    Topology,
    draw_instance,
    in_time,
    rates,
    zipf_weights,
)
from icnblocks.workloads.lora import lora_library

SETUP = Setup(edges=2, users=3)


def test_the_rate_is_that_of_the_formula():
    """Three covered users share band and power as 1.5 active ones; beyond 275 m is nothing."""
    topology = Topology(
        np.array([[0.0, 0.0], [1000.0, 0.0]]), np.array([[100.0, 0.0], [0.0, 0.5], [0.0, 275.0]])
    )
    speed = rates(SETUP, topology)
    band, power = 400e6 / 1.5, 10 ** (43 / 10) / 1000 / 1.5
    noise = 10 ** (-174 / 10) / 1000 * band
    for user, metres in enumerate((100.0, 1.0, 275.0)):
        assert speed[0, user] == pytest.approx(band * math.log2(1 + power * metres**-4 / noise))
    assert (speed[1] == 0).all()


def test_an_edge_with_one_user_has_all_of_its_band_for_him():
    topology = Topology(np.array([[0.0, 0.0]]), np.array([[10.0, 0.0]]))
    power = 10 ** (43 / 10) / 1000
    noise = 10 ** (-174 / 10) / 1000 * 400e6
    assert rates(SETUP, topology)[0, 0] == pytest.approx(400e6 * math.log2(1 + power / 1e4 / noise))


def test_who_serves_whom_in_time():
    """The user is covered by edge 0 only, at 8 Mbit/s; edge 1 relays at the same speed again."""
    speed = np.array([[8e6], [0.0]])
    sizes = np.array([1_000_000])
    for budget, expected in ((0.9, [0, 0]), (1.5, [1, 0]), (2.1, [1, 1])):
        served = in_time(speed, sizes, np.array([[budget]]), 8e6)
        assert served[:, 0, 0].tolist() == expected


def test_a_slow_edge_that_covers_may_relay_over_a_fast_one():
    served = in_time(np.array([[8e5], [8e6]]), np.array([1_000_000]), np.array([[2.1]]), 8e6)
    assert served[:, 0, 0].tolist() == [True, True]


def test_a_user_whom_no_edge_covers_is_served_by_none():
    """Not even a model without bytes: 0 / 0 was a warning of numpy."""
    served = in_time(np.zeros((2, 1)), np.array([1, 0]), np.full((1, 2), 1e9), 1e10)
    assert not served.any()


def test_a_model_without_bytes_is_served_by_all_edges_at_once():
    served = in_time(np.array([[8e6], [0.0]]), np.array([0]), np.array([[0.0]]), 1e10)
    assert served.all()


def test_demand_is_zipf_by_user_and_comes_to_one():
    instance = draw_instance(SETUP, lora_library(adapters=5), 0)
    assert instance.demand.sum() == pytest.approx(1)
    weights = zipf_weights(15, 0.8) / 3
    for row in instance.demand:
        assert np.allclose(np.sort(row)[::-1], weights)
    assert (instance.demand[0] != instance.demand[1]).any()


def test_a_given_popularity_is_every_users():
    popularity = np.arange(15.0)
    instance = draw_instance(SETUP, lora_library(adapters=5), 0, popularity=popularity)
    assert np.allclose(instance.demand, popularity / popularity.sum() / 3)


def test_a_seed_is_one_instance():
    library = lora_library(adapters=5)
    one, same, other = (draw_instance(SETUP, library, seed) for seed in (1, 1, 2))
    assert (one.demand == same.demand).all()
    assert (one.serves == same.serves).all()
    assert (one.demand != other.demand).any()


def test_a_set_up_that_cannot_be_meant_is_refused():
    for wrong in ({"edges": 0}, {"users": 0}, {"budget_s": (2.0, 1.0)}):
        with pytest.raises(UsageError):
            Setup(**wrong)
