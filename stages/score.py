"""score: scores the merged model's answers to the valid split: the figures by which parameters are chosen.

In:  models/merged (hashed, and held to reports/parity.json), data/splits/valid.jsonl, params ``evaluate``.
Out: reports/metrics.json (``checks.formats.evaluation_reports.ValidScores``), which `dvc metrics` and `dvc exp show`
     read; ``valid.<scorer>`` at the training's run in MLflow.
Run: python -m stages.score, or `lockstep run score`, which trains and ends before the test split is asked.
"""

from pathlib import Path

from checks.config.params import Params
from checks.evaluation import scoring
from checks.formats import thinking
from checks.formats.evaluation_reports import Figures, ValidScores
from checks.formats.thinking import answer_in
from checks.formats.training_reports import ParityReport
from checks.process.errors import EvaluationRefused, EvidenceRefused, MachineRefused
from checks.records.rows import Row
from checks.stats import intervals
from checks.storage import files, layout
from stages import entry, progress, tracking
from stages.inference import answers, thoughts

VALID = layout.SPLITS / "valid.jsonl"


def score(params: Params, root: Path) -> str:
    """Let the merged model answer the valid split, and write its scores.

    Raises EvidenceRefused if the model or the split is missing, or the model is not the one in parity.json;
    EvaluationRefused if the split is empty or the model cannot answer a row.
    """
    parity = files.read_json(root / layout.PARITY_REPORT, ParityReport)
    merged = progress.tree_digest(root / layout.MERGED, layout.MERGED)
    if merged != parity.merged:
        raise EvidenceRefused(
            f"{layout.MERGED}: is {merged[:19]}…, {layout.PARITY_REPORT} is about {parity.merged[:19]}…",
            "run `./lockstep run merge`",
        )
    valid = files.read_jsonl(root / VALID, Row)
    if not valid:
        raise EvaluationRefused(f"{VALID}: has no rows", "run `./lockstep run prepare`")
    groups, confidence = [row.group for row in valid], params.evaluate.confidence
    scores = {
        kind: intervals.mean_interval(score_of_kind, groups, confidence)
        for kind, score_of_kind in scored(params, root, root / layout.MERGED, merged, valid).items()
    }
    rounded = {
        kind: Figures(
            value=round(score_of_kind.value, 6),
            low=round(score_of_kind.low, 6),
            high=round(score_of_kind.high, 6),
        )
        for kind, score_of_kind in scores.items()
    }
    files.write_json(root / layout.METRICS, ValidScores(valid=rounded, rows=len(valid)))
    kind, first = next(iter(scores.items()))
    summary = (
        f"{len(valid)} valid rows: {kind} {first.value:.3f} [{first.low:.3f}, {first.high:.3f}]"
    )
    try:
        numbers = {f"valid.{kind}": score_of_kind.value for kind, score_of_kind in scores.items()}
        tracking.annotate(params, root, parity.adapter, numbers, {})
    except MachineRefused as refusal:
        return f"{summary} (not in MLflow: {refusal})"
    return summary


def scored(
    params: Params, root: Path, folder: Path, model: str, valid: list[Row]
) -> dict[str, list[float]]:
    """Each scorer's scores of the rows. ``folder`` has the model whose digest is ``model``."""
    asked = [row.messages for row in valid]
    answered = answers.ask(root, params.evaluate, folder, model, valid, asked, "valid", VALID)
    answered = thoughts.divided(answered, folder)
    marked = thinking.of_model(folder)
    return {
        scorer.kind: [
            scoring.score_draws(scorer.kind, scorer, texts, answer_in(row.reference, marked))
            for texts, row in zip(answered.draws, valid, strict=True)
        ]
        for scorer in params.evaluate.scorers
    }


if __name__ == "__main__":
    entry.run("score", score)
