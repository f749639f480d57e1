"""The gate thinking: thoughts end, and are not much longer than those of a reference."""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from checks.decision import judging
from checks.decision.judging import Sample
from checks.evaluation import scoring
from checks.formats.thinking import Thinking
from checks.formats.verdict import Finding
from checks.gating import chain
from checks.process.errors import ParamsRefused
from checks.records.rows import Prediction, Row, Thought
from tests import evidence_tree
from tests.conftest import as_params

pytestmark = pytest.mark.slow

ENDS = {"kind": "thinking", "at_most": 0.05, "confidence": 0.95}
NO_LONGER = {"kind": "thinking", "at_most": 1.2, "against": "base", "confidence": 0.95}
THINKS = {"mode": "always"}


def _thinking(document: dict[str, Any], gate: dict[str, Any]) -> dict[str, Any]:
    document["base"]["thinking"] = dict(THINKS)
    document["gates"] = {"it": gate}
    return document


def _predictions(rows: Sequence[Row], tokens: Sequence[int], unclosed: int = 0) -> list[Prediction]:
    """Right answers after thoughts of so many tokens; the first ``unclosed`` thoughts have no end."""
    predictions = []
    for number, (row, count) in enumerate(zip(rows, tokens, strict=True)):
        closed = number >= unclosed
        thought = Thought(text="so " * count, tokens=count, closed=closed)
        prediction = evidence_tree.predict(row, closed)
        update = {"thoughts": (thought,)} | ({} if closed else {"prediction": ""})
        predictions.append(prediction.model_copy(update=update))
    return predictions


def _found(
    root: Path,
    document: dict[str, Any],
    gate: dict[str, Any],
    ours: Sequence[int],
    theirs: Sequence[int] = (),
    unclosed: int = 0,
    change: dict[str, Any] | None = None,
) -> Finding:
    params = as_params(_thinking(document, gate))
    evidence_tree.build(root, params, len(ours))
    rows = evidence_tree.rows("test", len(ours))
    candidate = _predictions(rows, ours, unclosed)
    candidate[0] = candidate[0].model_copy(update=change or {})
    base = {"base": _predictions(rows, theirs)} if theirs else {}
    evidence_tree.evaluated(root, params, candidate, **base)
    (finding,) = judging.judge(params, chain.gather(root, scoring.digest_of(params.evaluate.scorers))).findings
    return finding


def _lengths(mean: float, rows: int = 200) -> list[int]:
    """Lengths of thoughts, from half to one and a half of ``mean``, the same at every call."""
    drawn = random.Random(7)
    return [round(mean * drawn.uniform(0.5, 1.5)) for _ in range(rows)]


@pytest.mark.parametrize(
    ("rows", "unclosed", "status", "words"),
    [
        (200, 2, "pass", "2 of 200 rows have a thought without an end; upper 95% bound 3."),
        (200, 12, "fail", "12 of 200 rows"),
        (200, 9, "inconclusive", "would decide if the true share is as observed"),
        (40, 0, "inconclusive", "0 of 40 rows"),
    ],
)
def test_a_share_of_unclosed_thoughts_passes_only_where_more_is_ruled_out(
    tmp_path: Path, document: dict, rows: int, unclosed: int, status: str, words: str
) -> None:
    finding = _found(tmp_path, document, ENDS, _lengths(40, rows), unclosed=unclosed)
    assert (finding.status, words in finding.reason) == (status, True), finding.reason
    assert finding.value == unclosed / rows


@pytest.mark.parametrize(
    ("times", "status", "words"),
    [
        (1.0, "pass", "1.2 times as many or more are ruled out"),
        (0.5, "pass", "ruled out"),
        (2.0, "fail", "more than 1.2 times as many"),
        (1.2, "inconclusive", "are not ruled out"),
    ],
)
def test_a_model_that_thinks_twice_as_long_fails(
    tmp_path: Path, document: dict, times: float, status: str, words: str
) -> None:
    theirs = _lengths(40)
    drawn = random.Random(3)
    ours = [round(times * length + drawn.uniform(-4, 4)) for length in theirs]
    finding = _found(tmp_path, document, NO_LONGER, ours, theirs)
    assert (finding.status, words in finding.reason) == (status, True), finding.reason
    assert finding.value == pytest.approx(times, abs=0.03)
    assert finding.low is not None
    assert finding.high is not None
    assert finding.value is not None
    assert finding.low < finding.value < finding.high
    assert finding.bound == 1.2
    assert (finding.high < 1.2) == (status == "pass")
    assert (finding.low > 1.2) == (status == "fail")


def test_too_few_groups_and_a_reference_without_thoughts_decide_nothing(tmp_path: Path, document: dict) -> None:
    finding = _found(tmp_path / "few", document, NO_LONGER, [40] * 10, [40] * 10)
    assert finding.status == "inconclusive"
    assert "10 groups of rows are too few" in finding.reason
    finding = _found(tmp_path / "none", document, NO_LONGER, [0] * 50, [0] * 50)
    assert finding.status == "inconclusive"
    assert "base has no thought to compare with" in finding.reason


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"thoughts": ()}, "candidate.jsonl:1 does not say what was thought"),
        (
            {"thoughts": (Thought(text="so", tokens=1, closed=False),)},
            "candidate.jsonl:1: has an answer after a thought without an end",
        ),
    ],
)
def test_answers_that_do_not_fit_their_thoughts_are_no_evidence(
    tmp_path: Path, document: dict, change: dict, words: str
) -> None:
    finding = _found(tmp_path, document, ENDS, _lengths(40), change=change)
    assert (finding.status, words in finding.reason) == ("fail", True), finding.reason


@pytest.mark.parametrize(
    ("gate", "problem"),
    [
        ({**ENDS, "at_most": 1.0}, "at_most 1: is no share of thoughts; use one below 1"),
        ({**NO_LONGER, "at_most": 0.9}, "at_most 0.9: is no multiple .*; use 1 or more"),
    ],
)
def test_a_gate_that_contradicts_itself_is_refused(document: dict, gate: dict, problem: str) -> None:
    with pytest.raises(ParamsRefused, match=problem):
        as_params(_thinking(document, gate))


def test_a_gate_about_a_model_that_does_not_think_is_refused(document: dict) -> None:
    document["gates"] = {"it": dict(ENDS)}
    with pytest.raises(ParamsRefused, match=r"gates\.it\.kind: the model does not think; write base.thinking"):
        as_params(document)


def test_gates_score_answers_again_against_the_answer_of_a_reference(tmp_path: Path, document: dict) -> None:
    params = as_params(_thinking(document, ENDS))
    evidence_tree.build(tmp_path, params, 4)
    evidence = chain.gather(tmp_path, scoring.digest_of(params.evaluate.scorers))
    report = evidence.reports.evaluation
    assert report is not None
    answers = [
        answer.model_copy(update={"reference": f"<think>why</think>{answer.reference}"})
        for answer in _predictions(evidence.test, [3] * 4)
    ]
    for marked, expected in ((Thinking(mode="always"), [1.0] * 4), (None, [0.0] * 4)):
        reports = replace(evidence.reports, evaluation=report.model_copy(update={"thinking": marked}))
        claimed = [a.model_copy(update={"scores": {"exact-match": expected[0]}}) for a in answers]
        part = replace(evidence, reports=reports, answers={"candidate": tuple(claimed)})
        sample = Sample(part, params.evaluate.scorers)
        assert [*sample.scores("candidate", "exact-match")] == expected
