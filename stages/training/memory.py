"""How much memory a training will take, before its first step, and how much it took.

``checks.training.memory`` has the formula. What autograd keeps for the backward pass depends on the architecture, so
it is counted: the largest batch goes forward through fake tensors, which have shapes and no data (https://docs.pytorch.org/docs/stable/torch.compiler_fake_tensor.html).
That takes no memory, draws no random number, and gives the same count on every machine.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

from checks import layout
from checks.errors import EvidenceRefused
from checks.formats.training_reports import TrainMemory, TrainReport
from checks.machine import devices
from checks.training import cost, memory, tensors
from checks.training.interface import Train
from checks.training.memory import Batch, Foretold, Limit

# TRL computes logits in tiles of so many positions and words of the vocabulary (1.16, kernels/chunked_logprob.py).
_POSITIONS, _WORDS = 4096, 32768
# Bytes of a logit: as computed, in float32, its logarithm, and its gradient. On a GPU a tile is changed in place.
_LOGIT, _LOGIT_IN_PLACE = {"bf16": 14, "fp16": 14, "fp32": 12}, {"bf16": 2, "fp16": 2, "fp32": 4}


class Look(NamedTuple):
    """What was found out before the first step; ``foretold`` is None where the base does not say its sizes."""

    batch: Batch
    foretold: Foretold | None
    total: int | None

    @property
    def predicted(self) -> int | None:
        """The predicted peak in bytes."""
        return self.foretold.peak() if self.foretold else None


def hold_weights(train: Train, root: Path) -> None:
    """Refuse, before the base is loaded, when its weights and the adapter alone do not fit."""
    sizes = memory.sizes(root / layout.BASE, train)
    if sizes is None:
        return
    foretold = Foretold(train, sizes, Batch(0, 0, 0), not torch.cuda.is_available())
    if refusal := memory.refusal(foretold, _limit(train)):
        raise refusal


def hold(trainer: Any, train: Train, root: Path) -> Look:
    """Predict the peak of a trainer that is ready; raises MachineRefused or TrainingRefused when that does not fit."""
    batch, sizes, total = _batch(trainer, train), memory.sizes(root / layout.BASE, train), _total(train)
    if sizes is None:
        return Look(batch, None, total)
    tokens = batch.rows * batch.tokens * memory.passed(train, sizes.layers)
    counted = kept(trainer, batch, packed=bool(train.packing))
    if counted is not None and train.full:
        counted -= _copies(trainer.model, train)
    foretold = Foretold(
        train, sizes, batch, not torch.cuda.is_available(), None if counted is None else counted / max(1, tokens)
    )
    if refusal := memory.refusal(foretold, _limit(train)):
        raise refusal
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    return Look(batch, foretold, total)


def kept(trainer: Any, batch: Batch, packed: bool = False) -> int | None:
    """Bytes that autograd keeps of the batch without head and checkpointing; None where a model cannot be traced so.

    ``packed``: its rows are packed sequences, which lie end to end under one mask.
    """
    model, found = trainer.model, dict[int, int]()
    device, training = next(model.parameters()).device, model.training
    model.train()
    try:
        with FakeTensorMode(allow_non_fake_inputs=True) as mode, trainer.accelerator.autocast():
            weights = [mode.from_tensor(each) for each in (*model.parameters(), *model.buffers())]  # keeps them alive
            own = {_storage(each)[0] for each in weights}

            def pack(tensor: torch.Tensor) -> torch.Tensor:
                place, size = _storage(tensor)
                if place not in own:
                    found[place] = size
                return tensor

            with saved_tensors_hooks(pack, lambda tensor: tensor):
                ids = torch.ones((batch.rows, batch.tokens), dtype=torch.long, device=device)
                inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
                if packed:
                    inputs = {"input_ids": ids.view(1, -1), "position_ids": (ids.cumsum(1) - 1).view(1, -1)}
                out = model(**inputs, logits_to_keep=1, use_cache=False)
                size = sum(found.values())
                del out
    except RuntimeError:  # such as the routing of a mixture of experts, which depends on data
        return None
    finally:
        model.train(training)
    return size


def _copies(model: torch.nn.Module, train: Train) -> int:
    """Bytes of the copies in 16 bits of linear weights that learn: the formula counts them with the weights."""
    linear = {id(each.weight): each.weight for each in model.modules() if isinstance(each, torch.nn.Linear)}
    return 0 if train.precision == "fp32" else 2 * sum(w.numel() for w in linear.values() if w.requires_grad)


def measured(look: Look) -> TrainMemory:
    """The prediction and the peak until now."""
    return TrainMemory(
        predicted=look.predicted, peak=peak(), total=look.total, rows=look.batch.rows, tokens=look.batch.tokens,
        logits=look.batch.logits,
    )  # fmt: skip


def peak() -> int | None:
    """The largest size until now, bytes: allocated on a GPU, else resident of this process; None: unknown.

    Not ``ru_maxrss``, which a process takes over from the one that started it.
    """
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return next(iter(_numbers(Path("/proc/self/status"), "VmHWM:", 1024)), None)


def speed(train: Train, report: TrainReport, seconds: float, device: str, root: Path) -> dict[str, float | None]:
    """Tokens a second without padding, and the share of the device's peak: two fields of the report of measurements."""
    per_second = report.tokens / seconds if report.tokens and seconds > 0 else None
    try:
        weights = tensors.read(root / layout.BASE)
    except EvidenceRefused:
        return {"tokens_per_second": per_second, "flop_utilisation": None}
    layers, trained = train.layers, report.trainable_parameters
    share = 1.0 if layers is None else min(1.0, layers / weights.layers)
    training = cost.Training(
        report.rows, report.epochs, train.batch_size, weights.inner, share, trained if train.lora else 0, False,
        train.precision, None, own=0 if train.lora else trained,
    )  # fmt: skip
    each = None if per_second is None else per_second / train.devices
    used = devices.utilisation(each, training.flops_per_token, device, train.precision)
    return {"tokens_per_second": per_second, "flop_utilisation": used}


def said(found: TrainMemory) -> str:
    """The end of the stage's line."""
    if found.peak is None or found.predicted is None:
        return ""
    return f", peak of memory {memory.gigabytes(found.peak)}, predicted {memory.gigabytes(found.predicted)}"


def _batch(trainer: Any, train: Train) -> Batch:
    """The largest batch of the trainer's rows: as many of the longest as a batch takes."""
    rows = trainer.train_dataset
    lengths = sorted(((_tokens(row, train.max_length), place) for place, row in enumerate(rows)), reverse=True)
    longest = lengths[: train.batch_size]
    count, tokens = train.batch_size * train.sequences, longest[0][0]
    if train.packing and not torch.cuda.is_available():
        # as below, but no column is another row's too
        learned = sorted((sum(label != -100 for label in row["labels"]) for row in rows), reverse=True)
        values = sum(learned[: train.batch_size]) * _vocabulary(trainer)
    elif not torch.cuda.is_available() and "labels" in rows[0]:
        # ``answers.trainer_class`` projects the columns that are learned in some row
        batch = trainer.data_collator([rows[place] for _, place in longest])
        columns = int((batch["labels"][:, 1:] != -100).any(dim=0).sum())
        values = count * columns * _vocabulary(trainer)
    elif "chosen_input_ids" in rows[0]:  # ``methods.orpo``
        return Batch(count, tokens, count * tokens * _vocabulary(trainer) * _LOGIT[train.precision])
    else:
        values = min(count * tokens, _POSITIONS) * min(_vocabulary(trainer), _WORDS)
        if torch.cuda.is_available():
            return Batch(count, tokens, values * _LOGIT_IN_PLACE[train.precision])
    return Batch(count, tokens, values * _LOGIT[train.precision])


def _tokens(row: Mapping[str, Any], most: int) -> int:
    """Tokens of the longest sequence that a prepared row has; ``most`` where TRL has not made them yet."""
    whole = [len(row[name]) for name in ("input_ids", "chosen_input_ids", "rejected_input_ids") if name in row]
    prompt = len(row.get("prompt_ids", ()))
    whole += [prompt + len(row[name]) for name in ("chosen_ids", "rejected_ids", "completion_ids") if name in row]
    return max(whole, default=most)


def _vocabulary(trainer: Any) -> int:
    return int(trainer.model.config.get_text_config().vocab_size)


def _storage(tensor: torch.Tensor) -> tuple[int, int]:
    storage = tensor.untyped_storage()
    return storage._cdata, storage.nbytes()


def _limit(train: Train) -> Limit | None:
    gpu = torch.cuda.is_available()
    return memory.limit(_total(train), torch.cuda.get_device_name() if gpu else _machine(train), train)


def _machine(train: Train) -> str:
    return "this machine" if train.devices == 1 else f"each of {train.devices} ranks on this machine"


def _total(train: Train) -> int | None:
    """Bytes of the GPU, else a rank's part of the machine or of the control group that this process is confined to."""
    if torch.cuda.is_available():
        return int(torch.cuda.get_device_properties(0).total_memory)
    found = (*_numbers(Path("/proc/meminfo"), "MemTotal:", 1024), *_confined())
    return min(found) // train.devices if found else None


def _confined() -> list[int]:
    """The limits of memory of the process's control groups, of both versions (man 7 cgroups)."""
    found = []
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root, name = ("memory", "memory.limit_in_bytes") if controllers else ("", "memory.max")
        group = Path(path.strip("/"))
        for each in (group, *group.parents):
            found += _numbers(Path("/sys/fs/cgroup") / root / each / name, "", 1)
    return found


def _numbers(path: Path, start: str, unit: int) -> list[int]:
    """The number of each line that begins with ``start``; none where the file or the number is missing."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return []
    words = [line.removeprefix(start).split() for line in lines if line.startswith(start)]
    return [int(each[0]) * unit for each in words if each and each[0].isdigit()]
