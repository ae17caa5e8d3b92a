"""A disk store after kill -9 and after power cuts: it opens, serves only right bytes, keeps what
it acknowledged, leaves no rubbish, and goes on working.
"""

import importlib.util
import os
import random
import shutil
import sys
from pathlib import Path

import pytest

from icnblocks.naming import Digest
from icnblocks.store import disk, recovery
from icnblocks.store.disk import DiskStore
from icnblocks.testing.faults import kill_when, segment_files
from icnblocks.testing.recorded_writes import (
    CannotTraceError,
    after_kill,
    after_power_cut,
    record,
    said,
)
from icnblocks.testing.store_contract import block, fetch, put

PROGRAM = Path(__file__).with_name("disk_writer.py")
SPEC = importlib.util.spec_from_file_location("disk_writer", PROGRAM)
writer = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(writer)


def must_have(lines):
    """Numbers of the blocks that were put before the last flush and not erased since."""
    flushed, put_so_far, erased = set(), set(), set()
    for line in lines:
        word, _, number = line.partition(" ")
        if word == "open":  # what the last process had not flushed may be gone
            put_so_far = set(flushed)
        elif word == "put":
            put_so_far.add(int(number))
        elif word == "erase":
            erased.add(int(number))
        elif word == "flushed":
            flushed = set(put_so_far)
    return flushed - erased


def allocated(path):
    """Bytes in the segments that are not holes, in whole pages."""
    total = 0
    for file in segment_files(path):
        with file.open("rb") as segment:
            end = 0
            while end < file.stat().st_size:
                try:
                    start = os.lseek(segment.fileno(), end, os.SEEK_DATA)
                except OSError:
                    break
                end = os.lseek(segment.fileno(), start, os.SEEK_HOLE)
                total += -(-(end - start) // 4096) * 4096
    return total


def check(path, lines):
    """Open the store and try everything that may have gone wrong with it."""
    with DiskStore(path, segment_bytes=16 * 4096) as store:
        found = dict(store.blocks())
        for digest, length in found.items():
            data = fetch(store, digest)
            assert len(data) == length
            assert Digest.of(data) == digest
        assert len(store) == len(found)
        lost = [n for n in must_have(lines) if Digest.of(writer.data_of(n)) not in found]
        assert not lost, f"acknowledged and lost: {lost}"
        assert store.used_bytes == sum(store.footprint(n) for n in found.values())
        assert allocated(path) <= store.used_bytes
        fresh = [put(store, block(n, 3000)) for n in range(10)]
        store.erase(fresh[0])
        store.flush()
        assert all(fetch(store, d) == block(n, 3000) for n, d in enumerate(fresh) if n)
    names = {file.name for file in path.iterdir()} - {"index.sqlite-wal", "index.sqlite-shm"}
    assert names == {"format", "lock", "index.sqlite", "segments", "spare"}
    with DiskStore(path) as store:
        found = dict(store.blocks())
        assert set(fresh[1:]) <= found.keys()
        assert all(Digest.of(fetch(store, d)) == d for d in found)


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """Two generations of the writer, the second on the store that the first closed."""
    path = tmp_path_factory.mktemp("recorded") / "store"
    try:
        ops = record([sys.executable, str(PROGRAM), str(path), "1", "40", "close"], path)
        ops += record([sys.executable, str(PROGRAM), str(path), "2", "40"], path)
    except CannotTraceError as error:
        pytest.skip(str(error))
    return ops


def changes(ops):
    return [n for n, op in enumerate(ops) if op.what != "said"]


def test_the_recording_is_the_truth(recording, tmp_path):
    """If calls were missed, the tests below would prove nothing."""
    assert {op.what for op in recording} >= {"write", "sync", "create", "unlink", "punch", "said"}
    after_kill(recording, len(recording), tmp_path / "store")
    check(tmp_path / "store", said(recording, len(recording)))


def test_killed_before_any_change(recording, tmp_path):
    """kill -9 between any two system calls that change the disk."""
    for until in changes(recording)[::6]:
        after_kill(recording, until, tmp_path / "store")
        check(tmp_path / "store", said(recording, until))


@pytest.mark.slow
def test_killed_before_every_change(recording, tmp_path):
    for until in changes(recording):
        after_kill(recording, until, tmp_path / "store")
        check(tmp_path / "store", said(recording, until))


def cut_power(ops, path, monkeypatch, points, seeds):
    for until in points:
        for seed in range(seeds):
            after_power_cut(ops, until, path, random.Random(until * 1000 + seed))
            monkeypatch.setattr(disk, "boot_id", lambda: "after the power cut")
            try:
                check(path, said(ops, until))
            except BaseException as error:
                error.add_note(f"power cut before op {until}, seed {seed}")
                raise


def test_power_cut_at_any_change(recording, tmp_path, monkeypatch):
    """Whatever subset of unsynced pages and names is lost, no wrong byte is served."""
    cut_power(recording, tmp_path / "store", monkeypatch, changes(recording)[::9], 2)


@pytest.mark.slow
def test_power_cut_at_every_change(recording, tmp_path, monkeypatch):
    cut_power(recording, tmp_path / "store", monkeypatch, changes(recording), 4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("guard", "without"),
    [("_proven", lambda *_, **__: True), ("_may_be_hole", lambda *_, **__: False)],
)
def test_the_guards_against_power_cuts_are_needed(recording, tmp_path, monkeypatch, guard, without):
    """Without hashing again what was not flushed, or what touches a hole, wrong bytes are found."""
    monkeypatch.setattr(recovery, guard, without)
    with pytest.raises(AssertionError):
        cut_power(recording, tmp_path / "store", monkeypatch, changes(recording), 4)


def test_killed_at_random(tmp_path):
    """The same with a real process and a real SIGKILL, in the middle of whatever it does."""
    path, lines = tmp_path / "store", []
    for seed in range(1, 9):
        chance = random.Random(seed)
        stop_at = b"put %d" % (seed * 1_000_000 + chance.randrange(150))
        command = [sys.executable, str(PROGRAM), str(path), str(seed), "100000"]
        lines += kill_when(command, lambda text, stop=stop_at: stop in text).decode().splitlines()
        check(path, lines)


@pytest.mark.parametrize(("boots", "told"), [(("", ""), True), (("1", "1"), False)])
def test_that_blocks_were_hashed_again_is_said(tmp_path, monkeypatch, caplog, boots, told):
    """Catches: a start that takes minutes, and nobody says why, where the kernel names no boot."""
    monkeypatch.setattr(disk, "boot_id", lambda: boots[0])
    with DiskStore(tmp_path / "store") as store:
        digest = put(store, block(1))
        store._commit()
        shutil.copytree(tmp_path / "store", tmp_path / "killed")
    monkeypatch.setattr(disk, "boot_id", lambda: boots[1])
    with DiskStore(tmp_path / "killed") as store:
        assert digest in store
    assert ("unclean start: 1 blocks were hashed again" in caplog.text) == told
