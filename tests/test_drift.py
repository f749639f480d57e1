"""The statistics of a window: their levels, their power, and what others compute."""

import math
from typing import Any

import numpy as np
import pytest

from checks.stats import drift
from checks.stats.intervals import Mean
from checks.stats.two_samples import Difference


def _mean(right: int, rows: int) -> Mean:
    return Mean.of([1.0] * right + [0.0] * (rows - right), [str(i) for i in range(rows)])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ours", "theirs"), [((50, 60), (70, 80)), ((9, 10), (3, 10)), ((100, 100), (98, 100)), ((0, 20), (0, 30))]
)
def test_a_difference_of_shares_is_bounded_about_as_by_others_and_its_p_value_is_where_the_bound_is(
    ours: tuple[int, int], theirs: tuple[int, int]
) -> None:
    from statsmodels.stats.proportion import confint_proportions_2indep

    found = Difference(_mean(*ours), _mean(*theirs))
    low, high = confint_proportions_2indep(*ours, *theirs, method="newcomb", alpha=0.1)
    assert found.low(0.05) <= low + 0.01  # Clopper-Pearson is wider than Wilson
    assert found.high(0.05) >= high - 0.01
    assert found.low(0.05) > low - 0.12
    for bound in (-0.3, -0.05):
        p = found.p_above(bound)
        assert p == 1 or p <= 1e-11 or found.low(p) == pytest.approx(bound, abs=1e-3)
        assert (p <= 0.05) == (found.low(0.05) >= bound)
    assert found.high(0.05) == pytest.approx(-Difference(_mean(*theirs), _mean(*ours)).low(0.05))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ours", "theirs", "rows", "others"), [(0.85, 0.9, 100, 400), (0.3, 0.35, 200, 200), (0.01, 0.06, 150, 1000)]
)
def test_a_loss_of_the_margin_is_taken_for_less_or_for_more_in_at_most_one_of_twenty(
    ours: float, theirs: float, rows: int, others: int
) -> None:
    random, passed, failed, runs = np.random.default_rng(7), 0, 0, 400
    for _ in range(runs):
        found = Difference(
            _mean(int(random.binomial(rows, ours)), rows), _mean(int(random.binomial(others, theirs)), others)
        )
        passed += found.low(0.05) > ours - theirs
        failed += found.high(0.05) < ours - theirs
    most = 0.05 + 2 * math.sqrt(0.05 * 0.95 / runs)
    assert passed / runs <= most
    assert failed / runs <= most


def test_the_power_of_labels_is_what_statsmodels_says_and_rare_ones_are_pooled() -> None:
    from statsmodels.stats.power import GofChisquarePower

    common = dict.fromkeys("abcd", 100)
    found = drift.labels(common | {"x": 1, "y": 2}, common | {"z": 3}, 0.95)
    assert found is not None
    assert found.freedom == 4 - 1  # too few to stand alone even together: they join the smallest
    w = GofChisquarePower().solve_power(None, found.size, 0.01, 0.8, n_bins=found.freedom + 1)
    assert found.detectable(0.01) == pytest.approx(w, rel=1e-3)
    needed = found.needed(0.2, 0.01)
    assert needed is not None
    more = found._replace(n=needed, size=needed * found.m / (needed + found.m)).detectable(0.01)
    assert more == pytest.approx(0.2, rel=0.02)
    assert drift.labels({"a": 3}, {"a": 9}, 0.95) is None


def _texts(random: Any, count: int, name: str, strange: float = 0.0) -> list[tuple[str, str]]:
    words, other = [f"w{i}" for i in range(60)], [f"s{i}" for i in range(12)]
    return [
        (f"{name}{i}", " ".join(random.choice(other if random.random() < strange else words, 8))) for i in range(count)
    ]


@pytest.mark.slow
def test_the_classifier_has_its_level_and_sees_other_texts() -> None:
    random, runs = np.random.default_rng(3), 60
    false = [drift.texts(_texts(random, 120, "a"), _texts(random, 240, "b"), 0.95) for _ in range(runs)]
    ps = [each.p for each in false if each is not None]
    assert len(ps) == runs
    assert sum(p <= 0.1 for p in ps) / runs <= 0.1 + 2 * math.sqrt(0.1 * 0.9 / runs)
    assert 0.3 < float(np.median(ps)) < 0.7
    covered = sum(each.low <= 0.5 <= each.high for each in false if each is not None) / runs
    assert covered >= 0.9 - 2 * math.sqrt(0.1 * 0.9 / runs)
    found = drift.texts(_texts(random, 300, "a", 0.4), _texts(random, 600, "b"), 0.95)
    assert found is not None
    assert found.p < 1e-4
    assert all(term[0] == "s" for term in found.terms[:3])


@pytest.mark.slow
def test_what_an_auc_detects_is_its_power_and_the_rows_it_asks_for_are_enough() -> None:
    random = np.random.default_rng(11)
    found = drift.separation(random.normal(size=100), random.normal(size=300), 0.95, 1)
    sees = found.detectable(0.05)
    assert sees is not None
    shift = math.sqrt(2) * float(_normal(0.5 + sees))
    power = np.mean(
        [
            drift.separation(random.normal(shift, size=100), random.normal(size=300), 0.95, 1).p <= 0.05
            for _ in range(400)
        ]
    )
    assert 0.74 < power < 0.86
    needed = found.needed(0.08, 0.05)
    assert needed is not None
    assert found._replace(n=needed).detectable(0.05) == pytest.approx(0.08, rel=0.01)
    assert found.needed(0.001, 0.05) is None  # the reference is too small for any window


def _normal(share: float) -> float:
    from scipy.stats import norm

    return float(norm.ppf(share))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(["a b"] * 30, ["a b"] * 30), (["!"] * 40, ["?"] * 40), (["one two"] * 3, ["one two"] * 300)],
)
def test_texts_that_say_nothing_are_no_drift(ours: list[str], theirs: list[str]) -> None:
    sides = [[(f"{name}{i}", text) for i, text in enumerate(side)] for name, side in (("a", ours), ("b", theirs))]
    found = drift.texts(sides[0], sides[1], 0.95)
    assert found is None or found.p >= 0.5
