"""Records that must not be believed, withdrawals, and a clock that jumps, on the client's side."""

import time

import pytest

from icnblocks.client.resolve import Resolver
from icnblocks.client.source import RecordAnswer
from icnblocks.client.trust import KnownPublishers, Trust
from icnblocks.errors import NotFoundError, SourceError, TrustError, WithdrawnError
from icnblocks.store.catalog import Catalog
from icnblocks.testing.exchange import OTHER_KEY, make_model

MODEL = make_model()
NEWER = make_model(seed=2)
NOW = int(time.time())
YEAR = 365 * 24 * 3600


class Told:
    """A source in this process; it fails when it has nothing to tell."""

    def __init__(self, raw=None, error=None):
        self.raw, self.error, self.asked = raw, error or SourceError("gone"), 0

    def record(self, name):
        self.asked += 1
        if self.raw is None:
            raise self.error
        return RecordAnswer(self.raw, 0.0, stale=False)

    def manifest(self, digest, **_):
        for model in (MODEL, NEWER):
            if model.digest == digest:
                return model.raw
        raise NotFoundError("no such manifest")


class World:
    def __init__(self, path):
        self.now = float(NOW)
        self.catalog = Catalog(path / "catalog.sqlite")
        self.trust = Trust(KnownPublishers(path / "known"), first_use=True)

    def resolve(self, *sources, **more):
        resolver = Resolver(sources, self.catalog, self.trust, lambda: self.now)
        return resolver.resolve(MODEL.name, **more).digest


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    yield world
    world.catalog.close()


def test_the_next_source_is_asked_when_one_must_not_be_believed(world):
    lying = Told(make_model("acme/other").record())
    assert world.resolve(lying, Told(MODEL.record())) == MODEL.digest


@pytest.mark.parametrize("seq", [7, 8])
def test_another_key_or_another_record_of_one_number_is_refused(world, seq):
    world.resolve(Told(NEWER.record(seq=7)))
    with pytest.raises(TrustError):
        world.resolve(Told(MODEL.record(seq=seq, **({"key": OTHER_KEY} if seq == 8 else {}))))
    assert world.resolve(Told()) == NEWER.digest, "gone again: what was known is used"


def test_a_withdrawal_is_believed_and_holds_without_a_network(world):
    world.resolve(Told(MODEL.record()))
    for sources in ((Told(MODEL.record(seq=2, manifest=None)),), ()):
        with pytest.raises(WithdrawnError):
            world.resolve(*sources)


def test_only_the_publisher_withdraws(world):
    """An unsigned word of a source, as 410, is no withdrawal."""
    world.resolve(Told(MODEL.record()))
    assert world.resolve(Told(error=WithdrawnError("it says"))) == MODEL.digest


def test_a_record_of_today_is_from_the_future_for_a_clock_of_1970(world):
    world.now = 0.0
    with pytest.raises(TrustError) as told:
        world.resolve(Told(MODEL.record()))
    assert "clock" in told.value.hint
    assert world.catalog.record(MODEL.name) is None
    world.now = float(NOW)
    assert world.resolve(Told(MODEL.record())) == MODEL.digest


@pytest.mark.parametrize("jump", [-YEAR, YEAR])
def test_a_jump_of_the_clock_asks_anew_and_needs_no_network(world, jump):
    world.resolve(Told(MODEL.record(lifetime=3600)))
    source = Told()
    assert world.resolve(source, max_age_s=3600) == MODEL.digest
    assert source.asked == 0, "within its lifetime"
    world.now += jump
    assert world.resolve(source, max_age_s=3600) == MODEL.digest
    assert source.asked == 1, "its age is not known any more"
    assert world.resolve() == MODEL.digest


def test_a_lifetime_that_is_over_is_not_stretched(world):
    world.resolve(Told(MODEL.record(lifetime=60)))
    world.now += 61
    source = Told(NEWER.record(seq=2))
    assert world.resolve(source, max_age_s=3600) == NEWER.digest
