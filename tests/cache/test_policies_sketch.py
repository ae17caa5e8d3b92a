"""The count-min sketch: never too low, seldom too high, halved in time, and grown in place."""

import random
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from icnblocks.cache.policies.sketch import Sketch
from icnblocks.naming import Digest

HASHED = [Digest.of(number.to_bytes(4, "big")) for number in range(4000)]
COUNTED = [Digest(number.to_bytes(32, "big")) for number in range(4000)]
SHIFTED = [Digest((number << 240).to_bytes(32, "big")) for number in range(4000)]


@given(
    asked=st.lists(st.sampled_from(HASHED[:40]), max_size=600),
    fits=st.dictionaries(st.integers(0, 599), st.integers(0, 3000), max_size=3),
)
@settings(max_examples=60, deadline=None)
def test_it_never_counts_too_low(asked, fits):
    """A row that is grown or indexed wrongly loses counts."""
    sketch, exact = Sketch(), Counter()
    for position, block in enumerate(asked):
        if position in fits:
            before = {one: sketch.count(one) for one in HASHED[:40]}
            sketch.fit(fits[position])
            assert before == {one: sketch.count(one) for one in HASHED[:40]}
        sketch.add(block)
        exact[block] += 1
    if len(asked) < 640:  # not halved yet
        for block, count in exact.items():
            assert sketch.count(block) >= min(count, 15)


def test_digests_that_are_only_numbers_do_not_collide_more_than_hashes():
    """A trace may name its blocks 0, 1, 2, ...: taken as they are, all share their counters."""
    for blocks in (HASHED, COUNTED, SHIFTED):
        sketch = Sketch()
        sketch.fit(len(blocks))
        for block in blocks:
            sketch.add(block)
        wrong = sum(sketch.count(block) != 1 for block in blocks)
        assert wrong < len(blocks) / 100


def test_what_was_asked_for_long_ago_fades():
    """Without halving, the most popular blocks of last year would be admitted for ever."""
    sketch, rng = Sketch(), random.Random(1)
    for _ in range(12):
        sketch.add(HASHED[0])
    for _ in range(64 * 10 * 4):
        sketch.add(rng.choice(HASHED))
    assert sketch.count(HASHED[0]) < 12
