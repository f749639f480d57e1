"""Resuming from a checkpoint: when the trainer saves one, and how it is read safely.

The trainer of transformers saves adapter, optimizer, schedule, random states and its own state. ``progress.json``
beside them has what it does not save, so that a resumed training gives the same result as an uninterrupted one.
"""

import base64
import pickle
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import TrainerCallback, TrainerState
from transformers.trainer_pt_utils import safe_globals

from checks.formats import energy
from checks.formats.energy import Energy
from checks.machine.meters import Meters
from checks.process.errors import EvidenceRefused
from checks.storage import files
from stages.training.checkpoints import PROGRESS, Found, Store
from stages.training.trainer import Recorder, Steady, of_first, saved

# What reading damaged or foreign bytes raises, by the documentation of the readers or as seen.
_UNREADABLE = (
    OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError, EOFError, OverflowError,
    pickle.UnpicklingError, SafetensorError,
)  # fmt: skip
_PICKLED = (".pt", ".pth", ".bin")


class Progress(BaseModel):
    """The state that the trainer's own checkpoint lacks."""

    # A norm may be infinite: fp16 skips such a step.
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, ser_json_inf_nan="constants"
    )

    run: str  # MLflow's id of the run that was killed
    seconds: float = Field(ge=0, allow_inf_nan=False)  # Seconds of training so far.
    energy: Energy  # The energy of these seconds.
    # Base64 of the generator's state that the running epoch's order came from; None between epochs.
    order: str | None
    points: list[tuple[int, dict[str, float]]]  # Points of the loss curve so far.
    valid: list[tuple[int, float]] = []  # losses on the valid split so far, with early stopping


class Keeper(TrainerCallback):
    """Triggers a checkpoint every ``minutes`` and passes it to the store; also measures time and energy.

    A checkpoint is taken at a point of the loss curve, at most ten steps later, so that no mean over steps is split.
    On several ranks the clock, the meters and the store are those of rank 0; the others have ``store`` None.
    """

    def __init__(
        self, store: Store | None, minutes: float, trainer: Steady, recorder: Recorder, run: str
    ) -> None:
        self._store, self._trainer, self._recorder, self._run = store, trainer, recorder, run
        self._every = minutes * 60
        self._earlier, self._earlier_energy = 0.0, tuple[Energy, ...]()
        self._meters: Meters | None = None
        self._start = self._last = time.monotonic()

    def resume(self) -> Found[Progress] | None:
        """Prepare the trainer to resume from the newest usable checkpoint; None: start from the beginning."""
        checkpoint = of_first(self._store.newest(progress) if self._store else None)
        if checkpoint is not None:
            self._earlier = checkpoint.known.seconds
            self._earlier_energy = (checkpoint.known.energy,)
            self._recorder.points += checkpoint.known.points
            if checkpoint.known.order is not None:
                self._trainer.resumed_order = torch.frombuffer(
                    bytearray(base64.b64decode(checkpoint.known.order, validate=True)),
                    dtype=torch.uint8,
                )
            if self._trainer.stopper:
                self._trainer.stopper.load(checkpoint.known.valid, checkpoint.folder)
        return checkpoint

    @property
    def seconds(self) -> float:
        """Return the duration of the training so far, earlier parts included."""
        return self._earlier + time.monotonic() - self._start

    @property
    def energy(self) -> Energy:
        """Return the energy of the training so far, earlier parts included."""
        now = () if self._meters is None else (self._meters.read(),)
        return energy.total((*self._earlier_energy, *now))

    def on_train_begin(self, _args: Any, _state: Any, _control: Any, **_kwargs: Any) -> None:
        """Start the clock and the meters."""
        self._meters = None if self._store is None else Meters(_gpus(self._trainer.args.world_size))
        self._start = self._last = time.monotonic()

    def close(self) -> None:
        """End the thread that reads the meters."""
        if self._meters is not None:
            self._meters.stop()

    def on_step_end(self, _args: Any, state: TrainerState, control: Any, **_kwargs: Any) -> None:
        """Request a checkpoint, unless training ends here."""
        if self._every and control.should_log and state.global_step < state.max_steps:
            control.should_save = of_first(time.monotonic() - self._last >= self._every)

    def on_save(self, args: Any, state: TrainerState, control: Any, **_kwargs: Any) -> None:
        """Add the missing parts to what the trainer saved, and store it; not where training stops early."""
        folder, stopper = saved(args, state), self._trainer.stopper
        # No folder: the disk did not take it.
        if self._store is not None and folder.is_dir() and not control.should_training_stop:
            known = Progress(
                run=self._run, seconds=self.seconds, energy=self.energy, order=self._order(state),
                points=self._recorder.points, valid=stopper.losses if stopper else [],
            )  # fmt: skip
            self._store.keep(folder, state.global_step, known.model_dump_json())
        self._last = time.monotonic()

    def _order(self, state: TrainerState) -> str | None:
        if float(state.epoch or 0).is_integer():
            return None  # the next epoch's is yet to be drawn
        assert self._trainer.order is not None
        assert self._trainer.order.state is not None
        return base64.b64encode(self._trainer.order.state.numpy().tobytes()).decode()


def progress(folder: Path, step: int) -> Progress:
    """Return the progress in the checkpoint of ``step``, whose manifest has the key of this training.

    Reads every file as the trainer will, so that it does not fail later. Raises EvidenceRefused if a file is invalid.
    Nothing is unpickled without restrictions: transformers 5 (5.24, trainer.py: _load_rng_state,
    _load_optimizer_and_scheduler, _load_scaler) passes ``weights_only=True`` to each ``torch.load``, and so does this
    function. The adapter is safetensors; files with pickled forms of it are not part of a checkpoint.
    """
    name = PROGRESS
    try:
        known = files.read_json(folder / name, Progress)
        for path in sorted(folder.iterdir()):
            name = path.name
            _read(path)
    except _UNREADABLE as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise EvidenceRefused(
            f"step {step}: {name}: {reason[:200]}", "start from the beginning"
        ) from error
    return known


def _read(path: Path) -> None:
    if path.suffix == ".safetensors":
        load_file(path)
    elif path.name == "trainer_state.json":
        TrainerState.load_from_json(str(path))
    elif path.suffix in _PICKLED:
        # torch warns about pickles that it then refuses; NumPy's arrays are named as harmless, nothing more.
        with warnings.catch_warnings(action="ignore"), safe_globals():
            torch.load(path, map_location="cpu", weights_only=True)


def _gpus(ranks: int) -> tuple[str, ...]:
    """Return the GPUs of all ranks, as NVML names them; empty on a CPU."""
    if not torch.cuda.is_available():
        return ()
    identifiers = (str(torch.cuda.get_device_properties(rank).uuid) for rank in range(ranks))
    return tuple(f"GPU-{identifier.removeprefix('GPU-')}" for identifier in identifiers)
