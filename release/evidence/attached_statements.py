"""Finds the signed statements attached to an image: the valid ones, and why each other does not count."""

from datetime import datetime
from typing import NamedTuple

from checks.formats.signers import Signers
from checks.formats.statement import ENVELOPE, Statement
from checks.process.errors import EvidenceRefused, MachineRefused
from checks.storage import digest
from release.adapters.registry.documents import Store
from release.evidence import attach, dsse, sigstore, slsa, statement, trust

# A key signs envelopes. An identity signs bundles, and a key does so for other programs.
TYPES = (ENVELOPE, sigstore.BUNDLE)


class Released(NamedTuple):
    """A valid statement. ``envelope``: the bytes of its signed envelope; ``digest``: their digest."""

    envelope: bytes
    digest: str
    signer: str
    payload: bytes
    statement: Statement


class Search(NamedTuple):
    """The artifacts that are attached to an image. ``others``: why each artifact that does not count does not."""

    found: tuple[Released, ...]
    others: tuple[str, ...]


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
    found, others, enveloped = dict[str, Released](), list[str](), set[tuple[str, bytes]]()
    for kind in TYPES:
        for one in attach.attached(store, image, kind, dsse.LARGEST, others.append):
            try:
                released = check(one.data, image, known, f"{store.name}@{one.digest}")
            except (EvidenceRefused, MachineRefused) as refused:
                if not _is_provenance(one.data, known):
                    others.append(refused.what)
            else:
                stated = (released.signer, released.payload)
                if kind == ENVELOPE:
                    enveloped.add(stated)
                if kind == ENVELOPE or stated not in enveloped:
                    found[released.digest] = released
    return Search(tuple(found.values()), tuple(others))


def _is_provenance(data: bytes, known: Signers) -> bool:
    """Whether one of ``known`` signed it as SLSA's provenance, which `lockstep sign` attaches beside the release."""
    try:
        trust.verify(data, known, "release", "the provenance")
    except (EvidenceRefused, MachineRefused):
        return False
    return attach.predicate_type(data) == slsa.PREDICATE


def find(store: Store, image: str, known: Signers, evidence: str | None = None) -> Released:
    """Return the only valid statement of an image, or the one whose envelope has the digest ``evidence``.

    If several signers signed the same statement, the envelope with the lowest digest.

    Raises EvidenceRefused if there is none or more than one, with the reason why each other does not count.
    """
    found, others = search(store, image, known)
    fitting = [one for one in found if evidence in (None, one.digest)]
    where = f"{store.name}@{image}"
    if not fitting:
        which = f" with the digest {evidence}" if evidence else ""
        raise EvidenceRefused(
            f"{where}: no signed statement{which} holds" + (f": {others[0]}" if others else " or is there"),
            "sign the release: `lockstep sign`", others[1:],
        )  # fmt: skip
    if len({one.payload for one in fitting}) > 1:
        signed = tuple(f"{one.digest}, signed by {one.signer}" for one in fitting)
        raise EvidenceRefused(
            f"{where}: {len(fitting)} signed statements hold", "name one by its digest", signed
        )
    return min(fitting, key=lambda one: one.digest)
