"""Draws the tasks of a person who labels, and renders them as a page.

A task does not say which model gave which answer. A hash decides which answer is on the left. The page is one file that
loads nothing from elsewhere. It can be sent, and works offline and on a phone.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from checks.evaluation import comparisons
from checks.formats import judgements
from checks.records.record import Digest
from checks.records.rows import Message, Record, Row
from checks.storage import digest
from release.pages import html
from release.review.answer_pairs import AnswerPairs


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
