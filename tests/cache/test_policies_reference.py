"""Each policy evicts what a plain model of its definition evicts: lists, and no thought of speed.

The models are written from the papers. One thing is ours: room is made before a block is
inserted, so a model is asked for one victim after the other until there is enough.
"""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icnblocks.cache.policies.sketch import Sketch
from icnblocks.cache.policy import make_policy
from icnblocks.naming import Digest

PAGE = 4096
CAPACITY = 40 * PAGE
BLOCKS = [Digest.of(bytes([number])) for number in range(60)]


class Model:
    """A cache of `CAPACITY` bytes; `here` maps its blocks to sizes."""

    def __init__(self):
        self.here = {}
        self.gone = []

    def get(self, block, size):
        if block in self.here:
            self.hit(block)
            return
        while sum(self.here.values()) + size > CAPACITY:
            victim = self.evict()
            del self.here[victim]
            self.gone.append(victim)
        self.here[block] = size
        self.insert(block)


class LruModel(Model):
    def __init__(self):
        super().__init__()
        self.queue = []

    def insert(self, block):
        self.queue.append(block)

    def hit(self, block):
        self.queue.remove(block)
        self.queue.append(block)

    def evict(self):
        return self.queue.pop(0)


class AgeingModel(Model):
    """LFU-DA and GDSF: key = L + value; L becomes the key of what is evicted."""

    def __init__(self, value):
        super().__init__()
        self.value, self.floor, self.clock = value, 0, 0
        self.uses, self.keys = {}, {}

    def insert(self, block):
        self.uses[block] = 0
        self.hit(block)

    def hit(self, block):
        self.clock += 1
        self.uses[block] += 1
        key = self.floor + self.value(self.uses[block], self.here[block])
        self.keys[block] = (key, self.clock)

    def evict(self):
        victim = min(self.keys, key=self.keys.get)
        self.floor, _ = self.keys.pop(victim)
        return victim


class SieveModel(Model):
    """NSDI 2024, algorithm 1: new blocks at the head, the hand goes from the tail to the head."""

    def __init__(self):
        super().__init__()
        self.queue = []  # from the tail to the head
        self.visited = {}
        self.hand = 0

    def insert(self, block):
        if self.hand == len(self.queue):  # the head was evicted: the hand is at the tail
            self.hand = 0
        self.queue.append(block)
        self.visited[block] = False

    def hit(self, block):
        self.visited[block] = True

    def evict(self):
        while True:
            if self.hand == len(self.queue):
                self.hand = 0
            block = self.queue[self.hand]
            if not self.visited[block]:
                return self.queue.pop(self.hand)
            self.visited[block] = False
            self.hand += 1


class S3FifoModel(Model):
    """SOSP 2023, algorithm 1: S has 10 % of the cache, M 90 %, G as many names as M has bytes."""

    def __init__(self):
        super().__init__()
        self.small, self.main, self.ghost, self.freq = [], [], [], {}
        self.m_full = False

    def size(self, queue):
        return sum(self.here[block] for block in queue)

    def insert(self, block):
        known = [name for name, _ in self.ghost]
        if block in known:
            del self.ghost[known.index(block)]
            self.main.append(block)
        else:
            self.small.append(block)
        self.freq[block] = 0

    def hit(self, block):
        self.freq[block] = min(self.freq[block] + 1, 3)

    def evict(self):
        if self.size(self.main) > 0.9 * CAPACITY:
            return self.evict_main()
        if self.small and (self.size(self.small) >= 0.1 * CAPACITY or not self.main):
            return self.evict_small()
        return self.evict_main()

    def evict_small(self):
        while self.small:
            block = self.small.pop(0)
            if self.freq[block] <= 1:
                self.ghost.append((block, self.here[block]))
                while sum(size for _, size in self.ghost) > 0.9 * CAPACITY:
                    self.ghost.pop(0)
                return block
            self.freq[block] = 0
            self.main.append(block)
            if self.size(self.main) > 0.9 * CAPACITY:
                return self.evict_main()
            if self.size(self.small) < 0.1 * CAPACITY:
                break
        return self.evict()

    def evict_main(self):
        while True:
            block = self.main.pop(0)
            if self.freq[block] == 0:
                return block
            self.freq[block] -= 1
            self.main.append(block)


class WTinyLfuModel(Model):
    """TOS 2017, figure 5, with SLRU as the main part; the sketch is tested by itself."""

    def __init__(self, window):
        super().__init__()
        self.window_room = window * CAPACITY
        self.main_room = CAPACITY - self.window_room
        self.window, self.probation, self.protected = [], [], []
        self.sketch = Sketch()

    def size(self, queue):
        return sum(self.here[block] for block in queue)

    def insert(self, block):
        self.sketch.fit(len(self.here))
        self.sketch.add(block)
        self.window.append(block)
        while self.size(self.window) > self.window_room:
            main = self.size(self.probation) + self.size(self.protected)
            if main + self.here[self.window[0]] > self.main_room:
                break
            self.probation.append(self.window.pop(0))

    def hit(self, block):
        self.sketch.add(block)
        for queue in (self.window, self.probation, self.protected):
            if block in queue:
                queue.remove(block)
                break
        (self.window if queue is self.window else self.protected).append(block)
        while self.size(self.protected) > 0.8 * self.main_room:
            self.probation.append(self.protected.pop(0))

    def evict(self):
        mains = self.probation or self.protected
        full = self.window and self.size(self.window) >= self.window_room
        if not full:
            return (mains or self.window).pop(0)
        if mains and self.sketch.count(self.window[0]) > self.sketch.count(mains[0]):
            victim = mains.pop(0)
            self.probation.append(self.window.pop(0))
            return victim
        return self.window.pop(0)


class ScoreModel(Model):
    """alpha * uses / mean uses - beta * age / mean age; means renewed if one is off by a factor 2.

    In steps of 2**-20 above the score of a block never used, and used last when the means were
    taken; among equals the one used longest ago leaves.
    """

    def __init__(self, alpha, beta):
        super().__init__()
        self.alpha, self.beta = alpha / (alpha + beta), beta / (alpha + beta)
        self.clock, self.zero = 0, 0
        self.uses, self.last = {}, {}
        self.means = (1.0, 1.0)

    def insert(self, block):
        self.uses[block] = 0
        self.hit(block)
        self.renew()

    def hit(self, block):
        self.clock += 1
        self.uses[block] += 1
        self.last[block] = self.clock

    def renew(self):
        count = len(self.uses)
        if not count:
            return
        uses = sum(self.uses.values()) / count
        age = max(1.0, self.clock - sum(self.last.values()) / count)
        steady = all(
            old < 2 * new < 4 * old for old, new in zip(self.means, (uses, age), strict=True)
        )
        if not steady:
            self.means, self.zero = (uses, age), self.clock

    def evict(self):
        def score(block):
            uses, age = self.means
            frequency = self.alpha / uses * self.uses[block]
            recency = self.beta / age * (self.last[block] - self.zero)
            return int(2**20 * (frequency + recency)), self.last[block]

        victim = min(self.uses, key=score)
        del self.uses[victim], self.last[victim]
        self.renew()
        return victim


MODELS = {
    "lru": LruModel,
    "lfu": lambda: AgeingModel(lambda uses, _: uses),
    "gdsf": lambda: AgeingModel(lambda uses, size: (uses << 40) // size),
    "sieve": SieveModel,
    "s3fifo": S3FifoModel,
    "wtinylfu": lambda: WTinyLfuModel(0.01),
    "wtinylfu:window=0.3": lambda: WTinyLfuModel(0.3),
    "score": lambda: ScoreModel(1, 1),
    "score:alpha=0": lambda: ScoreModel(0, 0.5),
    "score:alpha=0.9,beta=0.1": lambda: ScoreModel(0.9, 0.1),
}


class Cache:
    """A policy, used as the content store uses it."""

    def __init__(self, policy):
        self.policy = policy
        self.here = {}
        self.gone = []

    def get(self, block, size):
        if block in self.here:
            self.policy.hit(block, 0.0)
            return
        missing = sum(self.here.values()) + size - CAPACITY
        if missing > 0:
            for victim in self.policy.victims(0.0):
                self.policy.removed(victim)
                self.gone.append(victim)
                missing -= self.here.pop(victim)
                if missing <= 0:
                    break
        self.policy.inserted(block, size, 0.0)
        self.here[block] = size


@pytest.mark.parametrize("spec", MODELS)
@given(
    seed=st.integers(0, 10**9),
    blocks=st.integers(5, len(BLOCKS)),
    skew=st.sampled_from([0.0, 0.7, 1.3]),
    sizes=st.sampled_from([(1,), (1, 2, 3), (1, 8, 39)]),
)
@settings(max_examples=40, deadline=None)
def test_it_evicts_what_its_definition_says(spec, seed, blocks, skew, sizes):
    """A shortcut taken for speed that changes which block leaves."""
    rng = random.Random(seed)
    size_of = {block: rng.choice(sizes) * PAGE for block in BLOCKS}
    weights = [(rank + 1) ** -skew for rank in range(blocks)]
    model, cache = MODELS[spec](), Cache(make_policy(spec, CAPACITY))
    for asked, block in enumerate(rng.choices(BLOCKS[:blocks], weights, k=400)):
        model.get(block, size_of[block])
        cache.get(block, size_of[block])
        assert cache.gone == model.gone, f"at request {asked}"
    assert cache.here == model.here


def test_every_blockwise_policy_has_a_model():
    from icnblocks.cache.policies.blockwise import Blockwise
    from icnblocks.cache.policy import POLICIES

    blockwise = {
        name
        for name, factory in POLICIES.items()
        if isinstance(factory, type) and issubclass(factory, Blockwise)
    }
    assert blockwise == {spec.partition(":")[0] for spec in MODELS}


def test_a_scan_does_not_sweep_out_what_is_used():
    """What these policies are for: blocks that are asked for once must not evict hot ones."""
    hot, capacity = BLOCKS[:20], CAPACITY
    for name in ("sieve", "s3fifo", "wtinylfu", "lfu"):
        policy, cache = make_policy(name, capacity), None
        cache = Cache(policy)
        for _ in range(5):
            for block in hot:
                cache.get(block, PAGE)
        for number in range(200):
            cache.get(Digest.of(b"once" + bytes([number])), PAGE)
            if number % 5 == 0:
                for block in hot:
                    cache.get(block, PAGE)
        assert not set(hot) & set(cache.gone), name
