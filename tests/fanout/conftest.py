"""A network, or a skip with the reason."""

import pytest

from icnblocks.testing.network import network, obstacle

MISSING = obstacle()


@pytest.fixture
def net():
    if MISSING:
        pytest.skip(MISSING)
    with network() as made:
        yield made
