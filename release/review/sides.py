"""One side of a comparison: what the record of a commit or of the work tree says, and its model's answers.

What a record lacks, or has in a format that this version cannot read, is None. ``notes`` says so in one line each.

Answers are outputs of DVC. They are taken from ``data/predictions`` if a file there has the digest in the record, else
from DVC's cache or a remote, as of the commit. A file with another digest is not used.
"""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from checks.formats.data_reports import DataReport, FetchReport, PrepareReport
from checks.formats.evaluation_reports import EvaluationReport, ModelResult
from checks.formats.suite_report import Role, SuiteLine, SuitesReport
from checks.formats.training_reports import ParityReport, TrainMeasured, TrainReport
from checks.formats.verdict import Status
from checks.process.errors import EvidenceRefused, ParamsRefused
from checks.records.record import Digest
from checks.records.rows import Prediction
from checks.storage import files, layout
from release.record import outputs, pipeline_lock
from release.record.records import Named, Records

M = TypeVar("M", bound=BaseModel)
CANDIDATE = "candidate"
_CONFIDENCE = 0.95


class _Verdict(BaseModel):
    """The fields that are read of reports/verdict.json, of any version of Lockstep."""

    status: Status
    model: Digest | None = None


def _recorded(path: Path, model: type[M]) -> "functools.cached_property[M | None]":
    """Return a property that reads the report at ``path`` once."""

    def read(side: "Side") -> M | None:
        return side.report(path, model)

    return functools.cached_property(read)


class Side:
    """The record that ``named`` means, called ``letter`` (A, or a version) in notes. Each report is read once."""

    evaluation = _recorded(layout.EVALUATION, EvaluationReport)
    fetch = _recorded(layout.FETCH_REPORT, FetchReport)
    prepare = _recorded(layout.PREPARE_REPORT, PrepareReport)
    data = _recorded(layout.DATA_REPORT, DataReport)
    train = _recorded(layout.TRAIN_REPORT, TrainReport)
    parity = _recorded(layout.PARITY_REPORT, ParityReport)
    suites = _recorded(layout.SUITES_REPORT, SuitesReport)

    def __init__(self, records: Records, named: Named, letter: str) -> None:
        self.named, self.letter = named, letter
        self.notes: list[str] = []
        self._of_suites: dict[str, list[SuiteLine] | None] = {}
        self._absent: set[str] = set()  # digests of outputs that cannot be had
        self._records = records
        self._commit = None if named.commit is None else records.at(named.commit)
        self._folders = (
            None if named.commit is None else outputs.Folders(records.root, named.commit)
        )

    @property
    def where(self) -> str:
        """The commit, for messages."""
        return "the work tree" if self.named.commit is None else f"commit {self.named.commit[:12]}"

    @functools.cached_property
    def document(self) -> Mapping[str, Any] | None:
        """The plain values of params.yaml."""
        try:
            if self._commit is None:
                return self._records.work_tree.document
            if self._commit.data(layout.PARAMS) is None:
                return None
            return self._commit.document(f"{layout.PARAMS} at {self._commit.name[:12]}")
        except (ParamsRefused, EvidenceRefused) as refused:
            self._note(refused.what)
            return None

    @functools.cached_property
    def took(self) -> TrainMeasured | None:
        """The measurements of that training."""
        measured = self.report(layout.TRAIN_MEASURED, TrainMeasured)
        return (
            measured if measured and self.train and measured.adapter == self.train.adapter else None
        )

    @functools.cached_property
    def verdict(self) -> Status | None:
        """The recorded verdict, which is not checked here."""
        recorded = self.report(layout.VERDICT, _Verdict)
        return (
            recorded.status
            if recorded and self.evaluation and recorded.model == self.evaluation.merged
            else None
        )

    @property
    def confidence(self) -> float:
        """The confidence of the evaluation's intervals; the usual one without an evaluation."""
        return self.evaluation.confidence if self.evaluation else _CONFIDENCE

    @property
    def candidate(self) -> ModelResult | None:
        """The evaluation of the model itself."""
        return self.evaluation.models.get(CANDIDATE) if self.evaluation else None

    @functools.cached_property
    def outdated(self) -> list[str]:
        """Parameters that are not those which the recorded run had, one line each."""
        try:
            lock = (
                self._records.work_tree.lock
                if self._commit is None
                else self._commit.lock(str(layout.LOCK))
            )
        except EvidenceRefused:
            return []
        return (
            list(dict.fromkeys(pipeline_lock.otherwise(self.document, lock)))
            if self.document is not None
            else []
        )

    @functools.cached_property
    def answers(self) -> list[Prediction] | None:
        """The answers of its model to its test rows."""
        return self.answers_of(CANDIDATE)

    def answers_of(self, model: str) -> list[Prediction] | None:
        """The answers of another model of its evaluation, such as a baseline, to the same rows."""
        result = self.evaluation.models.get(model) if self.evaluation else None
        if result is None:
            return None
        return self._lines(layout.PREDICTIONS / f"{model}.jsonl", Prediction, result.predictions)

    def suite_lines(self, name: str, role: Role = "candidate") -> list[SuiteLine] | None:
        """The scores of its model in a suite, or of another model that was asked beside it."""
        suite = self.suites.suites.get(name) if self.suites else None
        if suite is None or role not in suite.models:
            return None
        if name not in self._of_suites:
            self._of_suites[name] = self._lines(
                layout.SUITES / f"{name}.jsonl", SuiteLine, suite.lines
            )
        lines = self._of_suites[name]
        return (
            None if lines is None else [line for line in lines if line.model == suite.models[role]]
        )

    def report(self, path: Path, model: type[M]) -> M | None:
        """Return a report of the record; None, with a note, if it cannot be read."""
        try:
            if self._commit is not None:
                return self._commit.report(path, model)
            return (
                self._records.work_tree.report(path, model)
                if (self._records.root / path).exists()
                else None
            )
        except ValidationError as error:
            self._note(f"{path} cannot be read by this version: {files.first(error)}")
        except EvidenceRefused as refused:
            self._note(refused.what)
        return None

    def read(self, path: Path) -> bytes | None:
        """Return the bytes of a file of the record; None if it lacks the file."""
        if self._commit is not None:
            return self._commit.data(path)
        file = self._records.root / path
        return file.read_bytes() if file.is_file() else None

    def _lines(self, path: Path, model: type[M], wanted: str) -> list[M] | None:
        """The lines of an output with the digest ``wanted``; what cannot be had is not asked for again."""
        if wanted in self._absent:
            return None
        try:
            lines = outputs.lines(
                self._records.root, self.named.commit, path, model, wanted, self._folders
            )
        except EvidenceRefused as refused:
            lines = refused.what
        if isinstance(lines, str):
            self._absent.add(wanted)
            self._note(lines)
            return None
        return lines

    def _note(self, what: str) -> None:
        line = " ".join(what.removeprefix(f"{self._records.root.as_posix()}/").split())
        self.notes.append(f"{self.letter}: {line}")


def at(value: Any, *keys: str) -> Any:
    """Return the value below these keys; None if there is none."""
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value
