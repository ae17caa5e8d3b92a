"""Power cuts around the end of a pull: what was not flushed may be lost, zeros in its place.

No network: what is published in place is pulled. The cut is a kill, another boot id, and zeros.
"""

import os

import pytest

import icnblocks.puller as puller_module
from icnblocks.errors import ConflictError
from icnblocks.store.inplace import InPlaceStore
from tests.assembly.test_puller import SIZE, contents, pull, puller, put, reboot, settings
from tests.assembly.test_puller_states import Killed, die

__all__ = ["pull", "puller", "put", "reboot", "settings"]  # fixtures


@pytest.fixture
def cut(put, pull, reboot, monkeypatch, tmp_path):
    """A directory whose pull was cut off when its files had their names; one of them is zeros."""
    put("acme/m", file=os.urandom(SIZE), other=b"other")
    to = tmp_path / "to"
    with monkeypatch.context() as patch:
        patch.setattr(puller_module, "remember", die)
        with pytest.raises(Killed):
            pull("acme/m", to)
    put_there = (to / "file").stat()
    (to / "file").write_bytes(bytes(SIZE))
    os.utime(to / "file", ns=(put_there.st_atime_ns, put_there.st_mtime_ns))
    reboot(2)
    return to


@pytest.mark.parametrize("version", ["same", "next"])
def test_a_file_that_was_lost_when_it_had_just_got_its_name_is_fetched_again(
    put, pull, tmp_path, cut, version
):
    """Catches: a directory that is refused for good, as its user's, where nobody ever was."""
    if version == "next":
        put("acme/m", file=os.urandom(SIZE), other=b"other")
    pull("acme/m", cut)
    assert contents(cut) == contents(tmp_path / "acme-m")


def test_what_somebody_wrote_after_the_power_cut_is_kept(pull, cut):
    (cut / "file").write_bytes(b"mine")
    with pytest.raises(ConflictError):
        pull("acme/m", cut)
    assert (cut / "file").read_bytes() == b"mine"


def test_what_stands_where_only_the_next_version_has_a_file_is_kept(put, pull, cut):
    (cut / "new").write_bytes(b"mine")
    os.utime(cut / "new", ns=(0, 0))
    put("acme/m", file=b"2", new=b"new")
    with pytest.raises(ConflictError, match="new"):
        pull("acme/m", cut)
    assert (cut / "new").read_bytes() == b"mine"


def test_the_state_is_on_the_disk_before_the_index_lists_the_directory(
    put, pull, monkeypatch, tmp_path
):
    """Catches: an index that knows a directory whose state the power cut took: its next version
    is refused, as if the model there were its user's."""
    flushed, real, add = set(), os.fsync, InPlaceStore.add_directory

    def fsync(fd):
        flushed.add(os.fstat(fd).st_ino)
        real(fd)

    def checked(self, root, *args):
        state = [root / ".icnblocks" / name for name in ("manifest", "name")]
        assert {path.stat().st_ino for path in (*state, state[0].parent)} <= flushed
        add(self, root, *args)
        flushed.clear()

    put("acme/m", file=b"1")
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(InPlaceStore, "add_directory", checked)
    pull("acme/m", tmp_path / "to")
    assert not flushed, "the index has not listed it"


def test_the_block_map_is_on_the_disk_before_a_file_has_its_name(put, pull, monkeypatch, tmp_path):
    """Catches: a power cut that leaves the files, and nothing that says whose they are."""
    flushed, real, rename = set(), os.fsync, os.rename

    def fsync(fd):
        flushed.add(os.fstat(fd).st_ino)
        real(fd)

    def checked(source, target, **kwargs):
        if source == "file.partial":
            assert (tmp_path / "to" / ".icnblocks" / "map").stat().st_ino in flushed
            flushed.clear()
        rename(source, target, **kwargs)

    put("acme/m", file=b"1")
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", checked)
    pull("acme/m", tmp_path / "to")
    assert contents(tmp_path / "to") == contents(tmp_path / "acme-m")
