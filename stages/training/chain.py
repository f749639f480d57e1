"""A training in steps: the order, and what each step hands to the next.

Each step loads the base anew and goes on from the adapter of the step before, so that a step that runs on after another
one and a step that another process resumes start from the same bytes. The models of two steps are never in memory at
once. A finished step is kept like a checkpoint until the training ends: its adapter, by digest, and its figures.

Before the first step trains, the trainers of all later steps are made once, and with them what their methods refuse.

Each step is fitted in this process, or by ranks of its own (``stages.training.ranks``); all of this is of the stage's.
"""

import gc
import shutil
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from checks.config.params import Params
from checks.kinds.method import Train
from checks.process.errors import TrainingRefused
from checks.records.record import Digest
from checks.storage import files, layout
from stages import tracking
from stages.training import checkpoints, ranks
from stages.training import step as one_step
from stages.training.checkpoints import MANIFEST, PROGRESS, Store, say
from stages.training.training_steps import FittedStep, Training, TrainingStep

_RANK = "stages.training.step"  # Each rank runs this module.
_CONTEXTS = {"train": "training", "valid": "evaluation"}  # MLflow's words for a split


class Trained(NamedTuple):
    """The results of all steps, with the runs and the checkpoints to remove.

    ``run``: the run of the whole training. ``resumed_at``: the step, counted over all, at which this process went on;
    None if it began.
    """

    run: tracking.Run
    fitted: list[FittedStep]
    runs: list[tracking.Run]
    stores: list[Store]
    resumed_at: int | None


def fit_all(training: Training, device: str, threads: int, folder: Path) -> Trained:
    """Train all steps, the last one into ``folder``. ``threads``: of each process.

    What would stop a later step is raised before the first one trains.
    """
    # TRL's warnings are not for the reader.
    quiet = warnings.catch_warnings(action="ignore", category=FutureWarning)
    data = _data_sets(training.seal.splits)
    with tracking.run(training.params, training.root, data) as run, quiet:
        machine = {"device": device, "threads": threads}
        steps = [step.model_copy(update=machine) for step in training.steps]
        trained = _fit_steps(training.params, steps, run, folder)
        run.tag(tracking.ADAPTER_TAG, trained.fitted[-1].adapter)
    return trained


def _fit_steps(
    params: Params, training: Sequence[TrainingStep], parent: tracking.Run, folder: Path
) -> Trained:
    fitted: list[FittedStep] = []
    stores: list[Store] = []
    resumed_at = None
    trains = False
    several = len(training) > 1
    kept = training[0].minutes > 0
    with ExitStack() as stack:
        # All runs begin before the first step: a store that is lost later costs no training.
        runs = [
            stack.enter_context(
                tracking.run(
                    params.model_copy(update={"training": step.train}),
                    step.root,
                    _data_sets(step.data),
                    parent,
                )
            )
            if several
            else parent
            for step in training
        ]
        adapters = Path(stack.enter_context(tempfile.TemporaryDirectory())).resolve()
        for number, (step, run) in enumerate(zip(training, runs, strict=True), 1):
            before = sum(step.steps for step in fitted)
            last = number == len(training)
            target = folder.resolve() if last else adapters / str(number)
            target.mkdir(exist_ok=True)
            step = step.model_copy(update={"run": run.id, "adapter": target})
            if fitted:
                step = step.model_copy(
                    update={"start": adapters / str(number - 1), "started_from": fitted[-1].adapter}
                )
            key = step.checkpoint_key()
            store = stack.enter_context(checkpoints.opened(step.root, key, kept))
            stores.append(store)
            step = step.model_copy(update={"key": key, "scratch": store.scratch.resolve()})
            finished = None
            if not last:
                key = checkpoints.key({"finished": key}, ())
                finished = stack.enter_context(checkpoints.opened(step.root, key, kept))
                stores.append(finished)
            if checkpoint := finished and finished.newest(read):
                adapter = f"{checkpoint.known.adapter[:19]}, from {checkpoint.where}"
                say(f"step {number} of {len(training)}, {_described(step)} is done: {adapter}")
                fitted_step = _again(checkpoint, target, run)
                hold(step.train, fitted_step)
                resumed_at = before + fitted_step.steps
            else:
                if several:
                    say(f"step {number} of {len(training)}, {_described(step)}")
                for later in () if trains else training[number:]:
                    _check(later)
                    _release()
                fitted_step = _fit(step, run, store)
                hold(step.train, fitted_step)
                if not trains and fitted_step.resumed_at is not None:
                    resumed_at = before + fitted_step.resumed_at
                trains = True
                if finished and kept:
                    _keep(finished, target, fitted_step)
            if several:
                run.tag(tracking.STEP_ADAPTER_TAG, fitted_step.adapter)
            fitted.append(fitted_step)
            if several:
                _release()
        if several and resumed_at is not None:
            parent.tag("lockstep.resumed_at", str(resumed_at))
    return Trained(parent, fitted, runs, stores, resumed_at)


def _fit(step: TrainingStep, run: tracking.Run, store: Store) -> FittedStep:
    """Train one step, and write its adapter: in this process on one device, by ranks on several."""
    if step.ranks > 1:
        ranks.launch(_RANK, step)
        return ranks.fitted(step)
    fitted = one_step.fit(step, run, store)
    assert fitted is not None
    return fitted


def _check(step: TrainingStep) -> None:
    """Raise what would stop a later step."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch).resolve()
        step = step.model_copy(update={"scratch": folder, "adapter": folder})
        if step.ranks > 1:
            ranks.launch(_RANK, step)
        else:
            one_step.check(step)


def hold(train: Train, fitted_step: FittedStep) -> None:
    """Raise TrainingRefused if a step failed by its loss curve, unless ``train.allow`` lets it pass.

    With early stopping the curve ends at the step whose weights were kept.
    """
    last = fitted_step.stopping.best_step if fitted_step.stopping else fitted_step.steps
    if failure := train.failure([values for step, values in fitted_step.points if step <= last]):
        kind, shown = failure
        if kind not in train.allow:
            remedy = "lower train.learning_rate or lengthen train.warmup_ratio"
            if kind == "no-reward":
                remedy = "start from a model that is right at times (a step of sft before), or change train.reward"
            raise TrainingRefused(shown, f"{remedy}; to go on knowingly, set train.allow: [{kind}]")
        say(f"{shown}; train.allow lets it pass")


def read(folder: Path, _step: int) -> FittedStep:
    """Return what a finished step left. Raises EvidenceRefused if it cannot be read."""
    return files.read_json(folder / PROGRESS, FittedStep)


def _again(
    checkpoint: checkpoints.Found[FittedStep], adapter: Path, run: tracking.Run
) -> FittedStep:
    """Copy the adapter of a finished step, and log what was logged when it was trained."""
    beside = shutil.ignore_patterns(MANIFEST, PROGRESS)  # A checkpoint has these beside an adapter.
    shutil.copytree(
        checkpoint.folder, adapter, ignore=beside, copy_function=shutil.copyfile, dirs_exist_ok=True
    )
    fitted_step = checkpoint.known.model_copy(update={"run": run.id, "unsent": 0})
    run.replay(
        checkpoint.known.run,
        fitted_step.points,
        fitted_step.stopping.losses if fitted_step.stopping else (),
    )
    if fitted_step.valid_loss is not None:
        run.metrics({"valid_loss": fitted_step.valid_loss}, fitted_step.steps)
    return fitted_step


def _keep(store: Store, adapter: Path, fitted_step: FittedStep) -> None:
    """Keep a finished step; where the disk does not take it, training goes on."""
    copy = store.scratch / "finished"
    try:
        shutil.copytree(adapter, copy)
    except OSError as error:
        say(f"the finished step {fitted_step.method} is not kept: {error}")
        return
    store.keep(copy, fitted_step.steps, fitted_step.model_dump_json(), finished=True)


def _data_sets(digests: Mapping[str, Digest]) -> dict[str, tuple[Path, Digest]]:
    """Return the data of a training, as ``tracking.run`` takes it, from the digests of the splits."""
    return {
        context: (layout.SPLITS / f"{name}.jsonl", digests[name])
        for name, context in _CONTEXTS.items()
    }


def _described(step: TrainingStep) -> str:
    return f"{step.train.method} on {len(step.rows)} {step.kind_of_rows}"


def _release() -> None:
    """Let go of a model that is not used any more: trainers and their callbacks name one another."""
    import torch

    gc.collect()
    torch.cuda.empty_cache()
