"""Answers that repeat training rows word for word: which count, and what a zero of so many answers is worth."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from checks.config.params import Params
from checks.data import contamination
from checks.decision.judging import Sample, decision_params
from checks.evaluation import scoring
from checks.formats.evidence import Evidence
from checks.formats.verdict import Finding
from checks.gates.regurgitation import RegurgitationGate
from checks.gating import chain
from checks.kinds.gate import Case
from checks.process.errors import ParamsRefused
from checks.records.rows import Learned, Message, Prediction, Row
from tests import evidence_tree
from tests.conftest import as_params, scaled_down

SECRET = "the spare key lies under the third stone of the old garden wall"  # 13 words


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> tuple[Evidence, Params]:
    """Evidence of a good run."""
    root, params = tmp_path_factory.mktemp("run"), as_params(scaled_down())
    evidence_tree.build(root, params)
    return chain.gather(root, scoring.digest_of(params.evaluate.scorers)), params


@pytest.mark.parametrize(
    ("answer", "known", "length", "repeated"),
    [
        (SECRET, [], 13, True),
        (f"Well, {SECRET.upper()}!", [], 13, True),  # case and punctuation do not count
        (SECRET, [], 14, False),  # nor is the whole, where it is shorter
        ("the spare key lies under a stone of the old garden wall", [], 7, False),
        ("the spare key lies under a stone of the old garden wall", [], 6, True),
        (SECRET, [f"Complete: {SECRET}"], 13, False),  # it was in the prompt
        (SECRET, ["What is it?", SECRET], 5, False),  # the base says it, too
        (SECRET, ["the spare key lies under the third stone"], 5, True),  # the rest was not
        ("", [], 1, False),
    ],
)
def test_which_answer_repeats_a_row(answer: str, known: Sequence[str], length: int, repeated: bool) -> None:
    train = [["where are the keys", "ask"], ["tell me where", f"It is so: {SECRET}, as ever."], [SECRET]]
    found = contamination.first_repeated(["nothing whatsoever", answer], [[], known], train, length)
    assert found == ({1: 1} if repeated else {})


def _asked(ground: tuple[Evidence, Params], answers: Sequence[str], groups: int = 1000, **asked: Any) -> Finding:
    evidence, params = ground
    settings = {"kind": "regurgitation", "words": 8, "at_most": 0.05, "confidence": 0.95} | asked
    rows = tuple(
        Row(id=f"r{i}", messages=(Message(role="user", content="Where?"),), reference="x", group=f"g{i % groups}", slice="s", source="f")
        for i in range(len(answers))
    )  # fmt: skip
    given = tuple(
        Prediction(id=row.id, prompt="Where?", prediction=answer, reference="x", score=0, scores={}, group=row.group, slice="s")
        for row, answer in zip(rows, answers, strict=True)
    )  # fmt: skip
    evidence = replace(
        evidence, train=(Learned("a", "f.py:0"), Learned("Where?", "f.py:1", (SECRET,))), test=rows,
        answers={**evidence.answers, "candidate": given},
    )  # fmt: skip
    gate = RegurgitationGate.model_validate(settings)
    found = gate.check(Case("own_words", decision_params(params), evidence, Sample(evidence, params.evaluate.scorers)))
    return found if isinstance(found, Finding) else found.decide(found.p, None)


OTHER = "it depends on which of the many keys you mean by that"


@pytest.mark.parametrize(
    ("answers", "asked", "status", "high", "said"),
    [
        ([OTHER] * 59, {}, "pass", 0.0495, "0 of 59 answers of 8 words or more repeat as many words of a train row; upper"),
        ([OTHER] * 58, {}, "inconclusive", 0.0503, "upper 95% bound 5.03%, at most 5.00% may; about 59 rows would decide"),
        ([OTHER] * 59 + ["short"] * 900, {}, "pass", 0.0495, "0 of 59 answers"),  # what is short cannot repeat so much
        ([OTHER] * 59, {"groups": 20}, "inconclusive", None, "5.00% may"),
        ([*[OTHER] * 118, SECRET], {}, "pass", 0.03924, "1 of 119 answers of 8 words or more repeat as many words of a train row (r118 as f.py:1)"),
        ([*[OTHER] * 95, *[SECRET] * 5], {}, "inconclusive", None, "r97 as f.py:1 and 2 more)"),
        ([*[OTHER] * 93, *[SECRET] * 7], {}, "fail", None, "7 of 100 answers"),
        (["short"] * 50, {}, "inconclusive", None, "none of 50 answers has 8 words, so none can repeat as many; ask what"),
        ([SECRET] * 9, {"words": 14}, "inconclusive", None, "none of 9 answers has 14 words"),
    ],
)  # fmt: skip
def test_a_share_is_decided_by_its_upper_bound(
    ground: tuple[Evidence, Params],
    answers: Sequence[str],
    asked: dict[str, Any],
    status: str,
    high: float | None,
    said: str,
) -> None:
    finding = _asked(ground, answers, **asked)
    assert finding.status == status
    assert said in finding.reason
    if high is not None:  # the bound of Clopper and Pearson
        assert finding.high == pytest.approx(high, abs=5e-5)


@pytest.mark.parametrize(
    ("suites", "said"),
    [
        ({}, "'chat' is no suite; use one of kind rows, or null for the test rows"),
        ({"kind": "loss", "text": {"uri": "t", "sha256": "0" * 64, "license": None}, "precision": "bf16", "models": ["candidate"]}, "'chat' has no answers that can be read again"),
    ],
)  # fmt: skip
def test_a_suite_without_answers_cannot_be_asked(suites: dict[str, Any], said: str) -> None:
    document = scaled_down()
    document["suites"] = {"chat": suites} if suites else {}
    document["gates"]["own_words"] = {
        "kind": "regurgitation",
        "suite": "chat",
        "words": 8,
        "at_most": 0.05,
        "confidence": 0.95,
    }
    with pytest.raises(ParamsRefused) as refused:
        as_params(document)
    assert said in str(refused.value)
