"""A ClusterPolicy of Kyverno 1.13 or newer: a rule ``verifyImages`` and a rule ``validate`` (https://kyverno.io/docs/policy-types/cluster-policy/verify-images/).

Kyverno itself accepts only statements that have the image as a subject. But a signer can write anything into a
statement, so the second rule compares the digests of the pod's images with the promoted ones.
"""

from typing import Any

from checks.formats.signers import Signer
from checks.formats.statement import PREDICATE
from release.promotion.admission.admitted import Admitted, Policy, certified

# Kyverno looks at containers alone unless it is told where else images are: weights that come alone are a volume.
_IMAGES = {
    "containers": "/spec/containers/*/image",
    "initContainers": "/spec/initContainers/*/image",
    "ephemeralContainers": "/spec/ephemeralContainers/*/image",
    "volumes": "/spec/volumes/*/image/reference",
}

# Lists whose elements have an image, and how to get it. ``|| ''``: most volumes have none.
_ELEMENTS = {
    "request.object.spec.[ephemeralContainers, initContainers, containers][]": "{{ element.image }}",
    "request.object.spec.volumes": "{{ element.image.reference || '' }}",
}


def policy(admitted: Admitted) -> Policy:
    """Return the policy: pods of the environment's namespace run only admitted images of its repositories.

    Signatures are read from Sigstore bundles, which `lockstep sign` attaches for keys and identities.
    """
    by_key = ", ".join(signer.name for signer in admitted.signers if signer.key)
    note = f"Keys ({by_key}) count in Kyverno 1.19 or newer: an earlier version reads no bundle that a key signed."
    return Policy((_document(admitted),), (note,) if by_key else ())


def _document(admitted: Admitted) -> dict[str, Any]:
    pods = {"kinds": ["Pod"], "namespaces": [admitted.namespace]}
    # About fields of the predicate, which is what Kyverno's variables name here.
    conditions = [
        {"key": "{{ image.image }}", "operator": "AnyIn", "value": list(admitted.images)},
        {"key": "{{ serving.status }}", "operator": "Equals", "value": "pass"},
    ]
    signers = {"count": admitted.signatures, "entries": [_entry(one) for one in admitted.signers]}
    return {
        "apiVersion": "kyverno.io/v1",
        "kind": "ClusterPolicy",
        "metadata": {
            "name": f"lockstep-{admitted.environment}",
            # Without it Kyverno derives rules for Deployments, which have their images elsewhere.
            "annotations": {"pod-policies.kyverno.io/autogen-controllers": "none"},
        },
        "spec": {
            "background": False,
            "webhookConfiguration": {"failurePolicy": "Fail", "timeoutSeconds": 30},
            "rules": [
                {
                    "name": "promoted",
                    "match": {"any": [{"resources": pods}]},
                    "imageExtractors": {
                        "Pod": [{"name": name, "path": path} for name, path in _IMAGES.items()]
                    },
                    "verifyImages": [
                        {
                            "type": "SigstoreBundle",
                            "failureAction": "Enforce",
                            "imageReferences": [
                                f"{name}{end}"
                                for name in admitted.repositories
                                for end in (":*", "@*")
                            ],
                            "mutateDigest": True,
                            "verifyDigest": True,
                            "required": True,
                            "attestations": [
                                {
                                    "type": PREDICATE,
                                    "attestors": [signers],
                                    "conditions": [{"all": conditions}],
                                }
                            ],
                        }
                    ],
                },
                {
                    "name": "digest",
                    "match": {"any": [{"resources": pods | {"operations": ["CREATE", "UPDATE"]}}]},
                    "validate": {
                        "failureAction": "Enforce",
                        "message": f"an image of this pod was not promoted to {admitted.environment}",
                        "foreach": [
                            _denied(admitted, elements, image)
                            for elements, image in _ELEMENTS.items()
                        ],
                    },
                },
            ],
        },
    }


def _denied(admitted: Admitted, elements: str, image: str) -> dict[str, Any]:
    """Deny images of the environment's repositories whose digest is no promoted one; the first rule added digests."""
    own = [f"{name}{end}" for name in admitted.written for end in ("", ":*", "@*")]
    conditions = [
        {"key": image, "operator": "AnyIn", "value": own},
        {
            "key": image,
            "operator": "AnyNotIn",
            "value": [f"*@{digest}" for digest in admitted.images],
        },
    ]
    return {"list": elements, "deny": {"conditions": {"all": conditions}}}


def _entry(signer: Signer) -> dict[str, Any]:
    if signer.key is None:
        rekor = {"url": "https://rekor.sigstore.dev"}
        return {"keyless": certified(signer) | {"rekor": rekor}}
    # A signature by a key is in no transparency log.
    return {
        "keys": {
            "publicKeys": signer.key,
            "rekor": {"ignoreTlog": True},
            "ctlog": {"ignoreSCT": True},
        }
    }
