"""evidence: traces an image back to the rows that its weights were trained on, along signed statements.

Every step has a digest, and says whether it was checked or is only signed.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from checks.formats import pointer
from checks.formats.signers import Signers
from checks.formats.statement import Release, Statement
from checks.process.errors import BuildRefused, EvidenceRefused, MachineRefused
from checks.records.record import Digest
from checks.records.rows import Record
from checks.storage import layout
from release.adapters.registry import reference
from release.adapters.registry.documents import Store
from release.evidence import (
    attach,
    attached_statements,
    dsse,
    sigstore,
    trust,
    verification,
    weights,
)
from release.evidence.origin import Origin, Step
from release.image import stores


class Walk(Record):
    """The steps from an image to its rows. ``evidence`` is the digest of the signed statement's envelope."""

    image: str
    evidence: Digest
    signer: str
    steps: tuple[Step, ...]
    statement: Statement


def show(root: Path, image: str, target: str | None = None) -> Walk:
    """Trace ``image`` back: HOST/NAME@DIGEST, oci:FOLDER@DIGEST, or the digest of an image that runs or was built.

    ``target`` is the branch whose signers count. Raises EvidenceRefused if no valid statement about it exists or the
    statement contradicts what it names, RegistryRefused if the image is missing, BuildRefused for an invalid reference.
    """
    store, digest, evidence = _place(root, image)
    # An image that is not there is another matter than one without evidence.
    attach.subject(store, digest)
    known = trust.known(root, target)
    release = attached_statements.find(store, digest, known, evidence)
    steps = (
        *_image(store, digest, release),
        *_attached(store, digest, release, known),
        *Origin(root, release.statement.predicate).steps(),
        _serving(release.statement.predicate, known),
    )
    return Walk(
        image=f"{store.name}@{digest}", evidence=release.digest, signer=release.signer, steps=steps,
        statement=release.statement,
    )  # fmt: skip


def _place(root: Path, text: str) -> tuple[Store, str, str | None]:
    """Find the image: a pointer says where it is; without one it is where `lockstep build` wrote it.

    Return its store, its digest, and which evidence its environment names.
    """
    evidence = None
    if text.startswith("sha256:"):
        name = f"{reference.LAYOUT}{layout.IMAGE}@{text}"
        for path in sorted((root / layout.ENVIRONMENTS).glob(f"*/{layout.POINTER}")):
            shown = str(path.relative_to(root))
            if not path.is_file():
                raise EvidenceRefused(f"{shown}: is not a regular file", "restore it from git")
            current = pointer.parse(path.read_bytes(), shown)
            if current.digest == text:
                name = current.image
                evidence = current.evidence
                break
    else:
        name = text
    named = reference.parse(name)
    if named.digest is None:
        raise BuildRefused(
            f"{text!r}: names no digest", "write it as HOST/NAME@sha256:…: a tag can be moved"
        )
    return stores.open_store(named, root), named.digest, evidence


def _image(store: Store, digest: str, release: attached_statements.Released) -> Iterator[Step]:
    """Yield the image and its layers, read from the store."""
    report = release.statement.predicate.image
    if not attach.has_layers(store, digest, report):
        raise EvidenceRefused(
            f"{store.name}@{digest}: has other layers than its signed statement says",
            "do not run it; ask who signed",
        )
    note = f"runtime {report.runtime}, {report.size:,} bytes"
    yield Step(what="image", digest=digest, checked="store", note=note)
    if base := report.base:
        note = f"{base.name}, {base.platform}"
        yield Step(what="base image", digest=base.manifest, checked="signed", note=note)
    for number, layer in enumerate(report.layers, 1):
        names = sorted(layer.files)
        note = names[0] + (f" and {len(names) - 1} more files" if len(names) > 1 else "")
        yield Step(what=f"layer {number}", digest=layer.digest, checked="follows", note=note)


def _attached(
    store: Store, image: str, signed: attached_statements.Released, known: Signers
) -> Iterator[Step]:
    """Yield the signature of the weights and the bill of materials, if they are attached and valid."""
    release = signed.statement.predicate
    files = weights.of_image(release.image)
    statement = weights.payload(files, signed.statement.subject[0].name)
    for bundle in attach.attached(store, image, sigstore.BUNDLE, dsse.LARGEST):
        with contextlib.suppress(EvidenceRefused):
            signer = weights.verify(bundle.data, statement, known)
            note = f"of {len(files)} files, as OpenSSF model signing defines it, by {signer}"
            yield Step(what="weights signature", digest=bundle.digest, checked="store", note=note)
            break
    if attached_statements.bill_of_materials(store, image, release.sbom):
        note = "CycloneDX 1.6, with a model card"
        yield Step(what="sbom", digest=release.sbom, checked="store", note=note)


def _serving(release: Release, known: Signers) -> Step:
    serving = release.serving
    passed = sum(check.status == "pass" for check in serving.checks)
    server = f" of {serving.server}" if serving.server else ""
    note = f"{serving.status}: {passed} of {len(serving.checks)} checks passed, "
    note += f"by {serving.runtime} as a {serving.how}{server}, {_verified(release, known)}"
    return Step(what="serving", digest=None, checked="signed", note=note)


def _verified(release: Release, known: Signers) -> str:
    """Return who verified the served model, for the note."""
    if release.verification is None:
        return "not signed by a verifier"
    try:
        return f"verified by {verification.check_verifier(release, known)}"
    except (EvidenceRefused, MachineRefused) as refused:
        return f"and no current verifier signed that: {refused.what}"
