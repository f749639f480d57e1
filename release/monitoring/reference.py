"""Reads the reference of a window: the pinned rows of a release, and its own answers before it was served."""

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from checks.config.params import Params
from checks.data.detectors import redact
from checks.evaluation import scoring
from checks.formats.data_reports import PrepareReport
from checks.formats.evaluation_reports import EvaluationReport
from checks.formats.pointer import Pointer
from checks.formats.thinking import answer_in
from checks.process.errors import EvidenceRefused
from checks.records.record import Digest
from checks.records.rows import Prediction, Row, of_tested_sources
from checks.stats.drift import Text
from checks.storage import layout
from release.monitoring.answers import Reference, ScoredAnswer
from release.record import outputs
from release.record.records import Commit, Records

M = TypeVar("M", bound=BaseModel)
_TODO = (
    "use the version of Lockstep that wrote it, or promote a release of this one",
    "fetch the commit that made the release",
)


def read(records: Records, release: Pointer, params: Params) -> Reference:
    """The reference of ``release``, by the record that made it. Raises EvidenceRefused if a part cannot be had."""
    commit = records.at(release.commit)
    prepared = commit.needed(layout.PREPARE_REPORT, PrepareReport, *_TODO)
    evaluated = commit.needed(layout.EVALUATION, EvaluationReport, *_TODO)
    if evaluated.merged != release.model:
        raise EvidenceRefused(
            f"{layout.EVALUATION} at {release.commit[:12]}: is about {evaluated.merged[:19]}…, and the environment "
            f"runs {release.model[:19]}…",
            "restore the pointer from git's history, or promote again",
        )
    digests = {
        (layout.SPLITS / f"{name}.jsonl").as_posix(): split.sha256
        for name, split in prepared.splits.items()
    }
    answers_at = layout.PREDICTIONS / "candidate.jsonl"
    rows = {
        name: _lines(records, commit, layout.SPLITS / f"{name}.jsonl", Row, digests)
        for name in layout.SPLIT_NAMES
    }
    rows["train"] = of_tested_sources(rows["train"], rows["test"])
    digests[answers_at.as_posix()] = evaluated.models["candidate"].predictions
    answers = _lines(records, commit, answers_at, Prediction, digests)
    pinned = {
        row.id: Text(row.id, _prompt(row), row.group) for split in rows.values() for row in split
    }
    labels = params.monitor.labels
    if labels is None and params.validate_.labels is not None:
        labels = tuple(
            {answer_in(row.reference, evaluated.thinking).strip() for row in rows["train"]}
        )
    scorers = params.evaluate.scorers
    is_same = scoring.digest_of(scorers) == evaluated.scorers
    return Reference(
        prompts=list(pinned.values()),
        answers=[
            ScoredAnswer(
                answer.id,
                pinned[answer.id].text if answer.id in pinned else answer.prompt,
                redact(answer.prediction)[0],
                answer.group,
                answer.score,
            )
            for answer in answers
        ],
        labels=None if labels is None else frozenset(labels),
        digests=digests,
        scorer=scorers[0] if is_same else None,
    )


def _lines(
    records: Records, commit: Commit, path: Path, model: type[M], digests: dict[str, Digest]
) -> list[M]:
    lines = outputs.lines(records.root, commit.name, path, model, digests[path.as_posix()])
    if isinstance(lines, str):
        what, _, todo = lines.partition("; ")
        raise EvidenceRefused(
            what, todo or "push it again where it was made: `./lockstep dvc push`"
        )
    return lines


def _prompt(row: Row) -> str:
    """All that the model is told, as a gateway captures it: redacted, or its marks alone would tell both apart.

    A result of a tool is captured as such, and not as text.
    """
    return redact(
        "\n".join("" if message.role == "tool" else message.content for message in row.messages)
    )[0]
