"""A repository's root from which a tiny model can be trained: base, sealed splits of 24, 6 and 6 rows."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from checks.config.params import Params
from checks.formats.data_reports import Seal
from checks.formats.thinking import of_model
from checks.kinds.method import Job, Train
from checks.records.rows import Message, Row
from checks.storage import digest, files, layout
from stages.training import checkpoints
from stages.training.training_steps import TrainingStep
from tests import pipeline_repository
from tests.conftest import REPOSITORY

SERVICES = ("queue", "table", "disk", "vault")


BOUNDS = {"max_length_bias": 0.5, "max_auc": 1.0}
# Parameters of each method but sft, beside those that all methods have.
METHODS: dict[str, dict[str, Any]] = {
    "dpo": {"method": "dpo", "beta": 0.1, "loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.2]},
    "grpo": {
        "method": "grpo", "reward": {"kind": "edit-similarity"}, "num_generations": 2, "max_completion_length": 8,
        "temperature": 1.0, "beta": 0.0,
    },
    "kto": {"method": "kto", "beta": 0.1, "desirable_weight": 1.0, "undesirable_weight": 1.0},
}  # fmt: skip


def make(root: Path, base: Path, preferences: bool = False) -> Path:
    """Lay it out below ``root``; with ``preferences`` rows have the further columns of every method."""
    shutil.copytree(base, root / layout.BASE)
    number = 0
    for name, count in zip(layout.SPLIT_NAMES, (24, 6, 6), strict=True):
        rows = []
        for _ in range(count):
            service = SERVICES[number % len(SERVICES)]
            rows.append(row(number, f"{'show ' * (1 + number % 3)}the {service}", service))
            if preferences:
                other, liked = SERVICES[(number + 1) % len(SERVICES)], number % 8 < 4
                more = {"rejected": other, "completion": service if liked else other, "label": liked}
                rows[-1] = rows[-1].model_copy(update={"extra": more})
            number += 1
        files.write_jsonl(root / layout.SPLITS / f"{name}.jsonl", rows)
    seal(root)
    return root


def step(params: Params, root: Path = Path(), **more: Any) -> TrainingStep:
    """The only step of a training."""
    given = {"data": {}, "base": f"sha256:{0:064}"} | more
    return TrainingStep(root=root, train=params.train, tracking=params.tracking, **given)


def trainer(settings: Train, root: Path, scratch: Path, callbacks: Sequence[Any] = ()) -> Any:
    """The trainer of the method that ``settings`` are of, on the rows of the root's train split."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from stages.training import own_weights
    from stages.training import trainer as shared
    from stages.weights import nf4

    rows = files.read_jsonl(root / layout.SPLITS / "train.jsonl", Row)
    valid = files.read_jsonl(root / layout.SPLITS / "valid.jsonl", Row) if settings.early_stopping else ()
    if settings.quantization:
        model = nf4.load(root / layout.BASE, settings.quantization, settings.precision)[0]
    else:
        model = AutoModelForCausalLM.from_pretrained(root / layout.BASE, dtype=shared.DTYPES[settings.precision])
    if settings.full:
        own_weights.choose(model, settings.full, root / layout.BASE)
    tokenizer = AutoTokenizer.from_pretrained(root / layout.BASE)
    made = settings.trainer(
        Job(
            model=model,
            tokenizer=tokenizer,
            rows=rows,
            valid=valid,
            settings=shared.settings(settings, len(rows), str(scratch)),
            adapter=shared.lora_config(settings.lora, model) if settings.lora else None,
            callbacks=callbacks,
            stops=frozenset({tokenizer.eos_token_id}),
            thinking=of_model(root / layout.BASE),
        )
    )
    if settings.quantization or (settings.lora and settings.lora.modules_to_save):
        shared.in_float32(made.model)
    return made


def row(number: int, prompt: str, reference: str) -> Row:
    """One row; its id is the number."""
    messages = (Message(role="system", content="name the key"), Message(role="user", content=prompt))
    return Row(id=f"{number:016x}", messages=messages, reference=reference, group=str(number), slice="a", source="x:1")


def seal(root: Path) -> None:
    """Seal the splits as they are."""
    paths = {name: root / layout.SPLITS / f"{name}.jsonl" for name in layout.SPLIT_NAMES}
    files.write_json(root / layout.SEAL, Seal(splits={n: digest.of_file(p).sha256 for n, p in paths.items()}))


def started(root: Path) -> subprocess.Popen[bytes]:
    """``stages.train`` in ``root``, which keeps a checkpoint at each step, in a process to be killed.

    All of it has ended when its output has. It is forked from a process that has loaded torch (tests/warm.py).
    """
    more = {"PYTHONPATH": str(REPOSITORY), checkpoints.MINUTES: "0.0001"}
    more |= {name: os.environ[name] for name in ("MLFLOW_TRACKING_URI",) if name in os.environ}
    return subprocess.Popen(
        [pipeline_repository.interpreter(), "-m", "stages.train"], cwd=root, env=pipeline_repository.environment(**more), stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )  # fmt: skip
