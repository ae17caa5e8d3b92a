"""Assembling: bit for bit, resumable, never outside the directory, never over a user's file."""

import errno
import os
from pathlib import Path

import pytest

from icnblocks.assembly import assembler
from icnblocks.assembly.assembler import Assembler
from icnblocks.assembly.blockmap import HEADER_BYTES
from icnblocks.assembly.directory import ModelDirectory
from icnblocks.errors import BusyError, ConflictError, IncompleteError, StorageError
from icnblocks.limits import BLOCK_BYTES
from icnblocks.manifest.codec import digest_of, encode
from icnblocks.manifest.model import Kind
from icnblocks.naming import Digest
from icnblocks.placement.plan import Plan
from icnblocks.publish.scan import scan
from icnblocks.store.base import verify
from icnblocks.store.extents import write_all
from icnblocks.testing.faults import MountImpossibleError, small_disk

BLOCK = 4096


@pytest.fixture
def model(tmp_path):
    """A directory with a repeated block, an empty file, a folder and a short last block."""
    root = tmp_path / "model"
    (root / "sub").mkdir(parents=True)
    repeated = b"r" * BLOCK
    (root / "a.bin").write_bytes(repeated + os.urandom(BLOCK) + repeated + b"tail")
    (root / "empty.txt").write_bytes(b"")
    (root / "sub" / "b.bin").write_bytes(os.urandom(3 * BLOCK + 1))
    return root


class Pull:
    """One attempt to assemble `model` in `target`, blocks read from the model itself."""

    def __init__(self, model: Path, target: Path, whole=frozenset()):
        self.model = model
        self.manifest = scan(model, Kind.PACK, block_bytes=BLOCK).manifest
        self.digest = digest_of(encode(self.manifest))
        self.plan = Plan(self.manifest)
        self.directory = ModelDirectory(target)
        self.directory.lock(wait=False)
        try:
            self.assembler = Assembler(
                self.directory, self.digest, self.manifest, self.plan, frozenset(whole)
            )
        except BaseException:
            self.directory.close()
            raise

    def bring(self, wants):
        for want in wants:
            self.assembler.accept((self._read(want),))

    def bring_together(self, wants):
        self.assembler.accept([self._read(want) for want in wants])

    def _read(self, want):
        spot = self.plan.spots(want.digest)[0]
        data = (self.model / self.manifest.files[spot.file].path).read_bytes()
        return verify(want.digest, data[spot.offset : spot.offset + want.length])

    def close(self):
        self.assembler.close()
        self.directory.close()


def same(one: Path, two: Path) -> bool:
    files = sorted(p.relative_to(one) for p in one.rglob("*") if p.is_file())
    found = [p.relative_to(two) for p in two.rglob("*") if p.is_file()]
    found = sorted(p for p in found if p.parts[0] != ".icnblocks")
    return files == found and all((one / p).read_bytes() == (two / p).read_bytes() for p in files)


@pytest.mark.parametrize(("most", "cut"), [(1, [12]), (2, [6, 6]), (3, [4, 4, 4]), (9, [2] * 6)])
def test_missing_blocks_are_divided_between_files_in_order(tmp_path, most, cut):
    root = tmp_path / "model"
    root.mkdir()
    for number in range(6):
        (root / f"{number}").write_bytes(os.urandom(2 * BLOCK))
    pull = Pull(root, tmp_path / "out")
    parts = pull.assembler.parts(most)
    assert [len(part) for part in parts] == cut
    assert [want for part in parts for want in part] == pull.assembler.missing()
    pull.bring(pull.assembler.missing())
    assert pull.assembler.parts(most) == []
    pull.close()


def test_a_file_is_never_cut(tmp_path):
    root = tmp_path / "model"
    root.mkdir()
    for name, blocks in (("a", 1), ("b", 20), ("c", 1), ("d", 1)):
        (root / name).write_bytes(os.urandom(blocks * BLOCK))
    pull = Pull(root, tmp_path / "out")
    assert [len(part) for part in pull.assembler.parts(4)] == [21, 1, 1]
    assert [len(part) for part in pull.assembler.parts(2)] == [21, 2]
    pull.close()


def test_a_model_comes_out_bit_for_bit_with_repeated_blocks_fetched_once(model, tmp_path):
    pull = Pull(model, tmp_path / "out")
    wants = pull.assembler.missing()
    assert len({want.digest for want in wants}) == len(wants) == pull.manifest.block_count - 1
    pull.bring(wants)
    pull.assembler.finish()
    pull.assembler.forget_map()
    pull.close()
    assert same(model, tmp_path / "out")
    left = {p.name for p in (tmp_path / "out" / ".icnblocks").iterdir()}
    assert left == {"lock", "unflushed"}


def test_blocks_that_come_together_are_written_together_and_in_bounds(tmp_path, monkeypatch):
    """Catches: a block of zeros that is copied once for each of its thousand places."""
    root = tmp_path / "model"
    root.mkdir()
    random = os.urandom(30 * BLOCK)
    zeros = bytes(-(-2 * assembler._JOINED_BYTES // BLOCK) * BLOCK)
    (root / "a").write_bytes(random + zeros + random[: 5 * BLOCK])
    (root / "b").write_bytes(random[::-1])
    written = []

    def write(fd, data, offset):
        written.append(len(data))
        write_all(fd, data, offset)

    monkeypatch.setattr(assembler, "write_all", write)
    pull = Pull(root, tmp_path / "out")
    pull.bring_together(pull.assembler.missing())
    assert max(written) <= assembler._JOINED_BYTES
    assert len(written) < 20, "there are some hundred places"
    pull.assembler.finish()
    pull.assembler.forget_map()
    pull.close()
    assert same(root, tmp_path / "out")


def test_a_pull_that_was_cut_off_goes_on_where_it_was(model, tmp_path):
    first = Pull(model, tmp_path / "out")
    wants = first.assembler.missing()
    first.bring(wants[:3])
    first.close()
    second = Pull(model, tmp_path / "out")
    assert second.assembler.missing() == wants[3:]
    second.bring(wants[3:])
    second.assembler.finish()
    second.close()
    assert same(model, tmp_path / "out")


@pytest.mark.parametrize("kept_open", [256, 1])
def test_room_for_large_files_is_taken_at_once(tmp_path, monkeypatch, kept_open):
    """Catches: each write asking for its own; descriptors that are never closed."""
    monkeypatch.setattr(assembler, "_KEPT_OPEN", kept_open)
    root = tmp_path / "model"
    root.mkdir()
    (root / "large.bin").write_bytes(os.urandom(2 * BLOCK_BYTES))
    (root / "larger.bin").write_bytes(os.urandom(3 * BLOCK_BYTES))
    (root / "small.bin").write_bytes(os.urandom(5000))
    if not assembler.on_a_disk(root.stat()):
        pytest.skip("the temporary directory is on no disk")
    pull = Pull(root, tmp_path / "out")
    assert pull.assembler.unallocated() == 5 * BLOCK_BYTES + 5000
    before = open_files()
    pull.assembler.reserve()
    assert open_files() == before
    assert pull.assembler.unallocated() == 5000
    pull.bring(pull.assembler.missing())
    pull.assembler.finish()
    pull.close()
    assert same(root, tmp_path / "out")


def test_room_in_memory_is_taken_by_those_who_write(tmp_path):
    """Catches: one thread that finds all pages while the others wait (tmpfs: 9 % slower)."""
    root = tmp_path / "model"
    root.mkdir()
    (root / "large.bin").write_bytes(os.urandom(2 * BLOCK_BYTES))
    try:
        with small_disk(tmp_path / "memory", 8 * BLOCK_BYTES) as memory:
            pull = Pull(root, memory / "out")
            pull.assembler.reserve()
            assert pull.assembler.unallocated() == 2 * BLOCK_BYTES
            pull.close()
    except MountImpossibleError as error:
        pytest.skip(str(error))


def test_files_have_their_final_names_only_when_all_are_whole(model, tmp_path):
    pull = Pull(model, tmp_path / "out")
    pull.bring(pull.assembler.missing()[:-1])
    with pytest.raises(IncompleteError):
        pull.assembler.finish()
    pull.close()
    names = {p.name for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert names == {"a.bin.partial", "empty.txt.partial", "b.bin.partial", "lock", "map"}


def damage(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff\x00")


def resumed_after(model, tmp_path, spoil) -> list[Digest]:
    """What is missing after two blocks of b.bin came, the run ended, and `spoil` did its work."""
    first = Pull(model, tmp_path / "out")
    number = [file.path for file in first.manifest.files].index("sub/b.bin")
    wants = [w for w in first.assembler.missing() if first.plan.spots(w.digest)[0].file == number]
    first.bring(wants[:2])
    first.close()
    spoil(tmp_path / "out")
    second = Pull(model, tmp_path / "out")
    missing = {want.digest for want in second.assembler.missing()}
    second.close()
    return [want.digest for want in wants[:2] if want.digest in missing]


def test_a_partial_file_that_was_edited_is_hashed_again(model, tmp_path):
    def edit(out: Path) -> None:
        damage(out / "sub" / "b.bin.partial", 10)
        youngest = os.stat(out / ".icnblocks" / "map").st_mtime_ns + 1_000_000
        os.utime(out / "sub" / "b.bin.partial", ns=(youngest, youngest))

    assert len(resumed_after(model, tmp_path, edit)) == 1


def test_after_another_boot_notes_are_hashed_again(model, tmp_path):
    """A power cut can lose data whose note survived: the map is of another boot then."""

    def power_cut(out: Path) -> None:
        damage(out / "sub" / "b.bin.partial", 10)
        damage(out / ".icnblocks" / "map", HEADER_BYTES - 30)

    assert len(resumed_after(model, tmp_path, power_cut)) == 1


def test_where_the_kernel_names_no_boot_notes_are_hashed_again(model, tmp_path, monkeypatch):
    """A sandbox without /proc: it may have been started again at any time."""
    monkeypatch.setattr("icnblocks.store.boot._PATH", tmp_path / "absent")

    def power_cut(out: Path) -> None:
        damage(out / "sub" / "b.bin.partial", 10)
        (out / ".icnblocks" / "map").touch()

    assert len(resumed_after(model, tmp_path, power_cut)) == 1


def test_a_partial_file_that_was_removed_is_fetched_again(model, tmp_path):
    assert (
        len(resumed_after(model, tmp_path, lambda out: os.remove(out / "sub/b.bin.partial"))) == 2
    )


def test_a_partial_file_of_another_size_is_not_cut_off_under_who_has_it_mapped(model, tmp_path):
    """Catches: SIGBUS in a process that streamed a larger version, and was left with a part."""
    Pull(model, tmp_path / "out").close()
    partial = tmp_path / "out" / "a.bin.partial"
    partial.write_bytes(bytes(10 * BLOCK))
    with partial.open("rb") as mapped:
        pull = Pull(model, tmp_path / "out")
        assert os.fstat(mapped.fileno()).st_size == 10 * BLOCK
    pull.bring(pull.assembler.missing())
    pull.assembler.finish()
    pull.close()
    assert same(model, tmp_path / "out")


def test_a_torn_note_is_cut_off(model, tmp_path):
    def tear(out: Path) -> None:
        path = out / ".icnblocks" / "map"
        os.truncate(path, path.stat().st_size - 2)

    assert len(resumed_after(model, tmp_path, tear)) == 1


def test_what_a_pull_of_another_version_left_is_hashed_and_kept(model, tmp_path):
    first = Pull(model, tmp_path / "out")
    first.bring(first.assembler.missing())
    first.close()
    damage(tmp_path / "out" / "sub" / "b.bin.partial", BLOCK)
    (model / "a.bin").write_bytes(b"n" * (3 * BLOCK + 4))
    for _ in range(2):
        second = Pull(model, tmp_path / "out")
        wanted = {want.digest for want in second.assembler.missing()}
        assert wanted == {
            block.digest
            for block in second.manifest.blocks()
            if block.file == 0 or (block.file == 2 and block.offset == BLOCK)
        }
        second.close()


def test_what_another_version_left_of_a_block_of_many_places_is_read_once_and_counts_once(
    tmp_path, monkeypatch
):
    """Catches: a terabyte hashed for a gigabyte of zeros, and renamed files that lack blocks."""
    root, repeats = tmp_path / "model", 50
    root.mkdir()
    (root / "a").write_bytes(bytes(repeats * BLOCK))
    (root / "b").write_bytes(os.urandom(5 * BLOCK))
    Pull(root, tmp_path / "out").close()
    (root / "b").write_bytes(os.urandom(5 * BLOCK))
    reads, read_all = [], assembler.read_all

    def read(fd, length, offset):
        reads.append(length)
        return read_all(fd, length, offset)

    monkeypatch.setattr(assembler, "read_all", read)
    pull = Pull(root, tmp_path / "out")
    assert sum(reads) == (repeats + 5) * BLOCK
    assert len(pull.assembler.missing()) == 5
    with pytest.raises(IncompleteError, match="5 blocks"):
        pull.assembler.finish()
    pull.close()


def test_links_inside_the_directory_are_not_followed(model, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sub").symlink_to(outside)
    with pytest.raises(ConflictError, match="is, or lies in, a link"):
        Pull(model, tmp_path / "out")
    (tmp_path / "out" / "sub").unlink()
    (tmp_path / "out" / "a.bin.partial").unlink()
    (tmp_path / "out" / "a.bin.partial").symlink_to(outside / "x")
    with pytest.raises(ConflictError, match="is, or lies in, a link"):
        Pull(model, tmp_path / "out")
    assert not list(outside.iterdir())


def test_two_pulls_do_not_share_a_directory(model, tmp_path):
    first = Pull(model, tmp_path / "out")
    with pytest.raises(BusyError):
        Pull(model, tmp_path / "out")
    first.close()
    Pull(model, tmp_path / "out").close()


def test_a_process_that_was_forked_during_a_pull_holds_up_no_later_one(model, tmp_path):
    """Catches: a training's workers, for whose end the next pull waits."""
    before = set(os.listdir("/proc/self/fd"))
    first = Pull(model, tmp_path / "out")
    mine = [fd for fd in os.listdir("/proc/self/fd") if fd not in before]
    inherited = [os.dup(int(fd)) for fd in mine if os.path.exists(f"/proc/self/fd/{fd}")]
    first.close()
    try:
        Pull(model, tmp_path / "out").close()
    finally:
        for fd in inherited:
            os.close(fd)


def open_files():
    return len(os.listdir("/proc/self/fd"))


def refuse(monkeypatch, call):
    """The disk refuses a call from now on."""

    def refused(*args, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, refused)


def test_a_full_disk_leaves_no_file_open(model, tmp_path, monkeypatch):
    """Catches: a process that pulls until there is room, and runs out of descriptors."""
    before = open_files()
    for refused in ("ftruncate", "pwrite"):
        with monkeypatch.context() as patch:
            refuse(patch, refused)
            with pytest.raises(StorageError):
                Pull(model, tmp_path / refused)
    assert open_files() == before


def test_a_path_that_is_too_long_as_a_whole_is_said_before_anything_comes(model, tmp_path):
    """Catches: a whole model that is "not what it was" to the index, which cannot reach it."""
    (model / ("n" * 200)).write_bytes(b"x")
    deep = tmp_path
    while len(str(deep)) < 3950:
        deep /= "d" * 99
    with pytest.raises(StorageError, match="too long"):
        Pull(model, deep)


def test_a_directory_that_cannot_hold_our_state_is_not_left_open(tmp_path):
    (tmp_path / ".icnblocks").write_text("a file")
    before = open_files()
    with pytest.raises(StorageError):
        ModelDirectory(tmp_path)
    assert open_files() == before


@pytest.mark.parametrize("paths", [["x"], []])
def test_a_flush_that_fails_leaves_no_file_open(tmp_path, monkeypatch, paths):
    (tmp_path / "x").write_text("x")
    directory = ModelDirectory(tmp_path)
    before = open_files()
    refuse(monkeypatch, "fsync")
    with pytest.raises(StorageError):
        directory.sync(paths)
    assert open_files() == before
    directory.close()
