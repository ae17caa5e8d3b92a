"""What an origin says of names is not believed just because it says so."""

import errno
import os

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from icnblocks.client.patience import Waiter
from icnblocks.client.settings import load_settings
from icnblocks.client.source import RecordAnswer
from icnblocks.client.trust import KnownPublishers
from icnblocks.errors import ChangedError, NotFoundError, StorageError, TrustError, UsageError
from icnblocks.manifest.model import Kind
from icnblocks.manifest.record import Record, fingerprint, public_bytes, sign_record
from icnblocks.naming import Digest, Name
from icnblocks.publish.deliver import known_record, send
from icnblocks.publish.facade import publish
from icnblocks.publish.keys import PublisherKey
from icnblocks.publish.scan import scan
from icnblocks.publish.ways import check_base
from icnblocks.store.catalog import Catalog

MINE, OTHER = (Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (1, 2))
BASE = Name("acme", "base")


def record(key, name=BASE):
    return Record(name, Digest.of(b"1"), 1, 0, public_bytes(key))


class Origin:
    def __init__(self, raw):
        self.raw = raw

    def record(self, name):
        return RecordAnswer(self.raw, 0.0, stale=False)


@pytest.fixture
def settings(tmp_path):
    (tmp_path / "trust_file").touch()
    keys = ("models", "store", "keys", "trust_file", "known_publishers")
    return load_settings({f"ICN_{key.upper()}": str(tmp_path / key) for key in keys})


def test_a_record_of_another_name_is_not_taken_for_the_one_asked_for():
    origin = Origin(sign_record(record(MINE), MINE))
    assert known_record(origin, BASE) == record(MINE)
    with pytest.raises(TrustError, match="acme/base"):
        known_record(origin, Name("acme", "other"))


def test_a_base_of_ones_own_is_signed_by_ones_own_key(settings):
    check_base(record(MINE), Name("acme", "x"), PublisherKey(MINE), settings)
    with pytest.raises(TrustError):
        check_base(record(OTHER), Name("acme", "x"), PublisherKey(MINE), settings)


def test_a_base_of_a_publisher_known_here_is_signed_by_the_key_known(settings):
    check_base(record(OTHER), Name("me", "x"), PublisherKey(MINE), settings)
    KnownPublishers(settings.known_publishers).remember("acme", fingerprint(public_bytes(OTHER)))
    check_base(record(OTHER), Name("me", "x"), PublisherKey(MINE), settings)
    with pytest.raises(TrustError):
        check_base(record(MINE), Name("me", "x"), PublisherKey(MINE), settings)
    settings.trust_file.write_text(f'acme = "{fingerprint(public_bytes(MINE))}"')
    check_base(record(MINE), Name("me", "x"), PublisherKey(MINE), settings)
    with pytest.raises(TrustError):
        check_base(record(OTHER), Name("me", "x"), PublisherKey(MINE), settings)


class Fresh:
    """An origin that has nothing yet."""

    waiter = Waiter(0.0)

    def record(self, name):
        raise NotFoundError("no such name")

    def missing(self, wants):
        return range(len(wants))

    def upload(self, bodies):
        pass

    def put_manifest(self, digest, data):
        pass

    def put_record(self, name, raw):
        pass


def test_what_is_sent_is_told_when_the_origin_has_it(tmp_path, settings):
    """Catches: progress that is at its end while all bodies are still on their way."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "file").write_bytes(os.urandom(3_000_000))
    told, done, early = [], [], []

    class Counting(Fresh):
        def upload(self, bodies):
            early.append(sum(told) > sum(done))
            done.extend(map(len, bodies))

    found = scan(tmp_path / "model", Kind.PACK)
    published = send(Counting(), BASE, found, PublisherKey(MINE), 0, sent=told.append)
    assert sum(told) == published.bytes_sent == 3_000_000
    assert not any(early)


@pytest.mark.parametrize(
    "change",
    [os.unlink, lambda path: os.truncate(path, 9), lambda path: path.write_bytes(b"new")],
    ids=["removed", "shorter", "another"],
)
def test_a_file_that_changes_before_it_is_sent_is_said_to_have_changed(tmp_path, change):
    """Catches: a traceback, or blame on the disk, when a training run goes on saving."""
    (tmp_path / "file").write_bytes(bytes(100))
    found = scan(tmp_path, Kind.PACK)
    change(tmp_path / "file")
    with pytest.raises(ChangedError, match="file"):
        send(Fresh(), BASE, found, PublisherKey(MINE), 0)


def test_a_url_that_is_none_is_said_before_a_key_is_made(settings, tmp_path):
    """Catches: a first key, and a fingerprint to tell others, of a publish that cannot be."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "notes").write_text("x")
    with pytest.raises(UsageError, match="URL"):
        publish(tmp_path / "model", "acme/m", to="edge:4260", settings=settings)
    assert not (settings.keys / "acme.pem").exists()


def test_a_copy_that_is_left_out_says_nothing_of_the_kind(settings, tmp_path):
    """Catches: the same files were another manifest, beside what a download left in `.cache`."""
    for name in ("plain", "downloaded"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "notes").write_text("x")
    (tmp_path / "downloaded" / ".cache").mkdir()
    (tmp_path / "downloaded" / ".cache" / "old.safetensors").touch()
    plain, downloaded = (
        publish(tmp_path / name, f"acme/{name}", store=tmp_path / "origin", settings=settings)
        for name in ("plain", "downloaded")
    )
    assert plain.manifest == downloaded.manifest


def test_paths_may_be_strings_and_an_empty_one_is_none(settings, tmp_path, monkeypatch):
    """Catches: a traceback for who writes as for `pull`; the current directory for an empty one."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "notes").write_text("x")
    words = {"store": str(tmp_path / "store"), "key": str(tmp_path / "key.pem")}
    done = publish(str(tmp_path / "model"), "acme/m", settings=settings, **words)
    assert done.seq == 1
    assert (tmp_path / "key.pem").exists()
    monkeypatch.chdir(tmp_path / "model")
    for wrong in ({"store": ""}, {"key": ""}):
        with pytest.raises(UsageError, match="is empty"):
            publish(".", "acme/m", settings=settings, **words | wrong)
    with pytest.raises(UsageError, match="`directory` is empty"):
        publish("", "acme/m", settings=settings, **words)


def in_place(tmp_path, settings):
    model = tmp_path / "model"
    (model / "a" / "b").mkdir(parents=True)
    for path in ("config.json", "a/b/weights.bin"):
        (model / path).write_bytes(b"1" * 1000)
    publish(model, "acme/m", store=tmp_path / "store", settings=settings)


def test_what_is_published_in_place_is_flushed_before_its_name_is(tmp_path, settings, monkeypatch):
    """The files may have been written a moment ago, and a power cut would leave the name alone."""
    flushed, sync = [], os.fsync

    def watched(fd):
        path = os.readlink(f"/proc/self/fd/{fd}")
        catalog = (tmp_path / "store").rglob("catalog.sqlite*")
        named = any(b"acme/m" in file.read_bytes() for file in catalog)
        flushed.append((os.path.relpath(path, tmp_path), named))
        sync(fd)

    monkeypatch.setattr(os, "fsync", watched)
    in_place(tmp_path, settings)
    of_model = {path: named for path, named in flushed if path.startswith("model")}
    names = ("", "/config.json", "/a", "/a/b", "/a/b/weights.bin")
    assert of_model == {f"model{name}": False for name in names}


@pytest.mark.parametrize("says", [errno.EIO, errno.EROFS])
def test_a_flush_that_fails_ends_it_unless_nothing_can_be_written(
    tmp_path, settings, monkeypatch, says
):
    sync = os.fsync

    def refusing(fd):
        if "model" in os.readlink(f"/proc/self/fd/{fd}"):
            raise OSError(says, os.strerror(says))
        sync(fd)

    monkeypatch.setattr(os, "fsync", refusing)
    if says == errno.EROFS:
        in_place(tmp_path, settings)
        return
    with pytest.raises(StorageError, match="cannot flush"):
        in_place(tmp_path, settings)
    with Catalog(tmp_path / "store" / "catalog.sqlite") as catalog:
        assert catalog.record(Name("acme", "m")) is None
