"""Memory of a training: counted before its first step, held against the device, measured, and scaled the next time."""

import re
from pathlib import Path
from typing import Any

import pytest

from checks import files, layout
from checks.errors import MachineRefused, TrainingRefused
from checks.formats.training_reports import TrainMeasured
from checks.machine import devices
from checks.training import memory
from checks.training.interface import Train
from checks.training.memory import GB, LIBRARIES, Batch, Foretold, Limit, Sizes
from stages.train import _key, train
from tests import training_tree
from tests.conftest import as_params, scaled_down
from tests.training_tree import METHODS

SMOLLM2 = Sizes(134_515_008, 106_202_880, 4_884_480, 30, 576, 1536)
BOTH = "train.gradient_checkpointing: true and train.quantization: {kind: nf4, double: true}"
LLAMA_8B = Sizes(8_030_261_248, 6_979_588_096, 41_943_040, 32, 4096, 14336)


def _train(**change: Any) -> Train:
    value = scaled_down()
    lora = change.pop("lora", {})
    value["train"] |= {"precision": "bf16", "batch_size": 16} | change
    value["train"]["lora"] = lora if lora is None else value["train"]["lora"] | {"layers": None} | lora
    return as_params(value).train


def _large(tokens: int = 2048, cpu: bool = False, **change: Any) -> Foretold:
    section = _train(**change)
    return Foretold(section, LLAMA_8B, Batch(section.batch_size, tokens, 0), cpu)


@pytest.mark.parametrize(
    ("rows", "tokens", "change", "measured"),
    [  # MB of a process, SmolLM2-135M, two steps on a CPU: docs/measurements/memory.md
        (4, 82, {}, 1442),
        (16, 83, {}, 2467),
        (16, 83, {"gradient_checkpointing": True}, 1275),
        (16, 83, {"lora": {"layers": 10}}, 1553),
        (4, 256, {}, 2145),
        (8, 128, {"gradient_checkpointing": True, "lora": {"layers": 20}}, 1224),
        (4, 128, {"precision": "fp32", "lora": {"layers": 10}}, 1583),
        (8, 64, {"quantization": {"kind": "nf4", "double": True}}, 1700),
    ],
)
def test_the_formula_is_within_a_tenth_of_what_was_measured(
    rows: int, tokens: int, change: dict[str, Any], measured: int
) -> None:
    layers = change.get("lora", {}).get("layers") or 30
    sizes = SMOLLM2._replace(adapter=SMOLLM2.adapter * layers // 30)
    logits = rows * 4 * 49152 * 14  # an answer of four tokens
    found = Foretold(_train(batch_size=rows, **change), sizes, Batch(rows, tokens, logits), True).peak()
    assert found / 1e6 == pytest.approx(measured, rel=0.1)


@pytest.mark.parametrize(
    ("change", "cpu", "bytes_more"),
    [
        ({}, False, 0),
        ({"precision": "fp32"}, False, 2 * LLAMA_8B.total),
        ({"optimizer": "adamw_8bit"}, False, -6 * LLAMA_8B.adapter),
        ({"quantization": {"kind": "nf4", "double": True}}, False, -(2 - 0.52) * LLAMA_8B.inner),
        ({"quantization": {"kind": "nf4", "double": True}}, True, LIBRARIES + 0.52 * LLAMA_8B.inner),
    ],
)
def test_weights_and_moments_take_what_their_formats_say(change: dict[str, Any], cpu: bool, bytes_more: float) -> None:
    plain = 2 * LLAMA_8B.total + 16 * LLAMA_8B.adapter
    found = Foretold(_train(**change), LLAMA_8B, Batch(0, 0, 0), cpu).peak()
    assert found - plain == pytest.approx(bytes_more, abs=1)


@pytest.mark.parametrize(
    ("change", "bytes_each"),
    [({}, 2 + 16), ({"precision": "fp32"}, 16), ({"optimizer": "adamw_8bit"}, 2 + 10)],
)
def test_a_base_whose_own_weights_learn_takes_their_moments_and_a_copy_in_16_bits(
    change: dict[str, Any], bytes_each: int
) -> None:
    own = LLAMA_8B._replace(adapter=LLAMA_8B.total)
    section = _train(lora=None, full={"layers": None}, **change)
    found = Foretold(section, own, Batch(0, 0, 0), False)
    assert found.peak() == bytes_each * LLAMA_8B.total
    least = memory.refusal(found, Limit(76 * GB, "95% of a card", False))
    assert least is not None
    assert least.todo.startswith("take a smaller base or a larger device")


@pytest.mark.parametrize(
    ("foretold", "gigabytes", "first", "others"),
    [
        # A card of 80 GB: what is learned stays the same, and time is what it costs.
        (_large(), 76, "train.gradient_checkpointing: true", 1),
        # Already checkpointed: fewer rows at once, as many in a step.
        (
            _large(gradient_checkpointing=True),
            30,
            "train.batch_size: 8 and train.gradient_accumulation: 2",
            2,
        ),
        # A card of 24 GB, where no single change is enough.
        (
            _large(),
            22.8,
            "train.batch_size: 2 and train.gradient_accumulation: 8 and train.gradient_checkpointing: true",
            0,
        ),
        # A card of 16 GB does not hold the weights in 16 bits.
        (
            _large(),
            15.2,
            f"train.batch_size: 4 and train.gradient_accumulation: 4 and {BOTH}",
            0,
        ),
        # And with rows of 16,384 tokens only shorter ones fit.
        (
            _large(16384),
            15.2,
            f"train.batch_size: 1 and train.gradient_accumulation: 16 and {BOTH} and train.max_length: ",
            0,
        ),
        (_large(), 3, None, 0),
        # fp16 is not offered with a base in 4 bits: another change is named.
        (_large(precision="fp16", batch_size=1, gradient_checkpointing=True), 20.4, "train.max_length: ", 0),
    ],
)
def test_the_least_invasive_change_that_fits_is_named_first(
    foretold: Foretold, gigabytes: float, first: str | None, others: int
) -> None:
    limit = Limit(int(gigabytes * GB), "95% of a card", False)
    refusal = memory.refusal(foretold, limit)
    assert isinstance(refusal, MachineRefused)
    assert re.match(r"training needs [\d,.]+ GB of memory, above 95% of a card; ", str(refusal))
    assert "\n" not in str(refusal)
    if first is None:
        assert "take a smaller base or a larger device" in refusal.todo
        return
    found = memory.fitting(foretold, limit.size)
    assert found[0].startswith(first)
    assert len(found) == 1 + others
    assert refusal.todo.startswith(f"set {found[0]}")


@pytest.mark.parametrize("method", ["grpo", "kto"])
def test_no_change_is_named_that_the_method_does_not_take(method: str) -> None:
    value = scaled_down()
    value["train"] |= {"batch_size": 4, "precision": "bf16", **METHODS[method]}
    value["validate"]["preferences"] = training_tree.BOUNDS
    section = as_params(value).train
    foretold = Foretold(section, LLAMA_8B, Batch(4, 4096, 0), False)
    found = memory.fitting(foretold, foretold.needed(section.model_copy(update={"batch_size": 1})))
    assert not any("batch_size: 1 " in each for each in found)  # both compare the answers of a batch


def test_what_is_named_fits_and_one_row_more_does_not() -> None:
    foretold = _large(gradient_checkpointing=True)
    limit = 30 * GB
    smaller, _, shorter = memory.fitting(foretold, limit)
    assert foretold.needed(_train(gradient_checkpointing=True, batch_size=8)) <= limit < foretold.needed()
    assert smaller.startswith("train.batch_size: 8 ")
    tokens = int(re.findall(r"max_length: (\d+)", shorter)[0])
    assert foretold.needed(tokens=tokens) <= limit < foretold.needed(tokens=tokens + 1)


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


def test_the_limit_of_memory_is_no_part_of_a_checkpoints_key() -> None:
    keys = {
        _key(as_params(value), "sha256:0", {}, "cpu", None)
        for value in (_document(max_memory_gb=None), _document(max_memory_gb=8.0))
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
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"precision": "bf16"},
        {"lora": {"layers": 1}},
        {"lora": {"variant": "dora"}},
        {"lora": {"dropout": 0.5}},
        {"gradient_checkpointing": True},
        {"quantization": {"kind": "nf4", "double": True}},
        {"lora": None, "full": {"layers": 1}},
    ],
    ids=str,
)
def test_what_is_counted_without_data_is_what_autograd_keeps(root: Path, change: dict[str, Any]) -> None:
    import torch

    from stages.training import memory as counted

    value = _document()
    value["train"]["lora"] |= {"layers": None} | (change.pop("lora", {}) or {})
    value["train"] |= change | ({"lora": None} if "full" in change else {})
    trainer = training_tree.trainer(as_params(value).train, root, root / "scratch")
    model = trainer.model
    weights = {each.untyped_storage().data_ptr() for each in (*model.parameters(), *model.buffers())}
    found: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    training, state = model.training, torch.get_rng_state()
    before = {name: each.clone() for name, each in model.named_parameters()}
    count = counted.kept(trainer, Batch(4, 40, 0))
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training is training
    assert all(torch.equal(each, before[name]) for name, each in model.named_parameters())
    ids = torch.ones((4, 40), dtype=torch.long)
    mask = torch.ones_like(ids)
    mask[1, -1] = 0  # as in most batches: without padding transformers leaves the mask out
    model.train()
    with (
        trainer.accelerator.autocast(),
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
    ):
        out = model(input_ids=ids, attention_mask=mask, logits_to_keep=1, use_cache=False)
        size = sum(found.values())
        del out
    assert count == pytest.approx(size, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "rows", "tokens"),
    [("sft", 4, None), ("dpo", 8, None), ("kto", 4, None), ("grpo", 4, 128), ("orpo", 8, None)],
)
def test_a_training_records_what_it_was_predicted_to_take_and_what_it_took(
    root: Path, method: str, rows: int, tokens: int | None
) -> None:
    value = _document(max_steps=2, **METHODS.get(method, {}))
    value["validate"]["preferences"] = training_tree.BOUNDS
    line = train(as_params(value), root)
    measured = files.read_json(root / layout.TRAIN_MEASURED, TrainMeasured)
    found = measured.memory
    assert found is not None
    assert found.predicted is not None
    assert found.peak is not None
    assert found.total is not None
    assert LIBRARIES < found.predicted < 2 * LIBRARIES
    assert found.peak < found.total
    assert found.rows == rows
    assert found.tokens == tokens or (tokens is None and 20 < found.tokens < 60)
    assert f"peak of memory {memory.gigabytes(found.peak)}, predicted {memory.gigabytes(found.predicted)}" in line
    assert measured.flop_utilisation is None  # nobody knows a CPU's
    if method == "sft":
        assert measured.tokens_per_second is not None
        assert measured.tokens_per_second > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("gigabytes", "says", "loads"),
    [
        (0.5, r"training needs at least 0.80 GB of memory, above train.max_memory_gb 0.5; take a smaller base", False),
        (0.8006, r"training needs 0.81 GB of memory, above train.max_memory_gb 0.8006; set train.", True),
    ],
)
def test_a_training_that_does_not_fit_is_refused_before_its_first_step(
    root: Path, gigabytes: float, says: str, loads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers

    loaded: list[Any] = []
    real = transformers.AutoTokenizer.from_pretrained

    def load(*args: Any, **more: Any) -> Any:
        loaded.append(args)
        return real(*args, **more)

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", load)
    monkeypatch.setattr(transformers.Trainer, "create_optimizer", lambda *_: pytest.fail("it makes an optimizer"))
    value = _document(max_memory_gb=gigabytes, batch_size=24, lora=_document()["train"]["lora"] | {"layers": None})
    with pytest.raises(TrainingRefused, match=says):
        train(as_params(value), root)
    assert bool(loaded) == loads
    assert not (root / layout.ADAPTER).exists()
    assert not (root / layout.TRAIN_MEASURED).exists()


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
