"""The cost of the next training: scaled from a record in git, and compared with the budget."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from checks.formats import refused
from checks.formats.thinking import Thinking
from checks.formats.training_reports import MeasuredStep, TrainedStep, TrainMeasured, TrainReport
from checks.kinds.method import Train
from checks.process.errors import DataRefused, EvidenceRefused, Refusal
from checks.storage import files, layout
from checks.training import steps
from release.cli import main
from release.cost import forecast
from release.cost.estimate import NO_RUN, NOTHING, Estimate, estimate, refusal
from release.cost.forecast import MOST, Forecast, PlannedStep, RecordedStep, RecordedTraining, Unscalable
from release.verbs.report import report
from tests import evidence_tree, report_tree
from tests.conftest import REPOSITORY, written
from tests.ledger_tree import packed
from tests.pipeline_repository import git, write_params
from tests.training_tree import METHODS

WIDTH = 1.5  # The range if only rows, epochs and steps differ.
SECONDS = 600.0
BASE = "sha256:" + "b" * 64


def _train(**change: Any) -> Train:
    document = yaml.safe_load((REPOSITORY / layout.PARAMS).read_text())["train"]
    document |= {"epochs": 2, "max_steps": None, "batch_size": 16, "early_stopping": None} | change
    return steps.of(steps.read(document))[0]


def _forecast(rows: int, before: RecordedStep, split: str = "same", base: str = BASE, **change: Any) -> Forecast:
    reported: Any = SimpleNamespace(base=BASE, splits={"train": "same"})
    recorded = RecordedTraining("main", "0" * 40, reported, reported, (before,), None)
    data: Any = SimpleNamespace(rows={"train": rows, "test": 9}, splits={"train": split})
    return forecast.forecast([PlannedStep(_train(**change), rows)], data, base, recorded)


RECORDED = RecordedStep(_train(), 1000, 2.0, None, 1.0)
PACKED = RecordedStep(_train(packing="bfd"), 1000, 2.0, 250, 1.0)


@pytest.mark.parametrize(
    ("change", "seconds", "width"),
    [
        ({}, 1, WIDTH),
        ({"epochs": 4}, 2, WIDTH),
        ({"epochs": None, "max_steps": 63}, 0.5, WIDTH),
        ({"learning_rate": 0.1, "seed": 7, "max_memory_gb": 9.0}, 1, WIDTH),
        ({"rows": 4000, "split": "other"}, 4, WIDTH * 1.5),
        ({"batch_size": 32}, 1, WIDTH * 3),
        ({"packing": "bfd"}, 1, WIDTH * 3),
        ({"before": PACKED, "packing": "bfd", "epochs": None, "max_steps": 16}, 0.5, WIDTH),
    ],
)
def test_time_goes_by_rows_epochs_and_steps_and_all_else_widens_the_range(
    change: dict[str, Any], seconds: float, width: float
) -> None:
    arguments: dict[str, Any] = {"rows": 1000, "before": RECORDED} | change
    span = _forecast(**arguments).training
    assert (span.low, span.middle, span.high) == pytest.approx((seconds / width, seconds, seconds * width))


@pytest.mark.parametrize("draws", [1, 5])
def test_each_draw_of_a_row_takes_as_long_as_an_answer(draws: int) -> None:
    reported: Any = SimpleNamespace(base=BASE, splits={"train": "same"})
    recorded = RecordedTraining("main", "0" * 40, reported, reported, (RECORDED,), 3.0)
    data: Any = SimpleNamespace(rows={"train": 1000, "test": 9}, splits={"train": "same"})
    span = forecast.forecast([PlannedStep(_train(), 1000)], data, BASE, recorded, draws).evaluation
    assert span is not None
    assert span.middle == 3.0 * draws


@pytest.mark.parametrize(
    ("recorded", "planned", "is_known"),
    [(None, None, True), ("always", "always", True), ("always", "never", False), (None, "always", False)],
)
def test_a_record_says_how_long_answers_take_only_if_its_model_thought_alike(
    recorded: Any, planned: Any, is_known: bool
) -> None:
    before, after = (Thinking(mode=mode) if mode else None for mode in (recorded, planned))
    reported: Any = SimpleNamespace(base=BASE, splits={"train": "same"})
    training = RecordedTraining("main", "0" * 40, reported, reported, (RECORDED,), 3.0, before, 210.0)
    data: Any = SimpleNamespace(rows={"train": 1000, "test": 9}, splits={"train": "same"})
    known = forecast.forecast([PlannedStep(_train(), 1000)], data, BASE, training, 4, after)
    assert (known.evaluation and known.evaluation.middle) == (12.0 if is_known else None)


@pytest.mark.slow
def test_the_table_says_what_draws_and_thoughts_take(root: Path) -> None:
    path = root / layout.EVALUATE_MEASURED
    measured = json.loads(path.read_text())
    measured["models"]["candidate"]["thought_tokens"] = 210.4
    path.write_text(json.dumps(measured))
    _on_main(root, "with thoughts")
    decoding = {"temperature": 0.7, "top_p": 1.0, "draws": 4, "seed": 1}
    _change(root, lambda value: value["evaluate"].update(decoding=decoding))
    minutes = report_tree.ROWS * 4 / 20 / 60
    found = estimate(root)
    assert found.answering is not None
    assert found.answering.draws == 4
    assert found.answering.minutes.middle == pytest.approx(minutes)
    told = _lockstep(root)[1]
    assert f"min for {report_tree.ROWS} rows x 4 draws, each after 210 tokens of thought\n" in told
    assert f"answers: {forecast.shown(minutes)} (" in told


def test_the_parameters_that_differ_are_named() -> None:
    factors = _forecast(1000, RECORDED, batch_size=32, precision="fp32", seed=9).factors
    assert "not as recorded: train.batch_size, train.precision" in {factor.why for factor in factors}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"base": "sha256:" + "0" * 64}, "the base is not what was recorded"),
        ({**METHODS["dpo"]}, "train.method is dpo, and the record is of a training with sft"),
        ({"devices": 4}, "train.devices is 4, and the record is of a training on 1"),
        (
            {"packing": "bfd", "epochs": None, "max_steps": 9},
            "train.max_steps counts packed rows, and the record is of",
        ),
    ],
)
def test_a_training_that_is_not_comparable_has_no_estimate(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(Unscalable, match=reason):
        _forecast(1000, RECORDED, **change)


@pytest.mark.parametrize(
    ("change", "rows", "expected"),
    [
        ({"epochs": 3.5}, 1000, 3.5),
        ({"epochs": None, "max_steps": 50}, 800, 1.0),
        ({"epochs": None, "max_steps": 50}, 10, 50.0),  # A batch is the whole split.
        ({"epochs": None, "max_steps": 50, "batch_size": 4, "gradient_accumulation": 4}, 800, 1.0),
        ({"epochs": None, "max_steps": 50, "batch_size": 4, "devices": 4}, 800, 1.0),
        ({"epochs": None, "max_steps": 10**400}, 1000, MOST / 63),
        ({"epochs": None, "max_steps": 50, **METHODS["grpo"]}, 805, 0.5),  # A step has 8 prompts, an epoch 100 steps.
    ],
)
def test_epochs_are_counted_as_the_trainer_counts_them(change: dict[str, Any], rows: int, expected: float) -> None:
    assert forecast._epochs(PlannedStep(_train(**change), rows), RECORDED) == pytest.approx(expected)


def _document() -> dict[str, Any]:
    value = report_tree.document()
    value["train"] |= {"epochs": 2, "max_steps": None}
    value["train_budget"] = {"train_minutes": 25, "cost": 2.0, "hourly_price": 2.5}
    return value


def _ran(root: Path, **change: Any) -> None:
    """Two epochs on a GPU, and 20 answers a second."""
    report_tree.trained(root, **{"seconds": SECONDS, "epochs": 2.0, "device": "cuda (NVIDIA H100)"} | change)
    path = root / layout.EVALUATE_MEASURED
    path.write_text(path.read_text().replace('"examples_per_second": 1.0', '"examples_per_second": 20.0'))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A record on main and a branch of it; read-only: take a copy."""
    root = tmp_path_factory.mktemp("estimate") / "pr"
    root.mkdir()
    git(root, "init", "--quiet", "--initial-branch=main")
    (root / ".gitignore").write_text("/models/\n/data/\n")
    report_tree.record(root, _document(), b"first", 150, _ran)
    report_tree.commit(root, "a release")
    git(root, "switch", "--quiet", "--create", "pull-request")
    return packed(root)


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    """A branch that changes nothing yet."""
    shutil.copytree(made.parent / "pr-answers", tmp_path / "pr-answers")  # of earlier models
    return Path(shutil.copytree(made, tmp_path / "pr"))


def _change(root: Path, change: Callable[[dict[str, Any]], object]) -> None:
    value = yaml.safe_load((root / layout.PARAMS).read_text())
    change(value)
    write_params(root, value)


def _epochs(root: Path, count: float) -> None:
    _change(root, lambda value: value["train"].update(epochs=count))


def _on_main(root: Path, message: str, epochs: float | None = 4) -> None:
    """Main has the record that lies here; the branch trains for so many epochs."""
    report_tree.commit(root, message)
    git(root, "branch", "--force", "main", "HEAD")
    if epochs:
        _epochs(root, epochs)


def _lockstep(root: Path, *args: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["-C", str(root), "estimate", *args])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


@pytest.mark.slow
def test_a_training_that_the_record_holds_costs_nothing(root: Path) -> None:
    found = estimate(root)
    assert (found.status, found.headline, found.bounds) == ("nothing to train", NOTHING, ())
    assert _lockstep(root) == (0, f"{NOTHING}\n")
    # Not even where its budget would refuse it: it was spent.
    _change(root, lambda value: value["train_budget"].update(train_minutes=0.1))
    assert _lockstep(root)[0] == 0


@pytest.mark.slow
def test_a_change_is_scaled_from_the_record_of_the_target(root: Path) -> None:
    _epochs(root, 4)
    found = estimate(root)
    assert found.status == "estimated"
    assert found.minutes is not None
    assert found.cost is not None
    assert found.gpu_hours is not None
    minutes = 2 * SECONDS / 60
    assert found.minutes.middle == pytest.approx(minutes)
    assert found.minutes.low == pytest.approx(minutes / WIDTH)
    hours = (2 * SECONDS + report_tree.ROWS / 20) / 3600
    assert found.gpu_hours.middle == pytest.approx(hours)
    assert found.cost.middle == pytest.approx(2.5 * hours)
    assert found.basis is not None
    assert (found.basis.ref, found.basis.commit) == ("main", git(root, "rev-parse", "main").strip())
    assert [(b.metric, b.policy, b.status) for b in found.bounds] == [
        ("train_minutes", "params.yaml", "may exceed"),
        ("cost", "params.yaml", "within"),
    ]


@pytest.mark.slow
def test_what_ran_is_what_the_lock_says_not_what_params_yaml_says_since(root: Path) -> None:
    """A commit that changes params.yaml before anything was trained with it."""
    _epochs(root, 64)
    _on_main(root, "many epochs, not trained yet", None)
    found = estimate(root)
    assert (found.minutes and found.minutes.middle) == pytest.approx(32 * SECONDS / 60)


@pytest.mark.slow
def test_even_the_low_end_above_a_bound_is_refused_by_name_with_what_to_do(root: Path) -> None:
    _epochs(root, 8)  # 40 minutes, 27 at least
    code, told = _lockstep(root)
    assert code == 10
    assert "params.yaml: train_budget.train_minutes 40 (26.7 to 60) exceeds 25; shorten the training to 62%" in told
    _epochs(root, 7.4)  # 37 minutes, 24.7 at least
    code, told = _lockstep(root)
    assert code == 0
    assert "note: params.yaml: train_budget.train_minutes 37 (24.7 to 55.5) likely exceeds 25" in told


@pytest.mark.slow
def test_a_refusal_is_what_the_comment_says_until_an_estimate_passes(root: Path) -> None:
    _epochs(root, 8)
    report_tree.commit(root, "more epochs")
    assert _lockstep(root)[0] == 10
    found = report(root, target="main")
    assert found.state == "refused"
    assert found.title.startswith("❌ Estimate refused: over the budget before training: params.yaml: train_budget.")
    assert "shorten the training to 62% of its estimated time" in found.markdown
    _epochs(root, 4)
    report_tree.commit(root, "fewer")
    assert report(root, target="main").state == "not-held"  # it was about another commit
    assert _lockstep(root)[0] == 0
    assert refused.read(root) is None


@pytest.mark.slow
def test_an_estimate_that_cannot_be_made_leaves_word_too(root: Path) -> None:
    _epochs(root, 4)
    (root / layout.DATA_REPORT).unlink()
    assert _lockstep(root)[0] == 8
    word = refused.read(root)
    assert word is not None
    assert (word.stage, word.exit_code) == ("estimate", 8)


@pytest.mark.slow
def test_the_targets_budget_is_asked_too(root: Path) -> None:
    def raised(value: dict[str, Any]) -> None:
        value["train"]["epochs"] = 8
        value["train_budget"]["train_minutes"] = 1000

    _change(root, raised)
    refused = refusal(estimate(root))
    assert refused is not None
    assert refused.exit_code == 10
    assert "main:params.yaml: train_budget.train_minutes" in refused.what


@pytest.mark.slow
def test_json_is_the_answer_and_exits_as_the_table_does(root: Path) -> None:
    _epochs(root, 4)
    code, told = _lockstep(root, "--json", "--target", "main")
    assert code == 0
    assert Estimate.model_validate_json(told) == estimate(root, "main")
    _epochs(root, 80)
    assert _lockstep(root, "--json")[0] == 10


@pytest.mark.slow
def test_a_first_run_has_no_history_and_is_not_refused(root: Path) -> None:
    _epochs(root, 4)
    shutil.rmtree(root / ".git")
    found = estimate(root)
    assert (found.status, found.headline) == ("no estimate", NO_RUN)
    assert {bound.status for bound in found.bounds} == {"not estimated"}
    assert "without an estimate no training is refused" in found.notes
    git(root, "init", "--quiet", "--initial-branch=main")  # and before the first commit
    assert _lockstep(root)[0] == 0


@pytest.mark.slow
def test_where_the_target_has_no_record_that_of_head_is_taken(root: Path) -> None:
    git(root, "switch", "--quiet", "main")
    git(root, "rm", "--quiet", "--cached", layout.TRAIN_REPORT.as_posix())
    git(root, "commit", "--quiet", "-m", "no record")
    git(root, "switch", "--quiet", "--force", "pull-request")
    _epochs(root, 4)
    found = estimate(root, "main")
    assert (found.basis and found.basis.ref) == "HEAD"


def _report(root: Path, **change: Any) -> None:
    for path in (root / layout.TRAIN_REPORT, root / layout.TRAIN_MEASURED):
        value = json.loads(path.read_text())
        path.write_text(json.dumps(value | {name: each for name, each in change.items() if name in value}))


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        *({"seconds": value} for value in (0, -1, 1e300, float("nan"), 1e-320)),
        *({"epochs": 0}, {"rows": 0}, {"rows": 10**30}, {"device": None}),
    ],
    ids=lambda change: "{} {}".format(*next(iter(change.items()))),
)
def test_a_record_that_measures_nothing_is_not_scaled_from(root: Path, change: dict[str, Any]) -> None:
    _report(root, **change)
    _on_main(root, "a strange record")
    found = estimate(root, "main")
    assert (found.status, found.headline) == ("no estimate", NO_RUN)
    assert "main (" in found.notes[0]
    assert "\n" not in found.notes[0]


@pytest.mark.slow
def test_a_report_that_is_not_the_locks_is_not_scaled_from(root: Path) -> None:
    path = root / layout.LOCK
    lock = yaml.safe_load(path.read_text())
    lock["stages"]["train"]["outs"] = [{"path": layout.TRAIN_REPORT.as_posix(), "md5": "0" * 32}]
    path.write_text(written(lock))
    _on_main(root, "another training's report")
    assert "does not match train in its dvc.lock" in estimate(root, "main").notes[0]


@pytest.mark.slow
def test_where_nobody_knows_how_fast_answers_come_training_alone_is_counted(root: Path) -> None:
    path = root / layout.EVALUATE_MEASURED
    path.write_text(path.read_text().replace("20.0", "0.0"))
    _on_main(root, "no speed")
    found = estimate(root)
    assert (found.gpu_hours and found.gpu_hours.middle) == pytest.approx(2 * SECONDS / 3600)
    assert any("cover training alone" in note for note in found.notes)


@pytest.mark.slow
def test_with_a_device_the_last_record_of_such_a_one_is_taken(root: Path) -> None:
    _report(root, device="cpu (2 threads)", seconds=9000.0)
    evidence_tree.recorded(root)
    _on_main(root, "on a CPU")
    found = estimate(root, device="h100")
    assert found.basis is not None
    assert found.minutes is not None
    assert found.basis.device == "cuda (NVIDIA H100)"
    assert found.minutes.middle == pytest.approx(2 * SECONDS / 60)


@pytest.mark.slow
def test_a_device_without_a_record_has_no_estimate(root: Path) -> None:
    _epochs(root, 4)
    code, told = _lockstep(root, "--device", "NVIDIA X1")
    assert (code, told.splitlines()[0]) == (0, NO_RUN)
    assert "note: main has no record of a training on NVIDIA X1" in told


@pytest.mark.slow
def test_hours_on_a_cpu_are_no_gpu_hours_and_it_says_so(root: Path) -> None:
    _report(root, device="cpu (2 threads)")
    evidence_tree.recorded(root)
    _on_main(root, "on a CPU", None)

    def asked(value: dict[str, Any]) -> None:
        value["train"]["epochs"] = 4
        value["train_budget"]["gpu_hours"] = 0.001

    _change(root, asked)
    found = estimate(root)
    assert (found.gpu_hours and found.gpu_hours.high) == 0
    assert any("gpu_hours is 0 on a CPU" in note for note in found.notes)
    assert refusal(found) is None


def _in_steps(value: dict[str, Any]) -> None:
    value["train"] |= {"method": ["sft", "sft"], "steps": [{"method": "sft"}, {"method": "sft", "epochs": 4}]}


def _at_once(value: dict[str, Any]) -> None:
    value["train"].pop("steps")
    value["train"]["method"] = "sft"


@pytest.mark.slow
def test_each_step_is_scaled_from_a_recorded_training_of_its_method(root: Path) -> None:
    """From one of two epochs first: two and four epochs are three times as long. Then from the steps themselves."""
    _change(root, _in_steps)
    found = estimate(root)
    assert (found.status, found.basis is not None) == ("estimated", True)
    assert found.minutes is not None
    assert found.minutes.middle == pytest.approx(3 * SECONDS / 60)
    assert found.minutes.low == pytest.approx(found.minutes.middle / WIDTH)
    assert "step 2, sft: rows x epochs: " in _lockstep(root)[1]

    report = files.read_json(root / layout.TRAIN_REPORT, TrainReport)
    one = {"method": "sft", "data": report.splits, "rows": report.rows, "steps": 10, "final_loss": 1.0, "tokens": 500}
    first = TrainedStep(started_from=None, adapter="sha256:" + "0" * 64, epochs=2.0, **one)
    second = TrainedStep(started_from=first.adapter, adapter=report.adapter, epochs=4.0, **one)
    took = [MeasuredStep(adapter=each.adapter, mlflow_run="0", seconds=s) for each, s in ((first, 100), (second, 700))]
    files.write_json(root / layout.TRAIN_REPORT, report.model_copy(update={"chain": (first, second)}))
    evidence_tree.recorded(root)
    _on_main(root, "in steps, without their times", None)
    _change(root, lambda value: value["train"]["steps"][0].update(epochs=1))
    found = estimate(root)
    assert found.status == "no estimate"
    assert "its reports do not say what each of its 2 steps took" in found.notes[0]

    path = root / layout.TRAIN_MEASURED
    files.write_json(path, files.read_json(path, TrainMeasured).model_copy(update={"chain": tuple(took)}))
    _change(root, lambda value: value["train"]["steps"][0].update(epochs=2))
    evidence_tree.recorded(root)
    _on_main(root, "in steps", None)
    _change(root, lambda value: value["train"]["steps"][0].update(epochs=4))
    found = estimate(root)
    assert found.minutes is not None
    assert found.minutes.middle == pytest.approx((2 * 100 + 700) / 60)
    _change(root, _at_once)  # with the epochs that both steps share
    found = estimate(root)
    assert found.minutes is not None
    assert found.minutes.middle == pytest.approx(100 / 60)


@pytest.mark.slow
@pytest.mark.parametrize(("epochs", "code"), [(1e300, 10), (1e-300, 0)])
def test_a_training_of_any_length_has_a_finite_estimate(root: Path, epochs: float, code: int) -> None:
    _epochs(root, epochs)
    assert _lockstep(root)[0] == code


@pytest.mark.parametrize("spoil", ["{", '{"a": NaN}', None])
@pytest.mark.parametrize("path", [layout.DATA_REPORT, layout.FETCH_REPORT, layout.PARAMS])
def test_what_validate_left_is_read_or_refused_in_one_line(root: Path, path: Path, spoil: str | None) -> None:
    if spoil is None:
        (root / path).unlink()
    else:
        (root / path).write_text(spoil)
    with pytest.raises(Refusal, match=path.name) as refused:
        estimate(root)
    assert "\n" not in str(refused.value)


def test_data_that_was_refused_or_is_other_data_is_not_estimated(root: Path) -> None:
    with (root / layout.SPLITS / "train.jsonl").open("a") as stream:
        stream.write("\n")
    with pytest.raises(EvidenceRefused, match=r"train.jsonl: is not what"):
        estimate(root)
    report_tree.bad_data(root)
    with pytest.raises(DataRefused):
        estimate(root)


def test_a_target_that_git_does_not_know_is_refused(root: Path) -> None:
    assert _lockstep(root, "--target", "elsewhere")[0] == 8


@pytest.mark.slow
def test_a_target_whose_policy_cannot_be_read_is_named(root: Path) -> None:
    _epochs(root, 4)
    (root / layout.PARAMS).write_text((root / layout.PARAMS).read_text() + "later: true\n")
    _on_main(root, "of a later version", None)
    _change(root, lambda value: value.pop("later"))
    assert "main:params.yaml: this version cannot read it" in " ".join(estimate(root, "main").notes)


@pytest.mark.slow
def test_the_comment_sets_what_was_to_be_expected_beside_what_it_took(root: Path) -> None:
    document = _document()
    document["train"]["epochs"] = 4
    report_tree.record(root, document, b"second", 160, lambda made: _ran(made, seconds=1400.0, epochs=4.0))
    report_tree.commit(root, "four epochs")
    found = next(part.markdown for part in report(root, target="main").parts if part.name == "training")
    assert "- Training: 23.3 min, estimated 20.0 min (13.3 to 30.0), budget 25 min" in found
    assert "- Cost: 0.98 for 0.39 device hours at 2.50 an hour, estimated 0.84 (0.56 to 1.26), budget 2.00" in found


@pytest.mark.slow
def test_the_comment_says_nothing_where_nothing_was_trained_or_recorded(root: Path) -> None:
    assert files.read_json(root / layout.TRAIN_MEASURED, TrainMeasured).seconds == SECONDS
    found = next(part.markdown for part in report(root, target="main").parts if part.name == "training")
    assert "- Training: 10.0 min, budget 25 min, 4 steps" in found
    assert "estimated" not in found


@pytest.mark.slow
def test_the_comment_has_a_line_of_energy_only_where_it_was_measured(root: Path) -> None:
    plain = json.loads((root / layout.TRAIN_MEASURED).read_text())
    counted = {"kind": "rapl", "device": "package-0", "joules": 44_280.0}
    for energy, line in (
        ({"counted": [counted], "missing": ["memory: x"]}, "- Energy of training: 12.3 Wh (1 processor)\n"),
        ({"missing": ["processors and memory: no counter"]}, ""),
    ):
        (root / layout.TRAIN_MEASURED).write_text(json.dumps(plain | {"energy": energy}))
        found = next(part.markdown for part in report(root, target="main").parts if part.name == "training")
        assert line in f"{found}\n"
        assert ("Energy" in found) == bool(line)
