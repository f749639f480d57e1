"""A ClusterImagePolicy of Sigstore's policy-controller (https://docs.sigstore.dev/policy-controller/overview/).

It has no selection by namespace: it covers every namespace with the label ``policy.sigstore.dev/include: "true"``.
"""

from typing import Any

from checks.formats.signers import Signer
from checks.formats.statement import PREDICATE
from release.promotion.admission.admitted import Admitted, Policy

# Not in CUE: there too few fields are no error but an incomplete value, of which policy-controller says nothing.
_ENOUGH = """package sigstore

default isCompliant = false

isCompliant {{ count(input.authorityMatches) >= {signatures} }}
"""


def policy(admitted: Admitted) -> Policy:
    """Only admitted images of the environment's repositories run, signed by as many of the signers as must sign."""
    spec: dict[str, Any] = {
        "mode": "enforce",
        "images": [{"glob": f"{name}{end}"} for name in admitted.repositories for end in (":**", "@**")],
        "authorities": [_authority(signer, admitted) for signer in admitted.signers],
    }
    if admitted.signatures > 1:  # one authority is enough, unless a policy about those that hold asks for more
        spec["policy"] = {"type": "rego", "data": _ENOUGH.format(signatures=admitted.signatures)}
    document = {
        "apiVersion": "policy.sigstore.dev/v1beta1",
        "kind": "ClusterImagePolicy",
        "metadata": {"name": f"lockstep-{admitted.environment}"},
        "spec": spec,
    }
    return Policy((document,))


def _authority(signer: Signer, admitted: Admitted) -> dict[str, Any]:
    known: dict[str, Any] = {"key": {"data": signer.key, "hashAlgorithm": "sha256"}}
    if signer.key is None:
        identity = {"subject": signer.identity, "issuer": signer.issuer}
        known = {
            "keyless": {"url": "https://fulcio.sigstore.dev", "identities": [identity]}, "signatureFormat": "bundle",
        }  # fmt: skip
    attestation = {"name": "release", "predicateType": PREDICATE, "policy": {"type": "cue", "data": _cue(admitted)}}
    return {"name": signer.name, **known, "attestations": [attestation]}


def _cue(admitted: Admitted) -> str:
    images = " | ".join(f'"{image}"' for image in admitted.images)
    return f'predicateType: "{PREDICATE}"\npredicate: image: image: {images}\npredicate: serving: status: "pass"\n'
