"""What a client will ask for next is fetched meanwhile: bounded, once, and given up in time."""

import asyncio

import pytest

from icnblocks.client.settings import load_settings
from icnblocks.client.source import Source
from icnblocks.client.trust import KnownPublishers, Trust
from icnblocks.limits import MIB
from icnblocks.naming import Digest
from icnblocks.puller import Puller
from icnblocks.testing.exchange import bundle, call, make_model, publish
from icnblocks.testing.processes import poll_until, start_edge
from icnblocks.wire.bundle import HERE_ONLY
from icnblocks.wire.frames import Reason
from icnblocks_daemon import heralds
from icnblocks_daemon.heralds import AHEAD_BYTES, Heralds
from icnblocks_daemon.interests import Hint

EXPECTS = {"ICN_Expect": "blocks"}
RECEIVED = "icn_upstream_received_bytes_total"
MODEL = Digest.of(b"a manifest")


def get_manifest(edge, model, **headers):
    path = f"/v1/manifests/{model.digest}"
    assert call(edge, "GET", path, ICN_Name=str(model.name), **headers).body == model.raw


def test_the_first_blocks_come_before_they_are_asked_for_and_none_comes_twice(
    fresh_origin, tmp_path
):
    model = make_model("acme/expected", size=12 * MIB, seed=1, block_bytes=MIB)
    publish(fresh_origin, model)
    with start_edge(tmp_path / "edge", "--upstream", fresh_origin.url) as edge:
        get_manifest(edge, model, **EXPECTS)
        poll_until(lambda: edge.metric(RECEIVED) == AHEAD_BYTES)
        assert edge.metric("icn_misses_total") == 0, "no client asked for a block yet"
        assert bundle(edge, model.wants, name=model.name, manifest=model.digest)[0] == model.blocks
        assert fresh_origin.metric("icn_sent_bytes_total") == model.size
        get_manifest(edge, model, **EXPECTS)  # it is known here now
        assert fresh_origin.metric("icn_sent_bytes_total") == model.size


@pytest.mark.parametrize(
    ("headers", "options"),
    [
        ({}, ()),
        ({"ICN_Expect": "nothing"}, ()),
        (EXPECTS, ("--pit", "false")),
        (EXPECTS, ("--sibling", "http://127.0.0.1:9")),
    ],
)
def test_nothing_is_fetched_ahead_of_who_did_not_say_so_or_where_it_might_come_twice(
    published, model, tmp_path, headers, options
):
    with start_edge(tmp_path / "edge", "--upstream", published.url, *options) as edge:
        get_manifest(edge, model, **headers)
        _, refused = bundle(edge, model.wants, hops=HERE_ONLY)
        assert {reason for reason, _ in refused.values()} == {Reason.NOT_FOUND}
        assert edge.metric("icn_pit_waiters") == edge.metric(RECEIVED) == 0


def test_a_device_says_so_before_its_first_model_and_not_where_blocks_may_be_there(
    fresh, fresh_edge, model, tmp_path, monkeypatch
):
    other = make_model("acme/other", seed=7)
    publish(fresh, other)
    said, ask = [], Source.manifest

    def listened(self, digest, *, headers=None):
        said.append(headers)
        return ask(self, digest, headers=headers)

    monkeypatch.setattr(Source, "manifest", listened)
    keys = ("models", "store", "keys", "known_publishers")
    settings = load_settings(
        {f"ICN_{key.upper()}": str(tmp_path / "device" / key) for key in keys}
        | {"ICN_FROM": fresh_edge.url}
    )
    trust = Trust(KnownPublishers(settings.known_publishers), first_use=True)
    with Puller(settings, trust) as puller:
        for each in (model, other):
            assert puller.pull(each.name).bytes_network == each.size
    assert said == [
        {"ICN-Name": str(model.name), "ICN-Expect": "blocks"},
        {"ICN-Name": str(other.name)},
    ]
    assert fresh.metric("icn_sent_bytes_total") == model.size + other.size, "each block once"


class Asked:
    """A forwarder that notes what is wanted, and who leaves."""

    def __init__(self):
        self.wanted, self.left = [], []

    def want(self, waiter, want, hint, *, counted):
        assert not counted
        self.wanted.append((waiter, want, hint))

    def leave(self, waiter, digest):
        self.left.append(digest)


def lengths(count, length=MIB):
    return {Digest.of(b"%d" % number): length for number in range(count)}


async def test_what_does_not_come_is_given_up_after_a_while(monkeypatch):
    monkeypatch.setattr(heralds, "PATIENCE_S", 0.0)
    asked, blocks = Asked(), lengths(3)
    ahead = Heralds(asked, lambda _: False)
    with ahead.expecting(MODEL, Hint(manifest=MODEL)):
        ahead.fetched(MODEL, blocks)
    first, second, third = blocks
    asked.wanted[0][0].landed(first)
    asked.wanted[1][0].refused(second, Reason.NOT_FOUND, "nobody has it")
    assert not asked.left
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert asked.left == [third], "of what came or was refused there is nothing to leave"
    assert not len(ahead)


async def test_it_is_bounded_for_each_model_and_in_how_many_there_are():
    asked = Asked()
    here = next(iter(lengths(1)))
    ahead = Heralds(asked, lambda digest: digest == here)
    with ahead.expecting(MODEL, Hint(manifest=MODEL)):
        pass  # it was here, or could not be had
    ahead.fetched(MODEL, lengths(99))
    assert not asked.wanted, "nobody expects anything of it by now"
    for number in range(40):
        model = Digest.of(b"model %d" % number)
        with ahead.expecting(model, Hint(manifest=model)):
            ahead.fetched(model, lengths(99))
    assert len(ahead) == 16
    assert len(asked.wanted) == 16 * (AHEAD_BYTES // MIB - 1), "the first is here"
    with ahead.expecting(MODEL, Hint(manifest=MODEL)):
        ahead.close()
        ahead.fetched(MODEL, lengths(99))
    assert len(ahead) == 0
    assert len(asked.left) == len(asked.wanted)
