"""Memory of a training: its weights held against the device before it loads, its peak measured after each step."""

from pathlib import Path
from typing import Any

import pytest

from checks import files, layout
from checks.errors import MachineRefused, TrainingRefused
from checks.formats.training_reports import TrainMeasured, TrainMemory
from checks.machine import devices
from checks.training import memory
from checks.training.interface import Train
from checks.training.memory import GB, Limit
from stages.train import _key, train
from tests import training_tree
from tests.conftest import as_params, scaled_down
from tests.training_tree import METHODS

NF4 = {"kind": "nf4", "double": True}
TAKE = "take a smaller base or a larger device"


class Sizes:
    """What headers say of a base, with LoRA's parameters for each layer."""

    def __init__(self, total: int, inner: int, adapter: int, layers: int) -> None:
        self.total, self.inner, self._adapter, self._layers = total, inner, adapter, layers

    def trained(self, section: Train) -> int:
        return self._adapter * (section.layers or self._layers) // self._layers if section.lora else self.total


SMOLLM2 = Sizes(134_515_008, 106_202_880, 4_884_480, 30)
LLAMA_8B = Sizes(8_030_261_248, 6_979_588_096, 41_943_040, 32)


def _train(**change: Any) -> Train:
    value = scaled_down()
    lora = change.pop("lora", {})
    value["train"] |= {"precision": "bf16", "batch_size": 16} | change
    value["train"]["lora"] = lora if lora is None else value["train"]["lora"] | {"layers": None} | lora
    return as_params(value).train


def _least(sizes: Sizes, section: Train, patch: pytest.MonkeyPatch) -> int:
    patch.setattr("checks.training.tensors.read", lambda _: sizes)
    found = memory.least(Path("base"), section)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("change", "measured"),
    [  # MB of a process, SmolLM2-135M, two steps on a CPU: docs/measurements/memory.md
        ({}, 1442),
        ({"gradient_checkpointing": True}, 1275),
        ({"lora": {"layers": 10}}, 1553),
        ({"gradient_checkpointing": True, "lora": {"layers": 20}}, 1224),
        ({"precision": "fp32", "lora": {"layers": 10}}, 1583),
        ({"quantization": NF4}, 1694),
    ],
)
def test_no_training_that_was_measured_took_less_than_the_least(
    change: dict[str, Any], measured: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _least(SMOLLM2, _train(**change), monkeypatch) < measured * 10**6


@pytest.mark.parametrize(
    ("change", "more"),
    [
        ({}, 0),
        ({"precision": "fp32"}, 2 * LLAMA_8B.total),
        ({"optimizer": "adamw_8bit"}, -8 * 41_943_040),
        ({"quantization": NF4}, -1.5 * LLAMA_8B.inner),
        ({"devices": 2, "shard": "fsdp2"}, -(LLAMA_8B.total + 8 * 41_943_040)),
        ({"lora": None, "full": {"layers": None}}, 16 * (LLAMA_8B.total - 41_943_040)),
        ({"lora": None, "full": {"layers": None}, "precision": "fp32"}, 14 * LLAMA_8B.total - 16 * 41_943_040),
    ],
)
def test_the_least_is_what_the_formats_of_weights_and_moments_say(
    change: dict[str, Any], more: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = 2 * LLAMA_8B.total + 16 * 41_943_040
    assert _least(LLAMA_8B, _train(**change), monkeypatch) == pytest.approx(plain + more, abs=1)


@pytest.mark.parametrize(
    ("change", "fix"),
    [
        ({}, f"set train.quantization: {{kind: nf4, double: true}}, or {TAKE}"),
        ({"quantization": NF4}, TAKE),
        ({"precision": "fp16"}, TAKE),  # is not offered with a base in 4 bits
        ({"lora": None, "full": {"layers": None}}, f"train an adapter (train.lora), or {TAKE}"),
    ],
)
@pytest.mark.parametrize("chosen", [True, False])
def test_weights_that_do_not_fit_are_refused_with_what_makes_them_smaller(
    change: dict[str, Any], fix: str, chosen: bool
) -> None:
    most = Limit(10 * GB, "95% of a card", chosen)
    refusal = memory.refusal(10 * GB + 1, _train(**change), most)
    assert type(refusal) is (TrainingRefused if chosen else MachineRefused)
    assert refusal.what == "training needs at least 10 GB of memory, for its weights alone, above 95% of a card"
    assert refusal.todo == fix
    assert memory.refusal(10 * GB, _train(**change), most) is None
    assert memory.refusal(10 * GB + 1, _train(**change), None) is None


def test_only_changes_that_are_left_to_make_are_named() -> None:
    rows, batch = "leave longer rows out (train.max_length)", "lower train.batch_size and raise train.gradient_acc"
    assert memory.savings(_train()).startswith(f"set train.gradient_checkpointing: true, or {batch}")
    assert memory.savings(_train(gradient_checkpointing=True)).startswith(batch)
    assert memory.savings(_train(gradient_checkpointing=True, batch_size=1)) == rows


@pytest.mark.parametrize(
    ("total", "gigabytes", "size", "chosen"),
    [
        (None, None, None, False),
        (24 * GB, None, 22.8 * GB, False),
        (None, 8.0, 8 * GB, True),
        (24 * GB, 8.0, 8 * GB, True),
        (24 * GB, 80.0, 22.8 * GB, False),
    ],
)
def test_the_limit_is_the_lower_one_of_device_and_parameter(
    total: int | None, gigabytes: float | None, size: float | None, chosen: bool
) -> None:
    found = memory.limit(total, "a card", _train(max_memory_gb=gigabytes))
    assert (found and found.size) == (size and int(size))
    assert (found is not None and found.chosen) == chosen


@pytest.mark.parametrize(
    ("device", "precision", "peak"),
    [
        ("cuda (NVIDIA A100-SXM4-80GB)", "bf16", 312e12),
        ("cuda (NVIDIA A100 80GB PCIe)", "fp16", 312e12),
        ("cuda (NVIDIA H100 80GB HBM3)", "bf16", 989e12),
        ("cuda (NVIDIA H100 PCIe)", "bf16", 756e12),
        ("cuda (NVIDIA H100 NVL)", "bf16", None),
        ("cuda (NVIDIA H200)", "bf16", 989e12),
        ("cuda (NVIDIA L40S)", "bf16", 362e12),
        ("cuda (NVIDIA L4)", "bf16", 121e12),
        ("cuda (NVIDIA L40)", "bf16", None),
        ("cuda (NVIDIA A10G)", "bf16", None),
        ("cuda (NVIDIA GeForce RTX 4090)", "bf16", 165.2e12),
        ("cuda (NVIDIA GeForce RTX 4090 Laptop GPU)", "bf16", None),
        ("cuda (NVIDIA A100-SXM4-80GB)", "fp32", None),
        ("cpu (2 threads)", "bf16", None),
    ],
)
def test_the_share_of_a_known_devices_peak_is_told(device: str, precision: str, peak: float | None) -> None:
    assert devices.peak(device, precision) == peak
    used = devices.utilisation(1000.0, 4e10, device, precision)
    assert used == (None if peak is None else pytest.approx(4e13 / peak))
    assert devices.utilisation(None, 4e10, device, precision) is None


def test_what_only_refuses_a_training_is_no_part_of_a_checkpoints_key() -> None:
    keys = {
        _key(as_params(value), "sha256:0", {}, "cpu", None)
        for value in (_document(), _document(max_memory_gb=8.0), _document(allow=["divergence"]))
    }
    assert len(keys) == 1


def _document(**change: Any) -> dict[str, Any]:
    value = scaled_down()
    value["train"] |= change
    return value


@pytest.fixture
def root(tmp_path: Path, tiny_base: Path, store: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository's root with the tiny base and sealed splits."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    return training_tree.make(tmp_path, tiny_base, preferences=True)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_a_training_records_and_says_what_it_took_and_predicts_nothing(root: Path, method: str) -> None:
    value = _document(max_steps=2, epochs=None, **METHODS.get(method, {}))
    value["validate"]["preferences"] = training_tree.BOUNDS
    line = train(as_params(value), root)
    measured = files.read_json(root / layout.TRAIN_MEASURED, TrainMeasured)
    found = measured.memory
    assert found is not None
    assert found.peak is not None
    assert found.total is not None
    assert found.peak < found.total
    assert f", peak of memory {memory.gigabytes(found.peak)}" in line
    assert "predicted" not in line + (root / layout.TRAIN_MEASURED).read_text()
    assert measured.flop_utilisation is None  # nobody knows a CPU's
    if method == "sft":
        assert measured.tokens_per_second is not None
        assert measured.tokens_per_second > 0


def test_a_record_with_a_prediction_is_still_read() -> None:
    found = TrainMemory.model_validate_json(
        '{"predicted": 1, "peak": 2, "total": 3, "rows": 4, "tokens": 5, "logits": 6}'
    )
    assert (found.peak, found.total) == (2, 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("gigabytes", "says", "loads"),
    [
        (0.0001, r"training needs at least 0.00 GB of memory, for its weights alone, above train.max_memory_gb 0.0001; ", False),
        (0.1, r"training took [\d.]+ GB of memory in step 1, above train.max_memory_gb 0.1; set train.gradient_check", True),
    ],
)  # fmt: skip
def test_a_training_that_takes_more_than_its_limit_ends_at_the_latest_in_its_first_step(
    root: Path, gigabytes: float, says: str, loads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers

    loaded: list[Any] = []
    real = transformers.AutoTokenizer.from_pretrained

    def load(*args: Any, **more: Any) -> Any:
        loaded.append(args)
        return real(*args, **more)

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", load)
    with pytest.raises(TrainingRefused, match=says):
        train(as_params(_document(max_memory_gb=gigabytes)), root)
    assert bool(loaded) == loads
    assert not (root / layout.ADAPTER).exists()
    assert not (root / layout.TRAIN_MEASURED).exists()


def _no_gpu_memory() -> Exception:
    import torch

    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "refused"),
    [
        (_no_gpu_memory, True),
        (lambda: RuntimeError("[enforce fail at alloc_cpu.cpp:128] DefaultCPUAllocator: can't allocate memory"), True),
        (MemoryError, True),
        (lambda: RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_too_little_memory_is_one_line_with_what_needs_less(
    root: Path, error: Any, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers

    def fail(*_: Any, **__: Any) -> Any:
        raise error()

    monkeypatch.setattr(transformers.Trainer, "training_step", fail)
    with pytest.raises(MachineRefused if refused else RuntimeError) as raised:
        train(as_params(_document()), root)
    if refused:
        assert "training does not fit into the memory of this machine: it took " in str(raised.value)
        assert "; set train.gradient_checkpointing: true, or lower train.batch_size" in str(raised.value)
        assert "\n" not in str(raised.value)


def test_the_memory_of_this_machine_is_its_total_or_its_control_groups() -> None:
    from stages.training import memory as counted

    (physical,) = counted._numbers(Path("/proc/meminfo"), "MemTotal:", 1024)
    one, two = (as_params(_document(devices=devices)).train for devices in (1, 2))
    total, peak = counted._total(one), counted.peak()
    assert total is not None
    assert peak is not None
    assert peak < total <= physical
    assert counted._total(two) == total // 2  # on a CPU ranks share it


@pytest.mark.parametrize(
    ("text", "found"),
    [("Max: 12 kB\n", [12288]), ("a\nMax:\t3\n", [3072]), ("Max: max\n", []), ("Max:\n", []), (None, [])],
)
def test_a_number_is_read_or_there_is_none(tmp_path: Path, text: str | None, found: list[int]) -> None:
    from stages.training import memory as counted

    if text is not None:
        (tmp_path / "file").write_text(text)
    assert counted._numbers(tmp_path / "file", "Max:", 1024) == found
