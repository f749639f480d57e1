"""Training in steps: one adapter goes through several methods, and each step goes on from the one before."""

import csv
import functools
import json
import shutil
import signal
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from checks.config.params import Params
from checks.formats.data_reports import DataReport
from checks.formats.evaluation_reports import EvaluationReport
from checks.formats.training_reports import ParityReport, QuantisedBase, TrainMeasured, TrainReport
from checks.formats.verdict import Verdict
from checks.process.errors import DataRefused, MachineRefused, ParamsRefused, TrainingRefused
from checks.records.rows import Row
from checks.storage import digest, files, layout
from checks.training.steps import of
from release.review import training
from stages import tracking
from stages.merge import merge
from stages.sweep import sweep
from stages.train import train
from stages.training import checkpoints
from stages.training.checkpoints import HERE, MANIFEST, THERE
from stages.training.remote import SWITCH
from stages.training.step import trainer_of
from stages.weights import nf4
from tests import pipeline_repository as repository
from tests import training_tree, warm
from tests.conftest import REPOSITORY, as_params, scaled_down, written
from tests.training_tree import METHODS

pytestmark = pytest.mark.slow

FIRST, SECOND = 8, 24  # optimiser steps of the two steps
FILES = ["adapter_config.json", "adapter_model.safetensors"]


@pytest.fixture(scope="module", autouse=True)
def store(store: str) -> Iterator[str]:
    """The file's store, to which all trainings here are logged."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", store)
        yield store


@pytest.fixture
def root(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository's root whose rows all have an answer; two of three are a pair too."""
    monkeypatch.setenv(checkpoints.MINUTES, "0")
    return _make(tmp_path / "root", tiny_base)


def _make(root: Path, base: Path) -> Path:
    training_tree.make(root, base, preferences=True)
    _change(root, lambda number, row: row.extra if number % 3 else row.extra | {"rejected": None})
    return root


def _change(root: Path, extra: Callable[[int, Row], dict[str, Any]]) -> None:
    for name in layout.SPLIT_NAMES:
        path = root / layout.SPLITS / f"{name}.jsonl"
        rows = [row.model_copy(update={"extra": extra(n, row)}) for n, row in enumerate(files.read_jsonl(path, Row))]
        files.write_jsonl(path, rows)
    training_tree.seal(root)


def _document(*methods: str, steps: tuple[int, ...] = (4, 4), **shared: Any) -> dict:
    """Plain parameters of a training in steps of so many optimiser steps."""
    document = scaled_down()
    document["train"] |= {"method": list(methods), "max_steps": None, "learning_rate": 0.02} | shared
    document["train"]["steps"] = [
        METHODS.get(method, {"method": method}) | {"max_steps": count}
        for method, count in zip(methods, steps, strict=True)
    ]
    document["validate"]["preferences"] = training_tree.BOUNDS
    return document


def _alone(document: dict) -> Params:
    """The parameters of the first step as the whole training."""
    (first, *_), shared = document["train"]["steps"], document["train"]
    rest = {key: value for key, value in shared.items() if key not in ("method", "steps")}
    return as_params(document | {"train": rest | first})


def _report(root: Path) -> TrainReport:
    return files.read_json(root / layout.TRAIN_REPORT, TrainReport)


# --- parameters ---


def test_a_step_has_what_all_share_and_what_it_writes_itself() -> None:
    document = _document("sft", "dpo", seed=3)
    document["train"]["steps"][1] |= {"learning_rate": 0.001, "batch_size": 2, "seed": 5}
    params = as_params(document)
    first, second = of(params.training)
    assert (first.method, first.learning_rate, first.batch_size, first.seed) == ("sft", 0.02, 4, 3)
    assert (second.method, second.learning_rate, second.batch_size, second.seed) == ("dpo", 0.001, 2, 5)
    assert first.lora == second.lora
    with pytest.raises(TypeError, match="there are 2 steps"):
        _ = params.train


def _written_so(**train: Any) -> Callable[[dict], None]:
    return lambda document: document["train"].update(train)


def _step(number: int, **keys: Any) -> Callable[[dict], None]:
    return lambda document: document["train"]["steps"][number].update(keys)


def _without(*path: Any) -> Callable[[dict], None]:
    def spoil(document: dict) -> None:
        *above, last = path
        place = document["train"]
        for key in above:
            place = place[key]
        del place[last]

    return spoil


LISTED = r"write method: \[sft, dpo\]: prepare and validate depend on this line"


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (_without("method"), rf"^params.yaml:\d+: train: method: is not written, and the steps are \[sft, dpo\]; {LISTED}$"),
        (_written_so(method="sft"), rf"train: method: is 'sft', and the steps are \[sft, dpo\]; {LISTED}"),
        (_written_so(method=["dpo", "sft"]), rf"train: method: is \['dpo', 'sft'\], and the steps are \[sft, dpo\]; {LISTED}"),
        (_without("steps"), r"steps: is not a list of two steps or more; write steps: \[\{method: sft\}, \{method: dpo, \.\.\.\}\], or"),
        (_written_so(steps=[{"method": "sft"}], method=["sft"]), "steps: is not a list of two steps or more; "),
        (_written_so(steps={"sft": {}, "dpo": {}}), "steps: is not a list of two steps or more; "),
        (_without("steps", 1, "method"), r"train\.steps\.1\.method: missing"),
        (_without("steps", 1, "beta"), r"train\.steps\.1\.beta: missing"),
        (_step(1, beat=1), r"train\.steps\.1\.beat: unknown key; did you mean beta\?"),
        (_step(1, beta="x"), r"train\.steps\.1\.beta: 'x'; input should be a valid number"),
        (_step(0, beta=0.1), r"train\.steps\.0\.beta: unknown key"),
        (_written_so(beta=0.1), r"train: beta: is a parameter of dpo and grpo and kto, not of every method; move it into that step"),
        (_written_so(learning_rate="x"), r"^params.yaml:\d+: train\.learning_rate: 'x'; input should be a valid number$"),
        (_written_so(sed=1), r"train\.sed: unknown key; did you mean seed\?"),
        (_without("learning_rate"), r"train\.steps\.0\.learning_rate: missing"),
        (_step(1, lora={}), r"train\.steps\.1\.lora: all steps train one adapter on one base; move it beside train\.steps"),
        (_step(1, precision="bf16"), r"train\.steps\.1\.precision: all steps train one adapter on one base"),
        (_step(1, devices=2), r"train\.steps\.1\.devices: all steps train on as many devices; move it beside train\.steps"),
        (_written_so(devices=2, shard="fsdp2"), r"^params.yaml:\d+: train\.shard: fsdp2 is not offered with train\.steps: it was never tried; use null$"),
        (_step(0, shard="fsdp2"), r"train\.steps\.0\.shard: fsdp2 is not offered with train\.steps"),
        (_step(1, epochs=1), r"train\.steps\.1: epochs and max_steps must be one number and one null"),
        (_step(1, max_length=16), r"train\.max_length: 16 would cut rows"),
        (lambda document: document["train"]["lora"].update(dropout=0.1), r"train\.steps\.1: lora\.dropout is 0\.1, and train\.method 'dpo' trains without"),
        (lambda document: document["validate"].pop("preferences"), r"validate\.preferences: is not written, and train\.method 'sft' and 'dpo' learns from rejected"),
    ],
)  # fmt: skip
def test_steps_that_do_not_fit_are_refused_at_their_place(spoil: Callable[[dict], None], says: str) -> None:
    document = _document("sft", "dpo")
    spoil(document)
    with pytest.raises(ParamsRefused, match=says) as caught:
        as_params(document)
    assert not caught.value.others or "rate: missing" in says  # each fault once; a shared key is missing in each step


def test_an_unknown_method_of_a_step_is_refused() -> None:
    document = _document("sft", "dpo")
    document["train"]["method"][1] = document["train"]["steps"][1]["method"] = "dpi"
    with pytest.raises(
        ParamsRefused, match=r"train\.steps\.1\.method: unknown training method 'dpi'; one of: cpt, dpo"
    ):
        as_params(document)


def test_a_sweep_of_steps_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ParamsRefused, match=r"^params\.yaml: train\.steps: a sweep trains with one method; sweep the step"
    ):
        sweep(as_params(_document("sft", "dpo")), tmp_path, ["train.lora.r=4,8"], [17], 9)


# --- training ---


@pytest.mark.parametrize("second", ["dpo", "grpo"])
def test_the_second_step_goes_on_from_the_adapter_of_the_first_and_all_is_recorded(root: Path, second: str) -> None:
    from mlflow import MlflowClient

    document = _document("sft", second)
    train(_alone(document), root)
    first = _report(root)
    assert first.chain == ()
    assert "chain" not in (root / layout.TRAIN_MEASURED).read_text()
    line = train(as_params(document), root)
    assert f", sft, then {second}, 8 steps in " in line

    report, measured = _report(root), files.read_json(root / layout.TRAIN_MEASURED, TrainMeasured)
    sft, then = report.chain
    # The first step is the training that its parameters alone make; the base was never changed.
    assert (sft.adapter, sft.started_from, sft.steps, sft.rows) == (first.adapter, None, 4, 24)
    assert sft.data == {name: first.splits[name] for name in ("train", "valid")}
    assert (then.started_from, then.adapter) == (first.adapter, report.adapter)
    assert then.adapter == digest.of_tree(root / layout.ADAPTER).digest != first.adapter
    assert (then.method, then.rows) == (second, 16 if second == "dpo" else 24)
    assert (then.data == sft.data) == (second == "grpo")  # dpo has the pairs alone
    assert (report.steps, report.figures, report.final_loss) == (8, then.figures, then.final_loss)
    assert report.optimised_for == (("edit-similarity",) if second == "grpo" else ())
    assert report.total_parameters == first.total_parameters  # without TRL's copy of the first adapter
    assert sorted(path.name for path in (root / layout.ADAPTER).iterdir()) == FILES

    points = list(csv.DictReader((root / layout.LOSS_CURVE).read_text().splitlines()))
    assert [(point["step"], point["chain"]) for point in points] == [
        (str(n), "1 sft" if n <= 4 else f"2 {second}") for n in range(1, 9)
    ]
    assert training.loss(root) == [float(point["loss"]) for point in points[4:]]  # what the comment draws

    client = MlflowClient()
    parent = client.get_run(measured.mlflow_run)
    assert parent.data.tags[tracking.ADAPTER_TAG] == report.adapter
    assert measured.memory in [its.memory for its in measured.chain]
    for step, its in zip(report.chain, measured.chain, strict=True):
        assert its.memory
        run = client.get_run(its.mlflow_run)
        assert run.data.tags["mlflow.parentRunId"] == measured.mlflow_run
        assert (run.info.status, run.data.tags[tracking.STEP_ADAPTER_TAG]) == ("FINISHED", step.adapter)
        assert run.data.params["train.method"] == step.method
        (logged,) = [i.dataset for i in run.inputs.dataset_inputs if i.tags[0].value == "training"]
        assert step.data["train"] in logged.source
        assert len(client.get_metric_history(its.mlflow_run, "loss")) == 4

    merge(as_params(document), root)
    assert files.read_json(root / layout.PARITY_REPORT, ParityReport).adapter == report.adapter


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> list["weakref.ref[Any]"]:
    """The models with an adapter that the test made."""
    from peft import PeftModel

    made, init = [], PeftModel.__init__

    def noted(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        made.append(weakref.ref(self))

    monkeypatch.setattr(PeftModel, "__init__", noted)
    return made


@pytest.mark.parametrize(
    ("methods", "shared", "lora"),
    [
        pytest.param(("sft", "kto", "dpo"), {}, {}, marks=pytest.mark.exhaustive),
        pytest.param(
            ("dpo", "sft"), {"gradient_checkpointing": True}, {"variant": "dora"}, marks=pytest.mark.exhaustive
        ),
        (("sft", "dpo"), {"quantization": {"kind": "nf4", "double": True}, "precision": "bf16"}, {}),
        (("dpo", "grpo", "dpo"), {"neftune_alpha": 5.0}, {"variant": "rslora", "init": "orthogonal"}),
    ],
)
def test_any_order_of_methods_trains_twice_to_the_same_bytes_and_merges(
    root: Path, methods: tuple[str, ...], shared: dict, lora: dict, models: list["weakref.ref[Any]"]
) -> None:
    document = _document(*methods, steps=(2,) * len(methods), **shared)
    document["train"]["lora"] |= lora
    document["merge"]["parity"]["max_logprob_diff"] = 2.0  # bf16
    found = []
    for _ in range(2):
        train(as_params(document), root)
        found.append(_report(root))
    assert len(models) >= 2 * len(methods)
    assert not any(model() is not None for model in models)  # each step let go of its own
    assert found[0] == found[1]
    assert len({step.adapter for step in found[0].chain}) == len(methods)
    merge(as_params(document), root)
    parity = files.read_json(root / layout.PARITY_REPORT, ParityReport)
    assert (parity.adapter, parity.merged_into) == (found[0].adapter, "trained" if "quantization" in shared else None)


def test_a_step_does_not_go_on_beside_other_codes_of_a_4_bit_base(root: Path) -> None:
    document = _document("sft", "dpo", quantization={"kind": "nf4", "double": True}, precision="bf16")
    params = as_params(document)
    first = params.model_copy(update={"training": of(params.training)[0]})
    train(first, root)
    path = root / layout.ADAPTER / nf4.NAME
    trained = files.read_json(path, QuantisedBase)
    tensors = dict.fromkeys(trained.tensors, digest.of_bytes(b"of another machine"))
    other = trained.quantised.model_copy(update={"weights": digest.of_json(tensors)})
    files.write_json(path, trained.model_copy(update={"tensors": tensors, "quantised": other}))
    rows = files.read_jsonl(root / layout.SPLITS / "train.jsonl", Row)
    step = training_tree.step(first, root, base=trained.base, rows=rows, start=root / layout.ADAPTER)
    with pytest.raises(
        MachineRefused, match="the base is quantised to other codes here than where the adapter was trained"
    ):
        trainer_of(step)


def _runs(document: dict) -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient()
    experiment = client.get_experiment_by_name(document["tracking"]["experiment"])
    return list(client.search_runs([experiment.experiment_id]))


@pytest.mark.usefixtures("forked_ranks")
@pytest.mark.parametrize("devices", [1, 2])
def test_what_stops_a_later_step_stops_before_the_first_one_trains(root: Path, devices: int) -> None:
    _change(root, lambda number, row: row.extra | ({"rejected": "disk " * 80} if number == 5 else {}))
    document = _document("sft", "dpo", max_length=110, devices=devices)
    document["tracking"]["experiment"] = f"late on {devices}"
    with pytest.raises(TrainingRefused, match=r"row 0000000000000005 .*: rejected: \d+ tokens with its prompt, above"):
        train(as_params(document), root)
    runs = _runs(document)
    assert (len(runs), {run.info.status for run in runs}) == (3, {"FAILED"})
    assert not any(run.data.metrics for run in runs)
    assert not (root / layout.ADAPTER).exists()


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        (lambda _, row: row.extra | {"rejected": None}, r"data/splits/train\.jsonl: no row is for step 2, dpo: each has null in rejected; bring rows"),
    ],
)  # fmt: skip
def test_rows_that_a_later_step_cannot_learn_from_are_refused_before_the_base_is_loaded(
    root: Path, extra: Callable[[int, Row], dict[str, Any]], says: str
) -> None:
    _change(root, extra)
    shutil.rmtree(root / layout.BASE)
    files.write_text(root / layout.BASE / "config.json", "none")
    with pytest.raises(TrainingRefused, match=says):
        train(as_params(_document("sft", "dpo")), root)


# --- a training that is killed ---


class Straight:
    """A training that ran through, and what it left."""

    def __init__(self, root: Path, document: dict) -> None:
        train(as_params(document), root)
        self.adapter = digest.of_tree(root / layout.ADAPTER)
        self.curve = (root / layout.LOSS_CURVE).read_text()
        self.report = _report(root)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Callable[..., Straight]:
    """Such a training of ``sft`` and a second method: one for all tests that compare with it."""

    @functools.cache
    def trained(second: str = "dpo", devices: int = 1) -> Straight:
        document = _document("sft", second, steps=(FIRST, SECOND), devices=devices)
        with repository.forked_ranks(**warm.other_hashes()):  # than those of a training that is killed
            return Straight(_make(tmp_path_factory.mktemp("straight"), tiny_base), document)

    return trained


def _kill_at(root: Path, document: dict, reached: Callable[[], bool]) -> str:
    """Train in another process, and kill it when ``reached``; what it said."""
    (root / layout.PARAMS).write_text(written(document))
    process = training_tree.started(root)
    end = time.monotonic() + 300
    try:
        while process.poll() is None and not reached():
            assert time.monotonic() < end
            time.sleep(0.005)
    finally:
        process.kill()
        said = process.communicate()[0].decode()  # ranks end themselves
    assert process.returncode == -signal.SIGKILL, said
    return said


def _trainings(place: Path, manifests: str) -> set[str]:
    """The folders below ``place`` that have a whole checkpoint: of the first step, of it finished, of the second."""
    return {path.relative_to(place).parts[0] for path in place.glob(manifests)}


@pytest.mark.parametrize(
    ("second", "step", "where", "devices"),
    [
        ("dpo", 1, HERE, 1),
        ("dpo", 2, THERE, 1),
        pytest.param("grpo", 2, THERE, 1, marks=pytest.mark.exhaustive),
        pytest.param("dpo", 2, HERE, 1, marks=pytest.mark.exhaustive),
        pytest.param("dpo", 2, HERE, 2, marks=pytest.mark.exhaustive),
    ],
)
def test_a_killed_training_goes_on_in_its_step_and_ends_in_the_bytes_of_one_that_ran_through(
    tmp_path: Path,
    tiny_base: Path,
    second: str,
    step: int,
    where: str,
    devices: int,
    straight: Callable[..., Straight],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    from mlflow import MlflowClient

    document = _document("sft", second, steps=(FIRST, SECOND), devices=devices)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    through = straight(second, devices)
    request.getfixturevalue("forked_ranks")  # after it: those of the training that ran through have other hashes
    root = _make(tmp_path / "killed", tiny_base)
    place, manifests = root / checkpoints.FOLDER, f"*/step-*/{MANIFEST}"
    if where == THERE:
        monkeypatch.setenv(SWITCH, "1")
        (root / ".dvc").mkdir()
        (root / ".dvc" / "config").write_text("[core]\n    remote = team\n['remote \"team\"']\n    url = there\n")
        place, manifests = root / ".dvc" / "there" / "lockstep" / "checkpoints", f"*/{MANIFEST}"
    _kill_at(root, document, lambda: len(_trainings(place, manifests)) == 2 * step - 1)
    if where == THERE:
        shutil.rmtree(root / layout.STATE)
    capfd.readouterr()
    train(as_params(document), root)

    said = capfd.readouterr().err
    measured = files.read_json(root / layout.TRAIN_MEASURED, TrainMeasured)
    at = measured.chain[step - 1].resumed_at
    assert at is not None
    assert 0 < at < (SECOND if step == 2 else FIRST)
    assert measured.resumed_at == at + (FIRST if step == 2 else 0)
    done = f"train: step 1 of 2, sft on 24 rows is done: {through.report.chain[0].adapter[:19]}, from {where}\n"
    assert (done in said) == (step == 2)
    assert (f"goes on at step {at} of {FIRST}, " in said) == (step == 1)
    assert (root / layout.LOSS_CURVE).read_text() == through.curve
    assert digest.of_tree(root / layout.ADAPTER) == through.adapter
    assert _report(root) == through.report
    batch = None if devices == 1 else 8
    assert (through.report.devices, through.report.batch) == (batch and 2, batch)
    assert [its.batch for its in through.report.chain] == [batch, batch]
    client = MlflowClient()
    assert client.get_run(measured.mlflow_run).data.tags["lockstep.resumed_at"] == str(measured.resumed_at)
    for its, count in zip(measured.chain, (FIRST, SECOND), strict=True):  # one whole tree of runs
        assert client.get_run(its.mlflow_run).data.tags["mlflow.parentRunId"] == measured.mlflow_run
        assert max(point.step for point in client.get_metric_history(its.mlflow_run, "loss")) == count
    assert not list((root / checkpoints.FOLDER).iterdir())
    assert where == HERE or not list(place.iterdir())


def test_a_finished_step_is_used_by_another_second_step_and_not_if_its_bytes_are_others(
    tmp_path: Path, tiny_base: Path, straight: Callable[..., Straight], capsys: pytest.CaptureFixture[str]
) -> None:
    document = _document("sft", "dpo", steps=(FIRST, SECOND))
    root = _make(tmp_path / "killed", tiny_base)
    place = root / checkpoints.FOLDER
    _kill_at(root, document, lambda: len(_trainings(place, f"*/step-*/{MANIFEST}")) == 3)
    other_second = json.loads(json.dumps(document))
    other_second["train"]["steps"][1] |= {"learning_rate": 0.001, "max_steps": 2}
    shutil.copytree(root, tmp_path / "changed")
    capsys.readouterr()
    train(as_params(other_second), tmp_path / "changed")
    assert "train: step 1 of 2, sft on 24 rows is done: " in capsys.readouterr().err


# --- evidence ---


def _repository(root: Path, base: Path, change: Callable[[dict], dict] = dict) -> dict:
    """A repository whose table has an answer in each row, and a worse one in every other; its parameters."""
    services = sorted(repository.SERVICES)
    rows: list[dict[str, Any]] = [
        row | {"worse": None if n % 2 else services[(services.index(row["reference"]) + 1) % 4]}
        for n, row in enumerate(repository.table())
    ]
    document = _document("sft", "dpo")
    document["validate"]["min_rows"] = {"train": 20, "valid": 4, "test": 16}
    repository.make(root, base, document, [change(row) for row in rows])
    document["prepare"]["loader"]["columns"]["extra"] = {"rejected": "worse"}
    document["validate"]["preferences"] = {"max_length_bias": 0.5, "max_auc": 0.75}
    repository.write_params(root, document)
    return document


def test_answers_and_pairs_of_one_table_go_through_every_stage_to_a_verdict_about_the_last_adapter(
    tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stages.evaluate import evaluate
    from stages.fetch import fetch
    from stages.gate import gate
    from stages.prepare import prepare
    from stages.score import score
    from stages.validate import validate

    root = tmp_path / "repository"
    params = as_params(_repository(root, tiny_base))
    monkeypatch.chdir(root)
    for stage in (fetch, prepare, validate, train, merge, score, evaluate, gate):
        stage(params, root)
    data = files.read_json(root / layout.DATA_REPORT, DataReport)
    names = {each.name: each for each in data.expectations}
    assert names["train: a row has rejected"].success
    assert "train: every row has rejected" not in names
    pairs = sum(
        row.extra["rejected"] is not None for row in files.read_jsonl(root / layout.SPLITS / "train.jsonl", Row)
    )
    trained = _report(root)
    parity = files.read_json(root / layout.PARITY_REPORT, ParityReport)
    evaluation = files.read_json(root / layout.EVALUATION, EvaluationReport)
    verdict = files.read_json(root / layout.VERDICT, Verdict)
    assert [(step.method, step.rows) for step in trained.chain] == [("sft", data.rows["train"]), ("dpo", pairs)]
    assert trained.adapter == trained.chain[-1].adapter == parity.adapter == verdict.judged["models/adapter"]
    assert evaluation.merged == verdict.model == parity.merged
    assert not any("different bytes" in each.reason or "no evidence" in each.reason for each in verdict.findings)


def test_validate_refuses_rows_without_a_pair_for_a_later_step(
    tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stages.fetch import fetch
    from stages.prepare import prepare
    from stages.validate import validate

    root = tmp_path / "repository"
    document = _repository(root, tiny_base, lambda row: row | {"worse": None})
    monkeypatch.chdir(root)
    params = as_params(document)
    for stage in (fetch, prepare):
        stage(params, root)
    says = "train: a row has rejected: 0; bring rows with this column: a step of train.steps learns"
    with pytest.raises(DataRefused, match=says):
        validate(params, root)


def test_an_answer_without_a_pair_is_dropped_beside_the_pair_of_the_same_request_and_answer() -> None:
    from checks.data import drafts
    from checks.kinds.rule import RULES, apply_rule

    columns: list[dict[str, Any]] = [{"rejected": None}, {"rejected": "disk"}, {"rejected": "vault"}, {}]
    made = [drafts.Draft((), "Show it.", "vm", "vm", "all", f"f:{n}", extra=extra) for n, extra in enumerate(columns)]
    made.append(drafts.Draft((), "Show it.", "disk", "disk", "all", "f:4", extra={"rejected": None}))
    kept, _ = apply_rule(RULES.kinds["drop-duplicates"](as_params(scaled_down()).prepare), made)
    assert [draft.source for draft in kept] == ["f:1", "f:2", "f:4"]
