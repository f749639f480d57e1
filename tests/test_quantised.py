"""QLoRA: trained on a base in 4 bits, merged into what the adapter saw, and refused wherever that is not certain."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from checks import digest, files, layout
from checks.errors import MachineRefused, MergeRefused
from checks.evidence import ParityReport, QuantisedBase, TrainReport
from stages.merge import merge
from stages.train import train
from stages.weights import nf4
from stages.weights.threads import one_thread
from tests import training_tree
from tests.conftest import REPOSITORY, as_params, scaled_down

pytestmark = pytest.mark.slow

PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def _document(**settings: Any) -> dict:
    value = scaled_down()
    value["train"] |= {"quantization": {"kind": "nf4", "double": True}, "learning_rate": 0.02, "max_steps": 6} | settings
    value["merge"]["parity"] |= {"max_logprob_diff": 1e-3, "min_top1": 1.0}
    return value


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One MLflow store for all tests here: making its tables takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        uri = f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        yield uri


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, store: str) -> Path:
    """A root with an adapter that was trained on the tiny base in 4 bits."""
    root = training_tree.make(tmp_path_factory.mktemp("trained"), tiny_base)
    train(as_params(_document()), root)
    return root


@pytest.fixture
def root(tmp_path: Path, trained: Path) -> Path:
    """A copy of it."""
    import shutil

    shutil.copytree(trained, tmp_path / "root")
    return tmp_path / "root"


def _of(root: Path) -> QuantisedBase:
    return files.read_json(root / layout.ADAPTER / nf4.NAME, QuantisedBase)


def _base(root: Path) -> dict[str, torch.Tensor]:
    return {k: v for path in sorted((root / layout.BASE).glob("*.safetensors")) for k, v in load_file(path).items()}


def test_the_adapter_says_what_it_was_trained_on_and_is_float32(trained: Path) -> None:
    quantised = _of(trained)
    report = files.read_json(trained / layout.TRAIN_REPORT, TrainReport)
    adapter = digest.of_tree(trained / layout.ADAPTER)
    assert sorted(adapter.files) == ["adapter_config.json", "adapter_model.safetensors", "quantization.json"]
    assert (report.adapter, report.quantised) == (adapter.digest, quantised.quantised)
    assert quantised.base == report.base == digest.of_tree(trained / layout.BASE).digest
    assert report.versions["bitsandbytes"] == quantised.quantised.bitsandbytes == nf4.version()
    named = {f"model.layers.{i}.{m}.weight" for i in (0, 1) for m in ("self_attn.q_proj", "mlp.down_proj")}
    assert named < quantised.tensors.keys()
    assert len(quantised.tensors) == 14
    assert not any("lm_head" in name or "embed" in name for name in quantised.tensors)
    weights = load_file(trained / layout.ADAPTER / "adapter_model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    # Learned in float32, not rounded to bf16 at every step.
    assert any(not torch.equal(w, w.bfloat16().float()) for w in weights.values())
    assert report.total_parameters == sum(w.numel() for w in [*_base(trained).values(), *weights.values()])
