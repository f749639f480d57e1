"""Looks: how many models a test split has judged, who counts them, and what that costs each gate."""

from pathlib import Path

import pytest

from checks.decision import judging
from checks.evaluation import scoring
from checks.formats.evaluation_reports import EvaluationReport
from checks.formats.looks import LooksReport, RowSketch
from checks.formats.verdict import Finding, Verdict
from checks.gates.looks import LooksGate
from checks.gating import chain
from checks.kinds.gate import ScoreGate, decided_at
from checks.process.errors import EvidenceRefused, ParamsRefused, RemoteRefused
from checks.records.rows import Message
from checks.storage import files, layout
from release.adapters.git import Git
from release.record import looks, looks_branch
from release.record.records import Records
from release.record.verdict_check import hold
from tests import evidence_tree
from tests import pipeline_repository as repository
from tests.conftest import as_params, scaled_down, written
from tests.release.record.test_references import A, B, C, branch, change, clone, keep, move_on, push, record

pytestmark = pytest.mark.slow

__all__ = ["clone"]  # a fixture

MORE = {"confidence": 0.95, "metric": "exact-match"}
D = f"sha256:{'d' * 64}"


def judged(root: Path) -> dict[str, tuple[str, ...]]:
    return files.read_json(root / layout.LOOKS, LooksReport).models


@pytest.mark.parametrize(
    ("before", "most", "status", "said"),
    [
        (0, 20, "pass", "model 1 of 20 that this test split may judge"),
        (15, 20, "pass", "model 16 of 20 that this test split may judge"),
        (17, 20, "pass", "2 left; then take a new test split of fresh rows"),
        (19, 20, "pass", "model 20 of 20 that this test split may judge, 0 left"),
        (20, 20, "inconclusive", "model 21 of 20 that this test split may judge: it is used up; take a new test split"),
        (1, 1, "inconclusive", "it is used up"),
    ],
)
def test_the_models_that_a_split_judged_before_are_counted(
    tmp_path: Path, before: int, most: int, status: str, said: str
) -> None:
    params = as_params(scaled_down())
    evidence_tree.build(tmp_path, params)
    about = files.read_json(tmp_path / layout.EVALUATION, EvaluationReport)
    others = tuple(f"sha256:{number:064x}" for number in range(before))
    # The model itself, and models of another split, count for nothing.
    models = {about.test: (*others, about.merged), D: tuple(f"sha256:{n + 99:064x}" for n in range(30))}
    files.write_json(tmp_path / layout.LOOKS, LooksReport(models=models))
    evidence = chain.gather(tmp_path, scoring.digest_of(params.evaluate.scorers))
    found = evidence_tree.asked("test_is_fresh", LooksGate(kind="looks", most=most), evidence)
    assert (found.status, found.value, found.bound) == (status, before + 1, most)
    assert said in found.reason


def _rows(*numbers: int, **change: object) -> RowSketch:
    """Rows of the test split, by number, each with ``change``."""
    every = evidence_tree.rows("test", max(numbers) + 1)
    sketch = RowSketch.of(every[number].model_copy(update=change) for number in numbers)
    assert sketch is not None
    return sketch


_SYSTEM = Message(role="system", content="Another instruction.")


@pytest.mark.parametrize(
    ("rows", "number", "said"),
    [
        pytest.param(_rows(*range(40)), 6, "with up to 100.0%", id="another digest of the same rows"),
        pytest.param(_rows(*range(40), extra={"rejected": "vm"}), 6, "100.0%", id="a column more"),
        pytest.param(_rows(*range(40), id="x", source="elsewhere", slice="s"), 6, "100.0%", id="other ids"),
        pytest.param(_rows(*range(50)), 6, "100.0%", id="rows more"),
        pytest.param(_rows(*range(30)), 6, "100.0%", id="rows fewer"),
        pytest.param(_rows(*range(20), *range(100, 120)), 4, "50.0%", id="half of the rows are fresh"),
        pytest.param(_rows(*range(4), *range(100, 136)), 2, "10.0%", id="nine tenths are fresh"),
        pytest.param(_rows(*range(100, 140)), 1, "", id="all are fresh"),
        pytest.param(None, 1, "", id="rows that no version recorded"),
    ],
)
def test_models_of_another_split_count_by_the_share_of_common_rows(
    tmp_path: Path, rows: RowSketch | None, number: int, said: str
) -> None:
    params = as_params(scaled_down())
    evidence_tree.build(tmp_path, params)
    own = files.read_json(tmp_path / layout.EVALUATION, EvaluationReport).merged
    models = {D: (own, *(f"sha256:{number:064x}" for number in range(5)))}
    files.write_json(tmp_path / layout.LOOKS, LooksReport(models=models, rows={D: (rows,)} if rows else {}))
    evidence = chain.gather(tmp_path, scoring.digest_of(params.evaluate.scorers))
    finding = evidence_tree.asked("test_is_fresh", LooksGate(kind="looks", most=20), evidence)
    assert finding.value == number
    assert said in finding.reason
    assert ("were judged on other splits" in finding.reason) == bool(said)


def test_an_instruction_is_not_part_of_a_row() -> None:
    rows = evidence_tree.rows("test", 9)
    other = [row.model_copy(update={"messages": (_SYSTEM, *row.messages[1:])}) for row in rows]
    spaced = [row.model_copy(update={"reference": f" {row.reference.upper()}  "}) for row in rows]
    assert RowSketch.of(rows) == RowSketch.of(other) == RowSketch.of(spaced)
    assert RowSketch.of(rows) != RowSketch.of(rows[1:])
    assert RowSketch.of([]) is None


@pytest.mark.parametrize(("ours", "theirs", "share"), [
    (range(4000), range(4010), 1.0), (range(3990), range(10, 4000), 3980 / 3990), (range(4000), range(2000, 6000), 0.5),
    (range(4000), range(3360, 7360), 0.16), (range(4000), range(4000, 8000), 0.0), (range(900), range(8000), 1.0),
])  # fmt: skip
def test_the_overlap_of_large_splits_is_estimated(ours: range, theirs: range, share: float) -> None:
    one, two = _rows(*ours), _rows(*theirs)
    assert len(two.smallest) == 12 * 1024
    assert one.overlap(two) == two.overlap(one) == pytest.approx(share, abs=0.05)  # three standard errors


def test_of_two_sketches_of_one_split_the_one_that_counts_more_counts() -> None:
    forged = LooksReport(models={D: (A,)}, rows={D: (_rows(*range(100, 140)), _rows(*range(40)))})
    assert forged.shares(C, _rows(*range(40))) == {D: 1.0}
    assert forged.shares(D, None) == {D: 1.0}
    assert forged.shares(C, None) == {D: 0.0}


def _judged_by(root: Path, model: str, test: str, rows: RowSketch) -> None:
    """The record of ``model`` on the split ``test``, which has ``rows``."""
    record(root, model, test=test)
    verdict = Verdict(
        status="pass", model=model, policy=C, judged={"data/splits/test.jsonl": test}, findings=(), rows=rows
    )
    files.write_json(root / layout.VERDICT, verdict)


def test_ten_rows_more_restart_no_count(clone: Path) -> None:
    """Looks at the old rows lay under another digest of the split, and nobody missed them in the list."""
    old, new = _rows(*range(40)), _rows(*range(50))
    _judged_by(clone, B, D, old)
    keep(clone)
    _judged_by(clone, A, B, new)
    files.write_json(clone / layout.LOOKS, LooksReport(models={}))
    lines = looks.current(Records(clone))
    assert lines == [
        f"reports/looks.json: lacks 1 of the models that these test rows judged ({B[:19]}…); run `lockstep run`",
        f"reports/looks.json: lacks the rows of 1 test splits with rows of this one ({D[:19]}…); run `lockstep run`",
    ]
    assert looks.write(Records(clone))
    assert files.read_json(clone / layout.LOOKS, LooksReport).rows == {D: (old,)}
    assert looks.current(Records(clone)) == []


# The branch lockstep/looks of the remote


def _look(root: Path, *models: str) -> None:
    """Others add looks at these models to the branch on the remote."""
    other = root.parent / "other"
    if not other.exists():
        repository.git(root.parent, "clone", "--quiet", "origin.git", "other")
    for model in models:
        record(other, model)
        looks_branch.add(Git(other, 60), "origin")


@pytest.fixture
def omitting(clone: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pull request of model A whose list omits the looks at B and D that are on the remote."""
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "Test")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "test@example.invalid")
    keep(clone)
    branch(clone)
    _look(clone, B, D)
    files.write_json(clone / layout.LOOKS, LooksReport(models={}))
    keep(clone)
    return clone


LACKS_TWO = f"reports/looks.json: lacks 2 of the models that these test rows judged ({min(B, D)[:19]}…, "


@pytest.mark.parametrize("remote", ["origin", "team"])
def test_a_list_without_the_looks_of_the_remote_voids_the_verdict(omitting: Path, remote: str) -> None:
    if remote != "origin":  # as after `git clone --origin team`
        repository.git(omitting, "remote", "rename", "origin", remote)
    (line,) = looks.current(Records(omitting))
    assert line.startswith(LACKS_TWO)
    assert looks.write(Records(omitting))
    assert judged(omitting) == {C: tuple(sorted((B, D)))}
    assert looks.current(Records(omitting)) == []


def test_looks_that_come_after_the_own_one_change_nothing(omitting: Path) -> None:
    looks.write(Records(omitting))
    looks_branch.add(Git(omitting, 60), "origin")
    _look(omitting, f"sha256:{'e' * 64}")
    assert looks.current(Records(omitting)) == []


def test_a_merge_with_a_history_that_begins_with_the_own_look_hides_none(omitting: Path) -> None:
    looks_branch.add(Git(omitting, 60), "origin")
    tip = repository.git(omitting.parent / "origin.git", "rev-parse", "lockstep/looks").strip()
    tree = repository.git(omitting, "rev-parse", f"{tip}^{{tree}}").strip()
    who = ("-c", "user.name=m", "-c", "user.email=m@x.example")
    first = repository.git(omitting, *who, "commit-tree", tree, "-m", "first of all").strip()
    merge = repository.git(omitting, *who, "commit-tree", tree, "-p", first, "-p", tip, "-m", "merge").strip()
    repository.git(omitting, "push", "--quiet", "origin", f"{merge}:refs/heads/lockstep/looks")
    (line,) = looks.current(Records(omitting))
    assert line.startswith(LACKS_TWO)


def test_a_remote_that_does_not_answer_is_asked_by_what_was_seen_and_refused_where_it_must_answer(
    omitting: Path,
) -> None:
    assert looks.current(Records(omitting)) != []
    repository.git(omitting, "remote", "set-url", "origin", str(omitting / "nowhere"))
    (line,) = looks.current(Records(omitting))
    assert line.startswith(LACKS_TWO)
    with pytest.raises(RemoteRefused, match="lockstep/looks of origin"):
        looks.current(Records(omitting), reached=True)


def test_a_remote_that_lost_looks_voids_the_verdict(omitting: Path) -> None:
    looks.write(Records(omitting))
    assert looks.current(Records(omitting)) == []
    repository.git(omitting.parent / "origin.git", "update-ref", "-d", "refs/heads/lockstep/looks")
    (line,) = looks.current(Records(omitting))
    assert "is gone; restore the branch" in line


def _findings(root: Path, document: dict) -> dict[str, Finding]:
    params = as_params(document)
    evidence = chain.gather(root, scoring.digest_of(params.evaluate.scorers))
    return {finding.gate: finding for finding in judging.judge(params, evidence).findings}


def test_each_gate_of_the_test_rows_gets_its_share_of_the_error(tmp_path: Path) -> None:
    document = scaled_down()
    evidence_tree.build(tmp_path, as_params(document))
    document["gates"] = {
        "good": {"kind": "threshold", "at_least": 0.5, "resolution": 0.4, **MORE},
        "better": {"kind": "improves", "against": "base", "margin": 0.0, **MORE},
    }
    alone = _findings(tmp_path, document)
    document["gates"]["fresh"] = {"kind": "looks", "most": 20}
    shared = _findings(tmp_path, document)
    assert "lower 95% bound" in alone["good"].reason
    assert "lower 99.75% bound" in shared["good"].reason
    for name in ("good", "better"):
        assert alone[name].p == shared[name].p
        assert (shared[name].low or 1) < (alone[name].low or 0)
        assert (shared[name].detectable or 0) > (alone[name].detectable or 1)
    (tmp_path / layout.LOOKS).unlink()
    assert _findings(tmp_path, document)["fresh"].reason.startswith("no evidence: reports/looks.json")


@pytest.mark.parametrize(
    ("most", "suite", "confidence"), [(1, None, 0.95), (20, None, 0.9975), (5, None, 0.99), (20, "chat", 0.9975)]
)
def test_the_error_is_divided_on_the_test_rows_and_in_suites(most: int, suite: str | None, confidence: float) -> None:
    asked = as_params(scaled_down()).gates
    name, gate = next((name, gate) for name, gate in asked.items() if gate.kind == "threshold")
    others = {
        name: gate.model_copy(update={"suite": suite, "confidence": 0.95}),
        "fresh": LooksGate(kind="looks", most=most),
    }
    decided = decided_at(others)[name]
    assert isinstance(decided, ScoreGate)
    assert decided.confidence == pytest.approx(confidence)
    assert decided_at({name: others[name]})[name] is others[name]  # without the gate nothing is divided


def test_a_resolution_that_the_divided_error_cannot_give_is_refused() -> None:
    document = scaled_down()
    document["gates"]["fresh"] = {"kind": "looks", "most": 1000}
    with pytest.raises(ParamsRefused, match=r"validate\.min_rows\.test: 16 rows cannot give gate .*; raise it to 46"):
        as_params(document)


def test_every_branch_counts_and_so_does_what_was_dropped(clone: Path) -> None:
    keep(clone)
    branch(clone)
    move_on(clone, B)  # another pull request was merged meanwhile
    repository.git(clone, "checkout", "--quiet", "-b", "dropped", "main")
    record(clone, D)
    keep(clone)
    repository.git(clone, "checkout", "--quiet", "change")
    assert looks.write(Records(clone))
    assert judged(clone) == {C: tuple(sorted({B, D}))}  # A is what is recorded here
    assert not looks.write(Records(clone))
    repository.git(clone, "branch", "--delete", "--force", "dropped")
    assert not looks.write(Records(clone))  # what is listed stays listed


def test_the_model_that_is_replaced_counts_though_nobody_committed_it(clone: Path) -> None:
    keep(clone)
    branch(clone)
    record(clone, B)
    looks.write(Records(clone))
    assert judged(clone) == {C: (A,)}  # B is what is recorded here
    change(clone, lambda value: value["train"].update(learning_rate=0.5))
    looks.write(Records(clone))  # before the pipeline makes another model
    assert judged(clone) == {C: tuple(sorted({A, B}))}
    record(clone, D)
    assert not looks.write(Records(clone))
    assert judged(clone) == {C: tuple(sorted({A, B}))}


def test_a_list_that_lacks_a_model_of_its_own_history_voids_the_verdict(clone: Path) -> None:
    keep(clone)
    branch(clone)
    record(clone, B)
    looks.write(Records(clone))
    keep(clone)
    assert looks.current(Records(clone)) == []
    files.write_json(clone / layout.LOOKS, LooksReport(models={}))
    (line,) = looks.current(Records(clone))
    assert line == (
        f"reports/looks.json: lacks 1 of the models that these test rows judged ({A[:19]}…); run `lockstep run`"
    )
    (clone / layout.LOOKS).write_text("{")
    assert looks.current(Records(clone)) == ["reports/looks.json: is missing or cannot be read; run `lockstep run`"]
    assert looks.write(Records(clone))
    assert looks.current(Records(clone)) == []


def test_a_model_that_only_an_earlier_list_has_stays_listed(clone: Path) -> None:
    """Its branch is gone, so no evaluation in git names it."""
    listed = LooksReport(models={C: (D,)})
    files.write_json(clone / layout.LOOKS, listed)
    keep(clone)
    files.write_json(clone / layout.LOOKS, LooksReport(models={}))
    keep(clone)
    (line,) = looks.current(Records(clone))
    assert f"lacks 1 of the models that these test rows judged ({D[:19]}…)" in line
    (clone / layout.LOOKS).unlink()
    assert looks.write(Records(clone))
    assert files.read_json(clone / layout.LOOKS, LooksReport) == listed
    assert looks.current(Records(clone)) == []


def test_after_the_merge_later_tries_of_others_change_nothing(clone: Path) -> None:
    keep(clone)
    branch(clone)
    record(clone, B)
    looks.write(Records(clone))
    keep(clone)
    repository.git(clone, "checkout", "--quiet", "main")
    repository.git(clone, "merge", "--quiet", "--ff-only", "change")
    push(clone)
    repository.git(clone, "checkout", "--quiet", "-b", "next")
    record(clone, D)
    keep(clone)
    repository.git(clone, "checkout", "--quiet", "main")
    assert not looks.write(Records(clone))
    assert judged(clone) == {C: (A,)}
    assert looks.current(Records(clone)) == []


def test_a_verdict_without_the_list_is_void(tmp_path: Path) -> None:
    (tmp_path / layout.PARAMS).write_text(written(document := scaled_down()))
    evidence_tree.build(tmp_path, params := as_params(document))
    evidence_tree.judged(tmp_path, params)
    assert hold(Records(tmp_path)).verdict.status == "pass"
    (tmp_path / layout.LOOKS).unlink()
    with pytest.raises(EvidenceRefused, match=r"reports/looks\.json"):
        hold(Records(tmp_path))
