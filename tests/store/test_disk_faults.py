"""A disk store on a disk that is full, read-only, damaged, of another version, or in use."""

import errno
import os
import resource
import sqlite3
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest

from icnblocks.errors import (
    BusyError,
    ChangedError,
    NotFoundError,
    StorageError,
    UsageError,
    VersionError,
)
from icnblocks.naming import Digest
from icnblocks.store import layout, segments
from icnblocks.store.database import DamagedError
from icnblocks.store.disk import DiskStore
from icnblocks.store.extents import write_all
from icnblocks.store.lease import read_extent
from icnblocks.testing.faults import (
    MountImpossibleError,
    fill_disk,
    flip_bit,
    make_read_only,
    make_writable,
    segment_files,
    small_disk,
)
from icnblocks.testing.store_contract import block, fetch, put


@pytest.fixture
def disk(tmp_path):
    try:
        with small_disk(tmp_path / "disk", 12 << 20) as path:
            yield path
    except MountImpossibleError as error:
        pytest.skip(str(error))


def fill(store, size):
    """Put blocks until the disk refuses; return those that were taken."""
    taken = []
    while True:
        try:
            taken.append(put(store, block(len(taken), size)))
        except StorageError:
            break
    return taken


@pytest.mark.parametrize("size", [100, 1 << 20], ids=["tiny", "large"])
def test_a_full_disk(disk, size):
    """What was put stays right, nothing of the refused block is left, and erasing goes on."""
    store = DiskStore(disk / "store")
    taken = fill(store, size)
    refused = Digest.of(block(len(taken), size))
    assert refused not in store
    assert store.used_bytes == len(taken) * store.footprint(size)
    assert all(Digest.of(fetch(store, digest)) == digest for digest in taken)
    for digest in taken[: len(taken) // 2]:
        assert store.erase(digest)
    for number in range(len(taken) // 4):
        put(store, block(10**6 + number, size))
    store.close()
    with DiskStore(disk / "store") as store:
        assert len(store) == len(taken) - len(taken) // 2 + len(taken) // 4
        assert all(Digest.of(fetch(store, digest)) == digest for digest, _ in store.blocks())
        assert (disk / "store" / "spare").exists()


@contextmanager
def no_more_files():
    """No file can be opened inside."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))  # (those that are open stay so)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_flushing_goes_on_after_files_could_not_be_opened(tmp_path):
    """Catches: a burst of connections, and nothing can be published until a restart."""
    with DiskStore(tmp_path / "store") as store:
        put(store, block(1, 10_000))
        with no_more_files(), pytest.raises(StorageError, match="Too many open files"):
            store.flush()
        store.flush()
        digest = put(store, block(2, 10_000))
        store.flush()
        assert Digest.of(fetch(store, digest)) == digest


def test_storing_goes_on_after_a_segment_could_not_be_made(tmp_path):
    """Catches: every block after it was for a segment that nobody made."""
    with DiskStore(tmp_path / "store", segment_bytes=1 << 20) as store:
        first = put(store, block(1, 1 << 20))
        with no_more_files(), pytest.raises(StorageError, match="Too many open files"):
            put(store, block(2, 1 << 20))
        second = put(store, block(3, 1 << 20))
        for digest in (first, second):
            assert Digest.of(fetch(store, digest)) == digest


def test_what_follows_in_a_segment_cut_short_makes_no_zeros_of_its_blocks(tmp_path):
    """Catches: a file that was cut and grew again reads as zeros where blocks were."""
    with DiskStore(tmp_path / "store") as store:
        digests = [put(store, block(n, 10_000)) for n in range(3)]
        (segment,) = segment_files(tmp_path / "store")
        os.truncate(segment, 5000)
        with pytest.raises(ChangedError):
            store.read(digests[0], 10_000)
        store.erase(digests[0])
        again = put(store, block(0, 10_000))
        assert Digest.of(fetch(store, again)) == again
        for digest in digests[1:]:
            with pytest.raises(ChangedError):
                store.read(digest, 10_000)


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL])
def test_a_file_system_without_nameless_files(tmp_path, monkeypatch, number):
    """Catches: no block can be stored on NFS, vfat, 9p and most FUSE: the store does not open."""
    opened = os.open

    def refuse_nameless(path, flags, *args, **more):
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(number, os.strerror(number), str(path))
        return opened(path, flags, *args, **more)

    punches = segments.can_punch(tmp_path)
    monkeypatch.setattr(segments.os, "open", refuse_nameless)
    tmp_path.joinpath(".punch.trial").write_bytes(b"left by a kill")
    assert segments.can_punch(tmp_path) == punches
    with DiskStore(tmp_path / "store") as store:
        digest = put(store, block(1))
    assert [file.name for file in tmp_path.iterdir()] == ["store"]
    with DiskStore(tmp_path / "store") as store:
        assert fetch(store, digest) == block(1)
        assert not (tmp_path / "store" / ".punch.trial").exists()


def _zero(fd, offset, length):
    """As file systems with blocks of more than a page do: zeros, and no hole."""
    write_all(fd, bytes(length), offset)


def _end(fd, _, how):
    """As file systems do that know of no hole but the end."""
    assert how == os.SEEK_HOLE
    return os.fstat(fd).st_size


@pytest.mark.parametrize(
    ("where", "name", "does"), [(segments, "punch", _zero), (segments.os, "lseek", _end)]
)
def test_where_holes_are_not_seen_each_block_has_a_file(tmp_path, monkeypatch, where, name, does):
    """Catches: zeros of an erased block whose note came back after a power cut, believed."""
    if not segments.can_punch(tmp_path):
        pytest.skip("this file system has one block a file anyhow")
    with DiskStore(tmp_path / "before") as store:
        put(store, block(1, 10_000))
        put(store, block(2, 10_000))
    assert len(list(segment_files(tmp_path / "before"))) == 1
    with monkeypatch.context() as patch:
        patch.setattr(where, name, does)
        with DiskStore(tmp_path / "store") as store:
            put(store, block(1, 10_000))
            put(store, block(2, 10_000))
    assert len(list(segment_files(tmp_path / "store"))) == 2


def test_on_a_full_disk_it_is_tried_as_far_as_there_is_room(disk):
    """Catches: a store that cannot be opened, to make room, for lack of room for the trial."""
    punches = segments.can_punch(disk)
    fill_disk(disk)
    assert segments.can_punch(disk) == punches


def test_a_disk_filled_by_others_to_the_last_byte(disk):
    """A cache must still be able to evict, and so to free room, with no room at all."""
    with DiskStore(disk / "store") as store:
        kept = [put(store, block(n, 1 << 20)) for n in range(4)]
        store.flush()
        fill_disk(disk)
        with pytest.raises(StorageError):
            put(store, block(9, 1 << 20))
        store.erase(kept[0])
        store.erase(kept[1])
        put(store, block(9, 1 << 20))
        assert fetch(store, Digest.of(block(9, 1 << 20))) == block(9, 1 << 20)
        assert fetch(store, kept[3]) == block(3, 1 << 20)


def test_a_refused_block_leaves_no_bytes(disk):
    """Half a block must not take the room that is left."""
    with DiskStore(disk / "store") as store:
        fill_disk(disk, leave=1 << 19)
        before = (store.used_bytes, len(store))
        room = os.statvfs(disk).f_bavail
        for _ in range(20):
            with pytest.raises(StorageError):
                put(store, block(1, 1 << 20))
        assert (store.used_bytes, len(store)) == before
        assert os.statvfs(disk).f_bavail == room
        put(store, block(2, 1 << 18))


def test_a_store_that_cannot_be_made_on_a_full_disk(disk):
    """The error must be one line about the disk, not a traceback."""
    fill_disk(disk)
    with pytest.raises(StorageError):
        DiskStore(disk / "store")


def test_a_read_only_disk(disk):
    """Opening a store that cannot be written is a StorageError, and harmless."""
    with DiskStore(disk / "store") as store:
        digest = put(store, block(1))
    make_read_only(disk)
    with pytest.raises(StorageError):
        DiskStore(disk / "store")
    with pytest.raises(StorageError):
        DiskStore(disk / "other")
    make_writable(disk)
    with DiskStore(disk / "store") as store:
        assert fetch(store, digest) == block(1)


def test_a_second_process_is_refused(tmp_path):
    """Two writers would overwrite each other's segments."""
    program = "import sys; from pathlib import Path; from icnblocks.store.disk import DiskStore\n"
    program += "DiskStore(Path(sys.argv[1]))"
    with DiskStore(tmp_path / "store"):
        with pytest.raises(BusyError):
            DiskStore(tmp_path / "store")
        done = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path / "store")],
            capture_output=True,
            text=True,
            check=False,
        )
        assert "BusyError" in done.stderr
    DiskStore(tmp_path / "store").close()


def test_a_newer_format_is_refused(tmp_path):
    """An old program must not guess at what a newer one wrote."""
    DiskStore(tmp_path / "store").close()
    (tmp_path / "store" / "format").write_text("icnblocks store 2\n")
    with pytest.raises(VersionError):
        DiskStore(tmp_path / "store")


def test_an_older_format_is_migrated(tmp_path, monkeypatch):
    """Blocks of an older store must not have to be fetched again."""
    with DiskStore(tmp_path / "store") as store:
        digest = put(store, block(1))
    seen = []
    monkeypatch.setattr(layout, "VERSION", 3)
    monkeypatch.setattr(layout, "MIGRATIONS", {1: seen.append, 2: seen.append})
    with DiskStore(tmp_path / "store") as store:
        assert fetch(store, digest) == block(1)
    assert len(seen) == 2
    assert (tmp_path / "store" / "format").read_text() == "icnblocks store 3\n"


def test_a_directory_of_something_else_is_not_taken(tmp_path):
    """A typing error in --store must not fill somebody's home directory."""
    (tmp_path / "letter.txt").write_text("Dear")
    with pytest.raises(StorageError):
        DiskStore(tmp_path)
    assert not (tmp_path / "format").exists()


def test_there_must_be_a_store_unless_one_is_made(tmp_path):
    with pytest.raises(NotFoundError):
        DiskStore(tmp_path / "store", create=False)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("where", ["header", "everywhere"])
def test_a_damaged_index(tmp_path, where, caplog):
    """An origin says so; a cache begins anew, with a warning, and leaves no rubbish."""
    with DiskStore(tmp_path / "store") as store:
        for number in range(500):
            put(store, block(number, 100))
    index = tmp_path / "store" / "index.sqlite"
    if where == "header":
        flip_bit(index, 3)
    else:
        index.write_bytes(index.read_bytes()[:4096] + b"\xa5" * (index.stat().st_size - 4096))
    with pytest.raises(DamagedError):
        DiskStore(tmp_path / "store")
    with DiskStore(tmp_path / "store", on_damage="empty") as store:
        assert len(store) == 0
        digest = put(store, block(1))
        assert fetch(store, digest) == block(1)
    assert "starts empty" in caplog.text
    assert len(list(segment_files(tmp_path / "store"))) == 1


def test_notes_that_cannot_be_are_forgotten(tmp_path):
    """A note that points outside its segment would serve somebody else's bytes, or none."""
    with DiskStore(tmp_path / "store") as store:
        kept = put(store, block(1))
        put(store, block(2))
    with (tmp_path / "store" / "segments" / "0000000000").open("r+b") as segment:
        segment.truncate(8192)
    with DiskStore(tmp_path / "store") as store:
        assert [digest for digest, _ in store.blocks()] == [kept]


def test_a_segment_that_was_removed(tmp_path):
    """Blocks that somebody deleted are not here, rather than an error for every reader."""
    with DiskStore(tmp_path / "store") as store:
        digest = put(store, block(1))
    with DiskStore(tmp_path / "store") as store:
        (tmp_path / "store" / "segments" / "0000000000").unlink()
        assert store.open(digest) is None
        assert digest not in store
    assert not DiskStore(tmp_path / "store").close()


def test_looking_up_goes_on_during_a_flush(tmp_path, monkeypatch):
    """The event loop must not wait for a disk that takes its time."""
    with DiskStore(tmp_path / "store") as store:
        digest = put(store, block(1))
        syncing, go_on = threading.Event(), threading.Event()
        sync = store._segments.sync

        def slow(number):
            syncing.set()
            assert go_on.wait(10)
            sync(number)

        monkeypatch.setattr(store._segments, "sync", slow)
        flusher = threading.Thread(target=store.flush)
        flusher.start()
        assert syncing.wait(10)
        assert digest in store
        assert fetch(store, digest) == block(1)
        assert put(store, block(2)) in store
        assert store.erase(digest)
        go_on.set()
        flusher.join()


def test_a_flush_that_failed_once_is_not_believed_later(tmp_path, monkeypatch):
    """The system reports a lost write once; the next fsync says all is well, wrongly."""
    store = DiskStore(tmp_path / "store")
    put(store, block(1))
    monkeypatch.setattr(store._segments, "sync", lambda _: (_ for _ in ()).throw(OSError(5, "EIO")))
    with pytest.raises(StorageError):
        store.flush()
    monkeypatch.undo()
    with pytest.raises(StorageError):
        store.flush()
    with pytest.raises(StorageError):
        store.close()
    DiskStore(tmp_path / "store").close()


def test_erased_room_is_given_back_soon(tmp_path):
    """A cache must not take more disk than its budget plus a small, known bound."""
    with DiskStore(tmp_path / "store") as store:
        for number in range(200):
            put(store, block(number, 1 << 20))
            if number >= 10:
                store.erase(Digest.of(block(number - 10, 1 << 20)))
            taken = sum(file.stat().st_blocks * 512 for file in segment_files(tmp_path / "store"))
            assert taken <= store.used_bytes + (10 << 20)


def test_a_closed_store_says_so(tmp_path):
    store = DiskStore(tmp_path / "store")
    store.close()
    for use in (store.flush, lambda: put(store, block(1)), lambda: list(store.blocks())):
        with pytest.raises(UsageError):
            use()


def test_a_block_erased_while_it_is_read_is_not_read(tmp_path, monkeypatch):
    """Catches: a hole, read as zeros, is sent for the block that another thread erased."""
    with DiskStore(tmp_path / "store") as store:
        digest = put(store, block(1))

        def late(fd, offset, length):
            store.erase(digest)
            store.flush()
            return read_extent(fd, offset, length)

        monkeypatch.setattr("icnblocks.store.disk.read_extent", late)
        assert store.read(digest, len(block(1))) is None


def test_a_segment_cut_short_is_an_error_at_the_block_that_is_read(tmp_path):
    """Catches: half a block is sent as if it were whole."""
    with DiskStore(tmp_path / "store") as store:
        digest = put(store, block(1))
        [segment] = [path for path in (tmp_path / "store").rglob("0*") if path.is_file()]
        os.truncate(segment, 100)
        with pytest.raises(ChangedError):
            store.read(digest, len(block(1)))


def five(path):
    """A store of five blocks, closed."""
    with DiskStore(path) as store:
        return [put(store, block(n, 5000)) for n in range(5)]


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE state SET flushed_to = NULL, clean = 0",
        "UPDATE state SET flushed_to = 'x', clean = 0",
        "DELETE FROM state",
        "DROP TABLE state",
        "DROP TABLE blocks",
        "UPDATE blocks SET digest = 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'",
        "UPDATE blocks SET digest = NULL",
        "UPDATE blocks SET length = 1.5",
        "UPDATE blocks SET length = NULL",
        "PRAGMA user_version = -2147483647",
        "PRAGMA user_version = 0",
    ],
)
def test_rotten_notes_are_refused_or_given_up_but_never_a_traceback(tmp_path, sql):
    five(tmp_path / "store")
    with sqlite3.connect(tmp_path / "store" / "index.sqlite") as db:
        db.execute(sql)
    db.close()
    with pytest.raises(DamagedError):
        DiskStore(tmp_path / "store")
    with DiskStore(tmp_path / "store", on_damage="empty") as store:
        assert list(store.blocks()) == []
        assert Digest.of(fetch(store, put(store, block(1, 5000)))) == Digest.of(block(1, 5000))


@pytest.mark.parametrize("left", [None, b""])
def test_blocks_without_notes_are_not_taken_for_rubbish(tmp_path, left):
    """Catches: an origin whose index is gone removes all that was published, without a word."""
    five(tmp_path / "store")
    index = tmp_path / "store" / "index.sqlite"
    notes = index.read_bytes()
    index.unlink()
    if left is not None:
        index.write_bytes(left)
    for _ in range(2):
        with pytest.raises(DamagedError, match="missing") as refused:
            DiskStore(tmp_path / "store")
        assert "bring it back" in refused.value.hint
    index.write_bytes(notes)
    with DiskStore(tmp_path / "store") as store:
        assert len(store) == 5
    index.unlink()
    with DiskStore(tmp_path / "store", on_damage="empty") as store:
        assert len(store) == 0


def test_a_store_is_locked_also_without_its_lock_file(tmp_path):
    """Catches: two daemons write one store, each over what the other one noted."""
    with DiskStore(tmp_path / "store"):
        (tmp_path / "store" / "lock").unlink()
        with pytest.raises(BusyError):
            DiskStore(tmp_path / "store")


def test_what_was_copied_without_its_holes_is_punched_again(tmp_path):
    """Catches: a store that was moved by tar takes far more disk than its budget, for good."""
    with DiskStore(tmp_path / "store") as store:
        digests = [put(store, block(n, 1 << 20)) for n in range(8)]
        for digest in digests[:6]:
            store.erase(digest)
    (segment,) = segment_files(tmp_path / "store")
    if segment.stat().st_blocks * 512 > 4 << 20:
        pytest.skip("this file system has no holes")
    whole = segment.read_bytes()
    segment.write_bytes(whole)
    assert segment.stat().st_blocks * 512 >= 8 << 20
    with DiskStore(tmp_path / "store") as store:
        assert segment.stat().st_blocks * 512 < 4 << 20
        assert all(Digest.of(fetch(store, digest)) == digest for digest in digests[6:])
