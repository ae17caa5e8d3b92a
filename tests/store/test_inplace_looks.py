"""The in-place store, looked at: what of it could be sent now, and what a look may find out."""

import errno
import os
from contextlib import contextmanager

import pytest

from icnblocks.errors import ChangedError
from icnblocks.manifest.codec import digest_of, encode
from icnblocks.manifest.model import Kind
from icnblocks.naming import Digest
from icnblocks.publish.scan import scan
from icnblocks.store.inplace import InPlaceStore

ONE, TWO = os.urandom(3_000_000), os.urandom(5000)


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "disk" / "model"
    root.mkdir(parents=True)
    (root / "one").write_bytes(ONE)
    (root / "two").write_bytes(TWO)
    return root


@pytest.fixture
def store(tmp_path):
    with InPlaceStore(tmp_path / "places.sqlite") as store:
        yield store


@pytest.fixture
def found(store, root):
    found = scan(root, Kind.PACK)
    store.add_directory(root, digest_of(encode(found.manifest)), found.manifest, found.facts)
    return found


def test_a_look_at_many_blocks_looks_at_each_file_once(store, root, found, monkeypatch):
    """Catches: a question about 35,000 blocks that asks the disk 35,000 times."""
    looks, borrow = [], store._files.borrow

    def counted(number, opener):
        looks.append(number)
        return borrow(number, opener)

    monkeypatch.setattr(store._files, "borrow", counted)
    blocks = list(found.manifest.lengths())
    assert len(blocks) > 3
    assert all(map(store.look(), blocks))
    assert len(looks) == 2
    (root / "one").write_bytes(b"edited")
    assert sum(map(store.look(), blocks)) == 1


def test_a_look_does_not_count_a_file_that_was_moved_while_it_was_open(store, root, found):
    """Catches: a model counts as here for as long as the daemon happens to have its files open."""
    blocks = list(found.manifest.lengths())
    assert all(map(store.look(), blocks))
    root.rename(root.with_name("moved"))
    with store.open(blocks[0]) as lease:
        lease.check()
    assert not any(map(store.look(), blocks))


def held(root):
    """Which files below a directory this process has open."""
    opened = (f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd"))
    links = [os.readlink(fd) for fd in opened if os.path.lexists(fd)]
    return [path for path in links if path.startswith(f"{root}/")]


@pytest.mark.parametrize("replaced", [False, True])
def test_a_model_that_was_removed_takes_no_room(store, root, found, replaced):
    """Catches: a full disk, for as long as a daemon lasts that had sent the model once."""
    in_use = store.open(Digest.of(TWO))
    with store.open(next(iter(found.manifest.lengths()))) as lease:
        assert lease.length > len(TWO)
    assert len(held(root)) == 2
    (root / "one").unlink()
    if replaced:
        (root / "one").write_bytes(TWO)
        again = scan(root, Kind.PACK)
        store.add_directory(root, digest_of(encode(again.manifest)), again.manifest, again.facts)
    else:
        store.look_again()
    assert held(root) == [str(root / "two")]
    with in_use:
        assert in_use.read() == TWO
        in_use.check()


def test_a_look_finds_a_block_in_the_second_of_two_directories(store, root, found, tmp_path):
    """Catches: a model whose first directory is away counts as lacking, though it has another."""
    other = tmp_path / "other"
    other.mkdir()
    for name in ("one", "two"):
        (other / name).write_bytes((root / name).read_bytes())
    again = scan(other, Kind.PACK)
    store.add_directory(other, digest_of(encode(again.manifest)), again.manifest, again.facts)
    root.rename(tmp_path / "away")
    assert all(map(store.look(), found.manifest.lengths()))
    other.rename(tmp_path / "away too")
    assert not any(map(store.look(), found.manifest.lengths()))
    (tmp_path / "away").rename(root)
    assert all(map(store.look(), found.manifest.lengths()))


@contextmanager
def away(path):
    """A disk that is not mounted for a while."""
    path.rename(path.with_name("away"))
    yield
    path.with_name("away").rename(path)


@contextmanager
def unmounted(path):
    """As `away`, but the directory on which the disk is mounted stays, empty."""
    with away(path):
        path.mkdir()
        yield
        path.rmdir()


@contextmanager
def barred(path):
    """A directory that who looks may not enter."""
    user = os.geteuid()
    path.chmod(0)
    if user == 0:  # who may enter everything
        os.seteuid(65534)
    yield
    os.seteuid(user)
    path.chmod(0o755)


@contextmanager
def failing(path):
    """A disk that fails: there is none to be had, so what the system says of it is made up."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("stat", "open"):
            patch.setattr(os, name, _failing(getattr(os, name), os.fsencode(path)))
        yield


def _failing(real, prefix):
    def call(path, *args, **options):
        if os.fsencode(path).startswith(prefix):
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        return real(path, *args, **options)

    return call


@pytest.mark.parametrize("out_of_reach", [away, barred, failing])
def test_what_cannot_be_looked_at_has_not_changed(store, root, found, out_of_reach):
    """Catches: `icn-show` or `icn-verify`, while the models' disk is away, fails or may not be
    looked at, takes a model out of service for good."""
    with out_of_reach(root.parent):
        assert store.check(root) == ["one", "two"]
        assert store.recheck(root, lambda path, fd: True) == ["one", "two"]
        assert not any(map(store.look(), found.manifest.lengths()))
    assert store.changed() == []
    with store.open(next(iter(found.manifest.lengths()))) as lease:
        assert lease.read() in ONE + TWO


@pytest.mark.parametrize("out_of_reach", [away, barred, failing])
def test_what_was_found_changed_stays_so_while_it_cannot_be_looked_at(
    store, root, found, out_of_reach
):
    """Catches: a file that was edited is believed again after its disk was away."""
    (root / "one").write_bytes(b"edited")
    (root / "two").unlink()
    assert store.check(root) == ["one", "two"]
    with out_of_reach(root.parent):
        assert store.check(root) == store.recheck(root, lambda path, fd: True) == ["one", "two"]
    assert [file.path for file in store.changed()] == ["one", "two"]


def test_a_mark_that_could_not_be_saved_is_taken_back_by_a_check(store, root, found, tmp_path):
    """Catches: a file that is as it was again stays refused, as the index was locked before."""
    block = next(iter(found.manifest.lengths()))
    with InPlaceStore(tmp_path / "places.sqlite") as other, other._writing(), unmounted(root):
        with pytest.raises(ChangedError):
            store.open(block)
    assert store.check(root) == []
    store.open(block).close()
    assert store.changed() == []


def test_looking_again_believes_what_is_back_and_nothing_else(store, root, found):
    """Catches: an edited file, or one that was found rotten, that is believed again unread."""
    with unmounted(root):
        assert store.check(root) == ["one", "two"]
    store.look_again()
    assert store.changed() == []
    (root / "one").write_bytes(b"edited")
    assert store.recheck(root, lambda path, fd: False) == ["one", "two"]
    store.look_again()
    assert [file.path for file in store.changed()] == ["one", "two"]


def test_what_another_process_finds_rotten_is_refused_after_the_next_look(store, root, found):
    """Catches: `icn-verify` finds a file wrong under times that did not change, and a daemon that
    had served it goes on until it is started again.
    """
    block = Digest.of(ONE[: 1 << 20])
    store.open(block).close()
    with InPlaceStore(store._path) as other:
        assert other.recheck(root, lambda path, fd: path != "one") == ["one"]
    store.look_again()
    assert block not in store
    with pytest.raises(ChangedError):
        store.open(block)
