"""People's labels: which of two answers to a row is better. A line of the pinned file of a suite of kind ``pairwise``::

    {"row": "002d7ae27cff7c01", "left_sha": "sha256:…", "right_sha": "sha256:…", "label": "left", "annotator": "ada"}

A label is bound to the two answers by digest, not to the models: it holds while both models give these answers.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from checks.formats.suite_report import Judgement, SampleId, Who
from checks.process.errors import EvidenceRefused
from checks.records.record import Consistent, Digest, Record, problems
from checks.storage import files

# The value of a judgement for the answer on the left.
VALUES = {"left": 1.0, "tie": 0.5, "right": 0.0}
Verdict = Literal["left", "right", "tie"]


class Label(Record, Consistent):
    """One person's word on two answers to one row."""

    row: SampleId
    left_sha: Digest
    right_sha: Digest
    label: Verdict
    annotator: Who

    def contradictions(self) -> Iterator[str]:
        """Yield each contradiction."""
        return problems((self.left_sha == self.right_sha, "left_sha and right_sha are one answer"))

    @property
    def once(self) -> tuple[str, frozenset[str], str]:
        """Return what nobody labels twice."""
        return self.row, frozenset((self.left_sha, self.right_sha)), self.annotator

    @property
    def judgement(self) -> Judgement:
        """Return the same as a judgement."""
        return Judgement(
            sample=self.row, answer_sha=self.left_sha, other_sha=self.right_sha, by="human", value=VALUES[self.label],
            judge=self.annotator, prompt_sha=None,
        )  # fmt: skip


class Anchor(Record):
    """A line of an anchor: two answers with people's label, for the judge to answer at each release."""

    id: SampleId
    prompt: Annotated[str, Field(min_length=1)]
    reference: str = ""
    left: str
    right: str
    label: Verdict


def read(path: Path, place: str) -> list[Label]:
    """The labels in a pinned file. Raises EvidenceRefused, which begins with ``place``, for a line that is none."""
    labels = files.read_pinned(path, Label, place, "pin labels that `lockstep label` wrote")
    refuse_doubles(labels, place)
    return labels


def imported(path: Path) -> list[Label]:
    """Return the labels of a file that the page saved (JSON lines), or of an export of Label Studio (JSON).

    Raises EvidenceRefused for anything else.
    """
    try:
        text = path.read_text(encoding="utf-8").strip()
        if text.startswith("["):
            return [label for task in json.loads(text) for label in _of_label_studio(task)]
        return [Label.model_validate_json(line) for line in text.splitlines()]
    except ValidationError as error:
        why = files.first(error)
    except OSError as error:
        why = error.strerror or str(error)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    raise EvidenceRefused(
        f"{path}: no labels: {why}", "give what the page saved, or Label Studio's JSON export"
    )


def _of_label_studio(task: Any) -> Iterator[Label]:
    """The labels of one task: a choice of left, right or tie, or of one side of a pair, by whoever completed it."""
    for annotation in task["annotations"]:
        results = annotation["result"]
        if annotation.get("was_cancelled") or not results:
            continue
        value, who = results[0]["value"], annotation["completed_by"]
        yield Label(
            row=task["data"]["row"], left_sha=task["data"]["left_sha"], right_sha=task["data"]["right_sha"],
            label=value["choices"][0] if "choices" in value else value["selected"],
            annotator=str(who["email"] if isinstance(who, dict) else who),
        )  # fmt: skip


def refuse_doubles(labels: Sequence[Label], place: str) -> None:
    """Raise EvidenceRefused where one person labels the same two answers twice."""
    seen = set[tuple[str, frozenset[str], str]]()
    for number, label in enumerate(labels, 1):
        if label.once in seen:
            raise EvidenceRefused(
                f"{place}: {number}: {label.annotator} labels these answers to row {label.row!r} twice",
                "keep one of the two labels",
            )
        seen.add(label.once)
