"""score: the merged model on the valid split, as DVC and MLflow show it."""

import json
import shutil
from pathlib import Path

import pytest

from checks.config.params import Params
from checks.formats.evaluation_reports import ValidScores
from checks.process.errors import EvaluationRefused, EvidenceRefused
from checks.records.rows import Row
from checks.storage import digest, files, layout
from stages import score as stage
from stages.inference import answers
from tests.conftest import as_params, scaled_down
from tests.stages.test_evaluate import lay_out, row, split

pytestmark = pytest.mark.slow
Done = tuple[Path, Params, str]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Done:
    """A model that was scored on 12 valid rows, where no test row is on disk: its repository, parameters and line."""
    root = tmp_path_factory.mktemp("scored")
    document = scaled_down()
    document["evaluate"] |= {"scorers": [{"kind": "exact-match"}, {"kind": "edit-similarity"}]}
    lay_out(root, tiny_base, split(1000, 4), split(0, 4))
    (root / layout.SPLITS / "test.jsonl").unlink()
    files.write_jsonl(root / stage.VALID, split(2000, 12))
    params = as_params(document)
    return root, params, stage.score(params, root)


def test_the_scores_are_of_the_models_answers_to_the_valid_rows(done: Done, tmp_path: Path) -> None:
    root, params, line = done
    assert line == "12 valid rows: exact-match 0.000 [0.000, 0.265]"
    root = shutil.copytree(root, tmp_path / "copy")
    valid = files.read_jsonl(root / stage.VALID, Row)
    merged = digest.of_tree(root / layout.MERGED).digest
    own = answers.ask(root, params.evaluate, root / layout.MERGED, merged, valid, [r.messages for r in valid], "valid")
    right = [each.model_copy(update={"reference": own.texts[i]}) if i < 5 else each for i, each in enumerate(valid)]
    files.write_jsonl(root / stage.VALID, right)
    assert stage.score(params, root).startswith("12 valid rows: exact-match 0.417 [")
    report = files.read_json(root / layout.METRICS, ValidScores)
    found = report.valid["exact-match"]
    assert (report.rows, list(report.valid)) == (12, ["exact-match", "edit-similarity"])
    assert found.value == pytest.approx(5 / 12, abs=1e-6)
    assert 0 < found.low < found.value < found.high < 1


def test_whatever_becomes_a_column_of_dvc_is_a_number(done: Done) -> None:
    def leaves(value: object) -> list[object]:
        return [leaf for each in value.values() for leaf in leaves(each)] if isinstance(value, dict) else [value]

    assert {type(each) for each in leaves(json.loads((done[0] / layout.METRICS).read_text()))} == {float, int}


def test_the_training_run_has_the_scores_on_valid_as_its_metrics(done: Done) -> None:
    from mlflow import MlflowClient

    from stages import tracking

    root, params, _ = done
    client = MlflowClient(tracking.address(params.tracking, root))
    experiment = client.get_experiment_by_name(params.tracking.experiment)
    (run,) = client.search_runs([experiment.experiment_id])
    scores = files.read_json(root / layout.METRICS, ValidScores).valid
    assert run.data.metrics == pytest.approx({f"valid.{kind}": each.value for kind, each in scores.items()}, abs=1e-6)


def test_a_store_that_is_away_costs_the_end_of_the_line(done: Done, tmp_path: Path) -> None:
    root = shutil.copytree(done[0], tmp_path / "copy")
    document = scaled_down()
    document["tracking"]["uri"] = "http://127.0.0.1:9"
    assert "(not in MLflow: " in stage.score(as_params(document), root)
    assert (root / layout.METRICS).is_file()


REFUSED = {
    "no valid row": (lambda root: (root / stage.VALID).write_text(""), EvaluationRefused, "valid.jsonl: has no rows"),
    "no valid split": (lambda root: (root / stage.VALID).unlink(), EvidenceRefused, "valid.jsonl: "),
    "another model": (
        lambda root: (root / layout.MERGED / "more.txt").write_text("x"), EvidenceRefused,
        r"models/merged: is sha256:\w+…, reports/parity.json is about .* run `./lockstep run merge`",
    ),
    "a row without room": (
        lambda root: files.write_jsonl(root / stage.VALID, [row(1, "vm", "long " * 500)]), EvaluationRefused,
        "valid.jsonl:1: row 0+1: a prompt of",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_scored_is_refused_by_name(what: str, done: Done, tmp_path: Path) -> None:
    spoil, refusal, message = REFUSED[what]
    root = shutil.copytree(done[0], tmp_path / "copy")
    spoil(root)
    with pytest.raises(refusal, match=message):
        stage.score(done[1], root)
