"""sign: signs what an image is and where it came from, and attaches the signatures to the image."""

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, TypeVar

from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined] # it has no __all__

from checks.decision import held as holding
from checks.decision.held import HeldVerdict
from checks.formats.evidence import Reports
from checks.formats.serving import ImageReport, ServingReport
from checks.formats.signers import Signers
from checks.formats.statement import ENVELOPE, PAYLOAD, Statement
from checks.formats.training_reports import ParityReport
from checks.process.errors import EvidenceRefused
from checks.storage import digest, files, layout
from release.adapters import commits
from release.adapters.registry import reference
from release.adapters.registry.client import Repository
from release.adapters.registry.types import Descriptor, Store
from release.evidence import (
    attach,
    bundles,
    dsse,
    keys,
    released,
    sbom,
    sigstore,
    slsa,
    statement,
    trust,
    verification,
    weights,
)
from release.evidence.keys import KEY
from release.image import stores
from release.image.layout import Layout
from release.record import running_code
from release.record.held import hold
from release.record.records import Records

# The verdict covers their digests; the weights are in the image's layers, which the store has.
_NOT_NEEDED = (layout.BASE, layout.ADAPTER, layout.RAW, layout.MERGED)
# Files that the image's commit must have in the same state as here.
_RECORD = (layout.PARAMS, layout.PIPELINE, layout.LOCK, layout.VERDICT)
_R = TypeVar("_R", ImageReport, ServingReport)
_VERIFY = "run `lockstep build`, then `lockstep verify`"


class Signed(NamedTuple):
    """A signed release. ``added``: digests of the newly attached artifacts; empty the second time.

    The bundle of a key's statement, which only other programs read, is not among them.
    """

    statement: Statement
    signer: str
    envelope: bytes
    evidence: str  # the envelope's digest: what an environment's pointer names
    added: tuple[str, ...]


class _Made(NamedTuple):
    """The artifacts to attach."""

    release: bytes  # the statement
    weights: bytes  # the statement that OpenSSF model signing defines
    sbom: bytes


def sign(
    root: Path,
    store: Store,
    key: Path | None = None,
    *,
    keyless: bool = False,
    target: str | None = None,
) -> Signed:
    """Sign the release whose image is in ``store``, with ``key`` or the identity of this CI job.

    Signs and attaches the statement, the signature of the weights, SLSA provenance and the bill of materials. What the
    same signer attached before is left unchanged. ``target`` is the branch whose signers count. Raises EvidenceRefused
    if the verdict does not hold, if a report is missing, failed or about something else, if no verifier signed the
    serving report, or if the signer may not sign releases; VerdictFailed or VerdictInconclusive; RegistryRefused if the
    image is missing or the store accepts nothing; MachineRefused.
    """
    if (key is None) != keyless:
        raise EvidenceRefused(
            "a release is signed by a key or by an identity", "give one of --key and --keyless"
        )
    signer = None if key is None else keys.load(key)
    known = trust.known(root, target)
    if signer:
        trust.owner(signer, known, "release")
    record, image, serving = evidence(root, target)
    verified = verification.read(root, serving, known)
    subject = attach.subject(store, image.image)
    if not attach.has_layers(store, image.image, image):
        place = f"{store.name}@{image.image}"
        raise EvidenceRefused(
            f"{place}: has other layers than {layout.IMAGE_REPORT} says", "run `lockstep build`"
        )
    bill = sbom.make(record, image, commits.committed_at(root, image.commit))
    made = _Made(
        statement.make(root, record, image, serving, verified, digest.of_bytes(bill)),
        weights.payload(weights.of_image(image), record.params.serve.name),
        bill,
    )
    with store.held() if isinstance(store, Layout) else contextlib.nullcontext():
        return _attach(store, subject, made, signer, known)


def of_built(root: Path, key: Path | None, *, keyless: bool) -> Signed:
    """``sign`` the image that `lockstep build` made; ``key`` is by default that of `lockstep keys new`."""
    image = _report(root, layout.IMAGE_REPORT, ImageReport)
    store = stores.open_store(reference.parse(f"{image.place}@{image.image}"), root, push=True)
    return sign(root, store, None if keyless else key or root / KEY, keyless=keyless)


def evidence(
    root: Path, target: str | None = None
) -> tuple[HeldVerdict, ImageReport, ServingReport]:
    """Collect what a release is signed for. Everything but the weights is hashed again and compared with the verdict.

    Raises EvidenceRefused, VerdictFailed or VerdictInconclusive.
    """
    running_code.check(root, committed=True)
    record = hold(Records(root), target, trusting=_NOT_NEEDED)
    if refused := holding.refusal(record.verdict):
        raise refused
    image = _report(root, layout.IMAGE_REPORT, ImageReport)
    serving = _report(root, layout.SERVING_REPORT, ServingReport)
    verdict, probes = (
        digest.of_file(root / layout.VERDICT).sha256,
        digest.of_file(root / layout.PROBES).sha256,
    )
    problems = [
        f"{path}: is about {what} {actual}, not {wanted}"
        for path, what, actual, wanted in (
            (layout.IMAGE_REPORT, "the model", image.model, record.verdict.model),
            (layout.IMAGE_REPORT, "the verdict", image.verdict, verdict),
            (layout.SERVING_REPORT, "the model", serving.model, record.verdict.model),
            (layout.SERVING_REPORT, "the verdict", serving.verdict, verdict),
            (layout.SERVING_REPORT, "the probes", serving.probes, probes),
            # None: the weights were served without an image; the environments decide whether to accept that.
            (layout.SERVING_REPORT, "the image", serving.image or image.image, image.image),
        )
        if actual != wanted
    ]
    if weights.of_image(image) != {
        path: file.sha256 for path, file in _parity(record.evidence.reports).files.items()
    }:
        problems.append(f"{layout.IMAGE_REPORT}: its layers are not the files of the merged model")
    if serving.status != "pass":
        failed = ", ".join(check.name for check in serving.checks if check.status == "fail")
        problems.append(
            f"{layout.SERVING_REPORT}: did not pass ({failed or 'an essential check is missing'})"
        )
    base, wanted = image.base.name if image.base else None, record.params.serve.base
    if base != wanted:  # built with --base, for a trial: nobody reviewed that one
        problem = f"serve.base of {layout.PARAMS} is {wanted or 'null'}"
        problems.append(f"{layout.IMAGE_REPORT}: is made on {base or 'no base'}, {problem}")
    head = commits.resolve(root, "HEAD") if commits.has_repository(root) else None
    if head is None or not commits.is_ancestor(root, image.commit, head):
        problems.append(
            f"{layout.IMAGE_REPORT}: commit {image.commit[:12]} is not in this clone's history"
        )
    else:
        absent = commits.uncommitted(root, image.commit, _RECORD)
        problems += [f"{path}: differs from commit {image.commit[:12]}" for path in absent]
    if problems:
        raise EvidenceRefused(problems[0], _VERIFY, tuple(problems[1:]))
    return record, image, serving


def approve(
    root: Path, key: Path, environment: str, image: str, why: str, target: str | None = None
) -> bytes:
    """Sign with ``key`` that the image with digest ``image`` may run in ``environment``.

    Raises EvidenceRefused if the key is invalid or its owner may not approve.
    """
    signer = keys.load(key)
    trust.owner(signer, trust.known(root, target), "approve")
    return dsse.sign(statement.approve(environment, image, why), PAYLOAD, signer)


def approved(data: bytes, known: Signers, environment: str, image: str) -> str:
    """Return who signed an envelope of ``approve``. Raises EvidenceRefused if no approver did."""
    verified = trust.verify(data, known, "approve", "the approval")
    statement.parse_approval(verified.payload, environment, image)
    return verified.signer


def free(
    root: Path, key: Path, images: Iterable[str], parent: str, why: str, target: str | None = None
) -> bytes:
    """Sign with ``key`` that ``images`` leave the quarantine by the commit after ``parent``.

    Raises EvidenceRefused if the key is invalid or its owner may not approve.
    """
    may_approve(root, key, target)
    return dsse.sign(statement.free(images, parent, why), PAYLOAD, keys.load(key))


def may_approve(root: Path, key: Path, target: str | None) -> str:
    """The name of the owner of ``key``. Raises EvidenceRefused if the key is invalid or its owner may not approve."""
    return trust.owner(keys.load(key), trust.known(root, target), "approve")


def _attach(
    store: Store, to: Descriptor, made: _Made, signer: CryptoSigner | None, known: Signers
) -> Signed:
    """Attach what is missing. The statement comes last, so that whoever finds it finds the rest.

    In a registry a statement that a key signed is also attached as a bundle, for other programs.
    """
    ours = known
    if signer:
        name = trust.owner(signer, known, "release")
        ours = tuple(one for one in known if one.name == name)
    there = _already(store, to, ours)
    new = _signed(
        [payload for payload in (made.weights, made.release) if payload not in there],
        signer,
        made.release,
    )
    envelope = there.get(made.release) or new[made.release]
    signed = released.check(envelope, to.digest, ours)
    provenance = slsa.make(signed.statement, next(one for one in ours if one.name == signed.signer))
    if provenance not in there:
        new |= _signed([provenance], signer, made.release)
    titles = {
        made.weights: "model.sig",
        provenance: "provenance.json",
        made.release: "release.json",
    }
    added = []
    if made.sbom not in there:
        added.append(attach.attach(store, to, sbom.MEDIA_TYPE, made.sbom, "sbom.cdx.json"))
    for payload, title in titles.items():
        if data := new.get(payload):
            bundle = payload != made.release or signer is None
            kind = sigstore.BUNDLE if bundle else ENVELOPE
            added.append(
                attach.attach(
                    store, to, kind, data, title, bundles.annotations(data) if bundle else None
                )
            )
    if signer and isinstance(store, Repository):
        wrapped = bundles.wrap(envelope, signer)
        attach.attach(
            store,
            to,
            sigstore.BUNDLE,
            wrapped,
            "release.sigstore.json",
            bundles.annotations(wrapped),
        )
    return Signed(signed.statement, signed.signer, envelope, signed.digest, tuple(added))


def _signed(
    payloads: list[bytes], signer: CryptoSigner | None, release: bytes
) -> dict[bytes, bytes]:
    """Return a bundle for each statement; of ``release`` an envelope alone, if a key signs it: git keeps that one."""
    if signer is None:
        return dict(zip(payloads, sigstore.sign(payloads) if payloads else (), strict=True))
    return {
        payload: dsse.sign(payload, PAYLOAD, signer)
        if payload == release
        else bundles.sign(payload, signer)
        for payload in payloads
    }


def _already(store: Store, to: Descriptor, ours: Signers) -> dict[bytes, bytes]:
    """Return what the same signer attached before: the attached bytes by what they state."""
    there = {one.payload: one.envelope for one in released.search(store, to.digest, ours).found}
    for one in attach.attached(store, to.digest, sigstore.BUNDLE, dsse.LARGEST, lambda _: None):
        with contextlib.suppress(EvidenceRefused):
            there.setdefault(trust.verify(one.data, ours, "release", "a bundle").payload, one.data)
    for one in attach.attached(store, to.digest, sbom.MEDIA_TYPE, sbom.LARGEST, lambda _: None):
        there[one.data] = one.data
    return there


def _report(root: Path, path: Path, kind: type[_R]) -> _R:
    try:
        return files.read_json(root / path, kind)
    except EvidenceRefused as refused:
        raise EvidenceRefused(refused.what, _VERIFY) from refused


def _parity(reports: Reports) -> ParityReport:
    if reports.parity is None:
        raise EvidenceRefused(f"{layout.PARITY_REPORT}: is not here", "run `./lockstep run`")
    return reports.parity
