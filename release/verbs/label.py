"""label: tasks and a page for a person who says which of two answers is better, and what comes of it.

Reads params.yaml, and the rows with the models' answers: those of the test split, or of the suite that is named. Writes
below ``.lockstep/label``, and the labels into the file that params.yaml pins, or ``labels/SUITE.jsonl``.
"""

from pathlib import Path
from typing import NamedTuple

from pydantic import TypeAdapter, ValidationError

from checks.evaluation import comparisons
from checks.formats import labels
from checks.formats.suite_report import Who
from checks.process.errors import EvidenceRefused
from checks.storage import digest, files, layout
from release.review import labelling

PLACE = layout.STATE / "label"


class Written(NamedTuple):
    """The files for one person, and what there is to label."""

    page: Path
    tasks: Path
    asked: labelling.LabelTasks


class Imported(NamedTuple):
    """The file of labels, its digest to pin, what came in, and how far the people agree."""

    path: Path
    sha256: str
    added: int
    replaced: int
    other: int  # labels of answers that these models do not give
    several: int  # rows that several people labelled
    alpha: float | None


def tasks(root: Path, name: str, annotator: str) -> Written:
    """Write the tasks of ``annotator``, and the page.

    Raises EvidenceRefused for a name that is none, and as ``answer_pairs.read``.
    """
    try:
        TypeAdapter(Who).validate_python(annotator)
    except ValidationError as error:
        raise EvidenceRefused(
            f"--annotator {annotator!r}: {files.first(error)}",
            "use letters, digits, spaces and . : @ / + - _",
        ) from error
    pairs = labelling.read(root, name)
    asked = labelling.asked(pairs, annotator)
    place = root / PLACE / f"{name}-{annotator}".replace("/", "_")
    page, data = place.with_name(f"{place.name}.html"), place.with_name(f"{place.name}.json")
    files.write_text(page, labelling.render(name, pairs.suite.question, annotator, asked.tasks))
    files.write_json(data, [{"data": _plain(pairs.suite.question, task)} for task in asked.tasks])
    return Written(page, data, asked)


def take_in(root: Path, name: str, source: Path) -> Imported:
    """Add the labels in ``source``. One that the same person gives again for the same answers replaces the earlier."""
    pairs = labelling.read(root, name)
    new = labels.imported(source)
    labels.refuse_doubles(new, str(source))
    if strange := [label.row for label in new if label.row not in {row.id for row in pairs.rows}]:
        raise EvidenceRefused(
            f"{source}: row {strange[0]!r} was not answered",
            f"label what `lockstep label {name}` wrote",
        )
    before = {label.once: label for label in pairs.labels}
    kept = {**before, **{label.once: label for label in new}}
    files.write_jsonl(root / pairs.path, kept.values())
    several = comparisons.several([label.judgement for label in pairs.about(list(kept.values()))])
    return Imported(
        path=pairs.path, sha256=digest.of_file(root / pairs.path).sha256.removeprefix("sha256:"),
        added=len(kept) - len(before), replaced=len(new) - (len(kept) - len(before)),
        other=len(new) - len(pairs.about(new)), several=len(several), alpha=comparisons.alpha(several),
    )  # fmt: skip


def anchor(root: Path, name: str, target: Path) -> tuple[int, str]:
    """Write the labelled pairs, texts included, as an anchor; their number, and the digest to pin."""
    pairs = labelling.read(root, name)
    lines = labelling.anchor(pairs)
    if not lines:
        raise EvidenceRefused(
            f"{pairs.path}: has no label of these answers", f"run `lockstep label {name}` first"
        )
    files.write_jsonl(target, lines)
    return len(lines), digest.of_file(target).sha256.removeprefix("sha256:")


def _plain(question: str, task: labelling.Task) -> dict[str, str]:
    """Return a task with its messages as one text, as Label Studio shows it."""
    return {
        "question": question, "prompt": "\n\n".join(message.text for message in task.messages),
        **task.model_dump(exclude={"messages"}),
    }  # fmt: skip
