"""From a name to its manifest: what is remembered counts only while its key is trusted."""

import sqlite3
import threading
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from icnblocks.client import resolve
from icnblocks.client.answers import ThrottledError
from icnblocks.client.resolve import Resolver
from icnblocks.client.source import RecordAnswer, Source
from icnblocks.client.trust import KnownPublishers, Trust
from icnblocks.errors import (
    CorruptError,
    IcnError,
    NotFoundError,
    RefusedError,
    SourceError,
    TrustError,
)
from icnblocks.manifest.codec import digest_of, encode
from icnblocks.manifest.cutting import build_manifest
from icnblocks.manifest.model import Kind
from icnblocks.manifest.record import (
    Record,
    fingerprint,
    open_record,
    public_bytes,
    rotate,
    sign_record,
)
from icnblocks.naming import Name
from icnblocks.store.catalog import Catalog
from icnblocks.testing.lying import LyingServer, Reply

OLD, NEW = (Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (1, 2))
NAME = Name("acme", "m")
MANIFESTS = {
    digest_of(data): data
    for data in (encode(build_manifest(kind, [])) for kind in (Kind.BASE, Kind.PACK))
}
ONE, TWO = MANIFESTS


def signed(manifest, seq, key=OLD, rotations=()):
    record = Record(NAME, manifest, seq, 100, public_bytes(key), 60, tuple(rotations))
    return sign_record(record, key)


class Origin:
    """Answers with `raw`, or not at all."""

    def __init__(self, raw=None):
        self.raw = raw
        self.asked = 0

    def record(self, name):
        self.asked += 1
        if self.raw is None:
            raise SourceError("gone")
        return RecordAnswer(self.raw, 0.0, stale=False)

    def manifest(self, digest, **_):
        return MANIFESTS[digest]

    def coming(self):
        return 0


@pytest.fixture
def catalog(tmp_path):
    with Catalog(tmp_path / "c.sqlite") as opened:
        yield opened


@pytest.fixture
def follow(catalog, tmp_path):
    """Follow NAME, with the trust given; the manifest."""
    warned = []

    def run(origin, *, max_age_s=0.0, **trust):
        known = KnownPublishers(tmp_path / "known")
        judge = Trust(known, **trust)
        resolver = Resolver([origin], catalog, judge, lambda: 100.0, warned.append)
        return resolver.resolve(NAME, max_age_s=max_age_s).digest

    run.warned = warned
    return run


def only(key):
    return {"provisioned": {"acme": (fingerprint(public_bytes(key)),)}}


def test_a_fresh_record_is_used_without_asking(follow):
    follow(Origin(signed(ONE, 5)), first_use=True)
    silent = Origin()
    assert follow(silent, max_age_s=60.0) == ONE
    assert not silent.asked


def test_a_fresh_record_by_a_key_trusted_no_more_is_not_used(follow):
    follow(Origin(signed(ONE, 5)), first_use=True)
    with pytest.raises(TrustError):
        follow(Origin(signed(ONE, 5)), max_age_s=60.0, **only(NEW))
    with pytest.raises(TrustError):
        follow(Origin(), max_age_s=60.0, **only(NEW))


@pytest.mark.parametrize("seq", [1, 5, 9])
def test_where_trust_has_moved_to_another_key_the_old_record_is_no_obstacle(follow, seq):
    follow(Origin(signed(ONE, 5)), first_use=True)
    for _ in range(2):
        assert follow(Origin(signed(TWO, seq, NEW)), **only(NEW)) == TWO
    assert "trusted no more" in follow.warned[0]


def test_an_older_record_is_not_followed(follow):
    follow(Origin(signed(ONE, 5)), first_use=True)
    assert follow(Origin(signed(TWO, 4))) == ONE
    rotation = rotate(OLD, public_bytes(NEW), "acme", 50)
    assert follow(Origin(signed(TWO, 4, NEW, [rotation]))) == ONE
    with pytest.raises(TrustError, match="two different"):
        follow(Origin(signed(TWO, 5, NEW, [rotation])))
    assert follow(Origin(signed(TWO, 6, NEW, [rotation]))) == TWO


class Busy(Origin):
    """Asks to be left alone for a while, some times before each answer."""

    def __init__(self, raw, record=(), manifest=()):
        super().__init__(raw)
        self.waits = {"record": list(record), "manifest": list(manifest)}

    def record(self, name):
        self._refuse("record")
        return super().record(name)

    def manifest(self, digest, **_):
        self._refuse("manifest")
        return super().manifest(digest)

    def _refuse(self, what):
        if self.waits[what]:
            raise ThrottledError("busy", after_s=self.waits[what].pop(0))


def test_a_busy_source_is_asked_again_after_the_time_that_it_asked_for(catalog, tmp_path):
    """Catches: a 429 that ends a pull before it began, and a client that comes back too early."""
    trust = Trust(KnownPublishers(tmp_path / "known"), first_use=True)
    waits = []
    resolver = Resolver(
        [Busy(signed(ONE, 1), [3, 5], [7])], catalog, trust, lambda: 100.0, pause=waits.append
    )
    assert resolver.resolve(NAME).digest == ONE
    assert waits == [3, 5, 7]


def test_a_source_that_stays_busy_is_given_up(catalog, tmp_path):
    """Catches: a client that waits for ever."""
    trust = Trust(KnownPublishers(tmp_path / "known"), first_use=True)
    waits = []
    busy = [Busy(None, [4] * 100), Busy(None, [6] * 100)]
    resolver = Resolver(busy, catalog, trust, lambda: 100.0, patience_s=10, pause=waits.append)
    with pytest.raises(ThrottledError):
        resolver.resolve(NAME)
    assert waits == [4, 2, 2]


def test_each_busy_source_is_left_alone_for_as_long_as_it_asked(catalog, tmp_path):
    """Catches: all of them asked again when the first may be."""
    trust = Trust(KnownPublishers(tmp_path / "known"), first_use=True)
    soon, late, absent = Busy(signed(ONE, 1), [3] * 5), Busy(None, [60] * 5), Origin(None)
    resolver = Resolver([soon, late, absent], catalog, trust, lambda: 100.0, pause=lambda _: None)
    assert resolver.resolve(NAME).digest == ONE
    assert not soon.waits["record"]
    assert len(late.waits["record"]) == 4


def test_a_busy_source_is_not_waited_for_long_where_what_is_known_will_do(
    follow, catalog, tmp_path
):
    """A model that lay on the machine whole could not be used for a minute, at each load."""
    follow(Origin(signed(ONE, 1)), first_use=True)
    trust = Trust(KnownPublishers(tmp_path / "known"), first_use=True)
    waits, warned = [], []
    resolver = Resolver(
        [Busy(None, [0] * 1000)], catalog, trust, lambda: 100.0, warned.append, pause=waits.append
    )
    assert resolver.resolve(NAME).digest == ONE
    assert waits == [0.5, 1.0, 2.0, 4.0]
    assert "asking again for up to 10 s" in warned[0]
    assert "using what is known" in warned[-1]


def test_a_source_that_does_not_answer_is_not_waited_for_long_where_what_is_known_will_do(
    follow, catalog, tmp_path, monkeypatch
):
    follow(Origin(signed(ONE, 1)), first_use=True)
    monkeypatch.setattr(resolve, "_KNOWN_S", 0.1)
    trust, go = Trust(KnownPublishers(tmp_path / "known"), first_use=True), threading.Event()

    class Frozen(Origin):
        def record(self, name):
            assert go.wait(20)
            raise SourceError("too late")

    warned = []
    resolver = Resolver([Frozen(None)], catalog, trust, lambda: 100.0, warned.append)
    assert resolver.resolve(NAME).digest == ONE
    go.set()
    assert "no source has answered within 0 s" in warned[0]


def test_what_is_known_will_not_do_without_its_manifest(follow, catalog, tmp_path):
    """Then the sources are waited for as if nothing were known: nothing else helps."""
    follow(Origin(signed(ONE, 1)), first_use=True)
    catalog.remove_manifest(ONE)
    trust = Trust(KnownPublishers(tmp_path / "known"), first_use=True)
    waits = []
    busy = Busy(signed(ONE, 1), [8, 8, 8])
    assert Resolver([busy], catalog, trust, lambda: 100.0, pause=waits.append).resolve(NAME)
    assert waits == [8, 8, 8]


def test_what_other_sources_take_counts_as_waiting(catalog, tmp_path, monkeypatch):
    """Catches: a busy source and one that does not answer, asked in turn for half an hour."""
    trust = Trust(KnownPublishers(tmp_path / "known"), first_use=True)
    clock, waits = [0.0], []
    monkeypatch.setattr(resolve, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    class Silent(Origin):
        def record(self, name):
            clock[0] += 10.0
            raise SourceError("does not answer")

    sources = [Busy(None, [0] * 1000), Silent(None)]
    resolver = Resolver(sources, catalog, trust, lambda: 100.0, pause=waits.append)
    with pytest.raises(IcnError):
        resolver.resolve(NAME)
    assert clock[0] <= 70.0


class Overtaken(Origin):
    """Another process keeps a newer record while this one is on its way."""

    def __init__(self, raw, path, newer):
        super().__init__(raw)
        self._path, self._newer = path, newer

    def record(self, name):
        record = open_record(self._newer)
        with Catalog(self._path) as other:
            other.put_record(name, self._newer, record.seq, fingerprint(record.key), 100.0)
        return super().record(name)


@pytest.mark.parametrize("known", [None, 4])
def test_a_newer_record_that_another_process_kept_meanwhile_is_used(follow, tmp_path, known):
    """Catches: two pulls of a tag that moves, of which one says that the source is not trusted."""
    follow(Origin(signed(ONE, known or 5)), first_use=True)
    if known is None:
        with Catalog(tmp_path / "c.sqlite") as catalog:
            catalog.remove_record(NAME)
    origin = Overtaken(signed(ONE, 5), tmp_path / "c.sqlite", signed(TWO, 6))
    assert follow(origin) == TWO
    assert "older record" in follow.warned[0]


def test_another_record_of_the_same_number_is_refused_also_if_it_was_kept_meanwhile(
    follow, tmp_path
):
    follow(Origin(signed(ONE, 4)), first_use=True)
    origin = Overtaken(signed(ONE, 5), tmp_path / "c.sqlite", signed(TWO, 5))
    with pytest.raises(TrustError, match="two different"):
        follow(origin)


def test_a_source_is_told_under_which_name_to_look_for_a_manifest(catalog, tmp_path):
    """Catches: an edge that asks upstreams of other names, of which one may be silent."""

    def respond(request):
        return Reply(200, signed(ONE, 5) if "/records/" in request.path else MANIFESTS[ONE])

    judge = Trust(KnownPublishers(tmp_path / "known"), first_use=True)
    with LyingServer({}, respond=respond) as server, Source(server.url) as source:
        Resolver([source], catalog, judge, lambda: 100.0).resolve(NAME)
        asked = [request.headers.get("icn-name") for request in server.requests]
    assert asked == [None, str(NAME)]


def test_a_manifest_that_is_not_found_under_a_name_may_be_without_it(catalog, tmp_path):
    """A digest alone is what `icn-show` may be given."""

    def respond(request):
        return Reply(404 if "icn-name" in request.headers else 200, MANIFESTS[ONE])

    judge = Trust(KnownPublishers(tmp_path / "known"))
    with LyingServer({}, respond=respond) as server, Source(server.url) as source:
        found = Resolver([source], catalog, judge, lambda: 100.0).manifest(NAME, ONE)
    assert found.encoded == MANIFESTS[ONE]


def test_a_remembered_record_that_has_rotted_is_asked_for_anew(follow, catalog, tmp_path):
    """Catches: a model that cannot be pulled again since a bit of the catalog flipped."""
    assert follow(Origin(signed(ONE, 3)), first_use=True) == ONE
    with sqlite3.connect(tmp_path / "c.sqlite") as db:
        db.execute(
            "UPDATE records SET raw = CAST(substr(raw, 1, 40) || x'00' || substr(raw, 42) AS BLOB)"
        )
    db.close()
    with pytest.raises(TrustError, match="number 3 is known"):
        follow(Origin(signed(TWO, 2)))
    assert follow(Origin(signed(ONE, 3)), max_age_s=50) == ONE
    asked = Origin()
    assert follow(asked, max_age_s=50) == ONE
    assert not asked.asked


@pytest.mark.parametrize("what", ["record", "manifest"])
@pytest.mark.parametrize(
    "other",
    [
        SourceError("refused"),
        ThrottledError("busy", after_s=90.0),
        CorruptError("wrong bytes"),
        RefusedError("not allowed"),
    ],
)
def test_nobody_says_not_found_while_somebody_could_not_be_asked(catalog, tmp_path, what, other):
    """Catches: exit code 4, which no script tries again, of a name that a busy source may know."""

    class Lacks(Origin):
        def record(self, name):
            raise NotFoundError("no such name")

        def manifest(self, digest, **_):
            raise NotFoundError("no such manifest")

    class Away(Origin):
        def record(self, name):
            raise other

        def manifest(self, digest, **_):
            raise other

    trust = Trust(KnownPublishers(tmp_path / "known"), first_use=True)
    resolver = Resolver([Lacks(), Away()], catalog, trust, lambda: 100.0)
    with pytest.raises(type(other), match="no such"):
        resolver.resolve(NAME) if what == "record" else resolver.manifest(NAME, ONE)
