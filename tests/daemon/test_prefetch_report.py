"""What is told of a plan of which much cannot be had, and the exit code that follows from it."""

import pytest

from icnblocks.errors import IncompleteError, NotFoundError, RefusedError, SourceError
from icnblocks_daemon.prefetch_cli import _conclude
from icnblocks_daemon.prefetch_order import Entry, Order
from icnblocks_daemon.prefetch_report import TOLD_FAILURES, report


def told(*errors):
    """Of a plan with a model for each error; None: it is here."""
    entries = []
    for number, error in enumerate(errors):
        entries.append(Entry(f"acme/m{number}", pin=True, progress="todo" if error else "done"))
        if error is not None:
            entries[-1].fail(error)
    waits_for = "retry" if any(entry.progress == "todo" for entry in entries) else ""
    return report(Order("1d", entries), 0, waits_for, bool(waits_for), failures=True)


UNKNOWN = [NotFoundError("nobody knows it")] * (2 * TOLD_FAILURES)


def test_all_that_fail_are_counted_though_some_are_named():
    with pytest.raises(NotFoundError, match=f"^{2 * TOLD_FAILURES} of {2 * TOLD_FAILURES + 1} "):
        _conclude(told(None, *UNKNOWN), wait=True)


@pytest.mark.parametrize("other", [RefusedError("no room"), SourceError("away")])
def test_what_fails_otherwise_is_not_hidden_behind_many_unknown_ones(other):
    """The exit code was that of the first hundred: "not known", though it is worth another try."""
    found = told(*UNKNOWN, other)
    assert len(found["failures"]) == TOLD_FAILURES
    assert [one["model"] for one in found["failures"]][:2] == ["acme/m0", "acme/m1"]
    with pytest.raises(IncompleteError, match=f"^{len(UNKNOWN) + 1} of {len(UNKNOWN) + 1} "):
        _conclude(found, wait=True)


def test_who_does_not_wait_hears_of_what_is_given_up_only():
    _conclude(told(SourceError("away")), wait=False)
    with pytest.raises(NotFoundError, match=r"^1 of 2 "):
        _conclude(told(SourceError("away"), NotFoundError("unknown")), wait=False)


def test_what_cannot_be_had_is_not_pinned():
    assert told(None, *UNKNOWN)["models"]["pinned"] == 1
