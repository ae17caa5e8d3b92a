"""Calls for many blocks do what calls for one block do, for every policy, to the last figure.

A replay is only worth something if its shortcuts decide as the daemon does.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icnblocks.cache.content_store import ContentStore
from icnblocks.cache.policy import POLICIES, make_policy
from icnblocks.cache.replay.content import VirtualContent
from icnblocks.cache.replay.virtual import VirtualStore
from icnblocks.errors import UsageError
from icnblocks.naming import Digest
from icnblocks.store.base import verify

make_policy("lru")
NAMES = sorted(POLICIES)
BLOCKS = [Digest(bytes([3, number]) + bytes(30)) for number in range(40)]
MODELS = [Digest(bytes([4, number]) + bytes(30)) for number in range(8)]
FOREIGN = Digest(bytes([5]) + bytes(31))

_models = st.lists(
    st.lists(st.integers(0, len(BLOCKS) - 1), min_size=1, max_size=14, unique=True),
    min_size=1,
    max_size=len(MODELS),
)
_sizes = st.one_of(
    st.just([100] * len(BLOCKS)),
    st.lists(st.integers(1, 400), min_size=len(BLOCKS), max_size=len(BLOCKS)),
)
_pulls = st.lists(st.tuples(st.integers(0, 7), st.sampled_from([0, 1, 90])), max_size=40)


class OneByOne:
    """The daemon's content store, each block asked for and brought on its own."""

    def __init__(self, policy, capacity):
        self.store = VirtualStore()
        self.content = ContentStore(self.store, policy, capacity)

    def touch_all(self, digests, now):
        missing = []
        for digest in digests:
            lease = self.content.open(digest, now)
            if lease is None:
                missing.append(digest)
            else:
                lease.close()
        return missing

    def bring_all(self, digests, lengths, now):
        for digest, length in zip(digests, lengths, strict=True):
            reservation = self.content.reserve(digest, length, now)
            if reservation is not None:
                self.store.put_all([digest], [length])
                self.content.commit(reservation, now)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=25, deadline=None)
@given(
    models=_models, sizes=_sizes, pulls=_pulls, capacity=st.integers(1, 2500), pinned=st.booleans()
)
def test_many_at_once_is_the_same_as_one_by_one(name, models, sizes, pulls, capacity, pinned):
    """Also for models and blocks that are larger than the budget, and beside pins."""
    slow = OneByOne(make_policy(name, capacity), capacity)
    fast = VirtualContent(make_policy(name, capacity), capacity)
    lengths = dict(zip(BLOCKS, sizes, strict=True))
    wanted = [[BLOCKS[number] for number in numbers] for numbers in models]
    for content in (slow.content, fast):
        for model, blocks in zip(MODELS, wanted, strict=False):
            content.learn_blocks(model, {block: lengths[block] for block in blocks}, None)
        if pinned:
            content.pin(FOREIGN, BLOCKS[:3])
    now = 0.0
    for number, seconds in pulls:
        now += seconds
        number %= len(wanted)
        missing = []
        for one, content in ((slow, slow.content), (fast, fast)):
            content.requested(MODELS[number], now)
            missing.append(one.touch_all(wanted[number], now))
            one.bring_all(missing[-1], [lengths[digest] for digest in missing[-1]], now)
        assert missing[0] == missing[1]
        assert list(slow.store.blocks()) == list(fast.store.blocks())
        assert slow.content.stats() == fast.stats()
        assert fast.stats().used_bytes <= capacity


def test_what_is_leased_stays_though_many_are_brought():
    """The ways that look at neither leases nor pins are taken only if there are none."""
    fast = VirtualContent(make_policy("lru", 300), 300)
    fast.bring_all(BLOCKS[:3], [100] * 3, 0)
    with fast.open(BLOCKS[0], 1), fast.open(BLOCKS[1], 1):
        fast.bring_all(BLOCKS[3:6], [100] * 3, 2)
        assert fast.contains(BLOCKS[0])
        assert fast.contains(BLOCKS[1])
    assert fast.stats().used_bytes == 300


def test_a_virtual_store_keeps_the_books_of_a_store_but_no_bytes():
    store, data = VirtualStore(), b"x" * 70
    block = verify(Digest.of(data), data)
    assert store.put(block)
    assert not store.put(block), "put twice it would count twice"
    assert (len(store), store.used_bytes, store.length(block.digest)) == (1, 70, 70)
    with store.open(block.digest) as lease:
        lease.check()
        assert (lease.length, lease.offset) == (70, 0)
        with pytest.raises(UsageError, match="no bytes"):
            lease.read()
        with pytest.raises(UsageError, match="no bytes"):
            lease.fd  # noqa: B018
    assert store.open(BLOCKS[0]) is None
    assert store.erase(BLOCKS[0]) == 0
    assert store.erase(block.digest) == 70
    assert store.used_bytes == 0
    store.put(block)
    store.flush()
    store.close()
    assert (len(store), store.used_bytes) == (0, 0)
