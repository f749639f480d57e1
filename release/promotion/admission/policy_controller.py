"""A ClusterImagePolicy of Sigstore's policy-controller 0.15 or newer (https://docs.sigstore.dev/policy-controller/overview/).

It reads Sigstore bundles of identities alone: with a key it looks for the tags of cosign 2, which `lockstep sign` does
not write. It has no selection by namespace: it covers each namespace with the label ``policy.sigstore.dev/include``.
"""

from typing import Any

from checks.formats.signers import Signer
from checks.formats.statement import PREDICATE
from checks.process.errors import EvidenceRefused
from release.promotion.admission.admitted import Admitted, Policy, certified

# In Rego a missing field makes a rule undefined, which refuses. CUE would fill the field in. Each image among the
# subjects counts, so that none hides beside another.
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
_COVERS = (
    'It covers every namespace with the label policy.sigstore.dev/include: "true". An image must satisfy the policies '
    "of all environments of the cluster."
)
_VOLUMES = "Images of volumes are not checked by policy-controller up to 0.15.1: weights that come alone are one."

_UNSIGNED = (
    "Keep enable-oci11 off in config-policy-controller: with it, up to 0.15.1, attached attestations count without a "
    "check of their signatures."
)


def policy(admitted: Admitted) -> Policy:
    """Only admitted images of the environment's repositories run, signed by as many of the signers as must sign.

    Raises EvidenceRefused if one of the signers has a key.
    """
    by_key = ", ".join(signer.name for signer in admitted.signers if signer.key)
    if by_key:
        raise EvidenceRefused(
            f"policy-controller reads no bundle that a key signed, and {by_key} may release with a key",
            f"run `lockstep admission {admitted.environment} --for kyverno`, which reads keys too",
        )
    spec: dict[str, Any] = {
        "mode": "enforce",
        "images": [
            {"glob": f"{name}{end}"} for name in admitted.repositories for end in (":**", "@**")
        ],
        "authorities": [_authority(signer, admitted) for signer in admitted.signers],
    }
    if admitted.signatures > 1:
        # One authority is enough unless a policy about the authorities that hold asks for more.
        spec["policy"] = {"type": "rego", "data": _ENOUGH.format(signatures=admitted.signatures)}
    document = {
        "apiVersion": "policy.sigstore.dev/v1beta1",
        "kind": "ClusterImagePolicy",
        "metadata": {"name": f"lockstep-{admitted.environment}"},
        "spec": spec,
    }
    return Policy((document,), (_COVERS, _VOLUMES, _UNSIGNED))


def _authority(signer: Signer, admitted: Admitted) -> dict[str, Any]:
    images = ", ".join(f'"{image.removeprefix("sha256:")}"' for image in admitted.images)
    rule = {"type": "rego", "data": _RELEASE.format(images=f"{{{images}}}")}
    return {
        "name": signer.name,
        "keyless": {"url": "https://fulcio.sigstore.dev", "identities": [certified(signer)]},
        "signatureFormat": "bundle",
        "attestations": [{"name": "release", "predicateType": PREDICATE, "policy": rule}],
    }
