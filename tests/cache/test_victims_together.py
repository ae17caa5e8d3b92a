"""Victims that are drawn and removed several at a time are the same as one by one.

Guards a walk that took blocks for kept which were removed together after it had passed on: it
left out as many of the blocks behind them.
"""

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icnblocks.cache.policy import POLICIES, make_policy
from icnblocks.naming import Digest

BLOCKS = [Digest.of(b"%d" % number) for number in range(60)]
make_policy("lru")  # registers the built-in ones


def planned():
    """All blocks are held by a plan."""
    policy = make_policy("sharing", 1000)
    policy.learn(BLOCKS[0], dict.fromkeys(BLOCKS, 10), None)
    policy.requested(BLOCKS[0], 0.0)
    policy.inserted_all([(digest, 10) for digest in BLOCKS], 0.0)
    return policy


def test_what_a_plan_holds_is_offered_again_while_an_older_look_is_not_over():
    """Catches: whoever keeps an iterator hides the group that it came to from the next one."""
    policy = planned()
    old = policy.victims(1.0)
    first = next(old)
    assert list(policy.victims(1.0)) == BLOCKS
    policy.removed(first)
    assert next(policy.victims(1.0)) == BLOCKS[1]
    assert old is not None


def filled(name):
    policy = make_policy(name, 1000)
    policy.inserted_all([(digest, 10) for digest in BLOCKS], 0.0)
    policy.hits(BLOCKS[::3], 1.0)
    return policy


@pytest.mark.parametrize("name", sorted(POLICIES))
@given(counts=st.lists(st.integers(1, 9), min_size=1, max_size=8))
def test_drawn_together_or_one_by_one(name, counts):
    together, single = filled(name), filled(name)
    drawn, expected = [], []
    victims, others = together.victims(2.0), single.victims(2.0)
    for count in counts:
        leaving = list(islice(victims, count))
        together.removed_all(leaving)
        drawn += leaving
        for digest in islice(others, count):
            single.removed(digest)
            expected.append(digest)
    assert drawn == expected
