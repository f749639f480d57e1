"""A pull request with its whole history: what production runs, what main has since, and the branch that is judged."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from checks.config.params import Params
from checks.formats import pointer, quarantine
from checks.formats.data_reports import DataReport, Expectation, PrepareReport
from checks.formats.data_statistics import Bin, LabelNoise, Lengths, LongRow, MarkedRow, Statistics, Suspect, Writing
from checks.formats.evaluation_reports import EvaluationReport, Interval
from checks.formats.training_reports import TrainMeasured, TrainReport
from checks.formats.verdict import Verdict
from checks.records.rows import Prediction, Row
from checks.storage import digest, files, layout
from release.record import references
from release.record.records import Records
from release.verbs import report as reports
from tests import build_tree, evidence_tree
from tests.conftest import as_params, read_yaml, scaled_down
from tests.ledger_tree import packed
from tests.once import shared
from tests.pipeline_repository import git, write_params

WHEN = "2026-05-04T03:02:01+02:00"  # of every commit: the same record is the same commit
ROWS = 200
Change = Callable[[dict[str, Any]], object]
Edit = Callable[[Path], object]


def document() -> dict[str, Any]:
    """Gates of each kind that a comment speaks of, few and of fixed bounds: the default's may change."""
    value = scaled_down()
    value["validate"]["min_rows"] = {"train": 20, "valid": 4, "test": 100}
    value["train_budget"] = {"cost": 2.0, "hourly_price": 2.5}
    value["gates"] = {
        "data_is_sound": {"kind": "data"},
        "merge_is_faithful": {"kind": "parity", "max_logprob_diff": 0.4, "min_top1": 0.97},
        "is_small": {"kind": "budget", "artifact_mb": 2.0},
        "routes_well": _gate("threshold", at_least=0.6, resolution=0.3),
        "beats_the_base": _gate("improves", against="base", margin=0.0),
        "keeps_up_with_main": _gate("non_inferior", against="main", margin=0.1),
        "keeps_up_with_production": _gate("non_inferior", against="production", margin=0.1),
    }
    return value


def _gate(kind: str, **more: Any) -> dict[str, Any]:
    return {"kind": kind, "metric": "exact-match", "confidence": 0.95, **more}


def report_once(patch: pytest.MonkeyPatch, root: Path) -> None:
    """Make the report of ``root`` once for all tests that ask the same of it. None of them may change ``root``."""
    report, made = reports.report, _reports.setdefault(root, {})

    def remembered(place: Path, **options: Any) -> reports.Report:
        if place != root:
            return report(place, **options)
        key = repr(options)
        if key not in made:
            made[key] = report(place, **options)
        return made[key]

    patch.setattr(reports, "report", remembered)


_reports: dict[Path, dict[str, reports.Report]] = {}


def pull_request(root: Path, right: int = 180, change: Change | None = None, edit: Edit | None = None) -> Params:
    """Lay out the history below ``root``: production's model answers 150 of 200 rows, main's 160, the branch's ``right``.

    ``change`` is made to params.yaml on the branch, ``edit`` to the record before it is judged.
    """
    value = document()
    value["train"]["learning_rate"] = 0.002
    if change:
        change(value)
    params = as_params(value)
    if right == 180 and change is None and edit is None:
        _copy(_default(), root)
        return params
    _copy(_main(), root)
    git(root, "switch", "--quiet", "--create", "pull-request")
    record(root, value, b"third", right, edit)
    for path in left_to_git(root):
        if not path.exists():
            path.write_text("from a run\n")
    commit(root, "a change")
    return params


def _copy(made: Path, root: Path) -> None:
    shutil.copytree(made / "pr", root, dirs_exist_ok=True)
    shutil.copytree(made / "pr-answers", root.with_name(f"{root.name}-answers"))


def _default() -> Path:
    """The pull request without any change, made once."""
    return shared("pull-request", _make_default)


def _make_default(folder: Path) -> None:
    pull_request(folder / "pr", edit=lambda _: None)
    packed(folder / "pr")


def _main() -> Path:
    """The history before the branch, made once."""
    return shared("pull-request-of-main", _make_main)


def _make_main(folder: Path) -> None:
    root = folder / "pr"
    root.mkdir(parents=True)
    git(root, "init", "--quiet", "--initial-branch=main")
    (root / ".gitignore").write_text("/models/\n/data/\n/.lockstep/\n")
    first = record(root, document(), b"first", 150)
    commit(root, "a release")
    promote(root, first)
    record(root, document(), b"second", 160)
    commit(root, "another model")
    packed(root)


def unchanged(root: Path) -> None:
    """A branch that leaves parameters and record as main has them: it changes a text."""
    shutil.copytree(_main() / "pr", root, dirs_exist_ok=True)
    git(root, "switch", "--quiet", "--create", "pull-request")
    (root / "README.md").write_text("Words.\n")
    commit(root, "words")


def main_moves(root: Path, commits: int = 1) -> None:
    """Main gets commits: the first lowers a bound of its policy, the others change a text."""
    git(root, "switch", "--quiet", "main")
    value = document()
    value["gates"]["routes_well"]["at_least"] = 0.65
    write_params(root, value)
    commit(root, "a stricter policy")
    for number in range(commits - 1):
        (root / "NOTES.md").write_text(f"{number}\n")
        commit(root, "words")
    git(root, "switch", "--quiet", "-")


def left_to_git(root: Path) -> list[Path]:
    """The outputs that dvc.yaml leaves to git."""
    stages = read_yaml((root / layout.PIPELINE).read_text())["stages"].values()
    outs = [out for stage in stages for kind in ("outs", "metrics", "plots") for out in stage.get(kind, [])]
    named = [each for out in outs if isinstance(out, dict) for each in out.items()]
    return [root / name for name, said in named if said.get("cache") is False]


def record(root: Path, value: dict[str, Any], weights: bytes, right: int, edit: Edit | None = None) -> Path:
    """The record of a run of ``weights``, which answers ``right`` rows; return ``root``."""
    answers = [evidence_tree.predict(row, i < right) for i, row in enumerate(evidence_tree.rows("test", ROWS))]
    kept = root.parent / f"{root.name}-answers"
    kept.mkdir(exist_ok=True)
    for folder in ("data", "models", "reports"):
        shutil.rmtree(root / folder, ignore_errors=True)
    write_params(root, value)
    params = as_params(value)
    evidence_tree.build(root, params, ROWS, right)
    (root / layout.LOSS_CURVE).write_text("step,loss,learning_rate\n1,4.0,0.1\n2,2.0,0.1\n3,1.0,0.1\n4,0.5,0.1\n")
    (root / layout.CONFUSION).write_text("reference,predicted\nvm,vm\nvm,sql\nvm,sql\nacr,sql\n")
    build_tree.weigh(root, {"weights.bin": weights})
    found = references.resolve(Records(root), "main" if _has_main(root) else None)[1]
    files.write_json(root / layout.REFERENCES, found)
    stored = {name: _answers(kept, reference.predictions) for name, reference in found.found.items()}
    evidence_tree.evaluated(root, params, answers, **stored)
    _sliced(root, params)
    if edit:
        edit(root)
    judge(root, params)
    name = digest.of_file(root / layout.PREDICTIONS / "candidate.jsonl").sha256.removeprefix("sha256:")
    shutil.copy(root / layout.PREDICTIONS / "candidate.jsonl", kept / name)
    return root


def judge(root: Path, params: Params) -> None:
    """Write the verdict that the gates give."""
    evidence_tree.judged(root, params)


def promote(root: Path, _of: Path) -> None:
    """Production runs HEAD's model."""
    commit_ = git(root, "rev-parse", "HEAD").strip()
    model = files.read_json(root / layout.EVALUATION, EvaluationReport).merged
    digest_ = f"sha256:{'b' * 64}"
    found = pointer.Pointer(
        model=model, commit=commit_, version="v0.1.0", image=f"registry.example/router@{digest_}", evidence=digest_
    )
    path = root / references.PRODUCTION
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pointer.write(found))
    commit(root, "promote")


def commit(root: Path, message: str) -> None:
    dated = os.environ | {"GIT_AUTHOR_DATE": WHEN, "GIT_COMMITTER_DATE": WHEN}
    who = ["-c", "user.name=Test", "-c", "user.email=test@example.invalid", "-c", "commit.gpgsign=false"]
    for args in (["add", "--all"], ["commit", "--quiet", "--allow-empty", "-m", message]):
        subprocess.run(["git", *who, *args], cwd=root, check=True, env=dated)


def bad_data(root: Path, prompt: str = "List every disk", count: int = 7) -> None:
    """What validate leaves when an expectation fails, with a verdict of before still there."""
    splits = files.read_json(root / layout.PREPARE_REPORT, PrepareReport).splits
    fine = Expectation(
        name="train: has its columns", expectation="e", success=True, observed="as listed", unexpected=0, rows=()
    )
    rows = tuple(
        {"where": f"train.jsonl:{i}", "id": f"{i:016x}", "prompt": prompt, "reference": "vm"} for i in range(3)
    )
    broken = Expectation(
        name="train: prompts are unique", expectation="e", success=False, observed=f"{count} of 60 rows",
        unexpected=count, rows=rows,
    )  # fmt: skip
    report = DataReport(
        success=False,
        splits={name: split.sha256 for name, split in splits.items()},
        rows={name: split.rows for name, split in splits.items()},
        expectations=(fine, broken),
        statistics=_statistics(prompt),
    )
    files.write_json(root / layout.DATA_REPORT, report)


def _statistics(text: str) -> Statistics:
    lengths = Lengths(
        least=3, median=9, p95=20, most=90, bins=(Bin(low=3, high=16, rows=50), Bin(low=17, high=90, rows=10)),
        low=4, high=30, outliers=1, rows=(LongRow(where="train.jsonl:7", id="7", tokens=90),),
    )  # fmt: skip
    marked = (MarkedRow(where="train.jsonl:8", id="8", shown=text),)
    return Statistics(
        prompts=lengths,
        references=lengths,
        writing=Writing(scripts={"LATIN": 59, "CYRILLIC": 1}, others=marked, garbled=1, garbled_rows=marked),
        labels=LabelNoise(
            judged=60, suspects=1,
            rows=(Suspect(where="train.jsonl:9", id="9", label=text, likelier="vm", confidence=0.001),),
        ),
    )  # fmt: skip


def answered(root: Path, params: Params, candidate: list[Prediction]) -> None:
    """Replace the candidate's answers, all else as it is; the verdict is to be written again."""
    models = files.read_json(root / layout.EVALUATION, EvaluationReport).models
    others = {
        name: files.read_jsonl(root / layout.PREDICTIONS / f"{name}.jsonl", Prediction)
        for name in models
        if name != "candidate"
    }
    evidence_tree.evaluated(root, params, candidate, **others)


def trained(root: Path, **change: Any) -> None:
    """Change fields of the training's report, or of what was measured of it."""
    for path, model in ((layout.TRAIN_REPORT, TrainReport), (layout.TRAIN_MEASURED, TrainMeasured)):
        its = {name: value for name, value in change.items() if name in model.model_fields}
        files.write_json(root / path, files.read_json(root / path, model).model_copy(update=its))


def without_digests(text: str) -> str:
    """``text`` with each digest and hash as its number, by first appearance: a default that changes changes no line."""
    seen: dict[str, int] = {}

    def number(found: re.Match[str]) -> str:
        return f"<{seen.setdefault(found[0][:12], len(seen) + 1)}>"

    return re.sub(r"(?<![0-9a-z])(?:[0-9a-f]{64}|[0-9a-f]{40}|[0-9a-f]{12})(?![0-9a-z])", number, text)


def _sliced(root: Path, params: Params) -> None:
    """Give the evaluation report slices and a sentence, as evaluate does."""
    report = files.read_json(root / layout.EVALUATION, EvaluationReport)
    models = {}
    for name, model in report.models.items():
        answers = files.read_jsonl(root / layout.PREDICTIONS / f"{name}.jsonl", Prediction)
        slices = {}
        for part in sorted({each.slice for each in answers}):
            scores = [each.score for each in answers if each.slice == part]
            mean = sum(scores) / len(scores)
            slices[part] = {"exact-match": Interval(value=mean, low=mean - 0.05, high=mean + 0.05, n=len(scores))}
        models[name] = model.model_copy(update={"slices": slices})
    summary = ("The fine-tuned model beats the base model.",)
    files.write_json(root / layout.EVALUATION, report.model_copy(update={"models": models, "summary": summary}))


def _has_main(root: Path) -> bool:
    done = subprocess.run(
        ["git", "rev-parse", "--verify", "--quiet", "main"], cwd=root, capture_output=True, check=False
    )
    return done.returncode == 0


def _answers(kept: Path, wanted: str) -> list[Prediction]:
    return files.read_jsonl(kept / wanted.removeprefix("sha256:"), Prediction)


def rows_of_test(root: Path) -> list[Row]:
    return files.read_jsonl(root / layout.SPLITS / "test.jsonl", Row)


def hold_back(root: Path, why: str) -> Callable[[], object]:
    """Main quarantines the weights of this branch; return what deletes the file again by hand."""
    model = files.read_json(root / layout.VERDICT, Verdict).model
    entry = quarantine.Entry(image=f"sha256:{1:064}", model=model, version="v1.1.0", by="Ada <a@b.c>", why=why)
    path = root / layout.QUARANTINE
    git(root, "switch", "--quiet", "main")
    path.write_bytes(quarantine.write((entry,)))
    commit(root, "held back")
    git(root, "switch", "--quiet", "-")

    def delete() -> None:
        git(root, "switch", "--quiet", "main")
        path.write_bytes(quarantine.write(()))
        commit(root, "tidy up")
        git(root, "switch", "--quiet", "-")

    return delete
