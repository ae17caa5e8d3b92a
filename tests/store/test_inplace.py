"""The in-place store: changed files are noticed, directories come and go, processes share it."""

import logging
import os
import random
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from icnblocks.errors import BusyError, ChangedError, StorageError, UsageError
from icnblocks.manifest.model import File, Kind, Manifest, Run
from icnblocks.naming import Digest
from icnblocks.store import database
from icnblocks.store.database import DamagedError
from icnblocks.store.inplace import FileFacts, InPlaceStore
from icnblocks.testing.store_contract import fetch

BLOCK = 4096
MODEL = Digest.of(b"a manifest")


def block(seed, size):
    return random.Random(seed).randbytes(size)


def manifest_of(files):
    """A manifest of plain files, cut into 4 KiB blocks."""
    entries, digests = [], []
    for path, data in sorted(files.items()):
        entries.append(File(path, len(data), (Run(0, len(data), len(digests)),) if data else ()))
        digests += [Digest.of(data[i : i + BLOCK]) for i in range(0, len(data), BLOCK)]
    return Manifest(Kind.BASE, BLOCK, tuple(entries), b"".join(digests))


def write(root, files):
    """Make a model directory; return its manifest and facts."""
    facts = {}
    for path, data in files.items():
        full = os.path.join(os.fsencode(root), os.fsencode(path))
        os.makedirs(os.path.dirname(full), exist_ok=True)
        Path(os.fsdecode(full)).write_bytes(data)
        facts[path] = FileFacts.of(os.stat(full))
    return manifest_of(files), facts


def add(store, root, files, digest=MODEL):
    manifest, facts = write(root, files)
    store.add_directory(root, digest, manifest, facts)


def as_files(path, fd):
    return os.pread(fd, 1 << 20, 0) == FILES[path]


@pytest.fixture
def store(tmp_path):
    with InPlaceStore(tmp_path / "places.sqlite") as store:
        yield store


FILES = {"one": block(1, 10_000), "sub/two": block(2, 5000), "empty": b""}
ONE, TWO = Digest.of(FILES["one"][:BLOCK]), Digest.of(FILES["sub/two"][:BLOCK])


def append(path):
    with path.open("ab") as file:
        file.write(b"x")


def overwrite_with_the_old_times(path):
    stat = path.stat()
    path.write_bytes(bytes(stat.st_size))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def replace(path):
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    other.rename(path)


CHANGES = [
    append,
    overwrite_with_the_old_times,
    replace,
    lambda path: os.truncate(path, 5000),
    lambda path: path.unlink(),
    lambda path: (path.unlink(), path.mkdir()),
    lambda path: (path.unlink(), os.mkfifo(path)),
]
IDS = ["append", "overwrite", "replace", "truncate", "unlink", "directory", "fifo"]


@pytest.mark.parametrize("change", CHANGES, ids=IDS)
@pytest.mark.parametrize("held_open", [False, True])
def test_a_changed_file_is_refused_at_open(store, tmp_path, change, held_open):
    """Bytes that somebody wrote over must not be sent, whether or not the file was open."""
    add(store, tmp_path / "m", FILES)
    if held_open:
        assert fetch(store, ONE) == FILES["one"][:BLOCK]
    change(tmp_path / "m" / "one")
    with pytest.raises(ChangedError, match="m/one"):
        store.open(ONE)
    assert fetch(store, TWO) == FILES["sub/two"][:BLOCK]
    assert ONE not in store
    assert store.length(ONE) is None
    assert [(file.root, file.path) for file in store.changed()] == [(tmp_path / "m", "one")]
    assert store.directories()[0].changed == 1
    with InPlaceStore(tmp_path / "places.sqlite") as again, pytest.raises(ChangedError):
        again.open(ONE)


def test_a_file_that_was_removed_is_not_said_to_have_changed(store, tmp_path, caplog):
    """Catches: a loud line for each file of a model that its user removed, to pull it again."""
    add(store, tmp_path / "m", FILES)
    sent = store.open(ONE)
    for path in ("one", "sub/two"):
        (tmp_path / "m" / path).unlink()
    with pytest.raises(ChangedError):
        sent.check()
    with pytest.raises(ChangedError):
        store.open(TWO)
    assert [file.path for file in store.changed()] == ["one", "sub/two"]
    assert not [line for line in caplog.records if line.levelno > logging.INFO]
    sent.close()


def test_a_changed_file_is_said_to_be_one_once(store, tmp_path, caplog):
    """Catches: a line for each thread that was about to read it."""
    add(store, tmp_path / "m", FILES)
    leases = [store.open(ONE) for _ in range(3)]
    path = tmp_path / "m" / "one"
    path.rename(tmp_path / "away")
    path.write_bytes(b"another")
    for lease in leases:
        with pytest.raises(ChangedError):
            lease.check()
        lease.close()
    with pytest.raises(ChangedError):
        store.open(ONE)
    assert caplog.messages == [f"{path} has changed; its blocks are refused"]


def test_a_file_that_came_back_and_then_changed_is_said_to_have(store, tmp_path, caplog):
    """Catches: what was said of a file that was away keeps quiet what happens to it later."""
    add(store, tmp_path / "m", FILES)
    (tmp_path / "m" / "sub").rename(tmp_path / "away")
    (tmp_path / "m" / "sub").mkdir()
    with pytest.raises(ChangedError):
        store.open(TWO)
    (tmp_path / "away").rename(tmp_path / "m" / "sub")
    assert store.check(tmp_path / "m") == []
    append(tmp_path / "m" / "sub" / "two")
    with pytest.raises(ChangedError):
        store.open(TWO)
    assert [line.levelno for line in caplog.records] == [logging.WARNING]


@pytest.mark.parametrize("change", CHANGES, ids=IDS)
def test_a_file_that_changed_while_it_was_sent(store, tmp_path, change):
    """What was sent may be half old, half new: the receiver must be cut off."""
    add(store, tmp_path / "m", FILES)
    with store.open(ONE) as lease:
        lease.check()
        change(tmp_path / "m" / "one")
        with pytest.raises(ChangedError, match="m/one"):
            lease.check()
    with pytest.raises(ChangedError):
        store.open(ONE)


def test_a_short_read_is_an_error(store, tmp_path):
    """A file cut short gives fewer bytes and no error by itself."""
    add(store, tmp_path / "m", FILES)
    last = Digest.of(FILES["one"][2 * BLOCK :])
    with store.open(last) as lease:
        os.truncate(tmp_path / "m" / "one", 2 * BLOCK + 10)
        with pytest.raises(ChangedError):
            lease.read()


def test_a_file_changed_between_hashing_and_adding(store, tmp_path):
    """Its digests are of bytes that are no longer there."""
    manifest, facts = write(tmp_path / "m", FILES)
    append(tmp_path / "m" / "sub" / "two")
    with pytest.raises(ChangedError, match="sub/two"):
        store.add_directory(tmp_path / "m", MODEL, manifest, facts)
    assert store.directories() == []
    assert len(store) == 0


def test_a_write_right_after_adding_is_noticed(store, tmp_path):
    """Within one tick of the kernel's clock a second write may leave the same times."""
    for turn in range(20):
        root = tmp_path / str(turn)
        add(store, root, {"f": block(turn, 5000)})
        (root / "f").write_bytes(block(turn + 100, 5000))
        with pytest.raises(ChangedError):
            store.open(Digest.of(block(turn, 5000)[:BLOCK]))


def test_facts_of_every_file_must_be_given(store, tmp_path):
    manifest, facts = write(tmp_path / "m", FILES)
    del facts["one"]
    with pytest.raises(UsageError):
        store.add_directory(tmp_path / "m", MODEL, manifest, facts)


@pytest.mark.parametrize("inode", [(1 << 63) - 1, 1 << 63, (1 << 64) - 1])
def test_any_inode_and_time_may_be_a_files(store, tmp_path, monkeypatch, inode):
    """Catches: pulls and publishes that end in a traceback where inodes are hashes (GlusterFS)."""
    manifest, _ = write(tmp_path / "m", FILES)
    for path in FILES:
        os.utime(tmp_path / "m" / path, ns=(0, 10_413_792_000 * 10**9))  # the year 2300
    of = FileFacts.of.__func__

    def far(cls, stat):
        return of(cls, os.stat_result((*stat[:1], inode, *stat[2:]), _times(stat)))

    monkeypatch.setattr(FileFacts, "of", classmethod(far))
    facts = {path: FileFacts.of(os.stat(tmp_path / "m" / path)) for path in FILES}
    assert {one.inode % (1 << 64) for one in facts.values()} == {inode}
    store.add_directory(tmp_path / "m", MODEL, manifest, facts)
    assert store.facts(tmp_path / "m") == facts
    assert fetch(store, ONE) == FILES["one"][:BLOCK]
    assert store.check(tmp_path / "m") == store.recheck(tmp_path / "m", as_files) == []


def _times(stat):
    return {name: getattr(stat, name) for name in dir(stat) if name.startswith("st_")}


def test_a_touched_file_is_right_again_after_recheck(store, tmp_path):
    """`touch`, `chmod` or a restored backup must not make a model useless for good."""
    add(store, tmp_path / "m", FILES)
    os.utime(tmp_path / "m" / "one")
    assert store.check(tmp_path / "m") == ["one"]
    assert ONE not in store
    assert store.recheck(tmp_path / "m", as_files) == []
    assert fetch(store, ONE) == FILES["one"][:BLOCK]
    assert store.changed() == []
    assert store.check(tmp_path / "m") == []


def test_recheck_finds_wrong_bytes(store, tmp_path):
    add(store, tmp_path / "m", FILES)
    (tmp_path / "m" / "one").write_bytes(bytes(10_000))
    assert store.recheck(tmp_path / "m", as_files) == ["one"]
    with pytest.raises(ChangedError):
        store.open(ONE)


def test_a_directory_that_was_away_comes_back(store, tmp_path):
    """A disk that is not mounted for a while has not changed."""
    add(store, tmp_path / "m", FILES)
    (tmp_path / "m").rename(tmp_path / "away")
    with pytest.raises(ChangedError):
        store.open(ONE)
    (tmp_path / "away").rename(tmp_path / "m")
    assert fetch(store, ONE) == FILES["one"][:BLOCK]


def test_check_takes_back_what_is_as_it_was(store, tmp_path):
    add(store, tmp_path / "m", FILES)
    (tmp_path / "m").rename(tmp_path / "away")
    assert len(store.check(tmp_path / "m")) == 3
    (tmp_path / "away").rename(tmp_path / "m")
    assert store.check(tmp_path / "m") == []
    assert fetch(store, ONE) == FILES["one"][:BLOCK]


def test_a_block_in_two_directories(store, tmp_path):
    """The second serves when the first is changed or removed, and order does not matter."""
    add(store, tmp_path / "a", FILES)
    add(store, tmp_path / "b", FILES)
    assert len(store) == len(list(store.blocks())) == 5
    assert store.roots_of(MODEL) == [tmp_path / "b", tmp_path / "a"]
    append(tmp_path / "a" / "one")
    assert fetch(store, ONE) == FILES["one"][:BLOCK]
    assert store.remove_directory(tmp_path / "a")
    assert not store.remove_directory(tmp_path / "a")
    assert fetch(store, ONE) == FILES["one"][:BLOCK]
    assert store.remove_directory(tmp_path / "b")
    assert store.open(ONE) is None
    assert store.directories() == []
    assert len(store) == 0


def test_indexing_again_replaces(store, tmp_path):
    """What a directory no longer holds must not be looked for in it."""
    add(store, tmp_path / "m", FILES)
    new = {"one": block(7, 9000)}
    other = Digest.of(b"another manifest")
    add(store, tmp_path / "m", new, other)
    assert store.open(ONE) is None
    assert TWO not in store
    assert fetch(store, Digest.of(new["one"][:BLOCK])) == new["one"][:BLOCK]
    assert store.manifest_at(tmp_path / "m") == other
    assert store.facts(tmp_path / "m").keys() == {"one"}
    (directory,) = store.directories()
    assert (directory.blocks, directory.size, directory.changed) == (3, 9000, 0)


def test_a_block_that_occurs_often_is_kept_once(store, tmp_path):
    """Zeros by the gigabyte must not fill the index."""
    add(store, tmp_path / "m", {"zeros": bytes(1000 * BLOCK), "more": bytes(10 * BLOCK)})
    assert store.directories()[0].blocks == 1


@pytest.mark.parametrize("name", [b"\xff\xfe", "ünï".encode(), b"a b\nc'"])
def test_any_bytes_may_be_a_path(store, tmp_path, name):
    """File names are bytes on Linux; one that is not UTF-8 must not stop publishing."""
    root = tmp_path / os.fsdecode(name)
    path = os.fsdecode(name)
    add(store, root, {path: block(1, 100)})
    assert fetch(store, Digest.of(block(1, 100))) == block(1, 100)
    assert store.directories()[0].root == root
    os.utime(root / path)
    assert store.check(root) == [path]
    assert store.changed()[0].path == path


def test_another_process_sees_changes_at_once(store, tmp_path):
    """A running daemon serves what `icn-publish --store` has just indexed."""
    with InPlaceStore(tmp_path / "places.sqlite") as other:
        assert ONE not in other
        add(store, tmp_path / "m", FILES)
        assert len(other) == 5
        assert fetch(other, ONE) == FILES["one"][:BLOCK]
        os.utime(tmp_path / "m" / "one")
        with pytest.raises(ChangedError):
            other.open(ONE)
        assert store.changed()
        store.recheck(tmp_path / "m", as_files)
        assert fetch(other, ONE) == FILES["one"][:BLOCK]
        store.remove_directory(tmp_path / "m")
        assert other.open(ONE) is None
        assert len(other) == 0


def test_readers_never_see_half_a_directory(store, tmp_path):
    """Re-indexing while a daemon serves must not make blocks vanish for a moment."""
    root, stop, missing = tmp_path / "m", threading.Event(), []
    manifest, facts = write(root, FILES)
    store.add_directory(root, MODEL, manifest, facts)

    def read():
        with InPlaceStore(tmp_path / "places.sqlite") as reader:
            while not stop.is_set():
                if fetch(reader, ONE) is None or len(reader) != 5:
                    missing.append(1)

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        for _ in range(30):
            store.add_directory(root, MODEL, manifest, facts)
        stop.set()
        [reader.result() for reader in readers]
    assert not missing


ADDER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_inplace import *
store = InPlaceStore(Path(sys.argv[2]) / "places.sqlite")
for number in range(10):
    add(store, Path(sys.argv[2]) / f"{sys.argv[3]}-{number}", {"f": block(number, 20_000)})
"""


def test_several_processes_write_at_once(store, tmp_path):
    """Several fetches at once, beside a daemon: nobody's entries are lost or mixed up."""
    here = str(Path(__file__).parent)
    children = [
        subprocess.Popen([sys.executable, "-c", ADDER, here, str(tmp_path), str(n)])
        for n in range(3)
    ]
    assert [child.wait(60) for child in children] == [0, 0, 0]
    assert len(store.directories()) == 30
    assert {d.blocks for d in store.directories()} == {5}
    for digest, _ in store.blocks():
        assert Digest.of(fetch(store, digest)) == digest


def test_opening_does_not_wait_for_a_writer(store, tmp_path):
    """The event loop meets a changed file while another process writes for half a minute."""
    add(store, tmp_path / "m", FILES)
    append(tmp_path / "m" / "one")
    with InPlaceStore(tmp_path / "places.sqlite") as other, other._writing():
        start = time.monotonic()
        with pytest.raises(ChangedError):
            store.open(ONE)
        assert time.monotonic() - start < 20
        with pytest.raises(ChangedError):
            store.open(ONE)
        assert [file.path for file in store.changed()] == ["one"]
    assert len(store.changed()) == 1


def test_a_writer_that_waits_too_long_says_so(store, tmp_path, monkeypatch):
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0.05)
    with InPlaceStore(tmp_path / "places.sqlite") as other, store._writing():
        with pytest.raises(BusyError):
            other.remove_directory(tmp_path)


def test_a_damaged_index(tmp_path):
    path = tmp_path / "places.sqlite"
    path.write_bytes(b"not a database" * 500)
    with pytest.raises(DamagedError):
        InPlaceStore(path)


@pytest.mark.parametrize("column", ["key", "rest"])
def test_an_index_in_which_a_value_changed_its_type_is_damaged(store, tmp_path, column):
    """Each was a traceback where blocks are listed."""
    add(store, tmp_path / "m", {"f": block(1, 100)})
    with store._writing() as db:
        db.execute(f"UPDATE spots SET {column} = 1.5")
    with pytest.raises(DamagedError, match="makes no sense"):
        list(store.blocks())


@pytest.mark.parametrize("change", ["roots SET path", "roots SET manifest", "files SET path"])
def test_a_directory_of_which_a_value_changed_its_type_is_damaged(store, tmp_path, change):
    add(store, tmp_path / "m", {"f": block(1, 100)})
    with store._writing() as db:
        db.execute(f"UPDATE {change} = 7")
    read = store.directories if change.startswith("roots") else lambda: store.facts(tmp_path / "m")
    with pytest.raises(DamagedError, match="makes no sense"):
        read()


def test_an_index_in_a_place_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        InPlaceStore(tmp_path / "file" / "places.sqlite")


def test_the_index_is_small(store, tmp_path):
    """At most about 100 bytes a block."""
    data = os.urandom(20_000 * 8)
    manifest = Manifest(
        Kind.BASE,
        BLOCK,
        (File("f", 20_000 * BLOCK, (Run(0, 20_000 * BLOCK, 0),)),),
        b"".join(Digest.of(data[i * 8 : i * 8 + 8]) for i in range(20_000)),
    )
    (tmp_path / "m").mkdir()
    with (tmp_path / "m" / "f").open("wb") as file:
        file.truncate(20_000 * BLOCK)
    facts = {"f": FileFacts.of((tmp_path / "m" / "f").stat())}
    store.add_directory(tmp_path / "m", MODEL, manifest, facts)
    store.close()
    assert (tmp_path / "places.sqlite").stat().st_size < 100 * 20_000
