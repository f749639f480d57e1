"""Reads what a release is signed for: a passing record, the image that was built of it, and its verification."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

from checks.decision.held import HeldVerdict
from checks.formats.serving import ImageReport, ServingReport
from checks.process.errors import EvidenceRefused
from checks.storage import digest, files, layout
from release.adapters import commits
from release.evidence import weights
from release.record.records import Records
from release.record.verdict_check import passing

# The verdict covers their digests; the weights are in the image's layers, which the store has.
_NOT_NEEDED = (layout.BASE, layout.ADAPTER, layout.RAW, layout.MERGED)
# Files that the image's commit must have in the same state as here.
_RECORD = (layout.PARAMS, layout.PIPELINE, layout.LOCK, layout.VERDICT)
_R = TypeVar("_R", ImageReport, ServingReport)
_VERIFY = "run `lockstep build`, then `lockstep verify`"


class Signable(NamedTuple):
    """The record with its verdict, the report of `lockstep build`, and that of `lockstep verify`."""

    record: HeldVerdict
    image: ImageReport
    serving: ServingReport


def collect(records: Records, target: str | None = None) -> Signable:
    """Collect what a release is signed for. Everything but the weights is hashed again and compared with the verdict.

    Raises EvidenceRefused with everything that does not fit, and as ``passing``.
    """
    root = records.root
    record = passing(records, target, _NOT_NEEDED)
    image = read_report(root, layout.IMAGE_REPORT, ImageReport)
    serving = read_report(root, layout.SERVING_REPORT, ServingReport)
    signable = Signable(record, image, serving)
    problems = [*_other_subjects(root, signable), *_problems(root, signable)]
    if problems:
        raise EvidenceRefused(problems[0], _VERIFY, tuple(problems[1:]))
    return signable


def read_report(root: Path, path: Path, kind: type[_R]) -> _R:
    """Return the report in ``path``. Raises EvidenceRefused if there is none or it is invalid."""
    try:
        return files.read_json(root / path, kind)
    except EvidenceRefused as refused:
        raise EvidenceRefused(refused.what, _VERIFY) from refused


def _other_subjects(root: Path, signable: Signable) -> Iterator[str]:
    """Yield the digests that a report names and that are not those of the record."""
    model = signable.record.verdict.model
    verdict = digest.of_file(root / layout.VERDICT).sha256
    probes = digest.of_file(root / layout.PROBES).sha256
    image, serving = signable.image, signable.serving
    for path, what, reported, expected in (
        (layout.IMAGE_REPORT, "the model", image.model, model),
        (layout.IMAGE_REPORT, "the verdict", image.verdict, verdict),
        (layout.SERVING_REPORT, "the model", serving.model, model),
        (layout.SERVING_REPORT, "the verdict", serving.verdict, verdict),
        (layout.SERVING_REPORT, "the probes", serving.probes, probes),
        # None: the weights were served without an image; the environments decide whether to accept that.
        (layout.SERVING_REPORT, "the image", serving.image or image.image, image.image),
    ):
        if reported != expected:
            yield f"{path}: is about {what} {reported}, not {expected}"


def _problems(root: Path, signable: Signable) -> Iterator[str]:
    """Yield what else does not fit: files, the verification's result, the base, and the commit of the image."""
    record, image, serving = signable
    parity = record.evidence.reports.parity
    if parity is None:
        raise EvidenceRefused(f"{layout.PARITY_REPORT}: is not here", "run `./lockstep run`")
    if weights.of_image(image) != {path: file.sha256 for path, file in parity.files.items()}:
        yield f"{layout.IMAGE_REPORT}: its layers are not the files of the merged model"
    if serving.status != "pass":
        failed = ", ".join(check.name for check in serving.checks if check.status == "fail")
        yield f"{layout.SERVING_REPORT}: did not pass ({failed or 'an essential check is missing'})"
    base = image.base.name if image.base else None
    reviewed = record.params.serve.base
    if base != reviewed:  # It was built with --base, for a trial: nobody reviewed that one.
        what = f"is made on {base or 'no base'}, serve.base of {layout.PARAMS} is"
        yield f"{layout.IMAGE_REPORT}: {what} {reviewed or 'null'}"
    reviewed = record.params.serve.server
    if image.server != reviewed:
        what = f"runs in {image.server or 'no server'}, serve.server of {layout.PARAMS} is"
        yield f"{layout.IMAGE_REPORT}: {what} {reviewed or 'null'}"
    commit = image.commit
    head = commits.resolve(root, "HEAD") if commits.has_repository(root) else None
    if head is None or not commits.is_ancestor(root, commit, head):
        yield f"{layout.IMAGE_REPORT}: commit {commit[:12]} is not in this clone's history"
    else:
        for path in commits.uncommitted(root, commit, _RECORD):
            yield f"{path}: differs from commit {commit[:12]}"
