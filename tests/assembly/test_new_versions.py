"""A new version over what an earlier pull left: a pull's files are replaced, a user's are kept.

The index cannot tell them apart after `chmod`, a move or a kill; the bytes can.
"""

import fcntl
import os
import shutil

import pytest

import icnblocks.puller as puller_module
from icnblocks.assembly.directory import ModelDirectory
from icnblocks.errors import ConflictError, NotFoundError
from icnblocks.limits import MIB
from icnblocks.publish.facade import publish
from tests.assembly.test_puller import pull, puller, put, settings
from tests.assembly.test_puller_states import Killed

__all__ = ["pull", "puller", "put", "settings"]  # fixtures


def tree(root):
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and ".icnblocks" not in path.parts
    }


@pytest.fixture
def pulled(put, pull, tmp_path):
    """The first version, pulled: one file the next one changes, one that it has no more."""
    put("acme/m", config=b"one", shard=os.urandom(2 * MIB), old=os.urandom(MIB))
    return pull("acme/m", tmp_path / "to").path


def touched(root, _):
    for path in tree(root):
        (root / path).chmod(0o600)
    return root


def moved(root, _):
    return root.rename(root.parent / "elsewhere")


def copied(root, _):
    return shutil.copytree(root, root.parent / "elsewhere")


def forgotten(root, settings):
    for path in settings.store.glob("places.sqlite*"):
        path.unlink()
    return root


HARM = pytest.mark.parametrize("harm", [touched, moved, copied, forgotten])


@HARM
def test_what_a_pull_put_there_is_replaced(put, pull, pulled, settings, harm):
    """Catches: a new version that is refused as if somebody had edited the old one."""
    at = harm(pulled, settings)
    put("acme/m", "2", config=b"two", shard=os.urandom(2 * MIB))
    new = put("acme/m", "2", config=b"two", shard=os.urandom(2 * MIB))
    pull("acme/m", at)
    assert tree(at) == tree(new)


@HARM
def test_what_somebody_edited_is_kept(put, pull, pulled, settings, harm):
    at = harm(pulled, settings)
    (at / "config").write_bytes(b"mine")
    (at / "old").write_bytes(b"mine")
    new = put("acme/m", "2", config=b"two", shard=b"two")
    with pytest.raises(ConflictError, match="config"):
        pull("acme/m", at)
    assert (at / "config").read_bytes() == b"mine"
    (at / "config").unlink()
    pull("acme/m", at)
    assert tree(at) == {**tree(new), "old": b"mine"}


@HARM
def test_another_model_is_named(put, pull, pulled, settings, harm):
    at = harm(pulled, settings)
    put("acme/n", config=b"two")
    with pytest.raises(ConflictError, match="holds acme/m"):
        pull("acme/n", at)


@pytest.mark.parametrize("killed_at", ["remember", "forget_map"])
@pytest.mark.parametrize("then", ["third", "first"])
def test_killed_before_it_was_noted_and_the_publisher_went_on(
    put, pull, pulled, monkeypatch, killed_at, then
):
    def die(*_):
        raise Killed

    first = tree(pulled)
    put("acme/m", "2", config=b"two", shard=os.urandom(2 * MIB), new=b"new")
    where = puller_module if killed_at == "remember" else puller_module.Assembler
    with monkeypatch.context() as patch:
        patch.setattr(where, killed_at, die)
        with pytest.raises(Killed):
            pull("acme/m", pulled)
    files = {"config": b"three", "shard": b"three"} if then == "third" else first
    put("acme/m", "3", **files)
    pull("acme/m", pulled)
    assert tree(pulled) == files


@pytest.mark.parametrize("removed", [False, True])
def test_a_pull_that_ended_in_renaming_is_replaced_by_the_next_version(
    put, pull, monkeypatch, tmp_path, removed
):
    """The first pull into a directory: nothing in it says of which model the whole files are.

    Catches: the first since it was removed, with which the index does not agree.
    """

    def die(*_):
        raise Killed

    if removed:
        put("acme/m", config=b"before", old=b"older")
        shutil.rmtree(pull("acme/m", tmp_path / "to").path)
    put("acme/m", config=b"one", old=b"old")
    with monkeypatch.context() as patch:
        patch.setattr(puller_module, "remember", die)
        with pytest.raises(Killed):
            pull("acme/m", tmp_path / "to")
    new = put("acme/m", "2", config=b"two")
    pull("acme/m", tmp_path / "to")
    assert tree(tmp_path / "to") == tree(new)


@pytest.mark.parametrize("harm", [None, touched, moved])
@pytest.mark.parametrize("way", [1, -1])
def test_a_file_becomes_a_directory_and_the_other_way(put, pull, settings, tmp_path, harm, way):
    """Catches: a version that can never be pulled over the one before."""
    versions = [{"a": b"1" * 5000, "b": b"2"}, {"a/one/x": b"1" * 5000, "a/y": b"3", "b": b"2"}]
    first, second = versions[::way]
    put("acme/m", "1", **first)
    at = pull("acme/m", tmp_path / "to").path
    if harm:
        at = harm(at, settings)
    put("acme/m", "2", **second)
    pull("acme/m", at)
    assert tree(at) == second
    assert {path.name for path in at.iterdir()} == {".icnblocks", "a", "b"}


@pytest.mark.parametrize("way", [1, -1])
def test_a_pull_cut_off_on_the_way_from_a_file_to_a_directory_can_go_back(
    put, pull, tmp_path, monkeypatch, way
):
    """Catches: the partial file of a version that nobody wants any more, in the way for ever."""

    def die(*_):
        raise Killed

    versions = [{"a": b"1" * 5000, "b": b"2"}, {"a/one/x": b"1" * 5000, "a/y": b"3", "b": b"2"}]
    first, second = versions[::way]
    put("acme/m", "1", **first)
    at = pull("acme/m", tmp_path / "to").path
    put("acme/m", "2", **second)
    with monkeypatch.context() as patch:
        patch.setattr(puller_module, "salvage", die)
        with pytest.raises(Killed):
            pull("acme/m", at)
    put("acme/m", "3", **first)
    pull("acme/m", at)
    assert tree(at) == first
    assert {path.name for path in at.iterdir()} == {".icnblocks", "a", "b"}


def test_a_users_file_in_a_directory_that_shall_be_a_file_is_kept(put, pull, tmp_path):
    put("acme/m", "1", **{"a/x": b"1", "b": b"2"})
    at = pull("acme/m", tmp_path / "to").path
    (at / "a" / "mine").write_bytes(b"mine")
    put("acme/m", "2", a=b"3", b=b"2")
    with pytest.raises(ConflictError, match="to/a is, or lies in"):
        pull("acme/m", at)
    assert (at / "a" / "mine").read_bytes() == b"mine"
    (at / "a" / "mine").rename(at / "mine")
    (at / "a").rmdir()
    pull("acme/m", at)
    assert tree(at) == {"a": b"3", "b": b"2", "mine": b"mine"}


def test_directories_that_are_empty_afterwards_do_not_stay(put, pull, tmp_path):
    put("acme/m", "1", **{"a/b/x": b"1", "c": b"2"})
    at = pull("acme/m", tmp_path / "to").path
    put("acme/m", "2", c=b"3")
    pull("acme/m", at)
    assert {path.name for path in at.iterdir()} == {".icnblocks", "c"}


@pytest.mark.parametrize("text", [b"one", b"two"], ids=["as it was", "changed"])
def test_a_file_of_which_only_the_case_changes_stays_where_case_does_not_count(
    put, pull, tmp_path, text
):
    """Two names of one file stand for a file system that ignores case: there both find it.

    Catches: the old spelling was removed as a file that the version has no more, and with it the
    new one; a file that was changed besides was taken for somebody else's.
    """
    put("acme/m", Readme=b"one", shard=os.urandom(MIB))
    at = pull("acme/m", tmp_path / "to").path
    (at / "readme").hardlink_to(at / "Readme")
    put("acme/m", "2", readme=text, shard=os.urandom(MIB))
    pull("acme/m", at)
    assert (at / "Readme").read_bytes() == b"one", "the same file there"
    assert (at / "readme").read_bytes() == text
    assert pull("acme/m", at).bytes_network == 0


def test_what_a_pull_put_there_is_known_after_two_others_were_cut_off(
    put, pull, pulled, cut_off, monkeypatch
):
    """Catches: files that no user touched, which stand in the way of each further version."""

    def die(*_):
        raise Killed

    put("acme/m", "killed", config=b"renamed", shard=b"renamed", gone=b"renamed")
    with monkeypatch.context() as patch:
        patch.setattr(puller_module, "remember", die)
        with pytest.raises(Killed):
            pull("acme/m", pulled)
    cut_off()
    third = put("acme/m", "3", config=b"three")
    pull("acme/m", pulled)
    assert tree(pulled) == tree(third)


@pytest.mark.parametrize("written", ["manifest", "name"])
def test_what_a_pull_put_there_is_known_if_it_was_killed_while_it_noted_it(
    put, pull, pulled, monkeypatch, written
):
    def write_state(directory, name, data, _write=ModelDirectory.write_state):
        if name == written:
            raise Killed
        _write(directory, name, data)

    put("acme/m", "killed", config=b"renamed", shard=b"renamed", gone=b"renamed")
    with monkeypatch.context() as patch:
        patch.setattr(ModelDirectory, "write_state", write_state)
        with pytest.raises(Killed):
            pull("acme/m", pulled)
    third = put("acme/m", "3", config=b"three")
    pull("acme/m", pulled)
    assert tree(pulled) == tree(third)


@pytest.fixture
def cut_off(put, pull, pulled):
    """Puts a next version, of which the pull cannot end; what lies there then."""

    def run():
        root = put("acme/m", "2", config=b"two", shard=os.urandom(2 * MIB), new=b"new")
        (root / "shard").unlink()
        with pytest.raises(NotFoundError):
            pull("acme/m", pulled)
        return tree(pulled)

    return run


def test_back_to_what_is_there_leaves_nothing_of_the_version_that_was_begun(
    put, pull, pulled, cut_off, monkeypatch
):
    """Catches: a second copy of the model on the disk for ever."""
    first = tree(pulled)
    assert {"config.partial", "shard.partial", "new.partial"} < cut_off().keys()
    put("acme/m", "1", **first)
    with monkeypatch.context() as patch, (pulled / ".icnblocks" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # somebody is at work on it after all
        patch.delattr("icnblocks.puller.ModelDirectory")
        pull("acme/m", pulled)
    assert tree(pulled).keys() > first.keys()
    pull("acme/m", pulled)
    assert tree(pulled) == first
    assert not (pulled / ".icnblocks" / "map").exists()


def test_partial_files_do_not_stay_if_their_removal_was_cut_off(
    put, pull, pulled, cut_off, monkeypatch
):
    def remove(directory, path, _remove=ModelDirectory.remove):
        if path == "new.partial":
            raise Killed
        _remove(directory, path)

    cut_off()
    third = put("acme/m", "3", config=b"three")
    with monkeypatch.context() as patch:
        patch.setattr(ModelDirectory, "remove", remove)
        with pytest.raises(Killed):
            pull("acme/m", pulled)
    pull("acme/m", pulled)
    assert tree(pulled) == tree(third)


@pytest.mark.parametrize("hashed", [False, True])
def test_a_base_that_is_there_keeps_what_was_begun_of_its_next_version(
    pull, pulled, cut_off, settings, tmp_path, hashed
):
    """Catches: a pull of an adapter that throws away what came of a large model."""
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "delta").write_bytes(b"delta")
    publish(
        tmp_path / "adapter", "acme/lora", store=settings.store, base="acme/m", settings=settings
    )
    begun = cut_off()
    if hashed:  # the machine was started since
        (pulled / ".icnblocks" / "unflushed").write_bytes(b"before")
    assert pull("acme/lora", tmp_path / "lora").base.path == pulled
    assert tree(pulled) == begun
