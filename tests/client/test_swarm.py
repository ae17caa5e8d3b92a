"""Who is asked for what among neighbours: by table and by property."""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from icnblocks.client.gathering import Deal, Gathering
from icnblocks.client.scheduler import Bundle, RetryOptions
from icnblocks.client.swarm import Swarm
from icnblocks.errors import SourceError
from icnblocks.limits import BLOCK_BYTES
from icnblocks.naming import Digest
from icnblocks.wire.bundle import Want
from icnblocks.wire.frames import Reason

BLOCKS = [Digest(number.to_bytes(32, "big")) for number in range(64)]


def flags(*held: int, count: int = 8) -> bytes:
    return bytes(number in held for number in range(count))


def swarm(count: int = 8, *neighbours: int, waiting: bool = True) -> Swarm:
    made = Swarm(BLOCKS[:count], Random(1))
    for neighbour in neighbours:
        made.join(neighbour)
    for digest in BLOCKS[: count if waiting else 0]:
        made.waits(digest)
    return made


def gathering(count: int = 8, *, neighbours: int = 0, **options: float) -> Gathering[str]:
    """One source (index 0), neighbours from 1 on; everything waits."""
    blocks = BLOCKS[:count]
    made = Gathering([("edge", 2)], Random(1), RetryOptions(**options), blocks=blocks, hint="h")
    for number in range(neighbours):
        made.join(f"neighbour{number}")
    made.add([Want(digest, BLOCK_BYTES) for digest in blocks], "h", 0.0)
    return made


def drawn(scheduler: Gathering[str], source: int, now: float = 0.0) -> Bundle[str]:
    bundle = scheduler.next_bundle(source, now)
    assert isinstance(bundle, Bundle), bundle
    return bundle


def asked(bundle: Bundle[str]) -> list[int]:
    return [BLOCKS.index(want.digest) for want in bundle.wants]


def test_what_was_refused_for_good_is_not_dealt_any_more() -> None:
    """A source that dealt it before all had refused it made the pull fail with a KeyError."""
    some = gathering(4)
    assert isinstance(some.deal(0, 0.0), Deal)
    first = some.next_bundle(0, 0.0)
    assert isinstance(first, Bundle)
    some.dealt(0, [0, 1])
    for want in first.wants:
        some.nacked(first, want.digest, Reason.NOT_FOUND, "", 0.0)
    some.finished(first, 0, 0.1)
    while isinstance(bundle := some.next_bundle(0, 1.0), Bundle):
        assert not set(bundle.wants) & set(first.wants)
        for want in bundle.wants:
            some.nacked(bundle, want.digest, Reason.NOT_FOUND, "", 1.0)
        some.finished(bundle, 0, 0.1)
    assert not some.swarm.had().count(0)


def test_a_neighbour_is_asked_for_what_it_holds_only() -> None:
    some = swarm(8, 1)
    assert some.pick(1, 4) == []
    assert some.heard(1, flags(2, 5)) == 2
    assert some.heard(1, flags(2, 5)) == 0, "nothing new"
    assert set(some.pick(1, 4)) == {BLOCKS[2], BLOCKS[5]}


def test_the_rarest_goes_first() -> None:
    some = swarm(8, 1, 2, 3)
    some.heard(1, flags(0, 1, 2, 3))
    some.heard(2, flags(0, 1, 2))
    some.heard(3, flags(0, 1))
    assert some.pick(1, 2) == [BLOCKS[3], BLOCKS[2]]


def test_equals_are_picked_at_random() -> None:
    """Else all who ask one device get the same from it, and have nothing to give each other."""
    picked = set()
    for seed in range(20):
        some = Swarm(BLOCKS[:8], Random(seed))
        some.join(1)
        some.heard(1, flags(*range(8)))
        for digest in BLOCKS[:8]:
            some.waits(digest)
        picked.add(some.pick(1, 1)[0])
    assert len(picked) > 4


def test_what_is_under_way_is_not_picked_until_it_waits_again() -> None:
    some = swarm(8, 1, 2)
    some.heard(1, flags(3))
    some.heard(2, flags(3))
    assert some.pick(1, 1) == [BLOCKS[3]]
    assert some.pick(2, 1) == []
    some.waits(BLOCKS[3])
    assert some.pick(2, 1) == [BLOCKS[3]]


def test_whoever_left_holds_nothing() -> None:
    some = swarm(2, 1)
    some.heard(1, flags(0, 1, count=2))
    assert not some.rare()
    some.leave(1)
    some.leave(1)
    assert some.rare()
    assert not some.held(BLOCKS[0])


def test_a_deal_is_about_what_neighbours_lack_while_there_is_such() -> None:
    some = swarm(4, 1)
    some.heard(1, flags(0, count=4))
    some.gone(BLOCKS[1])
    assert some.had() == flags(0, 1, count=4)
    some.heard(1, flags(2, 3, count=4))
    assert some.had() == flags(1, count=4), "all are held: any that waits"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(1, 3), st.integers(0, 7)), max_size=80))
def test_a_swarm_counts_as_plain_sets_would(steps) -> None:
    some, waiting, held = swarm(8, waiting=False), set(), {}
    for what, who, index in steps:
        digest = BLOCKS[index]
        if what == 0 and who not in held:
            some.join(who)
            held[who] = set()
        elif what == 1:
            some.leave(who)
            held.pop(who, None)
        elif what == 2 and who in held:
            fresh = {index, (index * 3) % 8}
            assert some.heard(who, flags(*fresh)) == len(fresh - held[who])
            held[who] |= fresh
        elif what == 3 and who in held:
            some.lacks(who, digest)
            held[who].discard(index)
        elif what == 4:
            some.waits(digest)
            waiting.add(index)
        elif what == 5:
            some.gone(digest)
            waiting.discard(index)
        elif who in held:
            could = {BLOCKS[each] for each in held[who] & waiting}
            picked = some.pick(who, 3)
            assert set(picked) <= could
            assert len(picked) == min(3, len(could)), "nothing is lost from sight"
            waiting -= {BLOCKS.index(each) for each in picked}
        assert len(some) == len(held)
        every = set().union(*held.values())
        assert some.rare() == bool(waiting - every)
        assert [some.held(each) for each in BLOCKS[:8]] == [each in every for each in range(8)]


def test_the_source_is_asked_as_it_deals() -> None:
    scheduler = gathering()
    due = scheduler.deal(0, 0.0)
    assert due == Deal(bytes(8), 2)
    assert scheduler.deal(0, 0.0) is True, "the other lane waits for it"
    scheduler.dealt(0, [6, 7])
    assert scheduler.deal(0, 0.0) is False
    assert asked(drawn(scheduler, 0)) == [6, 7]


def test_whoever_is_first_takes_small_portions() -> None:
    """Else the first of many that begin together is dealt most of it, and all wait for its link."""
    scheduler = gathering(64)
    scheduler.sources[0].lane_rate = 1e9
    dealt = []
    for now in (0.0, 3.0, 10.0):
        due = scheduler.deal(0, now)
        assert isinstance(due, Deal)
        dealt.append(due.most)
        scheduler.dealt(0, [len(dealt)])
        bundle = drawn(scheduler, 0, now)
        scheduler.arrived(bundle, bundle.wants[0].digest, now)
        scheduler.finished(bundle, 0, 1.0)
    assert dealt == [4, 4, 64]


def test_what_a_neighbour_that_was_let_go_leaves_is_refused_if_nobody_else_has_it() -> None:
    """It waited for ever: the source had refused it while the neighbour said that it held it."""
    blocks = BLOCKS[:4]
    some: Gathering[str] = Gathering(
        [("edge", 2)], Random(1), RetryOptions(), blocks=blocks, hint="h"
    )
    some.join("neighbour")
    some.heard(1, flags(0, 1, 2, 3, count=4))
    some.add([Want(digest, 4096) for digest in blocks], "h", 0.0)
    of_source = drawn(some, 0)
    for want in of_source.wants:
        assert some.nacked(of_source, want.digest, Reason.NOT_FOUND, "", 0.0) == []
    of_neighbour = drawn(some, 1)
    assert len(of_source.wants) == len(of_neighbour.wants) == 4
    *others, last = (want.digest for want in of_neighbour.wants)
    for digest in others:
        [refusal] = some.nacked(of_neighbour, digest, Reason.NOT_FOUND, "", 0.0)
        assert refusal.want.digest == digest
    assert some.dropped(1)
    [refusal] = some.give_back(of_neighbour, [last], 0.0)
    assert refusal.want.digest == last
    assert not len(some)


def test_of_small_blocks_more_are_asked_for_at_a_time() -> None:
    """Else a model of small tensors takes a round trip for every few of them."""
    blocks = [Digest(number.to_bytes(32, "big")) for number in range(2000)]
    scheduler: Gathering[str] = Gathering(
        [("edge", 2)], Random(1), RetryOptions(), blocks=blocks, hint="h"
    )
    scheduler.join("neighbour")
    scheduler.add([Want(digest, 4096) for digest in blocks], "h", 0.0)
    scheduler.heard(1, b"\1" * 2000)
    due = scheduler.deal(0, 0.0)
    assert isinstance(due, Deal)
    assert due.most == 512
    assert len(drawn(scheduler, 1).wants) == 256


def test_how_many_blocks_are_asked_for_follows_from_all_that_wait() -> None:
    """Catches: it followed from what was added last, where that is smaller by far or larger."""
    blocks = [Digest(number.to_bytes(32, "big")) for number in range(1024)]
    for first, last in ((BLOCK_BYTES, 4096), (4096, BLOCK_BYTES)):
        scheduler: Gathering[str] = Gathering(
            [("edge", 2)], Random(1), RetryOptions(), blocks=blocks, hint="h"
        )
        scheduler.add([Want(digest, first) for digest in blocks[:512]], "h", 0.0, 0)
        scheduler.add([Want(digest, last) for digest in blocks[512:]], "h", 0.0, 1)
        assert scheduler.deal(0, 0.0) == Deal(bytes(1024), 4)


def test_a_source_that_does_not_deal_is_asked_as_ever() -> None:
    scheduler = gathering()
    scheduler.deal(0, 0.0)
    scheduler.dealt(0, None)
    assert scheduler.deal(0, 0.0) is False
    assert asked(drawn(scheduler, 0))


def test_a_source_that_deals_nothing_is_asked_as_ever_once() -> None:
    """Else a failed deal is asked for again without end, and nothing comes."""
    scheduler = gathering()
    scheduler.deal(0, 0.0)
    scheduler.dealt(0, [])
    assert scheduler.deal(0, 0.0) is False
    assert asked(drawn(scheduler, 0))
    assert isinstance(scheduler.deal(0, 0.0), Deal)


def test_a_source_that_never_deals_anything_is_not_asked_to_any_more() -> None:
    scheduler = gathering(64)
    for asked_so_far in range(3):
        assert isinstance(scheduler.deal(0, 0.0), Deal), asked_so_far
        scheduler.dealt(0, [])
        bundle = drawn(scheduler, 0)
        scheduler.finished(bundle, 0, 0.0)
    assert scheduler.deal(0, 0.0) is False


def test_in_company_one_portion_at_a_time_is_asked_of_a_source() -> None:
    scheduler = gathering(8, neighbours=2)
    scheduler.deal(0, 0.0)
    scheduler.dealt(0, [0])
    drawn(scheduler, 0)
    assert scheduler.deal(0, 0.0) is False
    assert scheduler.next_bundle(0, 0.0) is None


def test_one_wrong_block_and_a_neighbour_is_let_go() -> None:
    scheduler = gathering(8, neighbours=1)
    scheduler.heard(1, flags(0, 1))
    bundle = drawn(scheduler, 1)
    assert scheduler.corrupt(bundle, bundle.wants[0].digest, 0.0) == []
    assert scheduler.dropped(1)
    scheduler.finished(bundle, 0, 1.0)
    assert scheduler.next_bundle(1, 1e9) is None
    scheduler.dealt(0, None)
    left = []
    while isinstance(step := scheduler.next_bundle(0, 0.0), Bundle):
        left += asked(step)
    assert sorted(left) == list(range(8)), "what was expected of it is asked of others"


def test_a_neighbour_that_lies_about_having_is_let_go_after_a_few() -> None:
    scheduler = gathering(8, neighbours=1)
    scheduler.heard(1, flags(*range(8)))
    refused = 0
    while isinstance(bundle := scheduler.next_bundle(1, 0.0), Bundle):
        for want in bundle.wants:
            assert scheduler.nacked(bundle, want.digest, Reason.NOT_FOUND, "", 0.0) == []
            refused += 1
        scheduler.finished(bundle, 0, 0.0)
    assert refused == 3
    assert scheduler.dropped(1)
    assert len(scheduler) == 8


def test_a_neighbour_that_fails_is_let_go_at_once() -> None:
    scheduler = gathering(8, neighbours=1)
    scheduler.heard(1, flags(0))
    bundle = drawn(scheduler, 1)
    digests = [want.digest for want in bundle.wants]
    assert scheduler.failed(bundle, digests, SourceError("away"), 0.0) == []
    assert scheduler.dropped(1)
    assert scheduler.swarm.rare()


def test_what_a_neighbour_holds_is_not_refused_though_every_source_is_gone() -> None:
    scheduler = gathering(2, neighbours=1, retry_s=0.0)
    scheduler.dealt(0, None)
    scheduler.heard(1, flags(0, count=2))
    bundle = drawn(scheduler, 0)
    digests = [want.digest for want in bundle.wants]
    refusals = scheduler.failed(bundle, digests, SourceError("down"), 0.0)
    scheduler.finished(bundle, 0, 0.0)
    refused = {refusal.want.digest for refusal in refusals}
    assert BLOCKS[0] not in refused
    assert asked(drawn(scheduler, 1)) == [0]


def test_nobody_waits_for_neighbours_that_wait_for_each_other() -> None:
    """With the edge gone, what no neighbour holds is refused: they may be lacking the same."""
    scheduler = gathering(1, neighbours=1, retry_s=0.0)
    scheduler.dealt(0, None)
    bundle = drawn(scheduler, 0)
    refusals = scheduler.failed(bundle, [BLOCKS[0]], SourceError("down"), 0.0)
    assert [refusal.want.digest for refusal in refusals] == [BLOCKS[0]]


def test_when_the_last_holder_leaves_it_is_refused() -> None:
    scheduler = gathering(1, neighbours=1, retry_s=0.0)
    scheduler.dealt(0, None)
    scheduler.heard(1, flags(0, count=1))
    bundle = drawn(scheduler, 0)
    assert scheduler.failed(bundle, [BLOCKS[0]], SourceError("down"), 0.0) == []
    scheduler.finished(bundle, 0, 0.0)
    refusals = scheduler.drop(1, SourceError("left"), 0.1)
    assert [refusal.want.digest for refusal in refusals] == [BLOCKS[0]]
    assert len(scheduler) == 0
