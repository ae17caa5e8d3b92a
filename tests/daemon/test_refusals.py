"""What is remembered of questions that ended with a refusal."""

import pytest

from icnblocks.errors import NotFoundError
from icnblocks_daemon.refusals import Failures, Refusals


def test_refusals_are_bounded_and_keep_nothing_of_who_met_them():
    refusals = Failures(5.0, 3)
    for number in range(10):
        try:
            raise NotFoundError(f"no {number}", hint="look again")
        except NotFoundError as error:
            refusals.note(number, error, 1.0)
    assert len(refusals) == 3
    refusals.check(6, 1.0)
    for _ in range(2):
        with pytest.raises(NotFoundError, match="no 7") as told:
            refusals.check(7, 5.9)
        assert told.value.hint == "look again"
    assert all(error.__traceback__ is None for _, error in refusals._answers.values())
    refusals.check(7, 6.0)
    refusals.note(1, NotFoundError("no 1"), 6.0)
    assert len(refusals) == 1, "those that are over are let go"


def test_one_that_is_noted_again_lasts_from_then_on_and_with_0_s_none_does():
    refusals = Refusals(5.0, 2)
    for key, now in (("a", 0.0), ("b", 1.0), ("a", 2.0), ("c", 3.0)):
        refusals.note(key, f"{key} {now}", now)
    assert [refusals.recall(key, 6.9) for key in "abc"] == ["a 2.0", None, "c 3.0"]
    refusals.forget("c")
    assert [refusals.recall(key, 7.0) for key in "abc"] == [None] * 3
    never = Refusals(0.0)
    never.note("a", "no", 0.0)
    assert len(never) == 0
