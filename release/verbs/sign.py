"""sign: signs what an image is and where it came from, and attaches the signatures to the image."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from checks.decision.held import HeldVerdict
from checks.formats.serving import ImageReport, ServingReport
from checks.process.errors import EvidenceRefused
from checks.storage import digest, files, layout
from release.adapters import commits
from release.adapters.registry import reference
from release.adapters.registry.documents import Store
from release.evidence import attach, modelpack, sbom, statement, trust, verification, weights
from release.evidence.attached_statements import Signed, sign_and_attach
from release.evidence.keys import KEY
from release.image import stores
from release.image.layout import Layout
from release.promotion import context
from release.record.records import Records
from release.record.verdict_check import WEIGHTS, passing

__all__ = ["Signed", "collect", "of_built", "sign"]


# Files that the image's commit must have in the same state as here.
_RECORD = (layout.PARAMS, layout.PIPELINE, layout.LOCK, layout.VERDICT)

_R = TypeVar("_R", ImageReport, ServingReport)

_VERIFY = "run `lockstep build`, then `lockstep verify`"


def sign(
    root: Path,
    store: Store,
    key: Path | None = None,
    *,
    keyless: bool = False,
    target: str | None = None,
) -> Signed:
    """Sign the release whose image is in ``store``, with ``key`` or the identity of this CI job.

    Signs and attaches the statement, the signature of the weights, SLSA provenance and the bill of materials; attaches
    the weights as a ModelPack, which the provenance names. What the same signer attached before is left unchanged.
    ``target`` is the branch whose signers count. Raises EvidenceRefused if HEAD has code that the target branch never
    had, if the verdict does not hold, if a report is missing, failed or about something else, if no verifier signed the
    serving report, or if the signer may not sign releases; VerdictFailed or VerdictInconclusive; RegistryRefused if the
    image is missing or the store accepts nothing; MachineRefused.
    """
    if (key is None) != keyless:
        raise EvidenceRefused(
            "a release is signed by a key or by an identity", "give one of --key and --keyless"
        )
    context.check_signing(root, target)
    known = trust.known(root, target)
    signer = trust.signatory(key, known, "release")
    record, image, serving = collect(Records(root), target)
    verified = verification.read(root, serving, known)
    subject = attach.subject(store, image.image)
    if not attach.has_layers(store, image.image, image):
        place = f"{store.name}@{image.image}"
        raise EvidenceRefused(
            f"{place}: has other layers than {layout.IMAGE_REPORT} says", "run `lockstep build`"
        )
    bill = sbom.make(record, image, commits.committed_at(root, image.commit))
    stated = statement.make(root, record, image, serving, verified, digest.of_bytes(bill))
    of_weights = weights.payload(weights.of_image(image), record.params.serve.name)
    pack = modelpack.make(store, subject, image)
    with store.held() if isinstance(store, Layout) else contextlib.nullcontext():
        return sign_and_attach(
            store, subject, signer, stated=stated, weights=of_weights, bill=bill, pack=pack
        )


def of_built(root: Path, key: Path | None, *, keyless: bool) -> Signed:
    """``sign`` the image that `lockstep build` made; ``key`` is by default that of `lockstep keys new`."""
    image = _read_report(root, layout.IMAGE_REPORT, ImageReport)
    store = stores.open_store(reference.parse(f"{image.place}@{image.image}"), root, push=True)
    return sign(root, store, None if keyless else key or root / KEY, keyless=keyless)


def collect(
    records: Records, target: str | None = None
) -> tuple[HeldVerdict, ImageReport, ServingReport]:
    """Return the record that a release is signed for, and the reports of `lockstep build` and `lockstep verify`.

    Everything but the weights is hashed again and compared with the verdict.

    Raises EvidenceRefused with everything that does not fit, and as ``passing``.
    """
    root = records.root
    record = passing(records, target, WEIGHTS)  # The image's layers are the weights.
    image = _read_report(root, layout.IMAGE_REPORT, ImageReport)
    serving = _read_report(root, layout.SERVING_REPORT, ServingReport)
    subjects = _other_subjects(root, record, image, serving)
    if problems := [*subjects, *_other_problems(root, record, image, serving)]:
        raise EvidenceRefused(problems[0], _VERIFY, tuple(problems[1:]))
    return record, image, serving


def _read_report(root: Path, path: Path, kind: type[_R]) -> _R:
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
    for path, what, reported, expected in (
        (layout.IMAGE_REPORT, "the model", image.model, record.verdict.model),
        (layout.IMAGE_REPORT, "the verdict", image.verdict, verdict),
        (layout.SERVING_REPORT, "the model", serving.model, record.verdict.model),
        (layout.SERVING_REPORT, "the verdict", serving.verdict, verdict),
        (layout.SERVING_REPORT, "the probes", serving.probes, probes),
        # None: the weights were served without an image; the environments decide whether to accept that.
        (layout.SERVING_REPORT, "the image", serving.image or image.image, image.image),
    ):
        if reported != expected:
            yield f"{path}: is about {what} {reported}, not {expected}"


def _other_problems(
    root: Path, record: HeldVerdict, image: ImageReport, serving: ServingReport
) -> Iterator[str]:
    """Yield what else does not fit: files, the verification's result, the base, and the commit of the image."""
    parity = record.evidence.reports.parity
    if parity is None:
        raise EvidenceRefused(f"{layout.PARITY_REPORT}: is not here", "run `./lockstep run`")
    if weights.of_image(image) != {path: file.sha256 for path, file in parity.files.items()}:
        yield f"{layout.IMAGE_REPORT}: its layers are not the files of the merged model"
    if serving.status != "pass":
        failed = ", ".join(check.name for check in serving.checks if check.status == "fail")
        yield f"{layout.SERVING_REPORT}: did not pass ({failed or 'an essential check is missing'})"
    serve = record.params.serve
    # It was built with --base, for a trial, if the base is another one: nobody reviewed that.
    for how, name, made, reviewed in (
        ("is made on", "base", image.base.name if image.base else None, serve.base),
        ("runs in", "server", image.server, serve.server),
    ):
        if made != reviewed:
            what = f"{how} {made or f'no {name}'}, serve.{name} of {layout.PARAMS} is"
            yield f"{layout.IMAGE_REPORT}: {what} {reviewed or 'null'}"
    commit = image.commit
    head = commits.resolve(root, "HEAD") if commits.has_repository(root) else None
    if head is None or not commits.is_ancestor(root, commit, head):
        yield f"{layout.IMAGE_REPORT}: commit {commit[:12]} is not in this clone's history"
    else:
        for path in commits.uncommitted(root, commit, _RECORD):
            yield f"{path}: differs from commit {commit[:12]}"
