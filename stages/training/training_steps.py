"""A training (``Training``), each of its steps (``TrainingStep``), and the result of a step (``FittedStep``).

The stage makes the steps from params.yaml and the sealed splits. Each goes to the process that fits it: this one, or
as JSON to several ranks.
"""

import importlib.metadata
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny

from checks.config.params import Params, Tracking
from checks.evaluation import scoring
from checks.formats.data_reports import Seal
from checks.formats.energy import Energy
from checks.formats.training_reports import MeasuredStep, Quantised, TrainedStep, TrainMemory
from checks.kinds.method import METHODS, AnyTrain, Train
from checks.process.errors import TrainingRefused
from checks.records.record import Digest
from checks.records.rows import Row
from checks.storage import digest, files, layout
from checks.training import steps
from stages.training import checkpoints
from stages.training.start import Started

LIBRARIES = ("torch", "transformers", "trl", "peft")
# Libraries below those: a checkpoint is of no use to another version of them.
_BELOW = ("accelerate", "datasets", "numpy", "safetensors", "tokenizers")
# The modules whose code determines an adapter.
_TRAINING = (
    "answers", "chain", "checkpoints", "devices", "kernels", "order", "own_weights", "packing", "ranks",
    "resuming", "step", "stopping", "trainer", "training_steps", "turns", "windows",
)  # fmt: skip
_MODULES = ("train.py", *(f"training/{name}.py" for name in _TRAINING), "weights/nf4.py")
_SPLITS = ("train", "valid")


class TrainingStep(BaseModel):
    """One step of a training. Paths are absolute.

    ``train``: the parameters of the step. All of params.yaml is not read again: one step alone may contradict another
    section, such as a source of documents that another step learns from. ``columns``: those that tell which rows are
    of the step (``steps.in_some_rows``). ``rows``, ``valid``: the rows that it learns from and is evaluated on, which
    each rank reads for itself. ``data``: their digests by split. ``base``: the digest of the base. ``minutes``: between
    two checkpoints. ``device``: its description. ``threads``: of each process. ``parent``: the stage's process.

    Known when the step begins: ``run``: MLflow's id. ``key``, ``scratch``: of the checkpoints. ``key`` is None
    where nothing is trained: the trainer is only made, with what its method refuses. ``adapter``: the folder to fill.
    ``start``: the folder of the adapter that the step goes on from, and ``started_from`` its digest; None: a new one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    root: Path
    train: SerializeAsAny[AnyTrain]
    tracking: Tracking
    columns: tuple[str, ...] = ()
    rows: list[Row] = Field(default=[], exclude=True)
    valid: list[Row] = Field(default=[], exclude=True)
    data: dict[str, Digest]
    base: Digest
    minutes: float = 0
    device: str = ""
    threads: int = 1
    parent: int = Field(default_factory=os.getpid)
    run: str = ""
    key: Digest | None = None
    scratch: Path = Path()
    adapter: Path = Path()
    start: Path | None = None
    started_from: Digest | None = None

    @property
    def ranks(self) -> int:
        """The number of processes that train it."""
        return self.train.devices

    @property
    def kind_of_rows(self) -> str:
        """The noun for the rows that the method learns from."""
        return "documents" if self.train.of_documents else "rows"

    def checkpoint_key(self) -> str:
        """Return the digest of everything that determines the adapter of this step."""
        train = self.train
        # Checkpoints that are kept may be older than these parameters.
        newer = {"kernels": None, "thoughts": "learn"}
        unset = [name for name, off in newer.items() if getattr(train, name, off) == off]
        plugins = METHODS.plugins([train.method])
        values = {
            "base": self.base,
            "splits": self.data,
            "started_from": self.started_from,
            # ``started_from`` says what ``start`` decides.
            "train": train.model_dump(
                mode="json", exclude={"allow", "max_memory_gb", "start", *unset}
            ),
            "device": f"{self.device} on {platform.machine()}",
            "versions": versions([train], (*LIBRARIES, *_BELOW)),
            "rewards": scoring.digest_of(train.rewards()),
            "plugins": {name: package.sha256 for name, package in plugins.items()},
        }
        kinds = [type(kind) for kind in (train, *train.rewards())]
        of_kinds = (Path(str(sys.modules[kind.__module__].__file__)) for kind in kinds)
        stages = Path(__file__).parent.parent
        return checkpoints.key(values, (*(stages / name for name in _MODULES), *of_kinds))

    def with_rows(self) -> "TrainingStep":
        """Return the step with its rows, from the splits on disk."""
        rows, valid = (
            steps.rows_of(self.train, self.columns, of_split)
            for of_split in splits(self.root).values()
        )
        return self.model_copy(update={"rows": rows, "valid": valid})


@dataclass(frozen=True)
class Training:
    """A whole training: its parameters and place, and what its steps share.

    ``base``: the digest of the base. ``rows``: those of the splits train and valid. ``minutes``: between two
    checkpoints. ``started``: what the first step starts from; None: a new adapter.
    """

    params: Params
    root: Path
    base: Digest
    seal: Seal
    rows: Mapping[str, Sequence[Row]]
    minutes: float
    started: Started | None = None

    @cached_property
    def steps(self) -> tuple[TrainingStep, ...]:
        """The steps in order, with their rows.

        Raises TrainingRefused for rows that a step cannot learn from, or if it has none.
        """
        sections = enumerate(steps.of(self.params.training), 1)
        return tuple(self._step(number, section) for number, section in sections)

    def _step(self, number: int, train: Train) -> TrainingStep:
        columns = steps.in_some_rows(self.params.training)
        rows = {name: steps.rows_of(train, columns, self.rows[name]) for name in _SPLITS}
        if not rows["train"]:
            why = "none is a document" if train.of_documents else "all are documents"
            why = f"each has null in {' and '.join(train.extra())}" if train.extra() else why
            raise TrainingRefused(
                f"{layout.SPLITS / 'train.jsonl'}: no row is for step {number}, {train.method}: {why}",
                "bring rows for it, or remove the step from train.steps",
            )
        train.refuse_rows(rows["train"], rows["valid"])
        data = {
            name: self.seal.splits[name]
            if len(rows[name]) == len(self.rows[name])
            else digest.of_bytes(
                b"".join(row.model_dump_json().encode() + b"\n" for row in rows[name])
            )
            for name in _SPLITS
        }
        step = TrainingStep(
            root=self.root.resolve(),
            train=train,
            tracking=self.params.tracking,
            columns=columns,
            data=data,
            base=self.base,
            minutes=self.minutes,
        )
        if self.started and number == 1:
            step = step.model_copy(
                update={"start": self.started.adapter, "started_from": self.started.report.adapter}
            )
        return step.model_copy(update={"rows": rows["train"], "valid": rows["valid"]})


class FittedStep(TrainedStep):
    """The result of one step; kept when it is finished, so that no resumed training does it again.

    ``points``: of the loss curve. ``run``: MLflow's id. ``unsent``: points and tags that MLflow did not take from a
    rank.
    """

    # A norm may be infinite: fp16 skips such a step.
    model_config = ConfigDict(allow_inf_nan=True, ser_json_inf_nan="constants")

    trainable: int
    total: int
    valid_loss: float | None
    points: list[tuple[int, dict[str, float]]]
    seconds: float
    resumed_at: int | None
    quantised: Quantised | None
    memory: TrainMemory
    energy: Energy
    run: str
    unsent: int = 0

    def reported(self) -> TrainedStep:
        """Return the part of ``reports/train.json`` about this step."""
        return TrainedStep.model_validate(self.model_dump(include=set(TrainedStep.model_fields)))

    def measured(self) -> MeasuredStep:
        """Return the part of ``reports/measured/train.json`` about this step."""
        return MeasuredStep(
            adapter=self.adapter, mlflow_run=self.run, seconds=round(self.seconds, 3), resumed_at=self.resumed_at,
            memory=self.memory, energy=self.energy,
        )  # fmt: skip


def versions(trains: Sequence[Train], libraries: tuple[str, ...]) -> dict[str, str]:
    """Return the versions of libraries, and of the packages that the steps need besides."""
    names = (*libraries, *(name for train in trains for name in train.packages))
    return {name: importlib.metadata.version(name) for name in names}


def splits(root: Path) -> dict[str, list[Row]]:
    """Read the train and valid splits."""
    return {name: files.read_jsonl(root / layout.SPLITS / f"{name}.jsonl", Row) for name in _SPLITS}
