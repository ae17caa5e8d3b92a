"""What `sharing` knows of demand: estimates that fit the demand, and survive a restart."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icnblocks.cache.planning import Planner, Priced, Remembering, solve
from icnblocks.cache.planning.rates import Rates
from icnblocks.cache.policy import make_policy
from icnblocks.errors import FormatError
from icnblocks.naming import Digest

BLOCK = 4096


def name(*parts):
    return Digest.of(repr(parts).encode())


def learnt(models=12, capacity=20, known=None):
    """A policy that knows models of four blocks, two of them shared by three models each."""
    policy = make_policy("sharing:objective=hits", capacity * BLOCK)
    for model in known if known is not None else range(models):
        blocks = [(model, 0), (model, 1), ("base", model // 3, 0), ("base", model // 3, 1)]
        policy.learn(name("m", model), {name(block): BLOCK for block in blocks}, None)
    return policy


def demand(count, seed=3, models=12):
    rng = np.random.default_rng(seed)
    chance = 1 / np.arange(1, models + 1)
    return rng.choice(models, count, p=chance / chance.sum())


def ask(policy, wanted):
    for step, model in enumerate(wanted):
        policy.requested(name("m", int(model)), float(step))


def test_sharing_plans_remembers_and_is_priced():
    """The driver asks with isinstance; a renamed method would switch planning off silently."""
    policy = make_policy("sharing", 1)
    assert isinstance(policy, Planner)
    assert isinstance(policy, Remembering)
    assert isinstance(policy, Priced)
    assert not isinstance(make_policy("lru", 1), Planner | Remembering | Priced)


def test_without_a_capacity_nothing_is_planned_in_a_roll_out_either():
    """Catches: a failed assertion once what was asked for just now is asked for again."""
    policy = make_policy("sharing")
    for model in range(50):
        policy.learn(name("m", model), {name(model): BLOCK}, None)
    ask(policy, [0] * 3000)
    policy.inserted(name(0), BLOCK, 3000.0)
    assert list(policy.victims(3000.0)) == [name(0)]


@pytest.mark.parametrize("order", ["learnt first", "learnt after"])
def test_a_restart_changes_no_plan(order):
    before = learnt()
    ask(before, demand(500))
    state = before.state(500.0)
    after = learnt() if order == "learnt first" else learnt(known=[])
    after.restore(state, 0.0, 0.0)
    if order == "learnt after":
        for model in range(12):
            blocks = [(model, 0), (model, 1), ("base", model // 3, 0), ("base", model // 3, 1)]
            after.learn(name("m", model), {name(block): BLOCK for block in blocks}, None)
    for policy in (before, after):
        ask(policy, demand(100, seed=4))
    plans = [solve(policy.problem(600.0)) for policy in (before, after)]
    assert (plans[0].kept == plans[1].kept).all()
    # What was asked for just before the restart is not told apart any more.
    assert plans[0].value == pytest.approx(plans[1].value, rel=1e-3)


def test_a_plan_is_due_at_once_after_a_restart():
    """What is here was brought by an older plan; without one it would leave in any order."""
    before = learnt()
    ask(before, demand(500))
    after = learnt()
    after.restore(before.state(0.0), 0.0, 0.0)
    assert after.plan_due(0.0)


def test_a_long_absence_makes_room_for_new_demand():
    """Counts from a month ago must not outweigh a day of requests."""
    state = learnt()
    ask(state, [0] * 2000)
    shares = []
    for elapsed in (0.0, 60 * 86_400.0):
        after = learnt()
        after.restore(state.state(0.0), 0.0, elapsed)
        ask(after, [1] * 20)
        rates = after._rates.rates()
        shares.append(rates[1] / rates[:2].sum())
    assert shares[0] < 0.5
    assert shares[1] > shares[0] + 0.2


@pytest.mark.parametrize("more", [0, 60])
def test_a_long_absence_changes_no_proportions(more):
    """Catches: rates 16 times too low after 28 days, of all models but those nobody asked for.

    Also of one that came just before: it had its chances in the last requests only.
    """
    before = learnt(11)
    ask(before, demand(4000, models=11))
    before.learn(name("m", 11), {name("own"): BLOCK}, None)
    ask(before, [int(model) if step % 3 else 11 for step, model in enumerate(demand(90, 5, 11))])
    found = []
    for elapsed in (0.0, 28 * 86_400.0):
        after = learnt(11)
        after.learn(name("m", 11), {name("own"): BLOCK}, None)
        after.restore(before.state(0.0), 0.0, elapsed)
        ask(after, demand(more, seed=6, models=11))
        found.append(after._rates.rates()[[0, 1, 2, 11]])
        usual = [after._rates.now(row) for row in range(3)]
        assert found[-1][:3] == pytest.approx(usual, rel=0.03)
    assert more or found[1] == pytest.approx(found[0], rel=0.35)  # less of it: nearer to equal


def test_a_model_that_is_met_again_late_has_what_it_would_have_had():
    """Catches: one whose manifest came after a restart, whose rate stood still until then."""
    before = learnt()
    ask(before, demand(500))
    policies = learnt(), learnt(known=range(11))
    for policy in policies:
        policy.restore(before.state(0.0), 0.0, 7 * 86_400.0)
        ask(policy, demand(300, seed=4, models=11))
    blocks = [(11, 0), (11, 1), ("base", 3, 0), ("base", 3, 1)]
    policies[1].learn(name("m", 11), {name(block): BLOCK for block in blocks}, None)
    first, after = (policy._rates.rates()[11] for policy in policies)
    assert after == pytest.approx(first, rel=0.01)


def test_damaged_states_are_refused_and_change_nothing():
    before = learnt()
    ask(before, demand(50))
    state = before.state(0.0)
    for damaged in (b"", b"\x80", b"\x01", state[:-1], state[:40], state.replace(b"seen", b"seem")):
        after = learnt()
        with pytest.raises(FormatError):
            after.restore(damaged, 0.0, 0.0)
        assert after._rates.requests == 0


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_no_bytes_but_a_format_error(data):
    """A flipped byte may go unseen (the daemon keeps a checksum), but never leads astray."""
    policy = learnt(models=3)
    ask(policy, [0, 1, 1])
    state = bytearray(policy.state(0.0))
    for _ in range(data.draw(st.integers(1, 4))):
        state[data.draw(st.integers(0, len(state) - 1))] = data.draw(st.integers(0, 255))
    after = learnt(models=3)
    try:
        after.restore(bytes(state), 0.0, 0.0)
    except FormatError:
        return
    ask(after, [2])
    plan = solve(after.problem(1.0))
    assert np.isfinite(plan.rank).all()
    assert plan.kept.sum() <= 20 * BLOCK


def test_rates_come_near_the_demand():
    rates = Rates()
    rows = [rates.add() for _ in range(12)]
    for model in demand(8000):
        rates.asked(rows[model])
    truth = 1 / np.arange(1, 13)
    truth /= truth.sum()
    assert np.abs(rates.rates() - truth).max() < 0.02
    assert rates.rates().sum() == pytest.approx(1, abs=0.02)


def test_memory_is_long_while_demand_stands_still_and_short_when_it_changed():
    """One half-life for both would be a compromise for both."""
    rates = Rates()
    rows = [rates.add() for _ in range(12)]
    for model in demand(20_000):
        rates.asked(rows[model])
    still = rates.memory()
    for model in demand(1500, seed=9):
        rates.asked(rows[11 - model])
    assert still > 10_000
    assert rates.memory() < 4000
    assert rates.rates().argmax() == 11


def test_rows_that_are_used_again_begin_anew():
    rates = Rates()
    first = rates.add()
    for _ in range(100):
        rates.asked(first)
    rates.drop(first)
    again = rates.add()
    assert again == first
    other = rates.add()
    rates.asked(other)
    assert rates.rates()[other] > rates.rates()[again]


def test_counts_never_overflow():
    """The scale of the shortest half-life grows by 2^(1/500) a request."""
    rates = Rates()
    rows = [rates.add(), rates.add()]
    rates._scale = [1e199] * len(rates._scale)
    rates._counts = [[1e199, 1e198] for _ in rates._scale]
    for _ in range(5000):
        rates.asked(rows[0])
    assert max(rates._scale) < 1e201
    assert np.isfinite(rates.rates()).all()
    assert rates.rates()[0] > 0.9


def test_what_was_learnt_of_the_only_model_asked_for_survives():
    """Catches: an edge with one model, and then a variant of it, that begins anew at each start."""
    policy = learnt(1)
    for count in range(1, 200):
        ask(policy, [0])
        variant = {name((0, 0)): BLOCK, name((count, 1)): BLOCK}
        policy.learn(name("variant", count), variant, None)
        make_policy("sharing", BLOCK).restore(policy.state(0.0), 0.0, 0.0)
        policy.forget(name("variant", count))
