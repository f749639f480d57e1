"""evaluate: scores the answers of merged model, base, reference models and cheap baselines to the test split.

In:  models/merged (hashed first: that digest is what the report is about), models/base, models/unquantised,
     data/splits/{train,test}.jsonl, reports/parity.json, reports/references.json, params ``evaluate``.
Out: data/predictions/<model>.jsonl, one prediction a line in the order of the test split:
       {"id": "002d7ae27cff7c01", "prompt": "Show the properties of …", "prediction": "sf", "reference": "sf",
        "score": 1.0, "scores": {"exact-match": 1.0}, "group": "…", "slice": "show"}
     With base.thinking, a prediction is the answer alone, and "thoughts" has what was thought before it.
     reports/evaluation.json (the evidence), reports/evaluation.md (for a person), reports/confusion.csv,
     reports/plots/, reports/measured/evaluate.json (how fast each model answered).
Run: python -m stages.evaluate
"""

import csv
import io
import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from checks.config.params import Params
from checks.config.pipeline_params import Evaluate
from checks.evaluation import scoring
from checks.formats import decoding, thinking
from checks.formats.engines import LlamaCpp
from checks.formats.evaluation_reports import (
    Earlier,
    EvaluateMeasured,
    EvaluationReport,
    Interval,
    ModelResult,
    Reference,
    ReferencesReport,
    ReferenceUse,
    Speed,
    Spread,
)
from checks.formats.report import UNQUANTISED
from checks.formats.thinking import Thinking, answer_in
from checks.formats.training_reports import ParityReport
from checks.process.errors import EvaluationRefused, EvidenceRefused, MachineRefused
from checks.records.rows import Prediction, Row, of_tested_sources
from checks.stats import draws, intervals
from checks.storage import digest, files, layout
from stages import entry, progress, references, tracking
from stages.inference import answers, baselines, prompts, thoughts
from stages.inference.answers import Answered
from stages.reporting import page, plots

_TEST, _TRAIN = layout.SPLITS / "test.jsonl", layout.SPLITS / "train.jsonl"


def evaluate(params: Params, root: Path) -> str:
    """Let every model answer the test split; write predictions, metrics and the report.

    Raises EvidenceRefused if a model or split is missing or the merged model is not the one in parity.json,
    EvaluationRefused if rows are invalid or a model cannot answer them.
    """
    settings = params.evaluate
    parity = _merged(root)
    base = progress.tree_digest(root / layout.BASE, layout.BASE)
    merged, full, file = parity.merged, parity.exported and parity.exported.unquantised, None
    unquantised = layout.UNQUANTISED
    if isinstance(settings.engine, LlamaCpp):
        full, unquantised, file = merged, layout.MERGED, _file(parity)
    judged = references.Judged(
        merged=merged,
        test=digest.of_file(root / _TEST).sha256,
        scorers=scoring.digest_of(settings.scorers),
        prompt_format=answers.prompt_format(root / layout.MERGED, settings),
    )
    earlier = _earlier(root)
    train, test = (files.read_jsonl(root / path, Row) for path in (_TRAIN, _TEST))
    train = of_tested_sources(train, test)
    refuse_unread_calls(params, test)
    for scorer in settings.scorers:
        scoring.score(scorer, "", "")  # an impossible pattern refuses here, before the long work
    base_messages = prompts.for_base(test, train, settings.base_prompt)
    marked = thinking.of_model(root / layout.MERGED)
    cheap = {
        kind: Answered(
            [answer_in(text, marked) for text in baselines.answer(kind, train, test)], [], None
        )
        for kind in settings.baselines
    }

    asked = [row.messages for row in test]
    answered = {
        name: answers.ask(root, settings, root / folder, model, test, conversations, name)
        for name, folder, model, conversations in (
            ("candidate", layout.MERGED, merged, asked),
            ("base", layout.BASE, base, base_messages),
        )
    }
    if full:
        plain = settings.model_copy(update={"engine": None}) if file else settings
        answered[UNQUANTISED] = answers.ask(
            root, plain, root / unquantised, full, test, asked, UNQUANTISED
        )
    had = _references(root, settings, earlier, judged, test, answered["candidate"])
    uses = {
        name: ReferenceUse(how="absent", merged=None, note=why)
        for name, why in earlier.absent.items()
    }
    uses |= {name: reference.use for name, reference in had.items()}
    answered |= {name: reference.answered for name, reference in had.items() if reference.answered}
    answered = {
        name: thoughts.divided(model_answers, root / layout.MERGED)
        for name, model_answers in answered.items()
    }
    learned: dict[str, frozenset[str]] = {
        name: reference.learned for name, reference in had.items()
    }
    predictions = {
        name: predict(params, test, answers_of_role, marked, learned.get(name, frozenset()))
        for name, answers_of_role in (answered | cheap).items()
    }
    with files.replacing_folder(root / layout.PREDICTIONS) as folder:
        for name, predictions_of_role in predictions.items():
            files.write_jsonl(folder / f"{name}.jsonl", predictions_of_role)
    models = {
        name: ModelResult(
            predictions=digest.of_file(root / layout.PREDICTIONS / f"{name}.jsonl").sha256,
            metrics=_intervals(params, predictions_of_role), slices=_slices(params, predictions_of_role),
        )
        for name, predictions_of_role in predictions.items()
    }  # fmt: skip
    # The same model neither wins nor loses.
    same = {name for name, use in uses.items() if use.how == "same-model"}
    summary = page.summary(
        {
            name: predictions_of_role
            for name, predictions_of_role in predictions.items()
            if name not in same
        },
        {name: model.metrics for name, model in models.items()},
        settings.confidence,
    )
    times = decoding.draws(settings.decoding)
    spread = _spread(params, predictions["candidate"], marked)
    report = EvaluationReport(
        merged=merged, base=base, test=judged.test, rows=len(test), scorers=judged.scorers,
        prompt_format=judged.prompt_format, base_prompt=answers.asked(test, base_messages),
        confidence=settings.confidence, references=uses, models=models, unquantised=full,
        summary=(*summary, *(draws.sentence(name, part, times) for name, part in spread.items())),
        engine=settings.engine, gguf=file, decoding=settings.decoding, spread=spread,
        thinking=marked, json_schema=settings.json_schema,
    )  # fmt: skip
    speeds = {
        name: speed
        for name, answers_of_role in answered.items()
        if name not in same and (speed := _speed(answers_of_role))
    }
    files.write_json(
        root / layout.EVALUATE_MEASURED, EvaluateMeasured(merged=merged, models=speeds)
    )
    labels = prompts.labels([answer_in(row.reference, marked) for row in train])
    _write(root, report, predictions["candidate"], labels, marked)
    return _line(report) + _mirror(params, root, report, parity.adapter)


def _merged(root: Path) -> ParityReport:
    """The report of the merged model, and of its 16-bit form if it has 8 bits, after their folders were hashed."""
    parity = files.read_json(root / layout.PARITY_REPORT, ParityReport)
    wanted = {layout.MERGED: parity.merged}
    if parity.exported:
        wanted[layout.UNQUANTISED] = parity.exported.unquantised
    for folder, model in wanted.items():
        if (actual := progress.tree_digest(root / folder, folder)) != model:
            raise EvidenceRefused(
                f"{folder}: is {actual[:19]}…, {layout.PARITY_REPORT} is about {model[:19]}…",
                "run `./lockstep run merge`",
            )
    return parity


def _file(parity: ParityReport) -> str:
    """The digest of the GGUF file, which is one of the files that the folder's digest is made of."""
    if parity.gguf is None:
        raise EvidenceRefused(
            f"{layout.MERGED}: has no {layout.GGUF}, from which the engine llamacpp answers",
            "run `./lockstep run merge`",
        )
    return parity.gguf.sha256


def _references(
    root: Path,
    settings: Evaluate,
    earlier: ReferencesReport,
    judged: references.Judged,
    test: Sequence[Row],
    candidate: Answered,
) -> dict[Earlier, references.Had]:
    """How each earlier model that git found is used, and its answers."""
    had: dict[Earlier, references.Had] = {}
    obtained: dict[Reference, references.Had] = {}  # production mostly runs main's model
    for name, reference in earlier.found.items():
        record = reference.model_copy(update={"commit": ""})
        if record not in obtained:
            obtained[record] = references.have(
                root, settings, name, reference, judged, test, candidate
            )
        had[name] = obtained[record]
    return had


def _earlier(root: Path) -> ReferencesReport:
    try:
        return files.read_json(root / layout.REFERENCES, ReferencesReport)
    except EvidenceRefused as refusal:
        raise EvidenceRefused(
            refusal.what, "run `lockstep run`, which asks git for it"
        ) from refusal


def refuse_unread_calls(params: Params, test: Sequence[Row]) -> None:
    """Refuse to compare calls as texts: models write them in different forms, and with keys in any order."""
    first = next((number for number, row in enumerate(test, 1) if row.calls), None)
    if first is not None and not any(scorer.reads_calls for scorer in params.evaluate.scorers):
        raise EvaluationRefused(
            f"{_TEST}:{first}: row {test[first - 1].id}: its reference calls a tool, and no scorer of evaluate.scorers "
            "reads calls",
            "add kind: tool-call",
        )


def predict(
    params: Params,
    test: Sequence[Row],
    answered: Answered,
    marked: Thinking | None = None,
    learned: frozenset[str] = frozenset(),
) -> list[Prediction]:
    """Score answers against their rows; ``learned`` are ids of rows that the model was trained on.

    ``marked``: how thoughts are marked, which are no part of a reference's answer.
    Raises EvaluationRefused if a row has no answer.
    """
    if len(answered.texts) != len(test):
        missing = ", ".join(row.id for row in test[len(answered.texts) :][:5]) or "unknown"
        raise EvaluationRefused(
            f"{len(answered.texts)} predictions for {len(test)} rows of {_TEST} (without one: {missing})",
            "run `./lockstep run evaluate`; if it happens again, report it",
        )
    predictions = []
    metrics = scoring.metrics(params.evaluate.scorers, decoding.draws(params.evaluate.decoding))
    thought_of = answered.thoughts or [()] * len(test)
    for row, (text, *further), thought in zip(test, answered.draws, thought_of, strict=True):
        scores = {
            metric: scoring.score_draws(
                metric, scorer, (text, *further), answer_in(row.reference, marked)
            )
            for metric, scorer in metrics.items()
        }
        predictions.append(
            Prediction(
                id=row.id,
                prompt=row.prompt,
                prediction=text,
                reference=row.reference,
                score=next(iter(scores.values())),
                scores=scores,
                group=row.group,
                slice=row.slice,
                learned=row.id in learned,
                further=tuple(further),
                thoughts=thought,
            )
        )
    return predictions


def _speed(answered: Answered) -> Speed | None:
    """None if nothing was generated in this run: for baselines, and answers from a record."""
    if answered.speed is None:
        return None
    seconds = sorted(answered.seconds)
    p50, p95 = (
        round(seconds[math.ceil(share * len(seconds)) - 1], 6) if seconds else None
        for share in (0.5, 0.95)
    )
    tokens = [
        thought.tokens for thoughts_of_row in answered.thoughts for thought in thoughts_of_row
    ]
    return Speed(
        examples_per_second=answered.speed, p50_seconds=p50, p95_seconds=p95,
        thought_tokens=round(statistics.fmean(tokens), 1) if tokens else None,
    )  # fmt: skip


def _intervals(params: Params, predictions: Sequence[Prediction]) -> dict[str, Interval]:
    groups = [prediction.group for prediction in predictions]
    return {
        metric: intervals.mean_interval(
            [p.scores[metric] for p in predictions], groups, params.evaluate.confidence
        )
        for metric in scoring.metrics(
            params.evaluate.scorers, decoding.draws(params.evaluate.decoding)
        )
    }


def _spread(
    params: Params, predictions: Sequence[Prediction], marked: Thinking | None
) -> dict[str, Spread]:
    """Split the variance of each scorer's mean, where rows were answered several times."""
    if decoding.draws(params.evaluate.decoding) == 1:
        return {}
    groups = [prediction.group for prediction in predictions]
    return {
        scorer.kind: draws.spread(
            [
                [scoring.score(scorer, text, answer_in(p.reference, marked)) for text in p.draws]
                for p in predictions
            ],
            groups,
        )
        for scorer in params.evaluate.scorers
    }


def _slices(params: Params, predictions: Sequence[Prediction]) -> dict[str, dict[str, Interval]]:
    names = sorted({prediction.slice for prediction in predictions})
    return {name: _intervals(params, [p for p in predictions if p.slice == name]) for name in names}


def _write(
    root: Path,
    report: EvaluationReport,
    candidate: Sequence[Prediction],
    labels: Sequence[str],
    marked: Thinking | None,
) -> None:
    """Write the reports; the evidence comes last. References are compared without the thought that ``marked`` marks."""
    pairs = []
    if labels:
        references = [answer_in(p.reference, marked).strip() for p in candidate]
        known = {*labels, *references}
        answers = (p.prediction if p.prediction in known else plots.OTHER for p in candidate)
        pairs = [*zip(references, answers, strict=True)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([("reference", "predicted"), *pairs])
    files.write_text(root / layout.CONFUSION, text.getvalue())
    with files.replacing_folder(root / layout.PLOTS) as folder:
        plots.draw(folder, report, candidate, pairs)
    files.write_text(root / layout.SUMMARY, page.render(report, candidate))
    files.write_json(root / layout.EVALUATION, report)


def _line(report: EvaluationReport) -> str:
    scorer, ours = next(iter(report.models["candidate"].metrics.items()))
    others = "".join(
        f"; {name} {model.metrics[scorer].value:.3f}"
        for name, model in report.models.items()
        if name != "candidate"
    )
    return (
        f"{report.rows} rows: {scorer} {ours.value:.3f} [{ours.low:.3f}, {ours.high:.3f}]{others}"
    )


def _mirror(params: Params, root: Path, report: EvaluationReport, adapter: str) -> str:
    """Tag the training's run with what it was judged on. MLflow is a mirror: an unreachable store is no failure.

    No scores: whoever compares runs there chooses parameters, and does so by the valid split (``stages.score``).
    """
    tags = {
        "lockstep.merged": report.merged,
        "lockstep.test": report.test,
        "lockstep.summary": report.summary[0],
    }
    try:
        tracking.annotate(params, root, adapter, {}, tags)
    except MachineRefused as refusal:
        return f" (not in MLflow: {refusal})"
    return ""


if __name__ == "__main__":
    entry.run("evaluate", evaluate)
