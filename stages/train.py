"""train: fine-tuning of the base on the sealed splits, with the method of ``train.method``, logged to MLflow.

An adapter learns (``train.lora``), or the base's own weights (``train.full``). With ``train.steps`` several methods
train one adapter, one after the other (``stages.training.chain``).

In:  data/splits/{train,valid}.jsonl, data/validated.json (the seal), models/base, params ``train``.
Out: models/adapter (adapter_config.json, adapter_model.safetensors; quantization.json if the base was quantised; or
     trained_weights.safetensors alone, the base's own weights that learned),
     reports/train.json,
     reports/loss.csv (step,loss,learning_rate, and what the method reports),
     reports/measured/train.json (seconds, energy, memory, device, MLflow's run).
Run: python -m stages.train

The same parameters, data, base and machine give the same bytes of the adapter, also if training is killed and resumes
from a checkpoint.
"""

import importlib.metadata
import math
import os
import platform
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Any

from checks import digest, energy, files, imports, layout, params_file, scorers, scoring, steps
from checks.errors import EvidenceRefused, MachineRefused, TrainingRefused
from checks.evidence import QuantisedBase, Seal, TrainMeasured, TrainReport
from checks.methods import METHODS
from checks.params import Params
from checks.rows import Row
from checks.training import Job, Train
from stages import entry, tracking
from stages.tracking import others
from stages.training import chain, checkpoints, ranks
from stages.training.checkpoints import say
from stages.training.fitter import Fitter
from stages.weights import nf4

_LIBRARIES = ("torch", "transformers", "trl", "peft")
_BELOW = ("accelerate", "datasets", "numpy", "safetensors", "tokenizers")  # no checkpoint outlives another version
_SHARED = (
    "chain", "checkpoints", "fitter", "order", "own_weights", "packing", "preferences", "ranks", "resuming", "stopping",
    "trainer", "turns",
)  # fmt: skip
_MODULES = ("train.py", *(f"training/{name}.py" for name in _SHARED), "weights/nf4.py")


def train(params: Params, root: Path) -> str:
    """Fine-tune; write the adapter, its report and the loss curve.

    Raises EvidenceRefused if the splits are not the sealed ones, TrainingRefused if the parameters do not fit the model
    or the data, a loss is not finite or it needs more than train.max_memory_gb, MachineRefused if the device, memory,
    MLflow's store, or bitsandbytes where it is needed is missing, ParamsRefused if LOCKSTEP_CHECKPOINT_MINUTES is not
    a valid number.
    """
    minutes = checkpoints.minutes()
    alone = chain.alone(params)
    for part in alone:
        if part.train.needs_bitsandbytes:
            nf4.hold_installed("train.quantization" if part.train.quantization else "train.optimizer")
            nf4.library()
    for stale in (layout.TRAIN_REPORT, layout.TRAIN_MEASURED, layout.LOSS_CURVE):
        (root / stale).unlink(missing_ok=True)
    with files.replacing_folder(root / layout.ADAPTER) as folder:
        seal = sealed(root)
        base = digest.of_tree(root / layout.BASE).digest
        rows, valid = _rows(root)
        if not rows:
            raise TrainingRefused(f"{layout.SPLITS / 'train.jsonl'}: holds no rows", "run `./lockstep run prepare`")
        parts = list(zip(alone, chain.given(params, rows, valid, seal), strict=True))
        device, threads = _device(alone[0].train)  # which all steps share

        with imports.uncollected():  # torch: when the cheap refusals are past
            from stages.training import memory

            # Here, where no frame has a model: bitsandbytes keeps the frames of its first import.
            if alone[0].train.devices == 1:
                importlib.import_module("stages.training.resuming")
        for part in alone:
            memory.hold_weights(part.train, root)
        data = {
            "training": (layout.SPLITS / "train.jsonl", seal.splits["train"]),
            "evaluation": (layout.SPLITS / "valid.jsonl", seal.splits["valid"]),
        }
        quiet = warnings.catch_warnings(action="ignore", category=FutureWarning)  # for TRL, not for the reader
        with tracking.run(params, root, data) as run, quiet:
            fitter = Fitter(params, root, base, run, minutes, device, threads, here=_fit, check_here=_check)
            trained = chain.fit_all(
                root,
                parts,
                run,
                minutes > 0,
                folder,
                key=lambda part, its, start: _key(part, base, its.data, device, start),
                fit=fitter.fit,
                check=fitter.check,
            )
            run.tag(tracking.ADAPTER_TAG, trained.fitted[-1].adapter)
    *_, last = fitted = trained.fitted
    devices = alone[0].train.devices
    files.write_text(root / layout.LOSS_CURVE, chain.curve(alone, fitted))
    rewards = {scorer.kind: scorer for part in alone for scorer in part.train.rewards()}
    report = TrainReport(
        adapter=last.adapter,
        base=base,
        splits=seal.splits,
        rows=len(rows),
        sequences=last.sequences,
        steps=sum(each.steps for each in fitted),
        epochs=chain.epochs(fitted, len(rows)),
        trainable_parameters=last.trainable,
        total_parameters=last.total,
        final_loss=last.final_loss,
        versions=_versions(alone, _LIBRARIES),
        tokens=sum(each.tokens or 0 for each in fitted) or None,
        figures=last.figures,
        optimised_for=tuple(rewards),
        quantised=last.quantised,
        stopping=last.stopping,
        devices=devices if devices > 1 else None,
        batch=last.batch,
        shard=alone[0].train.shard,
        chain=tuple(each.reported() for each in fitted) if len(fitted) > 1 else (),
        full=alone[0].train.full is not None,
        plugins=METHODS.plugins(steps.names(params.training)) | scorers.KINDS.plugins(rewards),
    )
    seconds = math.fsum(each.seconds for each in fitted)
    took = max((each.memory for each in fitted), key=lambda memory: memory.peak or memory.predicted or 0)
    measured = TrainMeasured(
        adapter=last.adapter, git_commit=tracking.revision(root)[0], mlflow_run=run.id, seconds=round(seconds, 3),
        energy=(used := energy.total([each.energy for each in fitted])), device=device, resumed_at=trained.resumed_at,
        memory=took, **memory.speed(alone[-1].train, report, seconds, device, root),
        chain=tuple(each.measured() for each in fitted) if len(fitted) > 1 else (),
    )  # fmt: skip
    files.write_json(root / layout.TRAIN_MEASURED, measured)
    files.write_json(root / layout.TRAIN_REPORT, report)
    for store in trained.stores:
        store.remove()
    unsent = sum(each.unsent for each in {run, *trained.runs}) + sum(each.unsent for each in fitted)
    kept = f", {unsent} points not taken by MLflow at {run.uri}" if unsent else ""
    held_out = "" if last.valid_loss is None else f", on valid {last.valid_loss:.3f}"
    held_out += f" (weights of step {last.stopping.best_step})" if last.stopping else ""
    methods = f", {', then '.join(steps.names(params.training))}" if len(fitted) > 1 else ""
    return (
        f"{layout.ADAPTER}: {last.adapter[:19]}{methods}, {report.steps} steps in {seconds:.0f} s, "
        f"final loss {report.final_loss:.3f}{held_out}{memory.said(took)}{energy.after(used)}{kept}"
    )


def _fit(
    params: Params, work: ranks.Work, its: chain.Given, run: tracking.Run | None, store: checkpoints.Store | None
) -> chain.Fitted | None:
    """Train one step, and write its adapter. Raises the refusals of ``train``.

    On several ranks each does this. Those without ``run`` and ``store`` write nothing, and return None.
    """
    with imports.uncollected():  # torch and transformers: when the cheap refusals are past
        from stages.training import memory, resuming, stopping
        from stages.training.trainer import gathered, save

    with ExitStack() as stack:
        trackers = stack.enter_context(others.opened(params, work.root, run.id)) if run else {}
        trainer, recorder, quantised = _trainer(
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
        packed = len(trainer.train_dataset) if params.train.packing else None
        sequences = packed or len(its.rows)
        look = memory.hold(trainer, params.train, work.root)
        stopper = stopping.attach(trainer, params.train, sequences, run.metrics if run else lambda *_: None)
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
            say(f"goes on at step {resumed.step} of {params.train.steps(sequences)}, from {resumed.where}")
            run.replay(resumed.known.points)
            run.replay((step, {"valid_loss": loss}) for step, loss in resumed.known.valid)
            run.tag("lockstep.resumed_at", str(resumed.step))
            run.tag("lockstep.resumed_from", resumed.known.run)
        trainer.train(resume_from_checkpoint=str(resumed.folder) if resumed else None)
        seconds, used, took = keeper.seconds, keeper.energy, memory.measured(look)
        stopped = stopper.restore(trainer.model) if stopper else None
        valid_loss = _valid_loss(trainer, run) if trainer.eval_dataset is not None else None
        state = gathered(trainer)
        if run is None:
            return None
        save(trainer.model, work.adapter, state)
        if quantised:
            files.write_json(work.adapter / nf4.NAME, quantised)
    return chain.Fitted(
        method=params.train.method,
        started_from=work.started_from,
        adapter=digest.of_tree(work.adapter).digest,
        data=its.data,
        rows=len(its.rows),
        sequences=packed,
        steps=trainer.state.global_step,
        batch=_batch(params) if work.ranks > 1 else None,
        epochs=round(trainer.state.epoch, 6),
        trainable=trainable,
        total=total,
        final_loss=recorder.final_loss(),
        valid_loss=valid_loss,
        points=recorder.points,
        figures=recorder.figures(),
        tokens=trainer.state.num_input_tokens_seen or None,
        seconds=seconds,
        resumed_at=resumed.step if resumed else None,
        quantised=quantised.quantised if quantised else None,
        stopping=stopped,
        memory=took,
        energy=used,
        run=work.run,
    )


def _check(params: Params, work: ranks.Work, its: chain.Given) -> None:
    """Make the trainer of a later step, with a new adapter, so that whatever its method refuses is refused now."""
    from stages.training import memory, stopping

    trainer, _, _ = _trainer(params, work.root / layout.BASE, work.base, its.rows, its.valid, None, str(work.scratch))
    memory.hold(trainer, params.train, work.root)
    stopping.attach(trainer, params.train, len(trainer.train_dataset), lambda *_: None)


def _fit_on_rank(work: ranks.Work, index: int) -> chain.Fitted | None:
    """The part of rank ``index`` in a step on several."""
    import torch

    params = params_file.parse(work.params)
    torch.set_num_threads(work.threads)
    _device(params.train, quiet=True)
    if torch.cuda.is_available():
        torch.cuda.set_device(index)
    if params.train.needs_bitsandbytes:
        nf4.library()
    rows, valid = (steps.rows_of(params.train, work.columns, split) for split in _rows(work.root))
    its = chain.Given(rows, valid, work.data)
    if work.key is None:
        _check(params, work, its)
        return None
    if index:
        return _fit(params, work, its, None, None)
    run = tracking.joined(params, work.root, work.run)
    sharded = params.train.shard is not None
    store = checkpoints.joined(work.root, work.key, work.minutes > 0, work.scratch, work.ranks, sharded)
    fitted = _fit(params, work, its, run, store)
    run.send_rest()
    return fitted and fitted.model_copy(update={"unsent": run.unsent})


def _rows(root: Path) -> tuple[list[Row], list[Row]]:
    """The train and valid splits."""
    train, valid = (files.read_jsonl(root / layout.SPLITS / f"{name}.jsonl", Row) for name in ("train", "valid"))
    return train, valid


def sealed(root: Path) -> Seal:
    """The seal, if it has exactly the splits on disk; raises EvidenceRefused with every difference."""
    seal = files.read_json(root / layout.SEAL, Seal)
    paths = {name: layout.SPLITS / f"{name}.jsonl" for name in layout.SPLIT_NAMES}
    found = {name: digest.of_file(root / path).sha256 for name, path in paths.items()}
    differing = [
        f"{layout.SEAL}: {name} is {seal.splits.get(name, 'not sealed')}, on disk {found.get(name, 'there is none')}"
        for name in sorted(found.keys() | seal.splits.keys())
        if found.get(name) != seal.splits.get(name)
    ]
    if differing:
        raise EvidenceRefused(
            differing[0], "run `./lockstep run validate`: training needs splits that passed", tuple(differing[1:])
        )
    return seal


def _key(params: Params, base: str, data: Mapping[str, str], device: str, start: str | None) -> str:
    """The digest of everything that determines the adapter of a step, which identifies its checkpoints."""
    here = Path(__file__).parent
    values = {
        "base": base,
        "splits": data,
        "started_from": start,
        "train": params.train.model_dump(mode="json", exclude={"max_memory_gb"}),
        "device": f"{device} on {platform.machine()}",
        "versions": _versions([params], (*_LIBRARIES, *_BELOW)),
        "rewards": scoring.digest_of(params.train.rewards()),
        "plugins": {name: used.sha256 for name, used in METHODS.plugins([params.train.method]).items()},
    }
    kinds = [type(kind) for kind in (params.train, *params.train.rewards())]
    used = (Path(str(sys.modules[kind.__module__].__file__)) for kind in kinds)
    return checkpoints.key(values, (*(here / name for name in _MODULES), *used))


def _versions(parts: Sequence[Params], names: tuple[str, ...]) -> dict[str, str]:
    used = (*names, "bitsandbytes") if any(part.train.needs_bitsandbytes for part in parts) else names
    return {name: importlib.metadata.version(name) for name in used}


def _device(train: Train, quiet: bool = False) -> tuple[str, int]:
    """The device, and the threads of each process. Says which GPUs train if not all do, unless ``quiet``.

    Raises MachineRefused if it cannot train in this precision, or if there are fewer than ``devices``.
    """
    import torch

    several = f", {train.devices} ranks" if train.devices > 1 else ""
    if torch.cuda.is_available():
        visible = torch.cuda.device_count()
        if train.devices > visible:
            raise MachineRefused(
                f"train.devices: {train.devices}, and {visible} {'GPU is' if visible == 1 else 'GPUs are'} visible",
                f"set it to {visible} or less, or make more visible: see CUDA_VISIBLE_DEVICES",
            )
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        if train.precision == "bf16" and not torch.cuda.is_bf16_supported():
            raise MachineRefused(
                f"train.precision: {torch.cuda.get_device_name()} has no bf16", "set train.precision to fp16"
            )
        if train.devices < visible and not quiet:
            uses = "the first" if train.devices == 1 else f"the first {train.devices}"
            say(f"{visible} GPUs are visible, and train.devices is {train.devices}: {uses} trains")
        return f"cuda ({torch.cuda.get_device_name()}){several}", max(1, torch.get_num_threads() // train.devices)
    if train.precision == "fp16":
        raise MachineRefused(
            "train.precision: fp16 needs a GPU, and there is none", "set train.precision to bf16 or fp32"
        )
    if train.shard:  # accelerate would train without it, and say nothing
        raise MachineRefused(f"train.shard: {train.shard} needs GPUs, and there is none", "set train.shard to null")
    threads = max(1, torch.get_num_threads() // train.devices)
    return f"cpu ({threads} threads){several}", threads


def _trainer(
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
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.trainer_callback import ProgressCallback
    from transformers.utils import logging

    from stages.training import own_weights
    from stages.training.trainer import DTYPES, Progress, Recorder, in_float32, lora_config, settings

    quantization, precision = params.train.quantization, params.train.precision
    logging.set_verbosity_error()
    try:
        tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
        model, loading = (
            nf4.load(base, quantization, precision, sharded=params.train.shard is not None)
            if quantization
            else AutoModelForCausalLM.from_pretrained(
                base, dtype=DTYPES[precision], local_files_only=True, output_loading_info=True
            )
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise EvidenceRefused(
            f"{layout.BASE}: transformers cannot load it: {reason}", "run `./lockstep run fetch`"
        ) from error
    if missing := sorted(loading["missing_keys"]):
        raise EvidenceRefused(
            f"{layout.BASE}: {len(missing)} weights are missing: {missing[0]}", "run `./lockstep run fetch`"
        )
    if tokenizer.chat_template is None:
        raise TrainingRefused(f"{layout.BASE}: has no chat template", "use an instruction-tuned base")
    quantised = nf4.described(model, quantization, precision, identity) if quantization else None
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
        stops=frozenset({tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None}),
    )
    with imports.uncollected():  # TRL; ``chain`` lets go of the model between steps
        trainer = params.train.trainer(job)
    if quantised or (params.train.lora and params.train.lora.modules_to_save):
        in_float32(trainer.model)
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(Progress())
    return trainer, recorder, quantised


def _settings(params: Params, rows: int, packed: int | None, model: Any, device: str) -> str:
    """The settings of the training, on one line. ``packed``: the sequences that the rows are packed into."""
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
        f"{rows} rows{sequences}, {train.steps(packed or rows)} steps of {_batch(params)}",
        kind,
        "all layers" if train.layers is None else f"last {train.layers} layers",
        f"{trainable / 1e6:.2f} of {total / 1e6:.1f} M parameters",
        f"learning rate {train.learning_rate:g} {train.schedule}",
        f"{train.precision} on {device}{base}, seed {train.seed}",
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


if __name__ == "__main__":
    if sys.argv[1:]:  # one of several processes, started by stages/training/ranks.py
        ranks.work(Path(sys.argv[1]), _fit_on_rank)
    entry.run("train", train)
