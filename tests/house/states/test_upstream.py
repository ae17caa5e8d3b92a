"""docs/states/upstream.toml, row by row, against what all strategies share."""

from itertools import product

import pytest

from docs.generate import machine
from icnblocks_daemon.strategies import Failure, make_strategy
from tests.house.states.driving import drive

US, OTHER = "http://us", "http://other"
ASKED_S = 40.0


class Scene:
    def __init__(self, condition, strategy):
        self.condition = condition
        self.strategy = make_strategy(strategy)
        self.now = 1000.0
        self.done = []

    @property
    def us(self):
        return self.strategy.standing(US)

    def state(self):
        if self.strategy.resting(US, self.now):
            return "distrusted" if self.us.why is Failure.CORRUPT else "resting"
        return "returning" if self.us._failures else "well"

    def in_well(self):
        pass

    def in_resting(self):
        self.strategy.failed(US, Failure.BROKEN, self.now)
        self.others_rest()

    def in_returning(self):
        self.in_resting()
        self.on_rested()

    def in_distrusted(self):
        if self.condition == "failing":
            self.strategy.failed(US, Failure.BROKEN, self.now)
        self.strategy.failed(US, Failure.CORRUPT, self.now)
        self.others_rest()

    def others_rest(self):
        if self.condition == "none-well":
            self.strategy.failed(OTHER, Failure.CORRUPT, self.now + 0.5)

    def on_needed(self):
        asked = self.strategy.choose((US, OTHER), (), self.now)
        if asked == OTHER and self.strategy.resting(US, self.now):
            self.done.append("pass")
        else:
            self.done.append("ask-shortest" if self.state() in {"resting", "distrusted"} else "ask")

    def on_answered(self):
        before = self.us._failures
        self.strategy.answered(US, self.now)
        if before and not self.us._failures:
            self.done.append("forget")

    def on_broken(self):
        self.fail(Failure.BROKEN)

    def on_slow(self):
        self.fail(Failure.SLOW)

    def on_busy(self):
        self.fail(Failure.BUSY)

    def on_corrupt(self):
        self.fail(Failure.CORRUPT)

    def fail(self, kind):
        """How long it rests says why; one that rests already rests on: no other failure."""
        until, failures, told = self.us.rests_until, self.us._failures, self.us.demotions
        least_s = ASKED_S if kind is Failure.BUSY else 0.0
        self.strategy.failed(US, kind, self.now, least_s=least_s)
        if self.us.rests_until == until:
            return
        rest = self.us.rests_until - self.now
        asked = "rest-asked" if self.us.demotions > told else "rest-on"
        named = {ASKED_S: asked, 8.0: "rest-corrupt", 2.0**failures: "rest"}
        self.done.append(named[rest])

    def on_rested(self):
        self.now += self.strategy.resting(US, self.now)


ROWS = machine("upstream").rows
STRATEGIES = ["fail-over", "best", "spread", "hedge"]


@pytest.mark.parametrize(("row", "strategy"), list(product(ROWS, STRATEGIES)), ids=str)
def test_an_upstream_rests_as_the_document_says(row, strategy):
    drive(Scene(row.condition, strategy), row)
