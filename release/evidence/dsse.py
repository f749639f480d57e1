"""DSSE envelopes signed by keys on disk (https://github.com/secure-systems-lab/dsse, protocol 1.0.2).

The signature over the payload's bytes is checked before anything in the payload is read.
"""

import base64
from datetime import datetime
from typing import Any, NamedTuple

from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.signer import CryptoSigner, Signature  # type: ignore[attr-defined] # it has no __all__

from checks.formats.signers import Role, Signer, Signers
from checks.formats.statement import PAYLOAD
from checks.process.errors import EvidenceRefused
from checks.storage.digest import canonical_json
from release.evidence import keys, strict

LARGEST = 1 << 20  # bytes of an envelope or a bundle: a release's lies in git beside its pointer
_FIELDS = {"payload", "payloadType", "signatures"}
_AGAIN = "sign it again with a key of release/policy/signers.yaml"


class Verified(NamedTuple):
    """A verified payload, and the name of its signer."""

    payload: bytes
    signer: str


def sign(payload: bytes, payload_type: str, key: CryptoSigner) -> bytes:
    """Return an envelope of ``payload`` with one signature, as canonical JSON."""
    envelope = Envelope(payload, payload_type, {})
    envelope.sign(key)
    return canonical_json(envelope.to_dict())


def verify(
    data: bytes,
    signers: Signers,
    role: Role,
    where: str = "the envelope",
    at: datetime | None = None,
) -> Verified:
    """The payload of an envelope signed by one of ``signers`` with the role ``role``. ``at`` is as in ``allowed``.

    Raises EvidenceRefused if the envelope is too large, ambiguous or not an in-toto statement, or if its signature is
    missing, not unique, invalid, or by an unknown key or a signer without the role.
    """
    return verify_plain(strict.read(data, where, LARGEST), signers, role, where, at)


def verify_plain(
    plain: dict[str, Any], signers: Signers, role: Role, where: str, at: datetime | None = None
) -> Verified:
    """As ``verify``, for an envelope that is already parsed."""
    if plain.keys() != _FIELDS:
        odd = sorted(plain.keys() ^ _FIELDS)
        raise EvidenceRefused(
            f"{where}: is not a DSSE envelope ({', '.join(map(repr, odd))[:200]})", _AGAIN
        )
    if plain["payloadType"] != PAYLOAD:
        raise EvidenceRefused(
            f"{where}: payloadType is {str(plain['payloadType'])[:80]!r}, not {PAYLOAD}", _AGAIN
        )
    payload = _decoded(plain["payload"], f"{where}: payload")
    keyid, signature = _signature(plain["signatures"], where)
    envelope = Envelope(payload, PAYLOAD, {})
    signer = _signer(envelope.pae(), keyid, signature, signers, where)
    return Verified(payload, allowed(signer, role, where, at))


def allowed(signer: Signer, role: Role, where: str, at: datetime | None = None) -> str:
    """Return the signer's name. Raises EvidenceRefused if the signer does not have the role, or is retired.

    ``at``: when the ledger recorded a move that relies on the signature; None: nothing relies on it yet, so now counts.
    """
    if role not in signer.may:
        may = ", ".join(signer.may)
        raise EvidenceRefused(
            f"{where}: is signed by {signer.name}, who may {may} and not {role}",
            f"let one sign who may {role}",
        )
    if signer.retired(at):
        raise EvidenceRefused(
            f"{where}: is signed by {signer.name}, whose signatures count until {signer.until}",
            f"let a signer sign who may {role} now",
        )
    return signer.name


def _signature(found: Any, where: str) -> tuple[str, bytes]:
    """Return the only signature: its key id, empty if it has none, and its bytes."""
    if not isinstance(found, list) or len(found) != 1:
        count = len(found) if isinstance(found, list) else "no list of"
        raise EvidenceRefused(f"{where}: has {count} signatures, it takes exactly one", _AGAIN)
    (entry,) = found
    if not isinstance(entry, dict) or not {"sig"} <= entry.keys() <= {"sig", "keyid"}:
        raise EvidenceRefused(f"{where}: its signature is not one of sig and keyid", _AGAIN)
    keyid = entry.get("keyid") or ""
    if not isinstance(keyid, str):
        raise EvidenceRefused(f"{where}: its keyid is not text", _AGAIN)
    return keyid, _decoded(entry["sig"], f"{where}: signature")


def _signer(pae: bytes, keyid: str, signature: bytes, signers: Signers, where: str) -> Signer:
    """Return the signer whose key made the signature. The key id only selects keys to try: it is not signed."""
    tried = {name: key for name, key in keys.known(signers).items() if keyid in ("", key.keyid)}
    if not tried:
        what = f"key {keyid[:12]!r}" if keyid else "a key, and no signer has one,"
        raise EvidenceRefused(f"{where}: is signed by {what} that is unknown here", _AGAIN)
    for signer in signers:
        if key := tried.get(signer.name):
            try:
                key.verify_signature(Signature(key.keyid, signature.hex()), pae)
            except UnverifiedSignatureError:
                continue
            return signer
    names = ", ".join(tried)
    raise EvidenceRefused(f"{where}: its signature is not by {names} over this payload", _AGAIN)


def _decoded(text: Any, where: str) -> bytes:
    """Base64 in its strict form: standard alphabet, padded, no other characters."""
    try:
        data = base64.b64decode(text, validate=True) if isinstance(text, str) else None
    except ValueError:
        data = None
    if not data or base64.b64encode(data).decode() != text:
        raise EvidenceRefused(f"{where}: is not base64 in its standard form", _AGAIN)
    return data
