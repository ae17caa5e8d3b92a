"""Whose turn it is: priority, age, and lines that do not hold up each other."""

from hypothesis import given, settings
from hypothesis import strategies as st

from icnblocks_daemon.turns import STEP_S, Turns

A, B, AB = ("http://a",), ("http://b",), ("http://a", "http://b")


def order(turns):
    passed, found = set(), []
    for serial, _ in turns.heads(passed):
        found.append(serial)
        turns.remove(serial)
    return found


def test_the_larger_priority_goes_first_and_equals_in_the_order_of_asking():
    turns = Turns()
    for serial, priority in enumerate([3, 3, 7, 0, 7, 3]):
        turns.add(serial, (A, None), 10, priority, 0.1 * serial)
    assert turns.waiting == 60
    assert order(turns) == [2, 4, 0, 1, 5, 3]
    assert turns.waiting == len(turns) == 0


def test_nobody_starves_however_many_urgent_ones_come():
    """Without ageing, the first would wait until no urgent one comes any more."""
    turns = Turns()
    turns.add(0, (A, None), 10, 0, 0.0)
    passed = set()
    for serial in range(1, 1000):
        turns.add(serial, (A, None), 10, 7, serial / 2)
        first, _ = next(turns.heads(passed))
        turns.remove(first)
        if first == 0:
            break
    assert first == 0
    assert serial / 2 <= 7 * STEP_S + 1


def test_a_line_without_room_holds_up_no_other():
    turns = Turns()
    turns.add(1, (A, None), 10, 3, 0.0)
    turns.add(2, (B, None), 10, 3, 1.0)
    turns.add(3, (A, None), 10, 7, 2.0)
    passed, found = set(), []
    for serial, line in turns.heads(passed):
        if line == (A, None):
            passed.add((A, None))
        else:
            found.append(serial)
            turns.remove(serial)
    assert found == [2]
    assert len(turns) == 2


def test_models_stand_in_lines_of_their_own():
    """One that its upstream is slow to give held up all others of the same upstream."""
    turns = Turns()
    turns.add(1, (A, "slow"), 10, 3, 0.0)
    turns.add(2, (A, "fast"), 10, 3, 1.0)
    heads = turns.heads(passed := set())
    assert next(heads) == (1, (A, "slow"))
    passed.add((A, "slow"))
    assert next(heads) == (2, (A, "fast"))


def test_many_lines_without_room_are_looked_at_once():
    """Each was looked at again for each: with 400 models that cost 18 ms a block that came."""

    class Line(tuple):
        __slots__ = ()
        looks = 0

        def __hash__(self):
            Line.looks += 1
            return super().__hash__()

    turns, passed = Turns(), set()
    lines = [Line((A, model)) for model in range(400)]
    for serial, line in enumerate(lines):
        turns.add(serial, line, 10, 3, 0.0)
    Line.looks = 0
    for _, line in turns.heads(passed):
        passed.add(line)
    assert len(passed) == 400
    assert Line.looks < 10 * 400


def test_one_that_became_urgent_goes_forward_and_not_back():
    turns = Turns()
    for serial in range(3):
        turns.add(serial, (A, None), 10, 3, 0.0)
    turns.add(2, ((), None), 0, 7, 1.0)
    turns.add(1, ((), None), 0, 0, 1.0)
    assert turns.waiting == 30, "it waits once"
    assert order(turns) == [2, 0, 1]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["add", "raise", "remove", "take"]),
            st.integers(0, 30),
            st.integers(0, 7),
            st.sampled_from([A, B, AB]),
        )
    )
)
def test_each_one_waits_until_it_is_taken_and_the_bytes_are_theirs(events):
    turns, known = Turns(), {}
    for now, (what, serial, priority, route) in enumerate(events):
        if what == "add" or (what == "raise" and serial in known):
            length = known.setdefault(serial, serial + 1)
            turns.add(serial, (route, None), length, priority, float(now))
        elif what == "remove":
            turns.remove(serial)
            known.pop(serial, None)
        elif what == "take":
            for found, _ in turns.heads(set()):
                turns.remove(found)
                del known[found]
                break
            else:
                assert not known
        assert (len(turns), turns.waiting) == (len(known), sum(known.values()))
    assert sorted(order(turns)) == sorted(known)
