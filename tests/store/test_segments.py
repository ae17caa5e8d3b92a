"""Stretches of segments that are given back together."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from icnblocks.store.segments import PAGE, PAGE_BITS, footprint, runs, segment_of

START = (3 << PAGE_BITS) - 6
"""A few pages before a segment ends: addresses go on in the next one, bytes do not."""


@given(st.lists(st.tuples(st.integers(1, 3 * PAGE), st.booleans()), max_size=12), st.randoms())
def test_just_the_pages_of_what_was_erased_are_given_back(blocks, random):
    """Catches: a hole over a block that is still there, or across two segments."""
    at, erased, pages = START, [], set()
    for length, gone in blocks:
        size = footprint(length) // PAGE
        if segment_of(at) != segment_of(at + size - 1):
            at = segment_of(at + size) << PAGE_BITS  # a block lies in one segment
        if gone:
            erased.append((at, length))
            pages.update(range(at, at + size))
        at += size
    random.shuffle(erased)
    found = [(first, length // PAGE) for first, length in runs(erased)]
    given_back = [page for first, count in found for page in range(first, first + count)]
    assert sorted(given_back) == sorted(pages)
    assert all(segment_of(first) == segment_of(first + count - 1) for first, count in found)
    for (first, count), (following, _) in pairwise(found):
        assert first + count < following or segment_of(following) != segment_of(first)
