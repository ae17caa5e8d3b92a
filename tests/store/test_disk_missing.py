"""A disk store whose notes and segments do not belong together: at an origin nothing is lost."""

import os
import shutil
import sqlite3
from contextlib import closing

import pytest

from icnblocks.errors import StorageError
from icnblocks.naming import Digest
from icnblocks.store import disk, layout, recovery
from icnblocks.store.database import DamagedError
from icnblocks.store.disk import DiskStore
from icnblocks.testing.faults import segment_files
from icnblocks.testing.store_contract import block, fetch, put

SIZE = 300_000
SEGMENT = 1 << 20
"""Three blocks in each."""


def fill(path, numbers):
    with DiskStore(path, segment_bytes=SEGMENT) as store:
        return [put(store, block(n, SIZE)) for n in numbers]


def files(path):
    return {file.name: file.stat().st_size for file in segment_files(path)}


def bring_back_index(source, path):
    for index in path.glob("index.sqlite*"):
        index.unlink()
    for index in source.glob("index.sqlite*"):
        shutil.copy(index, path)


def all_are_right(path, digests):
    with DiskStore(path, segment_bytes=SEGMENT) as store:
        assert [digest for digest, _ in store.blocks()] == digests
        assert all(Digest.of(fetch(store, digest)) == digest for digest in digests)


@pytest.mark.parametrize("missing", ["*", "0000000001"], ids=["all", "one"])
@pytest.mark.parametrize("killed", [False, True], ids=["closed", "killed"])
def test_blocks_whose_disk_is_not_mounted_are_not_given_up(tmp_path, missing, killed):
    """Catches: an origin starts empty for once, and removes all blocks when they are back."""
    path, away = tmp_path / "store", tmp_path / "away"
    digests = fill(path, range(9))
    if killed:
        with DiskStore(path):
            shutil.copytree(path, tmp_path / "killed")
        path = tmp_path / "killed"
    away.mkdir()
    gone = [file.rename(away / file.name) for file in segment_files(path) if file.match(missing)]
    for _ in range(2):
        with pytest.raises(DamagedError, match="missing") as refused:
            DiskStore(path)
        assert "bring them back" in refused.value.hint
    for file in gone:
        file.rename(path / "segments" / file.name)
    all_are_right(path, digests)


def test_segments_that_are_lost_for_good_are_given_up_when_told(tmp_path):
    """The way out that the hint names; catches an origin that never starts again."""
    digests = fill(tmp_path, range(9))
    (tmp_path / "segments" / "0000000001").write_bytes(b"")
    all_are_right(tmp_path, digests[:3] + digests[6:])


def test_a_cache_goes_on_without_its_segments(tmp_path):
    """It fetches them again; catches an edge that waits for an operator."""
    digests = fill(tmp_path, range(6))
    (tmp_path / "segments" / "0000000000").unlink()
    with DiskStore(tmp_path, on_damage="empty") as store:
        assert [digest for digest, _ in store.blocks()] == digests[3:]


@pytest.mark.parametrize("flushed", [False, True])
def test_a_power_cut_explains_only_what_was_not_flushed(tmp_path, monkeypatch, flushed):
    """Catches: an origin that a power cut keeps from starting, or that believes it of all."""
    path = tmp_path / "store"
    with DiskStore(path, segment_bytes=SEGMENT) as store:
        digests = [put(store, block(n, SIZE)) for n in range(3)]
        store.flush()
        put(store, block(3, SIZE))
        if flushed:
            store.flush()
        else:
            store._commit()
        shutil.copytree(path, tmp_path / "cut")
    monkeypatch.setattr(disk, "boot_id", lambda: "after the power cut")
    (tmp_path / "cut" / "segments" / "0000000001").unlink()
    if flushed:
        with pytest.raises(DamagedError, match="0000000001"):
            DiskStore(tmp_path / "cut")
    else:
        all_are_right(tmp_path / "cut", digests)


@pytest.mark.parametrize("in_use", [False, True])
def test_an_older_index_does_not_cost_newer_blocks(tmp_path, monkeypatch, in_use):
    """Catches: the index of last night is brought back, and what came since is removed."""
    monkeypatch.setattr(recovery, "_CRASH_LEAVES", SEGMENT)
    path, backup = tmp_path / "store", tmp_path / "backup"
    digests = fill(path, range(3))
    if in_use:
        with DiskStore(path):
            shutil.copytree(path, backup)
    else:
        shutil.copytree(path, backup)
    digests += fill(path, range(3, 12))
    shutil.copytree(path, tmp_path / "newest")
    bring_back_index(backup, path)
    (path / "segments" / "serial").unlink()  # as the hint says to go on: it has one more guard
    before = files(path)
    for _ in range(2):
        with pytest.raises(DamagedError, match="does not list") as refused:
            DiskStore(path)
        assert "bring back the index" in refused.value.hint
    assert files(path) == before
    bring_back_index(tmp_path / "newest", path)
    all_are_right(path, digests)


@pytest.mark.parametrize("in_use", [False, True])
def test_an_index_that_is_hardly_older_is_seen(tmp_path, in_use):
    """Catches: a copy of a minute ago is brought back, and what came since is cut off."""
    path, backup = tmp_path / "store", tmp_path / "backup"
    with DiskStore(path) as store:
        digests = [put(store, block(0, SIZE))]
        store.flush()
        if in_use:
            shutil.copytree(path, backup)
        digests.append(put(store, block(1, SIZE)))
    if not in_use:
        shutil.copytree(path, backup)
        with DiskStore(path) as store:
            digests.append(put(store, block(2, SIZE)))
    shutil.copytree(path, tmp_path / "newest")
    bring_back_index(backup, path)
    before = files(path)
    for _ in range(2):
        with pytest.raises(DamagedError, match="older") as refused:
            DiskStore(path)
        assert str(path / "segments" / "serial") in refused.value.hint
    assert files(path) == before
    bring_back_index(tmp_path / "newest", path)
    all_are_right(path, digests)


def test_one_who_has_only_an_older_index_may_go_on_with_it(tmp_path):
    """Catches: the way out that the hint names leads nowhere."""
    path = tmp_path / "store"
    digests = fill(path, range(3))
    shutil.copytree(path, tmp_path / "backup")
    with DiskStore(path) as store:
        put(store, block(3, SIZE))
        store.erase(digests.pop(1))  # only zeros are left of it, which the index does not know
    bring_back_index(tmp_path / "backup", path)
    (path / "segments" / "serial").unlink()
    all_are_right(path, digests)
    all_are_right(path, digests)


def test_an_index_that_was_lost_for_a_while_is_not_forgotten(tmp_path):
    """Catches: a start without an index, which is refused, and then any older one is believed."""
    path = tmp_path / "store"
    fill(path, range(2))
    shutil.copytree(path, tmp_path / "backup")
    fill(path, [2])
    bring_back_index(tmp_path, path)  # there is none
    with pytest.raises(DamagedError, match="missing"):
        DiskStore(path)
    bring_back_index(tmp_path / "backup", path)
    with pytest.raises(DamagedError, match="older"):
        DiskStore(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may look at another's store")
def test_what_root_looks_at_stays_the_daemons(tmp_path):
    """Catches: `icn-verify` by root leaves a number that the daemon can never write again."""
    before = os.umask(0o077)
    try:
        fill(tmp_path, [0])
    finally:
        os.umask(before)
    serial = tmp_path / "segments" / "serial"
    assert serial.stat().st_mode & 0o777 == 0o644
    number = serial.stat().st_ino
    DiskStore(tmp_path).close()
    assert serial.stat().st_ino != number  # replaced, so that whose it was does not matter


def test_a_cache_believes_no_note_of_an_older_index(tmp_path):
    """Catches: what was erased since is offered, and zeros are sent for it."""
    digests = fill(tmp_path / "store", range(3))
    shutil.copytree(tmp_path / "store", tmp_path / "backup")
    with DiskStore(tmp_path / "store") as store:
        store.erase(digests[1])
    bring_back_index(tmp_path / "backup", tmp_path / "store")
    with DiskStore(tmp_path / "store", on_damage="empty") as store:
        assert [digest for digest, _ in store.blocks()] == [digests[0], digests[2]]


@pytest.mark.parametrize("damaged", [False, True])
def test_a_new_index_has_numbers_of_its_own(tmp_path, monkeypatch, damaged):
    """Catches: an index was lost while empty, or damaged; then a kill, and nothing opens again."""
    for _ in range(5):
        DiskStore(tmp_path).close()
    for index in tmp_path.glob("index.sqlite*"):
        index.unlink()
    if damaged:
        (tmp_path / "index.sqlite").write_bytes(b"no database" * 1000)
    with monkeypatch.context() as killed:
        killed.setattr(layout.Layout, "write_serial", lambda *_: None)
        DiskStore(tmp_path, on_damage="empty" if damaged else "refuse").close()
    all_are_right(tmp_path, [])


def test_an_index_of_before_numbers_is_taken_over(tmp_path):
    digests = fill(tmp_path, range(3))
    (tmp_path / "segments" / "serial").unlink()
    with closing(sqlite3.connect(tmp_path / "index.sqlite")) as index:
        index.execute("ALTER TABLE state DROP COLUMN serial")
        index.execute("PRAGMA user_version = 1")
    all_are_right(tmp_path, digests)
    assert int((tmp_path / "segments" / "serial").read_text()) > 0


def test_what_a_kill_left_is_removed_at_an_origin_too(tmp_path):
    """Catches: every kill during a publish, and the origin does not start."""
    path = tmp_path / "store"
    with DiskStore(path, segment_bytes=SEGMENT) as store:
        digests = [put(store, block(n, SIZE)) for n in range(3)]
        store._commit()
        put(store, block(3, SIZE))
        shutil.copytree(path, tmp_path / "killed")
    assert len(files(tmp_path / "killed")) == 2
    all_are_right(tmp_path / "killed", digests)
    assert len(files(tmp_path / "killed")) == 1


@pytest.mark.parametrize("byte", [b"\0", b"x"])
def test_a_segment_of_zeros_holds_no_block(tmp_path, byte):
    """Catches: an origin that was copied without holes does not start."""
    digests = fill(tmp_path, range(3))
    (tmp_path / "segments" / "0000000007").write_bytes(bytes(3 << 20) + byte)
    if byte == b"\0":
        all_are_right(tmp_path, digests)
    else:
        with pytest.raises(DamagedError, match="0000000007"):
            DiskStore(tmp_path)


@pytest.mark.parametrize("alone", [False, True])
def test_a_store_that_was_emptied_and_closed_opens_again(tmp_path, alone):
    """Catches: the last segment, where nothing can be punched, is taken for unlisted blocks."""
    with DiskStore(tmp_path, one_per_file=alone) as store:
        kept = put(store, block(0, SIZE))
        store.erase(put(store, block(1, SIZE)))
    with DiskStore(tmp_path, one_per_file=alone) as store:
        assert [digest for digest, _ in store.blocks()] == [kept]
        store.erase(kept)
    assert files(tmp_path) == {}
    all_are_right(tmp_path, [])


def test_a_segment_stays_while_a_block_in_it_is_noted(tmp_path, monkeypatch):
    """Catches: a block is erased during a commit, its segment goes before its note, and after a
    kill just then the segment is missed.
    """
    path = tmp_path / "store"
    with DiskStore(path, segment_bytes=SEGMENT) as store:
        digests = [put(store, block(n, SIZE)) for n in range(4)]
        store.flush()
        write = store._notes.write

        def erase_meanwhile(*args, **more):
            for digest in digests[:3]:
                store.erase(digest)
            write(*args, **more)

        put(store, block(4, SIZE))
        with monkeypatch.context() as during:
            during.setattr(store._notes, "write", erase_meanwhile)
            store._commit()
        shutil.copytree(path, tmp_path / "killed")
        store._commit()
        assert list(files(path)) == ["0000000001"]
    with DiskStore(tmp_path / "killed") as store:
        assert all(Digest.of(fetch(store, digest)) == digest for digest, _ in store.blocks())


def test_a_segment_that_could_not_be_removed_is_removed_at_the_next_start(tmp_path, monkeypatch):
    """Catches: the disk refuses once, and the origin does not start again."""
    with DiskStore(tmp_path, segment_bytes=SEGMENT) as store:
        digests = [put(store, block(n, SIZE)) for n in range(4)]
        for digest in digests[:3]:
            store.erase(digest)

        def refuse(number):
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(store._segments, "unlink", refuse)
    assert len(files(tmp_path)) == 2
    all_are_right(tmp_path, digests[3:])
    assert len(files(tmp_path)) == 1


def test_where_holes_cannot_be_seen_what_shares_a_file_is_hashed(tmp_path, monkeypatch):
    """Catches: a store that began on another file system, or before each block had a file of its
    own there; after a power cut zeros are served for a block whose hole outlived its note.
    """
    path = tmp_path / "store"
    with DiskStore(path, one_per_file=False) as store:
        digests = [put(store, block(n, SIZE)) for n in range(3)]
        store.flush()
        shutil.copytree(path, tmp_path / "cut")
    with (tmp_path / "cut" / "segments" / "0000000000").open("r+b") as segment:
        segment.seek(SIZE)
        segment.write(bytes(SIZE))
    monkeypatch.setattr(disk, "boot_id", lambda: "after the power cut")
    with DiskStore(tmp_path / "cut", one_per_file=True) as store:
        assert [digest for digest, _ in store.blocks()] == [digests[0], digests[2]]


def test_a_fresh_disk_becomes_a_store_and_somebody_elses_directory_does_not(tmp_path):
    """Catches: a disk of its own for the blocks was refused for what each new ext4 has."""
    (tmp_path / "lost+found").mkdir()
    with DiskStore(tmp_path) as store:
        digest = put(store, block(1, SIZE))
    all_are_right(tmp_path, [digest])
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").touch()
    with pytest.raises(StorageError, match=r"thesis\.tex"):
        DiskStore(other)
