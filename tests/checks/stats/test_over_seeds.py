"""What several seeds tell of parameters: the statistics, and a sealed report."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from checks.config import sweeps
from checks.config.sweeps import Compared, Recipe, Sweep, SweepReport, SweptRun
from checks.formats.evaluation_reports import Interval
from checks.stats import over_seeds
from checks.storage import digest
from stages.reporting.swept import table
from stages.sweep import _differences

A, B, C = (f"sha256:{letter * 64}" for letter in "abc")
_ALONE = [str(row) for row in range(60)]


def _seeds(means: list[float]) -> Any:
    """The scores of a recipe whose seeds have these means, and whose rows do not differ."""
    return np.repeat(np.array(means)[:, None], 60, axis=1)


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_where_rows_do_not_differ_it_is_welchs_test(confidence: float) -> None:
    from scipy import stats

    one, two = [0.70, 0.72, 0.69], [0.66, 0.71, 0.60, 0.65]
    found = over_seeds.difference(_seeds(one), _seeds(two), _ALONE, confidence)
    assert found is not None
    right = stats.ttest_ind(one, two, equal_var=False)
    interval = right.confidence_interval(confidence)
    assert (found.freedom, found.low, found.high) == pytest.approx((right.df, interval.low, interval.high))
    assert found.mirrored().low == -found.high


def test_rows_add_their_variance_by_groups() -> None:
    from scipy import stats

    random = np.random.default_rng(7)
    one, two = (random.integers(0, 2, (3, 60)).astype(float) for _ in range(2))
    alone = over_seeds.difference(one, two, _ALONE, 0.95)
    doubled = over_seeds.difference(np.tile(one, 2), np.tile(two, 2), _ALONE * 2, 0.95)
    assert alone is not None
    assert doubled is not None
    assert (doubled.low, doubled.freedom) == pytest.approx(
        (alone.low, alone.freedom)
    )  # twice the same rows say no more
    seeds = stats.ttest_ind(one.mean(axis=1), two.mean(axis=1), equal_var=False)
    assert alone.high - alone.low > 2 * 1.96 * seeds._standard_error
    assert alone.freedom > seeds.df


@pytest.mark.parametrize(
    ("one", "two", "groups"),
    [
        (_seeds([0.5]), _seeds([0.4, 0.6]), _ALONE),  # one seed
        (_seeds([0.5, 0.5]), _seeds([0.4, 0.4]), _ALONE),  # nothing varies
        (_seeds([0.5, 0.6]), _seeds([0.4, 0.6]), ["all"] * 60),  # one group
    ],
)
def test_what_cannot_be_told_is_none(one: Any, two: Any, groups: list[str]) -> None:
    assert over_seeds.difference(one, two, groups, 0.95) is None


def test_the_smallest_difference_is_seen_in_four_cases_of_five() -> None:
    from scipy import stats

    least = over_seeds.least(0.01, 3, 0.95)
    draws = np.random.default_rng(3).normal(0, 0.01, (2, 20_000, 3))
    seen = stats.ttest_ind(draws[0] + least, draws[1], axis=1).pvalue < 0.05
    assert float(seen.mean()) == pytest.approx(0.8, abs=0.01)


def test_every_two_settings_are_compared_together_but_for_one_that_was_refused() -> None:
    scores = {A: [[1.0, 0.0, 1.0], [1.0, 1.0, 1.0]], B: [[0.0, 0.0, 1.0], [0.0, 1.0, 1.0]], C: [[1.0, 1.0, 0.0], []]}
    (only,) = _differences(scores, ["a", "b", "c"], 0.95, 3)
    assert (only.one, only.two) == (A, B)
    assert only.confidence == pytest.approx(1 - 0.05 / 3)  # as if all had been trained
    assert only.value == pytest.approx(1 / 3)
    scores[C][1] = [1.0, 0.0, 0.0]
    assert [each.confidence for each in _differences(scores, ["a", "b", "c"], 0.95, 3)] == [
        pytest.approx(1 - 0.05 / 3)
    ] * 3


def test_seeds_that_score_alike_promise_nothing() -> None:
    assert over_seeds.said_of_one(0.0, 0.0, 3, 0.95) == (
        "0.000 over 3 seeds, which score alike: so few seeds and rows show no spread"
    )


HERE = Recipe(parameters=A, base=B, train=B, valid=B, scorers=B, prompt_format=B)
THERE = HERE.model_copy(update={"parameters": C})
SEED = 17


def _run(recipe: Recipe, rate: float, seed: int, score: float, merged: str | None = None) -> SweptRun:
    interval = Interval(value=score, low=score - 0.1, high=min(1, score + 0.1), n=60)
    return SweptRun(
        values={"train.learning_rate": rate}, seed=seed, recipe=recipe, merged=merged or digest.of_json([rate, seed]),
        experiment=f"sweep-{seed}", scores={"exact-match": interval},
    )  # fmt: skip


def _refused(rate: float, seed: int) -> SweptRun:
    values: sweeps.Values = {"train.learning_rate": rate}
    return SweptRun(values=values, seed=seed, experiment=f"sweep-{seed}", refused="step 3: the loss is nan")


def _swept(
    here: Recipe = HERE, there: Recipe = THERE, seeds: int = 2, nan: bool = False, merged: str | None = None
) -> Sweep:
    """A sweep of two learning rates, that of ``here`` with ``seeds`` seeds, of which the first gave ``merged``."""
    runs = [_run(here, 0.002, SEED, 0.70, merged), _run(here, 0.002, SEED + 1, 0.73)][:seeds]
    runs += [_run(there, 0.001, SEED, 0.60), _run(there, 0.001, SEED + 1, 0.61)]
    runs += [_refused(0.002, SEED + 2)] * nan
    difference = over_seeds.difference(_seeds([0.70, 0.73]), _seeds([0.60, 0.61]), _ALONE, 0.95)
    assert difference is not None
    compared = Compared(**dict(difference), one=there.parameters, two=here.parameters).mirrored()
    return Sweep(
        valid=here.valid, rows=60, scorer="exact-match", confidence=0.95, runs=tuple(runs),
        differences=(compared,) if seeds > 1 else (),
    )  # fmt: skip


def test_the_best_setting_is_that_of_the_best_mean_that_trains_with_every_seed() -> None:
    swept, lucky = _swept(), _swept(nan=True)
    assert [values["train.learning_rate"] for values, _ in swept.by_values()] == [0.002, 0.001]
    assert [values["train.learning_rate"] for values, _ in lucky.by_values()] == [0.001, 0.002]
    assert "| train.learning_rate=0.002 | 0.715 | 2 of 3 | 0.021 |" in table(lucky).splitlines()
    assert (
        "* train.learning_rate=0.001 against train.learning_rate=0.002: -0.110 [-0.243, +0.023], 1.2 degrees of freedom: "
        "too close to tell; a true difference of 0.172 would be seen in four cases of five"
    ) in table(swept).splitlines()
    alone = swept.model_copy(update={"runs": swept.runs[:2], "differences": ()})
    assert "0.715 over 2 seeds, spread (standard deviation) 0.021: another recipe" in table(alone)


def _score(plain: dict[str, Any]) -> None:
    plain["runs"][0]["scores"]["exact-match"]["value"] = 0.75


def _digest(plain: dict[str, Any]) -> None:
    plain["runs"][0]["recipe"]["base"] = A


def _fewer(plain: dict[str, Any]) -> None:
    del plain["runs"][1]


def _narrower(plain: dict[str, Any]) -> None:
    plain["differences"][0]["high"] = -0.01


def _unscored(plain: dict[str, Any]) -> None:
    plain["scorer"] = "token-f1"


def _unmeasured(plain: dict[str, Any]) -> None:
    plain["differences"][0]["one"] = B


@pytest.mark.parametrize(
    ("edit", "forged", "message"),
    [
        *((edit, False, "sealed is not the digest of the rest: the file was changed after the sweep")
          for edit in (_score, _digest, _fewer, _narrower)),
        (_unscored, True, "a training has no score by token-f1"),
        (_unmeasured, True, f"no training has the parameters {B}, which differences names"),
    ],
)  # fmt: skip
def test_a_report_that_was_edited_by_hand_is_refused(
    edit: Callable[[dict[str, Any]], None], forged: bool, message: str
) -> None:
    plain = SweepReport.seal(_swept()).model_dump(mode="json")
    edit(plain)
    if forged:
        del plain["sealed"]
        plain["sealed"] = digest.of_json(plain)
    with pytest.raises(ValueError, match=message):
        SweepReport.model_validate(plain)
