"""Real daemons and real commands, each test with its own."""

import hashlib
from pathlib import Path

import pytest

from icnblocks.testing.device import Device
from icnblocks.testing.processes import start_edge


@pytest.fixture
def origin(tmp_path):
    with start_edge(tmp_path / "origin") as daemon:
        yield daemon


@pytest.fixture
def edge(tmp_path, origin):
    with start_edge(tmp_path / "edge", "--upstream", origin.url) as daemon:
        yield daemon


@pytest.fixture
def publisher(tmp_path):
    return Device(tmp_path / "publisher")


@pytest.fixture
def device(tmp_path):
    return Device(tmp_path / "device")


def digests(root: Path) -> dict[str, str]:
    """SHA-256 of every file of a model directory, our own state left out."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file() and ".icnblocks" not in path.parts
    }


@pytest.fixture
def same():
    """Are two model directories the same, bit for bit?"""
    return lambda one, two: digests(Path(one)) == digests(Path(two))
