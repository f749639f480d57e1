"""Train: only sealed splits, only the answer is learned, always the same adapter, and every refusal."""

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from checks.formats import energy
from checks.formats.data_reports import Seal
from checks.formats.training_reports import TrainMeasured, TrainReport
from checks.process.errors import EvidenceRefused, MachineRefused, TrainingRefused
from checks.records.rows import Row
from checks.storage import digest, files, layout
from stages import tracking
from stages.train import train
from stages.training import checkpoints
from tests import energy_standin, pipeline_repository, training_tree
from tests.conftest import REPOSITORY, as_params, scaled_down

pytestmark = pytest.mark.slow


@pytest.fixture
def root(tmp_path: Path, tiny_base: Path, store: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository's root with the tiny base and sealed splits of 24, 6 and 6 rows."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    return training_tree.make(tmp_path, tiny_base)


def _runs(root: Path, document: dict) -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=tracking.address(as_params(document).tracking, root))
    experiment = client.get_experiment_by_name(document["tracking"]["experiment"])
    return list(client.search_runs([experiment.experiment_id])) if experiment else []


def _prepared(root: Path, document: dict) -> Any:
    """A trainer on the rows of the root's train split."""
    return training_tree.trainer(as_params(document).train, root, root / "scratch")


def test_the_prompt_is_not_learned_and_the_answer_is_to_its_end_of_turn(root: Path, document: dict) -> None:
    trainer = _prepared(root, document)
    tokenizer = trainer.processing_class
    for row in trainer.train_dataset:
        prompt = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, tokenize=False)
        learned = [token for token in row["labels"] if token != -100]
        held_back = row["labels"].count(-100)
        assert row["labels"][:held_back] == [-100] * held_back
        assert tokenizer.decode(row["input_ids"][:held_back]) == prompt
        assert row["labels"][held_back:] == row["input_ids"][held_back:]
        assert tokenizer.decode(learned) == f"{row['completion'][0]['content']}<|im_end|>\n"
    batch = next(iter(trainer.get_train_dataloader()))
    assert (batch["labels"] != -100).sum() < batch["attention_mask"].sum()
    assert (batch["labels"][batch["attention_mask"] == 0] == -100).all()


def test_energy_is_recorded_beside_the_time_and_changes_no_byte_of_the_evidence(
    root: Path, document: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document["train"] |= {"max_steps": 2, "epochs": None}
    found = {}
    for name, prepare in (("without", energy_standin.powercap), ("with", energy_standin.running)):
        prepare(monkeypatch, tmp_path / name)
        if name == "without":
            shutil.rmtree(tmp_path / name)
        line = train(as_params(document), root)
        used = files.read_json(root / layout.TRAIN_MEASURED, TrainMeasured).energy
        found[name] = digest.of_tree(root / layout.ADAPTER), (root / layout.TRAIN_REPORT).read_bytes(), used, line
    assert found["without"][:2] == found["with"][:2]
    absent, used = found["without"][2], found["with"][2]
    assert absent is not None
    assert used is not None
    assert (absent.counted, len(absent.missing)) == ((), 1)
    assert "Wh" not in found["without"][3]
    assert [(each.kind, each.device) for each in used.counted] == [("rapl", "package-0")]
    assert used.counted[0].joules >= 1
    assert f", {energy.said(used)}" in found["with"][3]


@pytest.mark.parametrize("items", [None, 7])
def test_the_loss_on_answers_alone_is_the_loss_of_trl(root: Path, document: dict, items: int | None) -> None:
    import torch
    from trl import SFTTrainer

    trainer = _prepared(root, document)
    for name, weight in trainer.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    batch = next(iter(trainer.get_train_dataloader()))
    ours = trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=items)
    theirs = SFTTrainer.compute_loss(trainer, trainer.model, dict(batch), num_items_in_batch=items)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    weights = [weight for weight in trainer.model.parameters() if weight.requires_grad]
    for a, b in zip(torch.autograd.grad(ours, weights), torch.autograd.grad(theirs, weights), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_a_run_leaves_adapter_report_curve_and_an_mlflow_run_that_names_them(root: Path, document: dict) -> None:
    from safetensors.torch import load_file

    document["train"] |= {"max_steps": 8, "learning_rate": 0.02, "precision": "bf16", "schedule": "constant"}
    document["train"]["lora"] |= {"targets": "all-linear", "layers": 1}
    document["tracking"] |= {"experiment": "one-run"}
    line = train(as_params(document), root)

    adapter = root / layout.ADAPTER
    assert sorted(p.name for p in adapter.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    assert {p.stat().st_mode & 0o777 for p in adapter.iterdir()} == {0o644}
    assert [p.name for p in adapter.parent.iterdir() if p.name.startswith(".")] == []
    config = json.loads((adapter / "adapter_config.json").read_text())
    modules = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    assert (config["target_modules"], config["layers_to_transform"]) == (modules, [1])
    assert config["base_model_name_or_path"] == "models/base"
    weights = load_file(adapter / "adapter_model.safetensors")
    assert {str(w.dtype) for w in weights.values()} == {"torch.float32"}
    assert len(weights) == 2 * len(modules)

    report = files.read_json(root / layout.TRAIN_REPORT, TrainReport)
    assert report.adapter == digest.of_tree(adapter).digest
    assert report.base == digest.of_tree(root / layout.BASE).digest
    assert report.splits == files.read_json(root / layout.SEAL, Seal).splits
    assert (report.rows, report.steps) == (24, 8)
    measured = files.read_json(root / layout.TRAIN_MEASURED, TrainMeasured)
    assert (measured.adapter, measured.git_commit, measured.resumed_at) == (report.adapter, None, None)
    assert measured.seconds > 0
    assert not list((root / checkpoints.FOLDER).iterdir())
    assert report.trainable_parameters == sum(w.numel() for w in weights.values()) < report.total_parameters
    assert report.adapter[:19] in line

    head, *curve = (root / layout.LOSS_CURVE).read_text().splitlines()
    assert head == "step,loss,learning_rate"
    assert [int(point.split(",")[0]) for point in curve] == list(range(1, 9))
    assert report.final_loss < float(curve[0].split(",")[1])

    (run,) = _runs(root, document)
    assert (run.info.run_id, run.info.status) == (measured.mlflow_run, "FINISHED")
    assert run.data.tags[tracking.ADAPTER_TAG] == report.adapter
    assert run.data.params["train.lora.r"] == "4"
    assert run.data.params["base.uri"] == document["base"]["uri"]
    assert set(run.data.metrics) == {"loss", "learning_rate", "grad_norm", "valid_loss"}
    logged = {i.tags[0].value: i.dataset for i in run.inputs.dataset_inputs}
    assert report.splits["train"].removeprefix("sha256:").startswith(logged["training"].digest)
    assert report.splits["train"] in logged["training"].source
    assert set(logged) == {"training", "evaluation"}


@pytest.mark.parametrize(
    ("lora", "settings", "peft", "arguments"),
    [
        ({}, {}, {"use_rslora": False, "use_dora": False, "init_lora_weights": True}, {"optim": "adamw_torch", "neftune_noise_alpha": None}),
        ({"variant": "rslora", "init": "gaussian"}, {"neftune_alpha": 5.0}, {"use_rslora": True, "use_dora": False, "init_lora_weights": "gaussian"}, {"neftune_noise_alpha": 5.0}),
        ({"variant": "dora", "init": "orthogonal"}, {"optimizer": "adamw_8bit"}, {"use_rslora": False, "use_dora": True, "init_lora_weights": "orthogonal"}, {"optim": "adamw_8bit"}),
    ],
)  # fmt: skip
def test_the_variant_its_start_and_the_optimizer_reach_peft_and_transformers(
    root: Path, document: dict, lora: dict, settings: dict, peft: dict, arguments: dict
) -> None:
    document["train"] |= settings
    document["train"]["lora"] |= lora
    trainer = _prepared(root, document)
    config = trainer.model.peft_config["default"]
    assert {name: getattr(config, name) for name in peft} == peft
    assert {name: getattr(trainer.args, name) for name in arguments} == arguments


def test_noise_on_the_embeddings_changes_what_is_learned_and_dora_merges(root: Path, document: dict) -> None:
    from stages.merge import merge

    document["train"]["lora"] |= {"variant": "dora", "init": "gaussian"}
    found = []
    for alpha in (None, 5.0):
        document["train"]["neftune_alpha"] = alpha
        train(as_params(document), root)
        found.append(digest.of_tree(root / layout.ADAPTER).digest)
    assert found[0] != found[1]
    document["merge"]["parity"] |= {"max_logprob_diff": 1e-3, "min_top1": 1.0}
    merge(as_params(document), root)


def test_the_curve_of_a_long_training_has_twenty_points_at_least(document: dict) -> None:
    from stages.training.trainer import settings as arguments

    for rows, epochs in ((2340, 1.0), (2340, 2.0), (100_000, 3.0), (200, 1.0)):
        document["train"] |= {"epochs": epochs, "max_steps": None, "batch_size": 16}
        settings = as_params(document).train
        every = int(arguments(settings, rows, "/nonexistent")["logging_steps"])
        assert 1 <= every <= 10
        assert settings.steps(rows) // every >= min(20, settings.steps(rows))


@pytest.mark.parametrize(
    ("schedule", "change", "rates"),
    [  # after 0, 5, 10, 55 and 100 of 100 steps
        ("constant", {}, (0.0, 0.005, 0.01, 0.01, 0.01)),
        ("constant", {"warmup_ratio": 0.0}, (0.01, 0.01, 0.01, 0.01, 0.01)),
        ("linear", {}, (0.0, 0.005, 0.01, 0.005, 0.0)),
        ("cosine", {}, (0.0, 0.005, 0.01, 0.005, 0.0)),
        ("cosine_with_min_lr", {"min_learning_rate": 0.001}, (0.0, 0.005, 0.01, 0.0055, 0.001)),
    ],
)
def test_the_learning_rate_follows_the_schedule(
    root: Path, document: dict, schedule: str, change: dict[str, Any], rates: tuple[float, ...]
) -> None:
    document["train"] |= {"schedule": schedule, "learning_rate": 0.01, "warmup_ratio": 0.1} | change
    trainer = _prepared(root, document)
    trainer.create_optimizer()
    scheduler = trainer.create_scheduler(100, trainer.optimizer)
    found = []
    for _ in range(101):
        found.append(scheduler.get_last_lr()[0])
        trainer.optimizer.step()
        scheduler.step()
    assert [found[step] for step in (0, 5, 10, 55, 100)] == pytest.approx(rates, abs=1e-9)


def test_two_runs_with_one_seed_give_the_same_bytes_and_another_seed_does_not(
    root: Path, document: dict, store: str
) -> None:
    document["train"]["lora"] |= {"dropout": 0.1, "targets": "all-linear"}
    found = []
    new, forked = sys.executable, pipeline_repository.interpreter()  # their hashes have other seeds
    for python, seed in ((forked, 17), (new, 17), (forked, 18)):
        document["train"]["seed"] = seed
        (root / layout.PARAMS).write_text(yaml.safe_dump(document))
        done = subprocess.run(
            [python, "-m", "stages.train"],
            cwd=root,
            env=pipeline_repository.environment(PYTHONPATH=str(REPOSITORY), MLFLOW_TRACKING_URI=store),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout == ""
        assert "LoRA r=4 alpha=8 on down_proj" in done.stderr  # the settings, before training
        found.append(digest.of_tree(root / layout.ADAPTER))
    assert found[0] == found[1]
    assert found[0].digest != found[2].digest


def test_splits_that_are_not_the_sealed_ones_refuse_and_each_difference_is_named(root: Path, document: dict) -> None:
    (root / layout.ADAPTER).mkdir(parents=True)
    (root / layout.ADAPTER / "old").write_text("of other data")
    for name in ("train", "test"):
        with (root / layout.SPLITS / f"{name}.jsonl").open("ab") as stream:
            stream.write(training_tree.row(99, "show the key", "key").model_dump_json().encode() + b"\n")
    with pytest.raises(EvidenceRefused, match=r"test is sha256:.*, on disk sha256:.*lockstep run validate") as caught:
        train(as_params(document), root)
    assert [other.split(" is ")[0] for other in caught.value.others] == ["data/validated.json: train"]
    assert not (root / layout.ADAPTER).exists()


def test_a_seal_that_is_missing_or_of_fewer_splits_refuses(root: Path, document: dict) -> None:
    seal = files.read_json(root / layout.SEAL, Seal)
    files.write_json(root / layout.SEAL, Seal(splits={"train": seal.splits["train"]}))
    with pytest.raises(EvidenceRefused, match="test is not sealed"):
        train(as_params(document), root)
    (root / layout.SEAL).unlink()
    with pytest.raises(EvidenceRefused, match=r"validated\.json: No such file"):
        train(as_params(document), root)


def test_a_train_split_without_rows_refuses(root: Path, document: dict) -> None:
    (root / layout.SPLITS / "train.jsonl").write_text("")
    training_tree.seal(root)
    with pytest.raises(TrainingRefused, match="holds no rows"):
        train(as_params(document), root)


def test_fp16_without_a_gpu_refuses(root: Path, document: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    document["train"]["precision"] = "fp16"
    with pytest.raises(MachineRefused, match="fp16 needs a GPU"):
        train(as_params(document), root)


def test_more_devices_than_gpus_or_one_without_bf16_refuse(
    root: Path, document: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    document["train"] |= {"devices": 3, "precision": "bf16"}
    with pytest.raises(MachineRefused, match=r"train\.devices: 3, and 2 GPUs are visible; set it to 2 or less"):
        train(as_params(document), root)
    document["train"]["devices"] = 2
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda: False)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "an old one")
    with pytest.raises(MachineRefused, match="an old one has no bf16"):
        train(as_params(document), root)


def test_one_device_of_several_gpus_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from stages.training.devices import device_of

    for name, value in (
        ("device_count", 2),
        ("is_available", True),
        ("is_bf16_supported", True),
        ("get_device_name", "it"),
    ):
        monkeypatch.setattr(f"torch.cuda.{name}", lambda value=value: value)
    monkeypatch.setattr("torch.use_deterministic_algorithms", lambda *_, **__: None)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "as it is")
    document = scaled_down()
    assert device_of(as_params(document).train)[0] == "cuda (it)"
    assert capsys.readouterr().err == "train: 2 GPUs are visible, and train.devices is 1: the first trains\n"
    document["train"]["devices"] = 2
    assert device_of(as_params(document).train)[0] == "cuda (it), 2 ranks"
    assert capsys.readouterr().err == ""


def _targets(*names: str) -> Callable[[dict, Path], None]:
    return lambda document, _: document["train"]["lora"].update(targets=list(names))


def _layers(document: dict, _: Path) -> None:
    document["train"]["lora"]["layers"] = 3


def _long_row(_: dict, root: Path) -> None:
    path = root / layout.SPLITS / "train.jsonl"
    files.write_jsonl(path, [*files.read_jsonl(path, Row), training_tree.row(255, "show the queue " * 60, "queue")])
    training_tree.seal(root)


def _row_with_an_end(_: dict, root: Path) -> None:
    path = root / layout.SPLITS / "train.jsonl"
    said = "queue<|im_end|>\n<|im_start|>assistant\ndisk"
    files.write_jsonl(path, [*files.read_jsonl(path, Row), training_tree.row(255, "show the queue", said)])
    training_tree.seal(root)


def _template(text: str) -> Callable[[dict, Path], None]:
    def spoil(_: dict, root: Path) -> None:
        (root / layout.BASE / "chat_template.jinja").write_text(text)

    return spoil


def _no_template(_: dict, root: Path) -> None:
    (root / layout.BASE / "chat_template.jinja").unlink()


_TURN = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}END\n{% endfor %}"
_ASK = "{% if add_generation_prompt %}<|im_start|>assistant\nOTHERWISE{% endif %}"


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (_targets("q_proj", "qproj"), "'qproj' matches no module; use all-linear, or some of down_proj"),
        (_targets("lm_head"), "'lm_head' matches lm_head, which LoRA here does not adapt"),
        (_targets("embed_tokens"), "'embed_tokens' matches model.embed_tokens, which"),
        (_targets(), "names no module"),
        (_layers, "train.lora.layers: 3 is more than the model's 2; set it to 2 or less"),
        (_long_row, "row 00000000000000ff .*: reference: [0-9]+ tokens with its prompt, above train.max_length 128"),
        (
            _row_with_an_end,
            "row 00000000000000ff .*: reference: the answer has an end token at token 2 of [0-9]+, and the model would",
        ),
        (_template(_TURN + _ASK.replace("OTHERWISE", "")), "no end of turn is learned"),
        (_template(_TURN.replace("END", "<|im_end|>") + _ASK), "renders the prompt otherwise"),
        (_no_template, "has no chat template"),
    ],
)
def test_parameters_or_rows_that_do_not_fit_refuse_before_training(
    root: Path, document: dict, spoil: Callable[[dict, Path], None], says: str
) -> None:
    document["train"]["lora"]["r"] = 2
    spoil(document, root)
    with pytest.raises(TrainingRefused, match=says):
        train(as_params(document), root)
    assert not (root / layout.ADAPTER).exists()
    assert not (root / layout.TRAIN_REPORT).exists()


def _rewrite(base: Path, change: Callable[[dict], None]) -> None:
    """Write the base again as one file, changed."""
    from safetensors.torch import load_file, save_file

    weights: dict[str, Any] = {}
    for path in sorted(base.glob("*.safetensors")):
        weights |= load_file(path)
        path.unlink()
    (base / "model.safetensors.index.json").unlink()
    change(weights)
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})


def test_a_loss_that_is_not_finite_stops_at_its_step_and_leaves_no_adapter(root: Path, document: dict) -> None:
    _rewrite(root / layout.BASE, lambda weights: weights["model.norm.weight"].mul_(math.inf))
    document["tracking"] |= {"experiment": "not-finite"}
    with pytest.raises(TrainingRefused, match=r"step 1: the loss is (nan|inf); lower train\.learning_rate"):
        train(as_params(document), root)
    assert [p.name for p in (root / "models").iterdir()] == ["base"]
    assert not (root / layout.TRAIN_REPORT).exists()
    (run,) = _runs(root, document)
    assert run.info.status == "FAILED"
    assert "step 1" in run.data.tags["lockstep.refusal"]


def test_an_adapter_that_is_not_finite_is_not_written(root: Path, document: dict) -> None:
    from stages.training.trainer import save

    trainer = _prepared(root, document)
    weight = next(w for w in trainer.model.parameters() if w.requires_grad)
    weight.data[0, 0] = math.nan
    with pytest.raises(TrainingRefused, match=r"lora_A.* is not finite"):
        save(trainer.model, root)
    assert not (root / "adapter_model.safetensors").exists()


def test_a_base_that_is_damaged_or_lacks_a_weight_refuses(root: Path, document: dict) -> None:
    _rewrite(root / layout.BASE, lambda weights: weights.__delitem__("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(EvidenceRefused, match=r"1 weights are missing: model\.layers\.1\.mlp\.up_proj\.weight"):
        train(as_params(document), root)
    (root / layout.BASE / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(EvidenceRefused, match="cannot load it"):
        train(as_params(document), root)
    shutil.rmtree(root / layout.BASE)
    with pytest.raises(EvidenceRefused, match="not a directory"):
        train(as_params(document), root)
