"""One question to several sources: who is slow is not waited for, and nobody is asked in vain."""

import threading

import pytest

from icnblocks.client.hedged import FLOW_BYTES, answers
from icnblocks.errors import NotFoundError, SourceError


class Sources:
    """Named sources: each answers with its name, fails, or waits until it is let go."""

    def __init__(self, **answers):
        self.names = list(answers)
        self._answers = answers
        self.asked = []

    def ask(self, name):
        self.asked.append(name)
        answer = self._answers[name]
        if isinstance(answer, threading.Event):
            assert answer.wait(20)
            return name
        if isinstance(answer, Exception):
            raise answer
        return answer


def first(sources, **options):
    """The first answer that is none of their errors."""
    for answer in answers(sources.names, sources.ask, **options):
        try:
            return answer()
        except SourceError:
            continue
    return None


def test_the_first_is_enough():
    sources = Sources(one="1", two="2")
    assert first(sources, slow_s=20.0) == "1"
    assert sources.asked == ["one"]


def test_one_that_stalls_is_not_waited_for_and_not_forgotten():
    """Catches: a pull that stands for minutes though its second source is well."""
    go = threading.Event()
    sources = Sources(stalled=go, well="2")
    came = answers(sources.names, sources.ask, slow_s=0.01)
    assert next(came)() == "2"
    go.set()
    assert next(came)() == "stalled"
    assert next(came, None) is None


@pytest.mark.parametrize(("flows", "asked"), [(1000, ["long"]), (3, ["long", "next"])])
def test_of_whom_a_long_answer_comes_the_next_is_asked_only_when_that_ends(flows, asked):
    """Catches: a manifest of megabytes over a thin link, from each of its sources at once."""
    go, looks = threading.Event(), []

    def coming(name):
        looks.append(name)
        if len(looks) == 6:
            go.set()
        return FLOW_BYTES * min(len(looks), flows)

    sources = Sources(long=go, next="next")
    came = answers(sources.names, sources.ask, slow_s=0.02, coming=coming)
    assert next(came)() == asked[-1]
    assert sources.asked == asked
    go.set()


def test_nobody_is_waited_for_beyond_the_time_that_there_is():
    go = threading.Event()
    sources = Sources(one=go, two=go)
    came = list(answers(sources.names, sources.ask, slow_s=0.01, within_s=0.05))
    go.set()
    [answer] = came
    with pytest.raises(SourceError, match="no source has answered"):
        answer()
    assert sources.asked == ["one", "two"]


def test_after_one_that_fails_the_next_is_asked_at_once():
    sources = Sources(one=SourceError("gone"), two="2")
    assert first(sources, slow_s=20.0) == "2"


def test_when_all_fail_all_were_heard():
    sources = Sources(one=SourceError("gone"), two=SourceError("gone too"))
    assert first(sources, slow_s=20.0) is None
    assert sources.asked == ["one", "two"]


def test_an_error_that_the_caller_does_not_expect_reaches_it():
    """Catches: a mistake on a thread that leaves the caller waiting for ever."""
    sources = Sources(one=ValueError("a mistake"), two="2")
    with pytest.raises(ValueError, match="a mistake"):
        first(sources, slow_s=20.0)


def test_one_alone_is_asked_on_the_thread_of_the_caller():
    sources = Sources(one=NotFoundError("no"))
    with pytest.raises(NotFoundError):
        next(answers(sources.names, lambda name: (threading.current_thread(), sources.ask(name))))()
    assert list(answers([], sources.ask)) == []
