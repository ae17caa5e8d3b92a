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
    gone = device.run("verify", store)
    assert (gone.code, gone.events[0]["event"]) == (0, "gone"), gone.events
    repaired = device.run("verify", store, "--repair")
    assert repaired.code == 0, repaired.events
    assert device.run("verify", store).code == 0


@pytest.fixture
def published(tmp_path, origin, publisher):
    """A base, and an adapter to it."""
    for name, args in [("base", ()), ("adapter", ("--base", "acme/base"))]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(f"{name} one".encode())
        publisher.publish(tmp_path / name, f"acme/{name}", origin.url, *args)
    return tmp_path / "base", tmp_path / "adapter"


def test_a_base_does_not_take_the_place_of_a_newer_version(
    published, origin, publisher, device, same
):
    base, adapter = published
    shutil.copytree(base, base.with_name("older"))
    (base / "file").write_bytes(b"base two")
    publisher.publish(base, "acme/base", origin.url)
    newer = device.fetch("acme/base", origin.url)["path"]
    for _ in range(2):
        done = device.fetch("acme/adapter", origin.url)
        assert same(base.with_name("older"), done["base_path"])
        assert same(adapter, done["path"])
        assert same(base, newer)


@pytest.mark.parametrize("to", ["base", ".", "x/../base"])
def test_a_base_beside_an_adapter_has_a_place_of_its_own(
    published, tmp_path, origin, device, same, monkeypatch, to
):
    base, adapter = published
    (tmp_path / "site" / "base").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "site" / ("base" if to == "." else ""))
    done = device.fetch("acme/adapter", origin.url, "--to", to)
    assert same(base, done["base_path"])
    assert same(adapter, done["path"])
    assert Path(done["path"]) == tmp_path / "site" / "base"
    assert Path(done["base_path"]).parent == tmp_path / "site"
