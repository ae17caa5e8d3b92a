"""What a daemon holds: requests counted once a pull, and uploads that come twice."""

import asyncio
import os
import threading

import pytest

from icnblocks.cache.content_store import ContentStore
from icnblocks.cache.policy import make_policy
from icnblocks.errors import StorageError
from icnblocks.manifest.codec import digest_of, encode
from icnblocks.manifest.model import Kind
from icnblocks.naming import Digest
from icnblocks.publish.scan import scan
from icnblocks.store.catalog import Catalog
from icnblocks.store.inplace import InPlaceStore
from icnblocks.store.memory import MemoryStore
from icnblocks.wire.upload import pack_parts
from icnblocks_daemon.holdings import Holdings
from icnblocks_daemon.metrics import Metrics
from icnblocks_daemon.uploads import Uploads


class Counting:
    """The lru policy, which also notes what it is told of requests."""

    def __init__(self):
        self._lru = make_policy("lru")
        self.asked = []

    def __getattr__(self, name):
        return getattr(self._lru, name)

    def requested(self, manifest, now):
        self.asked.append(manifest)


@pytest.fixture
def world(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "a.bin").write_bytes(os.urandom(9000))
    manifest = scan(tmp_path / "model", Kind.PACK).manifest
    policy, digest = Counting(), digest_of(encode(manifest))
    content = ContentStore(MemoryStore(), policy, 1 << 20)
    with InPlaceStore(tmp_path / "p.sqlite") as places, Catalog(tmp_path / "c.sqlite") as catalog:
        recall = {digest: manifest}.get
        holdings = Holdings(content, places, lambda: 1.0, evicts=True, recall=recall)
        yield policy, digest, holdings, catalog
    content.store.close()


async def recalled(holdings):
    """Return when nothing is read again for the policy."""
    while holdings._recalling is not None:
        await asyncio.wait([holdings._recalling])


async def test_a_model_that_the_policy_forgot_is_learnt_again_when_asked_for(world):
    policy, digest, holdings, _ = world
    holdings.requested(digest, b"p" * 16)
    holdings.requested(digest, b"p" * 16)
    holdings.requested(digest, b"q" * 16)
    holdings.requested(Digest.of(b"unknown"), b"r" * 16)
    await recalled(holdings)
    assert policy.asked == [digest, digest]
    holdings.requested(digest, b"s" * 16)
    assert policy.asked == [digest] * 3


async def test_what_the_policy_forgot_is_read_beside_the_loop_once_and_not_without_end(
    world, monkeypatch
):
    """Catches: each pull of a forgotten model, or of one that somebody made up, read and decoded a
    manifest where all others were being answered."""
    policy, digest, holdings, _ = world
    monkeypatch.setattr("icnblocks_daemon.holdings._RECALLS", 3)
    recall, go, read = holdings._recall, threading.Event(), []

    def slow_disk(manifest):
        assert go.wait(20), "the loop waited for it"
        read.append(manifest)
        if manifest == unreadable:
            raise StorageError("the disk refuses")
        return recall(manifest)

    monkeypatch.setattr(holdings, "_recall", slow_disk)
    unreadable, *made_up = (Digest.of(bytes([n])) for n in range(9))
    for manifest in (unreadable, digest, *made_up, digest):
        holdings.requested(manifest, os.urandom(16))
    assert (read, policy.asked) == ([], [])
    go.set()
    await recalled(holdings)
    assert read == [unreadable, digest, made_up[0]]
    assert policy.asked == [digest, digest], "both pulls count"
    holdings.requested(made_up[1], os.urandom(16))
    await recalled(holdings)
    assert read[3:] == [made_up[1]], "there is room again"


async def test_a_part_that_comes_again_holds_no_memory(world):
    _, _, holdings, catalog = world
    uploads = Uploads(holdings, catalog, Metrics(), ttl_s=60, clock=lambda: 1.0)
    data = os.urandom(200_000)
    bodies = list(pack_parts([(Digest.of(data), data)], body_bytes=150_000))
    assert len(bodies) == 2
    assert [await uploads.take(body) for body in bodies] == [0, 1]
    assert await uploads.take(bodies[1]) == 0
    assert uploads.open_parts == 0


async def test_what_is_told_of_many_blocks_is_what_is_here_also_in_place(world, tmp_path):
    """In-place blocks are not looked for where there are none; once there are, they count."""
    _, digest, holdings, _ = world
    found = scan(tmp_path / "model", Kind.PACK)
    (lies,) = found.manifest.lengths()
    stored, absent = Digest.of(b"stored"), Digest.of(b"absent")
    await holdings.put(stored, b"stored")
    assert holdings.held([stored, absent, lies]) == b"\1\0\0"
    holdings.places.add_directory(tmp_path / "model", digest, found.manifest, found.facts)
    assert holdings.held([stored, absent, lies]) == b"\1\0\1"
