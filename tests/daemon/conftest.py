"""Fixtures of the daemon's tests: a real origin, and a small model."""

import pytest

from icnblocks.testing.exchange import make_model
from icnblocks.testing.processes import start_edge


@pytest.fixture
def origin(tmp_path):
    with start_edge(tmp_path / "origin") as edge:
        yield edge


@pytest.fixture
def model():
    return make_model()
