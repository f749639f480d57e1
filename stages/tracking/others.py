"""Trackers beside MLflow, which ``tracking.also`` names: TensorBoard, and Weights & Biases.

Each is an integration of transformers' trainer (``report_to``), and gets the trainer's settings and the curves. What
the record is about (digests, data sets, refusals, the evaluation) is in MLflow alone. A run has the id of MLflow's run
as its name. Where: ``.lockstep/tensorboard/<id>``, or below TENSORBOARD_LOGGING_DIR; for Weights & Biases its own
variables hold (WANDB_MODE, WANDB_API_KEY, WANDB_PROJECT, …), and the project is ``tracking.experiment`` by default.
"""

import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

from checks.config.params import Tracking
from checks.process import distribution
from checks.process.errors import MachineRefused
from checks.storage import layout

_TENSORBOARD, _PLACE = "tensorboard", "TENSORBOARD_LOGGING_DIR"
_SECONDS = 60  # The end of a training waits so long for Weights & Biases. The rest is left for `wandb sync`.


def hold_installed(tracking: Tracking) -> None:
    """Raise MachineRefused if a package of ``tracking.also`` is not installed."""
    for name in tracking.also:
        spec = importlib.util.find_spec(name)
        # A folder of that name, such as runs of wandb, is no package.
        if spec is None or spec.origin is None:
            raise MachineRefused(
                f"{layout.PARAMS}: tracking.also: {name} is not installed",
                f"{distribution.install(name)}, or take {name} out of tracking.also",
            )


@contextmanager
def opened(tracking: Tracking, root: Path, run: str) -> Iterator[dict[str, Any]]:
    """Open the trackers of ``tracking.also``; yields arguments of transformers' trainer.

    ``run`` is the id of MLflow's run. Raises MachineRefused if a tracker is not installed or does not take a run.
    """
    with ExitStack() as stack:
        for name in tracking.also:
            stack.enter_context(_TRACKERS[name](tracking, root, run))
        yield ({"report_to": list(tracking.also), "run_name": run} if tracking.also else {})


@contextmanager
def _tensorboard(tracking: Tracking, root: Path, run: str) -> Iterator[None]:
    del tracking
    before = os.environ.get(_PLACE)
    os.environ[_PLACE] = str(Path(before or root / layout.STATE / _TENSORBOARD) / run)
    try:
        yield
    finally:
        del os.environ[_PLACE]
        if before is not None:
            os.environ[_PLACE] = before


@contextmanager
def _wandb(tracking: Tracking, root: Path, run: str) -> Iterator[None]:
    import wandb

    settings = wandb.Settings(
        console="off",  # else it takes over the output
        silent=True,
        disable_git=True,  # it would send the changes that are not committed
        disable_code=True,
        finish_timeout=_SECONDS,
        finish_timeout_raises=False,
    )
    try:
        started = wandb.init(
            project=os.environ.get("WANDB_PROJECT", tracking.experiment),
            name=run,
            dir=os.environ.get("WANDB_DIR", str(root / layout.STATE)),
            settings=settings,
        )
    except (wandb.Error, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise MachineRefused(
            f"Weights & Biases takes no run: {reason}",
            "run `wandb login`, set WANDB_MODE=offline, or take wandb out of tracking.also",
        ) from error
    try:
        yield
    except BaseException:
        started.finish(exit_code=1)
        raise
    started.finish()


_TRACKERS: Mapping[str, Callable[[Tracking, Path, str], AbstractContextManager[None]]] = {
    _TENSORBOARD: _tensorboard,
    "wandb": _wandb,
}
