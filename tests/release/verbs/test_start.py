"""lockstep start: a name becomes the commit that it means now, in params.yaml; git and the ledger are real."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from checks.config import params_file
from checks.formats.training_reports import MergedFile, ParityReport, TrainReport
from checks.process.errors import EvidenceRefused, ParamsRefused
from checks.storage import files, layout
from release.cli import main
from release.record import references
from release.record.records import Records
from release.verbs import start as verb
from tests import pipeline_repository as repository
from tests.conftest import scaled_down
from tests.release.record.test_references import A, B, C, branch, keep, promote, push, record

pytestmark = pytest.mark.slow


def _made(root: Path, model: str, *, full: bool = False) -> None:
    """Write a record of ``model``, whose adapter has the digest C."""
    record(root, model)
    files.write_json(
        root / layout.TRAIN_REPORT,
        TrainReport(
            adapter=C, base=B, splits={"train": C}, rows=1, steps=1, epochs=1.0, trainable_parameters=1, total_parameters=2,
            final_loss=0.5, versions={}, full=full,
        ),
    )  # fmt: skip
    parity = {"base": B, "adapter": C, "merged": model, "files": {"x": MergedFile(sha256=A, size=1)}, "prompts": 1}
    distance = {"positions": 1, "max_logprob_diff": 0.0, "mean_logprob_diff": 0.0, "top1": 1.0}
    files.write_json(root / layout.PARITY_REPORT, ParityReport(**parity, **distance))


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A branch of a clone whose main has the records of two models; production runs the first."""
    repository.git(tmp_path, "init", "--quiet", "--bare", "--initial-branch=main", "origin.git")
    repository.git(tmp_path, "clone", "--quiet", "origin.git", "clone")
    root = tmp_path / "clone"
    repository.git(root, "checkout", "--quiet", "-b", "main")
    repository.write_params(root, scaled_down())
    _made(root, A)
    first = keep(root, "first")
    promote(root, A, first)
    _made(root, B)
    keep(root, "second")
    branch(root)
    return root


def _written(root: Path) -> str | None:
    return params_file.load(root / layout.PARAMS).train.start


def _commit(root: Path, subject: str) -> str:
    return repository.git(root, "log", "--all", "--format=%H", f"--grep=^{subject}$").strip()


@pytest.mark.parametrize(
    ("name", "subject", "model"),
    [("main", "second", B), ("production", "first", A), ("v0.1.0", "first", A), ("origin/main", "second", B)],
)
def test_a_name_becomes_the_commit_that_it_means_now(clone: Path, name: str, subject: str, model: str) -> None:
    commit = _commit(clone, subject)
    written = verb.start(clone, name)
    assert _written(clone) == commit
    assert written == verb.StartWritten(commit=commit, model=model, adapter=C, changed=True)
    references.write(Records(clone))
    assert verb.start(clone, commit).changed is False


def test_another_name_takes_its_place_and_base_removes_it_and_all_else_stays(clone: Path) -> None:
    before = (clone / layout.PARAMS).read_text()
    verb.start(clone, "base")
    assert (clone / layout.PARAMS).read_text() == before
    verb.start(clone, "main")
    verb.start(clone, "production")
    lines = set((clone / layout.PARAMS).read_text().splitlines()) - set(before.splitlines())
    assert [line.strip() for line in lines] == [f"start: {_commit(clone, 'first')}"]
    verb.start(clone, "base")
    assert _written(clone) is None
    assert (clone / layout.PARAMS).read_text().replace("  start: null\n", "") == before


def test_the_command_says_model_and_adapter_and_its_json_has_them_whole(clone: Path) -> None:
    said = CliRunner().invoke(main, ["-C", str(clone), "start", "main"])
    assert said.exit_code == 0, said.output
    assert " ".join(said.output.split()) == (
        f"training starts from commit {_commit(clone, 'second')[:12]}: model {B[7:19]}, adapter {C[7:19]}"
    )
    again = CliRunner().invoke(main, ["-C", str(clone), "start", "main", "--json"])
    assert json.loads(again.output) == {
        "commit": _commit(clone, "second"), "model": B, "adapter": C, "changed": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("best", r"^best: nothing has been promoted to production yet; name another model with `lockstep start`"),
        ("v9.9.9", "v9.9.9: neither git nor the ledger knows such a record here"),
        ("nobody", "nobody: neither git nor the ledger knows such a record here"),
        (".", r"^\.: is the work tree, whose record is in no commit; commit it, and merge it"),
        ("change", r"train.start: commit \w{12} is not in the history of origin/main"),
    ],
)
def test_a_name_that_means_no_record_of_the_target_branch_is_refused(clone: Path, name: str, says: str) -> None:
    before = (clone / layout.PARAMS).read_bytes()
    with pytest.raises(EvidenceRefused, match=says):
        verb.start(clone, name)
    assert (clone / layout.PARAMS).read_bytes() == before


def _no_record(root: Path) -> None:
    for path in (layout.TRAIN_REPORT, layout.PARITY_REPORT):
        (root / path).unlink()


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda root: _made(root, A, full=True), r"commit \w{12} has no adapter"),
        (_no_record, r"commit \w{12} has no record of a model"),
        (lambda root: (root / layout.TRAIN_REPORT).write_text("[]"), r"the record of commit \w{12}: "),
    ],
)
def test_a_record_without_an_adapter_is_refused(clone: Path, spoil, says: str) -> None:  # type: ignore[no-untyped-def]
    repository.git(clone, "checkout", "--quiet", "main")
    spoil(clone)
    keep(clone, "third")
    push(clone)
    with pytest.raises(EvidenceRefused, match=says):
        verb.start(clone, _commit(clone, "third"))


def test_params_that_cannot_start_from_it_are_refused_and_stay(clone: Path) -> None:
    document = scaled_down()
    document["train"] |= {"lora": None, "full": {"layers": None}}
    repository.write_params(clone, document)
    with pytest.raises(ParamsRefused, match="start: is not offered with full"):
        verb.start(clone, "main")
    assert _written(clone) is None


def test_a_commit_that_the_target_never_had_stops_the_run_and_ends_the_verdict(clone: Path) -> None:
    document = scaled_down()
    mine = repository.git(clone, "rev-parse", "HEAD").strip()
    for commit in (mine, "3" * 40):
        document["train"]["start"] = commit
        repository.write_params(clone, document)
        says = f"train.start: commit {commit[:12]} is not in the history of origin/main; name another model"
        with pytest.raises(EvidenceRefused, match=says):
            references.write(Records(clone))
        assert [line for line in references.current(Records(clone)) if line.startswith(says)]
