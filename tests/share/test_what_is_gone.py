"""A device promises its neighbours nothing that it cannot give."""

from __future__ import annotations

import errno
import os
from http.client import HTTPConnection

import pytest

from icnblocks.assembly.directory import ModelDirectory
from icnblocks.client.trust import KnownPublishers, Trust
from icnblocks.errors import ChangedError
from icnblocks.manifest.model import Kind
from icnblocks.naming import Digest, Name
from icnblocks.placement.plan import Plan
from icnblocks.publish.scan import scan
from icnblocks.puller import Puller
from icnblocks.share.offers import Offer, PartialShelf
from icnblocks.share.options import ShareOptions
from icnblocks.store.database import storage_errors
from icnblocks.store.facts import FileFacts
from icnblocks.store.inplace import InPlaceStore
from icnblocks.testing.processes import poll_until
from tests.assembly.test_puller import put, settings
from tests.share.blocks import MANIFEST
from tests.store.test_inplace_looks import held

__all__ = ["put", "settings"]  # fixtures

FILES = {"a": b"1" * 1000, "b": b"2" * 1000, "c": b"3" * 1000}


@pytest.fixture
def places(tmp_path):
    with InPlaceStore(tmp_path / "places.sqlite") as store:
        yield store


@pytest.fixture
def offer(tmp_path, places):
    """A model that lies in place, whole, a block in each file."""
    root = tmp_path / "m"
    root.mkdir()
    for name, data in FILES.items():
        (root / name).write_bytes(data)
    manifest = scan(root, Kind.PACK).manifest
    facts = {name: FileFacts.of((root / name).stat()) for name in FILES}
    places.add_directory(root, MANIFEST, manifest, facts)
    return Offer(MANIFEST, manifest.lengths(), lambda: None, places)


def ask(offer: Offer, name: str) -> None:
    lease = offer.open(Digest.of(FILES[name]))
    assert lease is not None
    lease.close()


def test_what_was_edited_is_promised_no_more(offer, places, tmp_path) -> None:
    """Catches: a device that all neighbours leave for a few small files that were edited."""
    (tmp_path / "m" / "b").write_bytes(b"x")
    with pytest.raises(ChangedError):
        ask(offer, "b")
    assert offer.flags(-1, 0.0) == b"\1\0\1"
    places.remove_directory(tmp_path / "m")
    assert offer.open(Digest.of(FILES["c"])) is None
    assert offer.flags(-1, 0.0) == b"\1\0\0"


def test_a_pull_that_ends_while_a_block_is_looked_for(offer, places, tmp_path) -> None:
    """Catches: a block read through the descriptor of a directory that was closed meanwhile.

    Another file may have that descriptor by then; and what was opened was never closed.
    """
    manifest = scan(tmp_path / "m", Kind.PACK).manifest
    directory = ModelDirectory(tmp_path / "m")
    partial = PartialShelf(directory, Plan(manifest))

    class Ends:
        """The thread that pulls comes first."""

        def open(self, digest):
            offer.is_whole_in(places)
            partial.close()
            opened = set(os.listdir("/proc/self/fd"))
            try:
                return partial.open(digest)
            finally:
                assert set(os.listdir("/proc/self/fd")) <= opened
                directory.close()

    offer.is_whole_in(Ends())
    ask(offer, "b")
    assert offer.flags(-1, 0.0) == b"\1\1\1"


def test_what_cannot_be_looked_at_for_a_moment_is_promised_on(offer, places, monkeypatch) -> None:
    """A disk that is away comes back, and descriptors get free."""

    def fail(path):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), path)

    with monkeypatch.context() as patch:
        patch.setattr("icnblocks.store.inplace.open_to_read", fail)
        with pytest.raises(ChangedError):
            ask(offer, "b")
    assert offer.flags(-1, 0.0) == b"\1\1\1"
    ask(offer, "b")


def test_what_the_index_cannot_know_is_not_shared(
    put, settings, tmp_path, monkeypatch, caplog
) -> None:
    """Catches: a model of an image, announced as whole though no block of it can be given."""

    def refuse(directory, **_):
        with storage_errors(directory.root):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    put("acme/m", file=b"1", other=b"2")
    trust = Trust(KnownPublishers(settings.known_publishers), first_use=True)
    name, to = Name.parse("acme/m"), tmp_path / "to"
    options = ShareOptions(host="127.0.0.1")
    with Puller(settings, trust, share=options) as puller:
        puller.pull(name, to)
        assert puller.sharer.shared().models == 1
    (to / "file").chmod(0o600)
    monkeypatch.setattr(ModelDirectory, "lock", refuse)
    with Puller(settings, trust, share=options) as puller:
        assert puller.pull(name, to).path == to
        assert puller.sharer.shared().models == 0
    assert "acme/m is not shared" in caplog.text


def test_an_old_version_takes_no_room_when_all_who_were_sent_it_have_left(put, settings) -> None:
    """Catches: a disk that is full of what another process replaced, for as long as one shares."""
    path = put("acme/m", file=b"1")
    trust = Trust(KnownPublishers(settings.known_publishers), first_use=True)
    with Puller(settings, trust, share=ShareOptions(host="127.0.0.1")) as puller:
        assert puller.pull(Name.parse("acme/m"), path).path == path
        neighbour = HTTPConnection("127.0.0.1", puller.sharer.port, timeout=10)
        neighbour.request("GET", f"/v1/blocks/{Digest.of(b'1')}")
        assert neighbour.getresponse().read() == b"1"
        assert held(path)
        neighbour.close()
        poll_until(lambda: not held(path))
