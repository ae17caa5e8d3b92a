"""What each strategy is for: best, spread and hedge, under a clock of the tests' own."""

import pytest

from icnblocks.limits import MIB
from icnblocks_daemon.strategies import make_strategy
from icnblocks_daemon.strategies.hedge import Hedge
from tests.daemon.links import Links

A, B, C = "http://a", "http://b", "http://c"


# --- best -------------------------------------------------------------------------------------


def test_best_finds_the_fastest_and_stays_with_it():
    links = Links(make_strategy("best"), a=10 * MIB, b=50 * MIB, c=5 * MIB)
    links.pull(200)
    assert links.given[B] > 150
    assert 1 <= links.given[C] <= 8


def test_best_notices_one_that_has_become_faster():
    """Nothing is wrong with the other, so that only trying it tells."""
    links = Links(make_strategy("best"), a=10 * MIB, b=50 * MIB)
    links.pull(300)
    links.rates[A] = 200 * MIB
    before = dict(links.given)
    links.pull(1500)
    assert links.given[A] - before[A] > 700


def test_best_does_not_wait_for_room_at_one_that_it_tries():
    """A slow one whose window of the model is full stood in the way of the fast one."""
    links = Links(make_strategy("best"), a=20 * MIB, b=MIB)
    assert links.pull(300) <= 300 / 20


def test_best_leaves_one_that_has_become_slow():
    links = Links(make_strategy("best"), a=10 * MIB, b=50 * MIB)
    links.pull(300)
    links.rates[B] = 2 * MIB
    before = dict(links.given)
    links.pull(300)
    assert links.given[A] - before[A] > 200


def test_best_changes_only_for_one_that_is_clearly_better():
    """Two that are alike would take turns, each measured by single blocks."""
    strategy, now = make_strategy("best"), 0.0
    for _ in range(2):
        for upstream, seconds in ((B, 0.9), (A, 1.0)):
            for _ in range(5):
                asked = strategy.asked(upstream, MIB, now)
                now += seconds
                strategy.delivered(asked, now)
    assert strategy.choose((A, B), (), now, MIB) == A, "B is a tenth faster"
    for _ in range(5):
        asked = strategy.asked(B, MIB, now)
        now += 0.3
        strategy.delivered(asked, now)
    strategy.asked(A, MIB, now)
    assert strategy.choose((A, B), (), now, MIB) == B


def test_best_leaves_one_that_is_fast_and_has_nothing():
    strategy, now = make_strategy("best"), 0.0
    for number in range(60):
        for upstream in (A, B):
            asked = strategy.asked(upstream, MIB, now)
            now += 0.01 if upstream == A else 0.02
            if upstream == B or number < 5:
                strategy.delivered(asked, now)
            else:
                strategy.lacked(asked, now)
    assert strategy.choose((A, B), (), now, MIB) == B


# --- spread -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rates",
    [
        {"a": 25e6, "b": 25e6},
        {"a": 10e6, "b": 40e6},
        {"a": 30e6, "b": 20e6, "c": 1e6},
        {"a": 4e6, "b": 1e6},  # b takes longer for a block than a's window lasts
    ],
)
def test_spread_uses_the_sum_of_the_rates(rates):
    links = Links(make_strategy("spread"), **rates)
    took = links.pull(250)
    assert took <= 250 * MIB / sum(rates.values()) * 1.08
    for name, rate in rates.items():
        share = links.given[f"http://{name}"] / 250
        assert share == pytest.approx(rate / sum(rates.values()), abs=0.06)


def test_spread_gives_a_slow_one_none_of_the_last_blocks():
    links = Links(make_strategy("spread"), a=100e6, b=0.5e6)
    links.pull(300)
    began = links.now
    links.pull(20)
    assert links.now - began < 1.0, "a block of the slow one would take 2 s"


def test_spread_passes_over_one_that_has_nothing():
    """It never owes anything, so that by that alone it would always be the next to be asked."""
    strategy, now, asked_of = make_strategy("spread"), 0.0, {A: 0, B: 0}
    for _ in range(300):
        upstream = strategy.choose((A, B), (), now, MIB, 100 * MIB)
        asked_of[upstream] += 1
        asked = strategy.asked(upstream, MIB, now)
        now += 0.04
        (strategy.lacked if upstream == A else strategy.delivered)(asked, now)
    assert asked_of[A] < 60


def test_at_the_tail_an_idle_one_is_asked_for_what_another_is_late_with():
    strategy = make_strategy("spread")
    links = Links(strategy, a=25e6, b=25e6)
    links.pull(100)
    now = links.now
    late = [strategy.asked(A, MIB, now) for _ in range(8)]
    assert strategy.second(late[-1], (B,), now + 0.01, idle=False) is None, "others wait for B"
    assert strategy.second(late[-1], (B,), now + 0.01, idle=True) == B
    assert strategy.second(late[0], (B,), now + 0.01, idle=True) is None, "it comes at once"
    strategy.asked(B, MIB, now)
    assert strategy.second(late[-1], (B,), now + 0.01, idle=True) is None, "B is not idle"


# --- hedge ------------------------------------------------------------------------------------


def late_block(hedge, quick=0.02, blocks=60):
    now = 0.0
    for number in range(blocks):
        asked = hedge.asked(A, MIB, now)
        now += quick * (1 + number % 3 / 10)
        hedge.delivered(asked, now)
    return hedge.asked(A, MIB, now), now


def test_hedge_asks_a_second_when_the_first_is_late_beyond_its_own_history():
    hedge = make_strategy("hedge")
    asked, now = late_block(hedge)
    assert hedge.second(asked, (B,), now + 0.03, idle=False) is None
    assert hedge.second(asked, (B,), now + 0.06, idle=False) == B
    slow = make_strategy("hedge")
    asked, now = late_block(slow, quick=0.5)
    assert slow.second(asked, (B,), now + 0.4, idle=False) is None, "that is usual for this one"
    assert slow.second(asked, (B,), now + 0.9, idle=False) == B


def test_hedge_waits_for_what_was_asked_of_it_before():
    hedge = make_strategy("hedge")
    _, now = late_block(hedge)
    queue = [hedge.asked(A, MIB, now) for _ in range(10)]
    assert hedge.second(queue[-1], (B,), now + 0.1, idle=False) is None, "its turn comes later"


def test_hedge_does_not_take_a_stall_for_a_long_queue():
    """What was asked of it before was due long ago."""
    hedge = make_strategy("hedge")
    _, now = late_block(hedge, blocks=20)
    queue = [hedge.asked(A, MIB, now) for _ in range(60)]
    assert hedge.second(queue[-1], (B,), now + 2.0, idle=False) == B


def test_hedge_asks_twice_for_a_share_only():
    hedge = Hedge(share=0.1)
    asked, now = late_block(hedge)
    twice = 0
    for _ in range(500):
        now += 0.001
        if hedge.second(asked, (B,), now + 0.08, idle=False):
            twice += 1
        strange = hedge.asked(C, MIB, now)
        hedge.delivered(strange, now + 0.0005)
    assert 40 <= twice <= 56, "a tenth, and 4 at once at the beginning"


def test_hedge_is_patient_with_one_of_which_nothing_is_known():
    hedge = make_strategy("hedge")
    asked = hedge.asked(A, MIB, 0.0)
    assert hedge.second(asked, (B,), 0.9, idle=False) is None
    assert hedge.second(asked, (B,), 1.1, idle=False) == B
