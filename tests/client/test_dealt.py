"""What a source deals is advice: it must not bind others, nor keep a pull from going on."""

from random import Random

import pytest

from icnblocks.client.answers import ThrottledError
from icnblocks.client.gathering import Deal, Gathering
from icnblocks.client.scheduler import Bundle, RetryOptions
from icnblocks.errors import SourceError
from icnblocks.limits import BLOCK_BYTES, MIB
from icnblocks.naming import Digest
from icnblocks.wire.bundle import Want
from icnblocks.wire.frames import Reason
from icnblocks_daemon.neighbours import Deals

BLOCKS = [Digest(number.to_bytes(32, "big")) for number in range(200)]


def two_sources() -> Gathering[str]:
    made = Gathering([("a", 2), ("b", 2)], Random(1), RetryOptions(), blocks=BLOCKS, hint="h")
    made.add([Want(digest, BLOCK_BYTES) for digest in BLOCKS], "h", 0.0)
    return made


def asked(scheduler: Gathering[str], source: int, now: float) -> Bundle[str]:
    step = scheduler.next_bundle(source, now)
    assert isinstance(step, Bundle)
    return step


def gives_all(scheduler: Gathering[str], source: int, now: float) -> None:
    while isinstance(step := scheduler.next_bundle(source, now), Bundle):
        for want in step.wants:
            scheduler.arrived(step, want.digest, now)
        scheduler.finished(step, step.got, 0.1)


def test_what_one_source_refused_does_not_mark_what_another_dealt() -> None:
    """Catches: one block that a lacks, and a is never asked for all that b dealt with it."""
    scheduler = two_sources()
    first = asked(scheduler, 0, 0.0)
    scheduler.nacked(first, first.wants[0].digest, Reason.NOT_FOUND, "", 0.1)
    for want in first.wants[1:]:
        scheduler.arrived(first, want.digest, 0.1)
    scheduler.finished(first, first.got, 0.1)
    assert isinstance(scheduler.deal(1, 0.2), Deal)
    scheduler.dealt(1, range(100, 140))
    under_way = [asked(scheduler, 1, 0.3), asked(scheduler, 1, 0.3)]
    gives_all(scheduler, 0, 0.4)
    for bundle in under_way:
        scheduler.failed(bundle, list(bundle.left), SourceError("down"), 1.0)
        scheduler.finished(bundle, 0, 0.1)
    gives_all(scheduler, 0, 2.0)
    assert len(scheduler) == 1, "all but the one that a lacks"


def test_a_source_that_deals_what_is_here_is_asked_for_blocks_all_the_same() -> None:
    """Catches: a pull that asks for deals for ever, and for no block."""
    scheduler, deals = two_sources(), 0
    scheduler.cancel(BLOCKS[:1])
    while isinstance(scheduler.deal(0, 0.0), Deal):
        scheduler.dealt(0, [0])
        deals += 1
        assert deals < 10
    assert asked(scheduler, 0, 0.0).wants


SMALL = 4096
MODELS = {
    "alike": [BLOCK_BYTES] * 200,
    "small ones first": [SMALL] * 1000 + [BLOCK_BYTES] * 200,
    "small ones last": [BLOCK_BYTES] * 200 + [SMALL] * 1000,
    "in turns": [SMALL, SMALL, SMALL, SMALL, SMALL, BLOCK_BYTES] * 200,
}


@pytest.mark.parametrize("lengths", MODELS.values(), ids=MODELS)
def test_what_is_dealt_is_as_much_as_was_wished_for(lengths: list[int]) -> None:
    """Counts bytes, not time: of what an edge is asked for at once, and so how often it is.

    Catches: portions ten times too large where small blocks lie together, which keep others from
    what is not on its way for long; and twenty times too small ones, each with two round trips.
    """
    blocks = [Digest(number.to_bytes(32, "big")) for number in range(len(lengths))]
    deals = Deals(Random(1))
    deals.learn(blocks[0], len(blocks))
    scheduler = Gathering([("edge", 2)], Random(1), RetryOptions(), blocks=blocks, hint="h")
    scheduler.add([Want(*each) for each in zip(blocks, lengths, strict=True)], "h", 0.0)
    scheduler.sources[0].lane_rate = 4 * MIB  # a second's worth is wished for
    portions = []
    while len(scheduler):
        due = scheduler.deal(0, 0.0)
        assert isinstance(due, Deal)
        scheduler.dealt(0, deals.deal(blocks[0], due.had, due.most))
        bundle = asked(scheduler, 0, 0.0)
        portions.append(sum(want.length for want in bundle.wants))
        for want in bundle.wants:
            scheduler.arrived(bundle, want.digest, 0.0)
        scheduler.finished(bundle, 0, 0.0)
    assert sum(portions) == sum(lengths)
    assert max(portions) <= 8 * MIB
    assert len(portions) <= 1.5 * sum(lengths) / (4 * MIB)


@pytest.mark.parametrize("held", [(0, 1000), (1000, 1200)], ids=["small ones", "large ones"])
def test_portions_follow_from_what_is_asked_for_and_not_from_all_that_waits(held) -> None:
    """Counts bytes of who comes late: neighbours hold all blocks of one kind and none of the other.

    Catches: the mean of all that wait made the first portion ten times too large where only large
    blocks are rare, and that of a neighbour which holds these; and either one a few small blocks.
    """
    lengths, (first, end) = MODELS["small ones first"], held
    blocks = [Digest(number.to_bytes(32, "big")) for number in range(len(lengths))]
    deals = Deals(Random(1))
    deals.learn(blocks[0], len(blocks))
    scheduler = Gathering([("edge", 2)], Random(1), RetryOptions(), blocks=blocks, hint="h")
    scheduler.add([Want(*each) for each in zip(blocks, lengths, strict=True)], "h", 0.0)
    neighbour = scheduler.join("neighbour")
    scheduler.heard(neighbour, bytes(first <= index < end for index in range(len(blocks))))
    due = scheduler.deal(0, 0.0)
    assert isinstance(due, Deal)
    scheduler.dealt(0, deals.deal(blocks[0], due.had, due.most))
    dealt = sum(want.length for want in asked(scheduler, 0, 0.0).wants)
    assert 1.9 * MIB <= dealt <= 2 * MIB
    given = sum(want.length for want in asked(scheduler, neighbour, 0.0).wants)
    assert 0.9 * MIB <= given <= MIB


def test_devices_that_were_put_off_come_back_for_different_blocks() -> None:
    """Catches: an edge that is busy with a crowd sends all of it the same first blocks."""
    probes = set()
    for seed in range(10):
        device = Gathering([("edge", 2)], Random(seed), RetryOptions(), blocks=BLOCKS, hint="h")
        device.add([Want(digest, BLOCK_BYTES) for digest in BLOCKS], "h", 0.0)
        assert isinstance(device.deal(0, 0.0), Deal)
        assert device.put_off(0, ThrottledError("busy", after_s=2.0), 0.0) == []
        probes.add(asked(device, 0, 2.0).wants)
    assert len(probes) >= 8
