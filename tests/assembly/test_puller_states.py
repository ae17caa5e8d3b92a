"""Pulls into directories in all the states that kills, users and other commands leave behind.

No network: what is published in place is pulled on the same machine. Success means that every file
is there, bit for bit.
"""

import errno
import os
from dataclasses import replace

import pytest

import icnblocks.puller as puller_module
from icnblocks.assembly import contents as contents_module
from icnblocks.assembly.assembler import Assembler
from icnblocks.assembly.directory import ModelDirectory
from icnblocks.client.trust import KnownPublishers, Trust
from icnblocks.errors import ConflictError, IcnError, NotFoundError, StorageError
from icnblocks.limits import MIB
from icnblocks.manifest.model import Kind
from icnblocks.naming import Name
from icnblocks.publish.facade import publish
from icnblocks.puller import Puller
from icnblocks.store.database import storage_errors
from icnblocks.store.inplace import InPlaceStore
from tests.assembly.test_puller import contents, pull, puller, put, recheck, rot, settings

__all__ = ["pull", "puller", "put", "settings"]  # fixtures


class Killed(BaseException):
    """The process ends here."""


@pytest.fixture
def model(put, tmp_path, settings):
    """A published model whose files can be taken away and given back, as a source's come and go."""
    return Model(put, tmp_path, settings)


class Model:
    def __init__(self, put, tmp_path, settings):
        self.to, self._stash, self._put = tmp_path / "to", tmp_path / "stash", put
        self._settings = settings
        self._stash.mkdir()

    def publish(self, **files):
        self.files = files
        self.root = self._put("acme/m", **files)

    def only(self, *names):
        """Only these files can be had."""
        for name in self.files:
            here, away = self.root / name, self._stash / name
            if name in names and away.exists():
                away.rename(here)
            elif name not in names and here.exists():
                here.rename(away)
        with InPlaceStore(self._settings.store / "places.sqlite") as places:
            recheck(self._settings, places, self.root)

    def right(self):
        return contents(self.to) == self.files


def die(*_, **__):
    raise Killed


def test_notes_of_a_partial_file_that_is_gone_are_gone(model, pull):
    """Catches: notes of a file that was lost, that later notes made look new."""
    model.publish(a=os.urandom(3 * MIB), b=os.urandom(3 * MIB), c=os.urandom(3 * MIB))
    for here, lost in (("a", None), ("b", "a.partial")):
        if lost:
            (model.to / lost).unlink()
        model.only(here)
        with pytest.raises(IcnError):
            pull("acme/m", model.to)
    model.only("a", "b", "c")
    pull("acme/m", model.to)
    assert model.right()


def test_a_partial_beside_a_file_that_was_whole_for_a_while_is_not_believed(model, put, pull):
    """Catches: a block noted while its other file was whole, and zeros in its partial one."""
    shared = os.urandom(MIB)
    model.publish(a=shared + os.urandom(MIB), b=shared + os.urandom(MIB))
    model.only()
    with pytest.raises(IcnError):
        pull("acme/m", model.to)
    (model.to / "b").write_bytes(model.files["b"])
    put("acme/x", x=shared)
    with pytest.raises(IcnError):
        pull("acme/m", model.to)
    (model.to / "b").unlink()
    model.only("a", "b")
    pull("acme/m", model.to)
    assert model.right()


def test_a_partial_that_was_edited_is_hashed_also_after_a_kill(model, pull, monkeypatch):
    """Catches: opening the map makes it younger than the edit, if nothing else comes of it."""
    model.publish(a=os.urandom(3 * MIB), b=os.urandom(3 * MIB))
    model.only("a")
    with pytest.raises(IcnError):
        pull("acme/m", model.to)
    partial, map_ = model.to / "a.partial", model.to / ".icnblocks" / "map"
    with partial.open("r+b") as file:
        file.write(b"edit")
    times = map_.stat()
    os.utime(partial, ns=(times.st_atime_ns, times.st_mtime_ns + 1000))
    with monkeypatch.context() as patch:
        patch.setattr(Assembler, "_reads_right", die)
        with pytest.raises(Killed):
            pull("acme/m", model.to)
    model.only("a", "b")
    pull("acme/m", model.to)
    assert model.right()


def test_each_run_keeps_what_came_over_a_file_that_was_mostly_right(model, put, pull):
    """Catches: notes of what was right before, written again, crowd out the new ones."""
    blocks = [os.urandom(MIB) for _ in range(8)]
    model.publish(f=b"".join(blocks))
    pull("acme/m", model.to)
    (model.to / "f").write_bytes(b"".join(blocks[:5]) + bytes(3 * MIB))
    model.only()
    left = []
    for number in (5, 6, None):
        if number:
            other = put(f"acme/x{number}", x=blocks[number])
        with pytest.raises(IcnError) as caught:
            pull("acme/m", model.to, overwrite=True)
        left.append(int(str(caught.value).split()[0]))
        if number:
            (other / "x").unlink()
    assert left == [2, 1, 1]


@pytest.mark.parametrize("edit", ["longer", "elsewhere"])
def test_verifying_a_store_believes_no_byte_that_it_cannot_check(model, settings, pull, edit):
    """Catches: edits that the index has no block for are noted as right, and then overwritten."""
    same = os.urandom(5000)
    model.publish(config=b"config" * 100, one=same, two=same)
    pull("acme/m", model.to)
    edited = model.to / ("config" if edit == "longer" else "two")
    with edited.open("ab" if edit == "longer" else "r+b") as file:
        file.write(b"mine")
    mine = edited.read_bytes()
    with InPlaceStore(settings.store / "places.sqlite") as places:
        assert edited.name in recheck(settings, places, model.to)
    with pytest.raises(ConflictError):
        pull("acme/m", model.to)
    model.publish(config=b"new", one=b"new", two=b"new too")
    with pytest.raises(ConflictError):
        pull("acme/m", model.to)
    assert edited.read_bytes() == mine


def test_a_file_that_was_only_touched_is_right_again(model, settings, pull):
    model.publish(config=b"config" * 100, weights=os.urandom(3 * MIB))
    pull("acme/m", model.to)
    os.utime(model.to / "weights")
    with InPlaceStore(settings.store / "places.sqlite") as places:
        assert places.check(model.to) == ["weights"]
        assert recheck(settings, places, model.to) == []
        assert places.check(model.to) == []


def test_what_was_found_rotten_stays_so_when_somebody_looks(model, settings, pull):
    """Catches: `icn-show` takes back what `icn-verify` found, and a pull says that all is well."""
    model.publish(f=os.urandom(3 * MIB))
    pull("acme/m", model.to)
    rot(settings, model.to / "f")
    with InPlaceStore(settings.store / "places.sqlite") as places:
        assert recheck(settings, places, model.to) == ["f"]
        assert places.check(model.to) == ["f"]
        assert [file.path for file in places.changed()] == ["f"]
    with pytest.raises(ConflictError):
        pull("acme/m", model.to)


def test_a_file_that_could_not_be_read_once_stays_in_service(
    model, settings, pull, puller, monkeypatch
):
    """Catches: one failed read, and all blocks of a right file are refused for good."""
    model.publish(f=os.urandom(3 * MIB))
    read_all = contents_module.read_all

    def read(fd, length, offset):
        if offset == MIB:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read_all(fd, length, offset)

    with InPlaceStore(settings.store / "places.sqlite") as places:
        with monkeypatch.context() as patch:
            patch.setattr(contents_module, "read_all", read)
            assert recheck(settings, places, model.root) == ["f"]
        assert places.changed() == []
    pull("acme/m", model.to)
    assert model.right()
    with puller() as one, monkeypatch.context() as patch:  # a pull's is written anew
        patch.setattr(contents_module, "read_all", read)
        one.repair(model.to)
    assert model.right()


def test_a_file_edited_during_a_pull_is_not_taken_for_what_was_pulled(model, pull, monkeypatch):
    """Catches: facts from after an edit, noted for bytes that were hashed before it."""
    model.publish(config=b"config" * 100, weights=os.urandom(3 * MIB))
    model.to.mkdir()
    (model.to / "config").write_bytes(model.files["config"])
    run = puller_module.Filling.run

    def edited(self):
        (model.to / "config").write_bytes(b"CONFIG" * 100)
        return run(self)

    with monkeypatch.context() as patch:
        patch.setattr(puller_module.Filling, "run", edited)
        with pytest.raises(ConflictError):
            pull("acme/m", model.to)
    assert (model.to / "config").read_bytes() == b"CONFIG" * 100


@pytest.mark.parametrize("name", ["manifest", "name"])
@pytest.mark.parametrize("data", [None, b""])
def test_state_that_is_lost_is_written_again(model, pull, puller, name, data):
    """Catches: a pull that says that all is there, and a directory that nothing can repair."""
    model.publish(f=os.urandom(3 * MIB))
    pull("acme/m", model.to)
    state = model.to / ".icnblocks" / name
    state.unlink()
    if data is not None:
        state.write_bytes(data)
    pull("acme/m", model.to)
    with puller() as one:
        one.repair(model.to)
    assert model.right()
    model.publish(f=b"a newer version")
    pull("acme/m", model.to)
    assert model.right()


def test_an_adapter_does_not_take_the_place_of_its_base(put, pull, settings, tmp_path):
    """Catches: an adapter under the name of its base, pulled over it: the base was gone."""
    base = put("acme/m", weights=os.urandom(3 * MIB))
    publish(base, "acme/m@v1", store=settings.store, kind=Kind.PACK, settings=settings)
    here = pull("acme/m").path
    assert contents(here) == contents(base)
    publish_as = tmp_path / "adapter"
    publish_as.mkdir()
    (publish_as / "adapter.bin").write_bytes(os.urandom(MIB))
    publish(publish_as, "acme/m", store=settings.store, base="acme/m@v1", settings=settings)
    for file in base.iterdir():
        file.rename(tmp_path / file.name)  # else the base lies where it was published
    pulled = pull("acme/m")
    assert contents(pulled.path) == contents(publish_as)
    assert pulled.base.path != pulled.path
    assert set(contents(pulled.base.path)) == {"weights"}


@pytest.mark.parametrize("killed_at", ["manifest", "name"])
def test_no_name_stands_beside_the_manifest_of_another_model(
    put, pull, puller, monkeypatch, killed_at
):
    """Catches: a kill between the two, and a repair that brings one model under another's name."""
    put("acme/other", f=os.urandom(MIB))
    root = put("acme/m", f=os.urandom(MIB))
    here = pull("acme/other").path
    write = ModelDirectory.write_state

    def last(self, name, data):
        if name == killed_at:
            raise Killed
        write(self, name, data)

    with monkeypatch.context() as patch:
        patch.setattr(ModelDirectory, "write_state", last)
        with pytest.raises(Killed):
            pull("acme/m", here, overwrite=True)
    with puller() as one, pytest.raises(NotFoundError):
        one.repair(here)
    pull("acme/m", here, overwrite=True)
    assert contents(here) == contents(root)


@pytest.mark.parametrize("refusal", [errno.EROFS, errno.EACCES, errno.EIO])
@pytest.mark.parametrize("durable", [False, True])
def test_a_touched_model_where_one_may_not_write(
    put, settings, pull, tmp_path, monkeypatch, refusal, durable
):
    """Catches: files of another user's that are right and refused, or taken for flushed."""

    def refuse(directory, **_):
        with storage_errors(directory.root):
            raise OSError(refusal, os.strerror(refusal))

    put("acme/m", file=b"1", other=b"2")
    to = pull("acme/m", tmp_path / "to").path
    (to / "file").chmod(0o600)
    monkeypatch.setattr(ModelDirectory, "lock", refuse)
    trust = Trust(KnownPublishers(settings.known_publishers))
    name = Name.parse("acme/m")
    with Puller(replace(settings, durable=durable), trust) as puller:
        if durable or refusal == errno.EIO:
            with pytest.raises(StorageError, match=os.strerror(refusal)):
                puller.pull(name, to)
        else:
            assert puller.pull(name, to).path == to
        (to / "file").write_bytes(b"3")
        with pytest.raises(StorageError, match=os.strerror(refusal)):
            puller.pull(name, to)
