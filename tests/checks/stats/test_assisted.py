"""People's labels assisted by a judge: the estimate beside other packages', its level, and what it asks for."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import judges
from checks.evaluation import comparisons
from checks.stats.assisted import LEAST_LABELS, Assisted, rows_to_see, unseen
from tests.conftest import REPOSITORY

OTHERS = json.loads((REPOSITORY / "tests" / "logs" / "ppi.json").read_text())  # tests/other_ppi.py made it
RANDOM = np.random.default_rng(20261126)


@pytest.mark.parametrize("case", OTHERS["cases"], ids=lambda case: str(case["n"]))
def test_the_estimate_is_that_of_ppi_python_and_truescore(case: dict) -> None:
    people, judge = np.array(case["people"]), np.array(case["judge"])
    people[case["n"] :] = np.nan
    found = Assisted.of(people, judge, np.arange(len(people)), further=0.0)
    # They divide covariances by n, we divide by n - 1: the weights differ by 1 / n of themselves.
    assert found.effect == pytest.approx(case["effect"], abs=5e-4)
    assert found.error == pytest.approx(case["error"], rel=0.01)
    assert f"difference={case['effect']:.9f}"[:-2] in case["truescore"]
    assert Assisted.of(people, judge, np.arange(len(people))).error > found.error


def test_alpha_is_that_of_krippendorff() -> None:
    units = [[value for value in unit if value is not None] for unit in zip(*OTHERS["labels"], strict=True)]
    assert comparisons.alpha(units) == pytest.approx(OTHERS["alpha"], abs=1e-12)
    assert comparisons.alpha([[1.0, 1.0], [0.0, 0.0]]) == 1
    assert comparisons.alpha([[1.0, 1.0], [1.0, 1.0]]) is None  # no chance of disagreement
    assert comparisons.alpha([[1.0], []]) is None


def _sample(rows: int = 400, labelled: int = 150) -> tuple[np.ndarray, np.ndarray]:
    people = RANDOM.choice([-1.0, 0.0, 1.0], rows, p=[0.1, 0.7, 0.2])
    judge = np.where(RANDOM.random(rows) < 0.85, people, -people)
    people[labelled:] = np.nan
    return people, judge


def test_bounds_are_where_the_p_value_is_the_level_and_mirror_each_other() -> None:
    people, judge = _sample()
    found, turned = (Assisted.of(sign * people, sign * judge, np.arange(400)) for sign in (1, -1))
    assert found.p_above(found.lower(0.05)) == pytest.approx(0.05, abs=1e-6)
    assert found.p_below(found.upper(0.05)) == pytest.approx(0.05, abs=1e-6)
    assert turned.effect == pytest.approx(-found.effect)
    assert turned.lower(0.05) == pytest.approx(-found.upper(0.05))
    assert found.lower(0.05) < found.effect < found.upper(0.05)


def test_a_judge_that_says_nothing_or_the_contrary_counts_for_nothing() -> None:
    people, judge = _sample()
    alone = Assisted.of(people, np.zeros(400), np.arange(400))
    assert alone.weight == 0
    assert alone.effect == pytest.approx(float(np.nanmean(people)))
    assert Assisted.of(people, -judge, np.arange(400)).weight == 0
    assert Assisted.of(people, judge, np.arange(400)).error < alone.error
    everyone = Assisted.of(np.nan_to_num(people), judge, np.arange(400))
    assert (everyone.weight, everyone.others) == (0.0, 0)


def test_a_judge_that_makes_the_error_hardly_smaller_counts_for_nothing() -> None:
    """Of rows in groups of ten it would cost power: one group more, about which the judge is wrong, is in the error."""
    random, groups = np.random.default_rng(7), np.arange(500) // 10
    weights = []
    for _ in range(50):
        people = random.choice([-1.0, 0.0, 1.0], 50, p=[0.05, 0.7, 0.25])[groups]
        judge = np.where(random.random(500) < 0.9, people, -people)
        people[groups % 5 > 0] = np.nan
        found = Assisted.of(people, judge, groups)
        assert found.weight == 0 or found.error <= 0.95 * math.sqrt(found.alone)
        weights.append(found.weight)
    assert weights.count(0.0) > 25
    single = np.arange(500)
    assert Assisted.of(people, judge, single).weight > 0  # alone, those rows are helped


def test_rows_of_a_group_that_agree_count_as_one() -> None:
    """Each row three times, in one group: the same effect and weight, and the error of the single rows."""
    people, judge = _sample()
    single = Assisted.of(people, judge, np.arange(400), further=0.0)
    groups = Assisted.of(np.repeat(people, 3), np.repeat(judge, 3), np.repeat(np.arange(400), 3), further=0.0)
    assert groups.effect == pytest.approx(single.effect)
    assert groups.weight == pytest.approx(single.weight, rel=0.01)
    assert groups.error == pytest.approx(single.error, rel=0.01)
    assert groups.freedom == single.freedom


def test_one_labelled_group_says_nothing() -> None:
    people, judge = _sample(labelled=3)
    with pytest.raises(ValueError, match="1 labelled groups of rows: need 2"):
        Assisted.of(people, judge, np.array([0, 0, 0, *range(1, 398)]))


def test_what_is_advised_is_enough() -> None:
    people, judge = _sample(4000, 200)
    found = Assisted.of(people, judge, np.arange(4000))
    needed = found.rows_needed(found.effect - 0.08, 0.05)
    assert needed is not None
    assert LEAST_LABELS <= needed <= 4000
    scale = found.n / needed
    then = replace(found, n=needed, of_labels=found.of_labels * scale, freedom=needed - 1)
    assert 0.06 < then.detectable(0.05) < 0.09
    assert found.rows_needed(found.effect, 0.05) is None
    assert (found.rows_needed(found.effect - 0.001, 0.05) or 0) > 4000


@pytest.mark.parametrize(("loss", "rows"), [(0.05, 59), (0.02, 149), (0.01, 299)])
def test_a_loss_that_labels_may_miss_has_the_rule_of_three(loss: float, rows: int) -> None:
    assert rows_to_see(loss, 0.05) == rows
    assert unseen(loss, rows) <= 0.05 < unseen(loss, rows - 1)


@pytest.mark.slow
def test_the_gates_keep_their_level_where_a_gate_on_the_judge_does_not() -> None:
    """As docs/measurements/judges.md has it, with few runs: 5 % of 120 are at most 12 with a chance of 99 %."""
    found = judges.rates(judges.World(*judges.NONE, bias=0.6), 120, 3)
    assert found["naive"] > 0.5
    assert found["assisted"] <= 0.1
    assert found["people"] <= 0.1
    worse = judges.rates(judges.World(0.0, 0.05, margin=0.05), 120, 3)
    assert worse["assisted"] <= 0.1 < worse["textbook"]
