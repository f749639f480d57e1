"""Shared by the kinds of gate that compare with a reference (``improves``, ``non_inferior``, ``slice``).

It finds the reference model, and checks that the margin is above the noise. The comparison is on the same rows.
"""

import abc
from typing import TYPE_CHECKING, Annotated, ClassVar, NamedTuple

from pydantic import Field

from checks.evaluation.answered import RatingSuite
from checks.formats.evaluation_reports import EARLIER, RELEASED
from checks.formats.evidence import Evidence
from checks.formats.report import UNQUANTISED
from checks.formats.verdict import Finding, Verdict
from checks.gating.suite_sample import SuiteSample
from checks.kinds.gate import (
    Case,
    Explained,
    GateParams,
    ScoreGate,
    explain_rows,
    explain_test,
    failed,
    percent,
)
from checks.kinds.suite import BoundedSuite
from checks.stats import intervals
from checks.storage import layout

Against = Annotated[
    str,
    Field(description="base, unquantised, main, production, best, or one of evaluate.baselines"),
]


class Compared(NamedTuple):
    """The model that a paired gate compares with.

    ``model``: its name among the answers; ``shown``: its name in reasons; ``which``: its digest, or its name if it was
    evaluated beside the candidate. Gates with the same test against the same model count as one in the correction for
    multiple tests.
    """

    model: str
    shown: str
    which: str


class PairedGate(ScoreGate, abc.ABC):
    """A kind that compares the candidate with a reference on the same rows; ``better``: it requires an improvement."""

    better: ClassVar[bool] = False

    if TYPE_CHECKING:  # each kind has these parameters, in its own order and with its own bounds
        against: str
        margin: float

    def impossible(self, name: str, params: GateParams) -> str | None:
        """Return the metric must be among the scorers, and the reference must be evaluated."""
        if problem := super().impossible(name, params):
            return problem
        if self.suite is not None:
            suite, scored = params.suites[self.suite], params.suites[self.suite].scores_of
            # There may be no model of main or production yet, and so no log of them.
            if self.against in scored or (
                self.against in EARLIER and not isinstance(suite, RatingSuite)
            ):
                return None
            return (
                f"gates.{name}.against: suite {self.suite} has no scores of {self.against!r}|"
                f"use one of {', '.join(role for role in scored if role != 'candidate') or 'none'}, or add it there"
            )
        full = (UNQUANTISED,) if params.quantised else ()
        known = ("base", *full, *EARLIER, *params.baselines)
        if self.against in known:
            return None
        return (
            f"gates.{name}.against: {self.against!r} is not evaluated|"
            f"use one of {', '.join(known)}, or add it to evaluate.baselines"
        )

    def explained(
        self, asks: str, refuted: str, change: str, finding: Finding, verdict: Verdict
    ) -> Explained:
        """Return the lines that all these kinds share, around those of the kind itself."""
        beside = (
            "" if self.suite else f"/candidate.jsonl beside {finding.against or self.against}.jsonl"
        )
        return Explained(
            asks,
            explain_test(finding, verdict, self.confidence, refuted),
            change,
            f"{layout.COMPARISON}/differences.svg, {self.answers_at}{beside}",
        )

    def explain_loss(
        self, slices: str, place: str, finding: Finding, verdict: Verdict
    ) -> Explained:
        """Explain a gate that rules out a loss; ``slices`` begins its question, and is empty for all rows together."""
        asks = (
            f"{slices}on the same {self.asked_of}, is {self.metric} not lower than that of {self.against} by "
            f"{self.margin:g} or more, shown with {percent(self.confidence)} confidence?"
        )
        return self.explained(
            asks,
            f"the true loss{' of some slice' if slices else ''} is {self.margin:g} or more",
            self._loss_cleared(place, finding),
            finding,
            verdict,
        )

    def not_asked(self, finding: Finding) -> str:
        """Return what would change a finding of a gate whose test was not run."""
        if finding.status == "pass":
            return f"another {self.against} to compare with"
        return "what the reason names: the reference's evidence, the measured noise, or a margin above it"

    def _loss_cleared(self, place: str, finding: Finding) -> str:
        if finding.low is None:
            return self.not_asked(finding)
        if finding.low > 0:
            return (
                f"{explain_rows(finding)}a candidate that is not shown to be better; as it is, every {place}.margin is "
                "cleared"
            )
        about = "the rows of that slice" if finding.slice else "these rows"
        return f"{explain_rows(finding)}{about} clear {place}.margin above {-finding.low:.4g}"


def settled(case: Case, gate: PairedGate) -> Finding | Compared:
    """Return the model to compare with; or the finding if there is none, or if the margin is below the noise."""
    other = reference(case.name, gate, case.evidence)
    if isinstance(other, Compared) and gate.margin > 0:
        noisy = (
            _noise(case.name, gate, case.evidence)
            if gate.suite is None
            else _declared_noise(case, gate)
        )
        return noisy or other
    return other


def reference(name: str, gate: PairedGate, evidence: Evidence) -> Finding | Compared:
    """Return the model to compare with. Until production runs something, ``main`` stands in for a released one.

    If there is no model to compare with, the finding that says so.
    """
    if gate.against not in EARLIER:
        return Compared(gate.against, gate.against, gate.against)
    evidence.hold(layout.REFERENCES)
    uses = evidence.need(evidence.reports.evaluation, layout.EVALUATION).references
    why = list[str]()
    for model in (gate.against, "main") if gate.against in RELEASED else (gate.against,):
        use = next((use for known, use in uses.items() if known == model), None)
        if use is None:
            return failed(
                name, gate, f"no evidence: {layout.REFERENCES} names no {model}; run `lockstep run`"
            )
        if use.how == "unavailable":
            return failed(name, gate, f"no evidence of {model}: {use.note}")
        if use.merged is not None:
            shown = (
                model
                if model == gate.against
                else f"{model}, which stands in for {gate.against} ({why[0]})"
            )
            if use.how == "same-model":
                # There is nothing to estimate.
                return Finding(
                    gate=name, kind=gate.kind, status="fail" if gate.better else "pass", metric=gate.metric,
                    against=gate.against,
                    reason=f"the same model as {shown}: no row differs{', so it is not better' * gate.better}",
                )  # fmt: skip
            return _unlearned(name, gate, evidence, Compared(model, shown, use.merged))
        why.append(use.note)
    return Finding(
        gate=name, kind=gate.kind, status="pass", metric=gate.metric, against=gate.against,
        reason=f"nothing to compare with: {'; '.join(dict.fromkeys(why))}",
    )  # fmt: skip


def _unlearned(
    name: str, gate: PairedGate, evidence: Evidence, against: Compared
) -> Finding | Compared:
    """Name the rows that the reference was trained on, which no comparison counts; inconclusive without others."""
    answers = evidence.answers.get(against.model, ()) if gate.suite is None else ()
    learned = sum(answer.learned for answer in answers)
    if not learned:
        return against
    if learned == len(answers):
        return Finding(
            gate=name, kind=gate.kind, status="inconclusive", metric=gate.metric, against=against.model,
            reason=f"{against.shown} was trained on all {learned:,} test rows; bring fresh rows",
        )  # fmt: skip
    return against._replace(
        shown=f"{against.shown}, without the {learned:,} of {len(answers):,} rows that it learned"
    )


def uninformed(case: Case, gate: PairedGate, against: Compared) -> Finding | None:
    """Return the finding for a reference that is not shown to know what the suite asks; None where it does.

    Such a suite cannot show what the candidate forgot, and every candidate would pass.
    """
    sample = case.sample.of(gate.suite, gate.metric)
    chance = sample.chance(gate.metric) if isinstance(sample, SuiteSample) else None
    if chance is None:
        return None
    knows = intervals.Mean.of(sample.scores(against.model, gate.metric), sample.groups)
    interval = intervals.interval_of(knows, gate.confidence, sided=1)
    if knows.value > chance and knows.p_above(chance) <= 1 - gate.confidence:
        return None
    return failed(
        case.name, gate,
        f"{against.shown} itself has {gate.metric} {interval.value:.3f} (lower {gate.confidence:.0%} bound "
        f"{interval.low:.3f}), not above the {chance:.3f} of a model that knows nothing: suite {gate.suite} cannot "
        f"show what was lost; ask what {against.shown} can answer",
    )  # fmt: skip


def nothing_to_lose(case: Case, gate: PairedGate, against: Compared) -> Finding | None:
    """Return the finding for a reference whose mean is shown to be below the margin; None where it is not.

    Such a reference cannot lose the margin, and every candidate would pass. A gate does not ask about a candidate that
    is shown to be better.
    """
    sample = case.sample.of(gate.suite, gate.metric, against.model)
    knows = intervals.Mean.of(sample.scores(against.model, gate.metric), sample.groups)
    high = knows.high(1 - gate.confidence)
    if high >= gate.margin:
        return None
    return failed(
        case.name, gate,
        f"{against.shown} itself has {gate.metric} {knows.value:.3f} (upper {percent(gate.confidence)} bound "
        f"{high:.3f}), below the margin of {gate.margin:g}: it cannot lose as much, and every model would pass; "
        f"compare with a model that knows more, or set gates.{case.name}.margin below {high:.3f}",
    )  # fmt: skip


def _declared_noise(case: Case, gate: PairedGate) -> Finding | None:
    """As ``_noise``, by what params.yaml says of the suite: `lockstep calibrate` does not run it."""
    suite = case.params.suites.get(gate.suite or "")
    if not isinstance(suite, BoundedSuite) or gate.margin >= suite.noise:
        return None
    return failed(
        case.name, gate,
        f"a margin of {gate.margin:g} means nothing: one unchanged model scores up to {suite.noise:g} apart in runs of "
        f"suite {gate.suite}; set gates.{case.name}.margin to that or more",
    )  # fmt: skip


def _noise(name: str, gate: PairedGate, evidence: Evidence) -> Finding | None:
    """Return the finding for a margin that is below the noise of one unchanged model."""
    todo = "run `lockstep calibrate`"
    noise = evidence.reports.noise
    evaluation = evidence.need(evidence.reports.evaluation, layout.EVALUATION)
    if noise is None:
        unknown = evidence.gaps[layout.NOISE.as_posix()]
    elif stale := [
        what
        for what, one, two in (
            ("another base", noise.base, evaluation.base),
            ("other scorers", noise.scorers, evaluation.scorers),
            ("another prompt format", noise.prompt_format, evaluation.prompt_format),
        )
        if one != two
    ]:
        unknown = f"{layout.NOISE} is about {', '.join(stale)}"
    elif gate.metric not in noise.floor:
        unknown = f"{layout.NOISE} has no {gate.metric}"
    elif gate.margin < noise.floor[gate.metric]:
        return failed(
            name, gate,
            f"a margin of {gate.margin:g} means nothing: one unchanged model scores {noise.floor[gate.metric]:.4f} "
            f"apart in {len(noise.runs)} runs; set gates.{name}.margin above that",
        )  # fmt: skip
    else:
        return None
    return Finding(
        gate=name, kind=gate.kind, status="inconclusive", metric=gate.metric, against=gate.against,
        reason=f"the noise that a margin of {gate.margin:g} must exceed is not measured: {unknown}; {todo}",
    )  # fmt: skip
