"""The conformance suite of eviction policies: subclass, give a factory, and run it with pytest.

    class TestMine(PolicyContract):
        @pytest.fixture
        def make(self):
            return MyPolicy

It needs pytest and hypothesis, so it must not be imported by the product.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from icnblocks.naming import Digest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from icnblocks.cache.policy import Policy

BLOCKS = tuple(Digest(bytes([1, number]) + bytes(30)) for number in range(24))
MODELS = tuple(Digest(bytes([2, number]) + bytes(30)) for number in range(6))
SIZES: Mapping[Digest, int] = {
    digest: 4096 * (1 + number % 5) for number, digest in enumerate(BLOCKS)
} | {BLOCKS[0]: 1, BLOCKS[1]: 5 << 32}

_block = st.sampled_from(BLOCKS)
_model = st.sampled_from(MODELS)


class PolicyMachine(RuleBasedStateMachine):
    """Drives a policy as a content store does, beside a model of what is in the store.

    A second policy gets the same calls, and must do the same: policies are deterministic.
    """

    factory: ClassVar[Callable[[], Policy]]

    def __init__(self) -> None:
        super().__init__()
        self.twins = (type(self).factory(), type(self).factory())
        self.resident: dict[Digest, int] = {}
        self.pinned: set[Digest] = set()
        self.now = 1000.0

    @rule(seconds=st.sampled_from([0.0, 0.5, 30.0, 7200.0, 1e9]))
    def time_passes(self, seconds: float) -> None:
        """Nothing happens for a while."""
        self.now += seconds

    @rule(digest=_block)
    def insert(self, digest: Digest) -> None:
        """A block comes, perhaps one that is here."""
        self.resident[digest] = SIZES[digest]
        for policy in self.twins:
            policy.inserted(digest, SIZES[digest], self.now)

    @rule(digests=st.lists(_block, max_size=8))
    def insert_all(self, digests: list[Digest]) -> None:
        """Many blocks at once, perhaps one twice: the same as one after the other."""
        blocks = [(digest, SIZES[digest]) for digest in digests]
        self.resident.update(blocks)
        self.twins[0].inserted_all(iter(blocks), self.now)
        for digest, size in blocks:
            self.twins[1].inserted(digest, size, self.now)

    @rule(digests=st.lists(_block, max_size=8))
    def hit_all(self, digests: list[Digest]) -> None:
        """Many blocks at once, perhaps some that are not here."""
        self.twins[0].hits(iter(digests), self.now)
        for digest in digests:
            self.twins[1].hit(digest, self.now)

    @rule(digests=st.lists(_block, max_size=8))
    def remove_all(self, digests: list[Digest]) -> None:
        """Many blocks at once, perhaps some that are not here, or pinned."""
        self.twins[0].removed_all(iter(digests))
        for digest in digests:
            self.resident.pop(digest, None)
            self.pinned.discard(digest)
            self.twins[1].removed(digest)

    @rule(digest=_block)
    def hit(self, digest: Digest) -> None:
        """A block is asked for, perhaps one that is not here."""
        for policy in self.twins:
            policy.hit(digest, self.now)

    @rule(digest=_block)
    def remove(self, digest: Digest) -> None:
        """A block leaves, other than as a victim."""
        self.resident.pop(digest, None)
        self.pinned.discard(digest)
        for policy in self.twins:
            policy.removed(digest)

    @rule(digest=_block)
    def pin(self, digest: Digest) -> None:
        """A block must stay."""
        if digest in self.resident:
            self.pinned.add(digest)
        for policy in self.twins:
            policy.pinned(digest)

    @rule(digest=_block)
    def unpin(self, digest: Digest) -> None:
        """A block may leave again."""
        self.pinned.discard(digest)
        for policy in self.twins:
            policy.unpinned(digest, self.now)

    @rule(model=_model, blocks=st.sets(_block, max_size=12), base=st.none() | _model)
    def learn(self, model: Digest, blocks: set[Digest], base: Digest | None) -> None:
        """A manifest becomes known."""
        sizes = {digest: SIZES[digest] for digest in sorted(blocks)}
        for policy in self.twins:
            policy.learn(model, sizes, base)

    @rule(model=_model)
    def forget(self, model: Digest) -> None:
        """A manifest is no longer known."""
        for policy in self.twins:
            policy.forget(model)

    @rule(model=_model)
    def request(self, model: Digest) -> None:
        """A pull begins."""
        for policy in self.twins:
            policy.requested(model, self.now)

    @rule(drawn=st.integers(1, 8), kept=st.sets(st.integers(0, 7)))
    def evict(self, drawn: int, kept: set[int]) -> None:
        """Draw some, remove those that are not kept, and walk away from the iterator."""
        gone: list[list[Digest]] = []
        for policy in self.twins:
            seen = []
            for position, digest in enumerate(islice(policy.victims(self.now), drawn)):
                seen.append(digest)
                if position not in kept:
                    policy.removed(digest)
            gone.append(seen)
            # Else what was kept and is removed later may or may not count as a victim.
            assert len(list(policy.victims(self.now))) <= len(self.resident)
        first, second = gone
        assert first == second, "the same calls must give the same victims"
        assert len(set(first)) == len(first), "a block was drawn twice"
        assert set(first) <= self.resident.keys() - self.pinned, "drew what cannot leave"
        assert len(first) == min(drawn, len(self.resident.keys() - self.pinned))
        for position, digest in enumerate(first):
            if position not in kept:
                del self.resident[digest]

    @precondition(lambda self: self.resident)
    @rule()
    def evict_everything(self) -> None:
        """Removed as they are drawn, all that may leave do."""
        for policy in self.twins:
            left = self.resident.keys() - self.pinned
            for digest in policy.victims(self.now):
                left.remove(digest)
                policy.removed(digest)
            assert not left, "some blocks were never drawn"
        self.resident = {digest: SIZES[digest] for digest in sorted(self.pinned)}

    @invariant()
    def drawn_to_the_end_it_gives_all_that_may_leave_once(self) -> None:
        """And a look changes nothing: only one of the twins is looked at, and they stay alike."""
        order = list(self.twins[0].victims(self.now))
        assert sorted(order) == sorted(self.resident.keys() - self.pinned)


class PolicyContract:
    """What every policy must do. `make` is a fixture that gives a factory of fresh policies."""

    @pytest.fixture
    def make(self) -> Callable[[], Policy]:
        """Return the policy's factory; to be overridden."""
        raise NotImplementedError("give a fixture `make` that returns the policy's factory")

    def test_any_sequence_of_calls(self, make: Callable[[], Policy]) -> None:
        """Each resident once, never what is not here or pinned; deterministic."""
        machine: Any = type("Machine", (PolicyMachine,), {"factory": staticmethod(make)})
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=60,
                stateful_step_count=30,
                deadline=None,
                suppress_health_check=[HealthCheck.too_slow],
            ),
        )

    def test_steady_is_kept(self, make: Callable[[], Policy]) -> None:
        """A policy that says it is steady gives many victims at once as it does one by one."""
        twins = (make(), make())
        old, new = BLOCKS[:12], BLOCKS[12:]
        for policy in twins:
            policy.inserted_all([(digest, SIZES[digest]) for digest in old], 1.0)
            policy.hits(old[3::2] * 5, 2.0)
        if not twins[0].steady:
            return
        at_once = list(islice(twins[0].victims(3.0), len(new)))
        twins[0].removed_all(at_once)
        twins[0].inserted_all([(digest, SIZES[digest]) for digest in new], 3.0)
        one_by_one = []
        for digest in new:
            victim = next(twins[1].victims(3.0))
            twins[1].removed(victim)
            one_by_one.append(victim)
            twins[1].inserted(digest, SIZES[digest], 3.0)
        assert at_once == one_by_one
        assert list(twins[0].victims(4.0)) == list(twins[1].victims(4.0))

    def test_knows_nothing_at_first(self, make: Callable[[], Policy]) -> None:
        """An empty store has no victims."""
        assert list(make().victims(0.0)) == []

    def test_unknown_digests_are_ignored(self, make: Callable[[], Policy]) -> None:
        """A hit, removal, pin or request for what was never told changes nothing."""
        policy = make()
        policy.hit(BLOCKS[0], 1.0)
        policy.removed(BLOCKS[0])
        policy.pinned(BLOCKS[0])
        policy.unpinned(BLOCKS[0], 1.0)
        policy.forget(MODELS[0])
        policy.requested(MODELS[0], 1.0)
        assert list(policy.victims(1.0)) == []

    def test_a_known_block_that_is_not_here_is_no_victim(self, make: Callable[[], Policy]) -> None:
        """A manifest tells what belongs together, not what is here."""
        policy = make()
        policy.learn(MODELS[0], SIZES, None)
        policy.requested(MODELS[0], 1.0)
        assert list(policy.victims(1.0)) == []
        policy.inserted(BLOCKS[3], SIZES[BLOCKS[3]], 2.0)
        assert list(policy.victims(2.0)) == [BLOCKS[3]]

    def test_what_is_passed_over_is_offered_again(self, make: Callable[[], Policy]) -> None:
        """A leased block is skipped now and evictable later."""
        policy = make()
        for digest in BLOCKS:
            policy.inserted(digest, SIZES[digest], 1.0)
        first = next(iter(policy.victims(2.0)))
        assert next(iter(policy.victims(2.0))) == first

    def test_an_unfinished_iterator_may_be_left_alone(self, make: Callable[[], Policy]) -> None:
        """Keeping an old iterator around must not hide the blocks it drew."""
        policy = make()
        for digest in BLOCKS:
            policy.inserted(digest, SIZES[digest], 1.0)
        old = policy.victims(2.0)
        drawn = [next(old), next(old)]
        again = list(policy.victims(2.0))
        assert sorted(again) == sorted(BLOCKS)
        assert again[:2] == drawn
        assert old is not None

    def test_pinned_blocks_are_not_offered(self, make: Callable[[], Policy]) -> None:
        """Twice pinned and once unpinned is unpinned: the content store counts."""
        policy = make()
        for digest in BLOCKS[:4]:
            policy.inserted(digest, SIZES[digest], 1.0)
        policy.pinned(BLOCKS[1])
        policy.pinned(BLOCKS[1])
        assert BLOCKS[1] not in list(policy.victims(2.0))
        policy.unpinned(BLOCKS[1], 3.0)
        policy.unpinned(BLOCKS[1], 3.0)
        assert sorted(policy.victims(4.0)) == sorted(BLOCKS[:4])
