"""The evidence about one model: the reports of the stages, and the rows and answers that they are about."""

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
    """Evidence that a gate needs is not available; the message says why. The gate fails with it."""


@dataclass(frozen=True)
class Reports:
    """The reports of the stages; None for one that is missing or unreadable."""

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
    """All evidence. ``gaps``: by path, why a file is missing or unreadable.

    ``breaks``: every place where two parts have different digests. ``judged``: each path with the digest that the
    evidence is about. ``train``: all rows that the model learned from, those before ``train.start`` too. ``answers``:
    each model's predictions, in test order.
    ``suites``, ``given`` and ``judgements``: the lines of each suite, what models answered to it, and what judges said.
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
