"""The candidate's scores beside those of main, production, the base and the baselines, overall and by slice."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from checks.decision import policy
from checks.evaluation import baselines
from checks.formats.evaluation_reports import RELEASED, EvaluationReport, Figures, Interval
from checks.formats.suite_report import SuiteResult
from checks.formats.verdict import Finding, Verdict
from checks.records.rows import Prediction
from checks.stats.paired import Difference
from release.review import kept_abilities, same_rows, same_samples
from release.review.facts import EARLIER, Facts
from release.review.sides import at

# Two findings are about the same figure if these fields agree.
_ASKED = ("kind", "metric", "against", "slice", "suite")
# Keys of `evaluate`. Valid scores of two records are comparable only if these agree.
_ANSWERED = ("scorers", "max_new_tokens", "precision", "engine", "decoding", "confidence")


class Score(NamedTuple):
    """A model's score, and the candidate's ``difference`` to it on the same rows; else ``note`` says why not.

    ``how`` is ReferenceUse's. ``of_gate``: a gate found the difference, because the predictions are missing here.
    """

    name: str
    how: str
    figure: Interval | None = None
    difference: Difference | Interval | None = None
    of_gate: Interval | None = None
    note: str = "–"


class Slice(NamedTuple):
    """A slice's score beside another model's. It compares points without intervals and decides nothing."""

    name: str
    figure: Interval
    difference: float | None


class SuiteScore(NamedTuple):
    """The mean of a suite's metric, in its own scale: of the candidate, and of other models by role.

    ``differences``: of the candidate to them on the same samples, where the samples are here.
    """

    suite: str
    metric: str
    own: float
    others: tuple[tuple[str, float], ...]
    differences: Mapping[str, Difference]
    less_is_better: bool


def compared(facts: Facts) -> dict[str, list[Score]]:
    """The other models' scores for each scorer; empty without an evaluation."""
    evaluation = facts.evaluation
    if evaluation is None:
        return {}
    others = (name for name in evaluation.models if name != "candidate")
    names = [
        name
        for name in dict.fromkeys((*EARLIER, *others))
        if name != "best" or _is_another(evaluation)
    ]
    return {
        scorer: [_score(facts, evaluation, name, scorer) for name in names]
        for scorer in evaluation.models["candidate"].metrics
    }


def _is_another(evaluation: EvaluationReport) -> bool:
    """Whether the best release is a model of its own: neither main's nor production's."""
    best = evaluation.references.get("best")
    others = (evaluation.references.get("main"), evaluation.references.get("production"))
    return (
        best is not None
        and best.merged is not None
        and best.merged not in [use.merged for use in others if use]
    )


def against(facts: Facts) -> list[Score]:
    """Main and production by the first scorer, if known; empty without an evaluation."""
    evaluation, first = facts.evaluation, next(iter(compared(facts).values()), [])
    return [score for score in first if evaluation and score.name in evaluation.references]


def on_valid(facts: Facts) -> tuple[Figures, Figures | None] | None:
    """The candidate's score on the valid split by the first scorer, and main's if it was asked the same.

    Main's model is the one that the candidate was compared with on the test split.

    None without an evaluation, or with a record of before the stage score.
    """
    evaluation = facts.evaluation
    own = facts.scores.valid.get(_first(evaluation)) if evaluation and facts.scores else None
    if evaluation is None or own is None:
        return None
    splits = [
        side.prepare.splits.get("valid") if side.prepare else None for side in (facts, facts.target)
    ]
    asked = [
        [at(side.document, "evaluate", key) for key in _ANSWERED] for side in (facts, facts.target)
    ]
    main, now = evaluation.references.get("main"), facts.target.verdict
    is_another = main is not None and main.how != "same-model"
    # Otherwise main has another model since then.
    is_main = main is not None and now is not None and now.model == main.merged
    if (
        facts.target.scores is None
        or not (is_another and is_main)
        or splits[0] != splits[1]
        or asked[0] != asked[1]
    ):
        return own, None
    return own, facts.target.scores.valid.get(_first(evaluation))


def on_old_test(facts: Facts) -> tuple[Interval, int] | None:
    """Main's score by the first scorer, and the rows, of its own test split; None if that is this test split too."""
    before, now = facts.target.evaluation, facts.evaluation
    if before is None or now is None or before.test == now.test:
        return None
    figure = before.models["candidate"].metrics.get(_first(now))
    return None if figure is None else (figure, before.rows)


def confidence(facts: Facts) -> float | None:
    """That of the intervals of differences: the evaluation's, its error divided among as many models as the gates'.

    Else one of many equal models would soon be called better. None without an evaluation.
    """
    if facts.evaluation is None:
        return None
    counted = look(facts)
    return 1 - (1 - facts.evaluation.confidence) / (
        counted.bound if counted and counted.bound else 1
    )


def look(facts: Facts) -> Finding | None:
    """Which of the models that this test split may judge the candidate is, if a gate counts them."""
    findings = facts.verdict.findings if facts.verdict else ()
    return next((finding for finding in findings if finding.kind == "looks"), None)


def cheapest(facts: Facts) -> Score | None:
    """The best of the baselines that cost nothing to train, by the first scorer; None if none was evaluated."""
    scores = [
        (score.figure.value, score)
        for score in next(iter(compared(facts).values()), [])
        if score.name in baselines.NAMES and score.figure
    ]
    return max(scores, key=lambda pair: pair[0])[1] if scores else None


def uncompared(facts: Facts) -> str:
    """Why the candidate was not compared with main row by row; empty if it was, or if main has no other model."""
    main = next((score for score in against(facts) if score.name == "main"), None)
    if main is None:
        return "the evaluation does not name it"
    if main.how == "unavailable":
        return main.note
    return (
        ""
        if main.how in ("absent", "same-model") or main.difference
        else "its answers are of other rows"
    )


def of_main(facts: Facts) -> dict[str, float]:
    """The figure of main's own record for each gate with a bound: of another model, on the same test rows.

    Without gates against main or a release: there main was compared with another model.
    """
    theirs, ours = facts.target.verdict, facts.verdict
    if theirs is None or ours is None or theirs.model == ours.model:
        return {}
    if theirs.judged.get(policy.TEST) != ours.judged.get(policy.TEST):
        return {}
    before = {finding.gate: finding for finding in theirs.findings}
    return {
        finding.gate: old.value
        for finding in ours.findings
        if (old := before.get(finding.gate))
        and old.value is not None
        and finding.bound is not None
        and finding.against not in EARLIER[:-1]
        and all(getattr(old, name) == getattr(finding, name) for name in _ASKED)
    }


def suites(facts: Facts) -> list[SuiteScore]:
    """Return the means of each suite, whether or not a gate asks it. Comparisons by people have no mean."""
    report = facts.evidence.reports.suites if facts.evidence else None
    return [
        SuiteScore(
            name, metric, own,
            tuple(
                (role, means[metric]) for role, means in suite.means.items() if role != "candidate" and metric in means
            ),
            _in_suite(facts, name, suite, metric), not kept_abilities.is_bounded(suite.kind),
        )
        for name, suite in (report.suites.items() if report else ()) if suite.compared is None
        for metric, own in suite.means.get("candidate", {}).items()
    ]  # fmt: skip


def forgot(verdict: Verdict | None, suites: Sequence[SuiteScore]) -> list[kept_abilities.Kept]:
    """Compare each suite with the base, on the same samples where these are here."""
    return [
        kept_abilities.row(
            verdict, score.suite, score.metric, (base, score.own), score.less_is_better,
            score.differences.get("base"),
        )
        for score in suites if (base := dict(score.others).get("base")) is not None
    ]  # fmt: skip


def _in_suite(facts: Facts, name: str, suite: SuiteResult, metric: str) -> dict[str, Difference]:
    """The candidate's difference to each other model that was asked the suite, by role."""
    lines, report = facts.evidence.suites.get(name, ()) if facts.evidence else (), facts.evaluation
    if not lines or report is None:
        return {}
    own = suite.models["candidate"]
    divided = confidence(facts) or report.confidence
    lines_of = {
        model: [line for line in lines if line.model == model] for model in suite.models.values()
    }
    differences = {
        role: same_samples.difference(
            facts.document, name, suite.kind, metric, lines_of[model], lines_of[own], divided
        )
        for role, model in suite.models.items()
        if model != own
    }
    return {role: difference for role, difference in differences.items() if difference}


def slices(facts: Facts) -> tuple[str, list[Slice]]:
    """The slices by size, and the first reference that has them, by the first scorer."""
    evaluation = facts.evaluation
    if evaluation is None:
        return "", []
    other = next(
        (name for name in EARLIER if name in evaluation.models and evaluation.models[name].slices),
        "",
    )
    scorer = _first(evaluation)
    theirs = {
        name: scores.get(scorer)
        for name, scores in (evaluation.models[other].slices if other else {}).items()
    }
    rows = [
        Slice(name, ours[scorer], ours[scorer].value - their.value if (their := theirs.get(name)) else None)
        for name, ours in evaluation.models["candidate"].slices.items()
    ]  # fmt: skip
    return other, sorted(rows, key=lambda row: (-row.figure.n, row.name))


def paired(
    ours: Sequence[Prediction], theirs: Sequence[Prediction], scorer: str, confidence: float
) -> Difference | None:
    """The mean difference on the same rows, without those that ``theirs`` learned.

    None if the rows differ or lack the score, or none is left.
    """
    if [answer.id for answer in ours] != [answer.id for answer in theirs]:
        return None
    paired_rows = same_rows.pair([answer for answer in theirs if not answer.learned], ours)
    return same_rows.difference(paired_rows, range(len(paired_rows.new)), scorer, confidence)


def _first(evaluation: EvaluationReport) -> str:
    return next(iter(evaluation.models["candidate"].metrics))


def _score(facts: Facts, evaluation: EvaluationReport, name: str, scorer: str) -> Score:
    # The record compares with the model that main had before.
    if name == "main" and facts.same_as_main:
        return Score(
            name,
            "same-model",
            evaluation.models["candidate"].metrics[scorer],
            note="the same model",
        )
    use = evaluation.references.get(name)  # type: ignore[call-overload]  # a name of another model is not in it
    how = use.how if use else "evaluated"
    if use and how in ("absent", "unavailable"):
        main = evaluation.references.get("main")
        stands = (
            name in RELEASED and how == "absent" and main is not None and main.merged is not None
        )
        return Score(name, how, note=f"{use.note}{'; main stands in for it' if stands else ''}")
    if name not in evaluation.models:
        return Score(name, how, note="no gate compares with it")
    theirs = evaluation.models[name].metrics.get(scorer)
    if theirs is None or how == "same-model":
        return Score(name, how, theirs, note="the same model" if theirs else "–")
    answers = facts.evidence.answers if facts.evidence else {}
    difference = paired(
        answers.get("candidate", ()),
        answers.get(name, ()),
        scorer,
        confidence(facts) or evaluation.confidence,
    )
    of_gate = (
        None
        if difference
        else kept_abilities.interval(kept_abilities.gate(facts.verdict, name, scorer))
    )
    return Score(name, how, theirs, difference, of_gate, "predictions are missing here")
