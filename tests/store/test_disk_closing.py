"""A disk store that is closed while others still use it."""

import threading

import pytest

from icnblocks.errors import UsageError
from icnblocks.store.disk import DiskStore
from icnblocks.testing.store_contract import block, fetch, put


def test_what_is_put_or_erased_after_a_close_began_is_refused(tmp_path):
    """Catches: a block that came after the last commit of a close was acknowledged and never
    noted, and the only copy refused to open for the segment that no note knew.
    """
    store = DiskStore(tmp_path / "store", segment_bytes=4096)
    early = put(store, block(1, 4096))
    sync = store._commits.sync

    def meanwhile():
        with pytest.raises(UsageError, match="closed"):
            put(store, block(2, 4096))
        with pytest.raises(UsageError, match="closed"):
            store.erase(early)
        sync()

    store._commits.sync = meanwhile
    store.close()
    with DiskStore(tmp_path / "store") as again:
        assert len(again) == 1
        assert fetch(again, early) == block(1, 4096)


def test_what_is_being_put_when_a_close_begins_is_kept(tmp_path):
    """A close waits for it, so that what `put` acknowledges is there at the next start."""
    store = DiskStore(tmp_path / "store", segment_bytes=4096)
    writing, go, write = threading.Event(), threading.Event(), store._write_at

    def slow(at, view):
        writing.set()
        assert go.wait(30)
        write(at, view)

    store._write_at = slow
    digests = []
    putting = threading.Thread(target=lambda: digests.append(put(store, block(1, 4096))))
    putting.start()
    assert writing.wait(30)
    closing = threading.Thread(target=store.close)
    closing.start()
    while not store._awaited:
        closing.join(0.001)
    go.set()
    putting.join(30)
    closing.join(30)
    with DiskStore(tmp_path / "store") as again:
        assert fetch(again, digests[0]) == block(1, 4096)
