"""Intervals: known values, honest at the ends, and they cover the truth as often as they say."""

import random
from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from checks.stats import intervals

SCORES = st.lists(st.floats(0, 1) | st.sampled_from([0.0, 1.0]), min_size=1, max_size=40)


def alone(n: int) -> list[str]:
    return [str(i) for i in range(n)]


def test_right_and_wrong_rows_give_the_exact_interval() -> None:
    from scipy.stats import binomtest

    for right, n in ((0, 10), (7, 10), (321, 454), (454, 454)):
        found = intervals.mean_interval([1.0] * right + [0.0] * (n - right), alone(n), 0.95)
        known = binomtest(right, n).proportion_ci(0.95, method="exact")
        assert (found.value, found.n) == (right / n, n)
        assert (found.low, found.high) == pytest.approx((known.low, known.high), abs=1e-9)


def test_none_right_and_all_right_leave_doubt() -> None:
    none, every = (intervals.mean_interval([value] * 50, alone(50), 0.95) for value in (0.0, 1.0))
    assert none.low == 0 < none.high < 0.1
    assert 0.9 < every.low < every.high == 1


def test_near_duplicates_count_less_than_rows_of_their_own() -> None:
    scores = [1.0, 1.0, 0.0, 0.0] * 25
    rows = intervals.mean_interval(scores, alone(100), 0.95)
    pairs = intervals.mean_interval(scores, [str(i // 2) for i in range(100)], 0.95)
    assert pairs.high - pairs.low > 1.3 * (rows.high - rows.low)


def test_all_right_in_few_groups_is_worth_only_the_groups() -> None:
    few = intervals.mean_interval([1.0] * 100, [str(i // 20) for i in range(100)], 0.95)
    assert 0.2 < few.low < intervals.mean_interval([1.0] * 5, alone(5), 0.95).low


def test_one_group_alone_says_next_to_nothing() -> None:
    only = intervals.mean_interval([1.0] * 30 + [0.0] * 10, ["same"] * 40, 0.95)
    assert only.high - only.low > 0.6


def test_a_one_sided_bound_is_the_end_of_a_wider_two_sided_interval() -> None:
    scores = [1.0] * 70 + [0.0] * 30
    mean = intervals.Mean.of(scores, alone(100))
    one, two = intervals.interval_of(mean, 0.95, 1), intervals.interval_of(mean, 0.90, 2)
    assert (one.low, one.high) == pytest.approx((two.low, two.high))
    assert intervals.interval_of(mean, 0.3, 1).low == pytest.approx(0.7)


@pytest.mark.slow
@given(SCORES, st.floats(0.01, 0.999), st.integers(1, 5))
def test_an_interval_holds_its_mean_and_stays_in_range(scores: list[float], confidence: float, size: int) -> None:
    for groups in (alone(len(scores)), [str(i // size) for i in range(len(scores))]):
        found = intervals.mean_interval(scores, groups, confidence)
        assert 0 <= found.low <= found.value <= found.high <= 1


@pytest.mark.slow
@settings(deadline=None)  # the first example loads scipy
@given(SCORES, st.floats(0.5, 0.999), st.integers(1, 5), st.floats(0, 1), st.sampled_from(["above", "below"]))
@example([0.0] * 8 + [1.0], 0.5000000000000001, 2, 0.0, "above")  # a quantile that rounds to zero
@example([1.0, 1e-17], 0.75, 1, 0.75, "below")  # a score whose distance from 1 rounds to 1
def test_a_means_test_is_its_bound_turned_round(
    scores: list[float], confidence: float, size: int, bound: float, side: Literal["above", "below"]
) -> None:
    groups = [str(i // size) for i in range(len(scores))]
    mean = intervals.Mean.of(scores, groups)
    interval = intervals.interval_of(mean, confidence, sided=1)
    end = interval.low if side == "above" else interval.high
    assume(abs(end - bound) > 1e-9)  # nearer than this, rounding decides
    clears = end > bound if side == "above" else end < bound
    assert ((mean.p_above(bound) if side == "above" else mean.p_below(bound)) <= 1 - confidence) == clears


def test_a_means_test_of_single_rows_is_the_exact_binomial_test() -> None:
    from scipy.stats import binomtest

    scores = [1.0] * 70 + [0.0] * 30
    above = binomtest(70, 100, 0.6, alternative="greater").pvalue
    below = binomtest(70, 100, 0.8, alternative="less").pvalue
    mean = intervals.Mean.of(scores, alone(100))
    assert mean.p_above(0.6) == pytest.approx(above, abs=1e-12)
    assert mean.p_below(0.8) == pytest.approx(below, abs=1e-12)
    assert mean.p_above(0.7001) > 0.5
    assert (mean.p_above(0.0), mean.p_above(1.0)) == (0, 1)


@pytest.mark.slow
@given(SCORES, st.integers(1, 4))
def test_arrays_and_numbered_groups_say_what_lists_and_names_do(scores: list[float], size: int) -> None:
    names, codes = [f"g{i // size}" for i in range(len(scores))], np.arange(len(scores)) // size
    array = np.array(scores)
    assert intervals.mean_interval(scores, names, 0.95) == intervals.mean_interval(array, codes, 0.95)
    assert intervals.Mean.of(scores, names).p_above(0.4) == intervals.Mean.of(array, codes).p_above(0.4)


@pytest.mark.slow
@given(SCORES)
def test_the_order_of_rows_does_not_matter(scores: list[float]) -> None:
    groups = [str(i // 3) for i in range(len(scores))]
    order = sorted(range(len(scores)), key=lambda i: (scores[i], i))
    one = intervals.mean_interval(scores, groups, 0.95)
    two = intervals.mean_interval([scores[i] for i in order], [groups[i] for i in order], 0.95)
    assert (one.low, one.high) == pytest.approx((two.low, two.high), abs=1e-6)


@pytest.mark.parametrize(
    ("scores", "groups", "confidence", "problem"),
    [
        ([], [], 0.95, "at least one"),
        ([1.0], ["a", "b"], 0.95, "as many"),
        ([1.5], ["a"], 0.95, "outside"),
        ([float("nan")], ["a"], 0.95, "outside"),
        ([1.0], ["a"], 1.0, "between 0 and 1"),
    ],
)
def test_an_impossible_question_is_an_error(
    scores: list[float], groups: list[str], confidence: float, problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        intervals.mean_interval(scores, groups, confidence)


Draw = Callable[[random.Random], list[float]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "draw_group", "mean", "least"),
    [
        ("right or wrong, one row a group", lambda r: [float(r.random() < 0.85)], 0.85, 0.93),
        ("rare faults", lambda r: [float(r.random() < 0.98)], 0.98, 0.93),
        ("alike within a group", lambda r: [float(r.random() < 0.8)] * r.choice((1, 1, 1, 3)), 0.8, 0.92),
        ("graded", lambda r: [r.betavariate(5, 5)], 0.5, 0.93),
        ("graded, most of them whole", lambda r: [1.0 if r.random() < 0.9 else r.random()], 0.95, 0.91),
    ],
)
def test_an_interval_covers_the_truth_as_often_as_it_says(
    name: str, draw_group: Draw, mean: float, least: float
) -> None:
    generator, runs, held = random.Random(name), 1000, 0
    for _ in range(runs):
        drawn = [draw_group(generator) for _ in range(80)]
        scores = [score for group in drawn for score in group]
        groups = [str(i) for i, group in enumerate(drawn) for _ in group]
        found = intervals.mean_interval(scores, groups, 0.95)
        held += found.low <= mean <= found.high
    assert least <= held / runs <= 0.992
