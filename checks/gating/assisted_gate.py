"""Shared by the kinds of gate that can ask people which of two models' answers are better (``improves``,
``non_inferior``): metric ``human`` of a suite of kind ``pairwise``, with or without the help of its judge.
"""

import abc
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from checks.evaluation.comparisons import Comparisons
from checks.formats.suite_report import HUMAN
from checks.formats.verdict import Finding, Status, Verdict
from checks.gating.compared import Compared, PairedGate
from checks.gating.suite_sample import SuiteSample
from checks.kinds.gate import (
    ALONE,
    Case,
    CheckResult,
    Explained,
    GateParams,
    Test,
    corrected,
    figure,
    held_back,
    percent,
    small,
)
from checks.stats.assisted import LEAST_LABELS, Assisted, rows_to_see, unseen


class AssistedGate(PairedGate, abc.ABC):
    """A kind that compares the candidate with a reference by scores, or by what people say of both answers.

    The difference is the share of rows where people like the candidate's answer better, less the share where they like
    the reference's better.
    """

    asks_people: ClassVar[bool] = True

    assisted_by: Annotated[
        Literal["judge"] | None,
        Field(description="judge: the suite's judge assists people; for metric human alone"),
    ] = None

    @property
    def limit(self) -> float:
        """The difference that must be exceeded."""
        return self.margin if self.better else -self.margin

    def impossible(self, name: str, params: GateParams) -> str | None:
        """People must be asked where a judge is to assist, and enough of them to see a loss of the margin."""
        if problem := super().impossible(name, params):
            return problem
        suite = params.suites.get(self.suite or "")
        if self.metric != HUMAN or suite is None or suite.draw is None:
            return (
                f"gates.{name}.assisted_by: {self.metric} is no label of people|remove it"
                if self.assisted_by
                else None
            )
        if self.assisted_by and suite.judged_by is None:
            return (
                f"gates.{name}.assisted_by: suite {self.suite} has no judge|add "
                f"suites.{self.suite}.judge, or remove it"
            )
        if self.better:
            return None

        level, rows = 1 - self.confidence, suite.draw.rows
        if (chance := unseen(self.margin, rows)) <= level:
            return None
        return (
            f"gates.{name}.margin: {rows} labelled rows show nothing of a loss of {self.margin:g} with a chance of "
            f"{chance:.0%}|label {rows_to_see(self.margin, level)} (suites.{self.suite}.rows), or allow a larger margin"
        )

    def asks(self, case: Case) -> bool:
        """Whether it is people who decide."""
        suite = case.params.suites.get(self.suite or "")
        return suite is not None and suite.draw is not None

    def people(self, case: Case, against: Compared) -> CheckResult:
        """Decide by people's labels."""
        sample = case.sample.of(self.suite)
        assert isinstance(sample, SuiteSample)  # the metric is a suite's
        compared = sample.compared(against.model)
        labelled = compared.drawn - len(compared.missing)
        level = 1 - self.confidence
        least = LEAST_LABELS if self.better else max(LEAST_LABELS, rows_to_see(self.margin, level))
        if compared.missing or labelled < least:
            return self._too_few(case.name, against, compared, labelled, least)
        assisted = Assisted.of(
            compared.people, compared.judge * bool(self.assisted_by), compared.groups
        )
        p, p_worse = assisted.p_above(self.limit), assisted.p_below(0.0)

        def decide(p_holm: float, worse_holm: float | None) -> Finding:
            low = assisted.lower(corrected(level, p, p_holm))
            high = assisted.upper(
                level if worse_holm is None else corrected(level, p_worse, worse_holm)
            )
            status, reason, needed = self._settled(
                against.shown, assisted, (low, high), p_holm, worse_holm
            )
            return Finding(
                gate=case.name, kind=self.kind, status=status, reason=reason, metric=self.metric,
                against=against.model, method=f"{'PPI++, ' if self.assisted_by else ''}t test, skewness removed",
                value=figure(assisted.effect), low=figure(low), high=figure(high), bound=self.limit, p=small(p),
                p_holm=small(p_holm), n=labelled, detectable=figure(assisted.detectable(level)),
                gained=int((compared.people > 0).sum()), lost=int((compared.people < 0).sum()), rows_needed=needed,
            )  # fmt: skip

        claim = (
            self.kind,
            self.suite,
            self.metric,
            self.limit,
            self.confidence,
            self.assisted_by,
            against.which,
        )
        return Test(p, None if self.better else p_worse, decide, claim)

    def _too_few(
        self, name: str, against: Compared, said: Comparisons, labelled: int, least: int
    ) -> Finding:
        more = f"`lockstep label {self.suite}` asks for {len(said.missing)} more"
        todo = more if said.missing else f"raise suites.{self.suite}.rows"
        return Finding(
            gate=name, kind=self.kind, status="inconclusive", metric=self.metric, against=against.model,
            reason=f"people labelled {labelled} of the {said.drawn} rows that were drawn, as they are answered now; "
            f"the test needs all of them, at least {least}; {todo}",
            n=labelled, rows_needed=max(said.drawn, least),
        )  # fmt: skip

    def _settled(
        self,
        shown: str,
        found: Assisted,
        bounds: tuple[float, float],
        p: float,
        worse: float | None,
    ) -> tuple[Status, str, int | None]:
        level, (low, high) = 1 - self.confidence, bounds
        helped = f", the judge's weight is {found.weight:.2f}" if self.assisted_by else ""
        summary = (
            f"people prefer it to {shown} by {found.effect:+.3f} ({found.n} labels{helped}; lower "
            f"{percent(self.confidence)} bound {low:+.3f}, p {p:.2g})"
        )
        if p <= level:
            return (
                "pass",
                f"{summary}: {'better' if self.better else f'not worse by {self.margin:g}'}",
                None,
            )
        if self.better and found.effect <= self.limit:
            return "fail", f"{summary}: not better", None
        if worse is not None and worse <= level and found.effect < self.limit:
            return (
                "fail",
                f"{summary}; upper bound {high:+.3f}: worse, by more than {self.margin:g}",
                None,
            )
        needed = found.rows_needed(self.limit, held_back(level, found.p_above(self.limit), p))
        more = (
            f"; about {needed} labels would if the true difference is as observed" if needed else ""
        )
        return "inconclusive", f"{summary}: too little to tell{more}", needed

    def explain_people(self, place: str, finding: Finding, verdict: Verdict) -> Explained:
        """Return what people were asked, and what their labels clear."""
        helped = ", as the judge assists them," if self.assisted_by else ""
        more = (
            f"about {finding.rows_needed} labels would decide {ALONE}; "
            if finding.rows_needed
            else ""
        )
        return self.explained(
            f"do people{helped} prefer the candidate's answers to those of {self.against} by more than {self.limit:g} "
            f"of all rows, shown with {percent(self.confidence)} confidence?",
            f"the true difference is {self.limit:g} or less",
            f"{more}what the reason names" if finding.low is None
            else f"{more}these labels show a difference above {finding.low:.4g}; {place}.margin",
            finding, verdict,
        )  # fmt: skip
