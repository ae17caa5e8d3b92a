"""What it costs to tell a policy of a large model, which a daemon does between answers."""

import sys
from contextlib import contextmanager

import pytest

from icnblocks.cache.content_store import ContentStore
from icnblocks.cache.policy import make_policy
from icnblocks.naming import Digest
from icnblocks.store.base import verify
from icnblocks.store.memory import MemoryStore

BLOCKS = 2000
A, B = Digest(b"a" * 32), Digest(b"b" * 32)


def lengths(first):
    return {Digest.of(b"%d" % n): 4096 + n % 2 for n in range(first, first + BLOCKS)}


@contextmanager
def counted_calls():
    """How many functions of Python are called, in a list of one."""
    calls = [0]

    def count(_frame, event, _argument):
        calls[0] += event == "call"

    sys.setprofile(count)
    try:
        yield calls
    finally:
        sys.setprofile(None)


def test_no_function_is_called_for_each_block():
    """Catches: an answer waits for a tenth of a second while a model of 35,000 blocks is learnt."""
    content = ContentStore(MemoryStore(), make_policy("sharing", 1 << 40), 1 << 40)
    first, second = lengths(0), lengths(BLOCKS)
    with counted_calls() as calls:
        content.learn_blocks(A, first, None)
        content.forget(A)
        content.learn_blocks(B, second, None)
    assert 0 < calls[0] < BLOCKS // 4


def test_slots_that_are_used_again_are_those_of_other_blocks():
    """A model that takes the place of a smaller one: old slots first, then new ones."""
    policy = make_policy("sharing", 1 << 40)
    old = dict(list(lengths(0).items())[:10])
    new = dict(list(lengths(5).items())[:20])
    policy.learn(A, old, None)
    policy.learn(B, new, None)
    policy.forget(A)
    policy.learn(A, dict(list(lengths(100).items())[:30]), None)
    for digest, size in (new | old).items():
        policy.inserted(digest, size, 1.0)
    assert sorted(policy.victims(2.0)) == sorted(new | old)
    for digest in old.keys() - new.keys():
        policy.removed(digest)
    assert sorted(policy.victims(2.0)) == sorted(new)


def test_a_store_that_does_not_evict_is_not_read_through():
    """Catches: an origin reads the notes of all its blocks once more at its start, for a sum."""
    store = MemoryStore()
    for number in range(5):
        data = b"%d" % number
        store.put(verify(Digest.of(data), data))
    store.blocks = lambda: pytest.fail("read through")
    content = ContentStore(store, make_policy("sharing"), None, pins={A: [Digest.of(b"3")]})
    assert content.stats().used_bytes == store.used_bytes == 5 * 4096
    assert content.stats().pinned_bytes == 4096


def test_what_is_here_is_told_in_one_call_for_many():
    """Catches: a start that calls the policy for each of a million blocks of unknown models."""
    store = MemoryStore()
    blocks = [verify(Digest.of(b"%d" % n), b"%d" % n) for n in range(BLOCKS)]
    for one in blocks:
        store.put(one)
    policy = make_policy("sharing", 1 << 40)
    policy.inserted = lambda *_: pytest.fail("one by one")
    content = ContentStore(store, policy, 1 << 40)
    assert list(content.policy.victims(1.0)) == [one.digest for one in blocks]
