"""A training in steps: the order, what each step hands to the next, and what is recorded of all together.

Each step loads the base anew and goes on from the adapter of the step before, so that a step that runs on after another
one and a step that another process resumes start from the same bytes. The models of two steps are never in memory at
once. A finished step is kept like a checkpoint until the training ends: its adapter, by digest, and its figures.

Before the first step trains, the trainers of all later steps are made once, and with them what their methods refuse.

Each step is fitted in this process, or by ranks of its own (``stages.training.ranks``); all of this is of the stage's.
"""

import math
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict

from checks.config.params import Params
from checks.formats.data_reports import Seal
from checks.formats.energy import Energy
from checks.formats.training_reports import (
    MeasuredStep,
    Quantised,
    Stopping,
    TrainedStep,
    TrainMemory,
)
from checks.kinds.method import Train
from checks.process import imports
from checks.process.errors import EvidenceRefused, TrainingRefused
from checks.records.identity import Digest
from checks.records.rows import Row
from checks.storage import digest, files, layout
from checks.training import steps
from stages import tracking
from stages.training import checkpoints
from stages.training.checkpoints import MANIFEST, PROGRESS, Store, say

_CONTEXTS = {"train": "training", "valid": "evaluation"}  # MLflow's words for a split


class Given(NamedTuple):
    """The rows that a step learns from and is evaluated on, and their digests by split."""

    rows: list[Row]
    valid: list[Row]
    data: dict[str, Digest]


class Trained(NamedTuple):
    """The results of all steps, with the runs and the checkpoints to remove.

    ``resumed_at``: the step, counted over all, at which this process went on; None if it began.
    """

    fitted: list["Fitted"]
    runs: list[tracking.Run]
    stores: list[Store]
    resumed_at: int | None


class Fitted(BaseModel):
    """The result of one step; kept when it is finished, so that no resumed training does it again.

    ``unsent``: points and tags that MLflow did not take from a rank.
    """

    # A norm may be infinite: fp16 skips such a step.
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")

    method: str
    started_from: Digest | None
    adapter: Digest
    data: dict[str, Digest]
    rows: int
    sequences: int | None  # The rows were packed or cut into these; None: each row is one.
    steps: int
    batch: int | None  # rows of a step on several devices together, or sequences; None: on one
    epochs: float
    trainable: int
    total: int
    final_loss: float
    valid_loss: float | None
    points: list[tuple[int, dict[str, float]]]  # Points of the loss curve.
    figures: dict[str, float]
    tokens: int | None
    seconds: float
    resumed_at: int | None
    quantised: Quantised | None
    stopping: Stopping | None
    memory: TrainMemory
    energy: Energy
    run: str  # MLflow's id
    unsent: int = 0

    def reported(self) -> TrainedStep:
        """Return what ``reports/train.json`` has of it."""
        return TrainedStep.model_validate(self.model_dump(include=set(TrainedStep.model_fields)))

    def measured(self) -> MeasuredStep:
        """Return what ``reports/measured/train.json`` has of it."""
        return MeasuredStep(
            adapter=self.adapter, mlflow_run=self.run, seconds=round(self.seconds, 3), resumed_at=self.resumed_at,
            memory=self.memory, energy=self.energy,
        )  # fmt: skip


class Start(NamedTuple):
    """The adapter that a step goes on from: its folder and digest. None: a new one."""

    folder: Path | None = None
    adapter: Digest | None = None


# The key of a step that starts from this adapter.
Key = Callable[[Params, Given, Digest | None], str]
Fit = Callable[[Params, Given, tracking.Run, Store, Path, Start], Fitted]  # into a folder


def alone(params: Params) -> list[Params]:
    """The parameters of each step, as if it were the whole training."""
    return [params.model_copy(update={"training": step}) for step in steps.of(params.training)]


def given(params: Params, rows: Sequence[Row], valid: Sequence[Row], seal: Seal) -> list[Given]:
    """Return what each step learns from.

    Raises TrainingRefused for rows that it cannot learn from, or if it has none.
    """
    some = steps.in_some_rows(params.training)
    steps_given = []
    for number, step in enumerate(steps.of(params.training), 1):
        rows_by_split = {
            name: steps.rows_of(step, some, of_split)
            for name, of_split in (("train", rows), ("valid", valid))
        }
        if not rows_by_split["train"]:
            why = "none is a document" if step.of_documents else "all are documents"
            why = f"each has null in {' and '.join(step.extra())}" if step.extra() else why
            raise TrainingRefused(
                f"{layout.SPLITS / 'train.jsonl'}: no row is for step {number}, {step.method}: {why}",
                "bring rows for it, or remove the step from train.steps",
            )
        step.refuse_rows(rows_by_split["train"], rows_by_split["valid"])
        whole = {"train": len(rows), "valid": len(valid)}
        data = {
            name: seal.splits[name]
            if len(rows_by_split[name]) == whole[name]
            else _digest(rows_by_split[name])
            for name in rows_by_split
        }
        steps_given.append(Given(rows_by_split["train"], rows_by_split["valid"], data))
    return steps_given


def described(its: Given) -> dict[str, tuple[Path, Digest]]:
    """The data of a step, as ``tracking.run`` takes it."""
    return {
        _CONTEXTS[name]: (layout.SPLITS / f"{name}.jsonl", split_rows)
        for name, split_rows in its.data.items()
    }


def fit_all(
    root: Path,
    parts: Sequence[tuple[Params, Given]],
    parent: tracking.Run,
    kept: bool,
    folder: Path,
    key: Key,
    fit: Fit,
    check: Callable[[Params, Given], None],
) -> Trained:
    """Train all steps, the last one into ``folder``.

    ``check`` raises what would stop a step; it is called for later steps before the first one trains.
    """
    fitted: list[Fitted] = []
    stores: list[Store] = []
    resumed_at, trains = None, False
    with ExitStack() as stack:
        several = len(parts) > 1
        runs = [  # all before the first step: a store that is lost later costs no training
            stack.enter_context(tracking.run(part, root, described(data), parent))
            if several
            else parent
            for part, data in parts
        ]
        adapters = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        start = Start()
        for number, ((part, data), run) in enumerate(zip(parts, runs, strict=True), 1):
            last, before = number == len(parts), sum(step.steps for step in fitted)
            target = folder if last else adapters / str(number)
            target.mkdir(exist_ok=True)
            name = key(part, data, start.adapter)
            store = stack.enter_context(checkpoints.opened(root, name, kept))
            stores.append(store)
            finished = None
            if not last:
                finished = stack.enter_context(
                    checkpoints.opened(root, checkpoints.key({"finished": name}, ()), kept)
                )
                stores.append(finished)
            if checkpoint := finished and finished.newest(read):
                say(
                    f"{_step(number, parts)} is done: {checkpoint.known.adapter[:19]}, from {checkpoint.where}"
                )
                one = _again(checkpoint, target, run)
                hold(part.train, one)
                resumed_at = before + one.steps
            else:
                if several:
                    say(_step(number, parts))
                for later in () if trains else parts[number:]:
                    check(*later)
                    _release()
                one = fit(part, data, run, store, target, start)
                hold(part.train, one)
                if not trains and one.resumed_at is not None:
                    resumed_at = before + one.resumed_at
                trains = True
                if finished and kept:
                    _keep(finished, target, one)
            if several:
                run.tag(tracking.STEP_ADAPTER_TAG, one.adapter)
            fitted.append(one)
            start = Start(target, one.adapter)
            if several:
                _release()
        if several and resumed_at is not None:
            parent.tag("lockstep.resumed_at", str(resumed_at))
    return Trained(fitted, runs, stores, resumed_at)


def hold(train: Train, one: Fitted) -> None:
    """Raise TrainingRefused if a step failed by its loss curve, unless ``train.allow`` lets it pass.

    With early stopping the curve ends at the step whose weights were kept.
    """
    last = one.stopping.best_step if one.stopping else one.steps
    if failure := train.failure([values for step, values in one.points if step <= last]):
        kind, shown = failure
        if kind not in train.allow:
            remedy = "lower train.learning_rate or lengthen train.warmup_ratio"
            if kind == "no-reward":
                remedy = "start from a model that is right at times (a step of sft before), or change train.reward"
            raise TrainingRefused(shown, f"{remedy}; to go on knowingly, set train.allow: [{kind}]")
        say(f"{shown}; train.allow lets it pass")


def read(folder: Path, step: int) -> Fitted:
    """Return what a finished step left. Raises EvidenceRefused if its adapter is not the one that it names."""
    fitted = files.read_json(folder / PROGRESS, Fitted)
    adapter = digest.of_manifest({path.name: digest.of_file(path) for path in _adapter(folder)})
    if (adapter, step) != (fitted.adapter, fitted.steps):
        raise EvidenceRefused(
            f"step {step}: is not of the adapter {fitted.adapter[:19]}", "start from the beginning"
        )
    return fitted


def _again(found: checkpoints.Found[Fitted], adapter: Path, run: tracking.Run) -> Fitted:
    """Copy the adapter of a finished step, and log what was logged when it was trained."""
    for path in _adapter(found.folder):
        shutil.copyfile(path, adapter / path.name)
    one = found.known.model_copy(update={"run": run.id, "unsent": 0})
    run.replay(found.known.run, one.points, one.stopping.losses if one.stopping else ())
    if one.valid_loss is not None:
        run.metrics({"valid_loss": one.valid_loss}, one.steps)
    return one


def _keep(store: Store, adapter: Path, one: Fitted) -> None:
    """Keep a finished step; where the disk does not take it, training goes on."""
    copy = store.scratch / "finished"
    try:
        shutil.copytree(adapter, copy)
    except OSError as error:
        say(f"the finished step {one.method} is not kept: {error}")
        return
    store.keep(copy, one.steps, one.model_dump_json(), finished=True)


def curve(parts: Sequence[Params], fitted: Sequence[Fitted]) -> str:
    """The loss curve of all steps as CSV: step, loss, learning rate, and what the methods report of each.

    In several steps the column ``chain`` says which one a point is of, and ``step`` counts on from one to the next.
    """
    several = len(fitted) > 1
    reported = dict.fromkeys(name for part in parts for name in part.train.reported)
    points = [values for step in fitted for _, values in step.points]
    names = [name for name in reported if any(name in values for values in points)]
    lines = [["step", "loss", "learning_rate", *(["chain"] if several else []), *names]]
    before = 0
    for number, of_step in enumerate(fitted, 1):
        for step, values in of_step.points:
            first, *rest = (
                f"{values[n]:.6g}" if n in values else "" for n in ("loss", "learning_rate", *names)
            )
            of = [f"{number} {of_step.method}"] if several else []
            lines.append([str(before + step), first, rest[0], *of, *rest[1:]])
        before += of_step.steps
    return "".join(f"{','.join(line)}\n" for line in lines)


def epochs(fitted: Sequence[Fitted], rows: int) -> float:
    """How often a row of the train split was seen, on average over all ``rows``."""
    return round(math.fsum(step.epochs * step.rows / rows for step in fitted), 6)


def counted(model: Any) -> tuple[int, int]:
    """Trainable parameters and all, without the frozen copy of an adapter that TRL compares with."""
    if not hasattr(model, "get_nb_trainable_parameters"):  # no adapter
        weights = list(model.parameters())
        learned = sum(weight.numel() for weight in weights if weight.requires_grad)
        return learned, sum(weight.numel() for weight in weights)
    trainable, total = model.get_nb_trainable_parameters()
    copies = sum(weight.numel() for name, weight in model.named_parameters() if ".ref." in name)
    return trainable, total - copies


def _step(number: int, parts: Sequence[tuple[Params, Given]]) -> str:
    part, data = parts[number - 1]
    return f"step {number} of {len(parts)}, {part.train.method} on {len(data.rows)} {named(part.train)}"


def named(train: Train) -> str:
    """Return what the rows are that a method learns from."""
    return "documents" if train.of_documents else "rows"


def _adapter(folder: Path) -> Iterator[Path]:
    """The files of an adapter, without those that a checkpoint has beside them."""
    return (path for path in sorted(folder.iterdir()) if path.name not in (MANIFEST, PROGRESS))


def _digest(rows: Sequence[Row]) -> Digest:
    """The digest of rows as lines of JSON, as a split has them."""
    return digest.of_bytes(b"".join(row.model_dump_json().encode() + b"\n" for row in rows))


def _release() -> None:
    """Let go of a model that is not used any more: trainers and their callbacks name one another."""
    import torch

    imports.collect()
    torch.cuda.empty_cache()
