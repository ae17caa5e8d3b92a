"""docs/states/announcement.toml, row by row, against what an edge knows of devices that share."""

from random import Random

from icnblocks.naming import Digest
from icnblocks_daemon.neighbours import LISTED, MOST, MOST_EACH, TTL_S, Neighbour, Neighbours
from tests.house.states.driving import drive, rows_of

MODEL, ANOTHER = Digest.of(b"model"), Digest.of(b"another")
US = Neighbour("192.0.2.1", 4261)
STRANGER = Neighbour("192.0.2.3", 4261)
OTHERS = [Neighbour("192.0.2.2", port) for port in range(1, 12)]


class Scene:
    def __init__(self, condition):
        self.condition = condition
        self.now = 1000.0
        self.done = []
        self.known = Neighbours(Random(1))
        assert (LISTED, MOST, MOST_EACH, TTL_S) == (8, 20_000, 256, 60.0)

    def state(self):
        every = self.known.some(MODEL, self.now, STRANGER, 1000)
        return "announced" if US in every else "none"

    def in_none(self):
        if self.condition == "full":
            for port in range(1, MOST_EACH + 1):
                assert self.known.announce(ANOTHER, Neighbour(US.address, port), self.now)

    def in_announced(self):
        assert self.known.announce(MODEL, US, self.now)

    def on_posted(self):
        for other in OTHERS:
            self.known.announce(MODEL, other, self.now)
        self.now += TTL_S - 1
        if not self.known.announce(MODEL, US, self.now):
            self.done.append("busy")
            return
        listed = self.known.some(MODEL, self.now, US)
        assert US not in listed
        self.done += ["list"] * (len(listed) == LISTED)
        self.now += TTL_S - 1
        self.done += ["note"] * (self.state() == "announced")

    def on_deleted(self):
        before = self.known.holding(self.now)
        self.known.leave(MODEL, US)
        self.done += ["forget"] * (before - self.known.holding(self.now))

    def on_asked(self):
        named = self.known.some(MODEL, self.now, OTHERS[0])
        self.done.append("name" if US in named else "nobody")

    def on_expired(self):
        before = self.known.holding(self.now)
        self.now += TTL_S
        self.known.some(MODEL, self.now, STRANGER)
        self.done += ["forget"] * (before - self.known.holding(self.now))


@rows_of("announcement")
def test_devices_are_named_to_each_other_as_the_document_says(row):
    drive(Scene(row.condition), row)
