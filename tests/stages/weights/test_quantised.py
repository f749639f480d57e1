"""QLoRA: trained on a base in 4 bits, merged into what the adapter saw, and refused wherever that is not certain."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from checks.formats.training_reports import ParityReport, QuantisedBase, TrainReport
from checks.process.errors import EvidenceRefused, MachineRefused, MergeRefused
from checks.storage import digest, files, layout
from stages.merge import merge
from stages.threads import one_thread
from stages.train import main, train
from stages.weights import nf4
from tests import pipeline_repository, training_tree
from tests.conftest import REPOSITORY, as_params, scaled_down

pytestmark = pytest.mark.slow


def _document(**settings: Any) -> dict:
    value = scaled_down()
    value["train"] |= {
        "quantization": {"kind": "nf4", "double": True},
        "learning_rate": 0.02,
        "max_steps": 6,
    } | settings
    value["merge"]["parity"] |= {"max_logprob_diff": 1e-3, "min_top1": 1.0}
    return value


@pytest.fixture(scope="module")
def store(store: str) -> Any:
    """The file's store, to which all trainings here are logged."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", store)
        yield store


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, store: str) -> Path:
    """A root with an adapter that was trained on the tiny base in 4 bits."""
    root = training_tree.make(tmp_path_factory.mktemp("trained"), tiny_base)
    train(as_params(_document()), root)
    return root


@pytest.fixture
def root(tmp_path: Path, trained: Path) -> Path:
    """A copy of it."""
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


def _expected(root: Path, *, quantise: bool) -> dict[str, torch.Tensor]:
    """Base + scale · B · A in float32, from the model in 4 bits as transformers and bitsandbytes make it."""
    import bitsandbytes
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    with one_thread():
        model = AutoModelForCausalLM.from_pretrained(
            root / layout.BASE, dtype=torch.float32, quantization_config=config
        )
    adapter = load_file(root / layout.ADAPTER / "adapter_model.safetensors")
    found = _base(root)
    for name, module in model.named_modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            if quantise:
                state = module.weight.quant_state
                found[f"{name}.weight"] = bitsandbytes.functional.dequantize_4bit(module.weight.data, state)
            a, b = (adapter[f"base_model.model.{name}.lora_{side}.weight"] for side in "AB")
            found[f"{name}.weight"] = found[f"{name}.weight"] + 2 * b @ a
    return found


@pytest.mark.parametrize("into", ["trained", "original"])
def test_what_ships_is_the_chosen_base_and_the_adapter_in_whole_weights(root: Path, into: str) -> None:
    document = _document()
    document["merge"]["base"] = into
    line = merge(as_params(document), root)
    report = files.read_json(root / layout.PARITY_REPORT, ParityReport)
    merged = load_file(root / layout.MERGED / "model.safetensors")
    expected = _expected(root, quantise=into == "trained")
    assert merged.keys() == expected.keys()
    for name, value in merged.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)
    assert "quantization_config" not in json.loads((root / layout.MERGED / "config.json").read_text())
    assert report.merged_into == into
    assert report.quantised is not None
    far = report.quantised.max_logprob_diff
    assert far < 1e-5 if into == "trained" else far > 1e-4, far
    assert f"into the {into} base, {far:.3f} nats" in line


def test_two_trainings_give_one_adapter_and_another_quantisation_another(root: Path, store: str) -> None:
    adapter = digest.of_tree(root / layout.ADAPTER).digest
    single = {"kind": "nf4", "double": False}
    for settings, same in (({}, True), ({"quantization": single}, False)):
        (root / layout.PARAMS).write_text(yaml.safe_dump(_document(**settings)))
        done = subprocess.run(
            [pipeline_repository.interpreter(), "-m", "stages.train"],  # its hashes have another seed than those here
            cwd=root,
            env=pipeline_repository.environment(PYTHONPATH=str(REPOSITORY), MLFLOW_TRACKING_URI=store),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert "on a base in 4 bits (nf4)" in done.stderr
        assert (digest.of_tree(root / layout.ADAPTER).digest == adapter) is same
    merge(as_params(_document(quantization=single)), root)


def test_dora_and_bf16_on_a_quantised_base_merge(root: Path) -> None:
    """The base lies in float32 and is trained in bf16: it is rounded to bf16 first, as in training."""
    document = _document(precision="bf16")
    document["train"]["lora"] |= {"variant": "dora"}
    document["merge"]["parity"] |= {"max_logprob_diff": 0.05, "min_top1": 0.9}
    train(as_params(document), root)
    names = load_file(root / layout.ADAPTER / "adapter_model.safetensors")
    assert {weight.dtype for weight in names.values()} == {torch.float32}
    assert sum("magnitude" in name for name in names) == 14
    merge(as_params(document), root)


def test_quantising_does_not_depend_on_the_number_of_threads(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    functional, seen = nf4.library().functional, set()
    quantise = functional.quantize_4bit

    def watched(*args: Any, **kwargs: Any) -> Any:
        seen.add(torch.get_num_threads())
        return quantise(*args, **kwargs)

    monkeypatch.setattr(functional, "quantize_4bit", watched)
    before = torch.get_num_threads()
    torch.set_num_threads(5)
    try:
        settings = as_params(_document()).train.quantization
        assert settings is not None
        model = nf4.load(trained / layout.BASE, settings, "fp32")[0]
        assert nf4.described(model, settings, "fp32", _of(trained).base) == _of(trained)
        name = next(iter(_of(trained).tensors))
        nf4.dequantised(name, _base(trained)[name], _of(trained))
        assert torch.get_num_threads() == 5
    finally:
        torch.set_num_threads(before)
    assert seen == {1}


def _edited(**changes: Any) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        path = root / layout.ADAPTER / nf4.NAME
        value = json.loads(path.read_text()) | changes
        value["quantised"]["weights"] = digest.of_json(value["tensors"])
        path.write_text(json.dumps(value))

    return spoil


def _other_base(root: Path) -> None:
    (root / layout.BASE / "README.md").write_text("another")


def _unknown_tensor(root: Path) -> None:
    _edited(tensors=_of(root).tensors | {"model.layers.7.mlp.up_proj.weight": "sha256:" + "0" * 64})(root)


def _other_codes(root: Path) -> None:
    _edited(tensors=_of(root).tensors | {"model.layers.1.mlp.up_proj.weight": "sha256:" + "0" * 64})(root)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (_other_base, r"quantization\.json: trained on the base sha256:.*, and models/base is sha256:"),
        (_unknown_tensor, r"1 tensors are not in the base: model\.layers\.7\.mlp\.up_proj\.weight"),
        (_other_codes, r"model\.layers\.1\.mlp\.up_proj\.weight: quantises to other codes here \(.*than in training"),
    ],
)
def test_a_base_that_is_not_what_the_adapter_was_trained_on_refuses(
    root: Path, spoil: Callable[[Path], None], says: str
) -> None:
    spoil(root)
    with pytest.raises(MergeRefused, match=says):
        merge(as_params(_document()), root)
    assert not (root / layout.MERGED).exists()


def test_a_description_that_contradicts_itself_refuses(root: Path) -> None:
    path = root / layout.ADAPTER / nf4.NAME
    value = json.loads(path.read_text())
    value["tensors"].popitem()
    path.write_text(json.dumps(value))
    with pytest.raises(EvidenceRefused, match=r"quantised\.weights is not the digest of tensors"):
        merge(as_params(_document()), root)


@pytest.mark.parametrize(
    ("settings", "what"),
    [({}, r"train\.quantization"), ({"quantization": None, "optimizer": "adamw_8bit"}, r"train\.optimizer")],
)
def test_without_bitsandbytes_nothing_is_loaded_trained_or_merged(
    root: Path, monkeypatch: pytest.MonkeyPatch, settings: dict, what: str
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "bitsandbytes" else find(name, *a)
    )
    before = digest.of_tree(root).digest
    monkeypatch.setattr("stages.train.sealed", lambda _: pytest.fail("went on"))
    with pytest.raises(MachineRefused, match=rf"{what} needs bitsandbytes, which is not installed; pip .*\[qlora\]"):
        train(as_params(_document(**settings)), root)
    assert digest.of_tree(root).digest == before
    with pytest.raises(MachineRefused, match="merging it needs bitsandbytes, which is not installed"):
        merge(as_params(_document()), root)


def test_bitsandbytes_fetches_no_code_through_the_package_kernels(tmp_path: Path) -> None:
    (tmp_path / "kernels.py").write_text("def get_kernel(*_, **__):\n    print('fetched')\n    raise OSError\n")
    script = "import sys\nfrom stages.weights import nf4\nnf4.library()\nassert 'kernels' not in sys.modules\nimport kernels\n"
    path = os.pathsep.join([str(tmp_path), str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("settings", "hidden"), [({"quantization": None}, True), ({}, False), ({"quantization": None, "optimizer": "adamw_8bit"}, False)]
)  # fmt: skip
def test_a_training_that_does_not_use_bitsandbytes_hides_it_from_peft(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict, hidden: bool
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", sys)
    del sys.modules["bitsandbytes"]
    monkeypatch.setattr("stages.train.train", lambda *_: "")
    main(as_params(_document(**settings)), tmp_path)
    assert ("bitsandbytes" in sys.modules) == hidden
