"""Attaches signed statements to an image, and finds them: the valid ones, and why each other does not count."""

import contextlib
import json
from datetime import datetime
from typing import NamedTuple

from checks.formats.signers import Signers
from checks.formats.statement import ENVELOPE, Statement
from checks.process.errors import EvidenceRefused, MachineRefused
from checks.storage import digest
from release.adapters.registry.documents import Descriptor, Store
from release.evidence import (
    attach,
    dsse,
    modelpack,
    sigstore,
    slsa,
    statement,
    trust,
)

# A key signs envelopes. An identity signs bundles, and a key does so for other programs.
TYPES = (ENVELOPE, sigstore.BUNDLE)
BILL = "application/vnd.cyclonedx+json"  # the type of a bill of materials
_LARGEST_BILL = 4 << 20  # bytes


class Released(NamedTuple):
    """A valid statement. ``envelope``: the bytes of its signed envelope; ``digest``: their digest."""

    envelope: bytes
    digest: str
    signer: str
    payload: bytes
    statement: Statement


class Search(NamedTuple):
    """The artifacts that are attached to an image. ``others``: why each artifact that does not count does not."""

    releases: tuple[Released, ...]
    others: tuple[str, ...]


class Signed(NamedTuple):
    """A signed release. ``added``: digests of the newly attached artifacts; empty the second time.

    The bundle of a key's statement, which only other programs read, is not among them.
    """

    statement: Statement
    signer: str
    envelope: bytes
    evidence: str  # the envelope's digest: what an environment's pointer names
    added: tuple[str, ...]


def check(
    data: bytes, image: str, known: Signers, where: str = "the evidence", at: datetime | None = None
) -> Released:
    """Return the release that ``data`` states, signed by one of ``known`` for the image with digest ``image``.

    ``at`` is as in ``trust.verify``. Raises EvidenceRefused if it is invalid or about another image, MachineRefused as
    ``trust.verify``.
    """
    verified = trust.verify(data, known, "release", where, at=at)
    stated = statement.parse(verified.payload, where)
    if stated.predicate.image.image != image:
        raise EvidenceRefused(
            f"{where}: is about the image {stated.predicate.image.image}, not {image}",
            "sign this release: `lockstep sign`",
        )
    return Released(data, digest.of_bytes(data), verified.signer, verified.payload, stated)


def search(store: Store, image: str, known: Signers) -> Search:
    """All statements attached to an image. Invalid ones are skipped and reported: anyone who may push may attach.

    A bundle of what the same signer has an envelope of is left out: it is there for other programs.
    Raises RegistryRefused as the store does.
    """
    releases = dict[str, Released]()
    others, enveloped = list[str](), set[tuple[str, bytes]]()
    for kind in TYPES:
        for one in attach.attached(store, image, kind, dsse.LARGEST, others.append):
            try:
                released = check(one.data, image, known, f"{store.name}@{one.digest}")
            except (EvidenceRefused, MachineRefused) as refused:
                if _provenance(one.data, known) is None:
                    others.append(refused.what)
            else:
                stated = (released.signer, released.payload)
                if kind == ENVELOPE:
                    enveloped.add(stated)
                if kind == ENVELOPE or stated not in enveloped:
                    releases[released.digest] = released
    return Search(tuple(releases.values()), tuple(others))


def _provenance(
    data: bytes, known: Signers, *, offline: bool = False, at: datetime | None = None
) -> dsse.Verified | None:
    """Return SLSA's provenance, which `lockstep sign` attaches beside the release; None if ``data`` is none of it."""
    try:
        verified = trust.verify(data, known, "release", "the provenance", offline=offline, at=at)
    except (EvidenceRefused, MachineRefused):
        return None
    return verified if attach.predicate_type(data) == slsa.PREDICATE else None


def provenance(
    store: Store, image: str, known: Signers, at: datetime | None
) -> tuple[bytes, str] | None:
    """Return the signed provenance of an image, with the name of who signed it; None if none is attached.

    ``at`` is as in ``trust.verify``. Raises as the store does.
    """
    signed = []
    for one in attach.attached(store, image, sigstore.BUNDLE, dsse.LARGEST):
        if verified := _provenance(one.data, known, offline=True, at=at):
            subject = json.loads(verified.payload)["subject"][0]
            if subject["digest"] == {"sha256": image.removeprefix("sha256:")}:
                signed.append((one.data, verified.signer))
    return min(signed, default=None)


def bill_of_materials(store: Store, image: str, wanted: str) -> bytes | None:
    """Return the bill of materials with the digest ``wanted``; None if it is not attached. Raises as the store does."""
    bills = attach.attached(store, image, BILL, _LARGEST_BILL)
    return next((bill.data for bill in bills if digest.of_bytes(bill.data) == wanted), None)


def find(store: Store, image: str, known: Signers, evidence: str | None = None) -> Released:
    """Return the only valid statement of an image, or the one whose envelope has the digest ``evidence``.

    If several signers signed the same statement, the envelope with the lowest digest.

    Raises EvidenceRefused if there is none or more than one, with the reason why each other does not count.
    """
    releases, others = search(store, image, known)
    fitting = [one for one in releases if evidence in (None, one.digest)]
    place = f"{store.name}@{image}"
    if not fitting:
        which = f" with the digest {evidence}" if evidence else ""
        raise EvidenceRefused(
            f"{place}: no signed statement{which} holds" + (f": {others[0]}" if others else " or is there"),
            "sign the release: `lockstep sign`", others[1:],
        )  # fmt: skip
    if len({one.payload for one in fitting}) > 1:
        raise EvidenceRefused(
            f"{place}: {len(fitting)} signed statements hold",
            "name one by its digest",
            tuple(f"{one.digest}, signed by {one.signer}" for one in fitting),
        )
    return min(fitting, key=lambda one: one.digest)


def sign_and_attach(
    store: Store,
    subject: Descriptor,
    signatory: trust.Signatory,
    *,
    stated: bytes,
    weights: bytes,
    bill: bytes,
    pack: modelpack.ModelPack,
) -> Signed:
    """Sign and attach what the same signer did not attach before.

    ``stated``: the statement of the release; ``weights``: that of the weights, as OpenSSF model signing defines it;
    ``bill``: the bill of materials; ``pack``: the weights as a ModelPack, which the provenance names.

    Everything is signed before anything is attached. The statement comes last, so that whoever finds it finds the rest.
    In a registry a statement that a key signed is also attached as a bundle, for other programs.
    """
    own = signatory.own("release")
    present = _present(store, subject.digest, own)
    signed = {weights: present.get(weights) or signatory.bundle(weights)}
    envelope = present.get(stated) or signatory.sign(stated)
    release = check(envelope, subject.digest, own)
    signer = next(signer for signer in own if signer.name == release.signer)
    provenance = slsa.make(release.statement, signer, pack.digest)
    signed[provenance] = present.get(provenance) or signatory.bundle(provenance)
    added = []
    if all(one.digest != pack.digest for one in store.referrers(subject.digest)):
        added.append(modelpack.attach(store, pack))
    if bill not in present:
        added.append(attach.attach(store, subject, BILL, bill, "sbom.cdx.json"))
    for payload, title in ((weights, "model.sig"), (provenance, "provenance.json")):
        if payload not in present:
            added.append(_attach_bundle(store, subject, signed[payload], title))
    if stated not in present and signatory.key:
        added.append(attach.attach(store, subject, ENVELOPE, envelope, "release.json"))
    elif stated not in present:
        added.append(_attach_bundle(store, subject, envelope, "release.json"))
    from release.adapters.registry.client import Repository  # It imports requests.

    if signatory.key and isinstance(store, Repository):
        wrapped = attach.wrap(envelope, signatory.key)
        _attach_bundle(store, subject, wrapped, "release.sigstore.json")
    return Signed(release.statement, release.signer, envelope, release.digest, tuple(added))


def _attach_bundle(store: Store, subject: Descriptor, bundle: bytes, title: str) -> str:
    return attach.attach(store, subject, sigstore.BUNDLE, bundle, title, attach.annotations(bundle))


def _present(store: Store, image: str, own: Signers) -> dict[bytes, bytes]:
    """Return what the same signer attached before: the attached bytes by what they state."""
    attached = search(store, image, own).releases
    present = {release.payload: release.envelope for release in attached}
    for artifact in attach.attached(store, image, sigstore.BUNDLE, dsse.LARGEST):
        with contextlib.suppress(EvidenceRefused):
            verified = trust.verify(artifact.data, own, "release", "a bundle")
            present.setdefault(verified.payload, artifact.data)
    for artifact in attach.attached(store, image, BILL, _LARGEST_BILL):
        present[artifact.data] = artifact.data
    return present
