"""Who announced what, and which blocks devices are dealt: bounded, forgotten in time, distinct."""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request
from random import Random
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icnblocks.client.endpoint import is_loopback
from icnblocks.client.neighbours import NoNeighboursError, announce, deal, withdraw
from icnblocks.client.source import Source
from icnblocks.naming import Digest, Name
from icnblocks.testing.device import Device
from icnblocks.testing.processes import start_edge
from icnblocks.wire.havemap import HaveMap, encode_have
from icnblocks_daemon.http.neighbours import NeighbourFace
from icnblocks_daemon.metrics import Metrics
from icnblocks_daemon.neighbours import Deals, Neighbour, Neighbours

A, B = Digest(b"a" * 32), Digest(b"b" * 32)
STRANGER = Neighbour("10.0.9.9", 1)


def here(port: int, address: str = "10.0.0.1") -> Neighbour:
    return Neighbour(address, port)


def registry(**options: float) -> Neighbours:
    return Neighbours(Random(1), **options)


def test_whoever_announced_is_told_of_until_it_is_forgotten() -> None:
    known = registry(ttl_s=60.0)
    assert known.announce(A, here(1), 0.0)
    assert known.announce(A, here(2), 30.0)
    assert set(known.some(A, 59.0, STRANGER)) == {here(1), here(2)}
    assert known.some(A, 59.0, but=here(2)) == [here(1)]
    assert known.some(A, 60.0, STRANGER) == [here(2)]
    assert known.some(B, 0.0, STRANGER) == []


def test_an_announcement_repeated_holds_longer() -> None:
    """Else one that came first is forgotten although it says that it is there."""
    known = registry(ttl_s=60.0)
    known.announce(A, here(1), 0.0)
    known.announce(A, here(2), 1.0)
    known.announce(A, here(1), 50.0)
    assert known.some(A, 100.0, STRANGER) == [here(1)]
    assert known.holding(100.0) == 1


def test_who_is_at_a_loopback_address_is_not_told_of_elsewhere() -> None:
    """There it would be whoever hears of it, or nobody, tried again and again."""
    known = registry()
    for who in (
        here(1, "127.0.0.1"),
        here(2, "::1"),
        here(5, "::ffff:127.0.0.1"),
        here(3, "10.0.0.2"),
    ):
        known.announce(A, who, 0.0)
    assert known.some(A, 0.0, but=here(4, "10.0.0.3")) == [here(3, "10.0.0.2")]
    assert len(known.some(A, 0.0, but=here(4, "127.0.0.1"))) == 4


def test_a_device_is_told_of_others_without_a_look_at_every_one() -> None:
    """Catches: the daemon stood still for a tenth of a second at each announcement, where 20,000
    devices share a model: whether an address is loopback is remembered for 4,096."""
    known = registry()
    for number in range(5000):
        known.announce(A, here(1, f"10.1.{number >> 8}.{number & 255}"), 0.0)
    before = is_loopback.cache_info()
    assert len(known.some(A, 1.0, STRANGER)) == 8
    after = is_loopback.cache_info()
    assert after.hits + after.misses - before.hits - before.misses < 10


def test_whoever_leaves_is_not_told_of() -> None:
    known = registry()
    known.announce(A, here(1), 0.0)
    known.leave(A, here(1))
    known.leave(A, here(1))
    known.leave(B, here(9))
    assert known.some(A, 0.0, STRANGER) == []
    assert known.holding(0.0) == 0


def test_a_short_list_at_random() -> None:
    known = registry()
    for port in range(1, 101):
        known.announce(A, here(port), 0.0)
    lists = [tuple(known.some(A, 0.0, but=here(1))) for _ in range(20)]
    assert all(len(set(some)) == 8 and here(1) not in some for some in lists)
    assert len(set(lists)) > 1


def test_one_address_cannot_fill_a_list() -> None:
    """A device that announces a hundred ports must not be all that others hear of."""
    known = registry()
    honest = [here(1, f"10.0.1.{number}") for number in range(1, 6)]
    for port in range(1, 101):
        known.announce(A, here(port, "10.0.0.66"), 0.0)
    for who in honest:
        known.announce(A, who, 0.0)
    for _ in range(20):
        told = known.some(A, 0.0, but=here(1, "10.0.2.1"))
        assert len(told) == 8
        assert set(honest) < set(told)


def test_one_address_cannot_fill_the_registry() -> None:
    """A client that announces a thousand ports must not push others out."""
    known = registry(most=10, most_each=4)
    taken = [known.announce(A, here(port), 0.0) for port in range(1, 8)]
    assert taken == [True] * 4 + [False] * 3
    assert known.announce(A, here(4), 1.0), "what is known already is renewed"
    assert known.announce(A, here(1, "10.0.0.2"), 0.0)


def test_the_registry_is_bounded_and_room_comes_with_time() -> None:
    known = registry(most=3, ttl_s=10.0)
    for port in range(1, 4):
        assert known.announce(A, here(port, f"10.0.0.{port}"), 0.0)
    assert not known.announce(B, here(9, "10.0.0.9"), 5.0)
    assert known.announce(B, here(9, "10.0.0.9"), 10.0)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from("al"), st.sampled_from([A, B]), st.integers(1, 6), st.integers(0, 20)
        ),
        max_size=60,
    )
)
def test_the_registry_is_as_a_plain_dict_would_be(steps) -> None:
    known, model, now = registry(ttl_s=30.0, most=8, most_each=5), {}, 0.0
    for what, manifest, port, later in steps:
        now += later
        model = {key: until for key, until in model.items() if until > now}
        who = here(port, f"10.0.0.{port % 2}")
        if what == "l":
            known.leave(manifest, who)
            model.pop((manifest, who), None)
        else:
            each = sum(other.address == who.address for _, other in model)
            room = (manifest, who) in model or (len(model) < 8 and each < 5)
            assert known.announce(manifest, who, now) == room
            if room:
                model[manifest, who] = now + 30.0
        for one in (A, B):
            assert set(known.some(one, now, STRANGER)) == {who for man, who in model if man == one}
        assert known.holding(now) == len(model)


def test_every_block_is_dealt_once_before_one_is_dealt_again() -> None:
    """Else devices that begin together all ask for the same blocks."""
    deals = Deals(Random(1))
    deals.learn(A, 100)
    nothing = bytes(100)
    dealt = [index for _ in range(25) for index in deals.deal(A, nothing, 4)]
    assert sorted(dealt) == list(range(100))
    assert len(deals.deal(A, nothing, 4)) == 4, "a new round"


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 40),
    st.lists(st.tuples(st.binary(min_size=40, max_size=40), st.integers(1, 9)), max_size=20),
)
def test_what_a_device_has_is_not_dealt_to_it(count, asked) -> None:
    deals = Deals(Random(1))
    deals.learn(A, count)
    for noise, most in asked:
        had = bytes(byte & 1 for byte in noise[:count])
        found = deals.deal(A, had, most)
        assert len(found) <= most
        assert not any(had[index] for index in found)
        assert found == sorted(set(found)), "as the wire has it: ascending, none twice"
        assert bool(found) == (0 in had), "whoever lacks something is dealt something"


def test_what_was_dealt_and_never_fetched_is_dealt_again() -> None:
    """A device that was dealt the last blocks and left must not be the only one to ask for them."""
    deals = Deals(Random(1))
    deals.learn(A, 10)
    deals.deal(A, bytes(10), 9)
    had = bytes([1] * 9 + [0])
    assert deals.deal(A, had, 4) == [9]
    assert deals.deal(A, had, 4) == [9]


def test_models_that_were_not_asked_for_make_room() -> None:
    deals = Deals(Random(1), most_blocks=10_000)
    deals.learn(A, 6000)
    deals.learn(B, 6000)
    assert (deals.count(A), deals.count(B)) == (None, 6000)


def test_what_is_too_large_to_be_dealt_is_known_all_the_same() -> None:
    """Else its manifest is decoded anew for each who asks."""
    deals = Deals(Random(1), most_each=100)
    deals.learn(A, 101)
    assert deals.count(A) == 101
    assert deals.deal(A, bytes(101), 4) == []


async def test_a_model_is_counted_once_for_all_who_begin_together(monkeypatch) -> None:
    """Catches: a large manifest, decoded by each of them at the same time."""
    counted = []

    def count(manifest):
        counted.append(manifest)
        return SimpleNamespace(lengths=lambda: {A: 1, B: 1})

    async def get(_digest, _hint):
        return b"manifest"

    monkeypatch.setattr("icnblocks_daemon.http.neighbours.decode", count)
    node = SimpleNamespace(manifests=SimpleNamespace(get=get), metrics=Metrics())
    face = NeighbourFace(node)
    assert await asyncio.gather(*(face._learn(A, None) for _ in range(5))) == [2] * 5
    assert len(counted) == 1


# Over HTTP, with a real daemon.


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """An origin with a model of 5 blocks; its manifest."""
    root = tmp_path_factory.mktemp("neighbours")
    (root / "model").mkdir()
    (root / "model" / "weights.bin").write_bytes(Random(1).randbytes(5 << 20))
    store = root / "store"
    told = Device(root / "publisher").run(
        "publish", root / "model", "acme/model", "--kind", "pack", "--store", store
    )
    return store, Digest.parse(told.done()["manifest"])


@pytest.fixture(scope="module")
def edge(model):
    with start_edge(model[0]) as daemon:
        yield daemon


NAME = Name.parse("acme/model")


def test_devices_are_told_of_each_other_under_the_address_they_come_from(model, edge) -> None:
    with Source(edge.url) as source:
        connection = source.connect()
        assert announce(connection, model[1], NAME, 5001) == ([], 60.0)
        assert announce(connection, model[1], NAME, 5002)[0] == ["http://127.0.0.1:5001"]
        withdraw(connection, model[1], 5001)
        assert announce(connection, model[1], NAME, 5002)[0] == []
        connection.drop()
    assert edge.metric("icn_neighbours") == 1
    assert edge.metric("icn_neighbours_told_total") == 1


def test_devices_are_dealt_different_blocks(model, edge) -> None:
    with Source(edge.url) as source:
        connection = source.connect()
        dealt = [deal(connection, model[1], NAME, bytes(5), 1) for _ in range(5)]
        assert sorted(dealt) == [[0], [1], [2], [3], [4]]
        connection.drop()
    assert edge.metric("icn_dealt_blocks_total") == 5


def asked(edge, path: str, body: bytes | None, **headers: str) -> int:
    request = urllib.request.Request(f"{edge.url}{path}", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_what_is_no_announcement_is_refused(model, edge) -> None:
    path = f"/v1/manifests/{model[1]}/neighbours"
    assert asked(edge, path, b'{"port": 5001}') == 200
    for body in (b"", b"[]", b"{}", b'{"port": "5001"}', b'{"port": 0}', b'{"port": 65536}'):
        assert asked(edge, path, body) == 400
    assert asked(edge, path, b'{"port": true}') == 400
    assert asked(edge, f"/v1/manifests/{A}/neighbours", b'{"port": 5001}') == 404
    had = encode_have(HaveMap(bytes(5), fetches=False))
    for most in ("0", "1025", "000000001999999", "9" * 5000):
        assert asked(edge, f"/v1/manifests/{model[1]}/deal?most={most}", had) == 400


def test_nobody_is_told_of_devices_without_an_announcement_of_his_own(model, edge) -> None:
    """Catches: whoever asked from elsewhere was told of devices at loopback addresses."""
    assert asked(edge, f"/v1/manifests/{model[1]}/neighbours", None) == 405


def test_a_proxy_is_not_taken_for_a_device(model, edge) -> None:
    """Its address would be told to all devices, which would find nobody there."""
    path = f"/v1/manifests/{model[1]}/neighbours"
    assert asked(edge, path, b'{"port": 5001}', **{"X-Forwarded-For": "10.0.0.7"}) == 403


def test_a_daemon_that_shall_not_tell_does_not(model, edge, tmp_path) -> None:
    options = ("--upstream", edge.url, "--neighbours", "false")
    with start_edge(tmp_path / "silent", *options) as silent, Source(silent.url) as source:
        connection = source.connect()
        with pytest.raises(NoNeighboursError):
            announce(connection, model[1], NAME, 5001)
        assert deal(connection, model[1], NAME, bytes(5), 1) is None
        connection.drop()


def test_an_edge_that_has_nothing_yet_tells_of_neighbours_too(model, edge, tmp_path) -> None:
    """All devices of a cold edge begin before it has any of the model."""
    with (
        start_edge(tmp_path / "cold", "--upstream", edge.url) as cold,
        Source(cold.url) as source,
    ):
        connection = source.connect()
        assert announce(connection, model[1], NAME, 5001)[0] == []
        assert len(deal(connection, model[1], NAME, bytes(5), 3) or ()) == 3
        connection.drop()
