"""The same hits as an implementation by others, where that has the same definition.

libcachesim is not needed for anything but this and benchmarks: without it, this is skipped.
"""

import random

import pytest

from icnblocks.cache.policy import make_policy
from icnblocks.naming import Digest

lcs = pytest.importorskip("libcachesim", reason="the extra `bench` is not installed")


def our_hits(spec, blocks, capacity):
    policy, here, hits = make_policy(spec, capacity), set(), []
    for block in blocks:
        digest = Digest.of(block.to_bytes(4, "big"))
        hits.append(digest in here)
        if digest in here:
            policy.hit(digest, 0.0)
            continue
        if len(here) == capacity:
            victim = next(policy.victims(0.0))
            policy.removed(victim)
            here.remove(victim)
        policy.inserted(digest, 1, 0.0)
        here.add(digest)
    return hits


def their_hits(make, blocks, capacity):
    cache, request, hits = make(cache_size=capacity), lcs.Request(), []
    request.obj_size = 1
    for block in blocks:
        request.obj_id = block
        hits.append(cache.get(request))
    return hits


@pytest.mark.parametrize(("spec", "name"), [("lru", "LRU"), ("sieve", "Sieve")])
@pytest.mark.parametrize("capacity", [10, 100])
def test_the_same_hits_request_for_request(spec, name, capacity):
    """A definition that we, and the model beside our tests, misread."""
    rng = random.Random(capacity)
    weights = [1 / (rank + 1) for rank in range(500)]
    blocks = rng.choices(range(500), weights, k=8000)
    ours = our_hits(spec, blocks, capacity)
    assert ours == their_hits(getattr(lcs, name), blocks, capacity)
    assert 0.1 < sum(ours) / len(ours) < 0.9


@pytest.mark.parametrize(
    ("spec", "name"), [("gdsf", "GDSF"), ("s3fifo", "S3FIFO"), ("wtinylfu", "WTinyLFU")]
)
def test_about_the_same_hit_ratio(spec, name):
    """Their variants differ in details (ties, when the queues count as full, the sketch)."""
    rng = random.Random(7)
    weights = [1 / (rank + 1) for rank in range(2000)]
    blocks = rng.choices(range(2000), weights, k=20_000)
    ours = sum(our_hits(spec, blocks, 200)) / len(blocks)
    theirs = sum(their_hits(getattr(lcs, name), blocks, 200)) / len(blocks)
    assert ours == pytest.approx(theirs, abs=0.015)
