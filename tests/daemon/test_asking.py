"""Asking upstreams for records and manifests: what a failure means, and what is kept."""

import asyncio
import threading

import pytest

from icnblocks.client.answers import ThrottledError
from icnblocks.errors import (
    CorruptError,
    ForeignError,
    FormatError,
    IcnError,
    RefusedError,
    SourceError,
    StorageError,
    UntrustedError,
    UsageError,
)
from icnblocks.manifest.model import Manifest
from icnblocks.testing.exchange import make_model
from icnblocks_daemon.config import Config
from icnblocks_daemon.fib import Fib
from icnblocks_daemon.manifests import Manifests
from icnblocks_daemon.metrics import Metrics
from icnblocks_daemon.node import Node
from icnblocks_daemon.questions import NoTurnError
from icnblocks_daemon.strategies import Failure, make_strategy
from icnblocks_daemon.upstreams import Upstreams

US = "http://127.0.0.1:9"
SMALL = [make_model(f"acme/m{number}", size=5000, seed=number) for number in range(4)]
LARGE = [
    make_model(f"acme/m{number}", size=200_000, seed=number, block_bytes=4096) for number in (8, 9)
]
SMALL_BYTES = sum(len(model.raw) for model in SMALL)


@pytest.mark.parametrize(
    ("error", "why", "rest_s"),
    [
        (ThrottledError("later", after_s=30.0), Failure.BUSY, 30.0),
        (CorruptError("other bytes"), Failure.CORRUPT, 8.0),
        (SourceError("gone"), Failure.BROKEN, 1.0),
        (NoTurnError("too many at once"), None, 0.0),
        (UsageError("a header that HTTP forbids"), None, 0.0),
    ],
)
async def test_a_busy_upstream_is_left_alone_as_long_as_it_asked_for(error, why, rest_s, tmp_path):
    """A 429 for a record counted as a broken connection: it was asked again a second later.

    Catches also: it is left alone for a question that it was never asked.
    """
    route, strategy = (("", US),), make_strategy("fail-over")
    upstreams = Upstreams(
        Config(store=tmp_path, upstream=route), Fib(route), strategy, Metrics(),
        node_id="0" * 16, clock=lambda: 5.0,
    )  # fmt: skip

    def refuse(source):
        raise error

    async def keep(answer):
        return answer

    with pytest.raises(IcnError):
        await upstreams._ask((US,), "record", refuse, keep)
    standing = strategy.standing(US)
    assert (standing.why, standing.resting(5.0)) == (why, rest_s)
    await upstreams.close()


@pytest.mark.parametrize(("after_s", "again_s"), [(0.0, 1.0), (30.0, 30.0), (3600.0, 60.0)])
async def test_what_a_busy_upstream_was_asked_for_is_not_asked_before_it_said(
    tmp_path, after_s, again_s
):
    """Catches: devices come back every second, and each had the edge ask an upstream that wants to
    be left alone for half a minute, as there was no other one."""
    route, now, asked = (("", US),), [5.0], []
    upstreams = Upstreams(
        Config(store=tmp_path, upstream=route), Fib(route), make_strategy("fail-over"), Metrics(),
        node_id="0" * 16, clock=lambda: now[0],
    )  # fmt: skip

    def refuse(source):
        asked.append(now[0])
        raise ThrottledError("later", after_s=after_s)

    async def ask(what):
        with pytest.raises(ThrottledError) as caught:
            await upstreams._ask((US,), what, refuse, None)
        assert caught.value.after_s == after_s

    await ask("record")
    now[0] += again_s - 0.5
    await ask("record")
    assert asked == [5.0]
    await ask("another record")
    assert asked == [5.0, now[0]], "of that it has not said anything"
    now[0] += 0.5
    await ask("record")
    assert asked[2:] == [now[0]]
    await upstreams.close()


@pytest.mark.parametrize("error", [UntrustedError, ForeignError, FormatError, RefusedError])
async def test_what_an_upstream_does_wrong_is_no_mistake_of_who_asked_here(tmp_path, error):
    """Catches: a device is told which of its settings to change, for those of the edge."""
    route = (("", US),)
    upstreams = Upstreams(
        Config(store=tmp_path, upstream=route), Fib(route), make_strategy("fail-over"), Metrics(),
        node_id="0" * 16, clock=lambda: 5.0,
    )  # fmt: skip

    def refuse(source):
        raise error("what it says", hint="change a setting of yours")

    with pytest.raises(SourceError, match="what it says") as caught:
        await upstreams._ask((US,), "record", refuse, None)
    assert type(caught.value) is SourceError
    assert "the operator of this daemon" in caught.value.hint
    await upstreams.close()


class Catalog:
    """Keeps nothing, and notes what is removed, where that is not refused."""

    def __init__(self, *, full=False):
        self.full = full
        self.removed = []

    def manifests(self):
        return ()

    def manifest(self, digest):
        return None

    def put_manifest(self, digest, data):
        pass

    def remove_manifest(self, digest):
        if self.full:
            raise StorageError("disk full")
        self.removed.append(digest)


class World:
    """An upstream that has all models, and room for the manifests of the small ones."""

    evicts, content = True, property(lambda self: self)

    def __init__(self, catalog):
        self.catalog = catalog
        self.manifests = Manifests(catalog, self, None, Fib([("", US)]), self, capacity=SMALL_BYTES)

    def learn(self, digest, manifest, lengths):
        pass

    def forget(self, digest):
        pass

    def refuse_loop(self, via, what):
        pass

    async def manifest(self, route, digest, name, via):
        return next(model.raw for model in SMALL + LARGE if model.digest == digest)

    async def get(self, *models):
        got = await asyncio.gather(*(self.manifests.get(model.digest, None) for model in models))
        assert got == [model.raw for model in models]


async def test_manifests_that_come_at_once_let_each_old_one_go_once():
    """Two that made room at the same time let the same one go: the second was an error 500."""
    world = World(Catalog())
    await world.get(*SMALL)
    await world.get(*LARGE)
    assert not any(model.digest in world.manifests for model in SMALL)
    assert len(world.catalog.removed) == len(set(world.catalog.removed))
    kept = [len(model.raw) for model in LARGE if model.digest in world.manifests]
    assert world.manifests.cached_bytes == sum(kept)


async def test_a_manifest_is_passed_on_though_an_old_one_cannot_be_removed():
    world = World(Catalog(full=True))
    await world.get(*SMALL)
    await world.get(*LARGE)


async def test_the_blocks_of_a_manifest_are_not_counted_on_the_event_loop(tmp_path, monkeypatch):
    """Catches: every request waits for a tenth of a second when a large model becomes known."""
    model, threads, lengths = SMALL[0], [], Manifest.lengths

    def counted(manifest):
        threads.append(threading.get_ident())
        return lengths(manifest)

    monkeypatch.setattr(Manifest, "lengths", counted)
    node = Node(Config(store=tmp_path, upstream=(("far", US),), capacity=1 << 24))
    await node.manifests.put(model.digest, model.raw)
    assert node.holdings.content.requested(model.digest, 0.0), "the policy knows it"
    assert len(threads) == 1
    assert threading.get_ident() not in threads
    await node.close()
