"""The map from digest to place."""

from hypothesis import given, settings
from hypothesis import strategies as st

from icnblocks.naming import Digest
from icnblocks.store.places import Places

DIGESTS = st.binary(min_size=30, max_size=30).map(lambda raw: Digest(b"\0\0" + raw))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(DIGESTS, st.integers(0, 2**64 - 1), st.integers(1, 2**24))))
def test_it_agrees_with_a_dict(entries):
    """All in one bucket, so that records lie beside each other."""
    places, model = Places(), {}
    for digest, at, length in entries:
        if digest not in model:
            places.add(digest, at, length)
            model[digest] = (at, length)
    assert len(places) == len(model)
    for digest, place in model.items():
        assert digest in places
        assert places.get(digest) == place
    for digest, place in model.items():
        assert places.remove(digest) == place
        assert places.remove(digest) is None
    assert len(places) == 0


def test_a_digest_across_the_border_of_two_records():
    """Somebody who chooses blocks could make bytes that look like a digest, and are none."""
    places = Places()
    first, at, length = Digest(bytes(32)), 0x0101010101010101, 0x01010101
    places.add(first, at, length)
    places.add(Digest(b"\0\0" + b"\1" * 30), 5, 6)
    straddling = Digest((bytes(32) + b"\1" * 12)[12:])
    assert straddling[:2] == b"\0\0"
    assert places.get(straddling) is None
    assert places.remove(straddling) is None
    places.add(straddling, 7, 8)
    assert places.get(straddling) == (7, 8)
    assert places.get(first) == (at, length)
