"""One step of a training on one device or rank: its trainer, and what is made with it.

Run: python -m stages.training.step FOLDER, which ``stages.training.ranks`` does once for each of several ranks.
"""

import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Any

from checks.config import params_file
from checks.config.params import Params
from checks.formats.training_reports import QuantisedBase, TrainMemory
from checks.kinds.method import Job, Train
from checks.process import imports
from checks.process.errors import EvidenceRefused, MachineRefused, TrainingRefused
from checks.records.rows import Row
from checks.storage import digest, files, layout
from checks.training import steps
from stages import entry, tracking
from stages.tracking import others
from stages.training import chain, checkpoints, ranks
from stages.training.checkpoints import say
from stages.training.devices import device_of
from stages.weights import nf4


def fit(
    params: Params,
    work: ranks.Work,
    its: chain.Given,
    run: tracking.Run | None,
    store: checkpoints.Store | None,
) -> chain.Fitted | None:
    """Train one step, and write its adapter. Raises as the stage.

    On several ranks each does this. Those without ``run`` and ``store`` write nothing, and return None.
    """
    with imports.uncollected():  # torch and transformers: when the cheap refusals are past
        from stages.training import kernels, memory, resuming, stopping
        from stages.training.trainer import gathered, save

    with ExitStack() as stack:
        stack.enter_context(memory.enough(params.train))
        trackers = stack.enter_context(others.opened(params, work.root, run.id)) if run else {}
        trainer, recorder, quantised = trainer_of(
            params,
            work.root / layout.BASE,
            work.base,
            its.rows,
            its.valid,
            run,
            str(work.scratch),
            work.start,
            trackers,
        )
        trainable, total = chain.counted(trainer.model)
        packed = len(trainer.train_dataset) if params.train.makes_sequences else None
        sequences = packed or len(its.rows)
        trainer.add_callback(memory.Guard(params.train))
        stopper = stopping.attach(
            trainer, params.train, sequences, run.metrics if run else lambda *_: None
        )
        keeper = resuming.Keeper(store, work.minutes, trainer, recorder, work.run)
        stack.callback(keeper.close)
        trainer.add_callback(keeper)
        if run is not None and store is not None:
            say(_settings(params, len(its.rows), packed, trainer.model, work.device))
            if work.minutes:
                also = f" and on the DVC remote {store.remote.name}" if store.remote else ""
                say(f"a checkpoint every {work.minutes:g} minutes, in {checkpoints.FOLDER}{also}")
        resumed = keeper.resume()
        if resumed and run is not None:
            say(
                f"goes on at step {resumed.step} of {params.train.steps(sequences)}, from {resumed.where}"
            )
            run.replay(resumed.known.run, resumed.known.points, resumed.known.valid)
            run.tag("lockstep.resumed_at", str(resumed.step))
        stack.enter_context(kernels.applied(params.train, trainer.model))
        trainer.train(resume_from_checkpoint=str(resumed.folder) if resumed else None)
        seconds, used, took = keeper.seconds, keeper.energy, TrainMemory(peak=memory.peak())
        stopped = stopper.restore(trainer.model) if stopper else None
        valid_loss = _valid_loss(trainer, run) if trainer.eval_dataset is not None else None
        state = gathered(trainer)
        if run is None:
            return None
        save(trainer.model, work.adapter, state)
        if quantised:
            files.write_json(work.adapter / nf4.NAME, quantised)
    return chain.Fitted(
        method=params.train.method, started_from=work.started_from, adapter=digest.of_tree(work.adapter).digest,
        data=its.data, rows=len(its.rows), sequences=packed, steps=trainer.state.global_step,
        batch=_batch(params) if work.ranks > 1 else None, epochs=round(trainer.state.epoch, 6),
        trainable=trainable, total=total, final_loss=recorder.final_loss(), valid_loss=valid_loss,
        points=recorder.points, figures=recorder.figures(), tokens=trainer.state.num_input_tokens_seen or None,
        seconds=seconds, resumed_at=resumed.step if resumed else None,
        quantised=quantised.quantised if quantised else None, stopping=stopped, memory=took, energy=used, run=work.run,
    )  # fmt: skip


def check(params: Params, work: ranks.Work, its: chain.Given) -> None:
    """Make the trainer of a later step, with a new adapter, so that whatever its method refuses is refused now."""
    from stages.training import stopping

    trainer, _, _ = trainer_of(
        params, work.root / layout.BASE, work.base, its.rows, its.valid, None, str(work.scratch)
    )
    stopping.attach(trainer, params.train, len(trainer.train_dataset), lambda *_: None)


def trainer_of(
    params: Params,
    base: Path,
    identity: str,
    rows: list[Row],
    valid: list[Row],
    run: tracking.Run | None,
    scratch: str,
    start: Path | None = None,
    trackers: Mapping[str, Any] = MappingProxyType({}),
) -> tuple[Any, Any, QuantisedBase | None]:
    """A trainer whose data and parameters fit the model, the recorder of its loss curve, and what was quantised.

    ``identity`` is the digest of ``base``; ``start`` the adapter that training goes on from; ``trackers`` the arguments
    of those beside MLflow.
    """
    from peft import PeftModel
    from transformers.trainer_callback import ProgressCallback

    from stages.training import kernels, own_weights
    from stages.training.trainer import Progress, Recorder, in_float32, lora_config, settings

    tokenizer, model = _loaded(params.train, base)
    kernels.refuse_unknown(params.train, model)
    quantization = params.train.quantization
    quantised = (
        nf4.described(model, quantization, params.train.precision, identity)
        if quantization
        else None
    )
    adapter = lora_config(params.train.lora, model) if params.train.lora and not start else None
    if params.train.full:
        own_weights.choose(model, params.train.full, base)
    if start:
        if quantised and files.read_json(start / nf4.NAME, QuantisedBase) != quantised:
            raise MachineRefused(
                "the base is quantised to other codes here than where the step before was trained",
                f"go on where that step was trained, or delete {checkpoints.FOLDER} and train all steps here",
            )
        model = PeftModel.from_pretrained(model, start, is_trainable=True)
    recorder = Recorder(run.metrics if run else lambda *_: None, params.train.reported)
    ends = model.generation_config.eos_token_id
    job = Job(
        model=model,
        tokenizer=tokenizer,
        rows=rows,
        valid=valid,
        settings=settings(params.train, len(rows), scratch) | dict(trackers),
        adapter=adapter,
        callbacks=[recorder],
        stops=frozenset(
            {tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None}
        ),
    )
    with imports.uncollected():  # TRL; ``chain`` lets go of the model between steps
        trainer = params.train.trainer(job)
    if quantised or (params.train.lora and params.train.lora.modules_to_save):
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


def _settings(params: Params, rows: int, packed: int | None, model: Any, device: str) -> str:
    """The settings of the training, on one line. ``packed``: the sequences that the rows make."""
    train, lora = params.train, params.train.lora
    trainable, total = chain.counted(model)
    base = f" on a base in 4 bits ({train.quantization.kind})" if train.quantization else ""
    kind = "full fine-tuning"
    if lora:
        targets = ", ".join(sorted(model.peft_config["default"].target_modules))
        variant = {"lora": "LoRA", "rslora": "rsLoRA", "dora": "DoRA"}[lora.variant]
        also = f" and all of {', '.join(lora.modules_to_save)}" if lora.modules_to_save else ""
        kind = f"{variant} r={lora.r} alpha={lora.alpha} on {targets}{also}"
    sequences = f" in {packed} sequences" if packed else ""
    parts = (
        f"{rows} {chain.named(train)}{sequences}, {train.steps(packed or rows)} steps of {_batch(params)}",
        kind,
        "all layers" if train.layers is None else f"last {train.layers} layers",
        f"{trainable / 1e6:.2f} of {total / 1e6:.1f} M parameters",
        f"learning rate {train.learning_rate:g} {train.schedule}",
        f"{train.precision} on {device}{base}{', Liger kernels' if train.kernels else ''}, seed {train.seed}",
    )
    return "; ".join(parts)


def _batch(params: Params) -> int:
    """Rows of a step, or packed sequences."""
    train = params.train
    return train.devices * train.batch_size * train.gradient_accumulation


def _valid_loss(trainer: Any, run: tracking.Run | None) -> float:
    """The method's mean loss on the valid split; it is logged."""
    loss = float(trainer.evaluate()["eval_loss"])
    if run is not None:
        run.metrics({"valid_loss": loss}, trainer.state.global_step)
    return loss


def unneeded(parts: Sequence[Params]) -> tuple[str, ...]:
    """Packages that PEFT would import if they are installed, although none of ``parts`` needs them."""
    return () if any(part.train.needs_bitsandbytes for part in parts) else ("bitsandbytes",)


def splits(root: Path) -> tuple[list[Row], list[Row]]:
    """The train and valid splits."""
    train, valid = (
        files.read_jsonl(root / layout.SPLITS / f"{name}.jsonl", Row) for name in ("train", "valid")
    )
    return train, valid


def _on_rank(work: ranks.Work, index: int) -> chain.Fitted | None:
    """The part of rank ``index`` in a step on several."""
    import torch

    params = params_file.parse(work.params)
    torch.set_num_threads(work.threads)
    device_of(params.train, quiet=True)
    if torch.cuda.is_available():
        torch.cuda.set_device(index)
    entry.hide(unneeded([params]))
    if params.train.needs_bitsandbytes:
        nf4.library()
    rows, valid = (steps.rows_of(params.train, work.columns, split) for split in splits(work.root))
    data = chain.Given(rows, valid, work.data)
    if work.key is None:
        check(params, work, data)
        return None
    if index:
        return fit(params, work, data, None, None)
    run = tracking.joined(params, work.root, work.run)
    sharded = params.train.shard is not None
    store = checkpoints.joined(
        work.root, work.key, work.minutes > 0, work.scratch, work.ranks, sharded
    )
    fitted = fit(params, work, data, run, store)
    run.send_rest()
    return fitted and fitted.model_copy(update={"unsent": run.unsent})


if __name__ == "__main__":
    ranks.work(Path(sys.argv[1]), _on_rank)
