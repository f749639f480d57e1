"""The evidence about one model: the stages' reports, the rows, and the models' answers. Gates decide on it alone."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from checks.formats.data_reports import DataReport, FetchReport, PrepareReport
from checks.formats.evaluation_reports import EvaluationReport, NoiseReport, ReferencesReport
from checks.formats.looks import LooksReport
from checks.formats.report import Report
from checks.formats.suite_report import Judgement, SuiteAnswer, SuiteLine, SuitesReport
from checks.formats.training_reports import ParityReport, TrainReport
from checks.records.rows import Learned, Prediction, Row

R = TypeVar("R", bound=Report)


class NoEvidence(Exception):  # noqa: N818 - what a gate says, not a malfunction
    """A gate lacks evidence, and the message says why. The gate then fails with this message as its reason."""


@dataclass(frozen=True)
class Reports:
    """The stages' reports. A report is None if its file is missing or cannot be read."""

    fetch: FetchReport | None
    prepare: PrepareReport | None
    data: DataReport | None
    train: TrainReport | None
    parity: ParityReport | None
    evaluation: EvaluationReport | None
    references: ReferencesReport | None
    noise: NoiseReport | None
    looks: LooksReport | None = None
    suites: SuitesReport | None = None


@dataclass(frozen=True)
class Evidence:
    """All evidence about one model.

    * ``train``: the rows that the model learned from. If training started from an earlier model (``train.start``), the
      rows of that model are among them.
    * ``test``: the rows of the test split. ``answers``: the answers of each model to them, in the same order.
    * ``suites``: the scores of each suite. ``given``: the models' answers to it. ``judgements``: the judges' values.
    * ``judged``: the digest of each file that the evidence is about, by its path.
    * ``gaps``: the reason why a file is missing or cannot be read, by its path.
    * ``breaks``: one line for each two parts that must have the same digest and do not.
    """

    reports: Reports
    train: tuple[Learned, ...]
    test: tuple[Row, ...]
    answers: dict[str, tuple[Prediction, ...]]
    gaps: dict[str, str]
    breaks: tuple[str, ...]
    judged: dict[str, str]
    suites: dict[str, tuple[SuiteLine, ...]] = field(default_factory=dict)
    judgements: dict[str, tuple[Judgement, ...]] = field(default_factory=dict)
    given: dict[str, tuple[SuiteAnswer, ...]] = field(default_factory=dict)

    def hold(self, *paths: Path) -> None:
        """Raise NoEvidence, with the reason, if one of ``paths`` could not be read."""
        names = [path.as_posix() for path in paths]
        if missing := next((self.gaps[name] for name in names if name in self.gaps), None):
            raise NoEvidence(f"no evidence: {missing}")

    def need(self, report: R | None, path: Path) -> R:
        """Return the report of ``path``. Raises NoEvidence, with the reason, if it could not be read."""
        if report is None:
            raise NoEvidence(f"no evidence: {self.gaps[path.as_posix()]}")
        return report
