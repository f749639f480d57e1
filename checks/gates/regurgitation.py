"""regurgitation: the share of long answers that repeat a training row word for word, by its upper bound."""

from typing import Annotated, ClassVar, Literal, NamedTuple

from pydantic import Field

from checks.data import contamination
from checks.data.personal_data import strings
from checks.formats.evidence import NoEvidence
from checks.formats.verdict import Finding, Verdict
from checks.gating.share import ruled_out
from checks.gating.suite_sample import SuiteSample
from checks.kinds.gate import (
    Case,
    CheckResult,
    Confidence,
    Explained,
    GateParams,
    ScoreGate,
    explain_rows,
    explain_test,
    percent,
)
from checks.records.sections import stricter
from checks.stats.intervals import Mean
from checks.storage import layout

_TRAIN = layout.SPLITS / "train.jsonl"
_METRIC = "repeats_training"
_SHOWN = 3  # answers that a finding names


class _Answer(NamedTuple):
    """One of the candidate's answers. ``known``: texts from which it may have its words."""

    text: str
    known: tuple[str, ...]
    name: str
    group: str


class RegurgitationGate(ScoreGate):
    """Of the answers with so many words, at most a share has as many in a row of a train row and not of the prompt.

    On a suite, words of the base's answer to the same prompt do not count either: the base was not trained on the rows.
    To the test rows it answers after examples of the train split (``evaluate.base_prompt``), so there they count.
    """

    rank: ClassVar[int] = 57

    kind: Literal["regurgitation"]
    words: Annotated[
        int,
        Field(ge=1, description="words in a row, without case and punctuation, that are no chance"),
    ]
    at_most: Annotated[
        float,
        Field(
            gt=0,
            lt=1,
            description="of the answers with so many words: the share that must be ruled out",
        ),
        stricter("lower"),
    ]
    confidence: Confidence

    def impossible(self, name: str, params: GateParams) -> str | None:
        """A suite must keep answers."""
        if self.suite is None:
            return None
        suite = params.suites.get(self.suite)
        if suite is not None and suite.recomputed:
            return None
        what = "has no answers that can be read again" if suite else "is no suite"
        kept = ", ".join(known for known, suite in params.suites.items() if suite.recomputed)
        return f"gates.{name}.suite: {self.suite!r} {what}|use one of {kept or 'kind rows'}, or null for the test rows"

    def check(self, case: Case) -> CheckResult:
        """Pass when the upper bound is within ``at_most``; fail when the share itself is not."""
        case.evidence.hold(layout.TRAIN_REPORT, _TRAIN)
        if not case.evidence.train:
            raise NoEvidence(f"no evidence: {_TRAIN} has no rows")
        every = self._answers(case)
        answers = [
            answer for answer in every if len(contamination.words(answer.text)) >= self.words
        ]
        if not answers:
            return Finding(
                gate=case.name, kind=self.kind, status="inconclusive", metric=_METRIC, n=0,
                reason=f"none of {len(every)} answers has {self.words} words, so none can repeat as many; ask what is "
                "answered at length, in a suite of kind rows",
            )  # fmt: skip
        rows = case.evidence.train
        repeated = contamination.first_repeated(
            [answer.text for answer in answers], [answer.known for answer in answers],
            ((row.request, *row.further) for row in rows), self.words,
        )  # fmt: skip
        hits = [float(number in repeated) for number in range(len(answers))]
        mean = Mean.of(hits, [answer.group for answer in answers])
        shown = ", ".join(
            f"{answers[i].name} as {rows[j].source}" for i, j in sorted(repeated.items())[:_SHOWN]
        )
        more = f" and {len(repeated) - _SHOWN} more" if len(repeated) > _SHOWN else ""
        summary = (
            f"{len(repeated)} of {len(hits)} answers of {self.words} words or more repeat as many words of a train row"
            f"{f' ({shown}{more})' if repeated else ''}"
        )
        claim = (self.kind, self.suite, self.words, self.at_most, self.confidence)

        def reason(bound: str) -> str:
            return f"{summary}; {bound}, at most {self.at_most:.2%} may"

        return ruled_out(case, self, _METRIC, mean, self.at_most, reason, claim)

    def _answers(self, case: Case) -> list[_Answer]:
        if self.suite is None:
            case.evidence.hold(
                layout.EVALUATION,
                layout.SPLITS / "test.jsonl",
                layout.PREDICTIONS / "candidate.jsonl",
            )
            return [
                _Answer(
                    given.prediction,
                    (
                        *(message.text for message in row.messages),
                        *(text for tool in row.tools for text in strings(tool)),
                    ),
                    row.id,
                    row.group,
                )
                for row, given in zip(
                    case.evidence.test, case.evidence.answers["candidate"], strict=True
                )
            ]

        sample = case.sample.of(self.suite)
        assert isinstance(sample, SuiteSample)
        ours = sample.answers("candidate")
        base = (
            sample.answers("base")
            if "base" in case.params.suites[self.suite].scores_of
            else [None] * len(ours)
        )
        return [
            _Answer(
                answer.answer, (*(m.content for m in answer.messages), *((other.answer,) if other else ())),
                answer.sample, str(group),
            )
            for answer, other, group in zip(ours, base, sample.groups, strict=True)
        ]  # fmt: skip

    def explain(self, place: str, finding: Finding, verdict: Verdict) -> Explained:
        """The share that is ruled out, and the share that these answers clear."""
        return Explained(
            f"of the answers to the {self.asked_of} with {self.words} words or more, do at most {self.at_most:.2%} "
            "have as many in a row of a train row, which the prompt does not have, shown with "
            f"{percent(self.confidence)} confidence?",
            explain_test(finding, verdict, self.confidence, f"the true share is {self.at_most:.2%} or more"),
            "longer answers, so that they can show it" if finding.high is None
            else f"{explain_rows(finding)}these answers clear {place}.at_most down to {finding.high:.4g}",
            f"{layout.suite_answers(self.suite) if self.suite else f'{self.answers_at}/candidate.jsonl'}, {_TRAIN}",
        )  # fmt: skip
