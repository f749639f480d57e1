"""train: LoRA fine-tuning of the base on the sealed splits, with the method of ``train.method``, logged to MLflow.

In:  data/splits/{train,valid}.jsonl, data/validated.json (the seal), models/base, params ``train``.
Out: models/adapter (adapter_config.json, adapter_model.safetensors; quantization.json if the base was quantised),
     reports/train.json,
     reports/loss.csv (step,loss,learning_rate, and what the method reports),
     reports/measured/train.json (seconds, device, MLflow's run).
Run: python -m stages.train

The same parameters, data, base and machine give the same bytes of the adapter, also if training is killed and resumes
from a checkpoint.
"""

import importlib.metadata
import os
import platform
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checks import digest, files, imports, layout, params_file, scorers, scoring
from checks.errors import EvidenceRefused, MachineRefused, TrainingRefused
from checks.evidence import QuantisedBase, Seal, TrainMeasured, TrainReport
from checks.methods import METHODS
from checks.params import Params
from checks.rows import Row
from checks.training import Job, Train
from stages import entry, tracking
from stages.training import checkpoints
from stages.training.checkpoints import say
from stages.weights import nf4

if TYPE_CHECKING:
    from stages.training.ranks import Fitted, Work

_LIBRARIES = ("torch", "transformers", "trl", "peft")
_BELOW = ("accelerate", "datasets", "numpy", "safetensors", "tokenizers")  # no checkpoint outlives another version
_SHARED = ("checkpoints", "order", "preferences", "ranks", "resuming", "trainer")
_MODULES = ("train.py", *(f"training/{name}.py" for name in _SHARED), "weights/nf4.py")


def train(params: Params, root: Path) -> str:
    """Fine-tune; write the adapter, its report and the loss curve.

    Raises EvidenceRefused if the splits are not the sealed ones, TrainingRefused if the parameters do not fit the model
    or the data or a loss is not finite, MachineRefused if the device, MLflow's store, or
    bitsandbytes where it is needed is missing, ParamsRefused if LOCKSTEP_CHECKPOINT_MINUTES is not a valid number.
    """
    minutes = checkpoints.minutes()
    if params.train.needs_bitsandbytes:
        nf4.hold_installed("train.quantization" if params.train.quantization else "train.optimizer")
        nf4.library()
    for stale in (layout.TRAIN_REPORT, layout.TRAIN_MEASURED, layout.LOSS_CURVE):
        (root / stale).unlink(missing_ok=True)
    with files.replacing_folder(root / layout.ADAPTER) as folder:
        seal = sealed(root)
        base = digest.of_tree(root / layout.BASE).digest
        rows, valid = _rows(root)
        if not rows:
            raise TrainingRefused(f"{layout.SPLITS / 'train.jsonl'}: holds no rows", "run `./lockstep run prepare`")
        params.train.refuse_rows(rows, valid)
        device, threads = _device(params.train)
        from stages.training import ranks

        data = {
            "training": (layout.SPLITS / "train.jsonl", seal.splits["train"]),
            "evaluation": (layout.SPLITS / "valid.jsonl", seal.splits["valid"]),
        }
        key = _key(params, base, seal, device)
        with tracking.run(params, root, data) as run, checkpoints.opened(root, key, minutes > 0) as store:
            work = ranks.Work(
                root=root.resolve(),
                params=params.model_dump_json(by_alias=True),
                base=base,
                run=run.id,
                key=key,
                minutes=minutes,
                scratch=store.scratch.resolve(),
                adapter=folder.resolve(),
                device=device,
                ranks=params.train.devices,
                threads=threads,
                parent=os.getpid(),
            )
            if work.ranks == 1:
                fitted = _fit(params, work, rows, valid, run, store)
            else:
                fitted = ranks.launch("stages.train", work, store.scratch)
            adapter = digest.of_tree(folder).digest
            run.tag(tracking.ADAPTER_TAG, adapter)
    files.write_text(root / layout.LOSS_CURVE, fitted.curve)
    several = work.ranks > 1
    report = TrainReport(
        adapter=adapter,
        base=base,
        splits=seal.splits,
        rows=len(rows),
        steps=fitted.steps,
        epochs=fitted.epochs,
        trainable_parameters=fitted.trainable,
        total_parameters=fitted.total,
        final_loss=fitted.final_loss,
        versions=_versions(params, _LIBRARIES),
        tokens=fitted.tokens,
        figures=fitted.figures,
        optimised_for=tuple(scorer.kind for scorer in params.train.rewards()),
        quantised=fitted.quantised,
        devices=work.ranks if several else None,
        batch=_batch(params) if several else None,
        shard=params.train.shard,
        plugins=METHODS.plugins([params.train.method])
        | scorers.KINDS.plugins(scorer.kind for scorer in params.train.rewards()),
    )
    measured = TrainMeasured(
        adapter=adapter, git_commit=tracking.revision(root)[0], mlflow_run=run.id, seconds=round(fitted.seconds, 3),
        device=device, resumed_at=fitted.resumed_at,
    )  # fmt: skip
    files.write_json(root / layout.TRAIN_MEASURED, measured)
    files.write_json(root / layout.TRAIN_REPORT, report)
    store.remove()
    unsent = run.unsent + fitted.unsent
    kept = f", {unsent} points not taken by MLflow at {run.uri}" if unsent else ""
    held_out = "" if fitted.valid_loss is None else f", on valid {fitted.valid_loss:.3f}"
    return (
        f"{layout.ADAPTER}: {adapter[:19]}, {report.steps} steps in {fitted.seconds:.0f} s, "
        f"final loss {report.final_loss:.3f}{held_out}{kept}"
    )


def _fit(
    params: Params,
    work: "Work",
    rows: list[Row],
    valid: list[Row],
    run: tracking.Run | None,
    store: checkpoints.Store | None,
) -> "Fitted":
    """Train, and write the adapter. On several ranks each does this; those without ``run`` and ``store`` write nothing.

    Raises the refusals of ``train``.
    """
    with imports.uncollected():  # torch and transformers: when the cheap refusals are past
        from stages.training import ranks, resuming
        from stages.training.trainer import gathered, save

    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # for TRL, not for the reader
        trainer, recorder, quantised = _trainer(
            params, work.root / layout.BASE, work.base, rows, valid, run, str(work.scratch)
        )
        trainable, total = trainer.model.get_nb_trainable_parameters()
        keeper = resuming.Keeper(store, work.minutes, trainer, recorder, work.run)
        trainer.add_callback(keeper)
        if run is not None and store is not None:
            say(_settings(params, len(rows), trainer.model, work.device))
            if work.minutes:
                also = f" and on the DVC remote {store.remote.name}" if store.remote else ""
                say(f"a checkpoint every {work.minutes:g} minutes, in {checkpoints.FOLDER}{also}")
        resumed = keeper.resume()
        if resumed and run is not None:
            say(f"goes on at step {resumed.step} of {params.train.steps(len(rows))}, from {resumed.where}")
            run.replay(resumed.known.points)
            run.tag("lockstep.resumed_at", str(resumed.step))
            run.tag("lockstep.resumed_from", resumed.known.run)
        trainer.train(resume_from_checkpoint=str(resumed.folder) if resumed else None)
        seconds = keeper.seconds
        valid_loss = _valid_loss(trainer, run) if trainer.eval_dataset is not None else None
        state = gathered(trainer)
        if run is not None:
            save(trainer.model, work.adapter, state)
        if run is not None and quantised:
            files.write_json(work.adapter / nf4.NAME, quantised)
    return ranks.Fitted(
        steps=trainer.state.global_step,
        epochs=round(trainer.state.epoch, 6),
        trainable=trainable,
        total=total,
        final_loss=recorder.final_loss(),
        valid_loss=valid_loss,
        curve=recorder.curve(),
        figures=recorder.figures(),
        tokens=trainer.state.num_input_tokens_seen or None,
        seconds=seconds,
        resumed_at=resumed.step if resumed else None,
        quantised=quantised.quantised if quantised else None,
    )


def _fit_on_rank(work: "Work", index: int) -> "Fitted":
    """The part of rank ``index`` in a training on several."""
    import torch

    params = params_file.parse(work.params)
    torch.set_num_threads(work.threads)
    _device(params.train, quiet=True)
    if torch.cuda.is_available():
        torch.cuda.set_device(index)
    if params.train.needs_bitsandbytes:
        nf4.library()
    rows, valid = _rows(work.root)
    if index:
        return _fit(params, work, rows, valid, None, None)
    run = tracking.joined(params, work.root, work.run)
    sharded = params.train.shard is not None
    store = checkpoints.joined(work.root, work.key, work.minutes > 0, work.scratch, work.ranks, sharded)
    fitted = _fit(params, work, rows, valid, run, store)
    run.send_rest()
    return fitted.model_copy(update={"unsent": run.unsent})


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


def _key(params: Params, base: str, seal: Seal, device: str) -> str:
    """The digest of everything that determines the adapter, which identifies this training's checkpoints."""
    here = Path(__file__).parent
    values = {
        "base": base,
        "splits": seal.splits,
        "train": params.train.model_dump(mode="json"),
        "device": f"{device} on {platform.machine()}",
        "versions": _versions(params, (*_LIBRARIES, *_BELOW)),
        "rewards": scoring.digest_of(params.train.rewards()),
        "plugins": {name: used.sha256 for name, used in METHODS.plugins([params.train.method]).items()},
    }
    kinds = [type(kind) for kind in (params.train, *params.train.rewards())]
    used = (Path(str(sys.modules[kind.__module__].__file__)) for kind in kinds)
    return checkpoints.key(values, (*(here / name for name in _MODULES), *used))


def _versions(params: Params, names: tuple[str, ...]) -> dict[str, str]:
    used = (*names, "bitsandbytes") if params.train.needs_bitsandbytes else names
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
    params: Params, base: Path, identity: str, rows: list[Row], valid: list[Row], run: tracking.Run | None, scratch: str
) -> tuple[Any, Any, QuantisedBase | None]:
    """A trainer whose data and parameters fit the model, the recorder of its loss curve, and what was quantised.

    ``identity`` is the digest of ``base``.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.trainer_callback import ProgressCallback
    from transformers.utils import logging

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
    recorder = Recorder(run.metrics if run else lambda *_: None, params.train.reported)
    ends = model.generation_config.eos_token_id
    job = Job(
        model=model,
        tokenizer=tokenizer,
        rows=rows,
        valid=valid,
        settings=settings(params.train, len(rows), scratch) | (run.trainer if run else {}),
        adapter=lora_config(params.train.lora, model),
        callbacks=[recorder],
        stops=frozenset({tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None}),
    )
    with imports.uncollected():  # TRL; the model stays to the end
        trainer = params.train.trainer(job)
    if quantised:
        in_float32(trainer.model)
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(Progress())
    return trainer, recorder, quantised


def _settings(params: Params, rows: int, model: Any, device: str) -> str:
    """The settings of the training, on one line."""
    train, lora = params.train, params.train.lora
    trainable, total = model.get_nb_trainable_parameters()
    base = f" on a base in 4 bits ({train.quantization.kind})" if train.quantization else ""
    variant = {"lora": "LoRA", "rslora": "rsLoRA", "dora": "DoRA"}[lora.variant]
    parts = (
        f"{rows} rows, {train.steps(rows)} steps of {_batch(params)}",
        f"{variant} r={lora.r} alpha={lora.alpha} on {', '.join(sorted(model.peft_config['default'].target_modules))}",
        "all layers" if lora.layers is None else f"last {lora.layers} layers",
        f"{trainable / 1e6:.2f} of {total / 1e6:.1f} M parameters",
        f"learning rate {train.learning_rate:g} {train.schedule}",
        f"{train.precision} on {device}{base}, seed {train.seed}",
    )
    return "; ".join(parts)


def _batch(params: Params) -> int:
    """Rows of a step."""
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
        from stages.training import ranks

        ranks.work(Path(sys.argv[1]), _fit_on_rank)
    entry.run("train", train)
