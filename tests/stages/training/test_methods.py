"""Training methods that learn from preferences or rewards: what they refuse, what they log, and the bytes they make."""

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from checks.formats.training_reports import ParityReport, TrainReport
from checks.process.errors import ParamsRefused, TrainingRefused
from checks.records.rows import Row
from checks.storage import files, layout
from stages.merge import merge
from stages.train import train
from tests import training_tree
from tests.conftest import as_params
from tests.training_tree import METHODS

pytestmark = pytest.mark.slow

LOGGED = {
    "dpo": {"rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "logps/chosen", "logps/rejected"},
    "kto": {"rewards/chosen", "rewards/rejected", "rewards/margins", "logps/chosen", "logps/rejected", "kl"},
    "grpo": {"reward", "reward_std", "frac_reward_zero_std", "completions/mean_length", "completions/clipped_ratio", "entropy"},
}  # fmt: skip


@pytest.fixture
def root(tmp_path: Path, tiny_base: Path, store: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository's root with the tiny base and sealed splits that every method can learn from."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.setenv("LOCKSTEP_CHECKPOINT_MINUTES", "0")
    return training_tree.make(tmp_path / "root", tiny_base, preferences=True)


@pytest.mark.parametrize("method", METHODS)
def test_two_steps_give_the_same_adapter_and_merged_weights_twice_with_what_the_method_logs(
    root: Path, document: dict, method: str
) -> None:
    document["train"] |= METHODS[method] | {"max_steps": 2}
    document["validate"]["preferences"] = training_tree.BOUNDS
    params = as_params(document)
    digests = set()
    for _ in range(2):
        train(params, root)
        merge(params, root)
        report = files.read_json(root / layout.TRAIN_REPORT, TrainReport)
        parity = files.read_json(root / layout.PARITY_REPORT, ParityReport)
        assert parity.adapter == report.adapter
        digests.add((report.adapter, parity.merged))
    assert len(digests) == 1
    weights = load_file(root / layout.ADAPTER / "adapter_model.safetensors")
    assert any(weight.any() for name, weight in weights.items() if "lora_B" in name), "nothing was learned"
    assert (report.steps, set(report.figures)) == (2, LOGGED[method])
    assert all(math.isfinite(value) for value in report.figures.values())
    assert report.optimised_for == (("edit-similarity",) if method == "grpo" else ())
    header, *lines = (root / layout.LOSS_CURVE).read_text().splitlines()
    assert set(header.split(",")) == {"step", "loss", "learning_rate"} | LOGGED[method]
    assert [line.split(",")[0] for line in lines] == ["1", "2"]


@pytest.mark.parametrize("method", ["dpo", "kto"])
def test_an_answer_that_is_always_worse_becomes_less_likely_than_the_other(
    root: Path, document: dict, method: str
) -> None:
    def change(number: int, row: Row) -> dict[str, Any]:
        liked = number % 2 == 0
        answers = {"rejected": "with all my", "completion": "disk" if liked else "with all my", "label": liked}
        return {"reference": "disk", "extra": answers}

    _train_rows(root, change)
    train(_params(document, method, max_steps=24, learning_rate=0.02), root)
    assert files.read_json(root / layout.TRAIN_REPORT, TrainReport).figures["rewards/margins"] > 0.02


def _params(document: dict, method: str, **change: Any) -> Any:
    document["train"] |= METHODS[method] | {"max_steps": 2} | change
    document["validate"]["preferences"] = training_tree.BOUNDS
    return as_params(document)


def _train_rows(root: Path, change: Callable[[int, Row], dict[str, Any]]) -> None:
    path = root / layout.SPLITS / "train.jsonl"
    rows = files.read_jsonl(path, Row)
    files.write_jsonl(path, [row.model_copy(update=change(number, row)) for number, row in enumerate(rows)])
    training_tree.seal(root)


def _extra(number: int, **extra: Any) -> Callable[[int, Row], dict[str, Any]]:
    """Give the row of that number other further columns."""
    return lambda place, row: {"extra": row.extra | extra} if place == number else {}


def _without_base(root: Path) -> None:
    """A base that nobody could load."""
    shutil.rmtree(root / layout.BASE)
    files.write_text(root / layout.BASE / "config.json", "none")


def test_a_step_of_more_prompts_than_there_are_is_refused_before_the_base_is_loaded(root: Path, document: dict) -> None:
    _without_base(root)
    with pytest.raises(
        TrainingRefused, match=r"24 training rows, and a step takes 25 prompts; lower train\.batch_size"
    ):
        train(_params(document, "grpo", batch_size=50), root)


def _late(**extra: Any) -> Callable[[int, Row], dict[str, Any]]:
    return _extra(6, **extra)


LATE = [
    *(
        (method, {}, _late(**{column: "disk<|im_end|>disk"}), rf"row 0000000000000006 \(x:1\): {column}: the answer has an end token at token \d of")
        for method, column in (("dpo", "rejected"), ("kto", "completion"))
    ),
    ("dpo", {"max_length": 96}, _late(rejected="disk " * 80), r"row 0000000000000006 \(x:1\): rejected: \d+ tokens with its prompt, above train.max_length 96; raise"),
    ("kto", {"max_length": 96}, _late(completion="disk " * 80), r"row 0000000000000006 \(x:1\): completion: \d+ tokens with its prompt, above"),
    ("grpo", {"max_length": 30, "max_completion_length": 20}, _late(), r"row \w+ \(x:1\): \d+ tokens of prompt and 20 of an answer are above train.max_length 30; raise"),
    ("grpo", {"max_completion_length": 4}, lambda number, _: {"reference": "a disk of the vault"} if number == 7 else {}, r"row 0000000000000007 \(x:1\): no answer can be its reference: that has \d+ tokens with its end, above train.max_completion_length 4; set"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "train_section", "change", "says"), LATE)
def test_rows_that_do_not_fit_are_refused_before_the_first_step(
    root: Path,
    document: dict,
    method: str,
    train_section: dict,
    change: Callable[[int, Row], dict[str, Any]],
    says: str,
) -> None:
    _train_rows(root, change)
    document["validate"] |= {"max_prompt_tokens": 10, "max_reference_tokens": 8}
    with pytest.raises(TrainingRefused, match=says):
        train(_params(document, method, **train_section), root)
    assert not (root / layout.ADAPTER).exists()


NO_END = ("<|im_end|>\n", "\n", "no end of turn is learned, so the model would not stop")
OTHER_PROMPT = ("<|im_start|>assistant\n", "<|im_start|>key\n", "the chat template renders the prompt otherwise when the answer follows")  # fmt: skip


@pytest.mark.parametrize(
    ("method", "old", "new", "says"),
    [
        *((method, *NO_END) for method in ("dpo", "kto")),
        *((method, *OTHER_PROMPT) for method in ("dpo", "kto")),
    ],
)
def test_a_template_that_does_not_fit_is_refused(
    root: Path, document: dict, method: str, old: str, new: str, says: str
) -> None:
    path = root / layout.BASE / "chat_template.jinja"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(TrainingRefused, match=rf"row \w+ \(x:1\): \w+: {says}"):
        train(_params(document, method), root)


@pytest.mark.parametrize(
    ("method", "change", "says"),
    [
        ("dpo", {"loss_weights": [1.0]}, "loss_weights has 1 numbers for 2 losses in loss_type; write one number for each"),
        ("dpo", {"loss_type": ["sft"], "loss_weights": None}, "loss_type is sft; name each loss once, and another one"),
        ("dpo", {"loss_type": ["ipo", "ipo"]}, "loss_type is ipo, ipo; name each loss once"),
        ("dpo", {"loss_type": ["bco"]}, "loss_type"),
        ("grpo", {"batch_size": 5}, "batch_size 5 is no multiple of num_generations 2, the answers of a group; set train.batch_size to 6"),
        ("grpo", {"reward": {"kind": "taste"}}, "train.reward"),
        ("kto", {"batch_size": 1}, "batch_size is 1, and train.method 'kto' compares each answer with another one"),
        *((method, {"lora": {"r": 4, "alpha": 8, "dropout": 0.1, "targets": "all-linear", "layers": None}}, f"lora.dropout is 0.1, and train.method '{method}' trains without dropout; set") for method in METHODS),
    ],
)  # fmt: skip
def test_parameters_that_do_not_fit_are_refused_as_params_yaml_is_read(
    document: dict, method: str, change: dict, says: str
) -> None:
    with pytest.raises(ParamsRefused, match=says):
        _params(document, method, **change)


@pytest.mark.parametrize(("method", "columns"), [("dpo", "rejected"), ("kto", "completion and label")])
def test_a_method_that_learns_from_preferences_needs_their_bounds(document: dict, method: str, columns: str) -> None:
    document["train"] |= METHODS[method]
    with pytest.raises(ParamsRefused, match=rf"validate.preferences: is not written, and train.method '{method}' learns from {columns}; write"):  # fmt: skip
        as_params(document)
