"""Where models lie on a device: gone, taken over by the user, and bases beside adapters."""

import os
import shutil
from pathlib import Path

import pytest


@pytest.fixture
def put(tmp_path, device):
    """Publish files in place, in the device's own store."""

    def run(name, root, data):
        root.mkdir(exist_ok=True)
        (root / "file").write_bytes(data)
        device.run("publish", root, name, "--store", device.root / "store").done()
        return root

    return run


def pull(device, name, *args):
    done = device.run("fetch", name, "--offline", "--trust-first-use", *args).done()
    return Path(done["path"])


def test_repair_of_a_store_leaves_alone_what_the_user_published_since(put, tmp_path, device):
    put("acme/a", tmp_path / "a", os.urandom(5000))
    pulled = pull(device, "acme/a")
    put("me/tuned", pulled, b"mine")
    (pulled / "file").write_bytes(b"changed by me")
    failed = device.run("verify", device.root / "store", "--repair")
    assert failed.code == 6
    assert (pulled / "file").read_bytes() == b"changed by me"


def test_repair_of_a_store_forgets_directories_that_are_gone(put, tmp_path, device):
    put("acme/a", tmp_path / "a", os.urandom(5000))
    shutil.rmtree(pull(device, "acme/a"))
    store = device.root / "store"
    assert device.run("verify", store).code == 6
    repaired = device.run("verify", store, "--repair")
    assert repaired.code == 0, repaired.events
    assert device.run("verify", store).code == 0
