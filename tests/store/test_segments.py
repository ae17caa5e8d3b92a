"""Stretches of segments that are given back together, and segments that are removed."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from icnblocks.store.disk import DiskStore
from icnblocks.store.segments import PAGE, PAGE_BITS, footprint, runs, segment_of
from icnblocks.testing.faults import segment_files
from icnblocks.testing.store_contract import block, put

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


def test_a_commit_looks_at_no_segment_that_only_has_blocks(tmp_path):
    """Catches: every segment that was ever filled was looked at in every commit; where each block
    has a file of its own, that were all blocks of the store, for each 256 of them.
    """
    with DiskStore(tmp_path / "store", one_per_file=True) as store:
        digests = [put(store, block(n, 4096)) for n in range(600)]
        store.flush()
        assert len(store._emptied) <= 1
        for digest in digests[:300]:
            store.erase(digest)
        store.flush()
        assert len(store._emptied) <= 1
        assert len(list(segment_files(tmp_path / "store"))) == 300
