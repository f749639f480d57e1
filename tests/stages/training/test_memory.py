"""Memory of a training: its peak is measured after each step, and a training that takes too much is refused."""

from pathlib import Path
from typing import Any

import pytest

from checks.formats.training_reports import TrainMeasured
from checks.process.errors import MachineRefused, TrainingRefused
from checks.storage import files, layout
from stages.train import train
from tests import training_tree
from tests.conftest import as_params, scaled_down
from tests.training_tree import METHODS


def _document(**change: Any) -> dict[str, Any]:
    value = scaled_down()
    value["train"] |= change
    return value


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "first", "last"),
    [
        ({"batch_size": 16}, "set train.gradient_checkpointing: true", "set train.quantization: {kind: nf4, double: true}"),
        ({"gradient_checkpointing": True, "batch_size": 16}, "lower train.batch_size and raise train.gradient_acc", "nf4, double: true}"),
        ({"gradient_checkpointing": True, "batch_size": 1}, "leave longer rows out (train.max_length), or", "nf4, double: true}"),
        ({"quantization": {"kind": "nf4", "double": True}}, "set", "leave longer rows out (train.max_length)"),
        ({"precision": "fp16"}, "set", "leave longer rows out (train.max_length)"),  # 4 bits are not offered with it.
        ({"lora": None, "full": {"layers": None}}, "set", "train an adapter (train.lora)"),
    ],
)  # fmt: skip
def test_only_changes_that_are_left_to_make_are_named(change: dict[str, Any], first: str, last: str) -> None:
    from stages.training import memory

    changes = memory.savings(as_params(_document(**{"precision": "bf16"} | change)).train)
    assert changes.startswith(first)
    assert changes.endswith(f"{last}, or take a smaller base or a larger device")


def test_what_only_refuses_a_training_is_no_part_of_a_checkpoints_key() -> None:
    keys = {
        training_tree.step(as_params(value)).checkpoint_key()
        for value in (_document(), _document(max_memory_gb=8.0), _document(allow=["divergence"]))
    }
    assert len(keys) == 1


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
    assert f", peak of memory {found.peak / 1e9:,.2f} GB" in line
    assert found.model_dump() == {"peak": found.peak}
    if method == "sft":
        assert measured.tokens_per_second is not None
        assert measured.tokens_per_second > 0


@pytest.mark.slow
def test_a_training_that_takes_more_than_its_limit_ends_in_its_first_step(root: Path) -> None:
    says = (
        r"training took [\d.]+ GB of memory in step 1, above train.max_memory_gb 0.1; set train.gradient_checkpointing"
    )
    with pytest.raises(TrainingRefused, match=says):
        train(as_params(_document(max_memory_gb=0.1)), root)
    assert not (root / layout.ADAPTER).exists()
    assert not (root / layout.TRAIN_MEASURED).exists()


def _no_gpu_memory() -> Exception:
    import torch

    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "error", "refused"),
    [
        ("PreTrainedModel.from_pretrained", _no_gpu_memory, True),
        ("Trainer.__init__", _no_gpu_memory, True),
        ("Trainer.training_step", _no_gpu_memory, True),
        ("Trainer.training_step", lambda: RuntimeError("DefaultCPUAllocator: can't allocate memory"), True),
        ("Trainer.training_step", MemoryError, True),
        ("Trainer.training_step", lambda: RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_too_little_memory_is_one_line_with_what_needs_less(
    root: Path, place: str, error: Any, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise error()

    monkeypatch.setattr(f"transformers.{place}", fail)
    with pytest.raises(MachineRefused if refused else RuntimeError) as raised:
        train(as_params(_document()), root)
    if refused:
        assert "training does not fit into the memory of this machine: it took " in str(raised.value)
        assert "; set train.gradient_checkpointing: true, or lower train.batch_size" in str(raised.value)
        assert "\n" not in str(raised.value)
