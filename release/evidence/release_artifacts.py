"""The artifacts of a signed release: its statement, the weights' signature, provenance, bill of materials."""

import contextlib
from typing import NamedTuple

from checks.formats.signers import Signers
from checks.formats.statement import ENVELOPE, Statement
from checks.process.errors import EvidenceRefused
from release.adapters.registry.client import Repository
from release.adapters.registry.documents import Descriptor, Store
from release.evidence import attach, attached_statements, dsse, sbom, sigstore, slsa, trust


class Parts(NamedTuple):
    """The artifacts to attach: the statements of the release and of the weights, and the bill of materials."""

    release: bytes
    weights: bytes  # the statement that OpenSSF model signing defines
    sbom: bytes


class Signed(NamedTuple):
    """A signed release. ``added``: digests of the newly attached artifacts; empty the second time.

    The bundle of a key's statement, which only other programs read, is not among them.
    """

    statement: Statement
    signer: str
    envelope: bytes
    evidence: str  # the envelope's digest: what an environment's pointer names
    added: tuple[str, ...]


def sign_and_attach(
    store: Store, subject: Descriptor, parts: Parts, signatory: trust.Signatory
) -> Signed:
    """Sign and attach what the same signer did not attach before.

    Everything is signed before anything is attached. The statement comes last, so that whoever finds it finds the rest.
    In a registry a statement that a key signed is also attached as a bundle, for other programs.
    """
    own = signatory.own("release")
    present = _present(store, subject.digest, own)
    signed = {parts.weights: present.get(parts.weights) or signatory.bundle(parts.weights)}
    envelope = present.get(parts.release) or signatory.sign(parts.release)
    release = attached_statements.check(envelope, subject.digest, own)
    signer = next(signer for signer in own if signer.name == release.signer)
    provenance = slsa.make(release.statement, signer)
    signed[provenance] = present.get(provenance) or signatory.bundle(provenance)
    added = []
    if parts.sbom not in present:
        added.append(attach.attach(store, subject, sbom.MEDIA_TYPE, parts.sbom, "sbom.cdx.json"))
    for statement, title in ((parts.weights, "model.sig"), (provenance, "provenance.json")):
        if statement not in present:
            added.append(_attach_bundle(store, subject, signed[statement], title))
    if parts.release not in present and signatory.key:
        added.append(attach.attach(store, subject, ENVELOPE, envelope, "release.json"))
    elif parts.release not in present:
        added.append(_attach_bundle(store, subject, envelope, "release.json"))
    if signatory.key and isinstance(store, Repository):
        wrapped = attach.wrap(envelope, signatory.key)
        _attach_bundle(store, subject, wrapped, "release.sigstore.json")
    return Signed(release.statement, release.signer, envelope, release.digest, tuple(added))


def _attach_bundle(store: Store, subject: Descriptor, bundle: bytes, title: str) -> str:
    about = attach.annotations(bundle)
    return attach.attach(store, subject, sigstore.BUNDLE, bundle, title, about)


def _present(store: Store, image: str, own: Signers) -> dict[bytes, bytes]:
    """Return what the same signer attached before: the attached bytes by what they state."""
    found = attached_statements.search(store, image, own).found
    present = {release.payload: release.envelope for release in found}
    for artifact in attach.attached(store, image, sigstore.BUNDLE, dsse.LARGEST):
        with contextlib.suppress(EvidenceRefused):
            verified = trust.verify(artifact.data, own, "release", "a bundle")
            present.setdefault(verified.payload, artifact.data)
    for artifact in attach.attached(store, image, sbom.MEDIA_TYPE, sbom.LARGEST):
        present[artifact.data] = artifact.data
    return present
