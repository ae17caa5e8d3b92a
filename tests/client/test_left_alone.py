"""Sources that answer 429 to a question about blocks are left alone for as long as they ask."""

import threading
from random import Random

import pytest

from icnblocks.client.answers import ThrottledError
from icnblocks.client.engine import Catalogued
from icnblocks.client.gathering import Deal, Gathering
from icnblocks.client.holders import Holders
from icnblocks.client.neighbourly import NeighbourlyEngine
from icnblocks.client.scheduler import Bundle, RetryOptions
from icnblocks.client.source import Source
from icnblocks.limits import BLOCK_BYTES
from icnblocks.naming import Digest
from icnblocks.testing.lying import LyingServer, Reply
from icnblocks.wire.bundle import Want
from icnblocks.wire.havemap import HaveMap, encode_have
from tests.client.test_sources import HINT, MANIFEST, Keep, blocks_of, fetch


def busy_for_questions(paths, kind):
    """Ask for more rest than anybody waits, at questions of a kind; all else is answered."""

    def respond(request):
        path = request.path.partition("?")[0]
        paths.append(path)
        return Reply(429, b"", {"Retry-After": "3600"}) if path.endswith(kind) else None

    return respond


def test_sources_that_are_too_busy_for_a_have_map_are_asked_for_no_blocks_either():
    """Catches: a bundle at once after the answer that asked for rest."""
    blocks, paths = blocks_of(40), []
    respond = busy_for_questions(paths, "/have")
    with LyingServer(blocks, respond=respond) as one, LyingServer(blocks, respond=respond) as two:
        sink, _ = fetch([one, two], blocks)
    assert set(sink.refused) == set(blocks)
    assert paths == [f"/v1/manifests/{MANIFEST}/have"] * 2


def test_a_source_that_was_too_busy_for_its_have_map_is_asked_for_it_again():
    """Catches: 429 taken for "older than have-maps": then it is asked for all that it lacks."""
    about = Catalogued(MANIFEST, None, [Digest.of(b"held"), Digest.of(b"lacked")])
    holders = Holders(1)
    holders.learn(about)
    assert holders.next(0, 0.0) is about
    assert holders.told(0, MANIFEST, None, busy=True) is None
    assert holders.next(0, 0.0) is False
    holders.not_found(0, MANIFEST, 5.0)
    assert holders.next(0, 5.0) is about
    have = HaveMap(b"\1\0", fetches=False)
    assert holders.told(0, MANIFEST, have) == (about.blocks, about.blocks[1:])


def test_a_busy_source_is_asked_for_its_have_map_again_when_it_lacks_a_block(monkeypatch):
    """Catches: the same, by what is asked of a real server."""
    monkeypatch.setattr("icnblocks.client.holders._AGAIN_S", 0.0)
    blocks, asked = blocks_of(300, 30_000), []  # more than the other one takes on at first
    again = threading.Event()
    nothing = Reply(200, encode_have(HaveMap(bytes(300), fetches=False)))

    def respond(request):
        asked.append(request.path)
        if len(asked) == 1:
            return Reply(429)
        again.set()
        return nothing

    with LyingServer({}, respond=respond) as empty, LyingServer(blocks, waits_for=again) as whole:
        sink, _ = fetch([empty, whole], blocks)
    assert set(sink.order) == set(blocks)
    assert again.is_set()
    assert set(asked) == {f"/v1/manifests/{MANIFEST}/have"}


def test_a_source_that_is_too_busy_to_deal_is_asked_for_no_blocks_either():
    """Catches: the same after a deal."""
    blocks, paths, sink = blocks_of(40), [], Keep()
    about = Catalogued(MANIFEST, None, list(blocks))
    respond = busy_for_questions(paths, "/deal")
    with LyingServer(blocks, respond=respond) as server, Source(server.url) as source:
        with NeighbourlyEngine([source], sink, about, HINT, 1) as engine:
            engine.add([Want(digest, len(block)) for digest, block in blocks.items()], HINT)
            assert engine.wait(30), "did not end"
    assert set(sink.refused) == set(blocks)
    assert paths == [f"/v1/manifests/{MANIFEST}/deal"]


def test_a_source_that_was_too_busy_to_deal_deals_again():
    """Catches: three answers of 429, and the source was never asked to deal again."""
    blocks = [Digest(number.to_bytes(32, "big")) for number in range(64)]
    scheduler, now = (
        Gathering([("edge", 2)], Random(1), RetryOptions(), blocks=blocks, hint=""),
        0.0,
    )
    scheduler.add([Want(digest, BLOCK_BYTES) for digest in blocks], "", now)
    for _ in range(5):
        assert isinstance(scheduler.deal(0, now), Deal)
        assert scheduler.put_off(0, ThrottledError("busy", after_s=30.0), now) == []
        assert scheduler.deal(0, now) is False
        now += 30.0
        assert scheduler.next_bundle(0, now - 1.0) == now
        probe = scheduler.next_bundle(0, now)
        assert isinstance(probe, Bundle)
        for want in probe.wants:
            assert scheduler.arrived(probe, want.digest, now)
        scheduler.finished(probe, probe.got, 0.1)


@pytest.mark.parametrize("after_s", [0.0, 3600.0])
def test_a_source_that_is_always_too_busy_to_deal_is_given_up(after_s: float):
    """Catches: wants that nobody ends, since no bundle ever failed."""
    want, now = Want(Digest.of(b"block"), 1), 0.0
    scheduler = Gathering([("edge", 1)], Random(1), RetryOptions(), blocks=[want.digest], hint="")
    scheduler.add([want], "", now)
    while not (refusals := scheduler.put_off(0, ThrottledError("busy", after_s=after_s), now)):
        now = scheduler.sources[0].retry_at
        assert now <= 600.0
    assert [refusal.want for refusal in refusals] == [want]
