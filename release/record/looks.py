"""looks: which models each test split has judged, from git and this work tree, in reports/looks.json.

A model counts as judged if its evaluation, or a list that names it, is committed on any branch of this clone, merged or
not: a model that was tried and dropped is a try too. ``lockstep record`` also keeps each evaluation on the branch
lockstep/looks (``release.record.looks_branch``), so that it stays when the branch of the try is deleted. Models that
were never committed are known only as long as reports/looks.json lists them.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ValidationError

from checks import files, layout
from checks.errors import EvidenceRefused
from checks.formats.evaluation_reports import LooksReport
from checks.identity import Digest
from release.adapters import commits
from release.record import lock_check
from release.record.records import Records

_FIX = "run `lockstep run`"
Models = Mapping[str, frozenset[str]]  # by test split


class Look(NamedTuple):
    """A model that a test split judged."""

    test: str
    model: str


class _Evaluation(BaseModel):
    """The fields that are read of a reports/evaluation.json, of any version of Lockstep."""

    merged: Digest
    test: Digest


def write(records: Records) -> bool:
    """Write reports/looks.json, unless it is complete; return whether it changed.

    For a model that is on the target branch already nothing is added: what others tried afterwards does not count
    against it. For any other model every branch counts. The record's own model is added when another one is about to
    replace it.
    Raises EvidenceRefused if git or a report here cannot be read.
    """
    stored, own = _stored(records), _own(records)
    replaced = lock_check.makes_another_model(records.work_tree)
    if stored is not None and own is not None and not replaced and not current(records) and _merged(records, own):
        return False
    looks = _known(records, "--all", "HEAD") | _listed(stored)
    if own is not None:
        looks = looks | {own} if replaced else looks - {own}
    report = LooksReport(models={test: tuple(sorted(models)) for test, models in sorted(_by_test(looks).items())})
    if report == stored:
        return False
    files.write_json(records.root / layout.LOOKS, report)
    return True


def current(records: Records) -> list[str]:
    """A line if reports/looks.json is missing, or lacks a model that the history of HEAD has for this test split.

    The history has the evaluations that were recorded, and the earlier lists.
    """
    stored, own = _stored(records), _own(records)
    if stored is None:
        return [f"{layout.LOOKS}: is missing or cannot be read; {_FIX}"]
    if own is None:
        return []
    known = {look.model for look in _known(records, "HEAD") if look.test == own.test}
    missing = known - {own.model} - set(stored.models.get(own.test, ()))
    if not missing:
        return []
    named = ", ".join(f"{model[:19]}…" for model in sorted(missing)[:3])
    return [f"{layout.LOOKS}: lacks {len(missing)} of the models that this test split judged ({named}); {_FIX}"]


def _merged(records: Records, own: Look) -> bool:
    """Whether the target branch has the record of this model."""
    tip = records.target()[1]
    return tip is not None and own in recorded(records.root, tip)


def _known(records: Records, *revisions: str) -> frozenset[Look]:
    """The looks in the history of ``revisions``, by evaluations and by lists, except the list in the work tree."""
    if records.head is None:
        return frozenset()
    path = records.root / layout.LOOKS
    here = path.read_bytes() if path.is_file() else None
    evaluated, lists = commits.versions_of_each(records.root, [layout.EVALUATION, layout.LOOKS], *revisions).values()
    return _looks(evaluated).union(*(_listed(_list(text)) for text in lists if text != here))


def recorded(root: Path, *revisions: str) -> frozenset[Look]:
    """The evaluations in the history of ``revisions``."""
    return _looks(commits.versions(root, layout.EVALUATION, *revisions))


def _looks(evaluations: Iterable[bytes]) -> frozenset[Look]:
    """Those of the evaluations that a version wrote."""
    return frozenset(filter(None, map(parse, evaluations)))


def _list(text: bytes) -> LooksReport | None:
    try:
        return LooksReport.model_validate_json(text)
    except ValidationError:
        return None


def parse(text: bytes) -> Look | None:
    """The look that a reports/evaluation.json records; None if no version wrote it."""
    try:
        found = _Evaluation.model_validate_json(text)
    except ValidationError:
        return None
    return Look(found.test, found.merged)


def _own(records: Records) -> Look | None:
    """What the record in this work tree is about; None if there is none."""
    try:
        found = records.work_tree.report(layout.EVALUATION, _Evaluation)
    except EvidenceRefused:
        return None
    return Look(found.test, found.merged)


def _stored(records: Records) -> LooksReport | None:
    try:
        return records.work_tree.report(layout.LOOKS, LooksReport)
    except EvidenceRefused:
        return None


def _listed(report: LooksReport | None) -> frozenset[Look]:
    return frozenset(
        Look(test, model) for test, models in (report.models if report else {}).items() for model in models
    )


def _by_test(looks: Iterable[Look]) -> Models:
    found: dict[str, frozenset[str]] = {}
    for test, model in looks:
        found[test] = found.get(test, frozenset()) | {model}
    return found
