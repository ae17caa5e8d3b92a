"""Whether the disk can hold what is wanted is said before the work. No network: all is here."""

import os
import shutil
from types import SimpleNamespace

import pytest

import icnblocks.filling as filling_module
import icnblocks.puller as puller_module
from icnblocks.assembly import assembler as assembler_module
from icnblocks.errors import NotFoundError, StorageError
from tests.assembly.test_puller import SIZE, pull, puller, put, settings
from tests.assembly.test_puller_states import Killed, die

__all__ = ["pull", "puller", "put", "settings"]  # fixtures


@pytest.fixture
def to(put, pull, monkeypatch, tmp_path):
    """Where a pull was killed when all was there, of which another version is wanted since."""
    to = tmp_path / "to"
    put("acme/m", file=os.urandom(SIZE), other=os.urandom(SIZE))
    with monkeypatch.context() as patch:
        patch.setattr(puller_module.Assembler, "finish", die)
        with pytest.raises(Killed):
            pull("acme/m", to)
    root = put("acme/m", file=os.urandom(SIZE), other=os.urandom(SIZE))
    for file in root.iterdir():
        file.unlink()  # so that nothing can be taken from there
    return to


@pytest.fixture
def free(monkeypatch):
    """So many bytes of the disk are free."""

    def run(count, total=1 << 40):
        usage = (total, 0, count)
        monkeypatch.setattr(filling_module, "shutil", SimpleNamespace(disk_usage=lambda _: usage))

    return run


@pytest.mark.parametrize("kept_open", [256, 1])
def test_room_that_partial_files_of_another_version_take_is_not_needed_again(
    pull, to, free, monkeypatch, kept_open
):
    """Catches: a pull that is refused for good for room that its own files take."""
    monkeypatch.setattr(assembler_module, "_KEPT_OPEN", kept_open)
    free(SIZE // 2)
    with pytest.raises(NotFoundError, match="not on this machine"):  # nobody was asked for the rest
        pull("acme/m", to)


def test_room_that_they_do_not_take_is_needed(pull, to, free):
    os.truncate(to / "file.partial", SIZE // 4)
    free(SIZE // 2)
    with pytest.raises(StorageError, match="bytes are needed"):
        pull("acme/m", to)
    free(SIZE)
    with pytest.raises(NotFoundError):
        pull("acme/m", to)


def test_a_disk_that_cannot_hold_a_model_is_told_before_it_comes(pull, put, free, tmp_path):
    root = put("acme/m", file=os.urandom(SIZE))
    shutil.rmtree(root)
    free(SIZE - 1)
    with pytest.raises(StorageError, match=f"{SIZE} bytes are needed and {SIZE - 1} are free"):
        pull("acme/m", tmp_path / "to")


@pytest.mark.parametrize("shares", [False, True])
def test_room_for_what_is_taken_from_this_machine_is_looked_for_where_it_is_copied(
    pull, put, free, monkeypatch, tmp_path, shares
):
    """Catches: a pull that copied until the disk was full, for everybody, and failed then."""
    put("acme/m", file=os.urandom(SIZE))
    monkeypatch.setattr(filling_module, "can_share", lambda _: shares)
    free(SIZE - 1)
    if shares:
        assert pull("acme/m", tmp_path / "to").bytes_reused == SIZE
        return
    with pytest.raises(StorageError, match=f"{SIZE} bytes are needed and {SIZE - 1} are free"):
        pull("acme/m", tmp_path / "to")
    assert not (tmp_path / "to" / "file.partial").stat().st_blocks


def test_a_disk_that_does_not_tell_how_much_it_holds_is_tried(pull, to, free):
    """Catches: no pull into a ramfs, or a FUSE file system, where "0 are free"."""
    free(0, total=0)
    with pytest.raises(NotFoundError):  # nobody was asked for the rest
        pull("acme/m", to)
