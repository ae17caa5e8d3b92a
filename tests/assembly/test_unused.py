"""Manifests of former versions on a device: kept while anything may ask for them, then forgotten.

No network: what is published in place is pulled.
"""

import os

import pytest

import icnblocks.puller as puller_module
from icnblocks.store.catalog import Catalog
from icnblocks.store.home import BLOCKS, CATALOG
from tests.assembly.test_puller import SIZE, pull, puller, put, settings
from tests.assembly.test_puller_states import Killed, die

__all__ = ["pull", "puller", "put", "settings"]  # fixtures


@pytest.fixture
def known(settings):
    """How many manifests the device has."""

    def run():
        with Catalog(settings.store / CATALOG) as catalog:
            return len(catalog.manifests())

    return run


@pytest.fixture
def version(put):
    """Publish another version where the one before lay: nobody else has that then."""

    def run(name="acme/m"):
        return put(name, where="root", file=os.urandom(SIZE), other=b"other")

    return run


def test_a_device_that_follows_a_tag_keeps_one_manifest(version, pull, known):
    """Catches: 32 bytes a block for every nightly version that there ever was."""
    for _ in range(3):
        version()
        pull("acme/m")
    assert known() == 1


@pytest.mark.parametrize("times", [1, 2])
def test_versions_that_did_not_come_are_forgotten_too(
    version, pull, known, monkeypatch, tmp_path, times
):
    for _ in range(times):
        version()
        with monkeypatch.context() as patch:
            patch.setattr(puller_module, "remember", die)
            with pytest.raises(Killed):
                pull("acme/m", tmp_path / "to")
    version()
    assert known() == times + 1
    pull("acme/m", tmp_path / "to")
    assert known() == 1


@pytest.mark.parametrize("use", ["directory", "record", "daemon"])
def test_what_may_be_asked_for_is_kept(put, version, pull, known, settings, tmp_path, use):
    """Catches: a directory that cannot be rechecked, a name that cannot be used offline, and a
    daemon that does not give what it acknowledged."""
    version()
    pull("acme/m", tmp_path / "one")
    if use == "directory":
        pull("acme/m", tmp_path / "two")
    elif use == "record":
        put("acme/m@stable", where="root")  # the same version
    else:
        (settings.store / BLOCKS).mkdir()
    version()
    before = known()
    pull("acme/m", tmp_path / "one")
    assert known() == before
