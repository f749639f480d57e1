"""Groups that are uneven, few, or behave by their size: no test passes more often than it says, and promises are kept.

A fast part of the tables of ``python -m benchmarks.gates``.
"""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks import gate_layouts
from benchmarks.gate_layouts import LAYOUTS, drawn, scores
from checks.stats import mean_planning, planning
from checks.stats.intervals import Mean
from checks.stats.paired import compare

ONES = np.ones(300, np.intp)


def most(runs: int) -> float:
    """5 % and three standard errors of so many runs."""
    return 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)


def right_of(right: int, n: int) -> Mean:
    """So many of ``n`` rows are right, each its own group."""
    return Mean.of((np.arange(n) < right).astype(np.float64), np.arange(n))


@pytest.mark.parametrize(
    ("layout", "mean"),
    [
        ("a group of 200, 300 rows", 0.05),
        ("30 groups of 1 to 30, 465 rows", 0.95),
        ("30 groups of 1 to 30, 465 rows", 0.02),
        ("12 groups of 20", 0.95),
        ("12 groups of 20", 0.05),
        ("60 groups of 5", 0.5),
        ("60 rows", 0.98),
        ("500 rows", 0.02),
    ],
)
def test_a_mean_at_its_bound_is_shown_beyond_it_no_more_often_than_promised(layout: str, mean: float) -> None:
    random, runs = np.random.default_rng([1, round(mean * 100)]), 300
    found = [Mean.of(*scores(random, LAYOUTS[layout], mean)) for _ in range(runs)]
    assert sum(one.p_above(mean) <= 0.05 for one in found) / runs <= most(runs)
    assert sum(one.p_below(mean) <= 0.05 for one in found) / runs <= most(runs)


@pytest.mark.parametrize("n", [1, 7, 50, 60, 333])
@pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 0.77, 0.95])
def test_single_rows_keep_their_level_exactly(n: int, share: float) -> None:
    """Summed over all outcomes, not simulated."""
    from scipy.stats import binom

    found = [right_of(right, n) for right in range(n + 1)]
    chances = binom.pmf(np.arange(n + 1), n, share)
    assert sum(chances[i] for i, one in enumerate(found) if one.p_above(share) <= 0.05) <= 0.05
    assert sum(chances[i] for i, one in enumerate(found) if one.p_below(share) <= 0.05) <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize("expected", [1, 2, 3, 4])
@pytest.mark.parametrize(("alone", "groups", "size"), [(200, 10, 10), (300, 30, 3)])
def test_groups_that_lose_what_single_rows_gain_are_not_called_better(
    alone: int, groups: int, size: int, expected: int
) -> None:
    """A sign-flip test of the group totals passes a third of the first case: ten losses were not seen."""
    random, runs, better = np.random.default_rng([2, expected, size]), 400, 0
    sizes = np.append(np.ones(alone, np.intp), np.full(groups, size))
    chance = np.append(np.full(alone, expected * size / alone), np.full(groups, expected / groups))
    way = np.where(sizes == 1, 1.0, -1.0)
    codes = np.repeat(np.arange(len(sizes)), sizes)
    for _ in range(runs):
        steps: NDArray[np.float64] = np.where(random.random(len(sizes)) < chance, way, 0.0)[codes]
        better += compare(np.maximum(steps, 0), np.maximum(-steps, 0), codes, 0.0, 0.95).p <= 0.05
    assert better / runs <= most(runs)


@pytest.mark.slow
@pytest.mark.parametrize("margin", [0.0, -0.005])
def test_graded_losses_that_were_not_seen_count_too(margin: float) -> None:
    """Every row gains a little, and one in a hundred loses whole: in 200 rows none does with a chance of 13 %."""
    random, runs, passed, chance = np.random.default_rng(3), 400, 0, 0.01
    little = (margin + chance) / (1 - chance)
    for _ in range(runs):
        steps = np.where(random.random(200) < chance, -1.0, little)
        passed += compare(np.maximum(steps, 0), np.maximum(-steps, 0), np.arange(200), margin, 0.95).p <= 0.05
    assert passed / runs <= most(runs)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layout", "figures"),
    [
        ("500 rows", 5),
        ("60 rows", 5),
        pytest.param("60 groups of 5", 5, marks=pytest.mark.exhaustive),  # as groups of other sizes
        ("30 groups of 1 to 30, 465 rows", 5),
        ("a group of 200, 300 rows", 3),  # no gain and no mean is shown by such rows
        pytest.param("12 groups of 20", 5, marks=pytest.mark.exhaustive),
    ],
)
def test_what_is_printed_with_at_least_80_percent_power_has_it(layout: str, figures: int) -> None:
    """Every pilot prints its own figures, and new samples are asked at them, as a user would."""
    random, runs, sizes = np.random.default_rng(4), 400, LAYOUTS[layout]
    found = [*gate_layouts.promised(random, sizes, runs), *gate_layouts.promised_mean(random, sizes, 0.6, runs)]
    kept = [promise.kept for promise in found if promise]
    assert len(kept) == figures
    # 3 points, and two standard errors of the simulation.
    assert min(kept) >= 0.77 - 2 * math.sqrt(0.16 / runs), kept


@pytest.mark.parametrize(("n", "right", "bound"), [(60, 40, 0.6), (500, 320, 0.6), (200, 184, 0.9)])
def test_what_a_threshold_needs_is_exact_where_each_row_is_its_own_group(n: int, right: int, bound: float) -> None:
    from scipy.stats import binom

    mean = right_of(right, n)
    plan, ahead = mean_planning.needed(mean, bound, 0.05), mean_planning.detectable(mean, bound, 0.05)
    assert plan is not None
    assert ahead is not None
    for rows, share in ((plan.rows, right / n), (n, bound + ahead)):
        critical = next(k for k in range(rows + 1) if binom.sf(k - 1, rows, bound) <= 0.05)
        assert 0.8 - 1e-9 <= binom.sf(critical - 1, rows, share) <= 0.83


def test_a_sample_of_one_row_promises_nothing_beyond_the_scale() -> None:
    found = compare(np.ones(1), np.zeros(1), np.arange(1), -0.05, 0.95)
    assert planning.detectable_loss([found.pairs], 0.05) is None
    assert planning.detectable_gain(found.pairs, 0.0, 0.05) is None


def test_few_large_groups_are_told_how_many_groups_would_do() -> None:
    """More rows in the same groups would not help, and one group says nothing about others."""
    random = np.random.default_rng(5)
    found = drawn(random, np.full(12, 20), 0.0, -0.05)
    plan = planning.needed_if_unchanged([found.pairs], -0.05, 0.05)
    assert plan is not None
    assert plan.groups is not None
    assert (plan.rows, plan.groups > 60) == (plan.groups * 20, True)
    assert str(plan) == f"{plan.groups} groups like these ({plan.rows} rows)"
    deeper = drawn(random, np.full(12, 200), 0.0, -0.05)
    again = planning.needed_if_unchanged([deeper.pairs], -0.05, 0.05)
    assert again is not None
    assert again.groups is not None
    assert again.groups > 60
    alone = drawn(random, np.full(1, 200), 0.0, -0.05)
    assert planning.needed_if_unchanged([alone.pairs], -0.05, 0.05) is None


@pytest.mark.slow
def test_slices_are_planned_together() -> None:
    """Each of four must pass, so that each needs more power than one alone."""
    random = np.random.default_rng(6)
    slices = [drawn(random, ONES, 0.0, -0.05).pairs for _ in range(4)]
    alone = [planning.detectable_loss([one], 0.05) or 1.0 for one in slices]
    together = planning.detectable_loss(slices, 0.05) or 1.0
    assert together > max(alone)
    passes = [all(drawn(random, ONES, 0.0, -together).p <= 0.05 for _ in slices) for _ in range(300)]
    assert 0.7 <= sum(passes) / 300 <= 0.92


def test_rows_count_as_many_as_they_are_worth_for_a_resolution() -> None:
    random = np.random.default_rng(7)
    alike = np.repeat(random.random(4) < 0.7, 100).astype(np.float64)
    few = Mean.of(alike, np.arange(400) // 100)
    many = Mean.of((random.random(400) < 0.7).astype(np.float64), np.arange(400))
    assert not mean_planning.resolves(few, 0.05, 0.95)
    assert mean_planning.effective_rows(few) < 10
    assert mean_planning.resolves(many, 0.05, 0.95)
    plan = mean_planning.needed_to_resolve(few, 0.05, 0.95)
    assert plan is None or (plan.groups or 0) > 300


@pytest.mark.slow
def test_the_tables_of_the_benchmark_can_be_made() -> None:
    for table in (gate_layouts.thresholds, gate_layouts.comparisons, gate_layouts.by_size):
        assert len(list(table(4, 1))) > 5
