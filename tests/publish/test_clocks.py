"""Publishing with a clock that was ahead once: the name is not dead until that time comes."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from icnblocks.errors import TrustError
from icnblocks.limits import MAX_CLOCK_SKEW_S
from icnblocks.manifest.model import Kind
from icnblocks.manifest.record import (
    check_follows,
    check_time,
    open_record,
    public_bytes,
    rotate,
)
from icnblocks.naming import Digest, Name
from icnblocks.publish.deliver import next_record, place, withdraw
from icnblocks.publish.keys import PublisherKey
from icnblocks.publish.scan import scan
from icnblocks.store.catalog import Catalog
from icnblocks.store.inplace import InPlaceStore
from icnblocks.testing.exchange import make_model

OLD, NEW = (Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (1, 2))
SIGNER = PublisherKey(OLD)
NAME = Name("acme", "model")
NOW, YEAR = 1_800_000_000, 365 * 86_400
ONE, TWO = Digest.of(b"1"), Digest.of(b"2")


@pytest.mark.parametrize("manifest", [ONE, TWO, None], ids=["again", "newer", "withdrawn"])
def test_a_right_clock_heals_a_name_that_was_published_in_the_future(manifest):
    ahead = next_record(NAME, ONE, SIGNER, None, NOW + YEAR)
    healed = next_record(NAME, manifest, SIGNER, ahead, NOW)
    assert healed is not None, "everybody refuses the record there is: it has to be made anew"
    assert (healed.manifest, healed.seq) == (manifest, ahead.seq + 1)
    check_time(healed, NOW)
    check_follows(ahead, healed)


def test_a_clock_that_is_a_little_behind_makes_no_record_older_than_the_last():
    known = next_record(NAME, ONE, SIGNER, None, NOW + MAX_CLOCK_SKEW_S)
    assert next_record(NAME, ONE, SIGNER, known, NOW) is None
    assert next_record(NAME, TWO, SIGNER, known, NOW).time == known.time


class Origin:
    """Keeps one record, and judges the time of what it is given by a clock that is right."""

    def __init__(self, raw):
        self.raw = raw

    def record(self, name):
        return self

    def put_record(self, name, raw):
        check_time(open_record(raw), NOW)
        self.raw = raw


def test_a_name_of_the_future_can_be_withdrawn():
    origin = Origin(make_model("acme/model").record(time=NOW + YEAR, key=OLD))
    assert withdraw(origin, NAME, SIGNER, NOW) == 2
    assert open_record(origin.raw).manifest is None


@pytest.fixture
def put(tmp_path):
    """Publish a directory in place, at a time and with a key; the record in the store."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "file").write_bytes(b"weights")
    with Catalog(tmp_path / "c.sqlite") as catalog:
        places = InPlaceStore(tmp_path / "p.sqlite")

        def run(now, key=SIGNER):
            place(catalog, places, NAME, scan(tmp_path / "model", Kind.PACK), key, now)
            return open_record(catalog.record(NAME).raw)

        run.catalog = catalog
        yield run
        places.close()


def test_what_is_published_in_place_again_with_a_right_clock_can_be_pulled(put):
    assert put(NOW + YEAR).seq == 1
    healed = put(NOW)
    assert healed.seq == 2
    check_time(healed, NOW)
    assert put(NOW + 1) == healed


def test_nothing_is_published_in_place_that_everybody_would_refuse(put):
    rotation = rotate(OLD, public_bytes(NEW), "acme", NOW + YEAR)
    with pytest.raises(TrustError, match="in the future"):
        put(NOW, PublisherKey(NEW, (rotation,)))
    assert put.catalog.record(NAME) is None
