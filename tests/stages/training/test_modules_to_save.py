"""Embeddings and head that learn whole beside LoRA: through training, checkpoints and merge, tied and not."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from checks.config import params_file
from checks.formats.training_reports import TrainReport
from checks.process.errors import MergeRefused, ParamsRefused, TrainingRefused
from checks.storage import files, layout
from stages.merge import merge
from stages.train import train
from tests import training_tree
from tests.conftest import as_params, scaled_down, written
from tests.stages.training.test_full import in_bf16, tie, weights_in

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("tracked")]

EMBEDDINGS, HEAD = "model.embed_tokens.weight", "lm_head.weight"
PREFIX = "base_model.model."


def document(*modules: str, **settings: Any) -> dict:
    """params.yaml of a training in which these modules learn whole."""
    value = scaled_down()
    value["train"] |= {"learning_rate": 0.02, "max_steps": 4, "epochs": None} | settings
    value["train"]["lora"] |= {"modules_to_save": list(modules)}
    value["merge"]["parity"] |= {"max_logprob_diff": 0.05 if value["train"]["precision"] == "bf16" else 1e-4}
    return value


@pytest.fixture
def root(tmp_path: Path, tiny_base: Path) -> Path:
    return training_tree.make(tmp_path, tiny_base)


@pytest.mark.parametrize(
    ("tied", "modules", "settings"),
    [
        (False, ("embed_tokens", "lm_head"), {}),
        (False, ("lm_head",), {"precision": "bf16"}),
        (True, ("embed_tokens",), {"precision": "bf16"}),
        (True, ("lm_head", "embed_tokens"), {}),
        (True, ("lm_head",), {"quantization": {"kind": "nf4", "double": True}}),
    ],
)
def test_they_learn_in_float32_and_the_merged_model_has_them(
    root: Path, tied: bool, modules: tuple[str, ...], settings: dict[str, Any]
) -> None:
    if settings.get("precision") == "bf16":
        in_bf16(root / layout.BASE)
    if tied:
        tie(root / layout.BASE)
    params = as_params(document(*modules, **settings))
    train(params, root)
    adapter = load_file(root / layout.ADAPTER / "adapter_model.safetensors")
    learned = {name.removeprefix(PREFIX): weight for name, weight in adapter.items() if "lora_" not in name}
    assert learned.keys() == ({EMBEDDINGS, HEAD} if tied or len(modules) == 2 else {HEAD})
    assert {weight.dtype for weight in adapter.values()} == {torch.float32}
    if tied:
        assert torch.equal(learned.pop(HEAD), learned[EMBEDDINGS])
    report = files.read_json(root / layout.TRAIN_REPORT, TrainReport)
    pairs = sum(weight.numel() for name, weight in adapter.items() if "lora_" in name)
    assert report.trainable_parameters == pairs + sum(weight.numel() for weight in learned.values())

    merge(params, root)
    before, merged = weights_in(root / layout.BASE), weights_in(root / layout.MERGED)
    assert merged.keys() == before.keys()
    for name, weight in learned.items():
        assert torch.equal(merged[name], weight.to(before[name].dtype))
        assert not torch.equal(merged[name], before[name])
    assert torch.equal(merged["model.norm.weight"], before["model.norm.weight"])


def test_a_module_that_is_neither_embeddings_nor_head_refuses_before_the_first_step(root: Path) -> None:
    with pytest.raises(
        TrainingRefused, match=r"'norm' is neither .* use some of embed_tokens, lm_head, or train\.full"
    ):
        train(as_params(document("norm")), root)
    assert not (root / layout.ADAPTER).exists()


def test_with_steps_or_a_divided_base_they_are_refused() -> None:
    value = document("lm_head", devices=2, shard="fsdp2")
    with pytest.raises(ParamsRefused, match=r"shard: fsdp2 is not offered with lora\.modules_to_save"):
        params_file.parse(written(value))
    value = document("lm_head", method=["sft", "sft"], steps=[{"method": "sft"}] * 2)
    with pytest.raises(ParamsRefused, match=r"train\.lora\.modules_to_save: is not offered with train\.steps"):
        params_file.parse(written(value))


def _untied(adapter: Path) -> None:
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"ensure_weight_tying": False}))


def _changed(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def spoil(adapter: Path) -> None:
        path = adapter / "adapter_model.safetensors"
        weights = load_file(path)
        change(weights)
        save_file(weights, path)

    return spoil


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, store: None) -> Path:
    """A root with an adapter whose embeddings learned, on a base whose head is tied to them."""
    root = training_tree.make(tmp_path_factory.mktemp("tied"), tiny_base)
    tie(root / layout.BASE)
    train(as_params(document("embed_tokens")), root)
    return root


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (_untied, "ensure_weight_tying is off, and the base's head is tied to its embeddings"),
        (_changed(lambda w: w[PREFIX + HEAD].add_(1)), "1 tensors fit no weight of the base: base_model.model.lm_head"),
        (_changed(lambda w: w.update({PREFIX + EMBEDDINGS: torch.ones(4, 32)})), r"embed_tokens\.weight: base \[\d+, 32\] against adapter \[4, 32\]"),
        (_changed(lambda w: [w[PREFIX + name].fill_(torch.inf) for name in (EMBEDDINGS, HEAD)]), "embed_tokens.weight: trained weights are not finite"),
    ],
)  # fmt: skip
def test_modules_that_do_not_fit_the_base_are_not_merged(
    root: Path, tied: Path, spoil: Callable[[Path], None], says: str
) -> None:
    for folder in (layout.BASE, layout.ADAPTER):
        shutil.copytree(tied / folder, root / folder, dirs_exist_ok=True)
    tie(root / layout.BASE)
    spoil(root / layout.ADAPTER)
    with pytest.raises(MergeRefused, match=says):
        merge(as_params(document("embed_tokens")), root)
    assert not (root / layout.MERGED).exists()
