"""A training that failed by its loss curve: it diverged, or no answer was rewarded otherwise than another."""

from pathlib import Path
from typing import Any

import pytest

from checks.kinds.method import Train
from checks.process.errors import TrainingRefused
from checks.storage import layout
from stages.train import train
from stages.training import checkpoints
from stages.training.methods.sft import Sft
from tests import training_tree
from tests.conftest import as_params, scaled_down
from tests.training_tree import METHODS


def _section(**change: Any) -> Train:
    value = scaled_down()
    value["train"] |= change
    return as_params(value).train


def _points(*losses: float) -> list[dict[str, float]]:
    return [{"loss": loss, "learning_rate": 0.1} for loss in losses]


@pytest.mark.parametrize(
    ("losses", "diverged"),
    [
        ((5.9, 12.0, 30.6, 8.0, 6.3), True),  # as it was seen
        ((5.9, 7.0, 9.4), True),  # it never came back
        ((0.7, 3.0, 0.7), True),
        ((5.9, 5.0, 30.6, 2.1, 1.3), False),  # it learned after all
        ((5.9, 5.0, 3.1, 2.0), False),
        ((0.10, 0.35, 0.05, 0.12), False),  # learned before: batches differ so much
        ((0.693, 0.70, 0.69, 0.71), False),  # nothing learned, nothing lost
        ((4.0,), False),
        ((), False),
        ((*[5.0] * 10, *[30.0] * 10, *[4.0] * 8, 9.0, 9.0), True),  # a tenth of the points is two
    ],
)
def test_a_loss_that_rises_far_and_ends_no_lower_than_it_began_diverged(
    losses: tuple[float, ...], diverged: bool
) -> None:
    failure = _section().failure(_points(*losses))
    assert (failure is not None) == diverged
    if failure:
        assert failure[0] == "divergence"


def test_the_sentence_has_beginning_peak_and_end() -> None:
    failure = _section().failure(_points(5.9, 30.6, 6.3))
    assert failure == ("divergence", "the loss began at 5.900, rose to 30.600 and ended at 6.300: it diverged")


@pytest.mark.parametrize(
    ("alike", "reward", "says"),
    [
        ((1.0, 1.0), (0.0, 0.0), "all answers to a prompt had the same reward in every step (0): nothing was learned"),
        ((1.0, 1.0), (1.0, 0.5), "all answers to a prompt had the same reward in every step (0.5 to 1): nothing was"),
        ((1.0, 0.9), (0.0, 0.1), None),
    ],
)
def test_without_a_difference_of_rewards_nothing_is_learned(
    alike: tuple[float, ...], reward: tuple[float, ...], says: str | None
) -> None:
    section = _section(**METHODS["grpo"])
    points = [
        {"loss": 0.0, "reward": mean, "frac_reward_zero_std": share} for share, mean in zip(alike, reward, strict=True)
    ]
    failure = section.failure(points)
    assert (failure and failure[0]) == (says and "no-reward")
    assert says is None or (failure is not None and failure[1].startswith(says))


# Weights of embeddings and head grow without bound, which an adapter's do not.
DIVERGES = {
    "lora": None, "full": {"layers": None}, "learning_rate": 0.9, "warmup_ratio": 0.0, "schedule": "constant",
    "max_steps": 12, "epochs": None,
}  # fmt: skip
NO_REWARD = METHODS["grpo"] | {"reward": {"kind": "exact-match"}, "max_steps": 3, "epochs": None}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "kind", "says"),
    [
        (DIVERGES, "divergence", r"the loss began at [\d.]+, rose to [\d.]+ and ended at [\d.]+: it diverged; lower "),
        (NO_REWARD, "no-reward", r"had the same reward in every step \(0\): nothing was learned; start from a model"),
    ],
)
def test_a_failed_training_is_refused_and_goes_on_where_params_yaml_allows_it(
    tmp_path: Path, tiny_base: Path, store: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
    change: dict[str, Any], kind: str, says: str,
) -> None:  # fmt: skip
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.setenv(checkpoints.MINUTES, "0.0001")
    root = training_tree.make(tmp_path, tiny_base, preferences=True)
    document = scaled_down()
    document["train"] |= change
    with pytest.raises(TrainingRefused, match=says) as refused:
        train(as_params(document), root)
    assert refused.value.todo.endswith(f"; to go on knowingly, set train.allow: [{kind}]")
    assert not (root / layout.ADAPTER).exists()
    assert not (root / layout.TRAIN_REPORT).exists()

    document["train"]["allow"] = [kind]
    capfd.readouterr()
    train(as_params(document), root)
    printed = capfd.readouterr().err
    assert "train: goes on at step " in printed  # the steps that were trained are not trained again
    assert "; train.allow lets it pass\n" in printed
    assert (root / layout.ADAPTER).exists()


@pytest.mark.slow
def test_a_step_that_failed_is_refused_before_the_next_one_trains(
    tmp_path: Path, tiny_base: Path, store: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    root = training_tree.make(tmp_path, tiny_base, preferences=True)
    document = scaled_down()
    document["train"] |= {"method": ["sft", "dpo"], "steps": [{"method": "sft"}, METHODS["dpo"]]}
    document["validate"]["preferences"] = training_tree.BOUNDS
    monkeypatch.setattr(Sft, "failure", lambda *_: ("divergence", "it diverged"))
    with pytest.raises(TrainingRefused, match="it diverged"):
        train(as_params(document), root)
    assert "step 2 of 2" not in capfd.readouterr().err
