"""Full fine-tuning: the base's own weights learn, are kept, resumed, merged and recorded; and what cannot be is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from checks.config import params_file
from checks.formats.training_reports import ParityReport, TrainMeasured, TrainReport
from checks.kinds.method import Full
from checks.process.errors import EvidenceRefused, MergeRefused, ParamsRefused, TrainingRefused
from checks.storage import digest, files, layout
from stages.merge import merge
from stages.train import train
from stages.training import checkpoints
from stages.weights import whole
from tests import training_tree
from tests.conftest import as_params, scaled_down, written
from tests.stages.training.test_resuming import killed

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("tracked")]


def document(layers: int | None = None, **settings: Any) -> dict:
    """params.yaml whose base's own weights learn."""
    value = scaled_down()
    del value["train"]["lora"]
    value["train"] |= {"full": {"layers": layers}, "learning_rate": 0.002, "max_steps": 4, "epochs": None} | settings
    return value


@pytest.fixture
def root(tmp_path: Path, tiny_base: Path) -> Path:
    return training_tree.make(tmp_path, tiny_base)


def weights_in(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a directory."""
    found: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= load_file(path)
    return found


def in_bf16(base: Path) -> None:
    """Round the base."""
    for path in base.glob("*.safetensors"):
        save_file(
            {name: weight.bfloat16() for name, weight in load_file(path).items()}, path, metadata={"format": "pt"}
        )
    config = json.loads((base / "config.json").read_text()) | {"dtype": "bfloat16"}
    (base / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("layers", [None, 1])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_learned_takes_the_place_of_the_bases_weights_and_nothing_else_changes(
    root: Path, layers: int | None, precision: str
) -> None:
    if precision == "bf16":
        in_bf16(root / layout.BASE)
    value = document(layers, precision=precision)
    value["merge"]["parity"] |= {"max_logprob_diff": 0.1 if precision == "bf16" else 1e-5, "min_top1": 0.9}
    params = as_params(value)
    train(params, root)
    before, own = weights_in(root / layout.BASE), weights_in(root / layout.ADAPTER)
    assert [path.name for path in (root / layout.ADAPTER).iterdir()] == [whole.WEIGHTS]
    assert own.keys() == {name for name in before if layers is None or name.startswith("model.layers.1.")}
    assert {weight.dtype for weight in own.values()} == {torch.float32}
    assert all((weight != before[name].float()).any() for name, weight in own.items())

    report = files.read_json(root / layout.TRAIN_REPORT, TrainReport)
    size = sum(weight.numel() for weight in before.values())
    assert report.adapter == digest.of_tree(root / layout.ADAPTER).digest
    assert report.trainable_parameters == sum(weight.numel() for weight in own.values())
    assert (report.full, report.total_parameters, report.base_parameters) == (True, size, size)

    line = merge(params, root)
    merged = weights_in(root / layout.MERGED)
    assert merged.keys() == before.keys()
    for name, weight in merged.items():
        assert torch.equal(weight, own[name].to(before[name].dtype) if name in own else before[name]), name
    parity = files.read_json(root / layout.PARITY_REPORT, ParityReport)
    assert (parity.adapter, parity.merged[:19] in line) == (report.adapter, True)


@pytest.mark.usefixtures("forked_ranks")
def test_a_training_on_two_ranks_has_one_result(root: Path) -> None:
    train(as_params(document(1)), root)
    alone = files.read_json(root / layout.TRAIN_REPORT, TrainReport)
    value = document(1, devices=2)
    value["train"]["batch_size"] //= 2
    train(as_params(value), root)
    both = files.read_json(root / layout.TRAIN_REPORT, TrainReport)
    assert (both.devices, both.adapter) == (2, digest.of_tree(root / layout.ADAPTER).digest)
    assert both.final_loss == pytest.approx(alone.final_loss, rel=1e-4)


def test_a_killed_full_fine_tuning_ends_in_the_bytes_of_one_that_ran_through(
    root: Path, tmp_path: Path, tiny_base: Path
) -> None:
    value = document(early_stopping={"patience": 9, "per_epoch": 3}, max_steps=12)
    other = training_tree.make(tmp_path / "other", tiny_base)
    train(as_params(value), other)
    (root / layout.PARAMS).write_text(written(value))
    killed(root, root / checkpoints.FOLDER, f"*/step-*/{checkpoints.MANIFEST}")
    train(as_params(value), root)
    assert files.read_json(root / layout.TRAIN_MEASURED, TrainMeasured).resumed_at in range(1, 12)
    assert digest.of_tree(root / layout.ADAPTER) == digest.of_tree(other / layout.ADAPTER)
    assert (root / layout.LOSS_CURVE).read_text() == (other / layout.LOSS_CURVE).read_text()


def _with(**train: Any) -> Callable[[dict], None]:
    return lambda value: value["train"].update(train)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda value: value["train"].pop("full"), "neither lora nor full is written; write lora"),
        (_with(quantization={"kind": "nf4", "double": True}), "full: weights in 4 bits cannot be trained; remove"),
        (_with(devices=2, shard="fsdp2"), "full: shard fsdp2 is not offered with it"),
        (_with(**training_tree.METHODS["dpo"]), "full: train.method 'dpo' needs an adapter: .* use lora, or"),
        (_with(method=["sft", "sft"], steps=[{"method": "sft"}] * 2), r"train\.full: is not offered with train\.steps"),
    ],
)
def test_settings_that_do_not_go_with_it_are_refused(spoil: Callable[[dict], object], says: str) -> None:
    value = document()
    value["validate"]["preferences"] = training_tree.BOUNDS
    spoil(value)
    with pytest.raises(ParamsRefused, match=says):
        params_file.parse(written(value))


def tie(base: Path, *, twice: bool = False) -> None:
    """Make the head of the base its embeddings; ``twice``: the file has them under both names."""
    config = json.loads((base / "config.json").read_text()) | {"tie_word_embeddings": True}
    (base / "config.json").write_text(json.dumps(config))
    weights = weights_in(base)
    for path in base.glob("model*"):
        path.unlink()
    weights.pop("lm_head.weight", None)
    weights |= {"lm_head.weight": weights["model.embed_tokens.weight"].clone()} if twice else {}
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})


def test_embeddings_that_are_the_head_too_are_trained_and_merged_as_one_weight(root: Path) -> None:
    tie(root / layout.BASE)
    value = document()
    value["merge"]["parity"] |= {"max_logprob_diff": 1e-5, "min_top1": 1.0}
    train(as_params(value), root)
    merge(as_params(value), root)
    own, merged = weights_in(root / layout.ADAPTER), weights_in(root / layout.MERGED)
    assert own.keys() == merged.keys() == weights_in(root / layout.BASE).keys()
    assert all(torch.equal(weight, own[name]) for name, weight in merged.items())


@pytest.mark.parametrize(
    ("spoil", "layers", "says"),
    [
        (
            lambda base: tie(base, twice=True),
            None,
            "has .*embed_tokens.weight and lm_head.weight, which are one weight",
        ),
        (lambda _: None, 3, r"train\.full\.layers: 3 is more than the model's 2; set it to 2 or less, or null"),
    ],
)
def test_a_base_that_it_cannot_train_refuses_before_the_first_step(
    root: Path, spoil: Callable[[Path], object], layers: int | None, says: str
) -> None:
    spoil(root / layout.BASE)
    with pytest.raises(TrainingRefused, match=says):
        train(as_params(document(layers)), root)
    assert not (root / layout.ADAPTER).exists()


def _change(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        weights = load_file(path)
        change(weights)
        save_file(weights, path)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "error", "says"),
    [
        (_change(lambda w: w.update(other=torch.ones(2))), MergeRefused, r"other has the shape \[2\], and in the base it is not there"),
        (_change(lambda w: w.update({"model.norm.weight": torch.ones(2)})), MergeRefused, r"norm\.weight has the shape \[2\], .* shape \[32\]"),
        (_change(lambda w: w.clear()), MergeRefused, "holds no tensors"),
        (_change(lambda w: w["model.norm.weight"].fill_(torch.inf)), MergeRefused, "norm.weight: trained weights are not finite"),
        (lambda path: path.write_bytes(b"{}"), EvidenceRefused, "not a whole safetensors file"),
    ],
)  # fmt: skip
def test_weights_that_do_not_fit_the_base_are_not_merged(
    root: Path, spoil: Callable[[Path], object], error: type[Exception], says: str
) -> None:
    folder = root / layout.ADAPTER
    folder.mkdir()
    own = {name: weight for name, weight in weights_in(root / layout.BASE).items() if name == "model.norm.weight"}
    save_file(own, folder / whole.WEIGHTS)
    spoil(folder / whole.WEIGHTS)
    with pytest.raises(error, match=says):
        merge(as_params(document()), root)
    assert not (root / layout.MERGED).exists()


def test_a_weight_that_the_files_of_the_base_name_otherwise_is_not_left_out_in_silence(root: Path) -> None:
    from transformers import AutoModelForCausalLM

    from stages.training.own_weights import choose

    base = root / layout.BASE
    model = AutoModelForCausalLM.from_pretrained(base)
    weights = weights_in(base)
    for path in base.glob("model*"):
        path.unlink()
    weights["model.layers.1.mlp.gate_up.weight"] = weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, base / "model.safetensors")
    with pytest.raises(TrainingRefused, match=r"does not name model\.layers\.1\.mlp\.up_proj\.weight; use train\.lora"):
        choose(model, Full(layers=1), base)
