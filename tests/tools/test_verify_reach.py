"""`icn-verify` where a directory may not be looked at: nothing is forgotten or marked for that."""

import errno
import os
from types import SimpleNamespace

import pytest

from icnblocks.manifest.codec import digest_of, encode
from icnblocks.manifest.model import Kind
from icnblocks.publish.scan import scan
from icnblocks.store.catalog import Catalog
from icnblocks.store.inplace import InPlaceStore
from icnblocks_tools import verify


class Output:
    """Keeps what it is told."""

    def __init__(self):
        self.said = []

    def say(self, event, text, **facts):
        self.said.append((event, facts.get("what")))


@pytest.fixture
def puller(tmp_path):
    """A store in whose index there is a directory."""
    root = tmp_path / "disk" / "model"
    root.mkdir(parents=True)
    (root / "weights").write_bytes(os.urandom(5000))
    found = scan(root, Kind.PACK)
    raw = encode(found.manifest)
    with InPlaceStore(tmp_path / "p.sqlite") as places, Catalog(tmp_path / "c.sqlite") as catalog:
        catalog.put_manifest(digest_of(raw), raw)
        places.add_directory(root, digest_of(raw), found.manifest, found.facts)
        yield SimpleNamespace(places=places, catalog=catalog)


@pytest.mark.parametrize("below", ["disk", "disk/model"])
def test_a_repair_forgets_no_directory_that_it_may_not_look_into(puller, tmp_path, below):
    """Catches: `--repair` by another user, or beside a failing disk, forgets what is there."""
    output, user = Output(), os.geteuid()
    (tmp_path / below).chmod(0)
    if user == 0:  # who may look everywhere
        os.seteuid(65534)
    try:
        wrong = verify._directories(puller, output, repair=True, served=True)
    finally:
        os.seteuid(user)
        (tmp_path / below).chmod(0o755)
    assert wrong == 1
    assert output.said == [("wrong", f"cannot be read: {os.strerror(errno.EACCES)}")]
    assert [entry.changed for entry in puller.places.directories()] == [0]
    assert verify._directories(puller, output, repair=True, served=True) == 0


def test_a_repair_forgets_a_directory_that_is_gone(puller, tmp_path):
    (tmp_path / "disk" / "model" / "weights").unlink()
    output = Output()
    assert verify._directories(puller, output, repair=True, served=True) == 0
    assert output.said == [("forgotten", None)]
    assert puller.places.directories() == []
