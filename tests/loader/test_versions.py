"""A directory that pulls replace gives tensors of one version, or says why not. Real pulls."""

import errno
import fcntl
import os
import shutil
from itertools import count

import pytest

import icnblocks
import icnblocks.puller as puller_module
from icnblocks.assembly.directory import ModelDirectory
from icnblocks.errors import BusyError, ChangedError, StorageError
from icnblocks.loader import opened, steady
from icnblocks.manifest.model import Tensor
from icnblocks.testing.models import Part, write_safetensors
from tests.assembly.test_puller import pull, puller, put, settings
from tests.assembly.test_puller_states import Killed

__all__ = ["pull", "puller", "put", "settings"]  # fixtures

SHARDS = 8


def die(*_):
    raise Killed


@pytest.fixture
def version(put, tmp_path):
    """Publish a version whose tensors hold its number, as a model without an index."""

    def run(number, shards=range(SHARDS)):
        files = {}
        for shard in shards:
            tensor = Tensor(f"t{shard}", "U8", (1000,))
            made = tmp_path / "made"
            write_safetensors(made, [Part(tensor, [bytes([number]) * 1000])])
            files[f"s{shard}.safetensors"] = made.read_bytes()
        put("acme/m", f"source{number}-{len(files)}", **files)

    return run


@pytest.fixture
def root(version, pull, tmp_path):
    version(1)
    return pull("acme/m", tmp_path / "to").path


def loaded(root):
    """The versions of the tensors that are loaded, and how many there are."""
    tensors = icnblocks.load(root)
    return {int(number) for tensor in tensors.values() for number in tensor}, len(tensors)


def at_rename(monkeypatch, number, what):
    """Call `what` before a model's file is renamed that often."""
    real, renames = ModelDirectory.rename, count()

    def rename(directory, old, new):
        if not new.startswith(".icnblocks/") and next(renames) == number:
            what()
        real(directory, old, new)

    monkeypatch.setattr(ModelDirectory, "rename", rename)


def cut_off(pull, root, number=3):
    with pytest.MonkeyPatch.context() as patch:
        at_rename(patch, number, die)
        with pytest.raises(Killed):
            pull("acme/m", root)


def test_a_pull_that_was_cut_off_between_its_renames_is_refused_until_it_is_repeated(
    version, pull, root
):
    version(2)
    cut_off(pull, root)
    with pytest.raises(ChangedError, match="was cut off") as caught:
        icnblocks.load(root)
    assert "pull it again" in caught.value.hint
    pull("acme/m", root)
    assert loaded(root) == ({2}, SHARDS)
    assert not (root / ".icnblocks" / "renaming").exists()


def test_a_first_pull_that_was_cut_off_is_refused_too(version, pull, tmp_path):
    """Catches: three of eight shards for a whole model."""
    version(1)
    cut_off(pull, tmp_path / "to")
    with pytest.raises(ChangedError):
        icnblocks.load(tmp_path / "to")


def test_a_pull_that_comes_between_two_mappings_gives_its_version(version, pull, root, monkeypatch):
    version(2)
    real, calls = opened.map_file, count()

    def map_file(*args):
        if next(calls) == 3:
            pull("acme/m", root)
        return real(*args)

    monkeypatch.setattr(opened, "map_file", map_file)
    assert loaded(root) == ({2}, SHARDS)


def test_a_version_with_fewer_files_that_comes_between_two_mappings_is_no_error(
    version, pull, root, monkeypatch
):
    """Catches: a file of the old version that is not found, though the model is whole."""
    version(2, shards=range(2, SHARDS))
    real, calls = opened.map_file, count()

    def map_file(file, mapper):
        if next(calls) == 0:
            pull("acme/m", root)
        return real(file, mapper)

    monkeypatch.setattr(opened, "map_file", map_file)
    assert loaded(root) == ({2}, SHARDS - 2)


@pytest.mark.parametrize("number", [0, 3, SHARDS - 1])
def test_while_a_pull_renames_it_is_waited_for(version, pull, root, monkeypatch, number):
    heard = []

    def look():
        with pytest.raises(BusyError, match="is replacing"):
            icnblocks.load(root)
        heard.append(number)

    version(2)
    monkeypatch.setattr(steady, "_PAUSE_S", 0)
    at_rename(monkeypatch, number, look)
    pull("acme/m", root)
    assert heard == [number]
    assert loaded(root) == ({2}, SHARDS)


def test_while_a_pull_fetches_and_after_it_was_cut_off_there_the_old_files_are_given(
    version, pull, root, monkeypatch
):
    heard = []

    def look_and_die(*_):
        heard.append(loaded(root))
        raise Killed

    version(2)
    monkeypatch.setattr(puller_module.Assembler, "finish", look_and_die)
    with pytest.raises(Killed):
        pull("acme/m", root)
    assert [*heard, loaded(root)] == [({1}, SHARDS)] * 2


def test_a_pull_that_was_killed_before_it_was_noted_is_refused_until_it_is_repeated(
    version, pull, root, monkeypatch
):
    """The old version's files that the new one has not are still there."""
    version(2, shards=range(2, SHARDS))
    with monkeypatch.context() as patch:
        patch.setattr(puller_module, "remember", die)
        with pytest.raises(Killed):
            pull("acme/m", root)
    with pytest.raises(ChangedError):
        icnblocks.load(root)
    pull("acme/m", root)
    assert loaded(root) == ({2}, SHARDS - 2)


def test_a_pull_that_was_killed_after_it_was_noted_is_whole(version, pull, root, monkeypatch):
    """Catches: an error that no further pull clears, since all is there already."""
    version(2)
    with monkeypatch.context() as patch:
        patch.setattr(puller_module.Assembler, "forget_map", die)
        with pytest.raises(Killed):
            pull("acme/m", root)
    assert loaded(root) == ({2}, SHARDS)
    version(3)
    cut_off(pull, root)
    with pytest.raises(ChangedError):
        icnblocks.load(root)


@pytest.mark.parametrize("mark", ["renaming", "unflushed"])
def test_a_disk_that_refuses_before_the_first_rename_leaves_the_old_version(
    version, pull, root, monkeypatch, mark
):
    """Catches: a whole model that cannot be loaded, since its next version found the disk full."""

    def open_(directory, path, flags, _open=ModelDirectory.open):
        if path == f".icnblocks/{mark}.new":
            raise OSError(errno.ENOSPC, "No space left on device")
        return _open(directory, path, flags)

    version(2)
    with monkeypatch.context() as patch:
        patch.setattr(ModelDirectory, "open", open_)
        with pytest.raises(StorageError, match="No space"):
            pull("acme/m", root)
    assert loaded(root) == ({1}, SHARDS)
    pull("acme/m", root)
    assert loaded(root) == ({2}, SHARDS)


def test_back_to_the_version_that_is_still_whole_it_is_given(version, pull, root):
    """Catches: an error that no further pull clears, since nothing had been renamed."""
    version(2)
    cut_off(pull, root, 0)
    with pytest.raises(ChangedError):
        icnblocks.load(root)
    version(1)
    pull("acme/m", root)
    assert loaded(root) == ({1}, SHARDS)


def test_two_pulls_cut_off_one_after_the_other_are_refused(version, pull, root):
    """Catches: what the state says of the first version taken for a word on the mixture."""
    version(2)
    cut_off(pull, root)
    version(1)
    cut_off(pull, root, 2)
    with pytest.raises(ChangedError):
        icnblocks.load(root)
    pull("acme/m", root, overwrite=True)
    assert loaded(root) == ({1}, SHARDS)


def test_a_copy_of_a_mixture_is_refused(version, pull, root, tmp_path):
    version(2)
    cut_off(pull, root)
    copy = shutil.copytree(root, tmp_path / "copy")
    with pytest.raises(ChangedError):
        icnblocks.load(copy)
    (copy / ".icnblocks" / "lock").unlink()
    with pytest.raises(ChangedError):
        icnblocks.load(copy)


def test_a_mixture_where_nothing_can_be_locked_is_refused(version, pull, root, monkeypatch):
    """Catches: an OSError of the lock (NFS without a lock daemon) instead of what is wrong."""
    version(2)
    cut_off(pull, root)

    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(ChangedError, match="cut off"):
        icnblocks.load(root)
