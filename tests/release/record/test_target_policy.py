"""gate --policy-from: no pull request passes by its own rules alone. Real git, real DVC, small records."""

import copy
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from checks.code import lock
from checks.config.params import Params
from checks.decision.policy_judgement import PolicyJudgement
from checks.formats import pointer
from checks.formats.evaluation_reports import EvaluationReport
from checks.formats.pointer import Pointer
from checks.process.errors import EvidenceRefused
from checks.records.rows import Prediction, Row
from checks.storage import digest, files, layout, plain_yaml
from release.cli import main
from release.record import references, target_policy
from release.verbs import gate
from tests import evidence_tree
from tests.conftest import as_params, scaled_down
from tests.pipeline_repository import commit, dvc, git, write_params

pytestmark = pytest.mark.slow

THRESHOLD = {"kind": "threshold", "metric": "exact-match", "at_least": 0.7, "confidence": 0.95, "resolution": 0.3}
CONTAMINATION = {
    "kind": "contamination", "ngram": 4, "max_ngram_share": 0.0, "shingle": 5, "similarity": 0.9,
    "max_near_duplicate_share": 0.0,
}  # fmt: skip
Change = Callable[[dict[str, Any]], object]


def _document() -> dict:
    """Parameters with a gate that needs nothing, one that merge answers, and one that predictions answer."""
    document = scaled_down()
    kept = {name: document["gates"][name] for name in ("data_is_sound", "merge_is_faithful")}
    document["gates"] = {**kept, "routes_well": dict(THRESHOLD)}
    return document


@pytest.fixture
def document() -> dict:
    return _document()


def _verdict(root: Path, params: Params) -> None:
    """The verdict as the stage gate writes it, without its picture."""
    evidence_tree.judged(root, params)


def _record(root: Path, document: dict, rows: int = 40, right: int = 36) -> Params:
    """Parameters and the record of a run under them, on disk."""
    for folder in ("data", "models", "reports"):
        shutil.rmtree(root / folder, ignore_errors=True)
    write_params(root, document)
    params = as_params(document)
    evidence_tree.build(root, params, rows, right)
    _verdict(root, params)
    return params


def _released(root: Path, document: dict, rows: int = 40, right: int = 36) -> None:
    """A main branch with a run that passes, and a branch that starts from it."""
    git(root, "init", "--quiet", "--initial-branch=main")
    (root / ".gitignore").write_text("/models/\n/data/\n/.lockstep/\n")
    _record(root, document, rows, right)
    commit(root, "a release")
    git(root, "switch", "--quiet", "--create", "pull-request")


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("released")
    _released(root, _document())
    return root


@pytest.fixture
def run(released: Path, tmp_path: Path) -> Path:
    """A pull request that changes nothing yet."""
    return shutil.copytree(released, tmp_path / "run")


def _asked(root: Path, *args: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["-C", str(root), "gate", "--policy-from", "main", *args])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def _approve(root: Path, policy: str) -> None:
    files.write_text(root / layout.APPROVALS, f"- policy: {policy}\n  by: Ada\n  why: the new task is harder\n")


def _judged(root: Path) -> PolicyJudgement:
    return gate.judge_from(root, "main")


def _statuses(judgement: PolicyJudgement) -> tuple[str, str | None, str]:
    return judgement.own.status, judgement.target.status if judgement.target else None, judgement.status


def test_a_policy_that_did_not_change_is_judged_once(run: Path) -> None:
    code, output = _asked(run)
    assert code == 0
    assert output.splitlines()[0] == "policy as in main: pass"
    assert output.count("verdict:") == 1
    assert _judged(run).changes == ()


def test_a_pull_request_that_lowers_a_threshold_passes_only_with_approval(run: Path, document: dict) -> None:
    document["gates"]["routes_well"]["at_least"] = 0.3
    _record(run, document, right=25)
    code, output = _asked(run)
    assert code == 10
    first = output.splitlines()[0]
    assert first.startswith("policy weakened: gates.routes_well.at_least weakened from 0.7 to 0.3")
    assert "fail under that of main" in first
    assert output.count("verdict: pass") == 1
    judgement = _judged(run)
    assert _statuses(judgement) == ("pass", "fail", "fail")
    assert f"let code owners add {judgement.policy} to release/policy/approved.yaml" in output
    _approve(run, judgement.policy)
    code, output = _asked(run)
    assert code == 0
    assert "policy weakened" in output.splitlines()[0]
    assert "approved by Ada: the new task is harder" in output


def test_an_approval_is_of_one_policy_and_of_no_other(run: Path, document: dict) -> None:
    document["gates"]["routes_well"]["at_least"] = 0.3
    _record(run, document, right=25)
    _approve(run, _judged(run).policy)
    document["gates"]["routes_well"]["at_least"] = 0.2
    _record(run, document, right=25)
    assert _asked(run)[0] == 10


def test_an_approval_does_not_make_a_model_pass_that_fails_by_its_own_gates(run: Path, document: dict) -> None:
    document["gates"]["routes_well"]["at_least"] = 0.6
    _record(run, document, right=5)
    _approve(run, _judged(run).policy)
    code, output = _asked(run)
    assert code == 10
    assert "fail under its own" in output.splitlines()[0]


def test_a_weaker_gate_waits_for_an_owner_though_the_model_passes_the_old_one_too(run: Path, document: dict) -> None:
    document["gates"]["routes_well"]["at_least"] = 0.3
    _record(run, document)
    code, output = _asked(run)
    assert code == 11
    first = output.splitlines()[0]
    assert first.startswith("policy weakened: gates.routes_well.at_least weakened from 0.7 to 0.3: pass under both, ")
    judgement = _judged(run)
    assert (_statuses(judgement), judgement.waits) == (("pass", "pass", "inconclusive"), True)
    assert f"let code owners add {judgement.policy} to release/policy/approved.yaml" in output
    _approve(run, judgement.policy)
    assert _asked(run)[0] == 0
    approved = _judged(run)
    assert not approved.waits
    assert approved.notes == (
        "release/policy/approved.yaml is not as on main: this approval counts once a code owner has approved the file",
    )


def test_two_pull_requests_do_not_defeat_a_gate_that_one_cannot(run: Path, document: dict) -> None:
    """A good model brings weaker gates, and the next one, 25 points worse, is judged by them."""
    released = git(run, "rev-parse", "main").strip()
    git(run, "switch", "--quiet", "main")
    _promoted(run, released)
    git(run, "switch", "--quiet", "pull-request")
    git(run, "rebase", "--quiet", "main")
    document["gates"]["routes_well"]["at_least"] = 0.3
    _record(run, document)
    judgement = _judged(run)
    assert (judgement.status, judgement.notes) == ("inconclusive", ())
    _approve(run, judgement.policy)
    commit(run, "an owner approved it")
    git(run, "switch", "--quiet", "main")
    git(run, "merge", "--quiet", "--ff-only", "pull-request")
    git(run, "switch", "--quiet", "--create", "second")
    _record(run, document, right=26)
    code, output = _asked(run)
    assert code == 0
    assert (
        "since v0.1.0, which production runs, the policy became weaker or different: "
        "gates.routes_well.at_least weakened from 0.7 to 0.3"
    ) in output


def test_a_policy_of_production_that_cannot_be_read_is_said_to_be_unknown(run: Path) -> None:
    git(run, "switch", "--quiet", "main")
    _promoted(run, "0" * 40)
    git(run, "switch", "--quiet", "pull-request")
    git(run, "rebase", "--quiet", "main")
    (note,) = _judged(run).notes
    assert note.startswith("whether the policy became weaker since production's release is not known: ")


def test_a_branch_that_is_behind_a_stricter_target_weakens_nothing(run: Path, document: dict) -> None:
    git(run, "switch", "--quiet", "main")
    stricter = copy.deepcopy(document)
    stricter["gates"]["routes_well"]["at_least"] = 0.75
    write_params(run, stricter)
    commit(run, "a stricter gate")
    git(run, "switch", "--quiet", "pull-request")
    judgement = _judged(run)
    assert _statuses(judgement) == ("pass", "pass", "pass")
    assert judgement.notes == (
        "main became stricter after this branch left it; to be judged by its policy alone, merge main",
    )
    document["gates"]["routes_well"]["at_least"] = 0.65
    _record(run, document)
    assert _statuses(_judged(run)) == ("pass", "pass", "inconclusive")  # this the branch itself asks for


def _promoted(root: Path, released: str) -> None:
    """A commit in which production runs the model of the commit ``released``."""
    model = files.read_json(root / layout.EVALUATION, EvaluationReport).merged
    value = Pointer(model=model, commit=released, version="v0.1.0", image=f"registry.example/r@{model}", evidence=model)
    files.write_text(root / references.PRODUCTION, pointer.write(value).decode())
    commit(root, "promote")


def test_a_gate_that_is_removed_is_asked_nevertheless(run: Path, document: dict) -> None:
    del document["gates"]["routes_well"]
    _record(run, document, right=5)
    judgement = _judged(run)
    assert _statuses(judgement) == ("pass", "fail", "fail")
    assert "gates.routes_well (threshold) is removed" in judgement.headline
    assert judgement.target is not None
    assert [f.gate for f in judgement.target.findings if f.status == "fail"] == ["routes_well"]


def test_stricter_gates_need_no_approval(run: Path, document: dict) -> None:
    document["gates"]["routes_well"]["at_least"] = 0.75
    document["gates"]["also"] = {**THRESHOLD, "at_least": 0.1}
    _record(run, document)
    code, output = _asked(run)
    assert code == 0
    assert output.splitlines()[0].startswith("policy not weakened against main")


def _replace_task(root: Path, document: dict, right: int = 36) -> None:
    """Other rows, read by another loader, with one gate of their own; the branch starts where main is."""
    git(root, "switch", "--quiet", "main")
    git(root, "switch", "--quiet", "--force-create", "pull-request")
    document["data"]["uri"] = "datasets/tickets.jsonl"
    document["prepare"]["loader"]["instruction"] = "Name the team."
    document["gates"] = {"data_is_sound": document["gates"]["data_is_sound"], "answers": {**THRESHOLD, "at_least": 0.5}}
    _record(root, document, right=right)


@pytest.fixture
def begun(tmp_path: Path, document: dict) -> Path:
    """main has parameters, and no model was ever made."""
    root = tmp_path / "begun"
    root.mkdir()
    git(root, "init", "--quiet", "--initial-branch=main")
    (root / ".gitignore").write_text("/models/\n/data/\n/.lockstep/\n")
    write_params(root, document)
    commit(root, "parameters")
    return root


TASK = (
    f'the task is replaced: data.uri changed from "{_document()["data"]["uri"]}" to "datasets/tickets.jsonl", '
    "and another prepare.loader reads it: "
)


def test_another_task_needs_no_approval_while_main_has_judged_and_promoted_nothing(begun: Path, document: dict) -> None:
    _replace_task(begun, document)
    code, output = _asked(begun)
    assert output.splitlines()[0] == f"{TASK}no model was ever judged or promoted under that of main"
    assert (code, _judged(begun).waits) == (0, False)
    _record(begun, document, right=5)
    assert _asked(begun)[0] == 10, "its own gates decide"


def test_another_task_waits_for_an_owner_once_main_has_a_record(run: Path, document: dict) -> None:
    _replace_task(run, document)
    code, output = _asked(run)
    assert code == 11
    assert output.splitlines()[0] == f"{TASK}that of main is of another task, so code owners must approve this one"
    assert "weak" not in output
    judgement = _judged(run)
    assert judgement.waits
    assert {change.path for change in judgement.changes} >= {"data.uri", "gates.routes_well", "gates.merge_is_faithful"}
    comment = CliRunner().invoke(main, ["-C", str(run), "report"]).output
    first = "### ⚠️ Pass, but the task is replaced for everybody after this: a code owner decides\n"
    assert comment.startswith(first), comment
    folded = f"<details><summary>{len(judgement.changes)} changes</summary>"
    above, below = comment.split(folded)
    assert ("weaker" in above, "gates.routes_well (threshold) is removed" in below) == (False, True)
    _approve(run, judgement.policy)
    assert _asked(run)[0] == 0
    _record(run, document, right=5)
    assert (_asked(run)[0], _judged(run).waits) == (10, False)


def test_another_task_waits_for_an_owner_once_anything_was_promoted(begun: Path, document: dict) -> None:
    files.write_text(begun / layout.ENVIRONMENTS / "canary" / layout.POINTER, "a release\n")
    commit(begun, "promote")
    git(begun, "rm", "--quiet", "-r", str(layout.ENVIRONMENTS))
    commit(begun, "it is taken back")
    _replace_task(begun, document)
    assert (_asked(begun)[0], _judged(begun).waits) == (11, True)


@pytest.mark.parametrize("edit", ["lower the bar", "other environments"])
def test_what_is_no_other_task_waits_for_an_owner_from_the_start(begun: Path, document: dict, edit: str) -> None:
    if edit == "lower the bar":
        git(begun, "switch", "--quiet", "--create", "pull-request")
        document["gates"]["routes_well"]["at_least"] = 0.3
        _record(begun, document)
    else:
        document["promote"]["environments"]["production"]["served_as_verified"] = False
        _replace_task(begun, document)
    assert (_asked(begun)[0], _judged(begun).waits) == (11, True)


SCORED = [("{}", 1.0), ("the {}", 0.0)]  # an answer that token-f1 finds right, and exact match's score of it


@pytest.mark.parametrize(("answer", "exact"), SCORED)
def test_a_metric_that_only_the_target_scores_is_scored_again(
    run: Path, document: dict, answer: str, exact: float
) -> None:
    document["evaluate"]["scorers"] = [{"kind": "token-f1"}]
    document["gates"]["routes_well"]["metric"] = "token-f1"
    params = _record(run, document)
    rows = evidence_tree.rows("test", 40)
    answers = [evidence_tree.predict(row, right=True) for row in rows]
    evidence_tree.evaluated(
        run, params, [a.model_copy(update={"prediction": answer.format(a.reference), "scores": {"token-f1": 1.0}}) for a in answers]
    )  # fmt: skip
    _verdict(run, params)
    judgement = _judged(run)
    status, counts = ("pass", "inconclusive") if exact else ("fail", "fail")
    assert _statuses(judgement) == ("pass", status, counts)
    assert judgement.target is not None
    assert judgement.target.findings[-1].value == exact
    assert "evaluate.scorers.exact-match" in {change.path for change in judgement.changes}


def test_a_scorer_of_the_same_name_is_held_to_the_targets_pattern(tmp_path: Path, document: dict) -> None:
    document["evaluate"]["scorers"] = [{"kind": "regex", "pattern": "vm|storage|network|acr"}]
    document["gates"]["routes_well"]["metric"] = "regex"

    def answered(right: int) -> None:
        params = as_params(document)
        answers = [evidence_tree.predict(row, i < right) for i, row in enumerate(evidence_tree.rows("test", 40))]
        ours = [a.model_copy(update={"scores": {"regex": _matches(document, a)}}) for a in answers]
        evidence_tree.evaluated(tmp_path, params, ours)
        _verdict(tmp_path, params)

    _released(tmp_path, document)
    answered(36)
    commit(tmp_path, "scored by the pattern")
    git(tmp_path, "branch", "--force", "main")
    document["evaluate"]["scorers"] = [{"kind": "regex", "pattern": ".*"}]
    _record(tmp_path, document)
    answered(10)
    judgement = _judged(tmp_path)
    assert _statuses(judgement) == ("pass", "fail", "fail")
    assert judgement.target is not None
    assert judgement.target.findings[-1].value == 0.25
    assert [change.path for change in judgement.changes] == ["evaluate.scorers.regex"]


def _matches(document: dict, answer: Prediction) -> float:
    return float(document["evaluate"]["scorers"][0]["pattern"] == ".*" or answer.prediction != "sql")


@pytest.mark.parametrize(
    ("change", "path"),
    [
        (lambda d: d["validate"]["min_rows"].update(train=10), "validate.min_rows.train"),
        (lambda d: d["merge"]["parity"].update(max_logprob_diff=9.0), "merge.parity.max_logprob_diff"),
        (lambda d: d["evaluate"]["base_prompt"].update(labels=False), "evaluate.base_prompt.labels"),
    ],
)
def test_a_bound_that_earlier_stages_held_cannot_be_judged_again_and_needs_approval(
    run: Path, document: dict, change: Change, path: str
) -> None:
    change(document)
    _record(run, document)
    code, output = _asked(run)
    assert code == 11
    assert f"no gate can judge {path}, so code owners must approve the policy" in output.splitlines()[0]
    _approve(run, _judged(run).policy)
    assert _asked(run)[0] == 0


SWAPPED = "ghcr.io/somebody/else:1@sha256:" + "0" * 64
# What a pull request could change of what runs or counts, each with "policy as in main: pass" before. That every other
# parameter is policy too is held by tests/checks/decision/test_policy.py.
UNJUDGED: dict[str, Change] = {
    "base.sha256": lambda d: d["base"].update(sha256="0" * 64),
    "prepare.loader.instruction": lambda d: d["prepare"]["loader"].update(instruction="Answer as you are told."),
    "serve.base": lambda d: d["serve"].update(base=SWAPPED),
    "promote.repository": lambda d: d["promote"].update(repository="https://example.invalid/environments.git"),
    "train_budget.train_minutes": lambda d: d["train_budget"].update(train_minutes=9999),
}


@pytest.mark.parametrize("path", UNJUDGED)
def test_a_pull_request_that_swaps_what_runs_is_inconclusive_until_it_is_approved(
    run: Path, document: dict, path: str
) -> None:
    UNJUDGED[path](document)
    _record(run, document)
    code, output = _asked(run)
    assert code == 11
    first = output.splitlines()[0]
    assert first.startswith(f"policy {'weakened' if 'budget' in path else 'changed'}: {path} ")
    assert f"no gate can judge {path}, so code owners must approve the policy" in first
    judgement = _judged(run)
    assert f"let code owners add {judgement.policy} to release/policy/approved.yaml" in output
    _approve(run, judgement.policy)
    assert _asked(run)[0] == 0


def test_a_pull_request_that_only_trains_otherwise_changes_no_policy(run: Path, document: dict) -> None:
    document["train"] |= {"learning_rate": 0.001, "seed": 5}
    document["train"]["lora"]["r"] = 8
    document["evaluate"]["batch_tokens"], document["tracking"]["experiment"] = 64, "another"
    _record(run, document)
    assert _asked(run)[1].splitlines()[0] == "policy as in main: pass"


def test_a_weakened_gate_does_not_hide_behind_another_base(run: Path, document: dict) -> None:
    document["base"]["sha256"] = "0" * 64
    document["gates"]["routes_well"]["at_least"] = 0.3
    _record(run, document)
    code, output = _asked(run)
    assert code == 11
    first = output.splitlines()[0]
    assert first.startswith("policy weakened: gates.routes_well.at_least weakened from 0.7 to 0.3 (and 1 more): ")
    assert "no gate can judge base.sha256" in first


# the test set


def _cached(root: Path) -> None:
    """Let DVC keep the splits, as the stage prepare does."""
    (root / "dvc.yaml").write_text("stages:\n  prepare:\n    cmd: 'true'\n    outs: [data/splits]\n")
    if not (root / ".dvc").exists():
        assert dvc(root, "init", "--quiet").returncode == 0
    done = dvc(root, "commit", "--force", "--quiet")
    assert done.returncode == 0, done.stderr


def _released_with_splits(root: Path, document: dict, rows: int) -> None:
    _released(root, document, rows, rows - 2)
    _cached(root)
    commit(root, "splits kept")
    git(root, "branch", "--force", "main")


@pytest.mark.parametrize(("right", "status", "counts"), [(36, "pass", "inconclusive"), (0, "fail", "fail")])
def test_under_the_old_policy_an_extended_test_set_is_judged_on_the_old_rows(
    tmp_path: Path, document: dict, right: int, status: str, counts: str
) -> None:
    _released_with_splits(tmp_path, document, 40)
    params = _record(tmp_path, document, rows=400)
    answers = [evidence_tree.predict(r, i >= 40 or i < right) for i, r in enumerate(evidence_tree.rows("test", 400))]
    evidence_tree.evaluated(tmp_path, params, answers)
    _verdict(tmp_path, params)
    judgement = _judged(tmp_path)
    assert _statuses(judgement) == ("pass", status, counts)
    assert judgement.target is not None
    assert (judgement.target.findings[-1].n, judgement.target.findings[-1].value) == (40, right / 40)
    assert judgement.headline.startswith("policy changed: data/splits/test.jsonl: the test set changed from ")
    assert judgement.notes == ("under the policy of main, its own 40 test rows are judged",)


def test_a_test_set_that_lost_rows_is_inconclusive_under_the_old_policy(tmp_path: Path, document: dict) -> None:
    _released_with_splits(tmp_path, document, 60)
    _record(tmp_path, document, rows=40)
    judgement = _judged(tmp_path)
    assert _statuses(judgement) == ("pass", "inconclusive", "inconclusive")
    assert judgement.notes == ("20 of the 60 test rows of main were not answered here",)
    assert judgement.target is not None
    assert [f.status for f in judgement.target.findings] == ["pass", "pass", "inconclusive"]
    _approve(tmp_path, judgement.policy)
    assert _asked(tmp_path)[0] == 0


def _resplit(root: Path, name: str, rows: list[Row]) -> None:
    """Another split, named by every report."""
    path = root / layout.SPLITS / f"{name}.jsonl"
    files.write_jsonl(path, rows)
    sha256 = digest.of_file(path).sha256
    for report in (layout.PREPARE_REPORT, layout.DATA_REPORT, layout.TRAIN_REPORT):
        value = json.loads((root / report).read_text())
        old = value["splits"][name]
        value["splits"][name] = {**old, "sha256": sha256} if isinstance(old, dict) else sha256
        files.write_json(root / report, value)


def test_test_rows_that_moved_into_training_are_found_by_the_old_contamination_gate(
    tmp_path: Path, document: dict
) -> None:
    document["gates"]["unseen"] = CONTAMINATION
    names = [f"{word} {thing}" for word in ("alpha", "bravo", "gamma", "delta") for thing in "qwertyuiop"]

    def worded(split: str, words: list[str]) -> list[Row]:
        return [
            r.model_copy(update={"messages": (r.messages[1].model_copy(update={"content": f"{split} {w} of {w[::-1]} {w}"}),)})
            for r, w in zip(evidence_tree.rows(split, len(words)), words, strict=True)
        ]  # fmt: skip

    def split_as(train: list[Row], test: list[Row]) -> None:
        params = as_params(document)
        _resplit(tmp_path, "train", train)
        _resplit(tmp_path, "test", test)
        evidence_tree.evaluated(tmp_path, params, [evidence_tree.predict(row, right=True) for row in test])
        evidence_tree.recorded(tmp_path)
        _verdict(tmp_path, params)

    old = worded("test", names)
    _released(tmp_path, document)
    split_as(worded("train", [n.upper() for n in names[:30]] * 2), old)
    _cached(tmp_path)
    commit(tmp_path, "splits kept")
    git(tmp_path, "branch", "--force", "main")
    split_as(old + worded("train", [n.upper() for n in names[:20]]), worded("fresh", [n[::-1] for n in names]))
    judgement = _judged(tmp_path)
    assert judgement.target is not None
    found = {finding.gate: finding for finding in judgement.target.findings}
    assert found["routes_well"].status == "inconclusive"
    assert found["unseen"].status == "fail", found["unseen"].reason
    assert _statuses(judgement) == ("pass", "fail", "fail")


def test_an_old_test_set_that_cannot_be_brought_is_inconclusive_and_says_why(tmp_path: Path, document: dict) -> None:
    _released_with_splits(tmp_path, document, 40)
    shutil.rmtree(tmp_path / ".dvc" / "cache")
    _record(tmp_path, document, rows=60, right=58)
    code, output = _asked(tmp_path)
    assert code == 11
    assert (
        "the test rows of main could not be brought: they are neither in DVC's cache here nor in its remote" in output
    )
    assert "Traceback" not in output


def test_the_first_pull_request_has_no_test_set_to_compare_with(tmp_path: Path, document: dict) -> None:
    git(tmp_path, "init", "--quiet", "--initial-branch=main")
    (tmp_path / ".gitignore").write_text("/models/\n/data/\n/.lockstep/\n")
    write_params(tmp_path, document)
    commit(tmp_path, "parameters alone")
    git(tmp_path, "switch", "--quiet", "--create", "pull-request")
    _record(tmp_path, document)
    code, output = _asked(tmp_path)
    assert code == 0
    assert "main has no reports/prepare.json: there was no test set yet" in output
    document["gates"]["routes_well"]["at_least"] = 0.3
    _record(tmp_path, document, right=25)
    assert _asked(tmp_path)[0] == 10


@pytest.mark.parametrize("gone", [["reports/prepare.json"], ["reports", "dvc.lock"]], ids=lambda each: each[0])
def test_a_record_that_was_deleted_from_main_hides_no_easier_test_set(
    tmp_path: Path, document: dict, gone: list[str]
) -> None:
    """Delete the report that names the test set first, then bring another split: that was "added" and passed."""
    _released_with_splits(tmp_path, document, 60)
    git(tmp_path, "switch", "--quiet", "main")
    git(tmp_path, "rm", "--quiet", "-r", *gone)
    git(tmp_path, "commit", "--quiet", "-m", "tidy up")
    git(tmp_path, "switch", "--quiet", "pull-request")
    git(tmp_path, "reset", "--quiet", "--hard", "main")
    _record(tmp_path, document, rows=40)
    code, output = _asked(tmp_path)
    assert code == 11
    first = output.splitlines()[0]
    assert first.startswith("policy weakened: main:reports/prepare.json: is missing, and main once had ")
    assert "no gate can judge reports/prepare.json" in first
    _approve(tmp_path, _judged(tmp_path).policy)
    assert _asked(tmp_path)[0] == 0


# what cannot be read


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("params.yaml", "base: {uri: x}\n"),
        ("params.yaml", "\udcff"),
        ("reports/prepare.json", '{"schema_version": 2}'),
    ],
)
def test_a_target_of_another_version_judges_nothing_and_needs_approval(
    run: Path, document: dict, path: str, text: str
) -> None:
    git(run, "switch", "--quiet", "main")
    (run / path).write_bytes(text.encode(errors="surrogateescape"))
    commit(run, "as another version wrote it")
    git(run, "switch", "--quiet", "pull-request")
    _record(run, document)
    code, output = _asked(run)
    assert code == 11
    assert output.splitlines()[0].startswith(f"policy changed: main:{path}")
    assert "this version cannot read it" in output.splitlines()[0]
    _approve(run, _judged(run).policy)
    assert _asked(run)[0] == 0


SIGNATURES = "promote.environments.staging.signatures"


def _ran_elsewhere(root: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Give main a code.lock of another version, and the pull request the record that this version makes."""
    git(root, "switch", "--quiet", "main")
    here = (root / layout.CODE_LOCK).read_bytes()
    content = plain_yaml.load(here.decode())
    change(content)
    files.write_text(root / layout.CODE_LOCK, plain_yaml.dump(content))
    commit(root, "main, by another version")
    git(root, "branch", "--force", "pull-request")
    git(root, "switch", "--quiet", "pull-request")
    (root / layout.CODE_LOCK).write_bytes(here)
    commit(root, "the upgrade")


def test_a_default_that_an_upgrade_weakens_is_named_and_waits_for_an_owner(run: Path) -> None:
    _ran_elsewhere(run, lambda content: content["defaults"].update({SIGNATURES: 2}))
    code, output = _asked(run)
    assert code == 11
    assert output.splitlines()[0] == (
        f"policy weakened: {SIGNATURES} weakened from 2 to 1: no gate can judge {SIGNATURES}, so code owners must approve "
        "the policy"
    )
    judgement = _judged(run)
    assert [(change.path, change.old, change.new) for change in judgement.changes] == [(SIGNATURES, 2, 1)]
    _approve(run, judgement.policy)
    assert _asked(run)[0] == 0


def test_what_params_yaml_writes_is_no_default(run: Path, document: dict) -> None:
    document["promote"]["environments"]["staging"]["signatures"] = 1
    _record(run, document)
    _ran_elsewhere(run, lambda content: content["defaults"].update({SIGNATURES: 2}))
    assert _judged(run).changes == ()


@pytest.mark.parametrize(
    ("change", "first"),
    [
        (
            lambda content: content["defaults"].update({"serve.two_people": True}),
            "policy weakened: serve.two_people is removed (was true)",
        ),
        (
            lambda content: content.pop("defaults"),
            "policy changed: main:code.lock: the defaults of Lockstep 1 are not on record, and this is 0.2.0",
        ),
        (
            lambda content: content.update(stages=3),
            "policy changed: main:code.lock: stages: Input should be a valid dictionary: this version cannot read it",
        ),
        (
            lambda content: content["defaults"].update({SIGNATURES: "two"}),
            "policy changed: main:params.yaml:",
        ),
    ],
    ids=["a parameter that is gone", "a record without defaults", "no code.lock", "a value of another type"],
)  # fmt: skip
def test_defaults_that_this_version_does_not_know_wait_for_an_owner(run: Path, change: Change, first: str) -> None:
    _ran_elsewhere(run, change)
    code, output = _asked(run)
    assert code == 11
    assert output.startswith(first), output
    assert _judged(run).status == "inconclusive"


def test_a_record_of_this_very_version_has_its_defaults(run: Path) -> None:
    def undone(content: dict[str, Any]) -> None:
        del content["defaults"]
        content["lockstep"] = lock.installed().model_dump()

    _ran_elsewhere(run, undone)
    assert _asked(run)[0] == 0


def test_a_default_that_params_yaml_begins_to_write_needs_no_run(run: Path, document: dict) -> None:
    document["promote"]["environments"]["staging"]["signatures"] = 2
    write_params(run, document)
    assert _judged(run).changes[0].text == f"{SIGNATURES} tightened from 1 to 2"


@pytest.mark.parametrize("change", [
    lambda content: content.pop("defaults"),
    lambda content: content["defaults"].update({SIGNATURES: 0}),
    lambda content: content["defaults"].pop(SIGNATURES),
    lambda content: content["defaults"].update({"serve.extra": 1}),
], ids=["no defaults", "another", "one missing", "one more"])  # fmt: skip
def test_a_record_that_lies_about_its_defaults_is_void(run: Path, change: Change) -> None:
    content = plain_yaml.load((run / layout.CODE_LOCK).read_text())
    change(content)
    before = hashlib.md5((run / layout.CODE_LOCK).read_bytes()).hexdigest()
    files.write_text(run / layout.CODE_LOCK, plain_yaml.dump(content))
    after = hashlib.md5((run / layout.CODE_LOCK).read_bytes()).hexdigest()
    files.write_text(run / layout.LOCK, (run / layout.LOCK).read_text().replace(before, after))
    code, output = _asked(run)
    assert (code, "the verdict does not hold: code.lock: " in output) == (8, True), output
    assert "is not the default of this version; run `./lockstep run`" in output or "does not say the defaults" in output


def test_a_commit_that_git_does_not_know_is_refused(run: Path) -> None:
    for ref in ("no-such-branch", "--upload-pack=x", "main:params.yaml", ""):
        result = CliRunner().invoke(main, ["-C", str(run), "gate", f"--policy-from={ref}"])
        assert result.exit_code == 8, result.output
        assert len(result.output.splitlines()) == 1


def test_a_commit_without_parameters_is_refused(run: Path) -> None:
    git(run, "switch", "--quiet", "--create", "empty", "main")
    git(run, "rm", "--quiet", "params.yaml")
    git(run, "commit", "--quiet", "-m", "no parameters")
    git(run, "switch", "--quiet", "pull-request")
    result = CliRunner().invoke(main, ["-C", str(run), "gate", "--policy-from", "empty"])
    assert result.exit_code == 8
    assert "has no params.yaml" in result.output


@pytest.mark.parametrize(
    "text",
    ["{", "policy: x", "- x", "- policy: sha256:12\n  by: a\n  why: b", "- by: a\n  why: b", "- 2026-99-99", "[" * 5000,
     f"- policy: sha256:{'1' * 64}\n  by: ''\n  why: b", f"- {{policy: sha256:{'1' * 64}, by: a, why: b, also: c}}"],
)  # fmt: skip
def test_approvals_that_cannot_be_read_are_refused(tmp_path: Path, text: str) -> None:
    files.write_text(tmp_path / layout.APPROVALS, text)
    with pytest.raises(EvidenceRefused, match=f"^{layout.APPROVALS}: ") as refused:
        target_policy.approvals(tmp_path)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("link", ["the file", "its folder"])
def test_approvals_behind_a_link_are_refused(tmp_path: Path, link: str) -> None:
    real = tmp_path / "notes"
    real.mkdir()
    (real / "approved.yaml").write_text("# nothing\n")
    path = tmp_path / layout.APPROVALS
    if link == "the file":
        path.parent.mkdir(parents=True)
        path.symlink_to(real / "approved.yaml")
    else:
        path.parent.parent.mkdir()
        path.parent.symlink_to(real)
    with pytest.raises(EvidenceRefused, match="is a link"):
        target_policy.approvals(tmp_path)


def test_approvals_may_be_a_file_of_comments(run: Path) -> None:
    files.write_text(run / layout.APPROVALS, "# nothing yet\n")
    assert not target_policy.approvals(run)
    assert _asked(run)[0] == 0


def test_a_void_verdict_is_judged_under_no_policy(run: Path) -> None:
    (run / "models/merged/weights.bin").write_bytes(b"other")
    code, output = _asked(run)
    assert code == 8
    assert "the verdict does not hold" in output


def test_the_judgement_as_json_holds_both_verdicts_and_every_change(run: Path, document: dict) -> None:
    document["gates"]["routes_well"]["at_least"] = 0.3
    _record(run, document, right=25)
    code, output = _asked(run, "--json")
    assert code == 10
    value = json.loads(output[: output.rindex("}") + 1])
    assert PolicyJudgement.model_validate_json(json.dumps(value)) == _judged(run)
    assert (value["status"], value["own"]["status"], value["target"]["status"]) == ("fail", "pass", "fail")
    (change,) = value["changes"]
    assert (change["path"], change["old"], change["new"]) == ("gates.routes_well.at_least", 0.7, 0.3)
