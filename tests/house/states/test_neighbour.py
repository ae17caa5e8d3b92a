"""docs/states/neighbour.toml, row by row, against who brings neighbours in and who asks them."""

import time
from random import Random

import pytest

from icnblocks.client.gathering import Gathering
from icnblocks.client.states import RetryOptions
from icnblocks.client.stealing import Bundle
from icnblocks.errors import FormatError, SourceError
from icnblocks.limits import BLOCK_BYTES
from icnblocks.naming import Digest, Name
from icnblocks.share.neighbourhood import _IDLE_S, Neighbourhood, _Model
from icnblocks.share.options import ShareOptions
from icnblocks.wire.bundle import Want
from icnblocks.wire.frames import Reason
from tests.house.states.driving import drive, rows_of

BLOCKS = [Digest.of(bytes([number])) for number in range(9)]
WANTS = [Want(digest, BLOCK_BYTES) for digest in BLOCKS]
US = "http://192.0.2.1:4261"
AWAY_S = 15.0


class Pull:
    """What a neighbourhood knows of an engine: its scheduler, without its threads."""

    def __init__(self):
        blocks = {"blocks": BLOCKS, "hint": "hint"}
        self.scheduler = Gathering([("source", 1)], Random(1), RetryOptions(), **blocks)
        self.scheduler.add(WANTS, "hint", 0.0)
        self.joined = {}

    def join(self, source):
        self.joined[source.url] = self.scheduler.join(source.url)

    def status(self):
        return ()

    def let_go(self, url):
        self.scheduler.drop(self.joined[url], SourceError("gave nothing"), 0.0)

    def dropped(self):
        states = [self.scheduler.sources[index] for index in self.joined.values()]
        return {
            state.name: state.last_error
            for index, state in zip(self.joined.values(), states, strict=True)
            if self.scheduler.dropped(index)
        }


class Scene:
    def __init__(self, condition, neighbourhood):
        self.condition = condition
        self.done = []
        self.began = time.monotonic()
        self.neighbourhood = neighbourhood
        self.pull = Pull()
        self.model = _Model(Digest.of(b"manifest"), Name.parse("acme/x"), [], self.pull)

    @property
    def scheduler(self):
        return self.pull.scheduler

    @property
    def us(self):
        return self.pull.joined[US]

    def name(self, *urls):
        """An edge names devices; none: it only looks who was dropped."""
        self.neighbourhood._bring(self.model, urls, ShareOptions().neighbours)

    def state(self):
        self.name()
        if US in self.model.met:
            return "joined"
        if US in self.neighbourhood._banned:
            return "banned"
        return "away" if self.model.away.get(US, 0.0) > time.monotonic() else "unknown"

    def in_unknown(self):
        if self.condition == "full":
            self.name(*(f"http://198.51.100.{number}:1" for number in range(1, 20)))
            assert len(self.model.met) == ShareOptions().neighbours == 8
        if self.condition == "crowded":
            self.name(*(f"{US.rpartition(':')[0]}:{port}" for port in range(60000, 60005)))
            assert len(self.model.met) == 2

    def in_joined(self):
        self.name(US)
        if self.condition != "useless":
            assert self.scheduler.heard(self.us, b"\1" * len(BLOCKS)) == len(BLOCKS)
        if self.condition == "third":
            for _ in range(2):
                self.refuse()

    def in_away(self):
        self.in_joined()
        self.on_failed()

    def in_banned(self):
        self.in_joined()
        self.on_corrupt()

    def draw(self):
        bundle = self.scheduler.next_bundle(self.us, 0.0)
        assert isinstance(bundle, Bundle)
        return bundle

    def on_named(self):
        before = len(self.model.met)
        self.name(US)
        self.done += ["join"] * (len(self.model.met) - before)

    def on_lane_free(self):
        self.scheduler.sources[self.us].lane_rate = 1e9
        bundle = self.scheduler.next_bundle(self.us, 0.0)
        if isinstance(bundle, Bundle):
            assert len(bundle.wants) == 4
            self.done.append("ask")
        else:
            self.done.append("listen")

    def on_map(self):
        self.scheduler.swarm.lacks(self.us, BLOCKS[0])
        assert self.scheduler.swarm.rare()
        new = self.scheduler.heard(self.us, b"\1" * len(BLOCKS))
        self.done += ["note"] * (new and not self.scheduler.swarm.rare())

    def on_arrived(self):
        bundle = self.draw()
        assert self.scheduler.arrived(bundle, bundle.wants[0].digest, 0.0)

    def refuse(self):
        bundle = self.draw()
        (want,) = bundle.wants
        self.scheduler.nacked(bundle, want.digest, Reason.NOT_FOUND, "", 0.0)
        self.scheduler.finished(bundle, 0, 0.0)
        return want

    def on_refused(self):
        want = self.refuse()
        assert self.scheduler._is_waiting(want)
        dropped = self.scheduler.dropped(self.us)
        holds = not dropped and self.scheduler.swarm.holds(self.us, want.digest)
        self.done += ["lacks"] * (not holds)
        self.note_drop()

    def note_drop(self):
        self.done += ["drop"] * self.scheduler.dropped(self.us)
        assert not self.scheduler._flying

    def fail(self, error):
        bundle = self.draw()
        self.scheduler.failed(bundle, list(bundle.left), error, 0.0)
        self.note_drop()

    def on_failed(self):
        self.fail(SourceError("gone"))

    def on_nonsense(self):
        self.fail(FormatError("what?"))

    def on_corrupt(self):
        bundle = self.draw()
        self.scheduler.corrupt(bundle, bundle.wants[0].digest, 0.0)
        self.note_drop()

    def on_other_named(self):
        others = [f"http://198.51.100.{number}:1" for number in range(1, 9)]
        self.name(*others[:7])
        if self.condition == "idle":
            gave, since = self.model.gave[US]
            self.model.gave[US] = gave, since - _IDLE_S
        self.name(others[7])
        self.done += ["drop"] * self.scheduler.dropped(self.us)
        self.done += ["join"] * (others[7] in self.model.met)

    def on_leaves(self):
        assert self.model.away[US] - self.began >= AWAY_S  # however long it took to come here
        self.model.away[US] -= AWAY_S


@pytest.fixture
def neighbourhood():
    made = Neighbourhood(4261, ShareOptions().neighbours, lambda _: None)
    yield made
    made.close()


@rows_of("neighbour")
def test_a_neighbour_is_treated_as_the_document_says(row, neighbourhood):
    drive(Scene(row.condition, neighbourhood), row)
