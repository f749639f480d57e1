"""Supervised fine-tuning with TRL and PEFT: the trainer, its callbacks, its data and its adapter.

Loss is the mean negative log-likelihood of the answer's tokens, end of turn included; the prompt
is not learned. The base's weights stay as they are, in the precision of training; LoRA's are float32.
"""

import json
import math
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback, TrainerState
from transformers.trainer_callback import ProgressCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from trl import SFTConfig, SFTTrainer

from checks import files, layout
from checks.errors import TrainingRefused
from checks.params import Lora, Train
from checks.rows import Row
from stages.training.checkpoints import say
from stages.training.order import Order

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_LOG_STEPS = 10  # between two points of the loss curve, at most
_LOG_POINTS = 20  # of the loss curve, at least


class Trainer(SFTTrainer):
    """SFTTrainer that stops at the first loss that is not finite, and on a CPU scores the answers only.

    What it saves for a checkpoint is the adapter, not the base.
    """

    order: Order | None = None  # of the rows, once it trains
    resumed_order: torch.Tensor | None = None  # the state that the first epoch's order is drawn from

    def create_model_card(self, *_args: Any, **_kwargs: Any) -> None:
        """None: nobody reads a checkpoint's, and it would look for services on the network."""

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Order:
        self.order = Order(super()._get_train_sampler(*args, **kwargs))
        if self.resumed_order is not None:
            self.order.again(self.resumed_order)
        return self.order

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        self.model.save_pretrained(output_dir, state_dict=state_dict, save_embedding_layers=False)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """As the superclass does it; when the disk does not take it, there is none, and training goes on."""
        try:
            super()._save_checkpoint(*args, **kwargs)
        except (OSError, RuntimeError, SafetensorError) as error:
            shutil.rmtree(saved(self.args, self.state), ignore_errors=True)
            reason = str(error).strip().splitlines()[0]
            say(f"the checkpoint of step {self.state.global_step} is not kept: {reason}")

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """One micro-batch, as the superclass does it; raise TrainingRefused when its loss is not finite."""
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        if not math.isfinite(loss):
            raise TrainingRefused(
                f"step {self.state.global_step + 1}: the loss is {float(loss)}",
                "lower train.learning_rate, lengthen train.warmup_ratio, or train in bf16 or fp32",
            )
        return loss

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Mean loss per answer token.

        TRL's own skips the prompt's positions on a GPU alone; elsewhere it projects every position onto the
        vocabulary. Here the model projects the positions whose next token is an answer's in some row.
        """
        labels = inputs["labels"]
        if labels.device.type == "cuda" or self.aux_loss_enabled or return_outputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        columns = (labels[:, 1:] != -100).any(dim=0).nonzero()[:, 0]
        logits = model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            logits_to_keep=columns,
            use_cache=False,
        ).logits
        targets = labels[:, columns + 1]
        total = nn.functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="sum")
        return total / ((targets != -100).sum() if num_items_in_batch is None else num_items_in_batch)


class Recorder(TrainerCallback):
    """Keeps the points of the loss curve (a step, and its metrics), and tells ``log`` each of them."""

    def __init__(self, log: Callable[[dict[str, float], int], None]) -> None:
        self.points: list[tuple[int, dict[str, float]]] = []
        self._log = log

    @property
    def curve(self) -> list[tuple[int, float, float]]:
        """Step, loss, learning rate."""
        return [(step, values["loss"], values["learning_rate"]) for step, values in self.points]

    def on_step_end(self, _args: Any, state: Any, control: Any, **_kwargs: Any) -> None:
        """The last step is a point of the curve too."""
        if state.global_step >= state.max_steps:
            control.should_log = True

    def on_log(self, _args: Any, state: Any, _control: Any, logs: dict[str, float], **_kwargs: Any) -> None:
        """Take a point; other logs, such as the run's summary, are not on the curve."""
        if "loss" in logs:
            values: dict[str, float] = {k: logs[k] for k in ("loss", "learning_rate", "grad_norm") if k in logs}
            self.points.append((state.global_step, values))
            self._log(values, state.global_step)

    def final_loss(self) -> float:
        """Mean of the last tenth of the points, one at least."""
        last = [values["loss"] for _, values in self.points[-max(1, len(self.points) // 10) :]]
        return math.fsum(last) / len(last)


class Progress(ProgressCallback):
    """The progress bar alone, with the loss in it: no dictionaries on standard output."""

    def on_log(self, _args: Any, _state: Any, _control: Any, logs: Any = None, **_kwargs: Any) -> None:
        """Show the newest loss."""
        if self.training_bar is not None and logs and "loss" in logs:
            self.training_bar.set_postfix(loss=f"{logs['loss']:.3f}")


def saved(args: SFTConfig, state: TrainerState) -> Path:
    """Where the trainer saves a checkpoint of this step."""
    return Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"


def dataset(rows: Sequence[Row]) -> Dataset:
    """Rows as TRL's conversational prompt and completion."""
    return Dataset.from_list(
        [
            {
                "id": row.id,
                "prompt": [message.model_dump() for message in row.messages],
                "completion": [{"role": "assistant", "content": row.reference}],
            }
            for row in rows
        ]
    )


def settings(train: Train, rows: int, output: str) -> SFTConfig:
    """TRL's settings; every one that has another default in TRL than in params.yaml is set."""
    warm = train.schedule != "constant" or not train.warmup_ratio
    return SFTConfig(
        output_dir=output,
        seed=train.seed,
        data_seed=train.seed,
        learning_rate=train.learning_rate,
        lr_scheduler_type=train.schedule if warm else "constant_with_warmup",
        warmup_steps=train.warmup_ratio,  # below 1 it is a share
        weight_decay=train.weight_decay,
        max_grad_norm=train.max_grad_norm,
        num_train_epochs=train.epochs or 1,
        max_steps=train.max_steps or -1,
        per_device_train_batch_size=train.batch_size,
        per_device_eval_batch_size=train.batch_size,
        gradient_accumulation_steps=train.gradient_accumulation,
        gradient_checkpointing=train.gradient_checkpointing,
        use_cpu=not torch.cuda.is_available(),
        bf16=train.precision == "bf16",
        fp16=train.precision == "fp16",
        optim="adamw_torch",
        train_sampling_strategy="group_by_length",
        max_length=None,  # nothing is cut: ``refuse_unfit`` has seen every row
        packing=False,
        completion_only_loss=True,
        logging_steps=max(1, min(_LOG_STEPS, steps(train, rows) // _LOG_POINTS)),
        logging_nan_inf_filter=False,
        report_to=[],
        save_strategy="no",  # checkpoints come by the clock: ``resuming.Keeper``
        include_num_input_tokens_seen="non_padding",
        eval_strategy="no",
        disable_tqdm=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        log_level="error",
    )


def steps(train: Train, rows: int) -> int:
    """Optimiser steps of the whole training."""
    if train.max_steps is not None:
        return train.max_steps
    batches = math.ceil(rows / train.batch_size)
    return math.ceil((train.epochs or 1) * math.ceil(batches / train.gradient_accumulation))


def lora_config(lora: Lora, model: PreTrainedModel) -> LoraConfig:
    """PEFT's config with every target named.

    Raises TrainingRefused when a target matches no linear layer, or the head, or when ``layers`` exceeds the model's.
    """
    count = int(model.config.get_text_config().num_hidden_layers)
    if lora.layers is not None and lora.layers > count:
        raise TrainingRefused(
            f"train.lora.layers: {lora.layers} is more than the model's {count}", f"set it to {count} or less, or null"
        )
    modules = dict(model.named_modules())
    head = {name for name, module in modules.items() if module is model.get_output_embeddings()}
    linear = {name for name, module in modules.items() if isinstance(module, nn.Linear) and name not in head}
    names = {name.rpartition(".")[2] for name in linear}
    targets = sorted(names) if lora.targets == "all-linear" else sorted(set(lora.targets))
    for target in targets:
        matched = {name for name in modules if name == target or name.endswith(f".{target}")}
        if not matched or not matched <= linear:
            what = "no module" if not matched else f"{min(matched - linear)}, which LoRA here does not adapt"
            raise TrainingRefused(
                f"train.lora.targets: {target!r} matches {what}",
                f"use all-linear, or some of {', '.join(sorted(names))}",
            )
    if not targets:
        raise TrainingRefused("train.lora.targets: names no module", "use all-linear, or names of linear layers")
    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        layers_to_transform=None if lora.layers is None else list(range(count - lora.layers, count)),
        task_type="CAUSAL_LM",
    )


def save(model: PeftModel, folder: Path) -> None:
    """Write the adapter's config and weights, always the same bytes for the same adapter, and nothing else.

    Raises TrainingRefused when a weight is not finite.
    """
    for name, weight in model.named_parameters():
        if weight.requires_grad and not bool(torch.isfinite(weight).all()):
            raise TrainingRefused(f"after training, {name} is not finite", "lower train.learning_rate")
    with tempfile.TemporaryDirectory() as scratch:  # PEFT adds a model card
        model.save_pretrained(scratch, save_embedding_layers=False)
        config = json.loads((Path(scratch) / _CONFIG).read_text())
        config["target_modules"] = sorted(config["target_modules"])  # a set in PEFT, in another order each time
        config["base_model_name_or_path"] = layout.BASE.as_posix()  # not where it lies on this machine
        files.write_json(folder / _CONFIG, config)
        shutil.copyfile(Path(scratch) / _WEIGHTS, folder / _WEIGHTS)


def refuse_unfit(prepared: Dataset, tokenizer: PreTrainedTokenizerBase, stops: set[int], max_length: int) -> None:
    """Refuse rows that would be cut, or learned from another prompt than the one at inference, or without an end.

    ``prepared`` has ``id``, ``prompt``, ``input_ids`` and ``labels`` (-100 where nothing is learned); ``stops`` are the
    token ids that end a turn. Raises TrainingRefused with the first such row.
    """
    prompts = tokenizer.apply_chat_template(list(prepared["prompt"]), add_generation_prompt=True, return_dict=False)
    for row, prompt in zip(prepared, prompts, strict=True):
        ids, labels = row["input_ids"], row["labels"]
        if len(ids) > max_length:
            raise TrainingRefused(
                f"row {row['id']}: {len(ids)} tokens would be cut at train.max_length {max_length}",
                "raise train.max_length, or lower validate.max_prompt_tokens so that validate finds such rows",
            )
        if ids[: len(prompt)] != prompt or labels != [-100] * len(prompt) + ids[len(prompt) :]:
            raise TrainingRefused(
                f"row {row['id']}: the chat template renders the prompt otherwise when the answer follows",
                "use a template that renders the prompt alike with and without its answer",
            )
        if not stops & set(labels):
            raise TrainingRefused(
                f"row {row['id']}: no end of turn is learned, so the model would not stop",
                "mend the chat template or eos_token_id of the base, so that an assistant's turn ends in an end token",
            )
