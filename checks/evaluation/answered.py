"""Answers that people and judges are asked about: those to the test rows, or to the samples of another suite.

A kind of suite in which answers are rated is a class below ``RatingSuite``. It gets the rows and the answers as
``Material.rows`` and ``Material.answers``. The stage suites, the gates and `lockstep label` find both here.
"""

import abc
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import Field

from checks.formats.evaluation_reports import RELEASED, EvaluationReport
from checks.formats.suite_report import Role, Scored, SuiteAnswer
from checks.kinds.suite import SuiteKind
from checks.process.errors import EvidenceRefused
from checks.records.rows import Prediction, Row
from checks.records.sections import Name
from checks.storage import digest, files, layout


class AnsweredRows(NamedTuple):
    """Rows, in order, and what each model answered to them, by the row's id."""

    rows: Sequence[Row]
    answers: Mapping[Role, Mapping[str, str]]


class RatingSuite(SuiteKind, abc.ABC):
    """A suite in which people or judges rate answers that models gave before: to the test rows, or to another suite."""

    suite: Annotated[
        Name | None,
        Field(
            description="a suite of kind rows or rag: its answers are judged; null: those to the test rows"
        ),
    ] = None

    def size(self, test_rows: int) -> int:
        """As many as were answered."""
        return test_rows

    def impossible(self, name: str, suites: Mapping[str, SuiteKind]) -> str | None:
        """The other suite must keep answers, and of every model that this one asks about."""
        if self.suite is None:
            return None
        if (other := suites.get(self.suite)) is None or not other.recomputed:
            known = ", ".join(name for name, suite in suites.items() if suite.recomputed)
            return (
                f"suites.{name}.suite: {self.suite!r} is not a suite that keeps what models answer|"
                f"use {f'one of {known}' if known else 'a suite of kind rows or rag'}, or null for the test rows"
            )
        stand_in: set[Role] = {"main"} if set(RELEASED) & set(self.scores_of) else set()
        if missing := sorted({*self.scores_of, *stand_in} - set(other.scores_of)):
            return (
                f"suites.{name}.suite: {missing[0]} does not answer suite {self.suite}|"
                f"add {missing[0]} to suites.{self.suite}.models"
            )
        return None


def rated_suite(suite: SuiteKind) -> str | None:
    """The suite whose answers ``suite`` is about; None: there is none."""
    return suite.suite if isinstance(suite, RatingSuite) else None


def size_of(suites: Mapping[str, SuiteKind], name: str, metric: str, test_rows: int) -> int:
    """How many samples ``metric`` of the suite ``name`` scores, at least."""
    about = rated_suite(suites[name])
    return suites[name].size_of(
        metric, test_rows if about is None else suites[about].size(test_rows)
    )


def texts(predictions: Iterable[Prediction]) -> dict[str, str]:
    """Return what a model answered, by row."""
    return {prediction.id: prediction.prediction for prediction in predictions}


def test_answers(root: Path, report: EvaluationReport, roles: Iterable[Role]) -> AnsweredRows:
    """The answers to the test rows. Raises EvidenceRefused for files that the evaluation's ``report`` is not about."""
    test, todo = layout.SPLITS / "test.jsonl", "run `./lockstep run evaluate`"
    asked: dict[Role, Path] = {role: layout.PREDICTIONS / f"{role}.jsonl" for role in roles}
    wanted = {test: report.test} | {
        path: report.models[role].predictions for role, path in asked.items()
    }
    for path, expected in wanted.items():
        if digest.of_file(root / path).sha256 != expected:
            raise EvidenceRefused(f"{path}: is not what {layout.EVALUATION} is about", todo)
    rows = files.read_jsonl(root / test, Row)
    answers = {
        role: texts(files.read_jsonl(root / path, Prediction)) for role, path in asked.items()
    }
    if wrong := [
        role
        for role, texts_of_role in answers.items()
        if list(texts_of_role) != [row.id for row in rows]
    ]:
        raise EvidenceRefused(f"{asked[wrong[0]]}: is of other rows than {test}", todo)
    return AnsweredRows(rows, answers)


def suite_answers(
    suite: SuiteKind,
    given: Iterable[SuiteAnswer],
    lines: Iterable[Scored],
    models: Mapping[Role, str],
) -> AnsweredRows:
    """The answers ``given`` to another suite, whose samples ``lines`` put into groups and slices.

    ``models`` has the digest of each model; one that answered nothing is left out.
    """
    about = {line.sample: (line.group, line.slice) for line in lines}
    rows = dict[str, Row]()
    texts_of_model = dict[str, dict[str, str]]()
    for answer in (answer for answer in suite.to_judge(given) if answer.sample in about):
        group, part = about[answer.sample]
        texts_of_model.setdefault(answer.model, {})[answer.sample] = answer.answer
        rows[answer.sample] = Row(
            id=answer.sample,
            messages=answer.messages,
            reference=answer.reference,
            group=group,
            slice=part,
            source="",
            tools=answer.tools,
        )
    texts_of_role = {
        role: texts_of_model[model] for role, model in models.items() if model in texts_of_model
    }
    return AnsweredRows(list(rows.values()), texts_of_role)
