"""The decisions of `sharing`, case by case, and whole-model hits beside `lru` end to end."""

import random
from itertools import accumulate

import pytest

from icnblocks.cache.content_store import ContentStore
from icnblocks.cache.policies import Sharing
from icnblocks.cache.policy import make_policy
from icnblocks.limits import MAX_KNOWN_BLOCKS
from icnblocks.manifest.model import BaseRef, File, Kind, Manifest, Run
from icnblocks.naming import Digest, Name
from icnblocks.store.base import verify
from icnblocks.store.memory import MemoryStore

BLOCK = 4096
HOUR = 3600.0


def data_of(label):
    return (label.encode() * BLOCK)[:BLOCK]


def block(label):
    return Digest.of(data_of(label))


def manifest_digest(name):
    return Digest.of(f"manifest of {name}".encode())


class World:
    """A policy, told about models by name and blocks by label (`x1 x2`)."""

    def __init__(self, **options):
        self.policy = Sharing(**options)
        self.labels = {}

    def digests(self, labels):
        for label in labels.split():
            self.labels[block(label)] = label
            yield block(label)

    def learn(self, name, labels, base=None):
        sizes = dict.fromkeys(self.digests(labels), BLOCK)
        self.policy.learn(manifest_digest(name), sizes, base and manifest_digest(base))

    def request(self, names, now=0.0):
        for name in names.split():
            self.policy.requested(manifest_digest(name), now)

    def insert(self, labels, now=0.0):
        for digest in self.digests(labels):
            self.policy.inserted(digest, BLOCK, now)

    def evict(self, count, now=0.0):
        gone = []
        for digest in self.policy.victims(now):
            self.policy.removed(digest)
            gone.append(self.labels[digest])
            if len(gone) == count:
                break
        return " ".join(gone)

    def order(self, now=0.0):
        return " ".join(self.labels[digest] for digest in self.policy.victims(now))


@pytest.fixture
def world():
    return World()


def test_the_less_requested_model_leaves_first(world):
    world.learn("a", "a1 a2")
    world.learn("b", "b1 b2")
    world.request("a a b")
    world.insert("a1 a2 b1 b2")
    assert world.evict(4) == "b1 b2 a1 a2"


def test_of_equals_the_larger_leaves_first_if_alpha_counts(world):
    world.learn("small", "s1")
    world.learn("large", "l1 l2 l3")
    world.request("small large")
    world.insert("s1 l1 l2 l3")
    assert world.evict(1) == "l1"


def test_without_alpha_only_the_rate_counts():
    world = World(alpha=0.0)
    world.learn("large", "l1 l2 l3")
    world.learn("small", "s1")
    world.request("large large small")
    world.insert("s1 l1 l2 l3")
    assert world.evict(1) == "s1"


def test_what_is_left_of_a_broken_model_leaves_before_a_whole_one(world):
    world.learn("broken", "x1 x2 x3 x4")
    world.learn("whole", "w1 w2")
    world.insert("x1 x2 x3 w1 w2")
    world.request("broken broken broken whole")
    assert world.evict(3, now=600.0) == "x1 x2 x3"


def test_blocks_that_two_models_lean_on_leave_last(world):
    world.learn("one", "shared1 shared2 o1")
    world.learn("two", "shared1 shared2 t1")
    world.request("one two two")
    world.insert("shared1 shared2 o1 t1")
    assert world.evict(1) == "o1"
    assert world.evict(3).split()[0] in {"t1", "shared1", "shared2"}


def test_a_base_leaves_only_with_its_last_adapter(world):
    world.learn("base", "b1 b2 b3")
    world.learn("ad1", "x1", base="base")
    world.learn("ad2", "y1", base="base")
    world.insert("b1 b2 b3 x1 y1")
    world.request("ad1 ad2 ad2")
    assert world.evict(5) == "x1 y1 b1 b2 b3"


def test_an_adapter_known_before_its_base_protects_it_too(world):
    world.learn("ad1", "x1", base="base")
    world.insert("b1 b2 x1")
    world.learn("base", "b1 b2")
    world.request("ad1")
    assert world.evict(3) == "x1 b1 b2"


def test_an_adapter_does_not_protect_half_a_base(world):
    world.learn("base", "b1 b2 b3")
    world.learn("ad1", "x1", base="base")
    world.insert("b1 b2 x1")
    world.request("ad1")
    assert world.evict(1) == "b1"


@pytest.mark.parametrize(("pulled", "order"), [("ad1 base", "x1 o1"), ("ad1", "o1 x1")])
def test_an_adapter_is_worth_less_while_the_base_it_is_pulled_with_is_missing(world, pulled, order):
    """Its pulls go upstream anyway; not so where devices have the base already."""
    world.learn("base", "b1 b2 b3")
    world.learn("ad1", "x1", base="base")
    world.learn("other", "o1")
    world.insert("x1 o1")
    for _ in range(3):
        world.request(pulled)
    world.request("other")
    assert world.order(now=200.0) == order


def test_a_base_whose_adapters_are_forgotten_may_leave(world):
    world.learn("base", "b1 b2")
    world.learn("ad1", "x1", base="base")
    world.learn("other", "o1")
    world.insert("b1 b2 x1 o1")
    world.request("other")
    world.policy.forget(manifest_digest("ad1"))
    assert world.evict(4) == "b1 b2 x1 o1"


def test_rates_fade(world):
    world.learn("old", "o1 o2")
    world.learn("new", "n1 n2")
    world.insert("o1 o2 n1 n2")
    for _ in range(8):
        world.request("old", now=0.0)
    world.request("new", now=2 * 12 * HOUR)
    assert world.order(now=2 * 12 * HOUR).startswith("n1"), "a quarter of eight is still more"
    world.request("new", now=4 * 12 * HOUR)
    assert world.order(now=4 * 12 * HOUR).startswith("o1")


def test_the_order_survives_a_new_scale_of_weights(world):
    """After 500 half-lives weights start anew, so that they never overflow."""
    for name in "abc":
        world.learn(name, f"{name}1")
        world.insert(f"{name}1")
    world.request("a b b c c c", now=0.0)
    late = 501 * 12 * HOUR
    world.request("a", now=late)
    assert world.order(now=late) == "b1 c1 a1"
    world.request("c", now=1e15)
    assert world.order(now=1e15).split()[-1] == "c1"


def test_a_model_that_is_coming_in_is_not_its_own_first_victim(world):
    world.learn("new", "n1 n2 n3")
    world.learn("old", "o1 o2 o3")
    world.insert("o1 o2 o3")
    world.request("old", now=0.0)
    now = 12 * HOUR
    world.request("new", now)
    world.insert("n1 n2", now)
    assert world.evict(3, now) == "o1 o2 o3"


def test_a_model_worth_less_than_all_here_makes_room_itself(world):
    world.learn("rare", "r1 r2 r3")
    world.learn("hot", "h1 h2 h3")
    world.insert("h1 h2 h3")
    world.request("hot hot hot rare")
    world.insert("r1 r2")
    assert world.evict(1) == "r1"


def test_a_pull_that_stalled_is_no_longer_protected(world):
    world.learn("stalled", "s1 s2 s3")
    world.learn("whole", "w1 w2 w3")
    world.insert("w1 w2 w3")
    world.request("whole stalled stalled stalled")
    world.insert("s1 s2")
    assert world.order(now=30.0).startswith("w1")
    world.insert("s1 s2", now=50.0)
    assert world.order(now=61.0).startswith("w1"), "it had brought blocks by then"
    assert world.order(now=200.0).startswith("s1")


def test_blocks_of_no_known_model_leave_in_order_of_use(world):
    world.insert("p", now=1.0)
    world.insert("q", now=2.0)
    world.policy.hit(block("p"), 3.0)
    assert world.order(now=4.0) == "q p"


def test_near_twins_do_not_stay_for_ever(world):
    """Two big models that differ in one block have tiny closures, of absurd density."""
    shared = " ".join(f"s{n}" for n in range(200))
    world.learn("twin1", shared + " t1")
    world.learn("twin2", shared + " t2")
    world.learn("small", "m1 m2 m3 m4")
    world.insert(shared + " t1 t2 m1 m2 m3 m4")
    world.request("twin1 twin2 small small small")
    assert world.evict(1) == "t1"


def test_pinned_blocks_count_as_being_here(world):
    """Else every variant of a pinned base would look broken."""
    world.learn("variant", "b1 b2 v1")
    world.learn("broken", "x1 x2 x3")
    world.insert("b1 b2 v1 x1")
    world.policy.pinned(block("b1"))
    world.policy.pinned(block("b2"))
    world.request("variant broken broken")
    assert world.order(now=600.0) == "x1 v1"


def test_splitting_and_forgetting_leave_no_fragments(world):
    """Groups that a forgotten manifest split must flow together again, or they pile up."""
    labels = [f"b{n}" for n in range(64)]
    world.learn("base", " ".join(labels))
    world.insert(" ".join(labels))
    rng = random.Random(1)
    for step in range(50):
        world.learn(f"ft{step}", " ".join(rng.sample(labels, 20)) + f" own{step}")
    for step in range(50):
        world.policy.forget(manifest_digest(f"ft{step}"))
    partition = world.policy._blocks
    assert len(partition.groups) == 2, "the base's, and the one of loose blocks"
    assert len(partition.slots) == 64
    assert len(world.order().split()) == 64


def test_a_manifest_learnt_twice_counts_once(world):
    world.learn("a", "a1")
    world.learn("a", "a1")
    world.learn("b", "b1")
    world.insert("a1 b1")
    world.request("a b b")
    assert world.order() == "a1 b1"


# --- end to end ---------------------------------------------------------------------------


def manifest(labels, base=None):
    size = BLOCK * len(labels)
    return Manifest(
        kind=Kind.ADAPTER if base else Kind.BASE,
        block_bytes=BLOCK,
        files=(File("model.bin", size, (Run(0, size, 0),)),),
        digests=b"".join(block(label) for label in labels),
        base=BaseRef(Name("acme", base), manifest_digest(base)) if base else None,
    )


def library():
    """Three bases of 8, 16 and 32 blocks, and 30 adapters of one block on each."""
    models = {}
    for number in range(3):
        base = f"base{number}"
        models[base] = manifest([f"{base}.{n}" for n in range(8 << number)])
        for adapter in range(30):
            name = f"{base}-ad{adapter}"
            models[name] = manifest([f"{name}.0"], base)
    return models


def pull(content, name, models, now):
    """As an edge serves a pull of an adapter with its base: True if all was here."""
    whole = True
    for part in (models[name].base.name.model, name):
        if not content.requested(manifest_digest(part), now):
            content.learn(manifest_digest(part), models[part])
            assert content.requested(manifest_digest(part), now)
        digests = {models[part].digest_at(index): None for index in range(models[part].block_count)}
        for digest in digests:
            lease = content.open(digest, now)
            if lease is not None:
                lease.close()
                continue
            whole = False
            reservation = content.reserve(digest, BLOCK, now)
            if reservation is not None:
                content.store.put(verify(digest, DATA[digest]))
                content.commit(reservation, now)
        assert content.store.used_bytes <= content.capacity
    return whole


DATA = {}


def whole_model_hits(policy, models, capacity, pulls):
    adapters = [name for name in models if "-ad" in name]
    rng = random.Random(7)
    rng.shuffle(adapters)
    weights = list(accumulate((rank + 1) ** -0.9 for rank in range(len(adapters))))
    store = MemoryStore()
    content = ContentStore(store, make_policy(policy), capacity * store.footprint(BLOCK))
    hits = 0
    for step in range(pulls):
        name = rng.choices(adapters, cum_weights=weights)[0]
        hits += pull(content, name, models, step * 10.0)
    store.close()
    return hits / pulls


@pytest.mark.parametrize("capacity", [24, 40, 60])
def test_sharing_serves_more_whole_models_than_lru(capacity):
    models = library()
    for name, one in models.items():
        for index in range(one.block_count):
            label = f"{name}.{index}"
            DATA[block(label)] = data_of(label)
    sharing = whole_model_hits("sharing", models, capacity, 600)
    lru = whole_model_hits("lru", models, capacity, 600)
    assert sharing > 1.3 * lru
    assert sharing > 0.1


def test_an_unknown_model_must_be_learnt_before_it_is_counted():
    store = MemoryStore()
    content = ContentStore(store, make_policy("sharing"), 10 * BLOCK)
    assert not content.requested(manifest_digest("base0"), 0.0)
    content.learn(manifest_digest("base0"), manifest(["base0.0"]))
    assert content.requested(manifest_digest("base0"), 0.0)
    content.forget(manifest_digest("base0"))
    assert not content.requested(manifest_digest("base0"), 0.0)
    store.close()


def test_known_models_are_bounded_and_the_idle_one_is_forgotten(monkeypatch):
    """A daemon that runs for years must not know every manifest it ever saw."""
    assert MAX_KNOWN_BLOCKS >= 1_000_000
    monkeypatch.setattr("icnblocks.cache.content_store.MAX_KNOWN_BLOCKS", 10)
    store = MemoryStore()
    content = ContentStore(store, make_policy("sharing"), 10 * BLOCK)
    for name in ("a", "b"):
        content.learn(manifest_digest(name), manifest([f"{name}.{n}" for n in range(5)]))
    content.requested(manifest_digest("a"), 0.0)
    content.learn(manifest_digest("c"), manifest(["c.0"]))
    known = [content.requested(manifest_digest(name), 1.0) for name in ("a", "b", "c")]
    assert known == [True, False, True]
    store.close()
