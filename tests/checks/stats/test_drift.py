"""The statistics of a window: their levels, their power, and what others compute."""

import math
from typing import Any

import numpy as np
import pytest

from checks.stats import drift
from checks.stats.drift import Shift, Text
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


def test_a_bound_that_no_level_clears_is_not_shown() -> None:
    assert Difference(_mean(0, 20), _mean(30, 30)).p_above(-1.0) == 1


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
    found = drift.labels(_labels(common | {"x": 1, "y": 2}), _labels(common | {"z": 3}), 0.95)
    assert found is not None
    # Too few to stand alone even together: they join the smallest.
    assert found.freedom[0] == pytest.approx(4 - 1, abs=0.02)
    w = GofChisquarePower().solve_power(None, found.size, 0.01, 0.8, n_bins=4)
    assert found.detectable(0.01) == pytest.approx(w, rel=0.01)
    needed = found.needed(0.2, 0.01)
    assert needed is not None
    more = found._replace(n=needed, size=needed * found.m / (needed + found.m)).detectable(0.01)
    assert more == pytest.approx(0.2, rel=0.02)
    assert drift.labels(_labels({"a": 3}), _labels({"a": 9}), 0.95) is None


def _labels(counts: dict[str, int]) -> list[Text]:
    return [Text(f"{name}{i}", name, f"{name}{i}") for name, count in counts.items() for i in range(count)]


def _texts(random: Any, count: int, name: str, strange: float = 0.0) -> list[Text]:
    words, other = [f"w{i}" for i in range(60)], [f"s{i}" for i in range(12)]
    return [
        Text(f"{name}{i}", " ".join(random.choice(other if random.random() < strange else words, 8)), f"{name}{i}")
        for i in range(count)
    ]


def _sessions(random: Any, count: int, length: int, name: str) -> list[Text]:
    """Requests in sessions about one of twelve subjects."""
    subjects = random.integers(12, size=count // length)
    return [
        Text(f"{name}{s}-{i}", f"l{subject}", f"{name}{s}")
        for s, subject in enumerate(subjects.tolist()) for i in range(length)
    ]  # fmt: skip


@pytest.mark.slow
def test_sessions_raise_no_more_alarms_than_independent_requests_if_they_are_clusters() -> None:
    """Without clusters the same windows alarm in most cases."""
    random, runs, level = np.random.default_rng(5), 200, 0.05
    alarms = {"clusters": 0, "none": 0, "lengths": 0}
    for _ in range(runs):
        window, reference = _sessions(random, 600, 4, "a"), _sessions(random, 600, 1, "b")
        alone = [each._replace(cluster=each.id) for each in window]
        for name, side in (("clusters", window), ("none", alone)):
            shift = drift.labels(side, reference, 0.95)
            assert shift is not None
            alarms[name] += shift.p <= level
        ours, theirs = ([float(each.text[1:]) for each in side] for side in (window, reference))
        clusters = [each.cluster for each in window], [each.cluster for each in reference]
        alarms["lengths"] += drift.separation(ours, theirs, clusters, 0.95, 2).p <= level
    most = level + 2 * math.sqrt(level * (1 - level) / runs)
    assert max(alarms["clusters"], alarms["lengths"]) / runs <= most, alarms
    assert alarms["none"] / runs > 0.5, alarms


def test_one_user_shows_nothing_however_many_requests_are_his() -> None:
    window = [Text(f"a{i}", "bread", "one user") for i in range(500)]
    reference = [Text(f"b{i}", f"l{i % 9}", f"b{i}") for i in range(500)]
    shift = drift.labels(window, reference, 0.95)
    assert shift is not None
    assert shift.p > 0.2
    words = [9.0] * 500, [float(i % 9) for i in range(500)]
    assert drift.separation(*words, (["one user"] * 500, [each.id for each in reference]), 0.95, 2).p > 0.2


@pytest.mark.slow
def test_a_window_is_held_against_ordinary_ones_that_differ_more_than_their_requests_say() -> None:
    """Each window has users of its own, and none of its clusters shows it: only the other windows do."""
    random, runs, level = np.random.default_rng(9), 100, 0.05
    alone = beside = seen = 0
    for _ in range(runs):
        now, *windows = (
            [Text(f"{w}-{i}", f"l{label}", f"{w}-{i}") for i, label in enumerate(random.choice(12, 500, p=shares))]
            for w, shares in enumerate(random.dirichlet([20.0] * 12, 7))
        )
        found = _shift(now, [each for window in windows for each in window])
        earlier = [
            _shift(window, [each for other in windows if other is not window for each in other]) for window in windows
        ]
        alone, beside = alone + (found.p <= level), beside + (found.beside(earlier).p <= level)
        strange = [each._replace(text="bread") if i % 2 else each for i, each in enumerate(now)]
        there = _shift(strange, [each for window in windows for each in window]).beside(earlier)
        seen += there.p <= level
        assert (there.detectable(level) or 1) > (found.detectable(level) or 0)
    assert alone / runs > 0.75
    assert beside / runs <= level + 2 * math.sqrt(level * (1 - level) / runs)
    assert seen / runs > 0.9
    same = drift.Ordinary.of([0.1, 0.1, 0.1])  # such as the lengths of answers that are one word
    assert (same.p(0.1), same.p(0.2)) == (1.0, 0.0)


def _shift(window: list[Text], reference: list[Text]) -> Shift:
    shift = drift.labels(window, reference, 0.95)
    assert shift is not None
    return shift


@pytest.mark.slow
def test_a_text_of_both_sides_is_no_mark_of_the_side_that_it_was_learned_from() -> None:
    """Where copies were ranked, a classifier took the other side's for a mark of that side, and the AUC was 0.42."""
    random = np.random.default_rng(4)
    pool = [each.text for each in _texts(random, 900, "p")]
    aucs = list[float]()
    for _ in range(8):
        window, reference = (
            [Text(f"{name}{random.integers(2**62)}", pool[i], f"{name}{i}") for i in random.choice(900, 600, False)]
            for name in "ab"
        )
        found = drift.texts(window, reference, 0.95)
        assert found is not None
        aucs.append(found.auc)
    assert 0.47 < np.mean(aucs) < 0.53


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
    clusters = [f"a{i}" for i in range(100)], [f"b{i}" for i in range(300)]
    found = drift.separation(random.normal(size=100), random.normal(size=300), clusters, 0.95, 1)
    sees = found.detectable(0.05)
    assert sees is not None
    shift = math.sqrt(2) * float(_normal(0.5 + sees))
    power = np.mean(
        [
            drift.separation(random.normal(shift, size=100), random.normal(size=300), clusters, 0.95, 1).p <= 0.05
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
    sides = [
        [Text(f"{name}{i}", text, f"{name}{i}") for i, text in enumerate(side)]
        for name, side in (("a", ours), ("b", theirs))
    ]
    found = drift.texts(sides[0], sides[1], 0.95)
    assert found is None or found.p >= 0.5
