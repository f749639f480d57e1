"""Collects the reports that a release is signed for, and checks that they are about one model, image and commit."""

from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from checks.decision.held import HeldVerdict
from checks.formats.serving import ImageReport, ServingReport
from checks.process.errors import EvidenceRefused
from checks.records.record import problems
from checks.storage import digest, files, layout
from release.adapters import commits
from release.evidence import weights
from release.record.records import Records
from release.record.verdict_check import WEIGHTS, passing

# Files that the image's commit must have in the same state as here.
_RECORD = (layout.PARAMS, layout.PIPELINE, layout.LOCK, layout.VERDICT)

_R = TypeVar("_R", ImageReport, ServingReport)

_VERIFY = "run `lockstep build`, then `lockstep verify`"


def collect(
    records: Records, target: str | None = None
) -> tuple[HeldVerdict, ImageReport, ServingReport]:
    """Return the record that a release is signed for, and the reports of `lockstep build` and `lockstep verify`.

    Everything but the weights is hashed again and compared with the verdict.

    Raises EvidenceRefused with everything that does not fit, and as ``passing``.
    """
    root = records.root
    record = passing(records, target, WEIGHTS)  # The image's layers are the weights.
    image = read(root, layout.IMAGE_REPORT, ImageReport)
    serving = read(root, layout.SERVING_REPORT, ServingReport)
    wrong = [
        *_other_subjects(root, record, image, serving),
        *_other_content(record, image, serving),
        *_other_commit(root, image.commit),
    ]
    EvidenceRefused.raise_for(wrong, _VERIFY)
    return record, image, serving


def read(root: Path, path: Path, kind: type[_R]) -> _R:
    """Return the report in ``path``. Raises EvidenceRefused if there is none or it is invalid."""
    try:
        return files.read_json(root / path, kind)
    except EvidenceRefused as refused:
        raise EvidenceRefused(refused.what, _VERIFY) from refused


def _other_subjects(
    root: Path, record: HeldVerdict, image: ImageReport, serving: ServingReport
) -> Iterator[str]:
    """Yield the digests that a report names and that are not those of the record."""
    verdict = digest.of_file(root / layout.VERDICT).sha256
    probes = digest.of_file(root / layout.PROBES).sha256
    subjects = (
        (layout.IMAGE_REPORT, "the model", image.model, record.verdict.model),
        (layout.IMAGE_REPORT, "the verdict", image.verdict, verdict),
        (layout.SERVING_REPORT, "the model", serving.model, record.verdict.model),
        (layout.SERVING_REPORT, "the verdict", serving.verdict, verdict),
        (layout.SERVING_REPORT, "the probes", serving.probes, probes),
        # None: the weights were served without an image; the environments decide whether to accept that.
        (layout.SERVING_REPORT, "the image", serving.image or image.image, image.image),
    )
    return (
        f"{path}: is about {what} {reported}, not {expected}"
        for path, what, reported, expected in subjects
        if reported != expected
    )


def _other_content(
    record: HeldVerdict, image: ImageReport, serving: ServingReport
) -> Iterator[str]:
    """Yield what else does not fit: files, the verification's result, base and server."""
    parity, serve = record.evidence.reports.parity, record.params.serve
    if parity is None:
        raise EvidenceRefused(f"{layout.PARITY_REPORT}: is not here", "run `./lockstep run`")
    merged = {path: file.sha256 for path, file in parity.files.items()}
    failed = ", ".join(check.name for check in serving.checks if check.status == "fail")
    base = image.base.name if image.base else None
    return problems(
        (
            weights.of_image(image) != merged,
            f"{layout.IMAGE_REPORT}: its layers are not the files of the merged model",
        ),
        (
            serving.status != "pass",
            f"{layout.SERVING_REPORT}: did not pass ({failed or 'an essential check is missing'})",
        ),
        # It was built with --base, for a trial, if the base is another one: nobody reviewed that.
        (base != serve.base, _not_reviewed("is made on", "base", base, serve.base)),
        (
            image.server != serve.server,
            _not_reviewed("runs in", "server", image.server, serve.server),
        ),
    )


def _not_reviewed(how: str, name: str, made: str | None, reviewed: str | None) -> str:
    what = f"{how} {made or f'no {name}'}, serve.{name} of {layout.PARAMS} is {reviewed or 'null'}"
    return f"{layout.IMAGE_REPORT}: {what}"


def _other_commit(root: Path, commit: str) -> Iterator[str]:
    """Yield what differs between the commit of the image and this clone."""
    head = commits.resolve(root, "HEAD") if commits.has_repository(root) else None
    if head is None or not commits.is_ancestor(root, commit, head):
        yield f"{layout.IMAGE_REPORT}: commit {commit[:12]} is not in this clone's history"
    else:
        changed = commits.uncommitted(root, commit, _RECORD)
        yield from (f"{path}: differs from commit {commit[:12]}" for path in changed)
