"""The metric table: the candidate beside main, production, the base and the baselines, and slice by slice."""

from collections.abc import Sequence

from checks import stats
from checks.chain import Evidence
from checks.evidence import EvaluationReport, Interval, ReferenceUse
from checks.rows import Prediction
from release.review.blocks import Block, Bold, Data, Folded, Line, Paragraph, Piece, Said, Section, Table, capped, row
from release.review.facts import Facts

NAMES: dict[str, Piece] = {
    "candidate": Bold(("this change",)),
    "main": "main",
    "champion": "production",
    "base": "base model",
    "majority": "majority class",
    "naive-bayes": "Naive Bayes",
}
_ORDER = ("main", "champion", "base")
_SLICES = 12


def compared(facts: Facts) -> Section | None:
    """One table a scorer: each model's score with its interval, and the candidate's difference to it."""
    evaluation = _evaluation(facts)
    if evaluation is None or facts.evidence is None:
        return None
    candidate = evaluation.models["candidate"]
    others = [name for name in evaluation.models if name not in ("candidate", *_ORDER)]
    blocks: list[Block] = []
    for scorer, ours in candidate.metrics.items():
        rows = [row(NAMES["candidate"], _figure(ours), "")]
        rows += [_row(facts, evaluation, facts.evidence, name, scorer) for name in (*_ORDER, *others)]
        blocks.append(Table(row(Data(scorer), "score", "this change against it"), rows))
    told = f"{evaluation.rows:,} test rows; {evaluation.confidence:.0%} intervals, of the difference on the same rows."
    blocks.append(Paragraph((f"{told} ▲ better, ▼ worse, ≈ too close to tell.",)))
    if evaluation.summary:
        blocks.append(Paragraph((Said(evaluation.summary[0]),)))
    return Section("metrics", "Metrics", blocks, keep=95)


def brief(facts: Facts) -> str:
    """The first scorer's difference to main and to production, or why there is none; empty without an evaluation."""
    evaluation = _evaluation(facts)
    if evaluation is None or facts.evidence is None:
        return ""
    said = list[str]()
    for name, use in evaluation.references.items():
        found = against(facts, name)
        if use.how == "same-model":
            said.append(f"the very model of {NAMES[name]}")
        elif use.how == "absent":
            said.append(f"{NAMES[name]} has no model to compare with yet")
        elif found is not None:
            said.append(f"{_difference(found)} against {NAMES[name]}")
    return ", ".join(said)


def against(facts: Facts, name: str) -> Interval | None:
    """The first scorer's difference to an earlier model on the same rows; None where they were not compared."""
    evaluation = _evaluation(facts)
    if evaluation is None or facts.evidence is None:
        return None
    scorer, answers = next(iter(evaluation.models["candidate"].metrics)), facts.evidence.answers
    return paired(answers.get("candidate", ()), answers.get(name, ()), scorer, evaluation.confidence)


def uncompared(facts: Facts) -> str:
    """Why this model was not compared with main's row by row; empty where it was, or main has no other model."""
    evaluation = _evaluation(facts)
    use = evaluation.references.get("main") if evaluation else None
    if use is None:
        return "the evaluation does not name it"
    if use.how == "unavailable":
        return use.note
    return "" if use.how in ("absent", "same-model") or against(facts, "main") else "its answers are of other rows"


def slices(facts: Facts) -> Section | None:
    """The largest slices, beside the first reference that has them; the points alone decide nothing."""
    evaluation = _evaluation(facts)
    if evaluation is None or not evaluation.models["candidate"].slices:
        return None
    ours = evaluation.models["candidate"]
    scorer = next(iter(ours.metrics))
    against = next((name for name in _ORDER if name in evaluation.models and evaluation.models[name].slices), None)
    theirs = evaluation.models[against].slices if against else {}
    rows = []
    for name, found in sorted(ours.slices.items(), key=lambda item: (-item[1][scorer].n, item[0])):
        other = theirs.get(name, {}).get(scorer)
        difference = f"{found[scorer].value - other.value:+.3f}" if other else "–"
        rows.append(row(Data(name), f"{found[scorer].n:,}", _figure(found[scorer]), difference))
    header = row("slice", "rows", Data(scorer), ("against ", NAMES[against]) if against else "against")
    table = capped(header, rows, _SLICES, figures=(1, 3))
    return Section("slices", "", [Folded(f"Slices: {len(rows)}", [table])], keep=30)


def paired(ours: Sequence[Prediction], theirs: Sequence[Prediction], scorer: str, confidence: float) -> Interval | None:
    """The mean difference on the same rows; None where they are not the same rows, or lack the score."""
    if not ours or [each.id for each in ours] != [each.id for each in theirs]:
        return None
    if any(scorer not in each.scores for each in (*ours, *theirs)):
        return None
    found = stats.paired_interval(
        [each.scores[scorer] for each in ours],
        [each.scores[scorer] for each in theirs],
        [each.group for each in ours],
        confidence,
    )
    return Interval(value=found.value, low=found.low, high=found.high, n=len(ours))


def _evaluation(facts: Facts) -> EvaluationReport | None:
    if facts.state not in ("held", "recorded") or facts.evidence is None:
        return None
    evaluation = facts.evidence.reports.evaluation
    return evaluation if evaluation and "candidate" in evaluation.models else None


def _row(facts: Facts, evaluation: EvaluationReport, evidence: Evidence, name: str, scorer: str) -> tuple[Line, ...]:
    called = NAMES.get(name, Data(name))
    use = evaluation.references.get(name)  # type: ignore[call-overload]  # a name of another model is not in it
    if use is not None and use.how in ("absent", "unavailable"):
        return row(called, "–", Said(f"{use.note}{_stand_in(evaluation, name, use)}"))
    result = evaluation.models.get(name)
    if result is None:
        return row(called, "–", "no gate compares with it")
    theirs = result.metrics.get(scorer)
    if theirs is None:
        return row(called, "–", "–")
    if use is not None and use.how == "same-model":
        return row(called, _figure(theirs), "the same model")
    found = paired(evidence.answers.get("candidate", ()), evidence.answers.get(name, ()), scorer, evaluation.confidence)
    by_gate = ", bounds of the gate" if found is None else ""
    if found is None and facts.verdict is not None:
        found = next(
            (
                Interval(value=f.value, low=f.low, high=f.high, n=f.n or 0)
                for f in facts.verdict.findings
                if f.against == name and f.metric == scorer and f.slice is None
                if f.value is not None and f.low is not None and f.high is not None
            ),
            None,
        )
    return row(called, _figure(theirs), f"{_difference(found)}{by_gate}" if found else "predictions are not here")


def _stand_in(evaluation: EvaluationReport, name: str, use: ReferenceUse) -> str:
    main = evaluation.references.get("main")
    stands = name == "champion" and use.how == "absent" and main is not None and main.merged is not None
    return "; main stands in for it" if stands else ""


def _figure(interval: Interval) -> str:
    return f"{interval.value:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def _difference(found: Interval) -> str:
    arrow = "▲" if found.low > 0 else "▼" if found.high < 0 else "≈"
    return f"{arrow} {found.value:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"
