"""What an origin says of names is not believed just because it says so."""

import os
import threading

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from icnblocks.client.settings import load_settings
from icnblocks.client.source import RecordAnswer
from icnblocks.client.trust import KnownPublishers
from icnblocks.errors import NotFoundError, RefusedError, TrustError
from icnblocks.manifest.model import Kind
from icnblocks.manifest.record import Record, fingerprint, public_bytes, sign_record
from icnblocks.naming import Digest, Name
from icnblocks.publish.deliver import UPLOADS_AT_ONCE, _upload, known_record, send
from icnblocks.publish.keys import PublisherKey
from icnblocks.publish.scan import scan
from icnblocks.publish.ways import check_base

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


class _Sink:
    """Takes bodies as an origin does, from several threads, and refuses one of them."""

    def __init__(self, refused=None):
        self.taken = []
        self._refused = refused

    def upload(self, bodies):
        for body in bodies:
            if body == self._refused:
                raise RefusedError("not this one")
            self.taken.append(body)


def test_bodies_are_sent_by_several_threads_each_once():
    sink = _Sink()
    sent = [b"%d" % number for number in range(1000)]
    counted = []
    _upload(sink, ((body, len(body)) for body in sent), counted.append)
    assert sum(counted) == sum(map(len, sent))
    assert sorted(sink.taken) == sorted(sent)


def test_a_refused_body_ends_the_upload_with_its_reason_and_no_more_are_drawn():
    drawn = []

    def bodies():
        for number in range(100_000):
            drawn.append(number)
            yield b"%d" % number, 1

    with pytest.raises(RefusedError, match="not this one"):
        _upload(_Sink(refused=b"5"), bodies(), lambda _: None)
    assert len(drawn) < 100_000


def test_no_more_bodies_are_in_memory_than_are_under_way():
    """Each waits until as many as may be at once have come: so at least that many, and no more."""
    together = threading.Barrier(UPLOADS_AT_ONCE, timeout=30)
    drawn = []

    class Slow:
        def upload(self, bodies):
            together.wait()
            assert len(drawn) - len(done) <= UPLOADS_AT_ONCE + 1
            done.extend(bodies)

    done = []

    def bodies():
        for number in range(3 * UPLOADS_AT_ONCE):
            drawn.append(number)
            yield b"%d" % number, 1

    _upload(Slow(), bodies(), lambda _: None)
    assert len(done) == 3 * UPLOADS_AT_ONCE


def test_what_is_sent_is_told_when_the_origin_has_it(tmp_path, settings):
    """Catches: progress that is at its end while all bodies are still on their way."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "file").write_bytes(os.urandom(3_000_000))
    told, done, early = [], [], []

    class Fresh:
        """An origin that has nothing yet."""

        def record(self, name):
            raise NotFoundError("no such name")

        def missing(self, wants):
            return range(len(wants))

        def upload(self, bodies):
            early.append(sum(told) > sum(done))
            done.extend(map(len, bodies))

        def put_manifest(self, digest, data):
            pass

        def put_record(self, name, raw):
            pass

    found = scan(tmp_path / "model", Kind.PACK)
    published = send(Fresh(), BASE, found, PublisherKey(MINE), 0, sent=told.append)
    assert sum(told) == published.bytes_sent == 3_000_000
    assert not any(early)
