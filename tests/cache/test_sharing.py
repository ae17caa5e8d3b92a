"""The decisions of `sharing`, case by case, and whole-model hits beside `lru` end to end."""

import random
from itertools import accumulate, pairwise

import pytest

from icnblocks.cache.content_store import ContentStore
from icnblocks.cache.planning import solve
from icnblocks.cache.policies import Sharing
from icnblocks.cache.policies.sharing_objective import parse_objective
from icnblocks.cache.policy import make_policy
from icnblocks.limits import MAX_KNOWN_BLOCKS
from icnblocks.manifest.model import BaseRef, File, Kind, Manifest, Run
from icnblocks.naming import Digest, Name
from icnblocks.store.base import verify
from icnblocks.store.memory import MemoryStore
from icnblocks.testing.policy_contract import PolicyContract

BLOCK = 4096


def data_of(label):
    return (label.encode() * BLOCK)[:BLOCK]


def block(label):
    return Digest.of(data_of(label))


def manifest_digest(name):
    return Digest.of(f"manifest of {name}".encode())


class World:
    """A policy with room for so many blocks."""

    def __init__(self, blocks=100, **options):
        self.policy = Sharing(blocks * BLOCK, **options)
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

    def plan(self, now=0.0):
        plan = solve(self.policy.problem(now))
        self.policy.adopt(plan, now)
        return plan

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
    return World(blocks=2)


def test_the_less_requested_model_leaves_first(world):
    world.learn("a", "a1 a2")
    world.learn("b", "b1 b2")
    world.request("a a b")
    world.insert("a1 a2 b1 b2")
    assert world.evict(4) == "b1 b2 a1 a2"


def test_a_model_in_whole_goes_before_a_larger_part_if_hits_count():
    """By bytes the part of a model that is asked for more is worth more."""
    for objective, first in (("hits", "l1"), ("bytes", "s1")):
        world = World(blocks=2, objective=objective)
        world.learn("large", "l1 l2 l3 l4")
        world.learn("small", "s1 s2")
        world.insert("s1 s2 l1 l2 l3 l4")
        world.request("large large large large small small small")
        assert world.order().startswith(first)


@pytest.mark.parametrize(
    ("objective", "first"),
    [("hits", "b"), (0.5, "b"), ("time", "a"), ("bytes", "a"), (0, "a")],
)
def test_of_what_is_lost_as_hits_what_frees_more_leaves_first(objective, first):
    """Catches: many small models lost, one after the other, for the room of one large block."""
    policy = Sharing(12 * BLOCK, objective=objective)
    sizes = {"a": BLOCK, "b": 10 * BLOCK}
    for name, size in sizes.items():
        policy.learn(manifest_digest(name), {block(name): size}, None)
    for name in "abbaabb":
        policy.requested(manifest_digest(name), 0.0)
    for name, size in sizes.items():
        policy.inserted(block(name), size, 0.0)
    policy.adopt(solve(policy.problem(0.0)), 0.0)
    assert next(policy.victims(0.0)) == block(first)


def test_a_base_stays_while_its_variants_together_are_worth_it():
    """No variant is worth the base alone, nor as much as the other model."""
    world = World(blocks=5, objective="hits")
    world.learn("v1", "b1 b2 b3 x1")
    world.learn("v2", "b1 b2 b3 y1")
    world.learn("other", "o1 o2 o3 o4")
    world.insert("o1 o2 o3 o4 b1 b2 b3 x1 y1")
    world.request("v1 v1 v2 v2 other other other")
    assert world.order().startswith("o1 o2 o3 o4")


def test_an_adapter_is_planned_with_the_base_it_is_pulled_with():
    """Alone, small adapters would look like the best use of the room; each pull would miss."""
    names = [f"a{number}" for number in range(8)]
    for pulled, kept in ((True, True), (False, False)):
        world = World(blocks=12, objective="hits")
        world.learn("base", " ".join(f"b{number}" for number in range(10)))
        for name in names:
            world.learn(name, f"{name}.1", base="base")
        world.learn("other", " ".join(f"o{number}" for number in range(4)))
        for name in names:
            world.request(f"base {name}" if pulled else name)
        world.request("base other")
        plan = world.plan()
        whole = plan.kept[plan.kept == 10 * BLOCK]
        assert bool(len(whole)) is kept


def test_an_adapter_is_planned_alone_if_its_base_does_not_fit():
    """Catches: no adapter worth anything, since a base that can never be here is missing."""
    world = World(blocks=8, objective="hits")
    world.learn("base", " ".join(f"b{number}" for number in range(10)))
    for name in ("a1", "a2"):
        world.learn(name, f"{name}.1 {name}.2", base="base")
    world.request("base a1 base a1 base a2")
    plan = world.plan()
    assert sorted(plan.kept[plan.kept == 2 * BLOCK]) == [2 * BLOCK] * 2


def test_no_room_is_planned_for_a_block_that_can_never_be_here():
    """Catches: the room kept for it, and nothing else planned."""
    world = World(blocks=4)
    world.policy.learn(manifest_digest("huge"), {block("h"): 6 * BLOCK}, None)
    world.learn("small", "s1 s2")
    world.request("huge huge huge huge small")
    assert world.plan().kept.sum() == 2 * BLOCK


def test_what_the_plan_does_not_keep_passes_through(world):
    """In the order in which it came, before anything that is planned."""
    world.learn("hot", "h1 h2")
    world.learn("cold", "c1 c2 c3")
    world.insert("h1 h2")
    world.request("hot hot hot cold")
    world.plan()
    world.insert("c1 c2 c3")
    assert world.order().split()[:3] == ["c1", "c2", "c3"]


def test_what_an_older_plan_kept_stays_until_its_room_is_needed(world):
    """After what passes through, and before what the new plan keeps."""
    world.learn("old", "o1 o2")
    world.learn("new", "n1 n2")
    world.learn("cold", "c1")
    world.insert("o1 o2")
    world.request("old old")
    world.plan()
    world.request("new " * 20)
    world.plan()
    world.insert("c1 n1")
    assert world.order() == "c1 o1 o2 n1"


def test_hardly_better_does_not_replace_what_is_here(world):
    """Else two models that are asked for in turn would throw each other out for ever."""
    world.learn("here", "h1 h2")
    world.learn("gone", "g1 g2")
    world.insert("h1 h2")
    for _ in range(20):
        world.request("here gone gone here gone")
        world.request("here")
        plan = world.plan()
        kept = dict(zip(plan.rank.tolist(), plan.kept.tolist(), strict=True))
        assert kept[max(kept)] == 2 * BLOCK
        world.insert("g1")
        assert world.order().startswith("g1")
        world.policy.removed(block("g1"))


def test_a_plan_is_due_often_at_first_and_then_by_requests_or_time(world):
    world.learn("a", "a1")
    due = []
    for step in range(600):
        world.request("a", float(step))
        if world.policy.plan_due(float(step)):
            due.append(step)
            world.plan(float(step))
    gaps = [after - before for before, after in pairwise(due)]
    assert gaps == sorted(gaps)
    assert (gaps[0], gaps[-1]) == (1, 50)
    world.plan(1000.0)
    assert not world.policy.plan_due(1e6), "nothing happened since"
    world.request("a", 1001.0)
    assert not world.policy.plan_due(1100.0)
    assert world.policy.plan_due(1000.0 + 3600.0)


def test_demand_that_changed_is_followed(world):
    world.learn("old", "o1 o2")
    world.learn("new", "n1 n2")
    world.insert("o1 o2 n1 n2")
    world.request("old " * 3000)
    world.request("new " * 20)
    world.plan()
    assert world.order().startswith("n1"), "a short run says nothing yet"
    world.request("new " * 1500)
    world.plan()
    assert world.order().startswith("o1")


def test_blocks_of_no_known_model_leave_in_order_of_use(world):
    world.insert("p", now=1.0)
    world.insert("q", now=2.0)
    world.policy.hit(block("p"), 3.0)
    assert world.order(now=4.0) == "q p"


def test_pinned_blocks_cost_the_plan_nothing(world):
    """Their room is taken anyway, and they count as here."""
    world = World(blocks=4, objective="hits")
    world.learn("variant", "b1 b2 v1")
    world.learn("other", "x1 x2")
    world.insert("b1 b2 v1 x1 x2")
    world.policy.pinned(block("b1"))
    world.policy.pinned(block("b2"))
    world.request("variant other other")
    assert world.order() == "v1 x1 x2"


def test_a_model_that_comes_cheaper_from_elsewhere_gives_way(world):
    """Else neighbouring edges would all keep the same."""
    world.learn("shared", "s1 s2")
    world.learn("mine", "m1 m2")
    world.insert("s1 s2 m1 m2")
    world.request("shared shared shared mine mine")
    world.policy.priced(manifest_digest("shared"), 0.2, 0.0)
    world.plan()
    assert world.order().startswith("s1 s2")


def test_a_new_variant_of_a_popular_base_starts_with_its_kin():
    world = World(blocks=8, objective="hits")
    world.learn("v1", "b1 b2 b3 b4 x1")
    world.learn("v2", "b1 b2 b3 b4 y1")
    world.learn("cold", "c1")
    world.request("v1 v2 " * 30 + "cold " * 2)
    world.learn("v3", "b1 b2 b3 b4 z1")
    rates = world.policy._rates.rates()
    variant, cold = (
        rates[world.policy._blocks.models[manifest_digest(name)].row] for name in ("v3", "cold")
    )
    assert variant > 5 * cold
    world.request("v1 v2 " * 300)
    rates = world.policy._rates.rates()
    assert rates[world.policy._blocks.models[manifest_digest("v3")].row] < variant / 20


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
    world.learn("b", "b1 b2")
    world.insert("a1 b1 b2")
    world.request("a b b")
    assert world.order() == "a1 b1 b2"


@pytest.mark.parametrize("text", ["best", "1.5", "-0.1", "nan", ""])
def test_an_objective_that_cannot_be_meant_is_refused(text):
    with pytest.raises(ValueError, match="time, hits, bytes"):
        parse_objective(text)


class TestWithPlans(PolicyContract):
    """The suite with room for about half, so that there is something to plan."""

    @pytest.fixture
    def make(self):
        return lambda: Audited(36 * BLOCK)


class Audited(Sharing):
    """Checks its books whenever victims are wanted."""

    def victims(self, now):
        books = self._blocks
        line = set(books.passing())
        for group in books.groups.values():
            held, others = set(books.held(group)), set(books._members.walk(group.others))
            here = [slot for slot in held | others if books.is_here(slot)]
            assert not held & line
            assert len(held | others) == group.known
            assert sum(books._sizes[slot] for slot in held) == group.held_bytes
            assert sum(books._sizes[slot] for slot in here) == group.here_bytes
            assert sum(books._sizes[slot] for slot in held | others) == group.known_bytes
            passing = group.here_bytes - group.held_bytes - group.pinned_bytes
            assert passing == sum(books._sizes[slot] for slot in others & line)
        return super().victims(now)


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
    content = ContentStore(
        store,
        make_policy(policy, capacity * store.footprint(BLOCK)),
        capacity * store.footprint(BLOCK),
    )
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
    monkeypatch.setattr("icnblocks.cache.content_store.MAX_KNOWN_BLOCKS", 20)
    store = MemoryStore()
    content = ContentStore(store, make_policy("sharing"), 10 * BLOCK)
    for name in ("a", "b"):
        content.learn(manifest_digest(name), manifest([f"{name}.{n}" for n in range(10)]))
    content.requested(manifest_digest("a"), 0.0)
    content.learn(manifest_digest("c"), manifest(["c.0"]))
    known = [content.requested(manifest_digest(name), 1.0) for name in ("a", "b", "c")]
    assert known == [True, False, True]
    store.close()


def test_many_models_of_one_block_each_are_bounded_too(monkeypatch):
    """Catches: only blocks were counted, and a model takes eight times the memory of one."""
    monkeypatch.setattr("icnblocks.cache.content_store.MAX_KNOWN_BLOCKS", 20)
    content = ContentStore(MemoryStore(), make_policy("sharing"), 10 * BLOCK)
    for name in "abcd":
        content.learn(manifest_digest(name), manifest([f"{name}.0"]))
    known = [content.requested(manifest_digest(name), 0.0) for name in "abcd"]
    assert known == [False, False, True, True]
    content.store.close()


def test_a_model_larger_than_all_that_may_be_known_pushes_no_other_out(monkeypatch):
    """Catches: every other model was forgotten for it, then itself, and so with each pull of it."""
    monkeypatch.setattr("icnblocks.cache.content_store.MAX_KNOWN_BLOCKS", 20)
    content = ContentStore(MemoryStore(), make_policy("sharing"), 10 * BLOCK)
    content.learn(manifest_digest("a"), manifest([f"a.{n}" for n in range(12)]))
    for time in (0.0, 1.0):
        content.learn(manifest_digest("b"), manifest([f"b.{n}" for n in range(21)]))
        known = [content.requested(manifest_digest(name), time) for name in ("a", "b")]
        assert known == [True, True]
    content.store.close()


def test_a_block_that_comes_is_believed_and_not_a_manifest_that_lied_of_it():
    """Catches: blocks were planned for with the bytes that whoever spoke of them first gave them,
    so that a plan could keep any multiple of what there is room for."""
    world = World(blocks=100)
    lies = dict.fromkeys(world.digests("a b"), 1)
    world.policy.learn(manifest_digest("liar"), lies, None)
    world.learn("m", "a b c")
    world.policy.problem(0.0)
    world.insert("a b c")
    problem = world.policy.problem(0.0)
    assert sorted(problem.sizes) == sorted(problem.here) == [BLOCK, 2 * BLOCK]
