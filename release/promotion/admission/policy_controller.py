"""A ClusterImagePolicy of Sigstore's policy-controller (https://docs.sigstore.dev/policy-controller/overview/).

It has no selection by namespace: it covers every namespace with the label ``policy.sigstore.dev/include: "true"``.
"""

from typing import Any

from checks.formats.signers import Signer
from checks.formats.statement import PREDICATE
from release.promotion.admission.admitted import Admitted, Policy

# In Rego, where a missing field makes a rule undefined, which refuses. CUE would fill it in, and calls too few fields
# incomplete, which policy-controller does not report. Each image among the subjects counts: none hides beside another.
_RELEASE = """package sigstore

admitted := {images}

default isCompliant = false

isCompliant {{
  input.predicate.serving.status == "pass"
  subjects := {{digest | digest := input.subject[_].digest.sha256}}
  count(subjects) > 0
  count(subjects - admitted) == 0
}}
"""
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
    images = ", ".join(f'"{image.removeprefix("sha256:")}"' for image in admitted.images)
    rule = {"type": "rego", "data": _RELEASE.format(images=f"{{{images}}}")}
    attestation = {"name": "release", "predicateType": PREDICATE, "policy": rule}
    return {"name": signer.name, **known, "attestations": [attestation]}
