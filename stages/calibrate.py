"""calibrate: measures how far evaluations of one unchanged model differ. No gate's margin may be below that.

In:  models/merged (hashed: it must be the one in reports/evaluation.json), data/splits/{test,valid}.jsonl,
     params ``evaluate`` and ``merge.parity.prompts``.
Out: reports/noise.json.
Run: python -m stages.calibrate, or `lockstep calibrate`, which does so. It is not a stage of dvc.yaml: run it when
     the base, the scorers, the generation settings or the machine change, and commit its report.

The model answers the test split several times, without the cache of answers, and one thing is changed that cannot
change its meaning: the order of rows, which of them share a batch, the size of batches, the number of threads.
Generation is greedy, so there is no sampling seed. What remains is arithmetic: sums in another order are rounded
differently, and if two tokens are almost equally likely, the other one may be chosen. The log-probabilities of merge's
parity are measured again between batchings too, for the bound of a gate of kind parity.
"""

import gc
import math
import os
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from checks.config.params import Params
from checks.config.pipeline_params import Evaluate
from checks.evaluation import scoring
from checks.formats import thinking
from checks.formats.decoding import draws
from checks.formats.engines import Engine, Vllm
from checks.formats.evaluation_reports import EvaluationReport, NoiseReport, NoiseRun
from checks.formats.thinking import Thinking, answer_in
from checks.gating import chain
from checks.gating.compared import PairedGate
from checks.process.errors import EvaluationRefused, EvidenceRefused
from checks.records.rows import Row
from checks.storage import digest, files, layout
from stages import entry, progress
from stages.inference import answers, thoughts

_TEST, _VALID = layout.SPLITS / "test.jsonl", layout.SPLITS / "valid.jsonl"
_SEED, _PARTS = 1, 4

# New tokens of a run with one row at a time; beyond it that run is left out, since it would take hours.
_MOST_ALONE = 20_000


class Setup(NamedTuple):
    """One way to evaluate: the row numbers of each batch that is given to the model, in turn."""

    order: str
    parts: list[list[int]]
    batch_tokens: int
    threads: int
    engine: Engine | None = None


def calibrate(params: Params, root: Path) -> str:
    """Evaluate the merged model in several ways and write how far the results differ.

    Raises EvidenceRefused if model, test split or settings are not those of reports/evaluation.json, or if something is
    missing; EvaluationRefused if the model does not load, or is never right by a metric that a gate
    compares. Then the earlier report is kept.
    """
    evaluation = files.read_json(root / layout.EVALUATION, EvaluationReport)
    _hold(params, root, evaluation)
    test, valid = (files.read_jsonl(root / path, Row) for path in (_TEST, _VALID))
    if not test or not valid:
        raise EvidenceRefused(
            f"{_VALID if test else _TEST}: has no rows", "run `./lockstep run prepare`"
        )
    runs = _runs(root, params.evaluate, test)
    telling = _telling(params, runs)

    from stages.weights import parity

    report = NoiseReport(
        merged=evaluation.merged,
        base=evaluation.base,
        test=evaluation.test,
        scorers=evaluation.scorers,
        prompt_format=evaluation.prompt_format,
        device=answers.computes(root, params.evaluate.engine),
        rows=len(test),
        runs=runs,
        floor={
            name: round(
                max(run.metrics[name] for run in runs) - min(run.metrics[name] for run in runs), 6
            )
            for name in telling
        },
        max_logprob_diff=round(
            parity.noise(root / layout.MERGED, valid[: params.merge.parity.prompts]), 6
        ),
    )
    files.write_json(root / layout.NOISE, report)
    floor = ", ".join(f"{name} {value:.4f}" for name, value in report.floor.items())
    return (
        f"{len(runs)} runs on {report.rows} rows differ by up to {floor}; at most {max(run.changed for run in runs)} "
        f"rows answered otherwise; log-probabilities differ by up to {report.max_logprob_diff:.3f} nats"
    )


def _hold(params: Params, root: Path, evaluation: EvaluationReport) -> None:
    """Refuse if the files here are not those that were evaluated."""
    merged = progress.tree_digest(root / layout.MERGED, layout.MERGED)
    pairs = [
        (layout.MERGED, merged, evaluation.merged),
        (_TEST, digest.of_file(root / _TEST).sha256, evaluation.test),
        (
            f"{layout.PARAMS}: evaluate.scorers",
            scoring.digest_of(params.evaluate.scorers),
            evaluation.scorers,
        ),
    ]
    if merged == evaluation.merged:  # else its tokenizer may be anything
        prompt_format = answers.prompt_format(root / layout.MERGED, params.evaluate)
        pairs.append(
            (
                f"{layout.PARAMS}: evaluate and the chat template",
                prompt_format,
                evaluation.prompt_format,
            )
        )
    wrong = [
        f"{what}: is {chain.short(measured)}, {layout.EVALUATION} is about {chain.short(known)}"
        for what, measured, known in pairs
        if measured != known
    ]
    EvidenceRefused.raise_for(wrong, "run `./lockstep run evaluate`, then calibrate")


def _telling(params: Params, runs: Sequence[NoiseRun]) -> list[str]:
    """The metrics that show noise: not those by which the model is right in no run.

    Raises EvaluationRefused if a gate compares a metric that does not show it, or if none does.
    """
    means = {name: {run.metrics[name] for run in runs} for name in runs[0].metrics}
    silent = [name for name, values in means.items() if values == {0}]
    gates = [
        gate
        for gate in params.gates.values()
        if isinstance(gate, PairedGate) and gate.suite is None
    ]
    refused = [gate.metric for gate in gates if gate.metric in silent]
    if len(silent) == len(means):
        refused += silent
    if refused:
        raise EvaluationRefused(
            f"{layout.MERGED}: is never right by {refused[0]} on {_TEST}, so it does not show how far "
            "two evaluations differ",
            "calibrate with a model that is right at times, or take another metric in evaluate.scorers and gates",
        )
    return [name for name in means if name not in silent]


def _runs(root: Path, settings: Evaluate, test: Sequence[Row]) -> tuple[NoiseRun, ...]:
    import torch

    model = answers.loaded(root, settings, root / layout.MERGED)
    marked = thinking.of_model(root / layout.MERGED)
    threads = torch.get_num_threads()
    planned = setups(settings, len(test), threads, "cuda" if torch.cuda.is_available() else "cpu")
    runs: list[NoiseRun] = []
    first: list[tuple[str, ...]] = []
    try:
        for number, setup in enumerate(planned, 1):
            torch.set_num_threads(setup.threads)
            answered = _answers(
                model,
                settings,
                test,
                setup,
                f"run {number} of {len(planned)}",
                root / layout.MERGED,
            )
            first = first or answered
            runs.append(
                NoiseRun(
                    order=setup.order,
                    batch_tokens=setup.batch_tokens,
                    threads=setup.threads,
                    metrics=_means(settings, answered, test, marked),
                    changed=sum(one != two for one, two in zip(answered, first, strict=True)),
                )
            )
    finally:
        torch.set_num_threads(threads)
    del model
    gc.collect()  # parity's measurement loads the model again, in its own precision
    return tuple(runs)


def setups(settings: Evaluate, count: int, threads: int, device: str) -> list[Setup]:
    """The normal evaluation, then each variant with one thing changed."""
    size, given = settings.batch_tokens, list(range(count))
    if isinstance(settings.engine, Vllm):
        return list(_of_vllm(settings, settings.engine, given, threads))
    if engine := settings.engine:  # It answers each row alone, so only its threads might matter.
        halved = engine.model_copy(update={"threads": max(1, engine.threads // 2)})
        return [
            Setup("test order", [given], size, engine.threads, engine),
            Setup("reversed", [given[::-1]], size, halved.threads, halved),
        ]
    shuffled = random.Random(_SEED).sample(given, count)  # noqa: S311 - not for secrets
    parts = [part for first in range(_PARTS) if (part := shuffled[first::_PARTS])]
    planned = [
        Setup("test order", [given], size, threads),
        Setup("reversed", [given[::-1]], size, threads),
        Setup(f"shuffled {_SEED}, in {len(parts)} parts", parts, size, threads),
    ]
    sizes = {size // 4, size // 2, size * 2} - {0, 1, size}
    if size > 1 and count * settings.max_new_tokens <= _MOST_ALONE:
        sizes.add(1)  # no two rows fit: each is alone
    planned += [
        Setup("test order", [given], other, threads) for other in sorted(sizes, reverse=True)
    ]
    other = threads // 2 or min(2, os.cpu_count() or 1)
    if device == "cpu" and other != threads:
        planned.append(Setup("test order", [given], size, other))
    return planned


def _of_vllm(settings: Evaluate, engine: Vllm, given: list[int], threads: int) -> Iterator[Setup]:
    """As ``setups``, with fewer runs: each part starts vLLM anew. It gets prompts sorted, whatever their order."""
    size = settings.batch_tokens
    yield Setup("test order", [given], size, threads, engine)
    shuffled = random.Random(_SEED).sample(given, len(given))  # noqa: S311 - not for secrets
    parts = [part for part in (shuffled[::2], shuffled[1::2]) if part]
    yield Setup(f"shuffled {_SEED}, in {len(parts)} parts", parts, size, threads, engine)
    if (half := size // 2) >= engine.max_rows:
        yield Setup("test order", [given], half, threads, engine)
    if (fewer := engine.max_rows // 4) > 0:
        yield Setup(
            f"test order, {fewer} at a time",
            [given],
            size,
            threads,
            engine.model_copy(update={"max_rows": fewer}),
        )


def _answers(
    model: answers.Loaded,
    settings: Evaluate,
    test: Sequence[Row],
    setup: Setup,
    label: str,
    folder: Path,
) -> list[tuple[str, ...]]:
    """The draws of each row in the order of the test split, whatever the order of generation.

    ``folder`` has the model, which says how its thoughts are marked.
    """
    settings = settings.model_copy(
        update={"batch_tokens": setup.batch_tokens, "engine": setup.engine}
    )
    draws_of_row: dict[int, tuple[str, ...]] = {}
    for part in setup.parts:
        rows = [test[number] for number in part]
        made = model(settings, rows, [row.messages for row in rows], label, _TEST)
        made = thoughts.divided(made, folder)
        draws_of_row |= zip(part, made.draws, strict=True)
    return [draws_of_row[number] for number in range(len(test))]


def _means(
    settings: Evaluate,
    answered: Sequence[tuple[str, ...]],
    test: Sequence[Row],
    marked: Thinking | None,
) -> dict[str, float]:
    return {
        metric: round(
            math.fsum(
                scoring.score_draws(metric, scorer, texts, answer_in(row.reference, marked))
                for texts, row in zip(answered, test, strict=True)
            )
            / len(test),
            6,
        )
        for metric, scorer in scoring.metrics(settings.scorers, draws(settings.decoding)).items()
    }


if __name__ == "__main__":
    entry.run("calibrate", calibrate)
