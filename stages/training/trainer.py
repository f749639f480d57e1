"""The parts that trainers of all methods share: adapter, settings, loss curve, and checkpoints of the adapter.

A method (``checks.kinds.method``) builds its trainer from ``Steady`` and a trainer of TRL.
"""

import json
import math
import shutil
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel, TrainerCallback, TrainerState
from transformers import Trainer as Base
from transformers.trainer_callback import ProgressCallback
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from checks.kinds.method import Lora, Train
from checks.machine import disk
from checks.process.errors import TrainingRefused
from checks.storage import files, layout
from stages.training.checkpoints import FOLDER, say
from stages.training.order import Order
from stages.training.stopping import Stopper, trained
from stages.weights import whole

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_ADAPTER = ["default"]  # It is trained. TRL compares it with a frozen copy of an earlier step's.
_LOG_STEPS = 10  # between two points of the loss curve, at most
_LOG_POINTS = 20  # Points of the loss curve, at least.
_SHARDS = {
    "fsdp": True,
    "fsdp_config": {
        "version": 2,
        "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "reshard_after_forward": True,
        "state_dict_type": "FULL_STATE_DICT",
        "cpu_ram_efficient_loading": True,
    },
}


class Steady(Base):
    """A trainer that stops at the first loss that is not finite, and can resume to the same bytes.

    A checkpoint has what is trained, not the rest of the base. Name this class before TRL's:
    ``class Trainer(Steady, DPOTrainer)``.

    It uses one GPU, however many are visible; several ranks have one each.
    """

    order: Order | None = None  # The order of the rows, once it trains.
    stopper: Stopper | None = None  # Set with early stopping.
    # The first epoch's order is drawn from this state.
    resumed_order: torch.Tensor | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if (arguments := kwargs.get("args")) is not None:
            arguments._n_gpu = min(1, arguments.n_gpu)
        super().__init__(*args, **kwargs)

    def create_model_card(self, *_args: Any, **_kwargs: Any) -> None:
        """Does nothing: a checkpoint needs no model card, and writing one would use the network."""

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Order:
        sampler = super()._get_train_sampler(*args, **kwargs)
        if isinstance(sampler, LengthGroupedSampler):
            sampler.batch_size *= self.args.world_size  # the rows of one step, on all ranks
        self.order = Order(
            sampler, of_first if self.args.world_size > 1 else None, self.args.process_index == 0
        )
        if self.resumed_order is not None:
            self.order.again(self.resumed_order)
        return self.order

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As the superclass, but of a base that is divided among ranks no more than the adapter is put together."""
        if self.is_fsdp_enabled:
            self._save(output_dir, gathered(self))
        else:
            super().save_model(output_dir, _internal_call)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if not self.args.should_save:
            return
        if isinstance(self.model, PeftModel):
            self.model.save_pretrained(
                output_dir,
                state_dict=state_dict,
                save_embedding_layers=False,
                selected_adapters=_ADAPTER,
            )
        else:
            _write_own(self.model, Path(str(output_dir)))

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        """As the superclass, and the base's own weights, which it would not find."""
        if isinstance(self.model, PeftModel):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        weights = trained(self.model)
        with torch.no_grad():
            for name, value in load_file(Path(resume_from_checkpoint) / whole.WEIGHTS).items():
                weights[name].copy_(value)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """As the superclass; if the disk is full there is no checkpoint, and training continues."""
        try:
            with disk.writing(Path(self.args.output_dir)):
                super()._save_checkpoint(*args, **kwargs)
                if self.stopper and self.args.should_save:
                    self.stopper.save(saved(self.args, self.state))
        except (OSError, RuntimeError, SafetensorError) as error:
            if self.args.should_save:
                shutil.rmtree(saved(self.args, self.state), ignore_errors=True)
            full = isinstance(error, OSError) and disk.full(error, [])
            reason = f"the disk of {FOLDER} is full" if full else str(error).strip().splitlines()[0]
            say(f"the checkpoint of step {self.state.global_step} is not kept: {reason}")
        self.accelerator.wait_for_everyone()  # each rank adds its random state

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """As the superclass, but the random numbers that loading rows takes do not change the order of later epochs."""
        with torch.random.fork_rng(devices=[]):
            losses: dict[str, float] = super().evaluate(*args, **kwargs)
        return losses

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """One micro-batch, as the superclass; raises TrainingRefused if its loss is not finite."""
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        if not math.isfinite(loss):
            raise TrainingRefused(
                f"step {self.state.global_step + 1}: the loss is {float(loss)}",
                "lower train.learning_rate, lengthen train.warmup_ratio, or train in bf16 or fp32",
            )
        return loss


@cache
def steady(kind: type[Base]) -> Any:
    """TRL's trainer class ``kind`` as a steady one."""
    return type("Trainer", (Steady, kind), {})


class Recorder(TrainerCallback):
    """Records the points of the loss curve (a step with its metrics), and passes each to ``log``.

    ``reported``: what the method logs besides the loss, which is recorded too.
    """

    def __init__(
        self, log: Callable[[dict[str, float], int], None], reported: Sequence[str] = ()
    ) -> None:
        self.points: list[tuple[int, dict[str, float]]] = []
        self._log, self._reported = log, tuple(reported)

    def on_step_end(self, _args: Any, state: Any, control: Any, **_kwargs: Any) -> None:
        """Make the last step a point of the curve."""
        if state.global_step >= state.max_steps:
            control.should_log = True

    def on_log(
        self, _args: Any, state: Any, _control: Any, logs: dict[str, float], **_kwargs: Any
    ) -> None:
        """Record a point; other logs, such as the run's summary, are ignored."""
        if "loss" in logs:
            names = ("loss", "learning_rate", "grad_norm", *self._reported)
            values: dict[str, float] = {name: logs[name] for name in names if name in logs}
            self.points.append((state.global_step, values))
            self._log(values, state.global_step)

    def final_loss(self) -> float:
        """The mean loss of the last tenth of the points, at least one."""
        return self._mean([values["loss"] for _, values in self.points])

    def figures(self) -> dict[str, float]:
        """The same mean of what the method reports, over the points that have it."""
        series = {
            name: [values[name] for _, values in self.points if name in values]
            for name in self._reported
        }
        return {name: self._mean(values) for name, values in series.items() if values}

    @staticmethod
    def _mean(values: Sequence[float]) -> float:
        last = values[-max(1, len(values) // 10) :]
        return math.fsum(last) / len(last)


class Progress(ProgressCallback):
    """Only the progress bar, with the loss: nothing on standard output."""

    def on_log(
        self, _args: Any, _state: Any, _control: Any, logs: Any = None, **_kwargs: Any
    ) -> None:
        """Show the newest loss."""
        if self.training_bar is not None and logs and "loss" in logs:
            self.training_bar.set_postfix(loss=f"{logs['loss']:.3f}")


def of_first(value: Any) -> Any:
    """The ``value`` that rank 0 hands over; every rank must ask at the same time. Of one process its own."""
    from accelerate.utils import broadcast_object_list  # type: ignore[import-untyped]

    return broadcast_object_list([value])[0]


def gathered(trainer: Steady) -> dict[str, Any] | None:
    """The trained weights on rank 0 where the base is divided among ranks, else None; every rank must ask."""
    if not trainer.is_fsdp_enabled:
        return None
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    return get_model_state_dict(
        trainer.model,
        options=StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True),
    )


def saved(args: Any, state: TrainerState) -> Path:
    """The folder of the trainer's checkpoint of this step."""
    return Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"


def settings(train: Train, rows: int, output: str) -> dict[str, Any]:
    """Arguments of transformers' trainer for every method; each one whose default differs there is set."""
    warm = train.schedule != "constant" or not train.warmup_ratio
    return dict(
        output_dir=output,
        seed=train.seed,
        data_seed=train.seed,
        learning_rate=train.learning_rate,
        lr_scheduler_type=train.schedule if warm else "constant_with_warmup",
        lr_scheduler_kwargs={}
        if train.min_learning_rate is None
        else {"min_lr": train.min_learning_rate},
        warmup_steps=train.warmup_ratio,  # below 1 it is a share
        weight_decay=train.weight_decay,
        max_grad_norm=train.max_grad_norm,
        num_train_epochs=train.epochs or 1,
        max_steps=train.max_steps or -1,
        per_device_train_batch_size=train.batch_size,
        per_device_eval_batch_size=train.batch_size,
        gradient_accumulation_steps=train.gradient_accumulation,
        gradient_checkpointing=train.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        ddp_find_unused_parameters=False,
        use_cpu=not torch.cuda.is_available(),
        bf16=train.precision == "bf16",
        fp16=train.precision == "fp16",
        optim=train.optimizer,
        neftune_noise_alpha=train.neftune_alpha,
        train_sampling_strategy="group_by_length",
        logging_steps=log_every(train, rows),
        logging_nan_inf_filter=False,
        report_to=[],
        save_strategy="no",  # checkpoints come by the clock: ``resuming.Keeper``
        include_num_input_tokens_seen="non_padding",
        eval_strategy="no",
        disable_tqdm=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        log_level="error",
        **(_SHARDS if train.shard else {}),
    )


def log_every(train: Train, sequences: int) -> int:
    """Steps between two points of the loss curve, of a training on so many rows or packed sequences."""
    return max(1, min(_LOG_STEPS, train.steps(sequences) // _LOG_POINTS))


def lora_config(lora: Lora, model: PreTrainedModel) -> LoraConfig:
    """PEFT's configuration with every target module named.

    Raises TrainingRefused if a target matches no linear layer or the head, if ``layers`` exceeds the model's number of
    layers, or if ``modules_to_save`` has more than embeddings and head.
    """
    count = int(model.config.get_text_config().num_hidden_layers)
    if lora.layers is not None and lora.layers > count:
        raise TrainingRefused(
            f"train.lora.layers: {lora.layers} is more than the model's {count}",
            f"set it to {count} or less, or null",
        )
    modules = dict(model.named_modules())
    head = {name for name, module in modules.items() if module is model.get_output_embeddings()}
    linear = {
        name
        for name, module in modules.items()
        if isinstance(module, nn.Linear) and name not in head
    }
    names = {name.rpartition(".")[2] for name in linear}
    targets = sorted(names) if lora.targets == "all-linear" else sorted(set(lora.targets))
    for target in targets:
        matched = {name for name in modules if name == target or name.endswith(f".{target}")}
        if not matched or not matched <= linear:
            what = (
                "no module"
                if not matched
                else f"{min(matched - linear)}, which LoRA here does not adapt"
            )
            raise TrainingRefused(
                f"train.lora.targets: {target!r} matches {what}",
                f"use all-linear, or some of {', '.join(sorted(names))}",
            )
    if not targets:
        raise TrainingRefused(
            "train.lora.targets: names no module", "use all-linear, or names of linear layers"
        )
    return LoraConfig(
        **_learning_whole(lora, model),
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        use_rslora=lora.variant == "rslora",
        use_dora=lora.variant == "dora",
        init_lora_weights=True if lora.init == "default" else lora.init,
        target_modules=targets,
        layers_to_transform=None
        if lora.layers is None
        else list(range(count - lora.layers, count)),
        task_type="CAUSAL_LM",
    )


def hold_shape(folder: Path, wanted: LoraConfig) -> None:
    """Raise TrainingRefused, with every difference, if the adapter in ``folder`` has another shape or scale."""
    then, now = _shape(LoraConfig.from_pretrained(folder)), _shape(wanted)
    differing = (
        f"train.lora.{name}: gives {now[name]}, and the adapter that training starts from has {value}"
        for name, value in then.items()
        if value != now[name]
    )
    TrainingRefused.raise_for(
        differing, "write what that adapter has, or start from the base: `lockstep start base`"
    )


def _shape(config: LoraConfig) -> dict[str, str]:
    """Return what decides the shape and the scale of an adapter, by the key of train.lora."""
    layers, modules = config.layers_to_transform, config.modules_to_save
    return {
        "r": str(config.r),
        "alpha": str(config.lora_alpha),
        "variant": "dora" if config.use_dora else "rslora" if config.use_rslora else "lora",
        "targets": ", ".join(sorted(config.target_modules)),
        "layers": "all layers" if layers is None else f"layers {layers[0]} to {layers[-1]}",
        "modules_to_save": ", ".join(sorted(modules or ())) or "none",
    }


def _learning_whole(lora: Lora, model: PreTrainedModel) -> dict[str, Any]:
    """PEFT's settings of the modules that learn whole. Where head and embeddings are one weight, they stay one."""
    if not lora.modules_to_save:
        return {}
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    allowed = {name for name, module in model.named_modules() if any(module is end for end in ends)}
    for name in lora.modules_to_save:
        if not any(
            allowed_name == name or allowed_name.endswith(f".{name}") for allowed_name in allowed
        ):
            listed = ", ".join(sorted(allowed_name.rpartition(".")[2] for allowed_name in allowed))
            raise TrainingRefused(
                f"train.lora.modules_to_save: {name!r} is neither the embeddings nor the head",
                f"use some of {listed}, or train.full",
            )
    tied = ends[1] is not None and ends[0].weight is ends[1].weight
    return {"modules_to_save": sorted(set(lora.modules_to_save)), "ensure_weight_tying": tied}


def in_float32(model: PeftModel) -> None:
    """Train in float32 whatever learns: on a quantised base TRL casts the adapter to bf16, and modules that learn whole
    have the base's precision.

    In bf16 a step smaller than 1/256 of a weight is lost in rounding.
    """
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()


def save(
    model: PreTrainedModel | PeftModel, folder: Path, state: dict[str, Any] | None = None
) -> None:
    """Write only the adapter's config and weights, or the base's own that learned. The same ones give the same bytes.

    ``state``: the trained weights, where the model has only parts of them: see ``gathered``.
    Raises TrainingRefused if a weight is not finite.
    """
    for name, weight in model.named_parameters() if state is None else state.items():
        if (state is not None or weight.requires_grad) and not bool(torch.isfinite(weight).all()):
            raise TrainingRefused(
                f"after training, {name} is not finite", "lower train.learning_rate"
            )
    if not isinstance(model, PeftModel):
        _write_own(model, folder)
        return
    # PEFT adds a model card.
    with (
        disk.writing(folder),
        tempfile.TemporaryDirectory(dir=folder.parent, prefix=".") as scratch,
    ):
        model.save_pretrained(
            scratch, state_dict=state, save_embedding_layers=False, selected_adapters=_ADAPTER
        )
        config = json.loads((Path(scratch) / _CONFIG).read_text())
        # PEFT holds these as sets, which have another order each time.
        for name in ("target_modules", "modules_to_save"):
            config[name] = config[name] and sorted(config[name])
        # The path must not say where the base lies on this machine.
        config["base_model_name_or_path"] = layout.BASE.as_posix()
        files.write_json(folder / _CONFIG, config)
        shutil.copyfile(Path(scratch) / _WEIGHTS, folder / _WEIGHTS)


def _write_own(model: nn.Module, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    weights = {name: weight.detach().cpu().contiguous() for name, weight in trained(model).items()}
    with disk.writing(folder):
        save_file(weights, folder / whole.WEIGHTS)
