"""docs/states/have.toml, row by row, against the book-keeping of have-maps."""

from icnblocks.client.holders import Catalogued, Holders
from icnblocks.naming import Digest
from icnblocks.wire.havemap import HaveMap
from tests.house.states.driving import drive, rows_of

BLOCKS = [Digest.of(b"held"), Digest.of(b"lacked")]
ABOUT = Catalogued(Digest.of(b"manifest"), None, BLOCKS)


class Scene:
    def __init__(self, condition):
        self.condition = condition
        self.holders = Holders(1)
        self.holders.learn(ABOUT)
        self.now = 1000.0
        self.done = []

    def state(self):
        return self.holders._talks[ABOUT.manifest].stand[0].name.lower()

    def in_due(self):
        pass

    def in_asked(self):
        assert self.holders.next(0, self.now) is ABOUT

    def in_told(self):
        self.in_asked()
        self.on_map()
        self.now += 2.0 if self.condition == "later" else 1.9

    def in_untold(self):
        self.in_asked()
        self.on_no_map()

    def on_lane_free(self):
        step = self.holders.next(0, self.now)
        self.done.append("ask" if step is ABOUT else "wait" if step else "bundle")

    def on_map(self):
        told = self.holders.told(0, ABOUT.manifest, HaveMap(b"\1\0", fetches=False))
        if told == (BLOCKS, BLOCKS[1:]):
            self.done.append("sort")

    def on_no_map(self):
        assert self.holders.told(0, ABOUT.manifest, None) is None

    def on_busy(self):
        assert self.holders.told(0, ABOUT.manifest, None, busy=True) is None

    def on_not_found(self):
        self.holders.not_found(0, ABOUT.manifest, self.now)


@rows_of("have")
def test_have_maps_are_asked_for_as_the_document_says(row):
    drive(Scene(row.condition), row)
