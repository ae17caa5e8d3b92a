"""Edges that are siblings: what one holds is not fetched from the origin by the other."""

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icnblocks.errors import UsageError
from icnblocks.limits import KIB
from icnblocks.naming import Digest
from icnblocks.testing.exchange import bundle, call, make_model, publish
from icnblocks.testing.lying import Lie, LyingServer, Reply
from icnblocks.testing.processes import poll_until, start_edge
from icnblocks.wire.bundle import HERE_ONLY
from icnblocks.wire.frames import Reason
from icnblocks.wire.havemap import HaveMap, encode_have
from icnblocks_daemon.config import load_config
from icnblocks_daemon.sibling_maps import SiblingMaps
from icnblocks_daemon.siblings import FRESH_S, Siblings
from icnblocks_daemon.strategies import make_strategy

MODEL = make_model("acme/near", size=2_000_000, seed=909)
NAMED = {"name": MODEL.name, "manifest": MODEL.digest}
A, B = "http://a", "http://b"
BLOCKS = [Digest.of(bytes([number])) for number in range(6)]
M = Digest.of(b"model")


# --- what is known of them --------------------------------------------------------------------


def test_each_block_is_looked_for_at_those_who_hold_it():
    siblings = Siblings([A, B, A])
    assert siblings.is_due(M, 0.0)
    siblings.told(M, BLOCKS, {A: b"\1\1\0\0\0\0", B: b"\0\1\1\0\0\0"}, 0.0)
    assert [siblings.holders(M, block) for block in BLOCKS[:4]] == [(A,), (A, B), (B,), ()]
    assert siblings.holders(Digest.of(b"other"), BLOCKS[0]) == ()
    assert siblings.holders(None, BLOCKS[0]) == ()


def test_they_are_asked_again_after_a_while_and_forgotten_what_they_hold_no_more():
    siblings = Siblings([A])
    siblings.told(M, BLOCKS, {A: bytes([1] * 6)}, 0.0)
    assert not siblings.is_due(M, FRESH_S - 0.1)
    assert siblings.is_due(M, FRESH_S)
    siblings.told(M, BLOCKS, {A: b""}, FRESH_S)
    assert siblings.holders(M, BLOCKS[0]) == ()
    assert len(siblings) == 0
    assert not siblings.is_due(M, FRESH_S + 1), "that nobody holds it is an answer too"


def test_without_siblings_nobody_is_ever_asked():
    assert not Siblings().is_due(M, 0.0)


def test_that_nobody_holds_a_model_is_not_remembered_for_ever(monkeypatch):
    monkeypatch.setattr("icnblocks_daemon.siblings.MOST_MODELS", 10)
    siblings = Siblings([A])
    for number in range(20):
        siblings.told(Digest.of(bytes([number, 1])), BLOCKS, {}, 0.0)
    due = [siblings.is_due(Digest.of(bytes([number, 1])), 1.0) for number in range(20)]
    assert due == [True] * 10 + [False] * 10


def test_what_is_known_is_bounded(monkeypatch):
    monkeypatch.setattr("icnblocks_daemon.siblings.MOST_BLOCKS", 10)
    siblings = Siblings([A])
    for number in range(20):
        siblings.told(Digest.of(bytes([number, 1])), BLOCKS, {A: bytes([1] * 6)}, 0.0)
        assert len(siblings) <= 10 + len(BLOCKS)
    assert siblings.holders(Digest.of(bytes([19, 1])), BLOCKS[0]) == (A,)
    assert siblings.holders(Digest.of(bytes([0, 1])), BLOCKS[0]) == ()


def test_a_miss_is_cheap_where_a_faster_sibling_has_it():
    siblings = Siblings([A, B])
    lengths = dict.fromkeys(BLOCKS, 100)
    assert siblings.price(M, lengths, {A: 100.0}, 10.0) == 1.0, "nothing is known of the model"
    siblings.told(M, BLOCKS, {A: b"\1\1\1\0\0\0", B: b"\1\0\0\0\0\0"}, 0.0)
    assert siblings.price(M, lengths, {A: 100.0}, 10.0) == pytest.approx(0.5 + 0.5 * 0.1)
    assert siblings.price(M, lengths, {A: 5.0}, 10.0) == 1.0, "slower than the upstream"
    assert siblings.price(M, lengths, {}, 10.0) == 1.0, "its rate is not known"
    assert siblings.price(M, {}, {A: 100.0}, 10.0) == 1.0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.binary(min_size=6, max_size=6)), max_size=12))
def test_the_count_is_that_of_what_is_held(events):
    siblings, known = Siblings([A]), {}
    for which, data in events:
        flags = bytes(byte & 1 for byte in data)
        siblings.told(Digest.of(bytes([which])), BLOCKS, {A: flags}, 0.0)
        known[which] = sum(flags)
        assert len(siblings) == sum(known.values())


# --- real edges -------------------------------------------------------------------------------


@pytest.fixture
def origin(tmp_path):
    with start_edge(tmp_path / "origin") as origin:
        publish(origin, MODEL)
        yield origin


def edge_of(path, name, origin, *more):
    return start_edge(path / name, "--upstream", origin.url, "--sibling-wait", "20s", *more)


def know(edge):
    reply = call(edge, "GET", f"/v1/manifests/{MODEL.digest}", ICN_Name=str(MODEL.name))
    assert reply.body == MODEL.raw


def came(edge, url):
    return edge.metric("icn_upstream_received_bytes_total", upstream=url)


def wait_for(edge, url, size):
    """Until so much is counted: a block is passed on before it is."""
    poll_until(lambda: came(edge, url) >= size, what=f"{size} bytes came from {url}")


@pytest.mark.parametrize("strategy", ["fail-over", "spread"])
def test_what_a_sibling_holds_is_not_fetched_from_the_origin(origin, tmp_path, strategy):
    with (
        edge_of(tmp_path, "a", origin) as a,
        edge_of(tmp_path, "b", origin, "--sibling", a.url, "--strategy", strategy) as b,
    ):
        know(a)
        assert bundle(a, MODEL.wants, **NAMED)[0] == MODEL.blocks
        know(b)
        assert bundle(b, MODEL.wants, **NAMED)[0] == MODEL.blocks
        # If the sibling was held up, the origin was asked as well for what it looked late with.
        late = b.metric("icn_upstream_hedges_total") * 64 * KIB
        wait_for(b, a.url, MODEL.size - late)
        assert came(b, a.url) <= MODEL.size
        assert origin.metric("icn_sent_bytes_total") <= MODEL.size + late
        shown = {each["url"]: each["sibling"] for each in b.status()["upstreams"]}
        assert shown == {origin.url: False, a.url: True}


def test_what_it_lacks_comes_from_the_origin_and_the_sibling_fetches_nothing(origin, tmp_path):
    with (
        edge_of(tmp_path, "a", origin) as a,
        edge_of(tmp_path, "b", origin, "--sibling", a.url) as b,
    ):
        know(a)
        half = MODEL.wants[:10]
        assert len(bundle(a, half, **NAMED)[0]) == 10
        know(b)
        assert bundle(b, MODEL.wants, **NAMED)[0] == MODEL.blocks
        for edge, url in ((b, a.url), (a, origin.url)):
            wait_for(edge, url, sum(want.length for want in half))
            assert came(edge, url) == sum(want.length for want in half)
        _, refused = bundle(a, MODEL.wants[10:11], hops=HERE_ONLY, name=MODEL.name)
        assert {reason for reason, _ in refused.values()} == {Reason.NOT_FOUND}
        assert a.metric("icn_loops_total") == 0
        assert a.metric("icn_misses_total") == 10, "a sibling's question is no miss"


def test_a_sibling_that_does_not_know_the_model_is_not_made_to_look_for_it(origin, tmp_path):
    with (
        edge_of(tmp_path, "a", origin) as a,
        edge_of(tmp_path, "b", origin, "--sibling", a.url) as b,
    ):
        know(b)
        assert bundle(b, MODEL.wants, **NAMED)[0] == MODEL.blocks
        assert a.metric("icn_manifests") == 0
        wait_for(b, origin.url, MODEL.size)
        assert came(b, origin.url) == MODEL.size


@pytest.mark.parametrize("lie", [Lie.NOT_FOUND, Lie.FLIP, Lie.RESET, None])
def test_a_sibling_that_lies_or_is_gone_costs_nobody_a_block(origin, tmp_path, lie):
    """It says that it holds everything."""
    have = encode_have(HaveMap(bytes([1] * len(MODEL.wants)), fetches=False))
    with (
        LyingServer(MODEL.blocks, lie or Lie.NONE, respond=lambda _: Reply(200, have)) as liar,
        edge_of(tmp_path, "b", origin, "--sibling", liar.url, "--upstream-retry", "30s") as b,
    ):
        know(b)
        if lie is None:
            liar.__exit__(None, None, None)
        assert bundle(b, MODEL.wants, **NAMED)[0] == MODEL.blocks


@pytest.mark.parametrize(
    "flags",
    [
        {"sibling": ("acme=http://a",)},
        {"sibling": ("x",)},
        {"sibling": ("http://o",)},
        {"sibling": ("http://a",), "upstream": ()},
    ],
)
def test_a_wrong_sibling_is_refused_in_one_line(tmp_path, flags):
    with pytest.raises(UsageError, match="sibling") as caught:
        load_config(None, {}, {"store": str(tmp_path), "upstream": ("http://o",), **flags})
    assert "\n" not in str(caught.value)


async def test_what_a_large_model_costs_is_not_computed_on_the_loop(monkeypatch):
    """35,000 blocks took 50 ms of it, for each model that is asked for, every 15 s."""
    told, threads = [], []

    class Policy:
        def priced(self, manifest, factor, now):
            told.append((manifest, factor, threading.current_thread()))

    class Here:
        """The upstream side, holdings and a manifest, as far as they are looked at."""

        urls, strategy, policy = (B,), make_strategy("best"), Policy()
        content = property(lambda self: self)

        def held_by(self, url, manifest, count):
            return bytes([1] * count)

        def lengths(self):
            return dict.fromkeys(BLOCKS, 10)

    here, siblings = Here(), Siblings([A])
    for url, seconds in ((A, 1.0), (B, 4.0)):
        asked = here.strategy.asked(url, 1_000_000, 0.0)
        here.strategy.delivered(asked, seconds)
    price = siblings.price

    def watched(*args):
        threads.append(threading.current_thread())
        return price(*args)

    monkeypatch.setattr(Siblings, "price", lambda _, *args: watched(*args))
    maps = SiblingMaps(siblings, here, here, lambda _: here, wait_s=20.0, clock=lambda: 4.0)
    await maps.look(M)
    await maps.close()
    assert told == [(M, pytest.approx(0.25), threading.main_thread())]
    assert threads != [threading.main_thread()]
