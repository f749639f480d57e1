"""How evaluate has the answers of an earlier model: real git, real DVC with a folder for a remote, tiny models."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from checks.config.params import Params
from checks.formats.engines import PYTHON
from checks.formats.evaluation_reports import (
    EvaluateMeasured,
    EvaluationReport,
    Reference,
    ReferencesReport,
    ReferenceUse,
)
from checks.formats.suite_report import SuitesReport
from checks.formats.verdict import Verdict
from checks.records.rows import Prediction, Row
from checks.storage import digest, files, layout
from release.record import kept_answers, looks, references
from release.record.records import Records
from release.review import gathering, metrics
from release.verbs import calibrate, gate
from stages import evaluate as stage
from stages import references as earlier
from stages.inference.answers import Answered
from tests import pipeline_repository as repository
from tests import tuned, vllm_offline, workflow_repository
from tests.checks.suites.test_loss import texts
from tests.conftest import as_params, scaled_down
from tests.stages.test_evaluate import lay_out, row, split, write_parity

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("forking")]

DVC_YAML = "stages:\n  made:\n    cmd: 'true'\n    outs: [models/merged, data/predictions, data/splits]\n"
_OTHER = f"sha256:{'0' * 64}"
RUNS = f"model: {{}}\ncommit: {{}}\nversion: v0.1.0\nimage: registry.example/team/router@{_OTHER}\nevidence: {_OTHER}\n"
HELD = {"kind": "non_inferior", "metric": "exact-match", "against": "main", "margin": 0.1, "confidence": 0.95}


def with_main() -> dict:
    """Parameters whose gates compare with main."""
    document = scaled_down()
    document["gates"] = {"holds": dict(HELD)}
    document["tracking"]["uri"] = "http://127.0.0.1:9"  # nobody listens there; the mirror is not what is tested
    return document


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """A repository whose main has the record of an evaluation of 12 rows; its data lies on a remote and in no cache."""
    home = tmp_path_factory.mktemp("released")
    root = home / "a réposit ory"
    root.mkdir()
    lay_out(root, tiny_base, split(1000, 60), split(0, 12))
    (root / ".gitignore").write_text("/models/\n/data/\n/.lockstep/\n")
    (root / "dvc.yaml").write_text(DVC_YAML)
    repository.write_params(root, with_main())
    train = {"sha256": digest.of_file(root / layout.SPLITS / "train.jsonl").sha256}
    files.write_json(root / layout.PREPARE_REPORT, {"splits": {"train": train}})
    files.write_json(root / layout.REFERENCES, ReferencesReport(found={}, absent={"main": "no model yet"}))
    stage.evaluate(as_params(with_main()), root)
    repository.git(root, "init", "--quiet", "--initial-branch=main")
    for command in (
        ("init", "--quiet"),
        ("config", "core.analytics", "false"),
        ("remote", "add", "--default", "folder", "../remote"),
        ("commit", "--force", "--quiet"),
        ("push", "--quiet"),
    ):
        done = repository.dvc(root, *command)
        assert done.returncode == 0, done.stderr
    repository.commit(root, "the record")
    repository.git(root, "checkout", "--quiet", "-b", "change")
    shutil.rmtree(root / ".dvc" / "cache")
    shutil.rmtree(root / layout.STATE)
    return root


@pytest.fixture
def root(released: Path, tmp_path: Path) -> Path:
    """A copy of that repository, with a remote of its own."""
    shutil.copytree(released.parent, tmp_path / "copy")
    return tmp_path / "copy" / released.name


def remote(root: Path) -> Path:
    return root.parent / "remote"


def another_model(root: Path) -> None:
    """A candidate that is not main's model."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(root / layout.MERGED)
    model.lm_head.weight.data.neg_()
    model.save_pretrained(root / layout.MERGED)
    write_parity(root, digest.of_tree(root / layout.MERGED).digest)


def evaluated(root: Path, engine: dict | None = None) -> tuple[ReferenceUse, EvaluationReport]:
    """Ask git, evaluate; how main's answers were had, and the report."""
    document = with_main()
    document["evaluate"] |= {"engine": engine}
    repository.commit(root, "a change")
    references.write(Records(root))
    stage.evaluate(as_params(document), root)
    report = files.read_json(root / layout.EVALUATION, EvaluationReport)
    assert not (root / layout.STATE / "references").exists() or not any((root / layout.STATE / "references").iterdir())
    return report.references["main"], report


def answers_of(root: Path, name: str) -> list[str]:
    return [p.prediction for p in files.read_jsonl(root / layout.PREDICTIONS / f"{name}.jsonl", Prediction)]


def generated(root: Path) -> int:
    """How many models have answered."""
    return len(list((root / layout.ANSWERS).glob("*.json")))


def spoil(root: Path, name: str) -> None:
    """Change a byte of every file on the remote that has the content of ``name``'s file in the record."""
    content = (root / name).read_bytes()
    changed = [path for path in remote(root).rglob("*") if path.is_file() and path.read_bytes() == content]
    assert changed
    for path in changed:
        path.chmod(0o644)
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def test_the_recorded_answers_of_the_same_test_split_are_used_and_no_model_is_loaded(root: Path) -> None:
    before = (root / layout.PREDICTIONS / "candidate.jsonl").read_bytes()
    another_model(root)
    use, report = evaluated(root)
    assert (use.how, use.merged) == (
        "stored",
        files.read_json(root / layout.REFERENCES, ReferencesReport).found["main"].merged,
    )
    assert use.note.startswith("its own answers, recorded in commit ")
    assert (root / layout.PREDICTIONS / "main.jsonl").read_bytes() == before
    assert list(report.models) == ["candidate", "base", "main", "majority", "naive-bayes"]
    assert generated(root) == 2  # the candidate and the base
    assert answers_of(root, "candidate") != answers_of(root, "main")


def test_a_candidate_that_is_mains_model_is_asked_once_and_neither_wins_nor_loses(root: Path) -> None:
    shutil.rmtree(remote(root))
    use, report = evaluated(root)
    assert use.how == "same-model"
    assert answers_of(root, "main") == answers_of(root, "candidate")
    assert generated(root) == 2
    assert not any("main" in sentence for sentence in report.summary)
    assert f"\n- Main's model (`{use.merged}`): same-model: it is this model.\n" in (root / layout.SUMMARY).read_text()


def test_on_another_test_split_mains_weights_answer_the_new_rows_once(root: Path) -> None:
    another_model(root)
    files.write_jsonl(root / layout.SPLITS / "test.jsonl", split(500, 8))
    use, _ = evaluated(root)
    assert use.how == "evaluated"
    assert use.note.endswith("its recorded answers were not used: they are of another test split")
    rows = files.read_jsonl(root / layout.SPLITS / "test.jsonl", Row)
    found = files.read_jsonl(root / layout.PREDICTIONS / "main.jsonl", Prediction)
    assert [p.id for p in found] == [row.id for row in rows]
    assert generated(root) == 3
    shutil.rmtree(remote(root))
    again, _ = evaluated(root)
    assert again == use
    assert generated(root) == 3


def test_mains_model_is_judged_on_its_own_test_split_and_on_a_fresh_one(root: Path) -> None:
    another_model(root)
    fresh, path = split(500, 8), root / layout.SPLITS / "test.jsonl"
    files.write_jsonl(path, fresh)
    evaluated(root)
    # Labels that main's model gets right five times, and the candidate never.
    labels = [*answers_of(root, "main")[:5], *["nothing of this"] * 3]
    files.write_jsonl(path, [
        row.model_copy(update={"reference": label}) for row, label in zip(fresh, labels, strict=True)
    ])  # fmt: skip
    use, report = evaluated(root)
    assert (use.how, report.models["main"].metrics["exact-match"].value, report.rows) == ("evaluated", 5 / 8, 8)
    repository.commit(root, "the record on fresh rows")
    target = gathering.gather(Records(root), "main").target
    facts: Any = SimpleNamespace(target=target, evaluation=report)  # There is no verdict here.
    old = EvaluationReport.model_validate_json(repository.git(root, "show", f"main:{layout.EVALUATION}"))
    assert old.test != report.test
    own = old.models["candidate"].metrics["exact-match"]
    assert (own.n, own.value != 5 / 8) == (12, True)
    assert metrics.on_old_test(facts) == (own, 12)


def test_rows_of_mains_own_train_split_are_named_and_no_comparison_counts_them(root: Path) -> None:
    another_model(root)
    of_train = [row(1000 + i, "vm", system="Another instruction.") for i in (0, 4)]
    files.write_jsonl(root / layout.SPLITS / "test.jsonl", [*split(500, 6), *of_train])
    use, report = evaluated(root)
    assert use.note.endswith("; comparisons leave out 2 of the 8 rows: its own train split asks them too")
    found = files.read_jsonl(root / layout.PREDICTIONS / "main.jsonl", Prediction)
    assert [prediction.learned for prediction in found] == [False] * 6 + [True] * 2
    assert '"learned"' not in (root / layout.PREDICTIONS / "candidate.jsonl").read_text()
    (compared,) = [sentence for sentence in report.summary if "main's model" in sentence.lower()]
    assert "on the same 6 rows" in compared


@pytest.mark.parametrize(
    ("gone", "why"),
    [
        (layout.PREPARE_REPORT, "reports/prepare.json of that commit names no train split"),
        (layout.SPLITS / "train.jsonl", "data/splits/train.jsonl is not what the record names"),
    ],
)
def test_a_model_whose_train_rows_are_not_known_is_not_compared_on_another_test_split(
    root: Path, gone: Path, why: str
) -> None:
    if gone == layout.PREPARE_REPORT:
        repository.git(root, "checkout", "--quiet", "main")
        files.write_json(root / gone, {"splits": {}})
        repository.commit(root, "without it")
        repository.git(root, "checkout", "--quiet", "-B", "change")
    else:
        spoil(root, gone.as_posix())
    another_model(root)
    files.write_jsonl(root / layout.SPLITS / "test.jsonl", split(500, 8))
    use, report = evaluated(root)
    assert use.how == "unavailable"
    assert why in use.note
    assert "main" not in report.models


def test_an_engine_answers_every_model_of_its_run_and_the_recorded_answers_of_another_do_not_count(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PYTHON, str(vllm_offline.environment(tmp_path / "vllm")))
    monkeypatch.setenv("STANDIN_SEEN", str(tmp_path / "seen"))
    another_model(root)
    use, report = evaluated(root, vllm_offline.ENGINE)
    assert use.how == "evaluated"
    assert use.note.endswith("its recorded answers were not used: they are of another prompt format")
    asked = [json.loads(line)["arguments"]["model"] for line in (tmp_path / "seen").read_text().splitlines()]
    references_home = root / layout.STATE / "references"
    assert asked == [
        str(each.resolve()) for each in (root / layout.MERGED, root / layout.BASE, references_home / "main" / "merged")
    ]
    assert report.engine is not None
    assert report.engine.model_dump() == vllm_offline.ENGINE
    measured = files.read_json(root / layout.EVALUATE_MEASURED, EvaluateMeasured)
    assert {(speed.p50_seconds, speed.p95_seconds) for speed in measured.models.values()} == {(None, None)}
    assert "Answered by vLLM 0.32.0." in (root / layout.SUMMARY).read_text()
    back, report = evaluated(root)
    assert (back.how, report.engine) == ("stored", None)
    assert '"engine"' not in (root / layout.EVALUATION).read_text()


def test_edited_answers_on_the_remote_are_not_used(root: Path) -> None:
    spoil(root, "data/predictions/candidate.jsonl")
    another_model(root)
    before = answers_of(root, "candidate")
    use, _ = evaluated(root)
    assert use.how == "evaluated"
    assert "candidate.jsonl" in use.note
    assert answers_of(root, "main") == before


def test_edited_answers_and_weights_leave_nothing_to_compare_with(root: Path) -> None:
    spoil(root, "data/predictions/candidate.jsonl")
    spoil(root, "models/merged/config.json")
    another_model(root)
    use, report = evaluated(root)
    assert use.how == "unavailable"
    assert "main" not in report.models


@pytest.mark.parametrize(("edited", "how"), [(False, "stored"), (True, "unavailable")])
def test_answers_that_git_keeps_are_used_without_a_remote_if_the_record_names_them(
    root: Path, edited: bool, how: str
) -> None:
    answers = (root / layout.PREDICTIONS / "candidate.jsonl").read_bytes()
    repository.git(root, "checkout", "--quiet", "main")
    kept_answers.keep(root)
    assert not (root / kept_answers.ANSWERS).exists(), "only a repository that has the file keeps answers"
    files.write_text(root / kept_answers.ANSWERS, "")
    kept_answers.keep(root)
    assert (root / kept_answers.ANSWERS).read_bytes() == answers
    if edited:
        (root / kept_answers.ANSWERS).write_bytes(answers[:-1])
    repository.commit(root, "with its answers")
    repository.git(root, "checkout", "--quiet", "-B", "change")
    shutil.rmtree(remote(root))
    another_model(root)
    kept_answers.bring(root, [repository.git(root, "rev-parse", "main").strip()])
    use, _ = evaluated(root)
    assert use.how == how


def test_without_cache_and_remote_it_is_unavailable_and_says_what_to_do(root: Path) -> None:
    shutil.rmtree(remote(root))
    another_model(root)
    use, report = evaluated(root)
    assert use.how == "unavailable"
    assert "DVC has no data/predictions/candidate.jsonl of that commit, here or on a remote" in use.note
    assert "DVC has no models/merged" in use.note
    assert "docs/explanation/references.md" in use.note
    assert "main" not in report.models
    assert str(root) not in use.note


def test_an_earlier_model_that_cannot_be_asked_these_rows_is_unavailable_and_stops_nobody(root: Path) -> None:
    another_model(root)
    for folder in (layout.MERGED, layout.BASE):  # these have room for the long prompt, main's model has not
        config = root / folder / "config.json"
        config.write_text(
            config.read_text().replace('"max_position_embeddings": 256', '"max_position_embeddings": 999')
        )
    write_parity(root, digest.of_tree(root / layout.MERGED).digest)
    files.write_jsonl(root / layout.SPLITS / "test.jsonl", [*split(0, 3), row(99, "vm", "disk " * 300)])
    use, report = evaluated(root)
    assert use.how == "unavailable"
    assert "row 0000000000000063: a prompt of" in use.note
    assert list(report.models) == ["candidate", "base", "majority", "naive-bayes"]


def test_the_record_of_a_repository_in_a_folder_of_another_is_found(tmp_path: Path, params: Params) -> None:
    root = tmp_path / "réposit ory"
    rows = split(0, 12)
    said = Answered([f"answer {r.id}" for r in rows], [], None, ((),) * 12)  # No row has a second draw.
    path = root / layout.PREDICTIONS / "candidate.jsonl"
    files.write_jsonl(path, stage.predict(params, rows, said))
    reference = Reference(
        commit="0" * 40, merged=digest.of_bytes(b"then"), test=digest.of_bytes(b"test"), scorers=digest.of_bytes(b"s"),
        prompt_format=digest.of_bytes(b"p"), predictions=digest.of_file(path).sha256,
    )  # fmt: skip
    (root / "dvc.yaml").write_text("stages:\n  made:\n    cmd: 'true'\n    outs: [data/predictions]\n")
    (root / ".gitignore").write_text("/data/\n")
    repository.git(tmp_path, "init", "--quiet")
    for command in (("init", "--quiet", "--subdir"), ("commit", "--force", "--quiet")):
        assert repository.dvc(root, *command).returncode == 0
    repository.commit(root, "the record")
    shutil.rmtree(root / "data")
    reference = reference.model_copy(update={"commit": repository.git(root, "rev-parse", "HEAD").strip()})
    judged = earlier.Judged(digest.of_bytes(b"now"), reference.test, reference.scorers, reference.prompt_format)
    had = earlier.have(root, params.evaluate, "main", reference, judged, rows, said)
    assert (had.use.how, had.answered) == ("stored", said)


@pytest.mark.exhaustive  # the pull request's journey compares with main in a run too
def test_within_a_run_of_the_pipeline_main_and_production_are_compared_with(tmp_path: Path, tiny_base: Path) -> None:
    root = tmp_path / "clone"
    root.mkdir()
    repository.git(tmp_path, "init", "--quiet", "--bare", "--initial-branch=main", "origin.git")
    document = scaled_down()
    document["gates"] = {"holds": dict(HELD), "production": HELD | {"against": "production"}}
    document["train"]["allow"] = ["divergence"]  # Its base knows the rows by heart.
    # Noise is measured with a model that is right at times.
    asked = workflow_repository.loaded(repository.table(), tmp_path / "rows")
    tuned.tune(tiny_base, tmp_path / "taught", asked, 200)
    repository.make(root, tmp_path / "taught", document, repository.table())
    repository.git(root, "remote", "add", "origin", str(tmp_path / "origin.git"))
    assert repository.dvc(root, "remote", "add", "--default", "folder", str(tmp_path / "remote")).returncode == 0
    repository.repro(root, "evaluate")
    calibrate.calibrate(root)
    repository.repro(root)
    repository.commit(root, "the first record")
    assert repository.dvc(root, "push").returncode == 0
    first = files.read_json(root / layout.EVALUATION, EvaluationReport)
    assert {name: use.how for name, use in first.references.items()} == {"main": "absent", "production": "absent"}
    commit = repository.git(root, "rev-parse", "HEAD").strip()
    files.write_text(root / references.PRODUCTION, RUNS.format(first.merged, commit))
    repository.commit(root, "promote")
    repository.git(root, "push", "--quiet", "origin", "main")

    repository.git(root, "checkout", "--quiet", "-b", "change")
    document["train"]["learning_rate"] = 0.05
    read = root / "sources" / "texts.jsonl"
    files.write_text(read, "".join(json.dumps(each) + "\n" for each in texts(24)))
    document["suites"]["words"] = {
        "kind": "loss", "precision": "fp32", "models": ["candidate", "base", "main"],
        "text": {"uri": "sources/texts.jsonl", "sha256": digest.of_file(read).sha256[7:], "license": None},
    }  # fmt: skip
    document["gates"]["remembers"] = {
        "kind": "remembers", "suite": "words", "metric": "bits-per-byte", "against": "main", "allowance": 5.0,
        "confidence": 0.95,
    }  # fmt: skip
    repository.write_params(root, document)
    references.write(Records(root))
    assert repository.repro(root) == ["train", "merge", "score", "evaluate", "suites", "probe", "gate"]
    scored = files.read_json(root / layout.SUITES_REPORT, SuitesReport).suites["words"]
    assert scored.models["main"] == first.merged  # whose weights DVC had
    assert len(set(scored.models.values())) == 3
    findings = files.read_json(root / layout.VERDICT, Verdict).findings
    assert [(f.against, f.n) for f in findings if f.gate == "remembers"] == [("main", 24)]
    second = files.read_json(root / layout.EVALUATION, EvaluationReport)
    assert {name: use.how for name, use in second.references.items()} == {"main": "stored", "production": "stored"}
    assert second.models["main"].metrics == first.models["candidate"].metrics
    assert second.merged != first.merged
    repository.commit(root, "a change")
    assert references.current(Records(root)) == []
    assert repository.repro(root) == []

    # Another test split, on a machine that has neither cache nor answers of before.
    shutil.rmtree(root / ".dvc" / "cache")
    shutil.rmtree(root / layout.ANSWERS)
    document["prepare"]["seed"] = 18
    repository.write_params(root, document)
    references.write(Records(root))
    looks.write(Records(root))
    repository.repro(root)
    third = files.read_json(root / layout.EVALUATION, EvaluationReport)
    assert {name: use.how for name, use in third.references.items()} == {"main": "evaluated", "production": "evaluated"}
    assert third.test != first.test
    verdict = files.read_json(root / layout.VERDICT, Verdict)
    assert not any(
        "no evidence of" in finding.reason or "different bytes" in finding.reason for finding in verdict.findings
    )
    assert gate.gate(root) == verdict
    # Main's model is judged on both: on its own split in its record, and on the new one by its weights.
    assert metrics.on_old_test(gathering.gather(Records(root), "main")) == (
        first.models["candidate"].metrics["exact-match"], first.rows,
    )  # fmt: skip
    assert third.models["main"].metrics["exact-match"].n == third.rows
    compared = [finding for finding in verdict.findings if finding.against == "main"]
    assert compared
    assert all(finding.n for finding in compared)
