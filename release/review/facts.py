"""Defines the facts of a comment: the record of the work tree and that of the target branch (see ``gathering``)."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from checks.config.params import Params
from checks.decision.policy import Change
from checks.decision.policy_judgement import PolicyJudgement
from checks.formats import quarantine
from checks.formats.data_reports import DataReport, PrepareReport
from checks.formats.evaluation_reports import EvaluateMeasured, EvaluationReport, ValidScores
from checks.formats.evidence import Evidence
from checks.formats.pointer import Pointer
from checks.formats.quarantine import Entries, Entry
from checks.formats.refused import Refused
from checks.formats.suite_report import SuitesMeasured
from checks.formats.training_reports import TrainMeasured
from checks.formats.verdict import Status, Verdict
from checks.process.errors import Refusal
from release.record.committed import Missing

# The models that the candidate is compared with, in the comment's order.
EARLIER = ("main", "production", "best", "base")
State = Literal["held", "recorded", "not-held", "bad-data", "refused"]


class Target(NamedTuple):
    """The target branch, and what this branch started from: the record of ``base``, where it left the target.

    What that commit lacks, or has in a format that this version cannot read, is None. ``runs`` is of ``commit``, the
    branch's tip.
    """

    ref: str
    commit: str | None
    document: Mapping[str, Any] | None  # params.yaml
    prepare: PrepareReport | None
    training: TrainMeasured | None
    verdict: Verdict | None = None
    # What each environment of this repository runs.
    runs: Mapping[str, Pointer] = MappingProxyType({})
    scores: ValidScores | None = None
    base: str | None = None
    # The verdicts other than pass of what environments run: they run on exceptions.
    emergencies: Mapping[str, Verdict] = MappingProxyType({})
    evaluation: EvaluationReport | None = None


@dataclass(frozen=True)
class Facts:
    """Everything that a comment is about. ``status`` of the record:

    ``held``: every gate was evaluated again. ``recorded``: something for that is missing here. ``not-held``: the
    verdict does not hold. ``bad-data``: validate refused these splits, so there is no verdict. ``refused``: the command
    that should have made the verdict refused, for this commit. ``refusal`` says why there is no verdict. ``missing``:
    paths that are not here. ``changes``: of the policy. ``not_in_commit``: parts of the record that the judged commit
    lacks. ``training``, ``answering`` and ``suites``: measurements of the training and evaluation that ``evidence`` is
    about. ``scores``: of the valid split. ``quarantine``: of the environments. ``behind``: how many commits of the
    target this branch lacks, if they changed parameters, pipeline or model. ``unrun``: parameters that no run had.
    ``folder``: of this project in the repository, with a slash; empty at its top.
    """

    state: State
    target: Target
    commit: str | None
    document: Mapping[str, Any] | None
    params: Params | None = None
    verdict: Verdict | None = None
    judgement: PolicyJudgement | None = None
    changes: tuple[Change, ...] = ()
    evidence: Evidence | None = None
    training: TrainMeasured | None = None
    answering: EvaluateMeasured | None = None
    scores: ValidScores | None = None
    suites: SuitesMeasured | None = None
    data: DataReport | None = None
    prepare: PrepareReport | None = None
    refusal: Refusal | None = None
    refused: Refused | None = None
    missing: tuple[str, ...] = ()
    not_in_commit: Missing | None = None
    quarantine: Entries = ()
    behind: int = 0
    unrun: tuple[str, ...] = ()
    folder: str = ""

    @property
    def same_as_main(self) -> bool:
        """Whether this branch has the model that the target had where the branch left it."""
        before = self.target.verdict
        return (
            self.verdict is not None
            and before is not None
            and before.model == self.verdict.model is not None
        )

    @property
    def status(self) -> Status | None:
        """The verdict, under the target's policy too if that was judged; None if no verdict holds."""
        if self.judgement is not None:
            return self.judgement.status
        return self.verdict.status if self.verdict is not None else None

    @property
    def evaluation(self) -> EvaluationReport | None:
        """The evaluation report, if it is about this candidate."""
        report = (
            self.evidence.reports.evaluation
            if self.evidence and self.state in ("held", "recorded")
            else None
        )
        return report if report and "candidate" in report.models else None

    @property
    def held_back(self) -> Entry | None:
        """The entry of the quarantine that contains the judged weights."""
        model = self.verdict.model if self.verdict is not None else None
        return None if model is None else quarantine.find(self.quarantine, "", model)
