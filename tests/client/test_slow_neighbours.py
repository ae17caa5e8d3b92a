"""Neighbours that are slow: what sources take over from them, and what they take from sources."""

from __future__ import annotations

from random import Random

import pytest

from icnblocks.client.gathering import Gathering
from icnblocks.client.scheduler import Bundle, RetryOptions
from icnblocks.limits import BLOCK_BYTES, MIB
from icnblocks.naming import Digest
from icnblocks.wire.bundle import Want
from icnblocks.wire.frames import Reason
from tests.client.test_stealing import Exchange, checked, fast_then, steady, wants

BLOCKS = [Digest(number.to_bytes(32, "big")) for number in range(20)]


def gathering(count: int, lanes: int = 1) -> Gathering[str]:
    """A source (index 0) and a neighbour (index 1) that holds everything; all of it waits."""
    blocks = BLOCKS[:count]
    made: Gathering[str] = Gathering(
        [("edge", lanes)], Random(1), RetryOptions(), blocks=blocks, hint="h"
    )
    made.dealt(0, None)
    made.add([Want(digest, BLOCK_BYTES) for digest in blocks], "h", 0.0)
    made.heard(made.join("neighbour"), b"\1" * count)
    return made


def drawn(scheduler: Gathering[str], source: int, now: float) -> Bundle[str]:
    step = scheduler.next_bundle(source, now)
    assert isinstance(step, Bundle), step
    return step


@pytest.mark.parametrize("reason", [Reason.NOT_FOUND, Reason.CORRUPT])
def test_what_a_source_refused_is_left_to_a_slow_neighbour(reason: Reason) -> None:
    """Catches: the source took it over, refused it again, the neighbour began anew, for ever."""
    scheduler = gathering(1)
    of_source = drawn(scheduler, 0, 0.0)
    assert scheduler.nacked(of_source, BLOCKS[0], reason, "", 0.1) == []
    scheduler.finished(of_source, 0, 0.1)
    of_neighbour = drawn(scheduler, 1, 0.1)
    for now in (1.0, 3.0, 10.0, 100.0):
        assert not isinstance(scheduler.next_bundle(0, now), Bundle)
    assert scheduler.arrived(of_neighbour, BLOCKS[0], 101.0)


EDGE = MIB / 8  # bytes a second
FAST = 12.5e6
TRICKLE = 16 * 1024 / 5  # as slow as a neighbour may be


class Sharing(Exchange):
    """An edge with one lane, and neighbours that hold everything.

    Args:
        rates: bytes a second of each neighbour, as a function of the time.
        count: blocks of the model.
    """

    def __init__(self, rates, count: int) -> None:
        super().__init__([steady(EDGE), *rates], lanes=1)
        self.some = wants(count)
        blocks = [want.digest for want in self.some]
        self.scheduler: Gathering[str] = Gathering(
            [("edge", 1)], Random(1), RetryOptions(), blocks=blocks, hint="h"
        )
        self.scheduler.dealt(0, None)
        for number in range(1, len(rates) + 1):
            assert self.scheduler.join("neighbour") == number
            self.scheduler.heard(number, b"\1" * count)


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("count", [4, 20, 60])
def test_neighbours_that_trickle_cost_a_few_blocks_not_the_pull(count: int, number: int) -> None:
    """Catches: the edge left the blocks to them, or lost what it had begun to them, again and
    again, for what they had once been."""
    exchange = Sharing([fast_then(FAST, 0.05, TRICKLE)] * number, count)
    assert checked(exchange, exchange.some) <= (count + 2) * BLOCK_BYTES / EDGE


def test_a_fast_neighbour_takes_over_what_a_slow_edge_has_begun() -> None:
    """Guards that being wary of neighbours does not make the good ones idle."""
    exchange = Sharing([steady(FAST)], 20)
    assert checked(exchange, exchange.some) <= 20 * BLOCK_BYTES / FAST + 1.0


def test_a_neighbour_that_gave_nothing_yet_takes_nothing_that_has_begun() -> None:
    """Catches: whoever joins and trickles has the edge begin anew, one after the other."""
    scheduler = gathering(1)
    of_source = drawn(scheduler, 0, 0.0)
    for now in (1.0, 3.0, 7.0):
        assert not isinstance(scheduler.next_bundle(1, now), Bundle)
    assert scheduler.arrived(of_source, BLOCKS[0], 8.0)
