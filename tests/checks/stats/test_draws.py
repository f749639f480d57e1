"""Rows that are answered several times: how the variance splits, and what the gates make of means of draws."""

import functools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from checks.decision.judging import Sample, decision_params
from checks.evaluation import scoring
from checks.formats.decoding import Decoding
from checks.formats.evaluation_reports import Spread
from checks.formats.evidence import Evidence
from checks.gates.improves import ImprovesGate
from checks.gates.non_inferior import NonInferiorGate
from checks.gates.threshold import ThresholdGate
from checks.gating.chain import gather
from checks.kinds.gate import Case, ScoreGate, Test
from checks.records.rows import Prediction
from checks.stats import draws, intervals
from tests import evidence_tree
from tests.conftest import as_params, scaled_down

pytestmark = pytest.mark.slow

ROWS, DRAWS, RUNS = 120, 3, 200
PARAMS = as_params(scaled_down())
Bits = NDArray[np.float64]


def right(random: np.random.Generator, chances: Bits, times: int) -> Bits:
    """Which of ``times`` draws of each row are right."""
    return (random.random((len(chances), times)) < chances[:, None]).astype(float)


def test_the_split_is_that_of_the_rows_and_of_their_draws() -> None:
    random, parts = np.random.default_rng(41), list[Spread]()
    for _ in range(300):
        parts.append(draws.spread(right(random, random.beta(1, 1, 200), 4).tolist(), np.arange(200)))
    # A chance from 0 to 1 has the variance 1/12, and a draw of it 1/6 on average.
    assert np.mean([part.rows for part in parts]) == pytest.approx(1 / 12 / 200, rel=0.03)
    assert np.mean([part.draws for part in parts]) == pytest.approx(1 / 6 / 800, rel=0.03)


def test_rows_of_a_group_are_together_in_the_part_of_the_rows() -> None:
    random = np.random.default_rng(42)
    scores = right(random, np.repeat(random.beta(1, 1, 50), 4), 2).tolist()
    alone, grouped = (draws.spread(scores, groups) for groups in (np.arange(200), np.repeat(np.arange(50), 4)))
    assert grouped.draws == alone.draws
    assert grouped.rows > 2 * alone.rows


@pytest.mark.parametrize(("rows", "times"), [(1, 4), (4, 1)])
def test_an_interval_gets_narrower_as_foretold(rows: int, times: int) -> None:
    random, foretold, seen = np.random.default_rng(43), list[float](), list[float]()
    for _ in range(60):
        few = right(random, random.beta(1, 1, 200), 2)
        many = right(random, random.beta(1, 1, 200 * rows), 2 * times)
        foretold.append(draws.narrower(draws.spread(few.tolist(), np.arange(200)), rows, times))
        widths = [
            (interval := intervals.mean_interval(of.mean(axis=1), np.arange(len(of)), 0.95)).high - interval.low
            for of in (few, many)
        ]
        seen.append(1 - widths[1] / widths[0])
    assert np.mean(foretold) == pytest.approx(np.mean(seen), abs=0.02)


@pytest.mark.parametrize(
    ("rows", "of_draws", "figures"),
    [(3e-4, 1e-4, ["25%", "6%", "13%", "29%"]), (0.0, 1e-4, ["100%", "29%", "100%", "29%"]), (0.0, 0.0, ["0%"] * 4)],
)
def test_the_sentence_says_what_more_draws_and_more_rows_would_do(
    rows: float, of_draws: float, figures: list[str]
) -> None:
    sentence = draws.sentence("exact-match", Spread(rows=rows, draws=of_draws), 3)
    assert sentence.startswith("exact-match is a mean over 3 draws of each row")
    assert [word.strip(".,") for word in sentence.split() if "%" in word] == figures


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    """The evidence of an evaluation that drew ``DRAWS`` answers to each row."""
    root = tmp_path_factory.mktemp("draws")
    evidence_tree.build(root, PARAMS, ROWS)
    gathered = gather(root, scoring.digest_of(PARAMS.evaluate.scorers))
    assert gathered.reports.evaluation is not None
    drawn = gathered.reports.evaluation.model_copy(
        update={"decoding": Decoding(temperature=0.7, top_p=1.0, draws=DRAWS, seed=1)}
    )
    return replace(gathered, reports=replace(gathered.reports, evaluation=drawn))


@functools.cache
def predicted(at: int, bits: tuple[float, ...]) -> Prediction:
    """The draws of one row, right where ``bits`` say so, and what evaluate claims of them."""
    row = evidence_tree.rows("test", ROWS)[at]
    texts = [row.reference if bit else "sql" for bit in bits]
    scores = {
        "exact-match": sum(bits) / len(bits),
        f"exact-match{scoring.IN_ALL}": min(bits),
        f"exact-match{scoring.IN_ANY}": max(bits),
    }
    return Prediction(
        id=row.id, prompt=row.prompt, prediction=texts[0], reference=row.reference, score=scores["exact-match"],
        scores=scores, group=row.group, slice=row.slice, further=tuple(texts[1:]),
    )  # fmt: skip


def sample(evidence: Evidence, ours: Bits, theirs: Bits) -> Sample:
    answers = {
        name: tuple(predicted(at, tuple(bits)) for at, bits in enumerate(of_model.tolist()))
        for name, of_model in (("candidate", ours), ("base", theirs))
    }
    return Sample(replace(evidence, answers=answers), PARAMS.evaluate.scorers)


def p_value(gate: ScoreGate, evidence: Evidence, ours: Bits, theirs: Bits) -> float:
    found = gate.check(Case("it", decision_params(PARAMS), evidence, sample(evidence, ours, theirs)))
    assert isinstance(found, Test), found
    return found.p


Chances = Callable[[np.random.Generator], tuple[Bits, Bits]]
IMPROVES = ImprovesGate(kind="improves", metric="exact-match", against="base", margin=0.0, confidence=0.95)
KEEPS = NonInferiorGate(kind="non_inferior", metric="exact-match", against="base", margin=0.1, confidence=0.95)
AT_LEAST = ThresholdGate(kind="threshold", metric="exact-match", at_least=0.5, confidence=0.95, resolution=0.5)


def equal(random: np.random.Generator) -> tuple[Bits, Bits]:
    """Two models with the same mean, each with rows of its own that it knows."""
    return random.beta(0.4, 0.4, ROWS), random.beta(0.4, 0.4, ROWS)


def a_margin_worse(random: np.random.Generator) -> tuple[Bits, Bits]:
    """A model that is worse by exactly the margin, 0.1."""
    ours, theirs = equal(random)
    return 0.8 * ours, 0.8 * theirs + 0.1


@pytest.mark.parametrize(("gate", "chances"), [(IMPROVES, equal), (KEEPS, a_margin_worse), (AT_LEAST, equal)])
def test_means_of_draws_hold_the_level_of_a_gate(evidence: Evidence, gate: ScoreGate, chances: Chances) -> None:
    random, passed = np.random.default_rng(20261201), 0
    for _ in range(RUNS):
        ours, theirs = (right(random, of_model, DRAWS) for of_model in chances(random))
        passed += p_value(gate, evidence, ours, theirs) <= 0.05
    assert passed <= 19  # 5 % of 200 are 10: at most 19 with a chance of 99.8 %


def test_draws_that_are_taken_for_rows_would_not_hold_it() -> None:
    """What the mean of a row's draws prevents: each draw as a row of its own."""
    from checks.stats.paired import compare

    random, passed = np.random.default_rng(20261201), 0
    for _ in range(600):
        ours, theirs = (right(random, of_model, DRAWS).ravel() for of_model in equal(random))
        passed += compare(ours, theirs, np.arange(ROWS * DRAWS), 0.0, 0.95).p <= 0.05
    assert passed > 46  # 5 % of 600 are 30: at most 46 with a chance of 99.8 %


def test_a_gate_asks_rows_that_are_right_in_all_draws_or_in_any(evidence: Evidence) -> None:
    bits = np.zeros((ROWS, DRAWS))
    bits[:60], bits[60:90, 0] = 1, 1
    scores = sample(evidence, bits, bits)
    means = {metric: float(scores.scores("candidate", metric).mean()) for metric in scores._scorers}
    assert means == pytest.approx(
        {"exact-match": 7 / 12, "exact-match in all draws": 0.5, "exact-match in any draw": 0.75}
    )
