"""Stores that are opened while others have filled the disk."""

import pytest

from icnblocks.errors import StorageError
from icnblocks.store.catalog import Catalog
from icnblocks.store.disk import DiskStore
from icnblocks.store.inplace import InPlaceStore
from icnblocks.testing.faults import MountImpossibleError, fill_disk, small_disk
from icnblocks.testing.store_contract import block, fetch, put


@pytest.fixture
def disk(tmp_path):
    try:
        with small_disk(tmp_path / "disk", 12 << 20) as path:
            yield path
    except MountImpossibleError as error:
        pytest.skip(str(error))


def test_a_daemons_stores_open_on_a_full_disk_and_erase(disk):
    """Catches: SQLite makes files even to read, so that after a clean end nothing started again
    until somebody else freed some room.
    """
    with (
        DiskStore(disk / "blocks") as store,
        Catalog(disk / "catalog"),
        InPlaceStore(disk / "places"),
    ):
        digests = [put(store, block(n, 100_000)) for n in range(20)]
    fill_disk(disk)
    with (
        DiskStore(disk / "blocks") as store,
        Catalog(disk / "catalog"),
        InPlaceStore(disk / "places"),
    ):
        assert fetch(store, digests[7]) == block(7, 100_000)
        for digest in digests[:10]:
            store.erase(digest)
        store.flush()
        assert put(store, block(99, 100_000)) in store


def test_that_there_is_no_room_is_said(disk):
    """Catches: "disk I/O error", for which somebody changes the disk."""
    Catalog(disk / "catalog").close()
    fill_disk(disk)
    with pytest.raises(StorageError, match="No space left"):
        Catalog(disk / "catalog")
