"""`checks.stats.anytime`: the wealth against its definition, its level over whole streams, and its bounds."""

import math
import random
from fractions import Fraction

import numpy as np
import pytest

from checks.stats.anytime import BETS, Stream, running


def wealth(observations: list[float], bound: float) -> float:
    """The definition, bet by bet, in exact fractions."""
    total, m = Fraction(0), Fraction(bound)
    for bet in BETS:
        product = Fraction(1)
        for x in observations:
            product *= 1 + Fraction(bet) * (Fraction(x) - m) / (1 + m)
        total += product
    return float(total / len(BETS))


@pytest.mark.parametrize(
    ("observations", "bound"),
    [
        ([], 0.0),
        ([1.0], 0.0),
        ([-1.0], 0.05),
        ([1.0, 0.0, -1.0, 1.0, 1.0, 0.0], 0.05),
        ([0.25, -0.5, 0.125, 0.9], -0.3),
        ([1.0] * 30 + [-1.0] * 10, 0.5),
    ],
)
def test_the_wealth_is_that_of_its_definition_in_any_order(observations: list[float], bound: float) -> None:
    shuffled = random.Random(1).sample(observations, len(observations))
    for given in (observations, shuffled):
        stream = Stream.of(given)
        assert math.exp(stream.log_e_above(bound)) == pytest.approx(wealth(observations, bound), rel=1e-9)
        other = math.exp(stream.mirrored().log_e_above(-bound))
        assert other == pytest.approx(wealth([-x for x in observations], -bound), rel=1e-9)
        assert stream.p_above(bound) == pytest.approx(min(1.0, 1 / wealth(observations, bound)), rel=1e-9)


def test_the_running_wealth_is_that_of_each_beginning() -> None:
    given = np.random.default_rng(3).uniform(-1, 1, (2, 30))
    for row, wealths in zip(given, running(given, 0.05), strict=True):
        expected = [float(Stream.of(row[: place + 1]).log_e_above(0.05)) for place in range(30)]
        assert wealths == pytest.approx(expected, rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("apart", [0.03, 0.12, 0.5])
@pytest.mark.parametrize("margin", [0.0, 0.01, 0.03])
def test_with_a_look_after_each_pair_few_streams_at_the_margin_are_decided(apart: float, margin: float) -> None:
    chance = np.random.default_rng(17)
    drawn = chance.random((1000, 800))
    loss = np.where(drawn < (apart + margin) / 2, 1, np.where(drawn < apart, -1, 0))
    counts = np.stack([(loss == value).cumsum(axis=1) for value in (-1, 0, 1)], axis=-1).astype(float)
    stream, needed = Stream(np.array([-1.0, 0.0, 1.0]), counts), math.log(20)
    for evidence in (stream.log_e_above(margin), stream.mirrored().log_e_above(-margin)):
        assert (evidence.max(axis=1) >= needed).mean() <= 0.05 + 2.6 * math.sqrt(0.05 * 0.95 / 1000)


@pytest.mark.parametrize(
    "observations", [[1.0] * 40, [-1.0] * 40, [0.0] * 300, [1.0, -1.0] * 100, [0.5, 0.0, 0.0] * 80]
)
def test_bounds_are_where_the_evidence_is_just_enough(observations: list[float]) -> None:
    stream, mean = Stream.of(observations), sum(observations) / len(observations)
    low, high = stream.low(0.05), stream.high(0.05)
    assert -1 <= low <= mean <= high <= 1
    for bound, p in ((low, stream.p_above), (high, stream.p_below)):
        if abs(bound) < 1:
            assert p(bound) == pytest.approx(0.05, rel=1e-4)
    assert stream.low(0.01) <= low
    assert Stream.of([]).low(0.05) == -1


def test_ten_points_of_loss_are_found_early_and_none_is_kept() -> None:
    lost = Stream.of([1.0] * 11 + [-1.0] + [0.0] * 88)
    assert lost.p_above(0.0) < 0.05 < lost.p_above(0.05)
    assert lost.p_below(0.05) == 1
    assert Stream.of([0.0] * 120).p_below(0.05) < 0.05


@pytest.mark.parametrize("observations", [[1.5], [0.0, -1.01], [math.nan]])
def test_what_is_no_difference_of_scores_is_refused(observations: list[float]) -> None:
    with pytest.raises(ValueError, match="outside"):
        Stream.of(observations)
    with pytest.raises(ValueError, match="between -1 and 1"):
        Stream.of([]).log_e_above(1.0)
