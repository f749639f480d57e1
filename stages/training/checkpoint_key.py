"""The key of a step's checkpoints: the digest of everything that determines its adapter."""

import importlib.metadata
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

from checks.config.params import Params
from checks.evaluation import scoring
from checks.kinds.method import METHODS
from stages.training import checkpoints
from stages.training.training_steps import TrainingStep

LIBRARIES = ("torch", "transformers", "trl", "peft")
# Libraries below those: a checkpoint is of no use to another version of them.
_BELOW = ("accelerate", "datasets", "numpy", "safetensors", "tokenizers")
_TRAINING = (
    "answers", "chain", "checkpoint_key", "checkpoints", "devices", "kernels", "order", "own_weights", "packing",
    "preferences", "ranks", "resuming", "step", "stopping", "trainer", "training_steps", "turns", "windows",
)  # fmt: skip
_MODULES = ("train.py", *(f"training/{name}.py" for name in _TRAINING), "weights/nf4.py")


def of(step: TrainingStep) -> str:
    """Return the key of the checkpoints of ``step``, from the adapter that it starts from."""
    train = step.train
    # Checkpoints that are kept may be older than this parameter.
    unset = () if train.kernels else ("kernels",)
    values = {
        "base": step.base,
        "splits": step.data,
        "started_from": step.started_from,
        "train": train.model_dump(mode="json", exclude={"allow", "max_memory_gb", *unset}),
        "device": f"{step.device} on {platform.machine()}",
        "versions": versions([step.params], (*LIBRARIES, *_BELOW)),
        "rewards": scoring.digest_of(train.rewards()),
        "plugins": {
            name: package.sha256 for name, package in METHODS.plugins([train.method]).items()
        },
    }
    kinds = [type(kind) for kind in (train, *train.rewards())]
    of_kinds = (Path(str(sys.modules[kind.__module__].__file__)) for kind in kinds)
    stages = Path(__file__).parent.parent
    return checkpoints.key(values, (*(stages / name for name in _MODULES), *of_kinds))


def versions(parts: Sequence[Params], libraries: tuple[str, ...]) -> dict[str, str]:
    """Return the versions of libraries, and of the packages that the steps need besides."""
    names = (*libraries, *(name for part in parts for name in part.train.packages))
    return {name: importlib.metadata.version(name) for name in names}
