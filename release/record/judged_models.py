"""Reads from git the models that test splits judged: evaluations, the rows of the splits, and earlier lists."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ValidationError

from checks.formats.looks import LooksReport, RowSketch
from checks.records.record import Digest
from checks.storage import files, layout
from release.adapters import commits

PATHS = (layout.EVALUATION, layout.VERDICT, layout.LOOKS)
TEST = (layout.SPLITS / "test.jsonl").as_posix()


class Look(NamedTuple):
    """A model that a test split judged."""

    test: str
    model: str


class Split(NamedTuple):
    """A test split and its rows."""

    test: str
    rows: RowSketch


class Known(NamedTuple):
    """Looks, and test splits whose rows are known."""

    looks: frozenset[Look] = frozenset()
    splits: frozenset[Split] = frozenset()

    def __or__(self, other: "Known") -> "Known":
        return Known(self.looks | other.looks, self.splits | other.splits)

    @property
    def report(self) -> LooksReport:
        """As reports/looks.json."""
        models, rows = dict[str, list[str]](), dict[str, list[RowSketch]]()
        for look in sorted(self.looks):
            models.setdefault(look.test, []).append(look.model)
        for split in sorted(self.splits, key=lambda split: (split.test, split.rows.smallest)):
            if split.test in models:
                rows.setdefault(split.test, []).append(split.rows)
        return LooksReport(
            models={test: tuple(names) for test, names in models.items()},
            rows={test: tuple(digests) for test, digests in rows.items()},
        )


class Evaluation(BaseModel):
    """The fields that are read of a reports/evaluation.json, of any version of Lockstep."""

    merged: Digest
    test: Digest


class _Verdict(BaseModel):
    """The fields that are read of a reports/verdict.json, of any version of Lockstep."""

    judged: dict[str, str]
    rows: RowSketch | None = None


def look(evaluation: bytes) -> Look | None:
    """The look that a reports/evaluation.json records; None if no version wrote it."""
    try:
        evaluated = Evaluation.model_validate_json(evaluation)
    except ValidationError:
        return None
    return Look(evaluated.test, evaluated.merged)


def split(verdict: bytes) -> Split | None:
    """The test split of a reports/verdict.json; None if it does not have its rows."""
    try:
        read_verdict = _Verdict.model_validate_json(verdict)
    except ValidationError:
        return None
    test = read_verdict.judged.get(TEST)
    return Split(test, read_verdict.rows) if test and read_verdict.rows else None


def listed(report: LooksReport | None) -> Known:
    """Return what a reports/looks.json lists."""
    if report is None:
        return Known()
    return Known(
        frozenset(Look(test, model) for test, models in report.models.items() for model in models),
        frozenset(_splits(report)),
    )


def _splits(report: LooksReport) -> Iterator[Split]:
    return (Split(test, rows) for test, sketches in report.rows.items() for rows in sketches)


def recorded(root: Path, *revisions: str) -> frozenset[Look]:
    """The evaluations in the history of ``revisions``."""
    return of({layout.EVALUATION: commits.versions(root, layout.EVALUATION, *revisions)}).looks


def in_history(root: Path, *revisions: str) -> Known:
    """All that the history of ``revisions`` has, except the list that is in the work tree."""
    path = root / layout.LOOKS
    here = path.read_bytes() if path.is_file() else None
    versions = commits.versions_of_each(root, PATHS, *revisions)
    return of(versions | {layout.LOOKS: (text for text in versions[layout.LOOKS] if text != here)})


def of(contents: Mapping[Path, Iterable[bytes]]) -> Known:
    """Return what these files have, by their path in a record. What no version wrote has nothing."""
    looks = set(filter(None, map(look, contents.get(layout.EVALUATION, ()))))
    splits = set(filter(None, map(split, contents.get(layout.VERDICT, ()))))
    # A list repeats the list before it, so a look is made only after all lists are read.
    listed_models = defaultdict[str, set[str]](set)
    for report in filter(None, map(_list, contents.get(layout.LOOKS, ()))):
        for test, models in report.models.items():
            listed_models[test].update(models)
        splits.update(_splits(report))
    looks.update(Look(test, model) for test, models in listed_models.items() for model in models)
    return Known(frozenset(looks), frozenset(splits))


def _list(text: bytes) -> LooksReport | None:
    try:
        return LooksReport.model_validate_json(text)
    except ValidationError as error:
        files.refuse_newer(
            f"{layout.LOOKS} in git", error
        )  # its looks count, and are not known here
        return None
