"""Disks that take a write and refuse it later, at a flush or a close, and say so once.

What could not be written back stays in the page cache, reads right, and counts as written: only
what is written again can still reach the disk. No network: what is published in place is pulled.
"""

import errno
import os
import shutil
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

import icnblocks.puller as puller_module
from icnblocks.assembly import assembler as assembler_module
from icnblocks.client.trust import KnownPublishers, Trust
from icnblocks.errors import StorageError
from icnblocks.naming import Name
from icnblocks.puller import Puller
from icnblocks.store.inplace import InPlaceStore
from tests.assembly.test_puller import (
    SIZE,
    contents,
    pull,
    puller,
    put,
    reboot,
    recheck,
    rot,
    settings,
)
from tests.assembly.test_puller_states import Killed, die

__all__ = ["pull", "puller", "put", "reboot", "settings"]  # fixtures


class Disk:
    """Flushes as the kernel does: of what it could not write it speaks once.

    Attributes:
        fails: name of the file whose flush fails next.
        lost: inodes that are not on the disk, whatever is said of them.
        kept: inodes that were flushed without an error.
    """

    def __init__(self, number):
        self._number, self._real = number, os.fsync
        self.fails, self.lost, self.kept = "", set(), set()
        self._held = []

    def fsync(self, fd):
        inode = os.fstat(fd).st_ino
        if self.fails and Path(f"/proc/self/fd/{fd}").readlink().name == self.fails:
            self.fails = ""
            self.lost.add(inode)
            self._held.append(os.dup(fd))  # so that no other file gets the number
            raise OSError(self._number, os.strerror(self._number))
        self.kept.add(inode)
        self._real(fd)

    def has(self, root):
        inodes = {path.stat().st_ino for path in root.iterdir() if path.is_file()}
        return inodes <= self.kept - self.lost

    def close(self):
        while self._held:
            os.close(self._held.pop())


@pytest.fixture(params=[errno.ENOSPC, errno.EIO])
def disk(request, monkeypatch):
    disk = Disk(request.param)
    monkeypatch.setattr(os, "fsync", disk.fsync)
    with closing(disk):
        yield disk


@pytest.fixture
def pull_durably(settings):
    def run():
        trust = Trust(KnownPublishers(settings.known_publishers), first_use=True)
        with Puller(replace(settings, durable=True), trust) as puller:
            return puller.pull(Name.parse("acme/m"))

    return run


@pytest.fixture
def failed(put, pull, pull_durably, disk):
    """A directory of which a file could not be flushed; and what ought to be in it."""
    root = put("acme/m", file=os.urandom(SIZE), other=b"other", empty=b"")
    at = pull("acme/m").path
    disk.fails = "file"
    with pytest.raises(StorageError):
        pull_durably()
    return at, contents(root)


def test_what_could_not_be_flushed_is_written_anew(pull_durably, disk, failed):
    """Catches: a second flush of the same pages, which the kernel says went well."""
    at, right = failed
    pull_durably()
    assert disk.has(at)
    assert contents(at) == right
    inode = (at / "file").stat().st_ino
    pull_durably()
    assert (at / "file").stat().st_ino == inode  # once


def test_files_that_were_there_already_are_flushed_too(put, pull_durably, settings, disk):
    """Catches: a model copied into its place, found right, and called durable in the page cache."""
    root = put("acme/m", file=os.urandom(SIZE), other=b"other")
    at = settings.models / "acme" / "m"
    shutil.copytree(root, at)
    pull_durably()
    assert disk.has(at)


def test_a_pull_that_does_not_flush_writes_it_anew_too(pull, pull_durably, disk, failed):
    """Catches: a pull in between that takes back what the failed flush noted, or never does."""
    at, right = failed
    pull("acme/m")
    inode = (at / "file").stat().st_ino
    pull("acme/m")
    assert (at / "file").stat().st_ino == inode
    pull_durably()
    assert disk.has(at)
    assert contents(at) == right


@pytest.mark.parametrize("killed_at", ["remember", "forget_map"])
def test_killed_while_it_was_written_anew(pull_durably, disk, failed, monkeypatch, killed_at):
    """Catches: a failure that is forgotten before what was written anew has its name."""
    at, right = failed
    rename, where = os.rename, Path(at)

    def killed(source, target, **kwargs):
        if source == "file.partial":
            raise Killed
        rename(source, target, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", killed)
        with pytest.raises(Killed):
            pull_durably()
    with monkeypatch.context() as patch:
        at_this = puller_module if killed_at == "remember" else puller_module.Assembler
        patch.setattr(at_this, killed_at, die)
        with pytest.raises(Killed):
            pull_durably()
    pull_durably()
    assert disk.has(where)
    assert contents(where) == right


def test_what_reads_wrong_by_then_is_had_from_elsewhere(pull_durably, settings, disk, failed):
    """Catches: a page that was dropped, and read from the disk again, taken for a user's edit."""
    at, right = failed
    rot(settings, at / "file")
    pull_durably()
    assert disk.has(at)
    assert contents(at) == right


@pytest.mark.parametrize("disk", [errno.EIO], indirect=True)
def test_after_another_start_the_disk_is_read_and_what_is_right_stays(
    put, pull, pull_durably, reboot, disk, request
):
    """Catches: a model that is written a second time though the disk was found to have it."""
    at, right = request.getfixturevalue("failed")
    inode = (at / "file").stat().st_ino
    reboot(2)
    pull("acme/m")
    assert (at / "file").stat().st_ino == inode
    assert contents(at) == right


class Quota:
    """A network file system that is over quota: `close` says that writes never arrived.

    Args:
        name: of the file that is refused.
        at: which close of it, from 1.
    """

    def __init__(self, name, at):
        self._name, self._at, self._real = name, at, os.close
        self.closes = 0

    def close(self, fd):
        link = Path(f"/proc/self/fd/{fd}")
        name = link.readlink().name if link.is_symlink() else ""
        self._real(fd)
        self.closes += name == self._name
        if name == self._name and self.closes == self._at:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))


@pytest.fixture
def written(monkeypatch):
    """What is written into partial files from now on."""
    spots, write_all = set(), assembler_module.write_all

    def write(fd, data, offset):
        spots.update(range(offset, offset + len(data), 1024))
        write_all(fd, data, offset)

    monkeypatch.setattr(assembler_module, "write_all", write)
    return spots


@pytest.mark.parametrize(("kept_open", "at"), [(256, 1), (0, 4)])
@pytest.mark.parametrize("map_is_written", [True, False])
def test_after_a_close_that_failed_all_is_written_again(
    put, pull, monkeypatch, tmp_path, written, kept_open, at, map_is_written
):
    """Catches: a traceback, and notes of blocks that never arrived, believed by the next run."""
    root = put("acme/m", file=os.urandom(SIZE))
    pwrite = os.pwrite
    monkeypatch.setattr(assembler_module, "_KEPT_OPEN", kept_open)

    def refuse_old_notes(fd, data, offset):
        if not map_is_written and offset and not bytes(data).strip():
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        return pwrite(fd, data, offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "close", Quota("file.partial", at).close)
        patch.setattr(os, "pwrite", refuse_old_notes)
        with pytest.raises(StorageError, match=r"file\.partial: Disk quota exceeded"):
            pull("acme/m", tmp_path / "to")
    written.clear()
    pull("acme/m", tmp_path / "to")
    assert contents(tmp_path / "to") == contents(root)
    assert len(written) == -(-SIZE // 1024)


@pytest.mark.parametrize("wrong", [False, True])
def test_what_a_failed_close_left_is_read_before_it_is_believed(
    put, pull, monkeypatch, tmp_path, wrong
):
    """Catches: blocks that read wrong since, counted as there."""
    root = put("acme/m", file=os.urandom(SIZE))
    with monkeypatch.context() as patch:
        patch.setattr(os, "close", Quota("file.partial", 1).close)
        with pytest.raises(StorageError):
            pull("acme/m", tmp_path / "to")
    partial = tmp_path / "to" / "file.partial"
    facts = partial.stat()
    if wrong:
        with partial.open("r+b") as file:
            file.write(bytes(1 << 20))
        os.utime(partial, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    else:  # and what is right need not be had from anywhere
        (root / "file").rename(tmp_path / "away")
    done = pull("acme/m", tmp_path / "to")
    assert done.bytes_network == 0
    right = (root if wrong else tmp_path) / ("file" if wrong else "away")
    assert (tmp_path / "to" / "file").read_bytes() == right.read_bytes()


def test_notes_that_could_not_be_written_are_not_read(
    put, pull, settings, monkeypatch, tmp_path, written
):
    """Catches: a hole in the notes, read as notes of the first block."""
    root = put("acme/m", file=os.urandom(SIZE), other=os.urandom(SIZE))
    (root / "other").rename(tmp_path / "away")  # so that the pull cannot end
    with monkeypatch.context() as patch:
        patch.setattr(os, "close", Quota("map", 1).close)
        with pytest.raises(StorageError, match="map: Disk quota exceeded"):
            pull("acme/m", tmp_path / "to")
    assert not (tmp_path / "to" / ".icnblocks" / "map").exists()
    (tmp_path / "away").rename(root / "other")
    with InPlaceStore(settings.store / "places.sqlite") as places:
        recheck(settings, places, root)
    written.clear()
    pull("acme/m", tmp_path / "to")
    assert contents(tmp_path / "to") == contents(root)
    assert len(written) == -(-SIZE // 1024)
