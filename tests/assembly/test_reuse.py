"""Reuse: what another local model has is taken from it, verified, and shared on disk if it can."""

import errno
import os
import shutil
import signal
import subprocess
import threading
from pathlib import Path

import pytest

import icnblocks.assembly.reuse as reuse_module
from icnblocks.assembly.assembler import Assembler, on_a_disk
from icnblocks.assembly.directory import ModelDirectory
from icnblocks.assembly.reuse import LocalReuse, can_share
from icnblocks.errors import StorageError
from icnblocks.limits import BLOCK_BYTES
from icnblocks.manifest.codec import digest_of, encode
from icnblocks.manifest.model import Kind
from icnblocks.placement.plan import Plan
from icnblocks.publish.scan import scan
from icnblocks.store.inplace import InPlaceLease, InPlaceStore
from icnblocks.testing.models import half_frozen, write_llama

BLOCK = 64 * 1024


@pytest.fixture
def base_and_variant(tmp_path):
    def make(root: Path):
        base = write_llama(root / "base", layers=4, hidden=256, vocabulary=2000, seed=3)
        return base, half_frozen(base, root / "variant")

    return make


def index(path: Path, model: Path) -> InPlaceStore:
    places = InPlaceStore(path)
    found = scan(model, Kind.BASE, block_bytes=BLOCK)
    places.add_directory(model, digest_of(encode(found.manifest)), found.manifest, found.facts)
    return places


def reuse(model: Path, target: Path, places: InPlaceStore, then=None) -> tuple[int, Assembler]:
    """How many bytes were taken, and into what; `then` is called with it before it is closed."""
    manifest = scan(model, Kind.BASE, block_bytes=BLOCK).manifest
    directory = ModelDirectory(target)
    assembler = Assembler(
        directory, digest_of(encode(manifest)), manifest, Plan(manifest), frozenset()
    )
    moved = []
    LocalReuse(assembler, places, moved.append).take(assembler.missing())
    if then is not None:
        then(assembler)
    assembler.close()
    directory.close()
    return sum(moved), assembler


def compare(model: Path, target: Path, missing) -> None:
    """Every byte of the partial files is right, except where blocks are missing."""
    manifest = scan(model, Kind.BASE, block_bytes=BLOCK).manifest
    for block in manifest.blocks():
        path = manifest.files[block.file].path
        if block.digest in missing:
            continue
        want = (model / path).read_bytes()[block.offset : block.offset + block.length]
        got = (target / f"{path}.partial").read_bytes()
        assert got[block.offset : block.offset + block.length] == want


def test_only_what_changed_is_left_to_fetch(base_and_variant, tmp_path):
    base, variant = base_and_variant(tmp_path)
    with index(tmp_path / "p.sqlite", base) as places:
        taken, assembler = reuse(variant, tmp_path / "out", places)
        missing = {want.digest for want in assembler.missing()}
        assert missing
        assert not any(digest in places for digest in missing)
    assert taken > 0.4 * sum(f.size for f in assembler.manifest.files)
    compare(variant, tmp_path / "out", missing)


def test_a_source_that_rotted_is_not_taken(base_and_variant, tmp_path):
    """The index believes the file, its bytes are others: only hashing can see it."""
    base, _ = base_and_variant(tmp_path)
    found = scan(base, Kind.BASE, block_bytes=BLOCK)
    shard = max(base.glob("*.safetensors"))
    with shard.open("r+b") as file:
        file.seek(-10, os.SEEK_END)
        file.write(b"0123456789")
    after = scan(base, Kind.BASE, block_bytes=BLOCK)
    with InPlaceStore(tmp_path / "p.sqlite") as places:
        digest = digest_of(encode(found.manifest))
        places.add_directory(base, digest, found.manifest, after.facts)
        rotten = set(found.manifest.lengths()) - set(after.manifest.lengths())
        assert len(rotten) == 1
        directory = ModelDirectory(tmp_path / "out")
        assembler = Assembler(directory, digest, found.manifest, Plan(found.manifest), frozenset())
        LocalReuse(assembler, places, lambda _: None).take(assembler.missing())
        assert {want.digest for want in assembler.missing()} == rotten
        assembler.close()
        directory.close()


class Meddled:
    """A store in which something happens before the `last` opening of a block."""

    def __init__(self, store, last, happens):
        self.store, self.left, self.happens = store, last, happens

    def open(self, digest):
        self.left -= 1
        if not self.left:
            self.happens()
        return self.store.open(digest)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_source_that_changes_before_it_is_cloned_is_not_taken(tmp_path, monkeypatch, elsewhere):
    """Also where the same blocks lie in another file, at other offsets."""

    def clone(fd, _, request):
        source, at, length, to = reuse_module._RANGE.unpack(request)
        os.pwrite(fd, os.pread(source, length, at), to)

    monkeypatch.setattr(reuse_module.fcntl, "ioctl", clone)
    data = os.urandom(4 * BLOCK)
    for name, content in [("one", data), ("two", os.urandom(BLOCK) + data)]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.bin").write_bytes(content)
    with index(tmp_path / "p.sqlite", tmp_path / "one") as places:
        if elsewhere:
            index(tmp_path / "p.sqlite", tmp_path / "two").close()
        # Another time for certain: a file's clock goes in steps of some milliseconds.
        meddled = Meddled(places, 6, lambda: os.utime(tmp_path / "one" / "a.bin", (1, 1)))
        taken, assembler = reuse(tmp_path / "one", tmp_path / "out", meddled)
    assert taken == BLOCK, "the first is shared to find out whether that is possible"
    assert len(assembler.missing()) == 3
    compare(tmp_path / "one", tmp_path / "out", {want.digest for want in assembler.missing()})


def test_a_source_that_is_published_anew_before_it_is_cloned_is_not_taken(tmp_path, reflink_disk):
    """Catches: blocks of before are noted, of which only the first still lies there."""
    base = reflink_disk / "base"
    base.mkdir()
    (base / "a.bin").write_bytes(os.urandom(16 * BLOCK))
    before = shutil.copytree(base, tmp_path / "before")

    def edit():
        with (base / "a.bin").open("r+b") as file:
            file.seek(5 * BLOCK)
            file.write(b"edited")
        index(tmp_path / "p.sqlite", base).close()

    with index(tmp_path / "p.sqlite", base) as places:
        _, assembler = reuse(before, reflink_disk / "out", Meddled(places, 18, edit))
    compare(before, reflink_disk / "out", {want.digest for want in assembler.missing()})


def test_a_source_that_cannot_be_read_is_not_taken(base_and_variant, tmp_path, monkeypatch):
    base, _ = base_and_variant(tmp_path)

    def fail(*_):
        raise StorageError("Input/output error")

    with index(tmp_path / "p.sqlite", base) as places:
        monkeypatch.setattr(InPlaceLease, "read", fail)
        taken, _ = reuse(base, tmp_path / "out", places)
    assert not taken


@pytest.mark.parametrize("threads", [1, 4])
def test_each_block_is_taken_once_however_many_threads_work(
    base_and_variant, tmp_path, monkeypatch, threads
):
    monkeypatch.setattr(reuse_module, "_BATCH", 2 * BLOCK)
    monkeypatch.setattr(reuse_module, "_THREADS", threads)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8))
    base, _ = base_and_variant(tmp_path)
    with index(tmp_path / "p.sqlite", base) as places:
        taken, assembler = reuse(base, tmp_path / "out", places)
    assert taken == Plan(assembler.manifest).unique_bytes
    compare(base, tmp_path / "out", set())


def test_a_disk_that_refuses_one_thread_ends_all(base_and_variant, tmp_path, monkeypatch):
    """Nobody may still be writing when it is raised: the files are closed then."""
    monkeypatch.setattr(reuse_module, "_BATCH", BLOCK)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8))
    monkeypatch.setattr(reuse_module.fcntl, "ioctl", refuses_to_share)
    base, _ = base_and_variant(tmp_path)
    accept, main = Assembler.accept, threading.current_thread()
    writes, refused, writing = threading.Event(), threading.Event(), set()

    def full(self, blocks):
        if threading.current_thread() is main:
            assert writes.wait(10)
            refused.set()
            raise StorageError("no space left")
        writing.add(threading.get_ident())
        writes.set()
        assert refused.wait(10)
        for _ in range(100):
            accept(self, blocks)
        writing.discard(threading.get_ident())

    monkeypatch.setattr(Assembler, "accept", full)
    with index(tmp_path / "p.sqlite", base) as places, pytest.raises(StorageError, match="space"):
        reuse(base, tmp_path / "out", places)
    assert not writing


@pytest.mark.parametrize("at", [0, 3])
def test_it_can_be_ended_within_a_block(base_and_variant, tmp_path, monkeypatch, at):
    """Catches: minutes of taking for somebody who has left."""
    monkeypatch.setattr(reuse_module, "_THREADS", 1)
    base, _ = base_and_variant(tmp_path)
    manifest = scan(base, Kind.BASE, block_bytes=BLOCK).manifest
    directory = ModelDirectory(tmp_path / "out")
    assembler = Assembler(
        directory, digest_of(encode(manifest)), manifest, Plan(manifest), frozenset()
    )
    with index(tmp_path / "p.sqlite", base) as places:
        opened = Opened(places)
        taking = LocalReuse(assembler, opened, lambda _: len(opened.digests) < at or taking.stop())
        if not at:
            taking.stop()
        taking.take(assembler.missing())
    assert at <= len(opened.digests) <= 2 * at
    assembler.close()
    directory.close()


class Opened:
    """A store that notes which blocks are opened."""

    def __init__(self, store):
        self.store, self.digests = store, []

    def open(self, digest):
        self.digests.append(digest)
        return self.store.open(digest)


def test_an_interrupt_waits_for_those_who_write(tmp_path, monkeypatch):
    """Also where the main thread has nothing left to do but to wait for another."""
    monkeypatch.setattr(reuse_module, "_BATCH", BLOCK)
    monkeypatch.setattr(reuse_module, "_THREADS", 2)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8))
    monkeypatch.setattr(reuse_module.fcntl, "ioctl", refuses_to_share)
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "a.bin").write_bytes(os.urandom(8 * BLOCK))
    accept, main, taken = Assembler.accept, threading.current_thread(), []
    writes, alone, writing = threading.Event(), threading.Event(), set()

    def slow(self, blocks):
        if threading.current_thread() is main:
            assert writes.wait(10)
            accept(self, blocks)
            taken.extend(blocks)
            if len(taken) == 7:
                alone.set()
            return
        writing.add("block")
        writes.set()
        assert alone.wait(10)
        signal.pthread_kill(main.ident, signal.SIGINT)
        for _ in range(3000):
            accept(self, blocks)
        writing.clear()

    monkeypatch.setattr(Assembler, "accept", slow)
    with index(tmp_path / "p.sqlite", tmp_path / "one") as places:
        with pytest.raises(KeyboardInterrupt):
            reuse(tmp_path / "one", tmp_path / "out", places)
    assert not writing


def refuses_to_share(*_):
    raise OSError(errno.EOPNOTSUPP, "no")


@pytest.fixture
def reflink_disk(tmp_path):
    """A small XFS on a loop device: a file system that can share bytes between files."""
    if os.geteuid() != 0 or not shutil.which("mkfs.xfs"):
        pytest.skip("needs root and mkfs.xfs (Debian: xfsprogs)")
    image, point = tmp_path / "xfs.img", tmp_path / "xfs"
    with image.open("wb") as file:
        file.truncate(320 * 1024 * 1024)
    point.mkdir()
    subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", image], check=True)
    mounted = subprocess.run(["mount", "-o", "loop", image, point], check=False)
    if mounted.returncode:
        pytest.skip("this machine cannot mount an XFS image")
    yield point
    subprocess.run(["umount", point], check=True)


def used(point: Path) -> int:
    os.sync()
    facts = os.statvfs(point)
    return (facts.f_blocks - facts.f_bfree) * facts.f_frsize


def test_whether_files_can_share_is_found_out_and_leaves_nothing(reflink_disk, monkeypatch):
    directory = ModelDirectory(reflink_disk)
    assert can_share(directory)
    monkeypatch.setattr("icnblocks.assembly.reuse.fcntl.ioctl", refuses_to_share)
    assert not can_share(directory)
    assert not list((reflink_disk / ".icnblocks").iterdir())
    directory.close()


def test_where_files_cannot_share_room_for_all_is_taken_at_once(base_and_variant, tmp_path):
    """Catches: each copy of a block asking for its own."""
    base, variant = base_and_variant(tmp_path)
    directory = ModelDirectory(tmp_path / "tried")
    shares = can_share(directory)
    directory.close()
    if shares or not on_a_disk(tmp_path.stat()):
        pytest.skip("the temporary directory is on no disk, or on one where files share")
    left = []
    with index(tmp_path / "p.sqlite", base) as places:
        reuse(variant, tmp_path / "out", places, lambda into: left.append(into.unallocated()))
    small = sum(size for each in variant.iterdir() if (size := each.stat().st_size) < BLOCK_BYTES)
    assert left[0] <= small


def test_a_variant_takes_only_its_changed_bytes_where_files_can_share(
    base_and_variant, tmp_path, reflink_disk
):
    base, variant = base_and_variant(reflink_disk)
    with index(tmp_path / "p.sqlite", base) as places:
        before = used(reflink_disk)
        sizes = []
        taken, assembler = reuse(
            variant,
            reflink_disk / "out",
            places,
            lambda assembler: sizes.append(used(reflink_disk) - before) or assembler.reserve(),
        )
        took = used(reflink_disk) - before
        missing = {want.digest: want.length for want in assembler.missing()}
    assert taken
    assert sizes[0] < 0.15 * taken + 2 * 1024 * 1024
    assert took - sizes[0] == pytest.approx(sum(missing.values()), rel=0.05)  # nothing is unshared
    compare(variant, reflink_disk / "out", missing)
