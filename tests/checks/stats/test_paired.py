"""Paired tests: known values, honest where little is known, and wrong no more often than they say."""

import math
import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from checks.stats import intervals, paired, planning
from checks.stats.paired import Comparison, Difference, compare, two_sided
from checks.stats.score_test import ScoreTest

Scores = NDArray[np.float64]


def flips(n: int, gained: int, lost: int) -> tuple[Scores, Scores]:
    """Right/wrong scores of candidate and reference: so many rows gained, then lost, the others both right."""
    row = np.arange(n)
    return scores_where(~((gained <= row) & (row < gained + lost))), scores_where(~(row < gained))


def scores_where(right: NDArray[np.bool_]) -> Scores:
    return right.astype(np.float64)


def compared(n: int, gained: int, lost: int, margin: float = 0.0, confidence: float = 0.95) -> Comparison:
    return compare(*flips(n, gained, lost), np.arange(n), margin, confidence)


def shown(old: Sequence[float], new: Sequence[float]) -> Difference:
    """The two-sided difference of rows that are each their own group."""
    difference = two_sided(old, new, np.arange(len(old)), 0.95)
    assert difference
    return difference


def score_test(wins: float, losses: float, rows: float) -> ScoreTest:
    return ScoreTest(wins, losses, rows, unit=1.0, freedom=None)


def detectable(found: Comparison, margin: float) -> float:
    plan = planning.detectable_gain(found.pairs, margin, 0.05) if margin >= 0 else loss(found)
    return math.inf if plan is None else plan


def loss(found: Comparison) -> float | None:
    return planning.detectable_loss([found.pairs], 0.05)


@pytest.mark.parametrize(("gained", "lost"), [(86, 150), (150, 86), (12, 2), (1, 0), (5, 5)])
def test_without_a_margin_it_is_mcnemars_exact_test(gained: int, lost: int) -> None:
    """86 and 150 of 1600 are the classic ratings of a prime minister (Agresti, 2002, table 10.1)."""
    from statsmodels.stats.contingency_tables import mcnemar

    found = compared(1600, gained, lost)
    two_sided = mcnemar([[794, 150], [86, 570]] if gained == 86 else [[9, gained], [lost, 9]], exact=True).pvalue
    assert min(1.0, 2 * min(found.p, found.p_worse)) == pytest.approx(two_sided, rel=1e-9)
    assert (found.method, found.n) == ("exact McNemar test", 1600)
    assert found.effect == pytest.approx((gained - lost) / 1600)
    assert (found.p < found.p_worse) == (gained > lost)


@pytest.mark.parametrize(("gained", "lost"), [(86, 150), (150, 86), (12, 2), (1, 0), (5, 5), (4, 0)])
def test_the_mid_p_test_counts_as_many_wins_by_half(gained: int, lost: int) -> None:
    from scipy.stats import binom

    ours, theirs = np.zeros(400), np.zeros(400)
    ours[:gained], theirs[gained : gained + lost] = 1, 1
    found = compare(ours, theirs, np.arange(400), 0.0, 0.95, mid_p=True)
    exact = compare(ours, theirs, np.arange(400), 0.0, 0.95)
    assert found.p == pytest.approx(exact.p - binom.pmf(gained, gained + lost, 0.5) / 2, rel=1e-9)
    assert (found.method, exact.method) == ("McNemar's mid-p test", "exact McNemar test")
    assert (found.low > 0) == (found.p <= 0.05)


@pytest.mark.parametrize("level", [0.05, 0.01, 0.0025])
@pytest.mark.parametrize("rows", [60, 100, 400])
def test_the_mid_p_test_keeps_its_level(rows: int, level: float) -> None:
    """The exact sum over all outcomes, for models that differ on 1 to 90 % of the rows."""
    from scipy.stats import binom

    counts = np.arange(1, rows + 1)
    called = np.zeros(rows)
    for count in counts:
        wins = np.arange(count + 1)
        chances = binom.pmf(wins, count, 0.5)
        p = np.array([paired._mcnemar(float(won), float(count - won), True) for won in wins])
        called[count - 1] = chances[p <= level].sum()
    for share in (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.9):
        assert binom.pmf(counts, rows, share) @ called <= 1.005 * level


def test_where_rows_are_graded_or_in_groups_mid_p_changes_nothing() -> None:
    random = np.random.default_rng(1)
    ours, theirs = random.random(90), random.random(90)
    right = scores_where(ours > 0.5), scores_where(theirs > 0.6)
    for (one, two), groups in (((ours, theirs), np.arange(90)), (right, np.arange(90) // 3)):
        plain, mid = (compare(one, two, groups, 0.0, 0.95, mid_p=mid_p) for mid_p in (False, True))
        assert (plain.p, plain.low, plain.method) == (mid.p, mid.low, mid.method)


def test_few_rows_that_lose_all_are_no_gain_of_the_others() -> None:
    """Everyone gains 0.02, 2 % lose 1. Tango's test alone calls it better at 1 % in 3 % of such samples."""
    random, called = np.random.default_rng(20261130), 0
    for _ in range(1500):
        ours = scores_where(random.random(500) >= 0.02)
        called += compare(ours, np.where(ours == 1, 0.98, 1.0), np.arange(500), 0.0, 0.99).p <= 0.01
    assert called <= 26  # 1 % of 1500 are 15: at most 26 with a chance of 99.7 %


def test_copies_of_the_rows_are_no_evidence() -> None:
    ours, theirs = flips(100, 9, 2)
    once = compare(ours, theirs, np.arange(100), 0.0, 0.95)
    copied = compare(np.repeat(ours, 3), np.repeat(theirs, 3), np.repeat(np.arange(100), 3), 0.0, 0.95)
    assert copied.p >= once.p
    assert copied.p == pytest.approx(once.p, abs=0.02)
    assert copied.method == "Tango's score test, 100 groups"
    with_margin = [
        compare(np.repeat(ours, k), np.repeat(theirs, k), np.repeat(np.arange(100), k), -0.05, 0.95) for k in (1, 3)
    ]
    assert with_margin[1].p >= with_margin[0].p
    assert detectable(with_margin[1], -0.05) >= detectable(with_margin[0], -0.05)
    graded = [
        compare(np.repeat(ours, k), np.repeat(theirs / 2, k), np.repeat(np.arange(100), k), 0.45, 0.95) for k in (1, 3)
    ]
    assert graded[1].p == pytest.approx(graded[0].p, rel=0.5)


@pytest.mark.slow
@pytest.mark.parametrize("margin", [-0.05, -0.01, 0.0, 0.03])
@pytest.mark.parametrize("group", [1, 2, 7])
def test_rows_that_all_differ_one_way_are_an_answer(margin: float, group: int) -> None:
    """Rounding takes the discriminant of Tango's test below 0 at one in seven numbers of rows."""
    for n in (*range(1, 400), 500, 777, 1000):
        groups = np.arange(n) // group
        better, worse = (compare(*pair, groups, margin, 0.95) for pair in _all_and_none(n))
        assert better.p <= worse.p
        assert better.effect == -worse.effect == 1


def _all_and_none(n: int) -> list[tuple[Scores, Scores]]:
    every, none = np.ones(n), np.zeros(n)
    return [(every, none), (none, every)]


@pytest.mark.slow
def test_no_clustering_of_extreme_scores_is_a_malfunction() -> None:
    random = np.random.default_rng(9)
    for case in range(60):
        n = int(random.integers(1, 50))
        groups = random.integers(0, random.integers(1, n + 1), n)
        ours, theirs = (random.random(n) < random.choice([0, 0.05, 0.5, 1]) for _ in range(2))
        grade = 0.5 if case % 3 else 1.0
        for margin in (-0.999, -0.05, 0.0, 0.5):
            found = compare(ours * grade, theirs * 1.0, groups, margin, 0.95)
            assert -1 <= found.low <= found.effect <= found.high <= 1
            assert 0 <= found.p <= 1
            loss = planning.detectable_loss([found.pairs], 0.05)
            gain = planning.detectable_gain(found.pairs, max(margin, 0.0), 0.05)
            assert all(plan is None or 0 < plan <= 1 for plan in (loss, gain))
            planning.needed_as_seen([found.pairs], margin, 0.05)
            planning.needed_if_unchanged([found.pairs], min(margin, -0.01), 0.05)


@pytest.mark.parametrize(
    ("ours", "theirs", "groups", "margin", "method"),
    [
        (1.0, 0.0, 1, 0.0, "exact McNemar test"),
        (1.0, 0.0, 2, 0.0, "Tango's score test, 30 groups"),
        (1.0, 0.0, 1, -0.05, "Tango's score test"),
        (0.5, 0.5, 1, 0.0, "Tango's score test in units of a difference"),
        (0.5, 0.25, 2, -0.05, "Tango's score test in units of a difference, 30 groups"),
    ],
)
def test_the_method_named_is_the_one_that_decided(
    ours: float, theirs: float, groups: int, margin: float, method: str
) -> None:
    found = compare(np.full(60, ours), np.full(60, theirs), np.arange(60) // groups, margin, 0.95)
    assert found.method == method


def test_tangos_statistic_is_the_published_one() -> None:
    """Disinfection of contact lenses: 1 of 44 pairs lost, margin 10 points (Tango, 1998: Z = 1.709)."""
    assert score_test(0, 1, 44).z(-0.1, correction=0) == pytest.approx(1.709, abs=5e-4)


def test_tangos_interval_is_the_published_one() -> None:
    """Airway reactivity: 1 pair gained and 7 lost of 21; 95 % two-sided (Fagerland, Lydersen and Laake, 2014)."""
    from scipy.optimize import brentq

    test, quantile = score_test(1, 7, 21), 1.959964
    low = brentq(lambda bound: test.z(bound, correction=0) - quantile, -0.99, 0.99)
    other_way = replace(test, wins=test.losses, losses=test.wins)
    high = -brentq(lambda bound: other_way.z(bound, correction=0) - quantile, -0.99, 0.99)
    assert (low, high) == pytest.approx((-0.517, -0.026), abs=5e-4)


@pytest.mark.parametrize(
    ("wins", "losses", "rows", "bound"), [(3, 9, 100, -0.01), (3, 9, 100, 0.05), (0, 4, 60, -0.1), (20, 11, 90, -0.3)]
)
def test_the_closed_form_is_the_likeliest_share_of_losses(wins: int, losses: int, rows: int, bound: float) -> None:
    from scipy.optimize import minimize_scalar

    def unlikely(share: float) -> float:
        parts = ((wins, share + bound), (losses, share), (rows - wins - losses, 1 - 2 * share - bound))
        return -sum(count * math.log(part) for count, part in parts if count)

    edges = (max(0.0, -bound) + 1e-12, (1 - bound) / 2 - 1e-12)
    share = minimize_scalar(unlikely, bounds=edges, method="bounded", options={"xatol": 1e-12}).x
    z = (wins - losses - rows * bound) / math.sqrt(rows * (2 * share + bound * (1 - bound)))
    assert score_test(wins, losses, rows).z(bound, correction=0) == pytest.approx(z, abs=1e-4)


def test_tangos_test_without_a_margin_is_mcnemars() -> None:
    assert score_test(15, 5, 80).z(0.0, correction=0) == pytest.approx(10 / math.sqrt(20))


@pytest.mark.parametrize("margin", [-0.05, -0.01, 0.02])
@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (3, 8), (0, 6), (30, 10)])
def test_a_bound_clears_the_margin_exactly_when_the_test_does(gained: int, lost: int, margin: float) -> None:
    p = compared(400, gained, lost, margin).p
    for confidence in (0.6, 0.9, 0.95, 1 - p + 1e-6, 1 - p - 1e-6):
        if 0.5 <= confidence < 1:
            found = compared(400, gained, lost, margin, confidence)
            assert (found.p <= 1 - confidence) == (found.low >= margin)


def test_a_pure_loss_of_the_margin_passes_no_more_often_than_promised() -> None:
    """Where only losses differ, a Wald bound is fooled by few of them: 12 % instead of 5 %. Summed, not simulated."""
    from scipy.stats import binom

    def passes(n: int, margin: float, lost: int) -> bool:
        return compared(n, 0, lost, -margin).p <= 0.05

    for n, margin in ((200, 0.05), (270, 0.01), (300, 0.02), (500, 0.01), (2000, 0.01)):
        ours = sum(binom.pmf(k, n, margin) for k in range(int(2 * n * margin)) if passes(n, margin, k))
        assert ours <= 0.05
    # The adjusted Wald bound of Agresti and Min (2005): half a row added to each of the four outcomes.
    ends = [-(k + 1.645 * math.sqrt(k - k**2 / 500 + 1)) / 502 for k in range(11)]
    wald = sum(binom.pmf(k, 500, 0.01) for k, low in enumerate(ends) if low >= -0.01)
    assert wald > 0.1
    # Without its correction Tango's test would be fooled by the steps between whole rows, too.
    plain = sum(binom.pmf(k, 270, 0.01) for k in range(6) if score_test(0, k, 270).z(-0.01, correction=0) >= 1.645)
    assert plain > 0.06


@pytest.mark.parametrize("margin", [-0.01, 0.0, 0.01])
@pytest.mark.parametrize(
    ("ours", "theirs", "groups"),
    [
        ([1.0] * 3, [1.0] * 3, [0, 1, 2]),
        ([0.5] * 3, [0.5] * 3, [0, 1, 2]),
        ([1.0], [0.0], [0]),
        ([0.5], [0.25], [0]),
        ([0.5, 0.6], [0.4, 0.3], [0, 1]),
        ([1.0] * 40, [0.0] * 40, [0] * 40),
        ([0.5] * 40, [0.25] * 40, [0] * 40),
        ([0.5] * 40, [0.25, 0.5] * 20, [0] * 20 + [1] * 20),
        ([1.0] * 40, [1.0] * 40, [5] * 40),
    ],
)
def test_next_to_nothing_shows_nothing(
    ours: list[float], theirs: list[float], groups: list[int], margin: float
) -> None:
    found = compare(np.array(ours), np.array(theirs), np.array(groups), margin, 0.95)
    assert 0.05 < found.p <= 1
    assert 0.05 < found.p_worse <= 1
    assert -1 <= found.low <= found.effect <= found.high <= 1
    assert detectable(found, margin) > 0.1


@pytest.mark.parametrize("score", [1.0, 0.5])
def test_rows_that_never_differ_rule_out_a_loss_only_when_there_are_enough(score: float) -> None:
    """A loss of a point in whole rows goes unseen in n rows with a chance of 0.99^n: 5 % at 299."""
    for n, enough in ((100, False), (298, False), (500, True)):
        same = np.full(n, score)
        found = compare(same, same, np.arange(n), -0.01, 0.95)
        assert (found.p <= 0.05) == enough
        assert n < 298 or found.p >= 0.99**n
        assert found.p_worse == 1.0


def test_the_same_rows_give_the_same_finding() -> None:
    random = np.random.default_rng(5)
    ours, theirs, groups = random.random(3000), random.random(3000), np.arange(3000) // 2
    assert compare(ours, theirs, groups, -0.01, 0.95) == compare(ours, theirs, groups, -0.01, 0.95)


def test_the_two_models_change_places() -> None:
    one, two = compared(300, 12, 5), compared(300, 5, 12)
    assert (one.low, one.high, one.p_worse) == pytest.approx((-two.high, -two.low, two.p), abs=1e-9)


@pytest.mark.parametrize(
    ("ours", "theirs", "groups", "margin", "confidence", "problem"),
    [
        ([], [], [], 0.0, 0.95, "at least one"),
        ([1.0], [1.0, 0.0], [0], 0.0, 0.95, "same number"),
        ([1.0], [1.0], [0, 1], 0.0, 0.95, "same number"),
        ([1.5], [1.0], [0], 0.0, 0.95, "outside"),
        ([1.0], [float("nan")], [0], 0.0, 0.95, "outside"),
        ([1.0], [1.0], [0], 0.0, 1.0, "confidence"),
        ([1.0], [1.0], [0], -1.0, 0.95, "margin"),
    ],
)
def test_an_impossible_question_is_an_error(
    ours: list[float], theirs: list[float], groups: list[int], margin: float, confidence: float, problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        compare(np.array(ours), np.array(theirs), np.array(groups), margin, confidence)


def drawn(random: np.random.Generator, groups: NDArray[np.intp], gain: float, loss: float) -> Scores:
    """Differences of whole rows; half of the groups move as one."""
    n = len(groups)
    together = (random.random(n) < 0.5)[groups]
    draws = np.where(together, random.random(n)[groups], random.random(n))
    return 1.0 * (draws < gain) - 1.0 * ((draws >= gain) & (draws < gain + loss))


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("graded", [False, True])
@pytest.mark.parametrize("gain", [0.0, 0.05])
def test_a_loss_of_the_margin_passes_as_rarely_as_it_says(size: int, graded: bool, gain: float) -> None:
    random, runs, margin, accepted, called_worse = np.random.default_rng(6), 150 if graded else 400, 0.04, 0, 0
    groups = np.arange(300) // size
    for _ in range(runs):
        for loss in (margin, 0.0):
            steps = drawn(random, groups, gain, gain + (2 * loss if graded else loss))
            if graded:
                steps *= random.random(300)  # one half on average
            found = compare(np.maximum(steps, 0), np.maximum(-steps, 0), groups, -margin, 0.95)
            if loss:
                accepted += found.p <= 0.05
            else:
                called_worse += found.p_worse <= 0.05
    # 5 % and three standard errors of so many runs
    most = 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)
    assert accepted / runs <= most
    assert called_worse / runs <= most


def test_two_sided_differences_cover_the_truth_as_often_as_they_say() -> None:
    generator, runs, held = random.Random(3), 1000, 0
    for _ in range(runs):
        shared = [generator.random() for _ in range(100)]
        new = [float(s < 0.8) for s in shared]
        old = [float(s < 0.7 or generator.random() < 0.1) for s in shared]  # 0.7 + 0.3 * 0.1
        difference = shown(old, new)
        held += difference.low <= 0.07 <= difference.high
    assert 0.93 <= held / runs <= 0.99


def test_pairing_sees_a_difference_that_two_intervals_hide() -> None:
    new, old = [1.0] * 80 + [0.0] * 20, [1.0] * 70 + [0.0] * 30
    both = [intervals.mean_interval(scores, np.arange(100), 0.95) for scores in (new, old)]
    assert both[0].low < both[1].high
    assert shown(old, new).low > 0


def test_two_models_that_never_differ_leave_doubt() -> None:
    same = shown([1.0] * 40, [1.0] * 40)
    assert -0.15 < same.low < same.value == 0 < same.high < 0.15
    assert shown([1.0], [0.0]).low == -1
