"""Plans: never over the capacity, worth what they say, and near the best there is."""

import pickle
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icnblocks.cache.planning import Problem, solve
from icnblocks.cache.planning.bills import shared_out
from icnblocks.cache.planning.forest import ROOT, by_density


def problem(sizes, models, prize, capacity, *, worth=None, here=None):
    """Models as sets of positions in `sizes`."""
    count = len(sizes)
    return Problem(
        capacity=capacity,
        numbers=np.arange(count, dtype=np.int64) * 10,
        sizes=np.array(sizes, dtype=np.int64),
        here=np.array(here or [0] * count, dtype=np.int64),
        worth=np.array(worth or [0.0] * count, dtype=np.float64),
        prize=np.array(prize, dtype=np.float64),
        starts=np.cumsum([0, *map(len, models)], dtype=np.int64),
        members=np.array([group for model in models for group in sorted(model)], dtype=np.int64),
    )


@st.composite
def problems(draw):
    """Any sharing at all, with amounts from nothing to much."""
    sizes = draw(st.lists(st.integers(1, 1000), min_size=1, max_size=12))
    groups = st.sets(st.integers(0, len(sizes) - 1), max_size=len(sizes))
    models = draw(st.lists(groups, max_size=10))
    amount = st.sampled_from([0.0, 1e-9, 0.5, 1.0, 3.0, 1e12])
    return problem(
        sizes,
        models,
        draw(st.lists(amount, min_size=len(models), max_size=len(models))),
        draw(st.integers(0, sum(sizes) + 5)),
        worth=draw(st.lists(amount, min_size=len(sizes), max_size=len(sizes))),
        here=[draw(st.integers(0, size)) for size in sizes],
    )


@settings(max_examples=150, deadline=None)
@given(problems())
def test_a_plan_fits_and_is_worth_what_it_says(one):
    plan = solve(one)
    assert (plan.kept >= 0).all()
    assert (plan.kept <= one.sizes).all()
    assert plan.kept.sum() <= one.capacity
    assert plan.value == one.value(plan.kept)
    assert plan.models == one.complete(plan.kept >= one.sizes).sum()
    assert np.isfinite(plan.rank).all()
    assert (plan.numbers == one.numbers).all()


@settings(max_examples=40, deadline=None)
@given(problems())
def test_the_same_problem_has_the_same_plan_anywhere(one):
    """It is pickled on its way to another process; the simulator must plan as the daemon does."""
    there = pickle.loads(pickle.dumps(solve(pickle.loads(pickle.dumps(one)))))
    assert (there.kept == solve(one).kept).all()


def best_of_all(one):
    """The best choice of whole groups, by trying all of them; worth counts in part too."""
    count, best = len(one.sizes), 0.0
    for chosen in range(1 << count):
        whole = np.array([bool(chosen >> group & 1) for group in range(count)])
        if one.sizes[whole].sum() <= one.capacity:
            best = max(best, one.value(np.where(whole, one.sizes, 0)))
    return best


def tree(rng):
    """Bases, variants that freeze a part of them, adapters: as libraries mostly are."""
    sizes, models = [], []
    for _ in range(rng.integers(1, 4)):
        base = [len(sizes), len(sizes) + 1]
        sizes += rng.integers(5, 40, 2).tolist()
        for _ in range(rng.integers(1, 4)):
            sizes.append(int(rng.integers(1, 15)))
            models.append({*base[: rng.integers(1, 3)], len(sizes) - 1})
    return sizes, models


def mesh(rng):
    """Each model takes any groups."""
    sizes = rng.integers(1, 30, rng.integers(4, 11)).tolist()
    models = [
        set(rng.choice(len(sizes), rng.integers(1, 4), replace=False).tolist()) for _ in range(8)
    ]
    return sizes, models


@pytest.mark.parametrize(("library", "least", "mean"), [(tree, 0.85, 0.99), (mesh, 0.6, 0.95)])
def test_plans_are_near_the_best_there_is(library, least, mean):
    """Beside trying every choice of groups, on small libraries of few, large lumps."""
    rng = np.random.default_rng(5)
    parts = []
    for _ in range(60):
        sizes, models = library(rng)
        prize = (1 / np.arange(1, len(models) + 1) ** 0.9)[rng.permutation(len(models))]
        one = problem(sizes, models, prize, int(sum(sizes) * rng.uniform(0.1, 0.8)))
        best = best_of_all(one)
        if best:
            parts.append(solve(one).value / best)
    assert max(parts) <= 1 + 1e-9
    assert min(parts) >= least
    assert np.mean(parts) >= mean


def test_one_base_is_swapped_for_another_as_a_whole():
    """No single step from what is here leads to the better base."""
    base, adapters = 100, range(1, 9)
    sizes = [base, base, *[1] * 16]
    models = [{0, 1 + one} for one in adapters] + [{1, 9 + one} for one in adapters]
    prize = [1.0] * 8 + [1.2] * 8
    one = problem(sizes, models, prize, 108, here=[base, 0, *[1] * 8, *[0] * 8])
    assert solve(one).value == pytest.approx(8 * 1.2)


def test_what_does_not_fit_whole_is_kept_in_part_for_its_bytes():
    one = problem([10, 10], [{0}, {1}], [0.0, 0.0], 15, worth=[20.0, 10.0])
    plan = solve(one)
    assert plan.kept.tolist() == [10, 5]
    assert plan.value == 25.0


def test_a_base_is_trimmed_for_adapters_of_another():
    """Catches: room that a base does not fit in goes to what little fits, not to a part of it."""
    first, second, junk = 100, 50, [5] * 9
    sizes = [first, 2, 2, second, *junk]
    models = [{0, 1}, {0, 2}, {3}, *({4 + one} for one in range(9))]
    worth = [200.0, 1.0, 1.0, 50.0, *[0.5] * 9]
    plan = solve(problem(sizes, models, [10.0, 10.0, *[0.0] * 10], 150, worth=worth))
    assert plan.kept.tolist() == [100, 2, 2, 46, *[0] * 9]


def test_a_whole_model_ranks_above_more_bytes_of_none():
    one = problem([10, 10, 10], [{0, 1}, {2}], [4.0, 5.0], 20, worth=[1.0, 1.0, 1.0])
    plan = solve(one)
    assert plan.kept[2] == 10
    assert plan.rank[2] == plan.rank.max()


def test_nothing_known_and_no_room_are_plans_too():
    assert solve(problem([], [], [], 100)).kept.tolist() == []
    assert solve(problem([5], [{0}], [1.0], 0)).kept.tolist() == [0]
    assert solve(problem([5], [set()], [1.0], 0)).value == 1.0


def test_bundles_come_by_density_and_parents_before_children():
    """A poor parent is only worth it with its rich child; together they come as one."""
    parent = [ROOT, 0, 0, ROOT]
    bundles = by_density(parent, [0.0, 9.0, 1.0, 4.0], [2.0, 1.0, 1.0, 2.0])
    assert [nodes for nodes, _, _ in bundles] == [[0, 1], [3], [2]]
    densities = [value / size for _, value, size in bundles]
    assert densities == sorted(densities, reverse=True)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_bundles_are_the_best_choice_at_every_price(data):
    """Compared with all subtrees, at the price of each bundle."""
    count = data.draw(st.integers(1, 7))
    parent = [data.draw(st.integers(ROOT, node - 1)) for node in range(count)]
    value = [float(data.draw(st.integers(0, 9))) for _ in range(count)]
    size = [float(data.draw(st.integers(1, 9))) for _ in range(count)]
    bundles = by_density(parent, value, size)
    assert sorted(node for nodes, _, _ in bundles for node in nodes) == list(range(count))
    closed = [
        chosen
        for width in range(count + 1)
        for chosen in map(set, combinations(range(count), width))
        if all(parent[node] in chosen or parent[node] == ROOT for node in chosen)
    ]
    for price in (worth / room for _, worth, room in bundles):
        best = max(sum(value[node] - price * size[node] for node in chosen) for chosen in closed)
        taken = sum(worth - price * room for _, worth, room in bundles if worth / room >= price)
        assert taken == pytest.approx(best)


def test_who_shares_much_is_left_out_last():
    """The bill of a shared group is split, so that a crowd can afford what none of it could."""
    models = [{0, 1}, {0, 2}, {0, 3}, {4}]
    one = problem([90, 1, 1, 1, 90], models, [1.0, 1.0, 1.0, 2.0], 100)
    assert shared_out(one).tolist() == [True, True, True, True, False]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("library", "upstream", "least"),
    [("tree", 1e9, 0.99), ("mesh", 1e9, 0.8), ("tree", 100.0, 0.999), ("tree", 10.0, 0.9999)],
)
def test_larger_plans_are_near_the_optimum_of_a_solver(library, upstream, least):
    """HiGHS on 150 models: what dynamic programming and bundles leave on the table.

    Going upstream at all costs as much as so many bytes do: of groups a part may be kept.
    """
    optimize = pytest.importorskip("scipy.optimize")
    sparse = pytest.importorskip("scipy.sparse")
    rng = np.random.default_rng(11)
    parts = []
    for capacity in (0.05, 0.15, 0.4):
        sizes, models = [], []
        for _ in range(5):
            base = list(range(len(sizes), len(sizes) + 6))
            sizes += rng.integers(20, 400, 6).tolist()
            for _ in range(30):
                sizes.append(int(rng.integers(1, 60)))
                frozen = base[: rng.integers(2, 7)]
                if library == "mesh":
                    frozen = rng.choice(len(sizes), 3, replace=False).tolist()
                models.append({*frozen, len(sizes) - 1})
        prize = 1 / (1 + rng.permutation(len(models))) ** 0.9
        worth = [
            size
            / upstream
            * sum(prize[number] for number, one in enumerate(models) if group in one)
            for group, size in enumerate(sizes)
        ]
        one = problem(sizes, models, prize, int(sum(sizes) * capacity), worth=worth)
        count, groups, entries = len(models), len(sizes), len(one.members)
        rows = np.concatenate((np.arange(entries), np.arange(entries), np.full(groups, entries)))
        columns = np.concatenate((one.owners(), count + one.members, count + np.arange(groups)))
        signs = np.concatenate((np.ones(entries), -np.ones(entries), one.sizes / one.capacity))
        matrix = sparse.coo_matrix((signs, (rows, columns)))
        limits = np.append(np.zeros(entries), 1.0)
        found = optimize.milp(
            -np.concatenate((one.prize, one.worth)),
            constraints=optimize.LinearConstraint(matrix, -np.inf, limits),
            bounds=optimize.Bounds(0, 1),
            integrality=np.append(np.ones(count), np.zeros(groups)),
            options={"time_limit": 20, "mip_rel_gap": 1e-3},
        )
        parts.append(solve(one).value / -found.mip_dual_bound)
    assert min(parts) >= least
