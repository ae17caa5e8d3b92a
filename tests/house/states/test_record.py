"""docs/states/record.toml, row by row, against the records of an edge."""

import asyncio
import contextlib

import pytest

from icnblocks.client.source import RecordAnswer
from icnblocks.errors import NotFoundError, SourceError, TrustError
from icnblocks.store.catalog import Catalog
from icnblocks.testing.exchange import OTHER_KEY, make_model
from icnblocks_daemon import records as module
from icnblocks_daemon.fib import Fib
from icnblocks_daemon.metrics import Metrics
from icnblocks_daemon.records import Records
from tests.house.states.driving import drive_async, rows_of

MODEL = make_model()
WALL = 1_800_000_000
LIFETIME_S, STALE_MAX_S = 60.0, 1000.0


class Origin:
    """An upstream in this process."""

    def __init__(self):
        self.asked = 0
        self.says = "newer"
        self.seq = 1
        self.release = asyncio.Event()

    def refuse_loop(self, via, what):
        assert not via

    async def record(self, route, name, via, keep):
        self.asked += 1
        match self.says:
            case "unknown":
                raise NotFoundError("no such name")
            case "gone":
                raise SourceError("gone")
            case "slow":
                await self.release.wait()
            case "newer" | "relayed":
                self.seq += 1
        key = {"key": OTHER_KEY} if self.says == "refused" else {}
        raw = MODEL.record(seq=self.seq, time=WALL, **key)
        relayed = self.says == "relayed"
        return await keep(RecordAnswer(raw, 90.0 if relayed else 0.0, relayed))


class Scene:
    def __init__(self, condition, path):
        self.condition = condition
        self.now = 1000.0
        self.done = []
        self.origin = Origin()
        self.catalog = Catalog(path / "catalog.sqlite")
        self.metrics = Metrics()
        self.records = Records(
            self.catalog, Fib([("", "http://up")]), self.origin, self.metrics,
            lifetime_cap_s=LIFETIME_S, stale_max_s=STALE_MAX_S,
            clock=lambda: self.now, wall=lambda: WALL + self.now - 1000.0,
        )  # fmt: skip

    def kept(self):
        return self.catalog.record(MODEL.name)

    async def state(self):
        stored = self.kept()
        if stored is None:
            return "none"
        age = self.records._age(MODEL.name, stored.fetched_at)
        return "fresh" if age < LIFETIME_S else "expired" if age <= STALE_MAX_S else "old"

    async def in_none(self):
        if self.condition == "refused":
            # The publisher's key is known here by another name of his.
            self.catalog.set_publisher_key("acme", "0" * 64)

    async def in_fresh(self):
        await self.records.get(MODEL.name)

    async def in_expired(self):
        await self.in_fresh()
        self.now += LIFETIME_S
        await self.fail_just_now()

    async def in_old(self):
        await self.in_fresh()
        self.now += STALE_MAX_S + 1
        await self.fail_just_now()

    async def fail_just_now(self):
        if self.condition == "failed-just-now":
            self.origin.says = "gone"
            with contextlib.suppress(SourceError):
                await self.records.get(MODEL.name)
            self.now += 1.9

    async def on_asked(self):
        if self.condition:
            self.origin.says = self.condition
        before, asked, kept = self.refusals(), self.origin.asked, self.kept()
        try:
            served = await self.records.get(MODEL.name)
        except NotFoundError:
            self.done.append("not-found")
        except SourceError:
            again = self.condition == "failed-just-now"
            self.done.append("refuse-again" if again else "no-source")
        except TrustError:
            self.done.append("trust")
        else:
            self.note(served, kept)
        self.done += ["ask"] * (self.origin.asked - asked)
        self.done += ["count"] * int(self.refusals() - before)

    def refusals(self):
        return self.metrics.refused_records.labels("trust")._value.get()

    def note(self, served, before):
        after = self.kept()
        assert served.raw == after.raw
        kept = before is None or before.raw != after.raw
        if kept:
            self.done.append("keep")
        if not served.stale:
            self.done.append("serve")
        elif kept:
            assert served.age_s == 90.0
            self.done.append("relay-stale")
        else:
            assert served.age_s == self.now - 1000.0
            self.done.append("serve-stale")

    async def on_ages(self):
        self.now += LIFETIME_S if self.condition == "lifetime" else STALE_MAX_S + 1


@pytest.fixture
async def scene_of(tmp_path, monkeypatch):
    made = []

    def make(condition):
        # Only where upstream never answers; else a busy machine would seem to be that.
        monkeypatch.setattr(module, "PATIENCE_S", 0.01 if condition == "slow" else 60.0)
        made.append(Scene(condition, tmp_path))
        return made[0]

    yield make
    for scene in made:
        scene.origin.release.set()
        await scene.records.close()
        scene.catalog.close()


@rows_of("record")
async def test_a_record_is_served_as_the_document_says(row, scene_of):
    await drive_async(scene_of(row.condition), row)
