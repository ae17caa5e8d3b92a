"""The page of arithmetic shows what its command computes."""

import pytest

from benchmarks import scale


def test_the_page_shows_the_tables_as_they_are_computed():
    """Run `python -m benchmarks.scale --write` after a change of a default or a figure."""
    text = scale.DOCUMENT.read_text()
    assert scale.filled(text) == text


def test_the_optimum_is_that_of_a_broadcast():
    """(D/B)(1 + ceil(log2 N)/k): 8 blocks to 16 receivers take 12 block times."""
    assert scale.optimum(8 * 2**20, 2**20, 16) == pytest.approx(12)


def test_what_breaks_is_told_in_its_order():
    shares = [load.share for load in scale.loads()]
    assert shares == sorted(shares, reverse=True)
    assert all(load.remedy for load in scale.loads() if load.share > 1)
