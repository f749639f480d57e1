"""A training that started from an earlier model: the gates see the rows and licences of that one too."""

from collections.abc import Callable
from pathlib import Path

import pytest

from checks.config.params import Params
from checks.decision.judging import judge
from checks.evaluation import scoring
from checks.formats.training_reports import Start, TrainReport
from checks.formats.verdict import Finding, Verdict
from checks.gating import chain
from checks.records.rows import Row
from checks.storage import digest, files, layout
from tests import evidence_tree
from tests.conftest import as_params

GATES = {
    "unseen": {
        "kind": "contamination", "ngram": 13, "max_ngram_share": 0.0, "shingle": 5, "similarity": 0.8,
        "max_near_duplicate_share": 0.0,
    },
    "licences": {"kind": "license", "allow": ["Apache-2.0", "MIT"], "adapter": "Apache-2.0", "commercial": True},
}  # fmt: skip
OTHER = f"sha256:{'1' * 64}"
DATA = "data main of 333333333333"


@pytest.fixture
def gated(document: dict) -> Params:
    """Parameters with a gate of rows and one of licences."""
    return as_params(document | {"gates": GATES})


def _row(text: str) -> Row:
    (row,) = evidence_tree.rows("earlier", 1)
    user = row.messages[1].model_copy(update={"content": text})
    return row.model_copy(update={"messages": (row.messages[0], user), "source": "earlier.csv:7"})


def _judged(
    root: Path,
    params: Params,
    rows: list[Row],
    license_name: str | None = "MIT",
    spoil: Callable[[Path], object] = Path.exists,
) -> Verdict:
    """The verdict of a record whose training started from a model that had learned ``rows``."""
    evidence_tree.build(root, params)
    learned = root / layout.LEARNED_BEFORE
    files.write_jsonl(learned, rows)
    start = Start(
        commit="3" * 40, model=OTHER, adapter=OTHER, learned=digest.of_file(learned).sha256,
        licenses={DATA: license_name},
    )  # fmt: skip
    report = files.read_json(root / layout.TRAIN_REPORT, TrainReport)
    files.write_json(root / layout.TRAIN_REPORT, report.model_copy(update={"start": start}))
    spoil(learned)
    return judge(params, chain.gather(root, scoring.digest_of(params.evaluate.scorers)))


def _finding(verdict: Verdict, gate: str) -> Finding:
    return next(finding for finding in verdict.findings if finding.gate == gate)


def test_rows_that_no_test_row_is_like_pass_and_the_verdict_names_their_file(tmp_path: Path, gated: Params) -> None:
    verdict = _judged(tmp_path, gated, [_row("something that nobody asks today")])
    assert verdict.status == "pass"
    path = layout.LEARNED_BEFORE.as_posix()
    assert verdict.judged[path] == digest.of_file(tmp_path / path).sha256
    assert f"{DATA} MIT" in _finding(verdict, "licences").reason


def test_a_test_row_of_today_that_the_earlier_model_learned_fails_the_gate(tmp_path: Path, gated: Params) -> None:
    (first,) = evidence_tree.rows("test", 1)
    finding = _finding(_judged(tmp_path, gated, [_row(first.prompt)]), "unseen")
    assert finding.status == "fail"
    assert "1 of 40 test rows (2.5%) are 0.8 alike to a train row" in finding.reason
    assert finding.reason.endswith("as earlier.csv:7")


@pytest.mark.parametrize(
    ("license_name", "says"),
    [
        ("CC-BY-NC-4.0", f"{DATA}: CC-BY-NC-4.0 does not permit commercial use"),
        (None, f"reports/train.json: {DATA}: no licence is stated"),
        ("Mine", f"reports/train.json: {DATA}: 'Mine' is not in the table"),
    ],
)
def test_a_licence_of_its_rows_that_forbids_the_release_fails_the_gate(
    tmp_path: Path, gated: Params, license_name: str | None, says: str
) -> None:
    finding = _finding(_judged(tmp_path, gated, [_row("x")], license_name), "licences")
    assert finding.status == "fail"
    assert says in finding.reason


@pytest.mark.parametrize("spoil", [lambda path: path.unlink(), lambda path: path.write_text("")], ids=["gone", "other"])
def test_without_the_rows_that_the_record_names_every_gate_fails(
    tmp_path: Path, gated: Params, spoil: Callable[[Path], object]
) -> None:
    verdict = _judged(tmp_path, gated, [_row("x")], spoil=spoil)
    assert {finding.status for finding in verdict.findings} == {"fail"}
    assert all("rows learned before: data/learned.jsonl says" in finding.reason for finding in verdict.findings)
