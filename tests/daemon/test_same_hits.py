"""The daemon and the replay of traces decide the same: request for request, hit for hit.

Real daemons on real sockets with real bytes; an edge with an injected clock, before an origin. The
client is serial and does what a request means in a replay (docs/traces.md): it asks for what is
here, then for what is missing, in the order of the manifest. `bundle_window = 1` lets the edge
bring one block at a time, as a replay does. The disk keeps whole pages, so the replay is given the
sizes that blocks have there.
"""

import asyncio
import http.client
import itertools
import random
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
from aiohttp import web

from icnblocks.cache.replay.lines import read_trace
from icnblocks.cache.replay.replay import Replay
from icnblocks.cache.replay.trace import TraceBuilder
from icnblocks.manifest.cutting import CutFile, build_manifest, cut_runs
from icnblocks.manifest.model import Kind
from icnblocks.naming import Digest, Name
from icnblocks.store.segments import footprint
from icnblocks.testing.exchange import Model, decode_answer, publish
from icnblocks.wire.bundle import BundleRequest, Want, encode_request, pack_wants, unpack_indexes
from icnblocks_daemon.config import Config
from icnblocks_daemon.http.app import make_app
from icnblocks_daemon.node import Node

KIB = 1024


class Clock:
    """Goes only when told."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@asynccontextmanager
async def served(config, clock):
    """A node and its HTTP face in this process."""
    node = Node(config, clock=clock, wall=clock)
    runner = web.AppRunner(make_app(node), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield node, runner.addresses[0][1]
    finally:
        await runner.cleanup()
        await node.close()


def library(seed, bases=4, models=40):
    """Bases, and models of a part of a base and a few blocks of their own; each block a file."""
    rng = random.Random(seed)
    stems = [[rng.randbytes(rng.randint(4, 64) * KIB - rng.choice((0, 5))) for _ in range(10)]
             for _ in range(bases)]  # fmt: skip
    made = []
    for number in range(models):
        stem = stems[number % bases]
        blocks = stem if number < bases else [
            *stem[: rng.randint(3, 10)],
            *(rng.randbytes(rng.randint(4, 64) * KIB) for _ in range(rng.randint(1, 4))),
        ]  # fmt: skip
        made.append(pack(f"acme/model{number}", blocks))
    return made


def pack(name, blocks):
    cuts = []
    for number, data in enumerate(blocks):
        path, size = f"{number:03}.bin", len(data)
        cuts.append(CutFile(path, size, cut_runs(path, size, None), bytes(Digest.of(data))))
    manifest = build_manifest(Kind.PACK, cuts)
    return Model(Name.parse(name), {Digest.of(data): data for data in blocks}, manifest)


def demand(seed, models, requests):
    """Zipf with a ranking that drifts, and gaps of whole seconds."""
    rng = random.Random(seed)
    ranked = rng.sample(models, len(models))
    weights = [1 / (rank + 1) ** 0.9 for rank in range(len(models))]
    now = 1000.0
    for _ in range(requests):
        now += rng.choice((0, 1, 5, 60))
        if rng.random() < 0.05:
            ranked.insert(0, ranked.pop(rng.randrange(len(ranked))))
        yield now, rng.choices(ranked, weights)[0]


class Client:
    """Serial, on one connection; asks for a model as a replay does."""

    def __init__(self, port):
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        self._pulls = itertools.count(1)

    def _call(self, method, path, body=None):
        self._connection.request(method, path, body)
        answer = self._connection.getresponse()
        data = answer.read()
        assert answer.status == 200, data
        return data

    def pull(self, model):
        """Pull it and compare every byte; returns the wants that were missing at the edge."""
        pull = next(self._pulls).to_bytes(16)
        self._call("GET", f"/v1/manifests/{model.digest}")
        order = tuple(Want(digest, size) for digest, size in model.manifest.lengths().items())
        answer = self._call("POST", "/v1/missing", pack_wants(order))
        missing = set(unpack_indexes(answer, len(order)))
        here = tuple(want for index, want in enumerate(order) if index not in missing)
        lacking = tuple(want for index, want in enumerate(order) if index in missing)
        for wants in filter(None, (here, lacking)):
            request = BundleRequest(wants, model.name, model.digest, pull=pull)
            got, _ = decode_answer(
                wants, self._call("POST", "/v1/bundles", encode_request(request))
            )
            assert got == {want.digest: model.blocks[want.digest] for want in wants}
        return lacking

    def close(self):
        self._connection.close()


async def lived(tmp_path, policy, capacity, models, asked):
    """Bytes that were missing, for each request, at a real edge before a real origin."""
    clock, missed = Clock(), []
    origin = Config(store=tmp_path / "origin")
    async with served(origin, clock) as (_, origin_port):
        for model in models:
            await asyncio.to_thread(publish, SimpleNamespace(port=origin_port), model, record=False)
        edge = Config(
            store=tmp_path / "edge", upstream=(("", f"http://127.0.0.1:{origin_port}"),),
            capacity=capacity, policy=policy, trace=tmp_path / "trace", bundle_window=1,
        )  # fmt: skip
        async with served(edge, clock) as (node, port):
            client = Client(port)
            for now, model in asked:
                clock.now = now
                lacking = await asyncio.to_thread(client.pull, model)
                missed.append(sum(footprint(want.length) for want in lacking))
                node.plans.look()
                while node.plans._task is not None:
                    await asyncio.wait([node.plans._task])
            client.close()
            plans = node.plans.made
    return missed, plans


def on_disk(trace):
    """The same trace, with the sizes that blocks have on disk."""
    builder = TraceBuilder()
    told = set()
    for now, wanted in zip(trace.times, trace.wanted, strict=True):
        model = trace.models[wanted]
        if wanted not in told:
            told.add(wanted)
            lengths = trace.lengths_of(model)
            builder.model(model.name, [(str(d), footprint(n)) for d, n in lengths.items()])
        builder.get(now, model.name)
    return builder.build()


def made_trace(models, asked):
    builder = TraceBuilder()
    for now, model in asked:
        blocks = [(str(digest), size) for digest, size in model.manifest.lengths().items()]
        builder.model(str(model.digest), blocks)
        builder.get(now, str(model.digest))
    return builder.build()


def replayed(trace, policy, capacity):
    """Bytes that were missing, for each request, in the replay."""
    replay = Replay(on_disk(trace), policy, capacity)
    replay.run()
    return list(replay._missing)


async def check(tmp_path, policy, *, share=0.2, requests=150, models=40):
    made = library(1, models=models)
    asked = list(demand(2, made, requests))
    whole = {want.digest: footprint(want.length) for model in made for want in model.wants}
    capacity = int(sum(whole.values()) * share)
    missed, plans = await lived(tmp_path, policy, capacity, made, asked)
    assert 0 < missed.count(0) < requests
    assert replayed(read_trace(str(tmp_path / "trace")), policy, capacity) == missed
    assert replayed(made_trace(made, asked), policy, capacity) == missed
    return plans


@pytest.mark.parametrize("policy", ["sieve", "sharing:plan_requests=20"])
async def test_the_same_hits_to_the_request(tmp_path, policy):
    plans = await check(tmp_path, policy, requests=100)
    assert (plans > 5) == ("sharing" in policy)


POLICIES = [
    "lru", "lfu", "gdsf", "sieve", "s3fifo", "wtinylfu", "score",
    *(f"sharing:objective={objective}" for objective in ("time", "hits", "bytes", "0.5")),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("share", [0.1, 0.3])
async def test_the_same_hits_over_many_requests(tmp_path, policy, share):
    await check(tmp_path, policy, share=share, requests=600)
