"""label: tasks and a page for a person who says which of two answers is better, and what comes of it.

Reads params.yaml, and the rows with the models' answers: those of the test split, or of the suite that is named.
Writes below ``.lockstep/label``, the labels into the file that params.yaml pins, or ``labels/SUITE.jsonl``, and its
digest into params.yaml.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from pydantic import JsonValue, TypeAdapter, ValidationError

from checks.config import params_edit, params_file
from checks.evaluation import comparisons
from checks.formats import judgements, labels
from checks.formats.suite_report import Who
from checks.process.errors import EvidenceRefused, ParamsRefused
from checks.storage import digest, files, layout
from release.review import label_plan
from release.review.label_tasks import (
    AnswerPairs,
    LabelTasks,
    draw_tasks,
    read_pairs,
    render,
    studio_task,
)

PLACE = layout.STATE / "label"


class Imported(NamedTuple):
    """The file of labels, its digest, what came in, and how far the people agree.

    ``pinned``: the digest was written into params.yaml.
    """

    path: Path
    sha256: str
    added: int
    replaced: int
    other: int  # labels of answers that these models do not give
    several: int  # rows that several people labelled
    alpha: float | None
    pinned: bool


def tasks(
    root: Path, name: str, annotator: str
) -> tuple[Path, Path, LabelTasks, label_plan.LabelPlan]:
    """Write the page of ``annotator``, and the tasks as a file; return both paths, and what there is to label.

    The plan says how many labels the gates need.

    Raises EvidenceRefused for a name that is none, and as ``read_pairs``.
    """
    try:
        TypeAdapter(Who).validate_python(annotator)
    except ValidationError as error:
        raise EvidenceRefused(
            f"--annotator {annotator!r}: {files.first(error)}",
            "use letters, digits, spaces and . : @ / + - _",
        ) from error
    pairs = read_pairs(root, name)
    asked = draw_tasks(pairs, annotator)
    place = root / PLACE / f"{name}-{annotator}".replace("/", "_")
    page, data = place.with_name(f"{place.name}.html"), place.with_name(f"{place.name}.json")
    files.write_text(page, render(name, pairs.suite.question, annotator, asked.tasks))
    files.write_json(
        data, [{"data": studio_task(pairs.suite.question, task)} for task in asked.tasks]
    )
    return page, data, asked, label_plan.plan(pairs, name, params_file.load(root / layout.PARAMS))


def take_in(root: Path, name: str, source: Path) -> Imported:
    """Add the labels in ``source``. One that the same person gives again for the same answers replaces the earlier."""
    pairs = read_pairs(root, name)
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
    sha256 = digest.of_file(root / pairs.path).sha256.removeprefix("sha256:")
    return Imported(
        path=pairs.path, sha256=sha256, pinned=_pin(root, name, pairs, sha256),
        added=len(kept) - len(before), replaced=len(new) - (len(kept) - len(before)),
        other=len(new) - len(pairs.about(new)), several=len(several), alpha=comparisons.alpha(several),
    )  # fmt: skip


def _pin(root: Path, name: str, pairs: AnswerPairs, sha256: str) -> bool:
    """Write the digest of the labels into params.yaml; return False if a person must write it."""
    path = root / layout.PARAMS
    before = pairs.suite.labels
    pin: dict[str, JsonValue] = {
        "uri": str(pairs.path), "sha256": sha256, "license": before.license if before else None,
    }  # fmt: skip
    text = path.read_text(encoding="utf-8")
    try:
        changed = params_edit.with_values(text, {f"suites.{name}.labels": pin})
        params_file.parse(changed)
    except ParamsRefused:
        return False
    files.write_text(path, changed)
    return True


def anchor(root: Path, name: str, target: Path) -> tuple[int, str]:
    """Write the labelled pairs, texts included, as an anchor; their number, and the digest to pin."""
    pairs = read_pairs(root, name)
    lines = labelled_pairs(pairs)
    if not lines:
        raise EvidenceRefused(
            f"{pairs.path}: has no label of these answers", f"run `lockstep label {name}` first"
        )
    files.write_jsonl(target, lines)
    return len(lines), digest.of_file(target).sha256.removeprefix("sha256:")


def labelled_pairs(pairs: AnswerPairs) -> list[labels.Anchor]:
    """Return the labelled pairs with their texts, for a judge to answer from now on. The most frequent label counts."""
    votes: dict[str, Counter[labels.Verdict]] = defaultdict(Counter)
    turned: Mapping[labels.Verdict, labels.Verdict] = {
        "left": "right",
        "right": "left",
        "tie": "tie",
    }
    for label in pairs.about(pairs.labels):
        is_left = label.left_sha == judgements.answer_sha(pairs.ours[label.row])
        votes[label.row][label.label if is_left else turned[label.label]] += 1
    return [
        labels.Anchor(
            id=row.id, prompt=row.transcript, reference=row.reference, left=pairs.ours[row.id],
            right=pairs.theirs[row.id], label=votes[row.id].most_common(1)[0][0],
        )
        for row in pairs.rows if row.id in votes
    ]  # fmt: skip
