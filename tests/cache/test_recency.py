"""What was asked for just now: told from what is usual, and forgotten where there is none."""

import random

import numpy as np
import pytest

from icnblocks.cache.planning.rates import Rates
from icnblocks.cache.planning.recency import Recency

MODELS = 100
USUAL = 1 / MODELS


def after(wanted):
    recency = Recency()
    for row in wanted:
        recency.asked(row, USUAL)
    return recency


def drawn(count, seed=1):
    rng = random.Random(seed)
    return [rng.randrange(MODELS) for _ in range(count)]


def repeated(count, seed=1):
    """Seven of ten requests repeat one of the last four."""
    rng, last = random.Random(seed), [0]
    for _ in range(count):
        last.append(rng.choice(last[-4:]) if rng.random() < 0.7 else rng.randrange(MODELS))
    return last


def test_where_all_is_as_usual_nothing_is_made_of_it():
    recency = after(drawn(3000))
    assert recency.turnover() == 0
    assert recency.rate(5, USUAL) == USUAL
    assert (recency.mixed(np.full(MODELS, USUAL)) == USUAL).all()


def test_what_is_asked_for_again_is_expected_again():
    wanted = repeated(1000)
    recency = after(wanted)
    assert recency.turnover() > 0.02
    rates = recency.mixed(np.full(MODELS, USUAL))
    assert rates.sum() == pytest.approx(1.0, rel=0.01)
    assert rates[wanted[-1]] > 10 * USUAL
    assert rates[wanted[-1]] == pytest.approx(recency.rate(wanted[-1], USUAL))
    unasked = next(row for row in range(MODELS) if row not in wanted[-300:])
    assert rates[unasked] < USUAL / 2


def test_the_share_rises_with_the_first_surge_and_falls_after_it():
    recency = after(drawn(2000))
    for row in repeated(150, seed=2):
        recency.asked(row, USUAL)
    assert recency.turnover() > 0
    for row in drawn(1500, seed=3):
        recency.asked(row, USUAL)
    assert recency.turnover() == 0


def test_how_likely_a_request_was_usual():
    recency = after(repeated(1000))
    last = repeated(1000)[-1]
    assert recency.asked(last, USUAL) < 0.3
    absent = next(row for row in range(MODELS) if recency.rate(row, 0.0) == 0.0)
    assert recency.asked(absent, USUAL) == 1.0


def test_a_row_that_is_given_away_begins_anew():
    recency = after(repeated(1000))
    last = repeated(1000)[-1]
    recency.forget(last)
    assert recency.rate(last, 0.0) == 0.0


def test_long_use_neither_overflows_nor_grows():
    recency = after(row % 50_000 for row in range(30_000))
    assert all(len(counts._counts) < 16 * counts.life + 65 for counts in recency._all)
    assert np.isfinite(recency.mixed(np.full(50_000, 1 / 50_000))).all()


def test_rates_of_models_follow_a_surge_at_once_and_keep_the_long_run():
    """Catches: half-lives that were judged alone, so that a surge took the long memory's trust."""
    rng = random.Random(1)
    rates = Rates()
    rows = [rates.add() for _ in range(MODELS)]
    popular = rows[:10]
    for _ in range(1500):
        rates.asked(rng.choice(popular))
    for step in range(400):
        rates.asked(rows[50 + step // 20] if step % 2 else rng.choice(popular))
    now = rates.rates()
    surge = rows[50 + 399 // 20]
    assert now[surge] > 2 * now[popular].mean()
    assert now[popular].mean() > 3 * now[rows[90]]
    assert rates.now(surge) == pytest.approx(now[surge], rel=0.2)
    assert rates.turnover() > 0


def test_shares_stay_shares_however_long_a_roll_out_lasts():
    """Catches: rates below 0 after thousands of pulls of few models among many that are known."""
    models, few, usual = 10_000, 20, 1e-4
    recency = Recency()
    likely = [recency.asked(0, usual) for _ in range(3000)]
    likely += [recency.asked(1 + step % few, usual) for step in range(6000)]
    for gap in range(100, 1600, 30):  # one that was asked for some time ago is asked for again
        wanted = [500, *(1 + step % few for step in range(gap)), 500]
        likely += [recency.asked(row, usual) for row in wanted]
    assert 0 <= min(likely) <= max(likely) <= 1
    rates = recency.mixed(np.full(models, usual))
    assert rates.min() > 0
    assert rates.sum() == pytest.approx(1.0, rel=0.05)
