"""Log the decision at the training's run in MLflow: verdict, base, baselines and test data set, from the reports.

The scores on the test split are tags. As metrics they would be columns of the table in which people compare runs, and
who chooses a run by them has chosen by the test split. Metrics are the scores on the valid split: ``stages.score`` logs
them too, but does not run where training gave the recorded bytes again.

`lockstep run` starts it once the gate has decided. It is no stage: nothing depends on it, and a store that does not
answer costs one line.

    python -m stages.tracking.verdict
"""

from pathlib import Path

from checks.config.params import Params
from checks.formats.evaluation_reports import EvaluationReport, ValidScores
from checks.formats.training_reports import ParityReport
from checks.formats.verdict import Verdict
from checks.process.errors import Refusal
from checks.storage import files, layout
from stages import entry, tracking

_LONGEST = 5000  # characters of a tag that every store of MLflow takes


def log(params: Params, root: Path) -> str:
    """Log the verdict of ``root`` and what it was about; return one line that says so, or why it could not be done."""
    try:
        verdict = files.read_json(root / layout.VERDICT, Verdict)
        report = files.read_json(root / layout.EVALUATION, EvaluationReport)
        made = files.read_json(root / layout.PARITY_REPORT, ParityReport)
        if not verdict.model == report.merged == made.merged:
            return "no verdict about this model yet"
        scores = files.read_json(root / layout.METRICS, ValidScores).valid
        valid = {f"valid.{scorer}": figures.value for scorer, figures in scores.items()}
        run = tracking.annotate(
            params,
            root,
            made.adapter,
            valid,
            _tags(verdict, report),
            {"test": (layout.SPLITS / "test.jsonl", report.test)},
        )
    except Refusal as refusal:
        return f"verdict not in MLflow: {refusal}"
    return f"verdict {verdict.status} at MLflow's run {run}"


def _tags(verdict: Verdict, report: EvaluationReport) -> dict[str, str]:
    undone = [f"{f.gate}: {f.status}: {f.reason}" for f in verdict.findings if f.status != "pass"]
    return {
        "lockstep.verdict": verdict.status,
        "lockstep.verdict.reasons": "; ".join(undone)[:_LONGEST],
        "lockstep.policy": verdict.policy,
        "lockstep.base": report.base,
        "lockstep.merged": report.merged,
        "lockstep.test": report.test,
    } | {
        f"lockstep.test.{scorer}" if name == "candidate" else f"lockstep.test.{name}.{scorer}": (
            f"{score.value:.3f} [{score.low:.3f}, {score.high:.3f}]"
        )
        for name, model in report.models.items()
        for scorer, score in model.metrics.items()
    }


if __name__ == "__main__":
    entry.run("tracking", log)
