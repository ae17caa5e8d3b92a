"""Neighbours that are slow: what sources take over from them, and what they take from sources."""

from __future__ import annotations

from random import Random

import pytest

from icnblocks.client.gathering import Gathering
from icnblocks.client.scheduler import Bundle, RetryOptions
from icnblocks.limits import BLOCK_BYTES
from icnblocks.naming import Digest
from icnblocks.wire.bundle import Want
from icnblocks.wire.frames import Reason

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
