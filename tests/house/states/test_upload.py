"""docs/states/upload.toml, row by row, against the uploads of an origin."""

import struct

import pytest

from icnblocks.cache.content_store import ContentStore
from icnblocks.cache.policy import make_policy
from icnblocks.errors import BusyError, CorruptError, FormatError
from icnblocks.limits import MAX_OPEN_PARTS_BYTES, MIB
from icnblocks.naming import Digest
from icnblocks.store.catalog import Catalog
from icnblocks.store.inplace import InPlaceStore
from icnblocks.store.memory import MemoryStore
from icnblocks.wire.upload import PARTS_EXPIRE_S
from icnblocks_daemon.holdings import Holdings
from icnblocks_daemon.metrics import Metrics
from icnblocks_daemon.uploads import Uploads
from tests.house.states.driving import drive_async, rows_of

DATA = bytes(range(200))
LENGTH = len(DATA)
OURS = Digest.of(DATA)
TTL_S = 1000.0
ERRORS = {CorruptError: "corrupt", BusyError: "busy", FormatError: "format"}


def part(data, offset=0, total=LENGTH, digest=OURS):
    return bytes(digest) + struct.pack(">III", total, offset, len(data)) + data


class Scene:
    def __init__(self, condition, path):
        self.condition = condition
        self.now = 0.0
        self.done = []
        self.store = MemoryStore()
        content = ContentStore(self.store, make_policy("lru", 1 << 30), 1 << 30)
        places = InPlaceStore(path / "places.sqlite")
        self.holdings = Holdings(
            content, places, lambda: self.now, evicts=True, recall=lambda _: None
        )
        self.catalog = Catalog(path / "catalog.sqlite")
        self.uploads = Uploads(
            self.holdings, self.catalog, Metrics(), ttl_s=TTL_S, clock=lambda: self.now
        )

    def close(self):
        self.holdings.close()
        self.catalog.close()

    async def state(self):
        if self.holdings.contains(OURS):
            return "unnamed" if self.uploads.unnamed else "named"
        return "partial" if OURS in self.uploads._parts._open else "none"

    async def in_none(self):
        if self.condition == "no-memory":
            for number in range(MAX_OPEN_PARTS_BYTES // (16 * MIB)):
                other = Digest.of(bytes([number]))
                await self.uploads.take(part(b"x", total=16 * MIB, digest=other))

    async def in_partial(self):
        if self.condition != "pieces":
            await self.uploads.take(part(DATA[:100]))
            return
        for at in range(1, 2 * 63, 2):  # each single byte leaves one gap more
            await self.uploads.take(part(DATA[at : at + 1], at))

    async def in_unnamed(self):
        await self.uploads.take(part(DATA))

    async def in_named(self):
        await self.in_unnamed()
        self.uploads.named([OURS])

    async def on_part(self):
        begun = await self.state() == "partial"
        first = 100 if begun else 0
        match self.condition:
            case "more" | "no-memory":
                body = part(DATA[first : first + 50], first)
            case "wrong":
                body = part(bytes(LENGTH - first), first)
            case "other-length":
                body = part(DATA[100:], 100, total=LENGTH + 1)
            case "pieces":
                body = part(DATA[127:128], 127)
            case _:
                body = part(DATA[first:], first)
        held = OURS in self.store
        try:
            stored = await self.uploads.take(body)
        except tuple(ERRORS) as error:
            self.done.append(ERRORS[type(error)])
            self.done += ["drop"] * (begun and await self.state() == "none")
        else:
            self.done.append("store" if stored else "pass" if held else "hold")

    async def on_manifest(self):
        before = self.uploads.unnamed
        self.uploads.named([OURS])
        self.now += 2 * TTL_S
        self.done += ["keep"] * (before and not await self.uploads.expire())
        self.now -= 2 * TTL_S

    async def on_counted_on(self):
        """Near the end of its time, and looked at after it."""
        self.now += TTL_S - 1
        before = self.uploads.unnamed
        self.uploads.touch([OURS])
        if before:
            self.now += 2
            self.done += ["renew"] * (await self.uploads.expire() == 0)

    async def on_expires(self):
        self.now += PARTS_EXPIRE_S + 1
        await self.uploads.expire()
        self.done += ["drop"] * (await self.state() == "none")

    async def on_unclaimed(self):
        self.now += TTL_S + 1
        self.done += ["erase"] * await self.uploads.expire()


@pytest.fixture
def scene_of(tmp_path):
    made = []

    def make(condition):
        made.append(Scene(condition, tmp_path))
        return made[0]

    yield make
    for scene in made:
        scene.close()


@rows_of("upload")
async def test_an_upload_goes_as_the_document_says(row, scene_of):
    await drive_async(scene_of(row.condition), row)
