"""Wrong bytes: other sources are asked, and then those that gave them once more, and told so."""

from icnblocks.client.scheduler import Bundle
from icnblocks.errors import CorruptError
from icnblocks.wire.frames import Reason
from tests.client.test_scheduler import DOWN, digests, drawn, make, wants


def test_sources_that_gave_wrong_bytes_are_told_so_once_when_nobody_else_is_left() -> None:
    """What they have may have rotted: without that no pull from them ever ended well again."""
    scheduler = make(1, 1, 1)
    scheduler.add(wants(1), "h", 0.0)
    for source, now in ((0, 0.0), (1, 0.0)):
        bundle = drawn(scheduler, source, now)
        [want] = bundle.wants
        assert scheduler.corrupt(bundle, want.digest, now) == []
        scheduler.finished(bundle, 0, 0)
    bundle = drawn(scheduler, 2)
    assert scheduler.nacked(bundle, want.digest, Reason.NOT_FOUND, "", 0.0) == []
    assert scheduler.next_bundle(2, 100.0) is None, "it has not got it"
    for source in (0, 1):
        bundle = drawn(scheduler, source, 100.0)
        assert bundle.queue.doubt
        refusals = scheduler.corrupt(bundle, want.digest, 100.0)
        scheduler.finished(bundle, 0, 0)
    [refusal] = refusals
    assert isinstance(refusal.error, CorruptError)
    assert not len(scheduler)


def test_a_doubt_of_a_source_that_lacks_the_block_by_now_ends() -> None:
    """Others had doubted it there too, so it was erased, as the source's new map says."""
    scheduler = make(1, 1)
    some = wants(2, 1000)
    known = digests(some)
    scheduler.add(some, "h", 0.0)
    bundle = drawn(scheduler, 0)
    assert bundle.wants == tuple(some)
    scheduler.corrupt(bundle, known[0], 0.0)
    scheduler.nacked(bundle, known[1], Reason.NOT_FOUND, "", 0.0)
    scheduler.finished(bundle, 0, 0)
    assert scheduler.told(0, known, known, 1.0) == []
    bundle = drawn(scheduler, 1)
    assert set(bundle.wants) == set(some)
    ended = scheduler.nacked(bundle, known[1], Reason.NOT_FOUND, "", 1.0)
    ended += scheduler.nacked(bundle, known[0], Reason.NOT_FOUND, "", 1.0)
    scheduler.finished(bundle, 0, 0)
    for source in (0, 1):
        step = scheduler.next_bundle(source, 100.0)
        if isinstance(step, Bundle):
            assert step.queue.doubt
            ended += scheduler.nacked(step, known[0], Reason.NOT_FOUND, "", 100.0)
            scheduler.finished(step, 0, 0)
    assert len(ended) == 2, "nobody is asked, and nobody told"
    assert not len(scheduler)


def test_what_a_source_heard_of_wrong_bytes_upstream_is_doubted_too() -> None:
    scheduler = make(1)
    scheduler.add(wants(1), "h", 0.0)
    bundle = drawn(scheduler, 0)
    [want] = bundle.wants
    assert scheduler.nacked(bundle, want.digest, Reason.CORRUPT, "", 0.0) == []
    scheduler.finished(bundle, 0, 0)
    assert drawn(scheduler, 0, 100.0).queue.doubt


def test_an_edge_hands_on_that_bytes_were_wrong() -> None:
    """Those who wait there doubt; if each edge on the way did, too, they would ask many times."""
    scheduler = make(1, passes_on=True)
    scheduler.add(wants(1), "h", 0.0)
    bundle = drawn(scheduler, 0)
    [refusal] = scheduler.corrupt(bundle, bundle.wants[0].digest, 0.0)
    assert isinstance(refusal.error, CorruptError)


def test_one_corrupt_block_of_the_only_source_does_not_stop_the_rest() -> None:
    scheduler = make(1)
    scheduler.add(wants(20), "h", 0.0)
    bundle = drawn(scheduler, 0)
    doubted = bundle.wants[0]
    assert scheduler.corrupt(bundle, doubted.digest, 0.0) == []
    scheduler.failed(bundle, digests(bundle.wants[1:]), DOWN, 0.0)
    scheduler.finished(bundle, 0, 0)
    assert len(scheduler) == 20
    rest = drawn(scheduler, 0, 10.0)
    while doubted not in rest.wants:
        for want in rest.wants:
            scheduler.arrived(rest, want.digest, 10.0)
        scheduler.finished(rest, 1, 1)
        rest = drawn(scheduler, 0, 10.0)
    assert rest.wants == (doubted,)
    assert len(scheduler) == 1


def test_a_source_that_gives_nothing_but_wrong_bytes_is_not_told_of_each() -> None:
    """Else a model of which all is wrong comes twice, and it takes twice as long to say so."""
    scheduler = make(1)
    scheduler.add(wants(200), "h", 0.0)
    now, came = 0.0, 0
    while len(scheduler):
        step = scheduler.next_bundle(0, now)
        if not isinstance(step, Bundle):
            assert step is not None
            now = max(step, now + 0.001)
            continue
        for want in step.wants:
            came += 1
            scheduler.corrupt(step, want.digest, now)
        scheduler.finished(step, 1, 1.0)
    assert came < 300
