"""What training will cost: scaled from a record in git, held against the budget, never in the way for want of one."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from safetensors.numpy import save_file

from checks import digest, files, layout
from checks.errors import DataRefused, EvidenceRefused, Refusal
from checks.formats import refused
from checks.formats.data_statistics import Documents, Lengths, Statistics, Writing
from checks.formats.training_reports import MeasuredStep, TrainedStep, TrainMeasured, TrainMemory, TrainReport
from checks.rows import Message, Row
from checks.training import cost, steps, tensors
from checks.training.cost import Span, Training
from checks.training.interface import Full, Train
from release.cli import main
from release.cost import throughput, training_ahead
from release.cost.estimate import NO_HISTORY, NOTHING, Estimate, estimate, refusal
from release.cost.types import RecordedTraining, Unscalable
from release.verbs.report import Options, report
from stages.quality.statistics import lengths
from tests import evidence_tree, report_tree
from tests.conftest import REPOSITORY, as_params, scaled_down, written
from tests.ledger_tree import packed
from tests.pipeline_repository import git, write_params
from tests.training_tree import METHODS

PLAIN = Training(1000, 2.0, 16, 100_000_000, 1.0, 1_000_000, False, "bf16", 300.0)
WIDTH = 1.5  # when only hyper-parameters differ
SECONDS = 600.0


def _times(new: Training, old: Training = PLAIN, base: bool = True, rows: bool = True, device: str = "cuda") -> Span:
    return cost.scaled(1.0, cost.steps(old, new, base, rows, device))


def test_the_same_training_takes_as_long_within_half_as_much_again() -> None:
    assert _times(PLAIN) == pytest.approx((1 / WIDTH, 1, WIDTH))


def test_time_goes_by_rows_and_epochs() -> None:
    assert _times(PLAIN._replace(epochs=4.0)).middle == pytest.approx(2)
    # 48 and 2001 rows have the last batch in common with nobody: the bounds widen by that, the middle does not.
    assert _times(PLAIN._replace(rows=4000)).middle == pytest.approx(4)


def test_a_token_costs_what_is_left_of_kaplans_six_for_a_parameter() -> None:
    n, a = PLAIN.parameters, PLAIN.adapter
    assert PLAIN.flops_per_token == 4 * n + 6 * a  # no gradients of the base's weights
    assert PLAIN._replace(passed_back=0.25).flops_per_token == 2.5 * n + 6 * a
    assert PLAIN._replace(checkpointing=True).flops_per_token == 6 * n + 6 * a
    # With checkpointing, gradients of the inputs are asked for: all is passed back through.
    assert PLAIN._replace(checkpointing=True, passed_back=0.25).flops_per_token == 6 * n + 6 * a


def test_another_base_is_known_within_a_factor_of_three() -> None:
    found = _times(PLAIN._replace(parameters=200_000_000, adapter=2_000_000), base=False)
    assert found == pytest.approx((2 / 3, 2, 6))


def test_other_batches_widen_the_range_to_where_time_goes_by_batches() -> None:
    assert _times(PLAIN._replace(rows=1024, batch=64), PLAIN._replace(rows=1024)) == pytest.approx(
        (0.25 / WIDTH, 1, WIDTH)
    )
    assert _times(PLAIN._replace(rows=1024, batch=4), PLAIN._replace(rows=1024)) == pytest.approx(
        (1 / WIDTH, 1, 4 * WIDTH)
    )


def test_other_rows_go_by_their_bytes_and_far_ones_are_less_certain() -> None:
    near = _times(PLAIN._replace(row_bytes=330.0), rows=False)
    far = _times(PLAIN._replace(row_bytes=4800.0), rows=False)
    assert near.middle == pytest.approx(1.1)
    assert far.middle == pytest.approx(16)
    assert far.high / far.middle == pytest.approx(4 * WIDTH)
    unknown = _times(PLAIN._replace(row_bytes=None), rows=False)
    assert unknown == pytest.approx((1 / WIDTH**2, 1, WIDTH**2))


def test_precision_counts_on_a_gpu_and_is_uncertain_on_a_cpu() -> None:
    single = PLAIN._replace(precision="fp32")
    assert _times(single).middle == pytest.approx(3)
    assert _times(PLAIN, single).middle == pytest.approx(1 / 3)
    assert _times(single, device="cpu (2 threads)") == pytest.approx((1 / 3, 1, 3))
    assert _times(PLAIN._replace(precision="fp16")).middle == 1


def test_weights_in_4_bits_and_dora_widen_the_range_when_one_training_alone_has_them() -> None:
    quantised, dora = PLAIN._replace(quantised=True), PLAIN._replace(dora=True)
    for new, old in ((quantised, PLAIN), (PLAIN, quantised)):
        assert _times(new, old) == pytest.approx((1 / (1.5 * WIDTH), 1, 1.5 * WIDTH))
    for new, old in ((dora, PLAIN), (PLAIN, dora)):
        assert _times(new, old) == pytest.approx((1 / (2 * WIDTH), 1, 2 * WIDTH))
    assert _times(dora, dora) == _times(quantised, quantised) == _times(PLAIN)


def test_devices_divide_the_time_and_widen_the_range() -> None:
    assert _times(PLAIN._replace(devices=4)) == pytest.approx((0.25 / (1.5 * WIDTH), 0.25, 0.25 * 1.5 * WIDTH))


@pytest.mark.parametrize(
    "new",
    [
        PLAIN._replace(epochs=math.inf),
        PLAIN._replace(epochs=1e308, rows=10**400),
        PLAIN._replace(parameters=10**400, adapter=10**400),
        PLAIN._replace(row_bytes=1e308),
        PLAIN._replace(batch=10**400),
    ],
)
def test_no_size_overflows(new: Training) -> None:
    found = _times(new, rows=False)
    assert all(math.isfinite(value) for value in found)
    assert found.low <= found.middle <= found.high


@pytest.mark.parametrize(
    ("change", "rows", "expected"),
    [
        ({"epochs": 3.5, "max_steps": None}, 1000, 3.5),
        ({"epochs": None, "max_steps": 50, "batch_size": 16}, 800, 1.0),
        ({"epochs": None, "max_steps": 50, "batch_size": 16}, 10, 50.0),  # a batch is the whole split
        ({"epochs": None, "max_steps": 50, "batch_size": 4, "gradient_accumulation": 4}, 800, 1.0),
        ({"epochs": None, "max_steps": 50, "batch_size": 4, "devices": 4}, 800, 1.0),
        ({"epochs": None, "max_steps": 50, "batch_size": 2, "packing": "bfd"}, 100, 1.0),  # of 100 sequences
        ({"epochs": None, "max_steps": 10**400}, 1000, cost.MOST / 63),
        (
            {"epochs": None, "max_steps": 50, "batch_size": 16, **METHODS["grpo"]},
            805,
            0.5,
        ),  # 8 prompts a step, 100 steps
    ],
)
def test_epochs_are_counted_as_the_trainer_counts_them(change: dict[str, Any], rows: int, expected: float) -> None:
    document = yaml.safe_load((REPOSITORY / layout.PARAMS).read_text())["train"] | change
    assert cost.epochs(steps.of(steps.read(document))[0], rows) == pytest.approx(expected)


def _llama(folder: Path, layers: int = 4, width: int = 8) -> None:
    """Weights named as a Llama's are, in two shards with an index, and a file beside them that the index leaves out."""
    shapes = {"model.embed_tokens.weight": (50, width), "model.norm.weight": (width,)}
    for layer in range(layers):
        shapes[f"model.layers.{layer}.self_attn.q_proj.weight"] = (width, width)
        shapes[f"model.layers.{layer}.mlp.up_proj.weight"] = (2 * width, width)
        shapes[f"model.layers.{layer}.input_layernorm.weight"] = (width,)
    folder.mkdir(parents=True, exist_ok=True)
    names = sorted(shapes)
    where = {name: f"model-{i % 2}.safetensors" for i, name in enumerate(names)}
    for file in set(where.values()):
        save_file({n: np.zeros(shapes[n], np.float32) for n in names if where[n] == file}, folder / file)
    save_file({"again": np.zeros(999, np.float32)}, folder / "consolidated.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))


def _own(train: Train, layers: int | None) -> Train:
    return train.model_copy(update={"lora": None, "full": Full(layers=layers)})


def test_sizes_are_read_from_headers(tmp_path: Path) -> None:
    _llama(tmp_path)
    found = tensors.read(tmp_path)
    assert (found.total, found.inner, found.layers) == (4 * (64 + 128 + 8) + 400 + 8, 4 * 200, 4)
    train = as_params(scaled_down()).train
    assert (found.trained(_own(train, None)), found.trained(_own(train, 3))) == (found.total, 3 * 200)
    lora = train.lora
    assert lora is not None
    assert found.adapter(lora.model_copy(update={"r": 2, "targets": ("q_proj",), "layers": 3})) == 2 * 3 * 16
    assert found.adapter(lora.model_copy(update={"r": 2, "targets": "all-linear", "layers": None})) == 2 * 4 * 40
    assert found.adapter(lora.model_copy(update={"r": 1, "targets": ("self_attn.q_proj",), "layers": 99})) == 4 * 16


@pytest.mark.slow
def test_sizes_are_those_that_peft_counts(tiny_base: Path) -> None:
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    from stages.training.trainer import lora_config

    lora = as_params(scaled_down()).train.lora
    assert lora is not None
    lora = lora.model_copy(update={"layers": 1})
    model = AutoModelForCausalLM.from_pretrained(tiny_base)
    trainable, total = get_peft_model(model, lora_config(lora, model)).get_nb_trainable_parameters()
    found = tensors.read(tiny_base)
    assert (found.adapter(lora), found.total, found.layers) == (trainable, total - trainable, 2)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 8,
        (20).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        (2).to_bytes(8, "little") + b"{}",
        (20).to_bytes(8, "little") + b'{"a": {"shape": [-1]}}'.ljust(20),
        (17).to_bytes(8, "little") + b'{"a": {"shape":1}',
        (12).to_bytes(8, "little") + b"[" * 12,
    ],
)
def test_a_file_that_is_no_safetensors_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(EvidenceRefused, match=r"safetensors|no parameters") as refused:
        tensors.read(tmp_path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["{", "[]", '{"weight_map": 1}', '{"weight_map": {"a": "../../etc/passwd"}}'])
def test_an_index_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(EvidenceRefused, match="is not an index"):
        tensors.read(tmp_path)


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


def _train_with(root: Path, **change: Any) -> None:
    _change(root, lambda value: value["train"].update(change))


def _epochs(root: Path, count: float) -> None:
    _train_with(root, epochs=count)


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
def test_another_method_takes_another_time_and_is_not_scaled_to(root: Path) -> None:
    def dpo(value: dict[str, Any]) -> None:
        value["train"] |= METHODS["dpo"]
        value["validate"]["preferences"] = {"max_length_bias": 0.15, "max_auc": 0.75}

    _change(root, dpo)
    found = estimate(root)
    assert (found.status, found.minutes) == ("no estimate", None)
    assert "train.method is dpo, and the record is of a training with sft" in found.notes


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
    found = report(root, Options(target="main"))
    assert found.state == "refused"
    assert found.title.startswith("❌ Estimate refused: over the budget before training: params.yaml: train_budget.")
    assert "shorten the training to 62% of its estimated time" in found.markdown
    _epochs(root, 4)
    report_tree.commit(root, "fewer")
    assert report(root, Options(target="main")).state == "not-held"  # it was about another commit
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
    assert (found.status, found.headline) == ("no estimate", NO_HISTORY)
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
        *({"epochs": 0}, {"rows": 0}, {"rows": 10**30}, {"total_parameters": 1}, {"device": None}),
    ],
    ids=lambda change: "{} {}".format(*next(iter(change.items()))),
)
def test_a_record_that_measures_nothing_is_not_scaled_from(root: Path, change: dict[str, Any]) -> None:
    _report(root, **change)
    _on_main(root, "a strange record")
    found = estimate(root, "main")
    assert (found.status, found.headline) == ("no estimate", NO_HISTORY)
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
@pytest.mark.parametrize(
    ("device", "says"),
    [
        ("NVIDIA H100 80GB HBM3", "by the fastest published rate"),
        ("NVIDIA X1", "has no published rate for NVIDIA X1"),
    ],
)
def test_a_device_without_a_record_has_no_estimate_and_the_published_rate_is_told(
    root: Path, device: str, says: str
) -> None:
    _report(root, device="cpu (2 threads)", tokens=10**12)
    evidence_tree.recorded(root)
    _on_main(root, "on a CPU", 400)
    code, told = _lockstep(root, "--device", device)
    assert (code, told.splitlines()[0]) == (0, NO_HISTORY)
    assert says in told


def test_every_rate_of_the_table_names_its_source() -> None:
    found = throughput.known()
    assert found
    assert all(rate.source and 1e12 < rate.operations_per_second < 1e16 for rate in found)


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


@pytest.mark.slow
def test_fewer_layers_are_cheaper_by_what_is_not_passed_back(root: Path) -> None:
    _llama(root / layout.BASE)
    _change(root, lambda value: value["train"]["lora"].update(layers=1))
    found = estimate(root)
    assert found.minutes is not None
    n, a = 4 * 200, 4 * (16 + 24)  # rank 4 on the last layer's q_proj and up_proj
    assert found.minutes.middle == pytest.approx(SECONDS / 60 * (2 * n * 1.25 + 6 * a) / (4 * n + 6 * 1))


@pytest.mark.slow
def test_full_fine_tuning_is_scaled_from_an_adapters_training_if_the_weights_are_there(root: Path) -> None:
    _change(root, lambda value: value["train"].update(lora=None, full={"layers": None}))
    found = estimate(root)
    assert found.status == "no estimate"
    assert found.notes[0].endswith("and the record is of a training with train.lora")
    _llama(root / layout.BASE)
    _change(root, lambda value: value["train"].update(lora=None, full={"layers": 1}))
    found = estimate(root)
    assert found.minutes is not None
    n, own = 4 * 200, 200
    assert found.minutes.middle == pytest.approx(SECONDS / 60 * (2 * n * 1.25 + 2 * own) / (4 * n + 6 * 1))
    assert found.minutes.high == pytest.approx(2 * WIDTH * found.minutes.middle)


def test_without_the_weights_another_depth_has_no_estimate(root: Path) -> None:
    _change(root, lambda value: value["train"]["lora"].update(layers=1))
    found = estimate(root)
    assert found.status == "no estimate"
    assert "models/base" in found.notes[0]


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


def test_a_step_whose_method_was_never_recorded_has_no_estimate(root: Path) -> None:
    def with_dpo(value: dict[str, Any]) -> None:
        value["train"] |= {"method": ["sft", "dpo"], "steps": [{"method": "sft"}, METHODS["dpo"]]}
        value["validate"]["preferences"] = {"max_length_bias": 0.15, "max_auc": 0.75}

    _change(root, with_dpo)
    found = estimate(root)
    assert found.status == "no estimate"
    assert found.notes[0] == "train.method is dpo, and the record is of a training with sft"


@pytest.mark.slow
def test_packed_rows_are_counted_as_they_were_recorded_or_as_their_tokens_fill_sequences(root: Path) -> None:
    """150 rows of 32 tokens, two epochs; sequences have 128 tokens, so that four rows fill one."""
    path = root / layout.TRAIN_REPORT
    report = files.read_json(path, TrainReport).model_copy(update={"tokens": 150 * 2 * 32})
    files.write_json(path, report)
    evidence_tree.recorded(root)
    _on_main(root, "with tokens", None)
    _train_with(root, packing="bfd", epochs=None, max_steps=38, batch_size=1)
    found = estimate(root)
    assert found.minutes is not None
    assert found.minutes.middle == pytest.approx(SECONDS / 60 / 2)  # 38 sequences are one epoch
    assert found.basis is not None
    assert "packed rows here alone" in [factor.why for factor in found.basis.factors]

    files.write_json(path, report.model_copy(update={"sequences": 75}))
    evidence_tree.recorded(root)
    _on_main(root, "packed", None)
    for length, share in ((128, 38 / 75), (256, 38 / 19)):  # as recorded, two in each; full, eight in each
        _train_with(root, seed=5, max_length=length)
        found = estimate(root)
        assert found.minutes is not None
        assert found.minutes.middle == pytest.approx(SECONDS / 60 / 2 * share)


@pytest.mark.slow
def test_another_base_is_scaled_by_its_size(root: Path) -> None:
    _llama(root / layout.BASE)
    path = root / layout.FETCH_REPORT
    value = json.loads(path.read_text())
    value["base"]["digest"] = f"sha256:{'a' * 64}"
    path.write_text(json.dumps(value))
    found = estimate(root)
    assert found.minutes is not None
    n, a = 1208, 4 * 4 * (16 + 24)
    assert found.minutes.middle == pytest.approx(SECONDS / 60 * (4 * n + 6 * a) / (4 * 1 + 6 * 1))
    assert found.minutes.high / found.minutes.middle == pytest.approx(3)


PEAK = 600_000_000


def _measured_memory(root: Path, total: int | None = 10**9, resumed_at: int | None = None) -> None:
    """The record has a peak of memory, and the base has weights."""
    _llama(root / layout.BASE)
    _report(root, memory=TrainMemory(peak=PEAK, total=total).model_dump(), resumed_at=resumed_at)
    evidence_tree.recorded(root)
    _on_main(root, "with memory", None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "total", "code", "says"),
    [  # what memory does not depend on: the peak of the record, and what it varies by
        (
            {"seed": 3, "learning_rate": 0.1},
            10**9,
            0,
            "memory: 0.00 GB to 0.66 GB, of at most 95% of the 1.00 GB of cuda (NVIDIA H100): fits",
        ),
        ({"seed": 3}, None, 0, "memory: 0.00 GB to 0.66 GB: no limit known"),
        ({"seed": 3, "max_memory_gb": 0.65}, 10**9, 0, "of at most train.max_memory_gb 0.65: may not fit"),
        # anything else may take any amount
        ({"batch_size": 17}, 10**9, 0, "memory: at least 0.00 GB, of at most 95% of the 1.00 GB of cuda (NVIDIA H100): not known"),
        ({"gradient_checkpointing": True}, 10**9, 0, "memory: at least 0.00 GB, "),
        ({"batch_size": 17}, 10_000, 9, "training needs at least 0.00 GB of memory, for its weights alone, above 95% of the 0.00 GB"),
        ({"batch_size": 17, "max_memory_gb": 1e-6}, 10**9, 5, "alone, above train.max_memory_gb 1e-06; set train.quant"),
    ],
)  # fmt: skip
def test_memory_is_a_range_whose_upper_end_was_measured_or_is_unknown(
    root: Path, change: dict[str, Any], total: int | None, code: int, says: str
) -> None:
    _measured_memory(root, total)
    _change(root, lambda value: value["train"].update(change))
    found, told = _lockstep(root)
    assert says in told
    assert found == code


@pytest.mark.slow
@pytest.mark.parametrize("what", ["other rows", "a resumed record"])
def test_the_peak_of_other_rows_or_of_half_a_training_is_no_upper_end(root: Path, what: str) -> None:
    data = json.loads((root / layout.DATA_REPORT).read_text())
    _measured_memory(root, resumed_at=7 if what == "a resumed record" else None)
    if what == "other rows":
        path = root / layout.SPLITS / "train.jsonl"
        path.write_text(path.read_text() * 2)
        data["splits"]["train"] = digest.of_file(path).sha256
        (root / layout.DATA_REPORT).write_text(json.dumps(data))
    _change(root, lambda value: value["train"].update(seed=3))
    code, told = _lockstep(root)
    assert (
        "memory: at least 0.00 GB, of at most 95% of the 1.00 GB of cuda (NVIDIA H100): not known before its first"
        in told
    )
    assert code == 0


def test_without_a_record_the_limit_of_the_parameter_holds(root: Path) -> None:
    _measured_memory(root)
    shutil.rmtree(root / ".git")
    _change(root, lambda value: value["train"].update(max_memory_gb=1e-6))
    code, told = _lockstep(root)
    assert (code, "above train.max_memory_gb 1e-06; set train.quantization" in told) == (5, True)


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
    found = next(part.markdown for part in report(root, Options(target="main")).parts if part.name == "training")
    assert "- Training: 23.3 min, estimated 20.0 min (13.3 to 30.0), budget 25 min" in found
    assert "- Cost: 0.98 for 0.39 device hours at 2.50 an hour, estimated 0.84 (0.56 to 1.26), budget 2.00" in found


@pytest.mark.slow
def test_the_comment_says_nothing_where_nothing_was_trained_or_recorded(root: Path) -> None:
    assert files.read_json(root / layout.TRAIN_MEASURED, TrainMeasured).seconds == SECONDS
    found = next(part.markdown for part in report(root, Options(target="main")).parts if part.name == "training")
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
        found = next(part.markdown for part in report(root, Options(target="main")).parts if part.name == "training")
        assert line in f"{found}\n"
        assert ("Energy" in found) == bool(line)


def _bytes_of_a_row(root: Path) -> float:
    lines = [line for path in (root / layout.SPLITS).iterdir() for line in path.read_bytes().splitlines(keepends=True)]
    return sum(map(len, lines)) / len(lines)


@pytest.mark.slow
def test_rows_that_were_added_and_longer_ones_lengthen_it(root: Path) -> None:
    """The splits, their reports, and a lock that says what lay there before."""
    lock, before = yaml.safe_load((root / layout.LOCK).read_text()), _bytes_of_a_row(root)
    size = sum(path.stat().st_size for path in (root / layout.SPLITS).iterdir())
    lock["stages"]["prepare"]["outs"] = [{"path": layout.SPLITS.as_posix(), "md5": "0.dir", "size": size}]
    (root / layout.LOCK).write_text(written(lock))
    _on_main(root, "with sizes", None)
    path = root / layout.SPLITS / "train.jsonl"
    files.write_jsonl(path, [_longer(row) for row in evidence_tree.rows("train", 180)])
    data = json.loads((root / layout.DATA_REPORT).read_text())
    data["rows"]["train"], data["splits"]["train"] = 180, digest.of_file(path).sha256
    (root / layout.DATA_REPORT).write_text(json.dumps(data))
    found, longer = estimate(root), _bytes_of_a_row(root) / before
    assert longer > 1.5
    assert (found.minutes and found.minutes.middle) == pytest.approx(3 * longer * SECONDS / 60)


def _longer(row: Row) -> Row:
    return row.model_copy(update={"messages": (*row.messages[:-1], Message(role="user", content="a disk " * 60))})


def _statistics(row: int, document: int | None = None) -> Statistics:
    """Of rows with ``row`` tokens in prompt and reference, half in each, and of documents with so many."""

    def each(tokens: int) -> Lengths:
        return lengths(["x"], ["x"], [tokens])

    writing = Writing(scripts={}, others=(), garbled=0, garbled_rows=())
    documents = Documents(tokens=document, lengths=each(document), writing=writing) if document else None
    return Statistics(prompts=each(row // 2), references=each(row // 2), writing=writing, documents=documents)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "now", "said", "says", "rows", "longer"),
    [  # 60 rows of 32 tokens were recorded, or 60 documents; 20 rows and 20 documents are here, and 128 tokens a window
        ("sft", "sft", _statistics(32), _statistics(64), 20, 1.0),  # by bytes, without documents there
        ("sft", "sft", _statistics(32, 500), _statistics(64, 9000), 20, 2.0),
        ("cpt", "cpt", _statistics(32, 500), _statistics(32, 1000), 20, 2.0),
        ("sft", "cpt", _statistics(32), _statistics(64, 1280), 200, 4.0),  # ten windows each
        ("sft", "cpt", None, _statistics(64, 1280), None, None),
        ("cpt", "sft", _statistics(32, 500), _statistics(32, 500), None, None),
    ],
)
def test_rows_and_documents_are_each_scaled_by_their_own_length(
    root: Path, before: str, now: str, said: Statistics | None, says: Statistics, rows: int | None, longer: float | None
) -> None:
    plain = evidence_tree.rows("train", 20)
    documents = [
        row.model_copy(update={"document": True, "messages": (), "reference": "the disk " * 2000}) for row in plain
    ]
    files.write_jsonl(root / layout.SPLITS / "train.jsonl", [*plain, *documents])
    for name in ("valid", "test"):
        (root / layout.SPLITS / f"{name}.jsonl").write_text("")
    report = files.read_json(root / layout.TRAIN_REPORT, TrainReport)
    report = report.model_copy(update={"tokens": round(report.rows * report.epochs * 32)})
    measured, train = files.read_json(root / layout.TRAIN_MEASURED, TrainMeasured), _document()["train"]
    its, there = (
        steps.of(steps.read(train | {"early_stopping": None} | {"method": each}))[0] for each in (now, before)
    )
    size = sum(len(row.model_dump_json()) + 1 for row in plain) / len(plain)
    recorded = RecordedTraining("main", "0" * 40, report, measured, (there,), None, size, said)
    ahead = training_ahead.Ahead(its, 20, 2.0, "other", report.base, 9, lengths=says)
    if rows is None:
        with pytest.raises(Unscalable, match=f"train.method is {now}, and the record "):
            training_ahead.pair(root, ahead, recorded)
        return
    old, new = training_ahead.pair(root, ahead, recorded)
    assert new.rows == rows
    assert new.row_bytes is not None
    assert old.row_bytes is not None
    assert new.row_bytes / old.row_bytes == pytest.approx(longer, rel=0.05)
    found = training_ahead.seconds(root, [ahead], recorded)
    assert found.train.middle == pytest.approx(SECONDS * rows / report.rows * new.row_bytes / old.row_bytes)
    assert [factor.above for factor in found.factors if factor.why == f"{now}, recorded {before}"] == [1.5] * (
        before != now
    )
