"""The in-place store, looked at: what of it could be sent now, and what a look may find out."""

import os

import pytest

from icnblocks.manifest.codec import digest_of, encode
from icnblocks.manifest.model import Kind
from icnblocks.publish.scan import scan
from icnblocks.store.inplace import InPlaceStore

ONE, TWO = os.urandom(3_000_000), os.urandom(5000)


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "disk" / "model"
    root.mkdir(parents=True)
    (root / "one").write_bytes(ONE)
    (root / "two").write_bytes(TWO)
    return root


@pytest.fixture
def store(tmp_path):
    with InPlaceStore(tmp_path / "places.sqlite") as store:
        yield store


@pytest.fixture
def found(store, root):
    found = scan(root, Kind.PACK)
    store.add_directory(root, digest_of(encode(found.manifest)), found.manifest, found.facts)
    return found


def test_a_look_at_many_blocks_looks_at_each_file_once(store, root, found, monkeypatch):
    """Catches: a question about 35,000 blocks that asks the disk 35,000 times."""
    looks, borrow = [], store._files.borrow

    def counted(number, opener):
        looks.append(number)
        return borrow(number, opener)

    monkeypatch.setattr(store._files, "borrow", counted)
    blocks = list(found.manifest.lengths())
    assert len(blocks) > 3
    assert all(map(store.look(), blocks))
    assert len(looks) == 2
    (root / "one").write_bytes(b"edited")
    assert sum(map(store.look(), blocks)) == 1


def test_a_look_does_not_count_a_file_that_was_moved_while_it_was_open(store, root, found):
    """Catches: a model counts as here for as long as the daemon happens to have its files open."""
    blocks = list(found.manifest.lengths())
    assert all(map(store.look(), blocks))
    root.rename(root.with_name("moved"))
    with store.open(blocks[0]) as lease:
        lease.check()
    assert not any(map(store.look(), blocks))


def test_a_look_finds_a_block_in_the_second_of_two_directories(store, root, found, tmp_path):
    """Catches: a model whose first directory is away counts as lacking, though it has another."""
    other = tmp_path / "other"
    other.mkdir()
    for name in ("one", "two"):
        (other / name).write_bytes((root / name).read_bytes())
    again = scan(other, Kind.PACK)
    store.add_directory(other, digest_of(encode(again.manifest)), again.manifest, again.facts)
    root.rename(tmp_path / "away")
    assert all(map(store.look(), found.manifest.lengths()))
    other.rename(tmp_path / "away too")
    assert not any(map(store.look(), found.manifest.lengths()))
    (tmp_path / "away").rename(root)
    assert all(map(store.look(), found.manifest.lengths()))
