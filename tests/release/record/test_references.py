"""References: which models were released before, as git names them, and how evaluate has their answers."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from checks.formats import pointer
from checks.formats.evaluation_reports import ReferencesReport
from checks.gating.chain import MAKING
from checks.process.errors import EvidenceRefused, RemoteRefused
from checks.storage import digest, files, layout
from release.adapters import commits
from release.record import references
from release.record.records import Records
from tests import evidence_tree
from tests import pipeline_repository as repository
from tests.conftest import scaled_down

pytestmark = pytest.mark.slow

A, B, C, D = (digest.of_bytes(name.encode()) for name in "ABCD")


def name(root: Path, *against: str) -> None:
    """A params.yaml whose gates compare with these."""
    document = scaled_down()
    document["gates"] = {
        f"holds_against_{other}": {
            "kind": "non_inferior", "metric": "exact-match", "against": other, "margin": 0.1, "confidence": 0.95,
        }
        for other in against
    }  # fmt: skip
    repository.write_params(root, document)


def record(root: Path, model: str, **change: Any) -> None:
    """The record of a run with params.yaml as it is: what references read of it, and a dvc.lock of this model."""
    value = {
        "schema_version": 1, "merged": model, "test": C, "scorers": C, "prompt_format": C, "rows": 9,
        "models": {"candidate": {"predictions": model, "metrics": {}}},
    }  # fmt: skip
    files.write_json(root / layout.EVALUATION, value | change)
    for path in (*MAKING, layout.NOISE, layout.VERDICT):  # what references do not read of a run
        if path != layout.REFERENCES and not (root / path).exists():
            files.write_text(root / path, "{}\n")
    evidence_tree.recorded(root)
    with (root / layout.LOCK).open("a") as stream:
        stream.write(f"# {model}\n")


def keep(root: Path, message: str = "a change") -> str:
    repository.commit(root, message)
    return repository.git(root, "rev-parse", "HEAD").strip()


# Of a pointer: what references do not read.
REST = f"version: v0.1.0\nimage: registry.example/team/router@{B}\nevidence: {B}\n"


def promote(root: Path, model: str, commit: str) -> None:
    files.write_text(root / references.PRODUCTION, f"model: {model}\ncommit: {commit}\n{REST}")
    keep(root, "promote")


def change(root: Path, edit: Callable[[dict], object]) -> None:
    """Change params.yaml."""
    document = yaml.safe_load((root / layout.PARAMS).read_text())
    edit(document)
    repository.write_params(root, document)


def push(root: Path) -> None:
    repository.git(root, "push", "--quiet", "origin", "main")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone of a bare repository whose main has a record of model A, under gates against main and production."""
    repository.git(tmp_path, "init", "--quiet", "--bare", "--initial-branch=main", "origin.git")
    repository.git(tmp_path, "clone", "--quiet", "origin.git", "clone")
    root = tmp_path / "clone"
    repository.git(root, "checkout", "--quiet", "-b", "main")
    name(root, "main", "production")
    record(root, A)
    keep(root)
    push(root)
    return root


def branch(root: Path) -> None:
    """Push main, and begin a pull request's branch with a change of its own."""
    push(root)
    repository.git(root, "checkout", "--quiet", "-b", "change")
    with (root / "params.yaml").open("a") as stream:
        stream.write("# a change\n")
    keep(root)


def move_on(root: Path, model: str) -> None:
    """Meanwhile main gets the record of ``model``; back on the pull request's branch."""
    repository.git(root, "checkout", "--quiet", "main")
    record(root, model)
    keep(root)
    push(root)
    repository.git(root, "checkout", "--quiet", "change")


def found(root: Path, target: str | None = None) -> dict[str, tuple[str, str]]:
    """What is written: name to model and commit."""
    report = references.write(Records(root), target).report
    assert files.read_json(root / layout.REFERENCES, ReferencesReport) == report
    return {earlier: (reference.merged, reference.commit) for earlier, reference in report.found.items()}


def test_main_is_the_record_where_the_branch_left_the_target_and_not_what_came_later(clone: Path) -> None:
    base = keep(clone)
    branch(clone)
    move_on(clone, B)
    assert found(clone) == {"main": (A, base)}
    assert references.current(Records(clone)) == []


def test_the_production_is_what_the_targets_pointer_names_and_the_pull_requests_own_is_ignored(clone: Path) -> None:
    first = keep(clone)
    record(clone, B)
    second = keep(clone)
    promote(clone, A, first)
    branch(clone)
    promote(clone, B, second)
    (clone / references.PRODUCTION).write_text("nonsense")
    assert found(clone)["production"] == (A, first)


def scored(root: Path, model: str, score: float | None, **more: Any) -> str:
    """Record ``model`` on main with this score, and promote it; the commit of the record."""
    metrics = {} if score is None else {"exact-match": {"value": score}}
    record(root, model, models={"candidate": {"predictions": model, "metrics": metrics}}, **more)
    commit = keep(root, f"record {model}")
    promote(root, model, commit)
    return commit


def held_back(root: Path, model: str) -> None:
    entry = {"image": B, "model": model, "version": "v0.1.0", "by": "Ada <ada@example.org>", "why": "wrong in French"}
    files.write_text(root / layout.QUARANTINE, yaml.safe_dump([entry]))
    keep(root, "quarantine")


@pytest.mark.parametrize(
    ("scores", "held", "best"),
    [
        ((0.5, 0.7, 0.6), None, 1),
        ((0.5, 0.6, 0.7), None, 2),
        ((0.6, 0.6, 0.5), None, 1),  # of equal ones the newest
        ((0.5, 0.7, 0.6), 1, 2),
        ((0.5, None, 0.4), None, 0),  # a record without a score is passed over
    ],
)
def test_the_best_is_the_release_with_the_highest_score_that_is_not_held_back(
    clone: Path, scores: tuple[float | None, ...], held: int | None, best: int
) -> None:
    name(clone, "best")
    released = [(model, scored(clone, model, score)) for model, score in zip((A, B, D), scores, strict=True)]
    if held is not None:
        held_back(clone, released[held][0])
    branch(clone)
    assert found(clone)["best"] == released[best]


@pytest.mark.parametrize(
    ("tests", "best"),
    [
        ((C, D, D), 1),  # the first was judged on other rows
        ((C, C, D), 2),  # nothing but the newest can be compared
        ((D, C, D), 0),
    ],
)
def test_scores_on_other_test_rows_do_not_say_which_release_is_the_best(
    clone: Path, tests: tuple[str, ...], best: int
) -> None:
    name(clone, "best")
    released = [
        (model, scored(clone, model, score, test=test))
        for model, score, test in zip((A, B, D), (0.9, 0.7, 0.6), tests, strict=True)
    ]
    branch(clone)
    assert found(clone)["best"] == released[best]


def test_the_best_is_absent_until_something_was_promoted_and_stands_after_the_next_best_is_released(
    clone: Path,
) -> None:
    name(clone, "best")
    keep(clone)
    branch(clone)
    assert "nothing has been promoted" in references.write(Records(clone)).report.absent["best"]
    repository.git(clone, "checkout", "--quiet", "main")
    first = scored(clone, A, 0.5)
    push(clone)
    repository.git(clone, "checkout", "--quiet", "-b", "better")
    metrics = {"exact-match": {"value": 0.8}}
    record(clone, B, models={"candidate": {"predictions": B, "metrics": metrics}})
    assert found(clone)["best"] == (A, first)
    second = keep(clone)
    repository.git(clone, "checkout", "--quiet", "main")
    repository.git(clone, "merge", "--quiet", "--ff-only", "better")
    promote(clone, B, second)
    push(clone)
    assert references.current(Records(clone)) == []  # git names B now, and the record says what B replaced
    assert found(clone)["best"] == (A, first)


def test_a_pointer_that_was_taken_away_still_names_what_ran_last(clone: Path) -> None:
    first = keep(clone)
    promote(clone, A, first)
    (clone / references.PRODUCTION).unlink()
    keep(clone)
    branch(clone)
    assert found(clone)["production"] == (A, first)


def test_a_branch_from_before_the_first_record_must_merge_the_target(clone: Path) -> None:
    (clone / layout.EVALUATION).unlink()
    keep(clone)
    branch(clone)
    move_on(clone, B)
    with pytest.raises(EvidenceRefused, match=r"has a record and the commit .* has none; merge origin/main into this"):
        references.resolve(Records(clone))


def test_a_tag_that_is_called_as_the_target_does_not_take_its_place(clone: Path) -> None:
    base = keep(clone)
    branch(clone)
    record(clone, B)
    keep(clone)
    for tag in ("main", "origin/main"):
        repository.git(clone, "tag", tag)
        assert found(clone, tag)["main"] == (A, base)


def test_a_remote_without_a_known_default_branch_is_no_leave_to_compare_with_oneself(clone: Path) -> None:
    branch(clone)
    repository.git(clone, "branch", "--quiet", "--delete", "--force", "main")
    repository.git(clone, "update-ref", "-d", "refs/remotes/origin/main")
    with pytest.raises(EvidenceRefused, match="no branch of origin is known"):
        references.resolve(Records(clone))


def test_no_production_and_no_record_yet_are_stated(clone: Path) -> None:
    (clone / layout.EVALUATION).unlink()
    keep(clone)
    branch(clone)
    written = references.write(Records(clone))
    assert written.target == "origin/main"
    assert written.report.found == {}
    assert written.report.absent == {
        "main": "no model was recorded where this branch left the target branch",
        "production": "nothing has been promoted to production yet",
    }
    assert references.current(Records(clone)) == []


def test_before_the_first_commit_there_is_no_earlier_model(tmp_path: Path) -> None:
    repository.git(tmp_path, "init", "--quiet")
    name(tmp_path, "main", "production")
    assert references.write(Records(tmp_path)).report.absent == dict.fromkeys(
        ("main", "production"), "git had no commit when the models were looked up"
    )


def _environments(root: Path, **change: Any) -> None:
    """Main says that the environments are called otherwise, or lie elsewhere."""
    document = yaml.safe_load((root / layout.PARAMS).read_text())
    document["promote"] |= change
    repository.write_params(root, document)
    keep(root, "environments")


@pytest.mark.parametrize("where", ["another repository", "another branch"])
def test_production_is_asked_where_the_target_says_that_it_is(clone: Path, where: str) -> None:
    commit = repository.git(clone, "rev-parse", "HEAD").strip()
    live = clone.parent / "live.git"
    repository.git(clone, "checkout", "--quiet", "-b", "live")
    promote(clone, A, commit)
    if where == "another repository":
        repository.git(clone.parent, "init", "--quiet", "--bare", str(live))
    repository.git(clone, "push", "--quiet", str(live) if live.exists() else "origin", "live")
    repository.git(clone, "checkout", "--quiet", "main")
    _environments(clone, branch="live", repository=str(live) if live.exists() else None)
    branch(clone)
    assert references.resolve(Records(clone))[1].found["production"].merged == A
    assert references.resolve(Records(clone), "HEAD~1")[1].found["production"].merged == A
    shutil.rmtree(live if live.exists() else clone.parent / "origin.git")
    with pytest.raises(RemoteRefused):
        references.resolve(Records(clone))


def test_a_branch_of_environments_that_is_not_made_yet_ran_nothing_and_one_that_is_gone_refuses(clone: Path) -> None:
    commit = repository.git(clone, "rev-parse", "HEAD").strip()
    _environments(clone, branch="live")
    branch(clone)
    assert "nothing has been promoted" in references.resolve(Records(clone))[1].absent["production"]
    repository.git(clone, "checkout", "--quiet", "-b", "live")
    promote(clone, A, commit)
    repository.git(clone, "push", "--quiet", "origin", "live")
    repository.git(clone, "checkout", "--quiet", "change")
    assert references.resolve(Records(clone))[1].found["production"].merged == A
    repository.git(clone, "push", "--quiet", "--delete", "origin", "live")
    with pytest.raises(RemoteRefused, match="and is gone; restore the branch"):
        references.resolve(Records(clone))


def test_without_an_environment_called_production_there_is_no_production_to_be_named(clone: Path) -> None:
    document = yaml.safe_load((clone / layout.PARAMS).read_text())
    first = document["promote"]["environments"]["staging"]
    _environments(clone, environments={"staging": first, "live": first | {"after": "staging"}})
    branch(clone)
    with pytest.raises(
        EvidenceRefused, match="no environment is called production, and a gate compares with production"
    ):
        references.resolve(Records(clone))


def test_without_gates_that_name_one_git_is_not_needed(tmp_path: Path) -> None:
    name(tmp_path, "base")
    assert references.write(Records(tmp_path)).report.absent == {"main": "this is not a git repository"}
    assert references.current(Records(tmp_path)) == []


def test_main_is_always_named_and_so_is_a_production_that_only_the_targets_policy_names(
    clone: Path,
) -> None:
    promote(clone, A, keep(clone))
    branch(clone)
    name(clone, "base")
    assert set(found(clone)) == {"main", "production"}
    name(clone, "base")
    keep(clone)
    assert set(found(clone, "HEAD")) == {"main"}


def test_a_moved_production_makes_the_references_stale(clone: Path) -> None:
    first = keep(clone)
    promote(clone, A, first)
    branch(clone)
    references.write(Records(clone))
    keep(clone)
    repository.git(clone, "checkout", "--quiet", "main")
    record(clone, B)
    promote(clone, B, keep(clone))
    push(clone)
    repository.git(clone, "checkout", "--quiet", "change")
    (line,) = references.current(Records(clone))
    assert line.startswith(
        f"reports/references.json: production is {A[:19]}… of commit {first[:12]}, git now has {B[:19]}"
    )
    assert references.write(Records(clone)).changed
    assert references.current(Records(clone)) == []


def test_a_later_commit_with_the_same_record_is_no_change(clone: Path) -> None:
    branch(clone)
    before = found(clone)
    repository.git(clone, "checkout", "--quiet", "main")
    (clone / "README.md").write_text("Words.\n")
    keep(clone)
    push(clone)
    repository.git(clone, "checkout", "--quiet", "change")
    repository.git(clone, "merge", "--quiet", "origin/main")
    assert references.current(Records(clone)) == []
    assert not references.write(Records(clone)).changed
    assert found(clone) == before


def test_a_merged_base_with_another_record_makes_the_references_stale(clone: Path) -> None:
    branch(clone)
    record(clone, C)
    references.write(Records(clone))
    keep(clone)
    move_on(clone, B)
    repository.git(clone, "merge", "--quiet", "--no-edit", "--strategy-option=ours", "origin/main")
    (line,) = references.current(Records(clone))
    assert "main is" in line
    assert "git now has" in line


@pytest.mark.parametrize("how", ["--no-ff", "--ff-only", "--squash"])
def test_after_the_merge_the_verdict_still_stands_against_what_was_there_before(clone: Path, how: str) -> None:
    first = keep(clone)
    promote(clone, A, first)
    branch(clone)
    record(clone, B)
    before = found(clone)
    second = keep(clone)
    repository.git(clone, "checkout", "--quiet", "main")
    repository.git(clone, "merge", "--quiet", how, "change")
    merged = keep(clone)
    push(clone)
    assert references.current(Records(clone)) == []
    assert not references.write(Records(clone)).changed
    # Promoted: production now runs the model itself, which was judged against what ran before.
    promote(clone, B, second if how != "--squash" else merged)
    push(clone)
    assert references.current(Records(clone)) == []
    assert found(clone) == before
    # A new change on the same commit is judged against it.
    change(clone, lambda value: value["train"].update(learning_rate=0.5))
    assert {earlier: model for earlier, (model, _) in found(clone).items()} == {"main": B, "production": B}


def test_the_first_record_of_a_repository_stands_after_its_merge(clone: Path) -> None:
    (clone / layout.EVALUATION).unlink()
    keep(clone)
    branch(clone)
    record(clone, B)
    references.write(Records(clone))
    keep(clone)
    repository.git(clone, "checkout", "--quiet", "main")
    repository.git(clone, "merge", "--quiet", "--ff-only", "change")
    push(clone)
    assert references.current(Records(clone)) == []


def test_a_record_of_an_older_version_is_read_for_what_it_names(clone: Path) -> None:
    record(clone, B, seconds=3, models={"candidate": {"predictions": C}, "base": None})
    keep(clone)
    branch(clone)
    assert found(clone)["main"][0] == B


Tamper = Callable[[dict], object]


@pytest.mark.parametrize(
    ("tamper", "line"),
    [
        (lambda d: d["found"]["main"].update(merged=B), "main is"),
        (lambda d: d["found"]["main"].update(predictions=B), "main is"),
        (lambda d: d["found"]["main"].update(commit="1" * 40), "main is not the record of commit 111111111111"),
        (lambda d: d["absent"].update(main=d["found"].pop("main") and "none"), "main is none, git now has"),
        (lambda d: d["found"].pop("main"), "main is not named"),
        (lambda d: d["absent"].pop("production"), "production is not named"),
        (lambda d: d["found"].update(production=d["found"]["main"]), "is both found and absent"),
        (lambda d: d.clear(), "found: Field required"),
    ],
)
def test_edited_references_are_seen(clone: Path, tamper: Tamper, line: str) -> None:
    branch(clone)
    record(clone, B)
    references.write(Records(clone))
    value = json.loads((clone / layout.REFERENCES).read_text())
    tamper(value)
    files.write_json(clone / layout.REFERENCES, value)
    (said,) = references.current(Records(clone))
    assert line in said
    assert references.write(Records(clone)).changed
    assert references.current(Records(clone)) == []


def test_references_that_are_not_there_are_said_to_be_missing(clone: Path) -> None:
    (said,) = references.current(Records(clone))
    assert "reports/references.json: is missing" in said


def kept_record(root: Path, **change: Any) -> None:
    record(root, A, **change)
    keep(root)


def unreadable(root: Path) -> None:
    (root / layout.EVALUATION).write_text("{")
    keep(root)


def without_record(root: Path) -> None:
    (root / layout.EVALUATION).unlink()
    promote(root, A, keep(root))


def linked(root: Path) -> None:
    place = root / references.PRODUCTION
    place.parent.mkdir(parents=True)
    place.symlink_to("/etc/hostname")
    keep(root)


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda root: promote(root, B, keep(root)), "names sha256:.*is about sha256:"),
        (lambda root: promote(root, A, "1" * 40), "commit 111111111111 is not in the history of origin/main"),
        (lambda root: promote(root, A, "HEAD"), "pointer.yaml at [0-9a-f]{12}: commit: String should match"),
        (lambda root: promote(root, A, "x\nimage: y"), "pointer.yaml at [0-9a-f]{12}: "),
        (lambda root: promote(root, "[", ""), "pointer.yaml at [0-9a-f]{12}: model: String should match"),
        (lambda root: kept_record(root, merged="x"), "evaluation.json at [0-9a-f]{12}: merged"),
        (
            lambda root: kept_record(root, schema_version=2),
            "at [0-9a-f]{12}: has the format 2, which a newer Lockstep reads: `lockstep upgrade`",
        ),
        (unreadable, "evaluation.json at [0-9a-f]{12}: Invalid JSON"),
        (without_record, r"has no reports/evaluation\.json"),
        (linked, "pointer.yaml at [0-9a-f]{12}: is a link"),
    ],
)
def test_a_pointer_or_record_that_cannot_be_believed_refuses(
    clone: Path, spoil: Callable[[Path], object], problem: str
) -> None:
    spoil(clone)
    branch(clone)
    with pytest.raises(EvidenceRefused, match=problem):
        references.write(Records(clone))
    assert not (clone / layout.REFERENCES).exists()


def test_a_shallow_clone_refuses_and_says_how_to_deepen_it(clone: Path, tmp_path: Path) -> None:
    keep(clone)
    push(clone)
    repository.git(tmp_path, "clone", "--quiet", "--depth=1", f"file://{tmp_path}/origin.git", "shallow")
    with pytest.raises(EvidenceRefused, match="git fetch --unshallow"):
        references.write(Records(tmp_path / "shallow"))
    repository.git(tmp_path / "shallow", "fetch", "--quiet", "--unshallow")
    assert set(found(tmp_path / "shallow")) == {"main"}


def test_a_copy_without_git_an_unknown_target_and_unrelated_histories_refuse(clone: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(clone, copy, ignore=shutil.ignore_patterns(".git"))
    with pytest.raises(EvidenceRefused, match="is not a git repository, and gates compare with main and production"):
        references.write(Records(copy))
    for target in ("origin/no-such-branch", "--all", "a..b", ""):
        with pytest.raises(EvidenceRefused, match="git knows no such commit"):
            references.write(Records(clone), target)
    repository.git(clone, "checkout", "--quiet", "--orphan", "other")
    keep(clone, "another beginning")
    with pytest.raises(EvidenceRefused, match="HEAD and origin/main share no history"):
        references.write(Records(clone))


def test_a_detached_head_and_a_repository_in_a_subfolder_are_read_alike(clone: Path, tmp_path: Path) -> None:
    branch(clone)
    repository.git(clone, "checkout", "--quiet", "--detach")
    assert set(found(clone)) == {"main"}
    inner = clone / "models of ünit [1]"
    inner.mkdir()
    repository.git(clone, "checkout", "--quiet", "main")
    for path in ("params.yaml", "reports", "dvc.lock"):
        repository.git(clone, "mv", path, str(inner))
    record(inner, B)
    keep(clone)
    push(clone)
    assert found(inner)["main"][0] == B


def test_another_target_can_be_named(clone: Path) -> None:
    repository.git(clone, "branch", "release", "main")
    record(clone, B)
    keep(clone)
    branch(clone)
    record(clone, C)
    assert found(clone)["main"][0] == B
    assert found(clone, "release")["main"][0] == A
    assert references.current(Records(clone), "release") == []
    assert references.current(Records(clone)) != []


def test_without_a_remote_a_local_main_is_the_target_and_without_that_head(tmp_path: Path) -> None:
    repository.git(tmp_path, "init", "--quiet", "--initial-branch=trunk")
    name(tmp_path, "main")
    record(tmp_path, A)
    commit = keep(tmp_path)
    assert commits.target(tmp_path) == ("HEAD", commit)
    assert found(tmp_path) == {"main": (A, commit)}
    repository.git(tmp_path, "branch", "main")
    assert commits.target(tmp_path) == ("main", commit)


def test_a_pointer_is_its_five_fields_and_nothing_else() -> None:
    text = f"model: {A}\ncommit: {'a' * 40}\n{REST}"
    found = pointer.parse(text.encode(), "p")
    assert (found.model, found.digest) == (A, B)
    assert pointer.write(found).decode() == text
    others = (text + "other: x\n", text.replace("v0.1.0", "0.1"), text.replace("registry", "-registry"))
    for bad in (*others, text.replace("a" * 40, "main"), "", "- 1", "\0", "a: [", "model: 2020-13-45"):
        with pytest.raises(EvidenceRefused, match=r"^p: [^\n]+$"):
            pointer.parse(bad.encode(), "p")
