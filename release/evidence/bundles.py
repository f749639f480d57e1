"""Sigstore bundles signed by a key on disk: the form in which cosign, Kyverno and `model_signing` look for signatures.

cosign and Kyverno read every bundle whose subject is the image; ``annotations`` say what is in one.
"""

import base64
import hashlib
import json
from typing import Any

from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined] # it has no __all__

from checks.storage.digest import canonical_json
from release.evidence import keys, sigstore


def wrap(signed: bytes, key: CryptoSigner) -> bytes:
    """Return the bundle of an envelope that ``key`` signed: the same signature, so the same bytes each time."""
    plain = envelope(signed)
    signatures = [one | {"keyid": ""} for one in plain["signatures"]]  # the bundle's hint says it
    hint = hashlib.sha256(keys.pem(key.public_key).encode()).hexdigest()
    return canonical_json(
        {
            "mediaType": sigstore.BUNDLE,
            "verificationMaterial": {"publicKey": {"hint": hint}, "tlogEntries": []},
            "dsseEnvelope": plain | {"signatures": signatures},
        }
    )


def envelope(data: bytes) -> dict[str, Any]:
    """Return the DSSE envelope in ``data``, which is one or is a bundle of one; its signature was checked."""
    plain: dict[str, Any] = json.loads(data)
    found: dict[str, Any] = plain.get("dsseEnvelope", plain)
    return found


def annotations(bundle: bytes) -> dict[str, str]:
    """Return what cosign writes beside a bundle of a statement."""
    return {
        "dev.sigstore.bundle.content": "dsse-envelope",
        "dev.sigstore.bundle.predicateType": predicate_type(bundle),
    }


def predicate_type(data: bytes) -> str:
    """Return the predicate's type of the statement in an envelope or bundle whose signature was checked."""
    said: str = json.loads(base64.b64decode(envelope(data)["payload"]))["predicateType"]
    return said
