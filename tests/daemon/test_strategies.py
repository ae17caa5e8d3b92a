"""Strategies, under a clock of the tests' own: what all of them must do."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icnblocks.errors import UsageError
from icnblocks.limits import KIB, MIB
from icnblocks_daemon.strategies import STRATEGIES, Failure, make_strategy
from icnblocks_daemon.strategies.standing import (
    FIRST_CORRUPT_REST_S,
    FIRST_REST_S,
    MOST_REST_S,
    Standing,
)
from tests.daemon.links import MODEL, Links

A, B, C = "http://a", "http://b", "http://c"
ALL = (A, B, C)


# --- what all of them must do -----------------------------------------------------------------


@pytest.fixture(params=sorted(STRATEGIES))
def strategy(request):
    return make_strategy(request.param)


def test_only_what_was_not_refused_is_chosen_and_nobody_when_all_refused(strategy):
    for refused in ((), (A,), (A, B), (B, C)):
        assert strategy.choose(ALL, refused, 0.0, MIB) in set(ALL) - set(refused)
    assert strategy.choose(ALL, ALL, 0.0, MIB) is None
    assert strategy.choose((), (), 0.0, MIB) is None


def test_choosing_changes_nothing(strategy):
    """It is asked again when room is there; a choice that counted would drift."""
    picked = [strategy.choose(ALL, (), 0.0, MIB) for _ in range(50)]
    assert len(set(picked)) == 1


def test_one_that_failed_is_passed_over_while_it_rests_twice_as_long_each_time(strategy):
    now, rest = 0.0, FIRST_REST_S
    for _ in range(9):
        strategy.failed(A, Failure.BROKEN, now)
        strategy.failed(A, Failure.BROKEN, now + rest / 2)  # of the same incident
        assert strategy.resting(A, now) == pytest.approx(rest)
        assert strategy.choose((A, B), (), now, MIB) == B
        now += strategy.resting(A, now)
        assert strategy.resting(A, now) == 0.0, "and it is tried again"
        rest = min(2 * rest, MOST_REST_S)
    strategy.answered(A, now)
    strategy.failed(A, Failure.BROKEN, now)
    assert strategy.resting(A, now) == pytest.approx(FIRST_REST_S), "an answer forgives"


def test_corrupt_blocks_rest_longer_and_are_not_forgiven_for_the_next_good_one(strategy):
    strategy.failed(A, Failure.CORRUPT, 0.0)
    assert strategy.resting(A, 0.0) == FIRST_CORRUPT_REST_S > FIRST_REST_S
    strategy.delivered(strategy.asked(A, MIB, 0.0), 0.1)
    assert strategy.resting(A, 0.1) > 7
    strategy.failed(A, Failure.CORRUPT, 20.0)
    assert strategy.resting(A, 20.0) == 2 * FIRST_CORRUPT_REST_S
    strategy.failed(B, Failure.BROKEN, 20.0)
    strategy.failed(B, Failure.CORRUPT, 20.1)
    assert strategy.resting(B, 20.1) == FIRST_CORRUPT_REST_S, "it counts while it rests for less"


def test_one_that_asks_to_be_left_alone_is(strategy):
    strategy.failed(A, Failure.BUSY, 0.0, least_s=30.0)
    assert strategy.resting(A, 0.0) == 30.0


def test_one_that_asks_to_be_left_alone_while_it_rests_already_is(strategy):
    """Catches: one that failed, and was then busy for 30 s, is given blocks after a second."""
    strategy.failed(A, Failure.BROKEN, 0.0)
    strategy.failed(A, Failure.BUSY, 0.5, least_s=30.0)
    assert strategy.choose((A, B), (), 1.5, MIB) == B
    assert strategy.resting(A, 0.5) == 30.0
    strategy.failed(A, Failure.BUSY, 1.0, least_s=2.0)
    assert strategy.resting(A, 1.0) == 29.5, "it is not left alone for less"


def test_when_all_rest_the_one_that_rests_shortest_is_asked(strategy):
    strategy.failed(A, Failure.BROKEN, 0.0)
    strategy.failed(B, Failure.BROKEN, 0.5)
    assert strategy.choose((A, B), (), 0.6, MIB) == A
    assert strategy.choose((A, B), (A,), 0.6, MIB) == B


def test_no_upstream_owes_more_than_its_window(strategy):
    """A long queue at one upstream cannot be taken back, nor overtaken by what is urgent."""
    owed = 0
    while strategy.may_ask(A, MIB, 0.0):
        strategy.asked(A, MIB, 0.0)
        owed += MIB
        assert owed <= 8 * MIB
    assert owed
    assert strategy.may_ask(B, MIB, 0.0)


def test_an_upstream_owes_a_window_of_all_models_together(strategy):
    """With a window for each of twelve, what was urgent came behind six seconds of others."""
    links = Links(strategy, a=10 * MIB)
    links.pull(40)
    for model in range(12):
        while strategy.may_ask(A, MIB, links.now, model):
            strategy.asked(A, MIB, links.now, model)
    standing = strategy.standing(A)
    assert standing.owed <= standing.window(links.now) + 2 * MIB, "a block over, and one beside"
    assert standing.window(links.now) == pytest.approx(5 * MIB, rel=0.1)


def test_models_that_an_upstream_is_slow_to_give_hold_up_no_other(strategy):
    """It waits for those itself, and has the other: that one has a window of its own then."""
    links = Links(strategy, a=10 * MIB)
    links.pull(40)
    standing = strategy.standing(A)
    for model in range(3):
        while strategy.may_ask(A, MIB, links.now, model):
            strategy.asked(A, MIB, links.now, model)
        links.now += 0.5
    slow = standing.owed
    assert not strategy.may_ask(A, MIB, links.now - 0.5, MODEL), "so far it may be its turn next"
    links.free[A] = links.now
    for _ in range(3):  # at the rate of the upstream, for as long as it takes
        assert links.pull(100) <= 10.0 * 1.2
        assert not strategy.may_ask(A, MIB, links.now, 0)
    assert standing.owed == slow


def test_a_quick_model_loses_its_own_window_when_it_stands_in_line(strategy):
    links = Links(strategy, a=10 * MIB)
    links.pull(40)
    line = []
    while strategy.may_ask(A, MIB, links.now, "line"):
        line.append(strategy.asked(A, MIB, links.now, "line"))
    probe = strategy.asked(A, MIB, links.now, MODEL)
    strategy.delivered(probe, links.now)
    own = []
    while strategy.may_ask(A, MIB, links.now, MODEL):
        own.append(strategy.asked(A, MIB, links.now, MODEL))
    assert len(own) == len(line) == 5
    for each in line:
        links.now += 0.1
        strategy.delivered(each, links.now)
    strategy.delivered(own[0], links.now + 0.1)
    more = 0
    while strategy.may_ask(A, MIB, links.now, "line"):
        strategy.asked(A, MIB, links.now, "line")
        more += 1
    assert more <= 2, "what it owes of the other counts again"


@pytest.mark.parametrize(("rate", "second"), [(MIB / 2, B), (20 * MIB, None)])
def test_those_who_may_not_ask_a_slow_one_are_given_what_it_owes_by_another(strategy, rate, second):
    """Catches: what is owed under one name is waited for under all; and that it comes twice from
    upstreams that are both well."""
    links = Links(strategy, a=rate, b=50 * MIB)
    for upstream in (A, B):
        links.ask(upstream)
        links.step()
    owed = [links.ask(A) for _ in range(2 if second else 10)]
    assert strategy.sooner(owed[-1], (B,), links.now) == second
    assert strategy.sooner(owed[-1], (), links.now) is None


def test_small_blocks_do_not_take_the_room_for_which_a_large_one_waits(strategy):
    """Room for one of a KiB would be taken by the next of a KiB, for ever."""
    links = Links(strategy, a=10 * MIB)
    links.pull(40)
    while strategy.may_ask(A, KIB, links.now):
        small = strategy.asked(A, KIB, links.now)
    strategy.let_go(small, links.now)
    assert strategy.may_ask(A, 16 * MIB, links.now)
    strategy.asked(A, 16 * MIB, links.now)
    assert not strategy.may_ask(A, KIB, links.now)


def test_one_that_is_busy_with_other_models_helps_where_another_stalled(strategy):
    asked = strategy.asked(A, MIB, 0.0, MODEL)
    while strategy.may_ask(B, MIB, 3.5, "other"):
        strategy.asked(B, MIB, 3.5, "other")
    assert strategy.second(asked, (B,), 3.5, idle=False) == B


def test_a_fast_upstream_is_given_a_window_in_which_it_stays_busy(strategy):
    links = Links(strategy, a=200 * MIB)
    assert links.pull(400) == pytest.approx(2.0, rel=0.05)
    assert strategy.standing(A).window(links.now) >= 50 * MIB


@pytest.mark.parametrize("kind", list(Failure))
def test_what_one_owes_that_failed_and_is_silent_is_asked_of_another(strategy, kind):
    asked = strategy.asked(A, MIB, 0.0)
    assert strategy.second(asked, (B,), 0.3, idle=False) is None, "late, but not failed"
    strategy.failed(A, kind, 0.3)
    assert strategy.second(asked, (B,), 0.4, idle=False) == B
    assert strategy.second(asked, (), 0.4, idle=False) is None
    strategy.failed(B, Failure.BROKEN, 0.4)
    assert strategy.second(asked, (B,), 0.5, idle=False) is None, "the other is no better"


def test_one_that_stalls_is_demoted_where_there_is_another(strategy):
    asked = strategy.asked(A, MIB, 0.0)
    assert strategy.second(asked, (), 10.0, idle=False) is None
    assert strategy.resting(A, 10.0) == 0.0
    assert strategy.second(asked, (B,), 10.0, idle=False) == B
    assert strategy.resting(A, 10.0) > 0


def test_one_that_gave_nothing_while_another_gave_the_same_is_slow(strategy):
    asked = strategy.asked(A, MIB, 0.0)
    second = strategy.asked(B, MIB, 1.0)
    strategy.delivered(second, 1.1)
    strategy.overtaken(asked, 1.1)
    strategy.let_go(asked, 1.1)
    assert strategy.resting(A, 1.1) == pytest.approx(FIRST_REST_S)
    assert strategy.standing(A).why is Failure.SLOW
    strategy.delivered(strategy.asked(A, MIB, 1.2), 1.3)
    assert strategy.resting(A, 1.3) == 0.0, "it gives again"


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(sorted(STRATEGIES)),
    events=st.lists(
        st.tuples(
            st.sampled_from(["ask", "delivered", "lacked", "let_go", "failed", "second"]),
            st.integers(0, 5),
            st.sampled_from([0.0, 0.01, 0.4, 7.0]),
        ),
        max_size=80,
    ),
)
def test_whatever_happens_the_books_balance(name, events):
    """What is owed is what was asked for and has not ended; a leak would close the window."""
    strategy, now, open_ = make_strategy(name), 0.0, []
    for what, which, seconds in events:
        now += seconds
        if what == "ask":
            upstream = strategy.choose(ALL, ALL[: which % 3], now, MIB, which * MIB)
            if strategy.may_ask(upstream, MIB, now):
                open_.append(strategy.asked(upstream, MIB, now))
        elif what == "failed":
            strategy.failed(ALL[which % 3], list(Failure)[which % 4], now)
        elif open_:
            asked = open_[which % len(open_)]
            if what == "second":
                others = tuple(one for one in ALL if one != asked.upstream)
                second = strategy.second(asked, others, now, idle=bool(which % 2))
                assert second is None or second in others
            else:
                open_.remove(asked)
                getattr(strategy, what)(asked, now)
        for upstream in ALL:
            standing = strategy.standing(upstream)
            assert standing.owed == sum(each.length for each in open_ if each.upstream == upstream)
            assert standing.rate(now) is None or standing.rate(now) > 0
            assert 0 < standing.found <= 1
            assert standing.silence(now) >= 0
            assert 0 <= strategy.resting(upstream, now) <= 600


def test_another_strategy_goes_on_with_what_is_known(strategy):
    strategy.failed(A, Failure.BROKEN, 0.0)
    asked = strategy.asked(B, MIB, 0.0)
    for name in STRATEGIES:
        other = make_strategy(name)
        other.take_over(strategy)
        assert other.resting(A, 0.0) > 0
        assert other.standing(B).owed == asked.length


# --- specs ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spec", ["magic", "hedge:x=1", "hedge:quantile=2", "spread:a", "best:probe=x", ""]
)
def test_a_wrong_spec_is_one_line_with_a_hint(spec):
    with pytest.raises(UsageError) as caught:
        make_strategy(spec)
    assert "\n" not in str(caught.value)
    assert "policy" not in str(caught.value)
    assert caught.value.hint


def test_failover_is_understood():
    assert make_strategy("failover").name == "fail-over"


def test_patience_is_of_what_was_measured_last_however_often_it_was_asked_for():
    """It is kept until another block comes: a thousand blocks are looked at 20 times a second."""
    standing, now = Standing(), 0.0
    for seconds in (0.01, 0.5):
        for _ in range(128):
            asked = standing.asked(A, MIB, now)
            now += seconds
            standing.delivered(asked, now)
            standing.patience(0.95)
        kept = standing._ranked
        assert standing.patience(0.95) == pytest.approx(seconds)
        assert standing._ranked is kept, "sorted once"


def test_models_that_anybody_makes_up_are_not_remembered_for_as_long_as_it_is_busy() -> None:
    standing = Standing()
    for _ in range(8):
        standing.asked("u", MIB, 0.0, "large")
    for number in range(5000):
        standing.delivered(standing.asked("u", 1000, 1.0, number), 1.0)
    assert len(standing._quick) <= 1024
