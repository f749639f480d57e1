"""Reads the rows that people label with the answers of both models, draws the tasks of a person, and renders the page.

A task does not say which model gave which answer. A hash decides which answer is on the left. The page is one file that
loads nothing from elsewhere. It can be sent, and works offline and on a phone.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup

from checks.config import params_file
from checks.evaluation import answered, comparisons
from checks.formats import judgements, labels
from checks.formats.evaluation_reports import EvaluationReport
from checks.formats.labels import Label
from checks.formats.suite_report import Role, SuiteAnswer, SuiteLine, SuitesReport
from checks.kinds.suite import SuiteKind
from checks.process.errors import EvidenceRefused, ParamsRefused
from checks.records.record import Digest
from checks.records.rows import Message, Record, Row
from checks.storage import digest, files, layout
from checks.suites.pairwise import Pairwise
from release.pages import html


class AnswerPairs(NamedTuple):
    """The rows of a suite with the answers of both models by the rows' ids, and the ``labels`` in the file ``path``."""

    suite: Pairwise
    rows: Sequence[Row]
    ours: Mapping[str, str]
    theirs: Mapping[str, str]
    labels: list[Label]
    path: Path

    def about(self, given: Sequence[Label]) -> list[Label]:
        """Return those of ``given`` that are about answers that the models give."""
        sha = judgements.answer_sha
        pairs = {row.id: {sha(self.ours[row.id]), sha(self.theirs[row.id])} for row in self.rows}
        return [
            label for label in given if {label.left_sha, label.right_sha} == pairs.get(label.row)
        ]


def read_pairs(root: Path, name: str) -> AnswerPairs:
    """Return what there is to label.

    Raises ParamsRefused for no such suite, EvidenceRefused for answers that are gone.
    """
    suites = params_file.load(root / layout.PARAMS).suites
    suite = suites.get(name)
    if not isinstance(suite, Pairwise):
        known = [name for name, kind in suites.items() if isinstance(kind, Pairwise)]
        raise ParamsRefused(
            f"{layout.PARAMS}: {name!r} is no suite of kind pairwise",
            f"name one of {', '.join(known)}" if known else "add one: docs/how-to/judge.md",
        )
    about, role = _answers(root, name, suite, suites)
    path = Path(suite.labels.uri if suite.labels else f"labels/{name}.jsonl")
    if "://" in str(suite.labels.uri if suite.labels else "") or path.is_absolute():
        raise ParamsRefused(
            f"{layout.PARAMS}: suites.{name}.labels.uri: is no path in this repository",
            f"pin labels/{name}.jsonl, with the labels that are there",
        )
    known_labels = labels.read(root / path, str(path)) if (root / path).exists() else []
    return AnswerPairs(
        suite, about.rows, about.answers["candidate"], about.answers[role], known_labels, path
    )


def _answers(
    root: Path, name: str, suite: Pairwise, suites: Mapping[str, SuiteKind]
) -> tuple[answered.AnsweredRows, Role]:
    """Return the answers of the candidate, and of the model that it is compared with."""
    other = answered.rated_suite(suite)
    source = layout.EVALUATION if other is None else layout.SUITES_REPORT
    report = files.read_json(root / layout.EVALUATION, EvaluationReport)
    about = None if other is None else _answers_of(root, other, suites[other])
    if (role := suite.other(about.answers if about else report.models)) is None:
        raise EvidenceRefused(
            f"{source}: there are no answers of {suite.against} to compare with",
            f"set suites.{name}.against to base, or label once there is a {suite.against}",
        )
    return about or answered.test_answers(root, report, ("candidate", role)), role


def _answers_of(root: Path, name: str, suite: SuiteKind) -> answered.AnsweredRows:
    """Return the answers to the suite of that name. Raises EvidenceRefused for answers to another one."""
    todo = "run `./lockstep run suites`"
    result = files.read_json(root / layout.SUITES_REPORT, SuitesReport).suites.get(name)
    if result is None or result.asked != digest.of_json(suite.model_dump(mode="json")):
        raise EvidenceRefused(
            f"{layout.SUITES_REPORT}: is about another section suites.{name}", todo
        )
    lines, given = layout.SUITES / f"{name}.jsonl", layout.suite_answers(name)
    for path, expected in ((lines, result.lines), (given, result.given)):
        if digest.of_file(root / path).sha256 != expected:
            raise EvidenceRefused(f"{path}: is not what {layout.SUITES_REPORT} is about", todo)
    return answered.suite_answers(
        suite,
        files.read_jsonl(root / given, SuiteAnswer),
        files.read_jsonl(root / lines, SuiteLine),
        result.models,
    )


class Task(Record):
    """Two answers to one row. Also what Label Studio takes as the data of a task."""

    row: str
    messages: tuple[Message, ...]
    reference: str
    left: str
    right: str
    left_sha: Digest
    right_sha: Digest


class LabelTasks(NamedTuple):
    """The tasks of one person, and how many rows are drawn, labelled by somebody, and to be labelled by two."""

    tasks: tuple[Task, ...]
    drawn: int
    labelled: int
    doubled: int


def studio_task(question: str, task: Task) -> dict[str, str]:
    """Return a task with its messages as one text, as Label Studio shows it."""
    return {
        "question": question, "prompt": "\n\n".join(message.text for message in task.messages),
        **task.model_dump(exclude={"messages"}),
    }  # fmt: skip


def draw_tasks(pairs: AnswerPairs, annotator: str) -> LabelTasks:
    """Return the tasks of ``annotator``: rows without a label, and a tenth of those that one other person labelled."""
    done: dict[tuple[str, frozenset[str]], set[str]] = defaultdict(set)
    for label in pairs.labels:
        done[label.once[:2]].add(label.annotator)
    texts = {row.id: (pairs.ours[row.id], pairs.theirs[row.id]) for row in pairs.rows}
    drawn = comparisons.drawn(pairs.rows, pairs.suite.draw)
    differ = [row for row in drawn if texts[row.id][0] != texts[row.id][1]]
    twice = comparisons.doubled(differ, pairs.suite.seed)
    tasks = list[Task]()
    labelled = len(drawn) - len(differ)
    for row in differ:
        by = done[row.id, frozenset(map(judgements.answer_sha, texts[row.id]))]
        labelled += bool(by)
        if annotator not in by and len(by) < (2 if row.id in twice else 1):
            tasks.append(_task(pairs.suite.seed, row, *texts[row.id]))
    return LabelTasks(tuple(tasks), len(drawn), labelled, len(twice))


def _task(seed: int, row: Row, one: str, two: str) -> Task:
    shas = {judgements.answer_sha(text): text for text in (one, two)}
    first = comparisons.left(seed, row.id, *shas)
    (second,) = set(shas) - {first}
    return Task(
        row=row.id, messages=row.messages, reference=row.reference, left=shas[first], right=shas[second],
        left_sha=first, right_sha=second,
    )  # fmt: skip


def render(name: str, question: str, annotator: str, tasks: Sequence[Task]) -> str:
    """Return the page."""
    plain = {
        "suite": name, "annotator": annotator, "question": question, "tasks": [task.model_dump() for task in tasks],
    }  # fmt: skip
    plain["key"] = digest.of_json(plain)
    # No text of a row can end the element that holds it.
    data = json.dumps(plain, ensure_ascii=False).replace("<", "\\u003c")
    return html.render(
        "release.review", "label.html.jinja", "label.css", "label.js",
        name=name, question=question, data=Markup(data),  # noqa: S704  # no markup can begin without a <
    )  # fmt: skip
