"""label: tasks and a page for a person who says which of two answers is better, and what comes of it.

Reads params.yaml, and the rows with the models' answers: those of the test split, or of the suite that is named. Writes
below ``.lockstep/label``, and the labels into the file that params.yaml pins, or ``labels/SUITE.jsonl``.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import TypeAdapter, ValidationError

from checks.config import params_file
from checks.evaluation import answered, comparisons
from checks.evaluation.answered import AnsweredRows
from checks.formats import judgements, labels
from checks.formats.evaluation_reports import EvaluationReport
from checks.formats.labels import Label
from checks.formats.suite_report import Role, SuiteAnswer, SuiteLine, SuitesReport, Who
from checks.kinds.suite import SuiteKind
from checks.process.errors import EvidenceRefused, ParamsRefused
from checks.records.rows import Row
from checks.storage import digest, files, layout
from checks.suites.pairwise import Pairwise
from release.review import labelling

PLACE = layout.STATE / "label"


class Written(NamedTuple):
    """The files for one person, and what there is to label."""

    page: Path
    tasks: Path
    asked: labelling.Asked


class Imported(NamedTuple):
    """The file of labels, its digest to pin, what came in, and how far the people agree."""

    path: Path
    sha256: str
    added: int
    replaced: int
    other: int  # labels of answers that these models do not give
    several: int  # rows that several people labelled
    alpha: float | None


class _Rows(NamedTuple):
    suite: Pairwise
    rows: Sequence[Row]
    ours: Mapping[str, str]
    theirs: Mapping[str, str]
    labels: list[Label]
    path: Path

    def about(self, found: Sequence[Label]) -> list[Label]:
        """Those of ``found`` that are about answers that the models give."""
        sha = judgements.answer_sha
        pairs = {row.id: {sha(self.ours[row.id]), sha(self.theirs[row.id])} for row in self.rows}
        return [
            label for label in found if {label.left_sha, label.right_sha} == pairs.get(label.row)
        ]


def tasks(root: Path, name: str, annotator: str) -> Written:
    """Write the tasks of ``annotator``, and the page. Raises EvidenceRefused for a name that is none; as ``_read``."""
    try:
        TypeAdapter(Who).validate_python(annotator)
    except ValidationError as error:
        what = f"--annotator {annotator!r}: {files.first(error)}"
        raise EvidenceRefused(what, "use letters, digits, spaces and . : @ / + - _") from error
    reading = _read(root, name)
    asked = labelling.asked(
        reading.suite, reading.rows, reading.ours, reading.theirs, reading.labels, annotator
    )
    place = root / PLACE / f"{name}-{annotator}".replace("/", "_")
    page, data = place.with_name(f"{place.name}.html"), place.with_name(f"{place.name}.json")
    files.write_text(page, labelling.render(name, reading.suite.question, annotator, asked.tasks))
    files.write_json(data, [{"data": _plain(reading.suite.question, task)} for task in asked.tasks])
    return Written(page, data, asked)


def take_in(root: Path, name: str, source: Path) -> Imported:
    """Add the labels in ``source``. One that the same person gives again for the same answers replaces the earlier."""
    task = _read(root, name)
    new = labels.imported(source)
    labels.refuse_doubles(new, str(source))
    if strange := [label.row for label in new if label.row not in {row.id for row in task.rows}]:
        what = f"{source}: row {strange[0]!r} was not answered"
        raise EvidenceRefused(what, f"label what `lockstep label {name}` wrote")
    before = {label.once: label for label in task.labels}
    kept = {**before, **{label.once: label for label in new}}
    files.write_jsonl(root / task.path, kept.values())
    several = comparisons.several([label.judgement for label in task.about(list(kept.values()))])
    return Imported(
        path=task.path, sha256=digest.of_file(root / task.path).sha256.removeprefix("sha256:"),
        added=len(kept) - len(before), replaced=len(new) - (len(kept) - len(before)),
        other=len(new) - len(task.about(new)), several=len(several), alpha=comparisons.alpha(several),
    )  # fmt: skip


def anchor(root: Path, name: str, target: Path) -> tuple[int, str]:
    """Write the labelled pairs, texts included, as an anchor; their number, and the digest to pin."""
    task = _read(root, name)
    lines = labelling.anchor(task.rows, task.ours, task.theirs, task.labels)
    if not lines:
        raise EvidenceRefused(
            f"{task.path}: has no label of these answers", f"run `lockstep label {name}` first"
        )
    files.write_jsonl(target, lines)
    return len(lines), digest.of_file(target).sha256.removeprefix("sha256:")


def _read(root: Path, name: str) -> _Rows:
    """Return what there is to label.

    Raises ParamsRefused for no such suite, EvidenceRefused for answers that are gone.
    """
    suites = params_file.load(root / layout.PARAMS).suites
    suite = suites.get(name)
    if not isinstance(suite, Pairwise):
        known = [name for name, kind in suites.items() if isinstance(kind, Pairwise)]
        fix = f"name one of {', '.join(known)}" if known else "add one: docs/how-to/labels.md"
        raise ParamsRefused(f"{layout.PARAMS}: {name!r} is no suite of kind pairwise", fix)
    about, role = _answers(root, name, suite, suites)
    path = Path(suite.labels.uri if suite.labels else f"labels/{name}.jsonl")
    if "://" in str(suite.labels.uri if suite.labels else "") or path.is_absolute():
        what = f"{layout.PARAMS}: suites.{name}.labels.uri: is no path in this repository"
        raise ParamsRefused(what, f"pin labels/{name}.jsonl, with the labels that are there")
    known_labels = labels.read(root / path, str(path)) if (root / path).exists() else []
    return _Rows(
        suite, about.rows, about.answers["candidate"], about.answers[role], known_labels, path
    )


def _answers(
    root: Path, name: str, suite: Pairwise, suites: Mapping[str, SuiteKind]
) -> tuple[AnsweredRows, Role]:
    """The answers of the candidate, and of the model that it is compared with."""
    other = answered.rated_suite(suite)
    source = layout.EVALUATION if other is None else layout.SUITES_REPORT
    report = files.read_json(root / layout.EVALUATION, EvaluationReport)
    about = None if other is None else _answers_of(root, other, suites[other])
    if (role := suite.other(about.answers if about else report.models)) is None:
        what = f"{source}: there are no answers of {suite.against} to compare with"
        raise EvidenceRefused(
            what, f"set suites.{name}.against to base, or label once there is a {suite.against}"
        )
    return about or answered.test_answers(root, report, ("candidate", role)), role


def _answers_of(root: Path, name: str, suite: SuiteKind) -> AnsweredRows:
    """The answers to the suite of that name. Raises EvidenceRefused for answers to another one."""
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


def _plain(question: str, task: labelling.Task) -> dict[str, str]:
    """A task with its messages as one text, as Label Studio shows it."""
    return {
        "question": question, "prompt": "\n\n".join(message.text for message in task.messages),
        **task.model_dump(exclude={"messages"}),
    }  # fmt: skip
