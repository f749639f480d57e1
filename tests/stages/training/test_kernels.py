"""Liger's kernels: where they are refused, and that a training with them learns what it learns without."""

import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from checks.formats.training_reports import TrainReport
from checks.process.errors import MachineRefused, ParamsRefused, TrainingRefused
from checks.storage import files, layout
from stages.train import train
from stages.training import checkpoints, kernels
from tests import training_tree
from tests.conftest import REPOSITORY, as_params, scaled_down, written
from tests.training_tree import METHODS

pytestmark = pytest.mark.slow

slow = pytest.mark.slow
installed = pytest.mark.skipif(
    importlib.util.find_spec("liger_kernel") is None,
    reason="liger-kernel is not installed: `pip install -c constraints.txt -e '.[liger]'`, Triton included",
)


def _document(**change: Any) -> dict[str, Any]:
    document = scaled_down()
    document["validate"]["preferences"] = training_tree.BOUNDS
    document["train"] |= {"kernels": "liger", "batch_size": 2, "max_steps": 2} | change
    return document


@pytest.fixture
def root(tmp_path: Path, tiny_base: Path, store: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository's root with the tiny base and sealed splits of 24, 6 and 6 rows."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    return training_tree.make(tmp_path / "root", tiny_base, preferences=True)


def _interpreted(root: Path, document: dict[str, Any]) -> dict[str, Any]:
    """Train with Triton's interpreter: what that process said."""
    (root / layout.PARAMS).write_text(written(document))
    done = subprocess.run(
        [sys.executable, "-m", "tests.liger_interpreted", str(root)], cwd=root,
        env=os.environ | {checkpoints.MINUTES: "0"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


def _learned(root: Path) -> tuple[TrainReport, list[list[str]], dict[str, Any]]:
    """The report, the loss curve, and the adapter's weights."""
    from safetensors.torch import load_file

    report = files.read_json(root / layout.TRAIN_REPORT, TrainReport)
    curve = [line.split(",") for line in (root / layout.LOSS_CURVE).read_text().splitlines()]
    (weights,) = (root / layout.ADAPTER).glob("*.safetensors")
    return report, curve, load_file(weights)


WAYS: dict[str, dict[str, Any]] = {
    "sft": {},
    "packing": {"packing": "bfd"},
    "nf4": {"quantization": {"kind": "nf4", "double": True}},
    "full": {"full": {"layers": 1}, "learning_rate": 0.002},
    "two ranks": {"devices": 2, "batch_size": 1},
    **METHODS,
}


@slow
@installed
@pytest.mark.parametrize("way", WAYS)
def test_a_training_with_liger_learns_what_it_learns_without(root: Path, way: str) -> None:
    import torch

    without, document = _document(kernels=None, **WAYS[way]), _document(**WAYS[way])
    if way == "full":
        del without["train"]["lora"], document["train"]["lora"]
    train(as_params(without), root)
    plain, its_curve, weights = _learned(root)
    said = _interpreted(root, document)
    assert said["undone"]
    kernels_of_layers = {
        f"_{name}_{direction}_kernel.{rank}"
        for name in ("rms_norm", "swiglu")
        for direction in ("forward", "backward")
        for rank in range(document["train"].get("devices", 1))
    }
    assert kernels_of_layers < {*said["ran"]}
    faster, curve, others = _learned(root)
    assert curve[0] == its_curve[0]
    for line, its_line in zip(curve[1:], its_curve[1:], strict=True):
        assert [float(cell or 0) for cell in line] == pytest.approx([float(cell or 0) for cell in its_line], abs=1e-4)
    assert faster.versions == plain.versions | {
        name: importlib.metadata.version(name) for name in ("liger-kernel", "triton")
    }
    assert weights.keys() == others.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(weight, others[name], rtol=0, atol=1e-4)


def test_without_its_package_it_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "liger_kernel" else find(name, *a)
    )
    with pytest.raises(
        MachineRefused, match=r"train.kernels needs liger-kernel, which is not installed; pip .*\[liger\]"
    ):
        train(as_params(_document()), root)


def test_without_a_gpu_it_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find, some = importlib.util.find_spec, importlib.util.find_spec("json")
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: some if name == "liger_kernel" else find(name, *a)
    )
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(MachineRefused, match=r"train\.kernels: liger needs a GPU, and there is none; set .* to null"):
        train(as_params(_document()), root)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_model_that_liger_does_not_know_is_refused(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    known = types.ModuleType("liger_kernel.transformers.monkey_patch")
    known.MODEL_TYPE_TO_APPLY_LIGER_FN = {"llama": None}  # type: ignore[attr-defined]
    for name in ("liger_kernel", "liger_kernel.transformers"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, known.__name__, known)
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "9.9")
    model = types.SimpleNamespace(config=types.SimpleNamespace(model_type=kind))
    train_params = as_params(_document()).train
    if kind == "llama":
        kernels.refuse_unknown(train_params, model)
        return
    with pytest.raises(TrainingRefused, match=r"liger-kernel 9\.9 has no kernels for .*'gpt2'"):
        kernels.refuse_unknown(train_params, model)


def test_a_divided_base_is_refused() -> None:
    with pytest.raises(ParamsRefused, match="shard: fsdp2 is not offered with kernels"):
        as_params(_document(shard="fsdp2", devices=2))


@pytest.mark.parametrize(
    ("change", "packages"),
    [
        ({"kernels": None}, ()),
        ({}, ("liger-kernel", "triton")),
        ({"kernels": None, "optimizer": "adamw_8bit"}, ("bitsandbytes",)),
        ({"optimizer": "adamw_8bit"}, ("bitsandbytes", "liger-kernel", "triton")),
    ],
)
def test_what_computes_the_weights_is_in_the_key_by_its_version(
    change: dict[str, Any], packages: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    values: dict[str, Any] = {}
    monkeypatch.setattr(importlib.metadata, "version", lambda name: f"version of {name}")
    monkeypatch.setattr(checkpoints, "key", lambda of, _modules: values.update(of) or "key")
    training_tree.step(as_params(_document(**change))).checkpoint_key()
    extras = {"bitsandbytes", "liger-kernel", "triton"}
    assert {name: values["versions"][name] for name in extras & values["versions"].keys()} == {
        name: f"version of {name}" for name in packages
    }
    assert values["train"].get("kernels", "no such key") == ("liger" if "triton" in packages else "no such key")
