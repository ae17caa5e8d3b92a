"""Real daemons, real commands, and what goes wrong between them."""

import hashlib
import shutil
from pathlib import Path

import pytest

from icnblocks.testing.device import Device
from icnblocks.testing.models import write_llama
from icnblocks.testing.processes import start_edge


@pytest.fixture(scope="package")
def model(tmp_path_factory):
    """A model of 11 MB."""
    root = tmp_path_factory.mktemp("faults")
    return write_llama(root / "model", layers=2, hidden=512, vocabulary=2000, seed=4)


@pytest.fixture(scope="package")
def full_store(model, tmp_path_factory):
    """A store that has it as acme/model, and nobody that serves it."""
    root = tmp_path_factory.mktemp("published")
    with start_edge(root / "origin") as daemon:
        Device(root / "publisher").publish(model, "acme/model", daemon.url)
    return root / "origin"


@pytest.fixture(scope="package")
def honest(full_store):
    """An origin of it that nothing happens to."""
    with start_edge(full_store) as daemon:
        yield daemon
        assert "Traceback" not in daemon.logged()


def digests(root: Path) -> dict[str, str]:
    """SHA-256 of every file of a model directory, our own state left out."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file() and ".icnblocks" not in path.parts
    }


@pytest.fixture(scope="package")
def right(model):
    """Is this directory the model, bit for bit?"""
    known = digests(model)
    return lambda path: digests(Path(path)) == known


@pytest.fixture
def device(tmp_path):
    return Device(tmp_path / "device", ICN_RETRY_S="20", ICN_STALL_S="2")


@pytest.fixture
def store(full_store, tmp_path):
    """A store of one's own that has the model."""
    return shutil.copytree(full_store, tmp_path / "origin")


@pytest.fixture
def origin(store):
    """An origin of one's own that has the model, to kill or to count."""
    with start_edge(store) as daemon:
        yield daemon


@pytest.fixture(scope="package")
def size(model):
    """Bytes of the model's files: its distinct blocks have no more."""
    return sum(path.stat().st_size for path in model.iterdir())


@pytest.fixture(scope="package")
def same():
    """Are two model directories the same, bit for bit?"""
    return lambda one, two: digests(Path(one)) == digests(Path(two))
