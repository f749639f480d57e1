"""merge: base and adapter, or the base's own trained weights, to the directory that ships, shard by shard.

In:  models/base, models/adapter, data/splits/valid.jsonl (prompts for parity), params ``merge``.
Out: models/merged (safetensors files of at most ``merge.shard_mb``; config and tokenizer that servers on
     transformers 4.51 also read correctly), reports/parity.json; with ``merge.quantization`` models/merged has weights
     of 8 or 4 bits, and models/unquantised is the 16-bit model that they were rounded from (else it is empty); with
     ``merge.draft`` models/merged has that smaller model in its folder draft, with ``merge.export`` the same model as
     a GGUF file in its folder gguf; with ``merge.form`` adapter models/merged has the base's weights as they are, and
     the adapter in its folder adapter.
Run: python -m stages.merge

Memory use is a few megabytes whatever the model's size: the base is memory-mapped and the shards are streamed.
Everything is written to a temporary folder, which becomes models/merged only if the merged model agrees with the model
that was trained, base + adapter or the trained weights, on real prompts. A killed merge leaves no models/merged.
"""

import fnmatch
import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from checks.config.params import Params
from checks.formats.training_reports import (
    Calibrated,
    Distance,
    Exported,
    GgufFile,
    MergedFile,
    ParityReport,
    QuantisedBase,
    ShippedAdapter,
)
from checks.machine import disk
from checks.process.errors import EvidenceRefused, MachineRefused, MergeRefused
from checks.records.rows import Row
from checks.records.sections import Agreement as Bounds
from checks.storage import digest, files, layout
from checks.training.exports import Export
from checks.training.quantization import Calibration, ExportQuantization
from stages import entry
from stages.inference import shipped_adapter
from stages.threads import one_thread
from stages.weights import base_model, compressed, export, nf4

if TYPE_CHECKING:
    from stages.weights.parity import Agreement as Measured  # transformers: not needed to merge

_SPARE_BYTES = 50_000_000  # room for tokenizer and config, and to leave the disk usable
# What a serving runtime reads beside the weights, and what the licence asks to pass on.
_COMPANIONS = (
    "config.json", "generation_config.json", "tokenizer*", "*tokens*.json", "vocab.*", "merges.txt", "*.model",
    "*.tiktoken", "chat_template.*", "*processor_config.json", "LICENSE*", "NOTICE*", layout.THINKING,
)  # fmt: skip


def merge(params: Params, root: Path) -> str:
    """Merge what was trained into the base, and compare the logits of the result with those of the trained model.

    Raises MergeRefused if the adapter does not fit or the two differ by more than ``merge.parity`` allows,
    EvidenceRefused if an input cannot be read, MachineRefused if the disk is too small, if the adapter was trained on
    a quantised base and bitsandbytes is not installed, ``merge.quantization`` is on without compressed-tensors, or
    ``merge.export`` without llama.cpp's converter.
    """
    base, adapter, merged = root / layout.BASE, root / layout.ADAPTER, root / layout.MERGED
    (root / layout.PARITY_REPORT).unlink(missing_ok=True)
    quantization = params.merge.quantization
    if quantization:
        compressed.hold_installed()
        if quantization.calibration:
            compressed.hold_compressor(root, quantization.calibration)
    exports = params.merge.export or ()
    if exports:
        from stages.weights import gguf_export

        gguf_export.hold_installed(root, exports[0].converter)
    with (
        files.replacing_folder(merged) as ships,
        files.replacing_folder(root / layout.UNQUANTISED) as full,
    ):
        work = full if quantization else ships
        prompts = files.read_jsonl(root / layout.SPLITS / "valid.jsonl", Row)[
            : params.merge.parity.prompts
        ]
        if not prompts:
            raise MergeRefused(
                f"{layout.SPLITS / 'valid.jsonl'}: no rows to compare on",
                "run `./lockstep run prepare`",
            )
        identity = digest.of_tree(base).digest
        trained = nf4.of_adapter(adapter, identity)
        dequantised = trained if params.merge.base == "trained" else None
        apart = params.merge.form == "adapter"
        merge_weights(base, adapter, work, params.merge.shard_mb * 10**6, dequantised, apart)
        if apart:
            shipped_adapter.place(adapter, work)
        copy_companions(base, work)
        export.spell_both(work)
        left_out = export.neutralise(work)
        report = _held_to_parity(params, root, work, prompts, identity, trained)
        if apart:
            report = _with_distance_from_merged(root, work, prompts, report)
        if quantization:
            report = _quantised(
                params.merge.shard_mb * 10**6, quantization, root, full, ships, prompts, report
            )
        if params.merge.draft:
            fetched = base_model.place_draft(params.merge.draft, root, ships)
            report = report.model_copy(update={"draft": fetched, **_directory(ships)})
            files.write_json(root / layout.PARITY_REPORT, report)
        for how in exports:
            report = _with_gguf(how, root, work, ships, prompts, report)
    return _line(report, left_out)


def merge_weights(
    base: Path,
    adapter: Path,
    out: Path,
    limit: int,
    dequantised: QuantisedBase | None = None,
    apart: bool = False,
) -> list[str]:
    """Write the merged weights into the directory ``out``, in files of at most ``limit`` bytes; return their names.

    ``dequantised`` names the base's weights that are quantised and dequantised first. ``apart``: the base's weights are
    written as they are, and the adapter must fit them. Raises MergeRefused, EvidenceRefused or MachineRefused as
    ``merge``.
    """
    from stages.weights import lora, shards, whole

    with shards.opened(base) as weights, ExitStack() as stack:
        tied_rows = _tied_rows(base)
        if (adapter / whole.WEIGHTS).exists():
            trained = stack.enter_context(whole.opened(adapter, weights.tensors))
            change = lora.Adapter(trained, {}, {name: name for name in trained.tensors})
        else:
            change = stack.enter_context(lora.opened(adapter, weights.tensors, tied_rows))
        if apart:
            change = change._replace(deltas={}, whole={})
        if dequantised and (absent := sorted(dequantised.tensors.keys() - weights.tensors.keys())):
            raise MergeRefused(
                f"{layout.ADAPTER / nf4.NAME}: {len(absent)} tensors are not in the base: {absent[0]}",
                "run `./lockstep run train`",
            )
        plan = shards.plan(weights.tensors.values(), limit)
        total = sum(tensor.nbytes for tensor in weights.tensors.values())
        if (free := shutil.disk_usage(out).free) < total + _SPARE_BYTES:
            raise MachineRefused(
                f"{out.parent}: {free / 1e6:.0f} MB free, {(total + _SPARE_BYTES) / 1e6:.0f} MB needed to merge",
                "free space on this disk, for example with `./lockstep dvc gc --workspace`",
            )
        # Rows that fit the cache are done before a second thread is awake; waiting for it costs most.
        with one_thread(), tqdm(total=total, unit="B", unit_scale=True, desc="merge") as bar:

            def pieces(tensor: shards.Tensor) -> Iterator[Any]:
                weight = weights.read(tensor.name)
                if dequantised:
                    weight = nf4.dequantised(tensor.name, weight, dequantised)
                if name := change.whole.get(tensor.name):
                    yield from whole.rounded(tensor.name, change.weights.read(name), weight.dtype)
                elif delta := change.deltas.get(tensor.name):
                    yield from lora.merged_rows(weight, delta, change.weights)
                else:
                    yield weight
                bar.update(tensor.nbytes)

            try:
                for shard in plan:
                    shards.write(out / shard.file, shard.tensors, pieces)
                if len(plan) > 1:
                    files.write_json(out / shards.INDEX, shards.index(plan))
            except OSError as error:
                raise disk.full(error, [out]) or MachineRefused(
                    f"{out}: {error.strerror or error}", "mend the disk, and merge again"
                ) from error
    return [shard.file for shard in plan]


def copy_companions(base: Path, out: Path) -> None:
    """Copy the contents of config, tokenizer, chat template and licence; file modes are this user's."""
    for path in sorted(base.iterdir()):
        if path.is_file() and any(
            fnmatch.fnmatchcase(path.name, pattern) for pattern in _COMPANIONS
        ):
            shutil.copyfile(path, out / path.name)


def _held_to_parity(
    params: Params,
    root: Path,
    work: Path,
    prompts: list[Row],
    identity: str,
    trained: QuantisedBase | None,
) -> ParityReport:
    """Write the parity report; raise MergeRefused if the bounds of ``merge.parity`` are exceeded."""
    from stages.weights import parity  # transformers: not needed to merge

    base, adapter = root / layout.BASE, root / layout.ADAPTER
    into = params.merge.base
    agreement, distance = parity.compare(base, adapter, work, prompts, trained, into == "trained")
    report = ParityReport(
        base=identity,
        adapter=digest.of_tree(adapter).digest,
        **_directory(work),
        prompts=len(prompts),
        positions=agreement.positions,
        max_logprob_diff=agreement.max_logprob_diff,
        mean_logprob_diff=agreement.mean_logprob_diff,
        top1=agreement.top1,
        merged_into=into if trained else None,
        quantised=distance
        and Distance(
            max_logprob_diff=distance.max_logprob_diff,
            mean_logprob_diff=distance.mean_logprob_diff,
            top1=distance.top1,
        ),
    )
    files.write_json(root / layout.PARITY_REPORT, report)
    _hold(
        agreement,
        params.merge.parity,
        "merged and adapter",
        prompts,
        "train in a wider precision, or change merge.parity knowingly",
    )
    return report


def _hold(distance: "Measured", bounds: Bounds, who: str, prompts: list[Row], todo: str) -> None:
    """Raise MergeRefused if the two models that ``who`` names are further apart than ``bounds`` allows."""
    if distance.max_logprob_diff > bounds.max_logprob_diff or distance.top1 < bounds.min_top1:
        raise MergeRefused(
            f"{who} disagree on {distance.positions} tokens of {len(prompts)} prompts: "
            f"max |Δ logprob| {distance.max_logprob_diff:.4g} nats (bound {bounds.max_logprob_diff:g}), "
            f"top-1 agreement {distance.top1:.4g} (bound {bounds.min_top1:g})",
            f"see {layout.PARITY_REPORT}; {todo}",
        )


def _line(report: ParityReport, left_out: tuple[str, ...]) -> str:
    """Return what the stage did, in one line; ``left_out``: keys that generation_config.json lost."""
    size = sum(file.size for file in report.files.values())
    number = sum(
        name.endswith(".safetensors")
        for name in report.files
        if not name.startswith(f"{layout.DRAFT}/")
    )
    return (
        f"{layout.MERGED}: {size / 1e6:.0f} MB in {number} {'shard' if number == 1 else 'shards'}, "
        f"{report.merged[:19]}, largest difference {report.max_logprob_diff:.3f} nats over {report.positions} tokens, "
        f"top-1 agreement {report.top1:.1%}"
        + (
            f"; into the {report.merged_into} base, {report.quantised.max_logprob_diff:.3f} nats and "
            f"{report.quantised.top1:.1%} from the model in 4 bits"
            if report.quantised
            else ""
        )
        + (
            f"; in {report.exported.kind}, {report.exported.size / 1e6:.0f} MB before, "
            f"{report.exported.max_logprob_diff:.3f} nats and {report.exported.top1:.1%} from the 16-bit model"
            if report.exported
            else ""
        )
        + (
            f"; an adapter of rank {report.shipped_adapter.rank} beside the base, "
            f"{report.shipped_adapter.max_logprob_diff:.3f} nats and {report.shipped_adapter.top1:.1%} from one merged "
            "model"
            if report.shipped_adapter
            else ""
        )
        + (f"; with the draft model {report.draft.digest[:19]}" if report.draft else "")
        + (
            f"; {layout.GGUF} in {report.gguf.type}, {report.gguf.size / 1e6:.0f} MB, {report.gguf.sha256[:19]}, "
            f"{report.gguf.max_logprob_diff:.3f} nats and {report.gguf.top1:.1%} from the 16-bit model"
            if report.gguf
            else ""
        )
        + (
            f"; {export.GENERATION} without {', '.join(left_out)}, which evaluate does not apply"
            if left_out
            else ""
        )
    )


def _quantised(
    limit: int,
    how: ExportQuantization,
    root: Path,
    full: Path,
    ships: Path,
    prompts: list[Row],
    report: ParityReport,
) -> ParityReport:
    """Write the export of ``full`` in fewer bits into ``ships``, and the report about it.

    Raises MergeRefused if it differs from the 16-bit model by more than ``merge.quantization.parity`` allows.
    """
    from stages.weights import parity

    calibration = None
    if how.calibration:
        calibration = _calibrated(limit, how.kind, how.calibration, root, full, ships)
    else:
        compressed.export(full, ships, how.kind, limit)
    distance = parity.distance(full, ships, prompts)
    exported = Exported(
        kind=how.kind,
        calibration=calibration,
        compressed_tensors=compressed.hold_installed(),
        unquantised=report.merged,
        size=sum(file.size for file in report.files.values()),
        max_logprob_diff=distance.max_logprob_diff,
        mean_logprob_diff=distance.mean_logprob_diff,
        top1=distance.top1,
    )
    report = report.model_copy(update={"exported": exported, **_directory(ships)})
    files.write_json(root / layout.PARITY_REPORT, report)
    _hold(
        distance,
        how.parity,
        f"{how.kind} and the 16-bit model",
        prompts,
        "remove merge.quantization, or change its parity knowingly",
    )
    return report


def _with_distance_from_merged(
    root: Path, ships: Path, prompts: list[Row], report: ParityReport
) -> ParityReport:
    """Write the report with how far the base and adapter in ``ships`` are from one merged model."""
    from stages.weights import parity

    distance = parity.from_merged(ships, prompts)
    of_base = {
        name: file
        for name, file in digest.of_tree(ships).files.items()
        if not name.startswith(f"{layout.SHIPPED_ADAPTER}/")
    }
    shipped = ShippedAdapter(
        weights=digest.of_manifest(of_base),
        rank=shipped_adapter.rank(ships / layout.SHIPPED_ADAPTER),
        max_logprob_diff=distance.max_logprob_diff,
        mean_logprob_diff=distance.mean_logprob_diff,
        top1=distance.top1,
    )
    report = report.model_copy(update={"shipped_adapter": shipped})
    files.write_json(root / layout.PARITY_REPORT, report)
    return report


def _with_gguf(
    how: Export, root: Path, full: Path, ships: Path, prompts: list[Row], report: ParityReport
) -> ParityReport:
    """Write the GGUF file of ``full`` into ``ships``, and the report about it.

    Raises MergeRefused if it differs from the 16-bit model by more than the parity of ``merge.export`` allows.
    """
    from stages.weights import gguf_export

    sha256 = gguf_export.export(root, full, ships, how)
    distance = gguf_export.distance(full, ships, prompts)
    written = GgufFile(
        type=how.type,
        converter=how.converter,
        sha256=sha256,
        size=(ships / layout.GGUF).stat().st_size,
        max_logprob_diff=distance.max_logprob_diff,
        mean_logprob_diff=distance.mean_logprob_diff,
        top1=distance.top1,
    )
    report = report.model_copy(update={"gguf": written, **_directory(ships)})
    files.write_json(root / layout.PARITY_REPORT, report)
    _hold(
        distance,
        how.parity,
        f"{layout.GGUF} and the 16-bit model",
        prompts,
        "remove merge.export, or change its parity knowingly",
    )
    return report


def _directory(folder: Path) -> dict[str, Any]:
    """Return the fields of a report that list ``folder`` as it is now."""
    tree = digest.of_tree(folder)
    listed = {
        name: MergedFile(sha256=file.sha256, size=file.size) for name, file in tree.files.items()
    }
    return {"merged": tree.digest, "files": listed}


def _calibrated(
    limit: int, kind: str, how: Calibration, root: Path, full: Path, ships: Path
) -> Calibrated:
    path = root / layout.SPLITS / "train.jsonl"
    rows = [row for row in files.read_jsonl(path, Row) if not row.document][: how.rows]
    if len(rows) < how.rows:
        raise MergeRefused(
            f"{layout.SPLITS / path.name}: {len(rows)} rows, fewer than "
            f"merge.quantization.calibration.rows, {how.rows}",
            "lower it",
        )
    compressed.export_calibrated(root, full, ships, kind, how, rows, limit)
    return Calibrated(
        llmcompressor=how.version,
        train=digest.of_file(path).sha256,
        rows=len(rows),
        group=how.group,
    )


def _tied_rows(base: Path) -> int | None:
    path = base / "config.json"
    try:
        config = json.loads(path.read_text())
        if quantised := config.get("quantization_config"):
            method = quantised.get("quant_method", "unknown")
            raise MergeRefused(
                f"{path}: the base is quantised ({method})", "merge into an unquantised base"
            )
        text = config.get("text_config", config)
        return int(text["vocab_size"]) if config.get("tie_word_embeddings", True) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EvidenceRefused(
            f"{path}: not a model's config: {error!r}", "run `./lockstep run fetch`"
        ) from error


if __name__ == "__main__":
    entry.run(
        "merge", merge, unneeded=() if (layout.ADAPTER / nf4.NAME).exists() else ("bitsandbytes",)
    )
