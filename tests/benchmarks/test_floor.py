"""What the floor of a pull fetches and takes over: all of a model, once."""

from benchmarks.suite.floor import Stretch, halves, stretches
from icnblocks.testing.models import half_frozen, write_llama


def size(parts: list[Stretch]) -> int:
    return sum(part.end - part.start for part in parts)


def test_what_a_base_has_is_shared_and_the_rest_is_fetched_in_two_halves(tmp_path):
    base = write_llama(tmp_path / "base", layers=2, hidden=64, intermediate=128, vocabulary=500)
    variant = half_frozen(base, tmp_path / "variant")
    parts = stretches(variant, base)
    lengths = {path.name: path.stat().st_size for path in variant.iterdir()}
    for name, length in lengths.items():
        mine = [part for part in parts if part.path == name]
        assert [part.start for part in mine] == [0, *(part.end for part in mine[:-1])]
        assert mine[-1].end == length
    for part in parts:
        here, there = ((root / part.path).read_bytes() for root in (variant, base))
        assert part.shared == (here[part.start : part.end] == there[part.start : part.end])
    assert {part.shared for part in parts} == {True, False}
    first, second = halves(parts)
    assert size(first) == size(parts) // 2
    assert size(first) + size(second) == size(parts)
