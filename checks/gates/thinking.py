"""thinking: thoughts end, and they are not much longer than those of a reference."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from checks.formats.evidence import NoEvidence
from checks.formats.verdict import Finding, Status, Verdict
from checks.gating import compared
from checks.gating.compared import Compared, PairedGate
from checks.gating.share import ruled_out
from checks.kinds.gate import (
    Case,
    CheckResult,
    Confidence,
    Explained,
    GateParams,
    Test,
    corrected,
    explain_rows,
    explain_test,
    figure,
    held_back,
    percent,
    small,
)
from checks.records.rows import Prediction
from checks.records.sections import problems, stricter
from checks.stats.intervals import Mean
from checks.stats.paired_mean import LEAST_GROUPS, MeanDifference
from checks.storage import layout


class ThinkingGate(PairedGate):
    """At most a share of the thoughts has no end; or thoughts have at most a multiple of a reference's tokens.

    A model that thinks twice as long costs nearly twice as much for the same answers.
    """

    rank: ClassVar[int] = 47

    kind: Literal["thinking"]
    at_most: Annotated[
        float,
        Field(gt=0, description="the share, or the multiple, that must be ruled out"),
        stricter("lower"),
    ]
    # The base class demands a model to compare with. This gate may have none: it then bounds a share of the answers.
    against: Annotated[
        Literal["base", "main", "production", "best"] | None,
        Field(
            description="null: at_most is a share of thoughts without an end; base, main, production or best: at_most "
            "is a multiple of the tokens of its thoughts"
        ),
    ] = None  # type: ignore[assignment]
    confidence: Confidence
    suite: None = None

    if not TYPE_CHECKING:  # Each other kind has a parameter of this name.

        @property
        def metric(self) -> str:
            """Return what the gate asks of thoughts."""
            return "unclosed-thoughts" if self.against is None else "thought-tokens"

    def contradictions(self) -> Iterator[str]:
        """Yield each contradiction, as "problem|remedy"."""
        shares = self.against is None
        return problems(
            (
                shares and self.at_most >= 1,
                f"at_most {self.at_most:g}: is no share of thoughts|use one below 1, or write against",
            ),
            (
                not shares and self.at_most < 1,
                f"at_most {self.at_most:g}: is no multiple that thoughts of the same length meet|use 1 or more",
            ),
        )

    def impossible(self, name: str, params: GateParams) -> str | None:
        """Return that no model thinks, if so."""
        if params.thinks:
            return None
        return (
            f"gates.{name}.kind: the model does not think|write base.thinking, or remove the gate"
        )

    def check(self, case: Case) -> CheckResult:
        """Pass when the bound is shown to hold; fail when the share is above it, or a longer thought is shown."""
        if self.against is None:
            return self._closed(case)
        against = compared.reference(case.name, self, case.evidence)
        return against if isinstance(against, Finding) else self._no_longer(case, against)

    def _closed(self, case: Case) -> Test:
        answers = _answers(case, "candidate")
        unclosed = [
            sum(not thought.closed for thought in answer.thoughts) / len(answer.thoughts)
            for answer in answers
        ]
        mean = Mean.of(unclosed, [answer.group for answer in answers])
        count = sum(share > 0 for share in unclosed)
        summary = f"{count} of {len(answers)} rows have a thought without an end"

        def reason(bound: str) -> str:
            return f"{summary}; {bound}, at most {self.at_most:.2%} may"

        return ruled_out(
            case,
            self,
            self.metric,
            mean,
            self.at_most,
            reason,
            (self.kind, self.metric, self.at_most, self.confidence),
        )

    def _no_longer(self, case: Case, against: Compared) -> CheckResult:
        pairs = [
            (ours, theirs)
            for ours, theirs in zip(
                _answers(case, "candidate"), _answers(case, against.model), strict=True
            )
            if not theirs.learned
        ]
        ours, theirs = _tokens([pair[0] for pair in pairs]), _tokens([pair[1] for pair in pairs])
        groups = np.unique([pair[0].group for pair in pairs], return_inverse=True)[1]
        level, method = 1 - self.confidence, "t test, skewness removed"
        excess = MeanDifference.of(ours - self.at_most * theirs, groups)
        mean, reference = (MeanDifference.of(tokens, groups).mean for tokens in (ours, theirs))
        means = f"{reference:.4g} to {mean:.4g} tokens a thought, against {against.shown}"
        undecided = (
            f"{excess.groups} groups of rows are too few for the test: it needs {LEAST_GROUPS}"
            if excess.groups < LEAST_GROUPS
            else f"{against.shown} has no thought to compare with: see that base.thinking.marks are the template's"
            if not reference
            else ""
        )
        if undecided:
            return Finding(
                gate=case.name, kind=self.kind, status="inconclusive", metric=self.metric, against=against.model,
                reason=undecided,
            )  # fmt: skip
        p, beyond = excess.p_at_least(0), excess.p_at_most(0)

        def decide(p_holm: float, beyond_holm: float | None) -> Finding:
            assert beyond_holm is not None  # The kind gives a p_worse.
            status: Status = (
                "pass" if p_holm <= level else "fail" if beyond_holm <= level else "inconclusive"
            )
            needed = (
                excess.groups_needed(0, held_back(level, p, p_holm))
                if status == "inconclusive"
                else None
            )
            more = (
                f"; about {needed} groups like these would decide if the true mean is as observed"
                if needed
                else ""
            )
            shown = {
                "pass": f"{self.at_most:g} times as many or more are ruled out",
                "fail": f"more than {self.at_most:g} times as many",
                "inconclusive": f"{self.at_most:g} times as many are not ruled out{more}",
            }[status]
            return Finding(
                gate=case.name, kind=self.kind, status=status, metric=self.metric, against=against.model,
                reason=f"{means} (p {p_holm:.2g}): {shown}", method=f"{method}, {excess.groups} groups",
                value=figure(mean / reference), bound=self.at_most, n=excess.n,
                low=figure(self.at_most + excess.lower(corrected(level, beyond, beyond_holm)) / reference),
                high=figure(self.at_most + excess.upper(corrected(level, p, p_holm)) / reference),
                p=small(p), p_holm=small(p_holm), groups_needed=needed,
                detectable=figure(excess.detectable(level) / reference),
                rows_needed=needed and -(-needed * excess.n // excess.groups),
            )  # fmt: skip

        return Test(
            p,
            beyond,
            decide,
            (self.kind, self.metric, self.at_most, self.confidence, against.which),
        )

    def explain(self, place: str, finding: Finding, verdict: Verdict) -> Explained:
        """The bound that is asked, and about where it would be met."""
        bound, reference = self.at_most, self.against
        if reference is None:
            asks = f"have at most {bound:.2%} of the thoughts about the test rows no end"
            refuted = f"the true share is {bound:.2%} or more"
        else:
            asks = f"on the same test rows, has it less than {bound:g} times the thought tokens of {reference}"
            refuted = f"the true multiple is {bound:g} or more"
        return Explained(
            f"{asks}, shown with {percent(self.confidence)} confidence?",
            explain_test(finding, verdict, self.confidence, refuted),
            "evidence, which is missing, or a model to compare with" if finding.high is None
            else f"{explain_rows(finding)}these rows clear {place}.at_most above about {finding.high:.4g}",
            f"{layout.PREDICTIONS}/candidate.jsonl: thoughts",
        )  # fmt: skip


def _answers(case: Case, model: str) -> tuple[Prediction, ...]:
    """Return the predictions of ``model``, each with thoughts. Raises NoEvidence if one has none."""
    path = layout.PREDICTIONS / f"{model}.jsonl"
    case.evidence.hold(layout.EVALUATION, layout.SPLITS / "test.jsonl", path)
    answers = tuple(case.evidence.answers.get(model, ()))
    for number, answer in enumerate(answers, 1):
        if len(answer.thoughts) != len(answer.draws):
            raise NoEvidence(f"no evidence: {path}:{number} does not say what was thought")
        if any(
            text and not thought.closed
            for text, thought in zip(answer.draws, answer.thoughts, strict=True)
        ):
            raise NoEvidence(f"{path}:{number}: has an answer after a thought without an end")
    if not answers:
        raise NoEvidence(f"no evidence: evaluate did not ask {model}")
    return answers


def _tokens(answers: list[Prediction]) -> NDArray[np.float64]:
    """Return the mean number of tokens of each row's thoughts."""
    return np.array(
        [np.mean([thought.tokens for thought in answer.thoughts]) for answer in answers]
    )
