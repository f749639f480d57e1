"""Early stopping (Prechelt 1998): training ends where the loss on the valid split no longer falls.

The adapter then has the weights of the lowest loss.

The losses and the best weights are part of each checkpoint, so that a resumed training stops where an uninterrupted one
does, with the same bytes.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import TrainerCallback

from checks.formats.training_reports import Stopping
from checks.kinds.method import EarlyStopping, Train
from checks.process.errors import TrainingRefused
from checks.storage import layout

BEST = "best.safetensors"  # A checkpoint has it.
Log = Callable[[dict[str, float], int], None]


class Stopper(TrainerCallback):
    """Evaluates ``every`` so many steps, keeps the weights of the lowest loss, and ends the training after it.

    ``losses``: steps and losses on the valid split so far.
    """

    def __init__(self, setting: EarlyStopping, every: int, log: Log) -> None:
        self.losses: list[tuple[int, float]] = []
        self._patience, self._every, self._log = setting.patience, every, log
        self._best: dict[str, torch.Tensor] = {}
        self._trains = False

    @property
    def best(self) -> tuple[int, float]:
        """The step of the lowest loss, the first of equal ones, and that loss."""
        return min(self.losses, key=lambda point: (point[1], point[0]))

    def on_train_begin(self, _args: Any, _state: Any, _control: Any, **_kwargs: Any) -> None:
        """From now on evaluations count."""
        self._trains = True

    def on_train_end(self, _args: Any, _state: Any, _control: Any, **_kwargs: Any) -> None:
        """Later evaluations do not count."""
        self._trains = False

    def on_step_end(self, _args: Any, state: Any, control: Any, **_kwargs: Any) -> None:
        """Ask for an evaluation, after the last step too."""
        if state.global_step % self._every == 0 or state.global_step >= state.max_steps:
            control.should_evaluate = True

    def on_evaluate(self, _args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Keep the weights if the loss is the lowest; stop if it has not been for too long."""
        if not self._trains:
            return
        loss = float(kwargs["metrics"]["eval_loss"])
        if not math.isfinite(loss):
            raise TrainingRefused(
                f"step {state.global_step}: the loss on valid is {loss}",
                "lower train.learning_rate",
            )
        self.losses.append((state.global_step, loss))
        self._log({"valid_loss": loss}, state.global_step)
        if self.best[0] == state.global_step:
            self._best = {
                name: weight.detach().cpu().clone()
                for name, weight in trained(kwargs["model"]).items()
            }
        if sum(step > self.best[0] for step, _ in self.losses) >= self._patience:
            control.should_training_stop = True

    def restore(self, model: nn.Module) -> Stopping:
        """Give the model its best weights; returns what the report says of it."""
        with torch.no_grad():
            for name, weight in trained(model).items():
                weight.copy_(self._best[name])
        return Stopping(best_step=self.best[0], losses=tuple(self.losses))

    def save(self, folder: Path) -> None:
        """Write the best weights beside a checkpoint."""
        if self._best:
            save_file(self._best, folder / BEST)

    def load(self, losses: list[tuple[int, float]], folder: Path) -> None:
        """Go on from a checkpoint: its losses, and the best weights in ``folder``."""
        self.losses = list(losses)
        self._best = load_file(folder / BEST) if losses else {}


def attach(trainer: Any, train: Train, rows: int, log: Log) -> Stopper | None:
    """Add early stopping to the trainer, if params.yaml asks for it.

    Raises TrainingRefused if the trainer has no rows to evaluate.
    """
    if train.early_stopping is None:
        return None
    if not trainer.eval_dataset:
        raise TrainingRefused(
            f"train.early_stopping: train.method {train.method!r} has nothing to evaluate on the rows of "
            f"{layout.SPLITS / 'valid.jsonl'}",
            "set train.early_stopping to null, or use another method or a larger prepare.splits.valid",
        )
    trainer.stopper = Stopper(
        train.early_stopping,
        max(1, train.steps_of_epoch(rows) // train.early_stopping.per_epoch),
        log,
    )
    trainer.add_callback(trainer.stopper)
    return trainer.stopper


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weights that are trained."""
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
