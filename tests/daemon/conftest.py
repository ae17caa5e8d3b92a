"""Fixtures of the daemon's tests: real origins, and small models.

Starting a process costs half a second, so most tests share one origin and bring a model of their
own; those that stop it, or count everything it does, take a fresh one.
"""

import itertools

import pytest

from icnblocks.testing.exchange import make_model, publish
from icnblocks.testing.processes import start_edge

NUMBERS = itertools.count(100)
QUICK = ("--upstream-retry", "300ms")


@pytest.fixture(scope="package")
def origin(tmp_path_factory):
    with start_edge(tmp_path_factory.mktemp("shared") / "origin") as edge:
        yield edge
        assert "Traceback" not in edge.logged()


@pytest.fixture
def fresh_origin(tmp_path):
    with start_edge(tmp_path / "origin") as edge:
        yield edge


@pytest.fixture
def model():
    number = next(NUMBERS)
    return make_model(f"acme/model{number}", seed=number)


@pytest.fixture
def published(origin, model):
    publish(origin, model)
    return origin


@pytest.fixture
def fresh(fresh_origin, model):
    """An origin of one's own, to stop or to count."""
    publish(fresh_origin, model)
    return fresh_origin


@pytest.fixture
def fresh_edge(fresh, tmp_path):
    options = ("--upstream", fresh.url, "--negative-ttl", "60s", *QUICK)
    with start_edge(tmp_path / "edge", *options) as edge:
        yield edge
