"""The catalog: records never go backward, also when two processes write at once."""

import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest

from icnblocks.errors import CorruptError, FormatError, TrustError, VersionError
from icnblocks.limits import MAX_RECORD_BYTES
from icnblocks.naming import Digest, Name
from icnblocks.store.catalog import Catalog, StoredRecord
from icnblocks.store.database import DamagedError, Schema, connect
from icnblocks.testing.faults import flip_bit

NAME = Name.parse("acme/model")


@pytest.fixture
def catalog(tmp_path):
    with Catalog(tmp_path / "deep" / "catalog.sqlite") as catalog:
        yield catalog


def test_manifests(catalog):
    one, two = b"one" * 1000, b"two"
    for data in (one, two, one):
        catalog.put_manifest(Digest.of(data), data)
    assert catalog.manifest(Digest.of(one)) == one
    assert catalog.manifest(Digest.of(b"three")) is None
    assert catalog.manifests() == [(Digest.of(one), 3000), (Digest.of(two), 3)]
    assert catalog.remove_manifest(Digest.of(one))
    assert not catalog.remove_manifest(Digest.of(one))
    assert catalog.manifests() == [(Digest.of(two), 3)]


def test_a_manifest_under_a_wrong_digest(catalog):
    """A source that lies must not plant a manifest under somebody else's digest."""
    with pytest.raises(CorruptError):
        catalog.put_manifest(Digest.of(b"a"), b"b")
    assert catalog.manifests() == []


def test_a_rotten_manifest_counts_as_missing_and_is_mended(tmp_path, caplog):
    """A bit that rotted in the catalog must not be taken for what the record names."""
    data, path = b"m" * 50_000, tmp_path / "catalog.sqlite"
    with Catalog(path) as catalog:
        catalog.put_manifest(Digest.of(data), data)
    flip_bit(path, path.read_bytes().index(b"m" * 1000) + 500)
    with Catalog(path) as catalog:
        assert catalog.manifest(Digest.of(data)) is None
        assert "rotted" in caplog.text
        catalog.put_manifest(Digest.of(data), data)
        assert catalog.manifest(Digest.of(data)) == data


def test_records(catalog):
    assert catalog.record(NAME) is None
    catalog.put_record(NAME, b"raw 1", 1, "key", 100.5)
    assert catalog.record(NAME) == StoredRecord(NAME, b"raw 1", 1, "key", 100.5)
    catalog.put_record(NAME, b"raw 7", 7, "new key", 101)
    other = Name.parse("acme/model@v2")
    catalog.put_record(other, b"other", 0, "key", 102)
    assert [(r.name, r.raw) for r in catalog.records()] == [(NAME, b"raw 7"), (other, b"other")]


@pytest.mark.parametrize(("seq", "raw"), [(6, b"older"), (0, b"raw"), (7, b"another")])
def test_a_record_never_goes_backward(catalog, seq, raw):
    """Rolling back, or two records of one number, is what an attacker with an old record does."""
    catalog.put_record(NAME, b"raw", 7, "key", 100)
    with pytest.raises(TrustError, match="acme/model"):
        catalog.put_record(NAME, raw, seq, "key", 200)
    assert catalog.record(NAME) == StoredRecord(NAME, b"raw", 7, "key", 100)


def test_the_same_record_again_is_fresh(catalog):
    """An edge that revalidated must not call the record stale."""
    catalog.put_record(NAME, b"raw", 7, "key", 100)
    catalog.put_record(NAME, b"raw", 7, "key", 200)
    assert catalog.record(NAME).fetched_at == 200


@pytest.mark.parametrize(
    ("raw", "seq"), [(bytes(MAX_RECORD_BYTES + 1), 1), (b"", -1), (b"", 1 << 63)]
)
def test_records_have_bounds(catalog, raw, seq):
    """SQLite would raise OverflowError for a number that a signed record may well hold."""
    with pytest.raises(FormatError):
        catalog.put_record(NAME, raw, seq, "key", 1)


def test_publishers(catalog):
    assert catalog.publisher_key("acme") is None
    catalog.set_publisher_key("acme", "one")
    catalog.set_publisher_key("acme", "two")
    assert catalog.publisher_key("acme") == "two"


RACER = """
import sys
from pathlib import Path
from icnblocks.errors import TrustError
from icnblocks.naming import Name
from icnblocks.store.catalog import Catalog
start, step = int(sys.argv[2]), int(sys.argv[3])
catalog, last, refused = Catalog(Path(sys.argv[1])), -1, 0
for seq in range(start, 300, step):
    try:
        catalog.put_record(Name.parse("acme/model"), b"by %d" % start, seq, "key", 0.0)
    except TrustError:
        refused += 1
    here = catalog.record(Name.parse("acme/model")).seq
    assert here >= seq and here >= last, (here, seq, last)
    last = here
print(refused)
"""


def test_two_processes_never_turn_a_record_back(tmp_path):
    """Reading and then writing would let the slower process undo the faster one's record."""
    path = tmp_path / "catalog.sqlite"
    children = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(path), str(start), "3"], stdout=subprocess.PIPE
        )
        for start in (0, 1, 2)
    ]
    for child in children:
        child.communicate(timeout=60)
        assert child.returncode == 0
    with Catalog(path) as catalog:
        assert catalog.record(NAME).seq == 299


def test_another_process_sees_a_record_at_once(tmp_path, catalog):
    with Catalog(tmp_path / "deep" / "catalog.sqlite") as other:
        catalog.put_record(NAME, b"raw", 1, "key", 1)
        assert other.record(NAME).raw == b"raw"


def test_a_newer_catalog_is_refused(tmp_path):
    path = tmp_path / "catalog.sqlite"
    Catalog(path).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version=2")
    db.close()
    with pytest.raises(VersionError):
        Catalog(path)


def test_an_older_database_is_migrated(tmp_path):
    """Each step runs once, and all of them or none."""
    path = tmp_path / "db"
    one = Schema("thing", 1, ("CREATE TABLE t (a)", "INSERT INTO t VALUES (1)"))
    connect(path, one).close()
    steps = {
        1: lambda db: db.execute("ALTER TABLE t ADD COLUMN b DEFAULT 2"),
        2: lambda db: db.execute("UPDATE t SET b = 3"),
    }
    broken = Schema("thing", 3, (), steps | {2: lambda db: db.execute("UPDATE nothing SET b = 3")})
    with pytest.raises(Exception, match="nothing"):
        connect(path, broken)
    connect(path, one).close()
    db = connect(path, Schema("thing", 3, (), steps))
    assert db.execute("SELECT * FROM t").fetchall() == [(1, 3)]
    db.close()


def test_the_database_of_another_program(tmp_path):
    path = tmp_path / "catalog.sqlite"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE t (a)")
    db.close()
    with pytest.raises(DamagedError):
        Catalog(path)


def test_a_catalog_is_never_started_empty_by_itself(tmp_path):
    """It holds the sequence numbers that guard against roll-back."""
    path = tmp_path / "catalog.sqlite"
    path.write_bytes(b"x" * 5000)
    with pytest.raises(DamagedError) as refused:
        Catalog(path)
    assert "bring back a copy" in refused.value.hint


def test_a_catalog_in_which_text_rotted_is_damaged(tmp_path):
    """Catches: the disk refused, it said, and that space is to be freed."""
    path = tmp_path / "catalog.sqlite"
    with Catalog(path) as catalog:
        catalog.set_publisher_key("acme", "k" * 64)
        with catalog._writing() as db:
            db.execute("UPDATE publishers SET key = CAST(x'ff' AS TEXT)")
        with pytest.raises(DamagedError):
            catalog.publisher_key("acme")


@pytest.mark.parametrize("statement", [
    "UPDATE manifests SET data = 7",
    "UPDATE manifests SET digest = 7",
    "UPDATE records SET raw = 7",
    "UPDATE records SET fetched_at = 'late'",
    "UPDATE records SET model = x'ff'",
])  # fmt: skip
def test_a_catalog_in_which_a_value_changed_its_type_is_damaged(tmp_path, statement):
    """Each was a TypeError, here or where the value was used."""
    path, data = tmp_path / "catalog.sqlite", b"a manifest"
    with Catalog(path) as catalog:
        catalog.put_manifest(Digest.of(data), data)
        catalog.put_record(Name("acme", "model"), b"raw", 1, "key", 1.0)
    with closing(sqlite3.connect(path)) as database:
        database.execute(statement)
        database.commit()
    with Catalog(path) as catalog:
        failed = 0
        for question in (
            lambda: catalog.manifest(Digest.of(data)),
            catalog.manifests,
            lambda: catalog.record(Name("acme", "model")),
            catalog.records,
        ):
            try:
                question()
            except DamagedError:
                failed += 1
        assert failed
