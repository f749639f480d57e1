"""Suites of kind judged: judgements are bound to the answers, and one of something else is refused."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest

from checks.decision import judging
from checks.evaluation import scoring
from checks.formats.evaluation_reports import EvaluationReport
from checks.formats.suite_report import SuiteLine, SuitesReport
from checks.gating import chain
from checks.process.errors import EvidenceRefused, ParamsRefused, Refusal
from checks.records.rows import Prediction
from checks.storage import digest, files, layout
from release.record.records import Records
from release.record.verdict_check import hold
from stages.suites import suites
from tests.conftest import as_params
from tests.suite_tree import OTHER, Run, edit, pinned
from tests.suite_tree import run as run  # a fixture


def _judgements(run: Run, value: Callable[[Prediction], float | None]) -> list[dict[str, Any]]:
    """A judgement of every answer of candidate and base to the 40 test rows, by Ada."""
    found = {}
    for role in ("candidate", "base"):
        for answer in files.read_jsonl(run.root / layout.PREDICTIONS / f"{role}.jsonl", Prediction):
            sha = digest.of_bytes(answer.prediction.encode())
            found[answer.id, sha] = {
                "sample": answer.id, "answer_sha": sha, "value": value(answer), "judge": "ada", "prompt_sha": OTHER,
            }  # fmt: skip
    return list(found.values())


@pytest.fixture
def labelled(run: Run) -> Run:
    """A suite of people's judgements: right answers get 1."""
    run.document["suites"] = {
        "chat": {
            "kind": "judged", "metrics": {"liked": {"low": 0.0, "high": 1.0}}, "noise": 0.0,
            "models": ["candidate", "base"], "max_unparsed": 0.05, "judge": {"kind": "recorded", "source": "human"},
        }
    }  # fmt: skip
    run.document["gates"]["is_liked"]["resolution"] = 0.3
    _label(run, _judgements(run, lambda answer: answer.score))
    return run


def _label(run: Run, lines: list[dict[str, Any]]) -> None:
    run.suite["judge"]["log"] = pinned(run.root / "labels.jsonl", lines)


@pytest.mark.slow
def test_judgements_are_recorded_with_who_made_them_and_bound_to_the_answers(labelled: Run) -> None:
    verdict = labelled.judged()
    assert verdict.status == "pass"
    assert [finding.reason.partition("(witnessed: ")[2] for finding in verdict.findings] == [
        "human by ada, suite chat)"
    ] * 3
    path = layout.JUDGEMENTS / "chat.jsonl"
    sha = digest.of_file(labelled.root / path).sha256
    assert verdict.judged[path.as_posix()] == sha
    evaluation = files.read_json(labelled.root / layout.EVALUATION, EvaluationReport)
    result = files.read_json(labelled.root / layout.SUITES_REPORT, SuitesReport).suites["chat"]
    assert (result.judgements, result.judges) == (sha, ("ada",))
    assert result.answers == {role: evaluation.models[role].predictions for role in ("candidate", "base")}
    first = json.loads((labelled.root / path).read_text().splitlines()[0])
    assert (first["judge"], first["prompt_sha"]) == ("ada", OTHER)
    lines = files.read_jsonl(labelled.root / layout.SUITES / "chat.jsonl", SuiteLine)
    assert {(line.source, line.source_digest) for line in lines} == {("human", sha)}
    assert len(lines) == 80


@pytest.mark.slow
def test_an_answer_without_a_value_counts_against_the_candidate(labelled: Run) -> None:
    """One row of each model, the candidate's right answer and the base's wrong one, has none."""
    lines = _judgements(labelled, lambda answer: answer.score)
    rows = {line["sample"]: line for line in lines}
    candidate = next(line for line in lines if line["value"] == 1)
    candidate["value"] = None
    base = next(line for line in lines if line["value"] == 0 and rows[line["sample"]] is line)
    lines.remove(base)
    _label(labelled, lines)
    labelled.judged()
    result = files.read_json(labelled.root / layout.SUITES_REPORT, SuitesReport).suites["chat"]
    assert result.unparsed["candidate"] >= 1
    found = {
        (line.model, line.sample): line.value
        for line in files.read_jsonl(labelled.root / layout.SUITES / "chat.jsonl", SuiteLine)
    }
    assert found[labelled.merged, candidate["sample"]] == 0
    assert found[labelled.base, base["sample"]] == 1


NOT_JUDGED: dict[str, tuple[Callable[[list[dict[str, Any]]], object], str]] = {
    "another answer": (
        lambda lines: lines[4].update(answer_sha=OTHER),
        r"suites\.chat\.judge: judgement 5: row 'test\d+': the judged answer is sha256:999999999999…, the candidate's is sha256:",
    ),
    "another row": (lambda lines: lines[4].update(sample="nobody"), r"judgement 5: row 'nobody' was not answered;"),
    "an answer twice": (
        lambda lines: lines.append(lines[4] | {"value": 1.0}), r"judgement \d+: row 'test\d+': this answer is judged already;",
    ),
    "too many missing": (
        lambda lines: lines.__delitem__(slice(0, 8)), r"judge: 8 of 40 answers of candidate have no value, at most 5\.0% may;",
    ),
    "too many without a value": (
        lambda lines: [line.update(value=None) for line in lines[:8]], r"8 of 40 answers of candidate have no value",
    ),
    "a value off the scale": (
        lambda lines: lines[4].update(value=2.0), r"judge\.log: 5: 2 is not from 0 to 1;",
    ),
    "NaN": (lambda lines: lines[4].update(value=float("nan")), r"judge\.log: 5: "),
    "of a name in two lines": (lambda lines: lines[4].update(judge="ada\n::x"), r"judge\.log: 5: judge: String should match"),
    "nobody's": (lambda lines: lines[4].pop("judge"), r"judge\.log: 5: judge: Field required;"),
}  # fmt: skip


@pytest.mark.parametrize("how", NOT_JUDGED)
def test_a_judgement_of_something_else_is_refused(labelled: Run, how: str) -> None:
    change, line = NOT_JUDGED[how]
    lines = _judgements(labelled, lambda answer: answer.score)
    change(lines)
    _label(labelled, lines)
    with pytest.raises(EvidenceRefused, match=line) as caught:
        suites(labelled.params(), labelled.root)
    assert "\n" not in str(caught.value)
    assert not (labelled.root / layout.JUDGEMENTS).exists()


def test_labels_of_other_bytes_than_the_pinned_are_refused(labelled: Run) -> None:
    with (labelled.root / "labels.jsonl").open("a") as stream:
        stream.write("\n")
    with pytest.raises(
        Refusal, match=r"suites\.chat\.judge\.log\.sha256: [0-9a-f]{64} is pinned, but labels\.jsonl is"
    ):
        suites(labelled.params(), labelled.root)


@pytest.mark.slow
def test_a_judgement_that_was_changed_after_the_stage_makes_the_gates_fail(labelled: Run) -> None:
    labelled.judged()
    path = labelled.root / layout.JUDGEMENTS / "chat.jsonl"
    path.write_text(path.read_text().replace("ada", "eve"))
    assert {finding.status for finding in labelled.again().findings} == {"fail"}
    with pytest.raises(
        EvidenceRefused, match=r"does not hold: data/judgements/chat\.jsonl: is [0-9a-f]{12}, the verdict"
    ):
        hold(Records(labelled.root))
    path.unlink()
    with pytest.raises(EvidenceRefused, match=r"does not hold: data/judgements/chat\.jsonl: is missing"):
        hold(Records(labelled.root))


@pytest.mark.slow
def test_judgements_of_other_answers_are_none_at_the_gate(labelled: Run) -> None:
    """All digests agree, and still the judge saw another text than the model's answer."""
    labelled.judged()
    path = labelled.root / layout.JUDGEMENTS / "chat.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[0]["answer_sha"] = OTHER
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    sha = digest.of_file(path).sha256
    edit(labelled.root / layout.SUITES_REPORT, lambda report: report["suites"]["chat"].update(judgements=sha))
    for finding in labelled.again().findings:
        assert "data/judgements/chat.jsonl:1: row 'test" in finding.reason
        assert "the judged answer is sha256:999999999999…" in finding.reason


@pytest.mark.slow
def test_answers_that_were_not_judged_break_the_chain(labelled: Run) -> None:
    labelled.judged()
    edit(
        labelled.root / layout.SUITES_REPORT, lambda report: report["suites"]["chat"]["answers"].update(candidate=OTHER)
    )
    for finding in labelled.again().findings:
        assert "candidate predictions of suite chat: suites says 999999999999, evaluate says" in finding.reason


@pytest.mark.slow
def test_under_another_test_set_only_its_rows_count(labelled: Run) -> None:
    """As the policy of another commit asks: its rows, where all of them were judged; none where one was not."""
    labelled.judged()
    params = labelled.params()
    evidence = chain.gather(labelled.root, scoring.digest_of(params.evaluate.scorers))
    fewer = {name: found[:30] for name, found in evidence.answers.items()}
    found = judging.judge(params, dataclasses.replace(evidence, test=evidence.test[:30], answers=fewer)).findings
    assert {finding.n for finding in found} == {30}
    other = evidence.test[0].model_copy(update={"id": "another"})
    found = judging.judge(params, dataclasses.replace(evidence, test=(*evidence.test, other))).findings
    assert {finding.status for finding in found} == {"fail"}
    assert "has no score of row another" in found[0].reason


IMPOSSIBLE_TO_JUDGE: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "two metrics": (
        lambda s: s["metrics"].update(more={"low": 0.0, "high": 1.0}),
        r"metrics: has 2, and a judge gives one value; name one",
    ),
    "no candidate": (lambda s: s.update(models=["base"]), r"models: must name the candidate, and each model once"),
    "a model twice": (
        lambda s: s.update(models=["candidate", "base", "base"]),
        r"models: must name the candidate, and each",
    ),
    "an unknown judge": (
        lambda s: s.update(judge={"kind": "oracle"}),
        r"unknown judge 'oracle'; one of: openai, recorded",
    ),
}


@pytest.mark.parametrize("how", IMPOSSIBLE_TO_JUDGE)
def test_a_judge_that_cannot_be_asked_is_refused_when_params_are_read(labelled: Run, how: str) -> None:
    change, line = IMPOSSIBLE_TO_JUDGE[how]
    change(labelled.suite)
    with pytest.raises(ParamsRefused, match=line):
        as_params(labelled.document)
