"""sign: signs what an image is and where it came from, and attaches the signatures to the image."""

import contextlib
from pathlib import Path

from checks.formats.serving import ImageReport
from checks.process.errors import EvidenceRefused
from checks.storage import digest, layout
from release.adapters import commits
from release.adapters.registry import reference
from release.adapters.registry.documents import Store
from release.evidence import (
    attach,
    modelpack,
    release_reports,
    sbom,
    statement,
    trust,
    verification,
    weights,
)
from release.evidence.attached_statements import Signed, sign_and_attach
from release.evidence.keys import KEY
from release.evidence.release_reports import collect
from release.image import stores
from release.image.layout import Layout
from release.promotion import context
from release.record.records import Records

__all__ = ["Signed", "collect", "of_built", "sign"]


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
    image = release_reports.read(root, layout.IMAGE_REPORT, ImageReport)
    store = stores.open_store(reference.parse(f"{image.place}@{image.image}"), root, push=True)
    return sign(root, store, None if keyless else key or root / KEY, keyless=keyless)
