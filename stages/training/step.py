"""One step of a training on one device or rank: its trainer, and what is made with it.

Run: python -m stages.training.step FOLDER, which ``stages.training.ranks`` does once for each of several ranks.
"""

import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Any

from checks.formats import thinking
from checks.formats.training_reports import QuantisedBase, TrainMemory
from checks.kinds.method import Job, Train
from checks.process.errors import EvidenceRefused, MachineRefused, TrainingRefused
from checks.storage import digest, files, layout
from checks.training import steps
from checks.training.steps import Steps
from stages import cpu_arithmetic, entry, tracking
from stages.tracking import others
from stages.training import checkpoints, ranks
from stages.training.checkpoints import say
from stages.training.devices import device_of
from stages.training.training_steps import FittedStep, TrainingStep
from stages.weights import nf4

Log = Callable[[dict[str, float], int], None]


def fit(
    step: TrainingStep, run: tracking.Run | None, store: checkpoints.Store | None
) -> FittedStep | None:
    """Train one step, and write its adapter. Raises as the stage.

    On several ranks each does this. Those without ``run`` and ``store`` write nothing, and return None.
    """
    # torch and transformers are loaded once the cheap refusals are past.
    from stages.training import kernels, memory, resuming, stopping
    from stages.training.trainer import gathered, save

    train = step.train
    log = run.metrics if run else _unlogged
    with ExitStack() as stack:
        stack.enter_context(memory.enough(train))
        trackers = (
            stack.enter_context(others.opened(step.tracking, step.root, run.id)) if run else {}
        )
        trainer, recorder, quantised = trainer_of(step, log, trackers)
        trainable, total = _counted(trainer.model)
        thinks = thinking.of_model(step.root / layout.BASE) is not None
        count = len(trainer.train_dataset)
        # Of a base that thinks, each answer of a chat is a sequence.
        parted = thinks and count != len(step.rows)
        packed = count if train.makes_sequences or parted else None
        sequences = packed or len(step.rows)
        trainer.add_callback(memory.Guard(train))
        stopper = stopping.attach(trainer, train, sequences, log)
        keeper = resuming.Keeper(store, step.minutes, trainer, recorder, step.run)
        stack.callback(keeper.close)
        trainer.add_callback(keeper)
        if run is not None and store is not None:
            say(_settings(step, packed, trainer.model))
            if step.minutes:
                also = f" and on the DVC remote {store.remote.name}" if store.remote else ""
                say(f"a checkpoint every {step.minutes:g} minutes, in {checkpoints.FOLDER}{also}")
        resumed = keeper.resume()
        if resumed and run is not None:
            say(f"goes on at step {resumed.step} of {train.steps(sequences)}, from {resumed.where}")
            run.replay(resumed.known.run, resumed.known.points, resumed.known.valid)
            run.tag("lockstep.resumed_at", str(resumed.step))
        stack.enter_context(kernels.applied(train, trainer.model))
        trainer.train(resume_from_checkpoint=str(resumed.folder) if resumed else None)
        seconds = keeper.seconds
        used = keeper.energy
        peak = TrainMemory(peak=memory.peak())
        stopped = stopper.restore(trainer.model) if stopper else None
        valid_loss = None
        if trainer.eval_dataset is not None:
            valid_loss = float(trainer.evaluate()["eval_loss"])
            log({"valid_loss": valid_loss}, trainer.state.global_step)
        state = gathered(trainer)
        if run is None:
            return None
        save(trainer.model, step.adapter, state)
        if quantised:
            files.write_json(step.adapter / nf4.NAME, quantised)
    return FittedStep(
        method=train.method, started_from=step.started_from, adapter=digest.of_tree(step.adapter).digest,
        data=step.data, rows=len(step.rows), sequences=packed, steps=trainer.state.global_step,
        batch=_batch(train) if step.ranks > 1 else None, epochs=round(trainer.state.epoch, 6),
        trainable=trainable, total=total, final_loss=recorder.final_loss(), valid_loss=valid_loss,
        points=recorder.points, figures=recorder.figures(), tokens=trainer.state.num_input_tokens_seen or None,
        seconds=seconds, resumed_at=resumed.step if resumed else None,
        quantised=quantised.quantised if quantised else None, stopping=stopped, memory=peak, energy=used, run=step.run,
    )  # fmt: skip


def check(step: TrainingStep) -> None:
    """Make the trainer of a later step, with a new adapter, so that whatever its method refuses is refused now."""
    from stages.training import stopping

    trainer, _, _ = trainer_of(step)
    stopping.attach(trainer, step.train, len(trainer.train_dataset), _unlogged)


def _unlogged(_values: Mapping[str, float], _step: int) -> None:
    """Log nothing: this rank has no run, or nothing is trained."""


def trainer_of(
    step: TrainingStep, log: Log = _unlogged, trackers: Mapping[str, Any] = MappingProxyType({})
) -> tuple[Any, Any, QuantisedBase | None]:
    """Return a trainer whose data and parameters fit the model, the recorder of its loss curve, and what was quantised.

    ``log`` gets the points of the curve; ``trackers`` are the arguments of those beside MLflow.
    """
    from peft import PeftModel
    from transformers.trainer_callback import ProgressCallback

    from stages.training import kernels, own_weights
    from stages.training.trainer import (
        Progress,
        Recorder,
        hold_shape,
        in_float32,
        lora_config,
        settings,
    )

    train = step.train
    base = step.root / layout.BASE
    tokenizer, model = _loaded(train, base)
    kernels.refuse_unknown(train, model)
    quantised = None
    if train.quantization:
        quantised = nf4.described(model, train.quantization, train.precision, step.base)
    adapter = lora_config(train.lora, model) if train.lora else None
    if train.full:
        own_weights.choose(model, train.full, base)
    if step.start:
        if quantised and files.read_json(step.start / nf4.NAME, QuantisedBase) != quantised:
            raise MachineRefused(
                "the base is quantised to other codes here than where the adapter was trained that it goes on from",
                f"go on there, or delete {checkpoints.FOLDER} and train all steps here, without train.start",
            )
        hold_shape(step.start, adapter)
        model = PeftModel.from_pretrained(model, step.start, is_trainable=True, config=adapter)
        adapter = None
    recorder = Recorder(log, train.reported)
    ends = model.generation_config.eos_token_id
    job = Job(
        model=model,
        tokenizer=tokenizer,
        rows=step.rows,
        valid=step.valid,
        settings=settings(train, len(step.rows), str(step.scratch)) | dict(trackers),
        adapter=adapter,
        callbacks=[recorder],
        stops=frozenset(
            {tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None}
        ),
        thinking=thinking.of_model(step.root / layout.BASE),
    )
    trainer = train.trainer(job)
    if quantised or (train.lora and train.lora.modules_to_save):
        in_float32(trainer.model)
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(Progress())
    return trainer, recorder, quantised


def _loaded(train: Train, base: Path) -> tuple[Any, Any]:
    """Load the tokenizer and the model of the base, quantised where ``train`` says so.

    Raises EvidenceRefused, TrainingRefused, or MachineRefused if the memory is too small.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    from stages.training import memory
    from stages.training.trainer import DTYPES

    logging.set_verbosity_error()
    cpu_arithmetic.use()
    try:
        tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
        with memory.enough(train):
            model, loading = (
                nf4.load(base, train.quantization, train.precision, sharded=train.shard is not None)
                if train.quantization
                else AutoModelForCausalLM.from_pretrained(
                    base,
                    dtype=DTYPES[train.precision],
                    local_files_only=True,
                    output_loading_info=True,
                )
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise EvidenceRefused(
            f"{layout.BASE}: transformers cannot load it: {reason}", "run `./lockstep run fetch`"
        ) from error
    if missing := sorted(loading["missing_keys"]):
        raise EvidenceRefused(
            f"{layout.BASE}: {len(missing)} weights are missing: {missing[0]}",
            "run `./lockstep run fetch`",
        )
    if tokenizer.chat_template is None:
        raise TrainingRefused(
            f"{layout.BASE}: has no chat template", "use an instruction-tuned base"
        )
    return tokenizer, model


def _settings(step: TrainingStep, packed: int | None, model: Any) -> str:
    """Return the settings of the training, on one line. ``packed``: the sequences that the rows make."""
    train = step.train
    lora = train.lora
    rows = len(step.rows)
    trainable, total = _counted(model)
    base = f" on a base in 4 bits ({train.quantization.kind})" if train.quantization else ""
    kind = "full fine-tuning"
    if lora:
        targets = ", ".join(sorted(model.peft_config["default"].target_modules))
        variant = {"lora": "LoRA", "rslora": "rsLoRA", "dora": "DoRA"}[lora.variant]
        also = f" and all of {', '.join(lora.modules_to_save)}" if lora.modules_to_save else ""
        kind = f"{variant} r={lora.r} alpha={lora.alpha} on {targets}{also}"
    sequences = f" in {packed} sequences" if packed else ""
    liger = ", Liger kernels" if train.kernels else ""
    parts = (
        f"{rows} {step.kind_of_rows}{sequences}, {train.steps(packed or rows)} steps of {_batch(train)}",
        kind,
        "all layers" if train.layers is None else f"last {train.layers} layers",
        f"{trainable / 1e6:.2f} of {total / 1e6:.1f} M parameters",
        f"learning rate {train.learning_rate:g} {train.schedule}",
        f"{train.precision} on {step.device}{base}{liger}, seed {train.seed}",
    )
    return "; ".join(parts)


def _batch(train: Train) -> int:
    """Return the rows of a step, or packed sequences."""
    return train.devices * train.batch_size * train.gradient_accumulation


def _counted(model: Any) -> tuple[int, int]:
    """Count trainable parameters and all, without the frozen copy of an adapter that TRL compares with."""
    if not hasattr(model, "get_nb_trainable_parameters"):  # no adapter
        weights = list(model.parameters())
        learned = sum(weight.numel() for weight in weights if weight.requires_grad)
        return learned, sum(weight.numel() for weight in weights)
    trainable, total = model.get_nb_trainable_parameters()
    copies = sum(weight.numel() for name, weight in model.named_parameters() if ".ref." in name)
    return trainable, total - copies


def unneeded(training: Train | Steps) -> tuple[str, ...]:
    """Return packages that PEFT would import if they are installed, although no step needs them."""
    needed = any(train.needs_bitsandbytes for train in steps.of(training))
    return () if needed else ("bitsandbytes",)


def _on_rank(step: TrainingStep, index: int) -> FittedStep | None:
    """The part of rank ``index`` in a step on several."""
    import torch

    torch.set_num_threads(step.threads)
    device_of(step.train, quiet=True)
    if torch.cuda.is_available():
        torch.cuda.set_device(index)
    entry.hide(unneeded(step.train))
    if step.train.needs_bitsandbytes:
        nf4.library()
    step = step.with_rows()
    if step.key is None:
        check(step)
        return None
    if index:
        return fit(step, None, None)
    run = tracking.joined(step.tracking, step.root, step.run)
    fitted = fit(
        step,
        run,
        (
            checkpoints.joined(
                step.root,
                step.key,
                step.minutes > 0,
                step.scratch,
                step.ranks,
                step.train.shard is not None,
            )
        ),
    )
    run.send_rest()
    return fitted and fitted.model_copy(update={"unsent": run.unsent})


if __name__ == "__main__":
    ranks.work(Path(sys.argv[1]), _on_rank)
