"""Bytes that a disk does not take back when they are erased."""

import errno
import os
import shutil
import threading

import pytest

from icnblocks.errors import StorageError
from icnblocks.store import commits, recovery
from icnblocks.store.disk import DiskStore
from icnblocks.testing.faults import segment_files
from icnblocks.testing.store_contract import block, fetch, put

SIZE = 16 * 4096


def taken(path):
    return sum(file.stat().st_blocks * 512 for file in segment_files(path))


@pytest.fixture
def refusing(monkeypatch):
    """While it holds an error number, nothing can be punched."""
    reasons, punch = [], commits.punch

    def refuse(*args):
        if reasons:
            raise OSError(reasons[0], os.strerror(reasons[0]))
        punch(*args)

    monkeypatch.setattr(commits, "punch", refuse)
    return reasons


@pytest.mark.parametrize("reason", [errno.EMFILE, errno.ENOSPC, errno.EIO])
def test_what_could_not_be_freed_is_freed_later(tmp_path, refusing, reason):
    """Catches: out of file descriptors for a moment, the store took more than it said until the
    next start after a crash.
    """
    with DiskStore(tmp_path) as store:
        digests = [put(store, block(n, SIZE)) for n in range(4)]
        store.flush()
        refusing.append(reason)
        for digest in digests[1:3]:
            store.erase(digest)
        store.flush()
        assert taken(tmp_path) == 4 * SIZE
        refusing.clear()
        store.flush()
        assert taken(tmp_path) == store.used_bytes == 2 * SIZE
        assert [fetch(store, digests[n]) for n in (0, 3)] == [block(n, SIZE) for n in (0, 3)]


def test_what_was_not_freed_before_the_end_is_freed_at_the_next_start(tmp_path, refusing):
    """Catches: the end called itself clean, and nobody looked again."""
    with DiskStore(tmp_path) as store:
        digests = [put(store, block(n, SIZE)) for n in range(3)]
        store.erase(digests[1])
        refusing.append(errno.EIO)
    assert taken(tmp_path) == 3 * SIZE
    with DiskStore(tmp_path) as store:
        assert taken(tmp_path) == store.used_bytes == 2 * SIZE


def test_a_segment_that_could_not_be_removed_is_removed_later(tmp_path, monkeypatch):
    """Catches: out of file descriptors for a moment, all of it stayed until the next start."""
    with DiskStore(tmp_path, segment_bytes=SIZE) as store:
        digests = [put(store, block(n, SIZE)) for n in range(3)]
        store.flush()
        store.erase(digests[0])
        with monkeypatch.context() as refused:
            refused.setattr(store._notes, "sync", lambda: _raise(StorageError("no descriptor")))
            store.flush()
        assert taken(tmp_path) == 3 * SIZE
        store.flush()
        assert taken(tmp_path) == store.used_bytes == 2 * SIZE


def test_where_a_block_was_not_written_the_next_one_is_left_alone(tmp_path, refusing, monkeypatch):
    """Its address is given to the next block, whatever the disk said when it was to be freed."""
    with DiskStore(tmp_path) as store:
        first = put(store, block(0, SIZE))
        refusing.append(errno.EIO)
        with monkeypatch.context() as full:
            full.setattr(store, "_write_at", lambda *_: _raise(OSError(errno.EIO, "EIO")))
            with pytest.raises(StorageError):
                put(store, block(1, SIZE))
        second = put(store, block(2, SIZE))
        refusing.clear()
        store.erase(first)
        store.flush()
        assert fetch(store, second) == block(2, SIZE)


def test_what_was_erased_is_freed_also_where_no_file_can_be_made(tmp_path, monkeypatch):
    """Catches: erased blocks held the room, or the quota of files, that the next one asked for."""
    with DiskStore(tmp_path, one_per_file=True) as store:
        first = put(store, block(1, SIZE))
        store._commit()
        store.erase(first)
        create = store._segments.create

        def full(number):
            if taken(tmp_path):
                raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
            create(number)

        monkeypatch.setattr(store._segments, "create", full)
        second = put(store, block(2, SIZE))
        with pytest.raises(StorageError, match="quota"):
            put(store, block(3, SIZE))
        assert fetch(store, second) == block(2, SIZE)


def test_what_another_thread_is_freeing_is_waited_for(tmp_path, monkeypatch):
    """Catches: of several that put on a full disk, those were refused who asked while the room
    that erased blocks had was just being given back.
    """
    freeing, tried, freed = threading.Event(), threading.Event(), []
    punch = commits.punch

    def slow(*args):
        freeing.set()
        assert tried.wait(30)
        punch(*args)
        freed.append(args)

    with DiskStore(tmp_path) as store:
        first, _ = put(store, block(1, SIZE)), put(store, block(2, SIZE))
        store.erase(first)
        write = store._write_at

        def full(at, view):
            if not freed:
                tried.set()
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            write(at, view)

        monkeypatch.setattr(commits, "punch", slow)
        monkeypatch.setattr(store, "_write_at", full)
        committing = threading.Thread(target=store._commit)
        committing.start()
        assert freeing.wait(30)
        try:
            third = put(store, block(3, SIZE))
        finally:
            committing.join(30)
        assert fetch(store, third) == block(3, SIZE)


def _raise(error):
    raise error


@pytest.mark.parametrize("clean", [True, False])
def test_a_store_opens_where_nothing_can_be_punched(tmp_path, refusing, monkeypatch, clean):
    """Catches: a store that was brought to a file system that cannot punch holes, with room between
    its blocks, did not open: there was something to tidy up.
    """
    path = tmp_path / "store"
    with DiskStore(path, one_per_file=False) as store:
        digests = [put(store, block(n, 1 << 20)) for n in range(4)]
        store.flush()
        refusing.append(errno.EOPNOTSUPP)
        for digest in digests[:3]:
            store.erase(digest)
        store.flush()
        if not clean:
            shutil.copytree(path, tmp_path / "brought")
    if clean:
        shutil.copytree(path, tmp_path / "brought")
    monkeypatch.setattr(recovery, "punch", commits.punch)
    with DiskStore(tmp_path / "brought") as store:
        assert fetch(store, digests[3]) == block(3, 1 << 20)


def test_what_was_erased_while_it_was_sent_until_the_end_is_freed_at_the_next_start(tmp_path):
    """Catches: the end called itself clean, and the bytes of a block whose lease outlived the
    store stayed on the disk beside those that count.
    """
    store = DiskStore(tmp_path)
    digests = [put(store, block(n, 65_536)) for n in range(3)]
    lease = store.open(digests[1])
    store.erase(digests[1])
    store.close()
    assert lease.read() == block(1, 65_536)
    lease.close()
    with DiskStore(tmp_path) as again:
        assert taken(tmp_path) == again.used_bytes == 2 * 65_536
        assert [fetch(again, digests[n]) for n in (0, 2)] == [block(n, 65_536) for n in (0, 2)]


def test_a_lease_that_ends_during_a_close_is_freed_at_the_next_start(tmp_path):
    """Catches: a lease closed after the last commit of a close, and before the end was noted."""
    store = DiskStore(tmp_path)
    digests = [put(store, block(n, 65_536)) for n in range(3)]
    lease, sync = store.open(digests[1]), store._commits.sync
    store.erase(digests[1])

    def meanwhile():
        lease.close()
        sync()

    store._commits.sync = meanwhile
    store.close()
    with DiskStore(tmp_path) as again:
        assert taken(tmp_path) == again.used_bytes == 2 * 65_536
