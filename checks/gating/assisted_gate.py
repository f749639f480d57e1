"""Shared by the kinds of gate that can ask people which of two models' answers are better (``improves``,
``non_inferior``): metric ``human`` of a suite of kind ``pairwise``, with or without the help of its judge.
"""

import abc
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from checks.evaluation.comparisons import Comparisons
from checks.formats.suite_report import HUMAN
from checks.formats.verdict import Finding, Status, Verdict
from checks.gating import compared
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
from checks.stats.paired import Comparison, Groups, Pairs, Scores, compare
from checks.stats.planning import Needed


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
        """Return the difference that must be exceeded."""
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

    def check(self, case: Case) -> CheckResult:
        """Decide by the scores of both models, or by people's labels.

        Pass when a difference up to ``limit`` is refuted; ``decided`` says when a kind fails.
        """
        against = compared.settled(case, self)
        if isinstance(against, Finding):
            return against
        suite = case.params.suites.get(self.suite or "")
        if suite is not None and suite.draw is not None:
            return self._by_people(case, against)
        if not self.better and (finding := compared.uninformed(case, self, against)):
            return finding
        sample = case.sample.of(self.suite, self.metric, against.model)
        ours, theirs = (sample.scores(model, self.metric) for model in ("candidate", against.model))
        comparison = self.compared(ours, theirs, sample.groups)
        beaten = self.better or comparison.low > 0
        if not beaten and (finding := compared.nothing_to_lose(case, self, against)):
            return finding
        level = 1 - self.confidence
        detectable = self.sees(comparison.pairs)

        def decide(p_holm: float, worse_holm: float | None) -> Finding:
            at = corrected(level, comparison.p, p_holm)
            low = comparison.lower(at)
            high = comparison.upper(
                at if worse_holm is None else corrected(level, comparison.p_worse, worse_holm)
            )
            status, reason, needed = self.decided(
                against.shown, comparison, (low, high), detectable, p_holm, worse_holm
            )
            return Finding(
                gate=case.name, kind=self.kind, status=status, reason=reason, metric=self.metric,
                against=against.model, method=comparison.method, value=figure(comparison.effect), low=figure(low),
                high=figure(high), bound=self.limit, p=small(comparison.p), p_holm=small(p_holm), n=comparison.n,
                detectable=None if detectable is None else figure(detectable),
                gained=int((ours > theirs).sum()), lost=int((ours < theirs).sum()),
                rows_needed=needed.rows if needed else None, groups_needed=needed.groups if needed else None,
            )  # fmt: skip

        mid_p = comparison.pairs.mid_p
        return Test(
            comparison.p,
            None if self.better else comparison.p_worse,
            decide,
            (
                self.kind,
                self.suite,
                self.metric,
                self.limit,
                self.confidence,
                against.which,
                mid_p,
            ),
        )

    def compared(self, ours: Scores, theirs: Scores, groups: Groups) -> Comparison:
        """Compare the scores of both models."""
        return compare(ours, theirs, groups, self.limit, self.confidence)

    @abc.abstractmethod
    def sees(self, pairs: Pairs) -> float | None:
        """Return the difference that such rows show with at least 80 % power; None: they show none."""

    @abc.abstractmethod
    def decided(
        self, shown: str, comparison: Comparison, bounds: tuple[float, float], detectable: float | None, p: float,
        worse: float | None,
    ) -> tuple[Status, str, Needed | None]:  # fmt: skip
        """Return the status by the corrected p-values, its reason, and the rows that would decide."""

    def _by_people(self, case: Case, against: Compared) -> CheckResult:
        """Decide by people's labels."""
        sample = case.sample.of(self.suite)
        assert isinstance(sample, SuiteSample)  # the metric is a suite's
        answers = sample.compared(against.model)
        labelled = answers.drawn - len(answers.missing)
        level = 1 - self.confidence
        least = LEAST_LABELS if self.better else max(LEAST_LABELS, rows_to_see(self.margin, level))
        if answers.missing or labelled < least:
            return self._too_few(case.name, against, answers, labelled, least)
        assisted = Assisted.of(
            answers.people, answers.judge * bool(self.assisted_by), answers.groups
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
                gained=int((answers.people > 0).sum()), lost=int((answers.people < 0).sum()), rows_needed=needed,
            )  # fmt: skip

        return Test(
            p,
            None if self.better else p_worse,
            decide,
            (
                self.kind,
                self.suite,
                self.metric,
                self.limit,
                self.confidence,
                self.assisted_by,
                against.which,
            ),
        )

    def _too_few(
        self, name: str, against: Compared, answers: Comparisons, labelled: int, least: int
    ) -> Finding:
        more = f"`lockstep label {self.suite}` asks for {len(answers.missing)} more"
        todo = more if answers.missing else f"raise suites.{self.suite}.rows"
        return Finding(
            gate=name, kind=self.kind, status="inconclusive", metric=self.metric, against=against.model,
            reason=f"people labelled {labelled} of the {answers.drawn} rows that were drawn, as they are answered now; "
            f"the test needs all of them, at least {least}; {todo}",
            n=labelled, rows_needed=max(answers.drawn, least),
        )  # fmt: skip

    def _settled(
        self,
        shown: str,
        assisted: Assisted,
        bounds: tuple[float, float],
        p: float,
        worse: float | None,
    ) -> tuple[Status, str, int | None]:
        level, (low, high) = 1 - self.confidence, bounds
        helped = f", the judge's weight is {assisted.weight:.2f}" if self.assisted_by else ""
        summary = (
            f"people prefer it to {shown} by {assisted.effect:+.3f} ({assisted.n} labels{helped}; lower "
            f"{percent(self.confidence)} bound {low:+.3f}, p {p:.2g})"
        )
        if p <= level:
            return (
                "pass",
                f"{summary}: {'better' if self.better else f'not worse by {self.margin:g}'}",
                None,
            )
        if self.better and assisted.effect <= self.limit:
            return "fail", f"{summary}: not better", None
        if worse is not None and worse <= level and assisted.effect < self.limit:
            return (
                "fail",
                f"{summary}; upper bound {high:+.3f}: worse, by more than {self.margin:g}",
                None,
            )
        needed = assisted.rows_needed(self.limit, held_back(level, assisted.p_above(self.limit), p))
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
