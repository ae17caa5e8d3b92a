"""Pulls on one machine, without a network: what is published in place there is pulled."""

import os
import resource
import sqlite3
from dataclasses import replace

import pytest

from icnblocks.assembly import flushed
from icnblocks.assembly.directory import ModelDirectory
from icnblocks.assembly.recheck import recheck_in_place
from icnblocks.client.settings import load_settings
from icnblocks.client.trust import KnownPublishers, Trust
from icnblocks.errors import ConflictError, NotFoundError
from icnblocks.manifest.codec import decode
from icnblocks.manifest.model import Kind
from icnblocks.naming import Name
from icnblocks.publish.facade import publish
from icnblocks.puller import Puller
from icnblocks.store.catalog import Catalog
from icnblocks.store.facts import FileFacts
from icnblocks.store.inplace import InPlaceStore

SIZE = 3_000_000


@pytest.fixture
def settings(tmp_path):
    keys = ("models", "store", "keys", "known_publishers")
    return load_settings({f"ICN_{key.upper()}": str(tmp_path / "m" / key) for key in keys})


@pytest.fixture
def put(tmp_path, settings):
    """Publish files in place."""

    def run(name, where=None, **files):
        root = tmp_path / (where or name.replace("/", "-"))
        root.mkdir(exist_ok=True)
        for file, data in files.items():
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            (root / file).write_bytes(data)
        publish(root, name, store=settings.store, kind=Kind.PACK, settings=settings)
        return root

    return run


@pytest.fixture
def puller(settings):
    def make(*, overwrite=False):
        trust = Trust(KnownPublishers(settings.known_publishers), first_use=True)
        return Puller(settings, trust, overwrite=overwrite)

    return make


@pytest.fixture
def pull(puller):
    def run(name, to=None, *, overwrite=False):
        with puller(overwrite=overwrite) as one:
            return one.pull(Name.parse(name), to)

    return run


def contents(root):
    return {path.name: path.read_bytes() for path in root.iterdir() if path.is_file()}


def rot(settings, path):
    """Flip a bit as a failing disk does: the file's facts stay what the index says."""
    with path.open("r+b") as file:
        byte = file.read(1)
        file.seek(0)
        file.write(bytes([byte[0] ^ 1]))
    facts = FileFacts.of(path.stat())
    with sqlite3.connect(settings.store / "places.sqlite") as db:
        db.execute(
            "UPDATE files SET mtime_ns = ?, ctime_ns = ?, inode = ? WHERE path = ? AND root ="
            " (SELECT id FROM roots WHERE path = ?)",
            (*facts[1:], os.fsencode(path.name), os.fsencode(path.parent)),
        )
    db.close()


def recheck(settings, places, root):
    with Catalog(settings.store / "catalog.sqlite") as catalog:
        manifest = decode(catalog.manifest(places.manifest_at(root)))
    return recheck_in_place(places, root, manifest)


def test_a_model_without_a_block_is_pulled(put, pull):
    root = put("acme/empty", one=b"", two=b"")
    assert contents(pull("acme/empty").path) == contents(root)


def test_repair_finds_what_rotted_under_unchanged_facts(put, pull, puller, settings):
    root = put("acme/a", file=os.urandom(SIZE))
    pulled = pull("acme/a").path
    rot(settings, pulled / "file")
    assert contents(pull("acme/a").path) != contents(root)
    with puller() as one:
        one.repair(pulled)
    assert contents(pulled) == contents(root)


def test_a_directory_published_in_place_is_not_overwritten_unasked(put, pull):
    mine = put("acme/mine", config=b"mine", other=b"too")
    put("acme/a", config=b"theirs")
    with pytest.raises(ConflictError):
        pull("acme/a", mine)
    assert contents(mine) == {"config": b"mine", "other": b"too"}
    pull("acme/a", mine, overwrite=True)
    assert contents(mine) == {"config": b"theirs", "other": b"too"}


def test_a_pulled_directory_that_was_changed_and_published_is_its_users(put, pull):
    put("acme/a", config=b"theirs")
    pulled = pull("acme/a").path
    put("me/tuned", pulled, config=b"mine")
    with pytest.raises(ConflictError):
        pull("acme/a")
    assert contents(pulled) == {"config": b"mine"}


def test_another_model_does_not_take_a_directory_unasked_but_another_tag_does(put, pull, tmp_path):
    put("acme/a", config=b"one", extra=b"one")
    put("acme/a@v2", where="v2", config=b"two")
    put("acme/b", config=b"three")
    to = tmp_path / "to"
    pull("acme/a", to)
    with pytest.raises(ConflictError, match="acme/a"):
        pull("acme/b", to)
    assert contents(to) == {"config": b"one", "extra": b"one"}
    pull("acme/a@v2", to)
    assert contents(to) == {"config": b"two"}
    pull("acme/b", to, overwrite=True)
    assert contents(to) == {"config": b"three"}


def test_a_path_with_dots_is_one_place(put, pull, tmp_path):
    root = put("acme/a", config=b"one")
    (tmp_path / "far" / "below").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "below")
    pulled = pull("acme/a", tmp_path / "link" / ".." / "to")
    assert contents(pulled.path) == contents(root)
    assert ".." not in pulled.path.parts


@pytest.fixture
def reboot(monkeypatch):
    """Another start of the machine."""

    def run(number):
        monkeypatch.setattr("icnblocks.assembly.flushed.boot_id", lambda: f"boot {number}")

    run(1)
    return run


def test_after_another_boot_what_was_not_flushed_is_hashed_again_once(
    put, pull, settings, reboot, monkeypatch
):
    root = put("acme/a", file=os.urandom(SIZE))
    pulled = pull("acme/a").path
    rot(settings, pulled / "file")
    assert contents(pull("acme/a").path) != contents(root)
    reboot(2)
    assert contents(pull("acme/a").path) == contents(root)
    reboot(3)
    pull("acme/a")
    rot(settings, pulled / "file")
    reboot(4)
    assert contents(pull("acme/a").path) != contents(root)


def test_what_another_boot_may_have_lost_stays_in_doubt_until_a_pull_has_ended(
    put, pull, settings, reboot, monkeypatch
):
    """Catches: a pull that is cut off leaves its own boot on files that nobody looked at."""
    put("acme/a", file=os.urandom(SIZE), other=b"1")
    pulled = pull("acme/a").path
    rot(settings, pulled / "file")
    put("acme/a", file=os.urandom(SIZE), other=b"2")
    reboot(2)

    def interrupt(self, source, target, _rename=ModelDirectory.rename):
        if source.endswith(".partial"):
            raise KeyboardInterrupt
        _rename(self, source, target)

    with monkeypatch.context() as patch:
        patch.setattr(ModelDirectory, "rename", interrupt)
        with pytest.raises(KeyboardInterrupt):
            pull("acme/a")
    assert flushed.is_doubtful(pulled)
    pull("acme/a")
    assert not flushed.is_doubtful(pulled)


def test_what_the_user_brought_back_after_another_boot_need_not_be_on_disk(put, pull, reboot):
    """Catches: a mark that goes, though the file's bytes are in the page cache only."""
    data = os.urandom(SIZE)
    put("acme/a", file=data)
    pulled = pull("acme/a").path
    reboot(2)
    (pulled / "file").unlink()
    (pulled / "file").write_bytes(data)
    pull("acme/a")
    assert flushed.is_marked(pulled)
    assert not flushed.is_doubtful(pulled)


def test_after_another_boot_the_base_of_an_adapter_is_hashed_again(
    put, pull, settings, reboot, tmp_path
):
    root = put("acme/base", file=os.urandom(SIZE))
    base = pull("acme/base").path
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "file").write_bytes(b"delta")
    publish(adapter, "acme/adapter", store=settings.store, base="acme/base", settings=settings)
    rot(settings, base / "file")
    reboot(2)
    assert contents(pull("acme/adapter").base.path) == contents(root)
    assert contents(base) == contents(root)


def test_durable_flushes_what_was_pulled_without_it(put, pull, settings, puller, monkeypatch):
    put("acme/a", file=b"1", other=b"2")
    flushed = []
    monkeypatch.setattr(
        ModelDirectory, "sync", lambda directory, paths: flushed.extend(map(str, paths))
    )
    path = pull("acme/a").path
    assert not {"file", "other"} & set(flushed)
    for times in (1, 1):
        with Puller(
            replace(settings, durable=True), Trust(KnownPublishers(settings.known_publishers))
        ) as one:
            one.pull(Name.parse("acme/a"))
        assert [flushed.count(file) for file in ("file", "other")] == [times, times]
    assert not (path / ".icnblocks" / "unflushed").exists()


def test_partial_files_of_an_earlier_version_do_not_stay(put, pull, puller, settings, tmp_path):
    root = put("acme/a", file=b"1", old=os.urandom(SIZE))
    to = tmp_path / "to"
    (root / "old").unlink()  # so that the pull cannot end
    with pytest.raises(NotFoundError):
        pull("acme/a", to)
    (to / "mine.partial").write_bytes(b"mine")
    assert (to / "old.partial").exists()
    put("acme/a", file=b"2")
    pull("acme/a", to)
    assert contents(to) == {"file": b"2", "mine.partial": b"mine"}


def test_partial_files_beside_whole_ones_do_not_stay(put, pull, tmp_path):
    """Another version of a file that is right by now: nobody would ever use it again."""
    to = tmp_path / "to"
    put("acme/a", file=b"1", other=b"1")
    pull("acme/a", to)
    root = put("acme/a", file=os.urandom(SIZE), other=b"2")
    (root / "file").unlink()  # so that the pull cannot end
    with pytest.raises(NotFoundError):
        pull("acme/a", to)
    assert (to / "file.partial").exists()
    put("acme/a", file=b"1", other=b"3")
    pull("acme/a", to)
    assert contents(to) == {"file": b"1", "other": b"3"}


def test_a_model_that_is_there_is_only_looked_at(put, pull, settings, monkeypatch, tmp_path):
    """So that it may lie where this user cannot write."""
    put("acme/base", file=b"1")
    base = pull("acme/base").path
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "file").write_bytes(b"delta")
    kwargs = {"store": settings.store, "base": "acme/base", "settings": settings}
    publish(tmp_path / "adapter", "acme/adapter", **kwargs)
    pull("acme/adapter")
    (base / "file").write_bytes(b"2")
    with InPlaceStore(settings.store / "places.sqlite") as places:
        assert recheck(settings, places, base) == ["file"]
    monkeypatch.delattr("icnblocks.puller.ModelDirectory")
    done = pull("acme/adapter")
    assert (done.bytes_network, done.bytes_reused) == (0, 5)
    assert done.base.path == tmp_path / "acme-base"
    with pytest.raises(NameError):
        pull("acme/base")


def test_where_the_kernel_names_no_boot_a_pull_that_was_not_flushed_is_hashed_each_time(
    put, pull, settings, monkeypatch, tmp_path
):
    monkeypatch.setattr("icnblocks.store.boot._PATH", tmp_path / "absent")
    root = put("acme/a", file=os.urandom(SIZE))
    pulled = pull("acme/a").path
    rot(settings, pulled / "file")
    assert contents(pull("acme/a").path) == contents(root)


def test_a_model_of_more_files_than_may_be_open_is_pulled(put, pull, tmp_path):
    """Catches: 256 partial files kept open, where the system allows no more to a process."""
    files = {f"f{number}": os.urandom(100) for number in range(300)}
    root = put("acme/many", **files)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        pull("acme/many", tmp_path / "to")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert contents(tmp_path / "to") == contents(root)
