"""A ClusterPolicy of Kyverno 1.13 or newer, with a rule ``verifyImages`` (https://kyverno.io/docs/policy-types/cluster-policy/verify-images/)."""

from typing import Any

from checks.formats.signers import Signer
from checks.formats.statement import PREDICATE
from release.promotion.admission.admitted import Admitted, Policy

# Kyverno looks at containers alone unless it is told where else images are: weights that come alone are a volume.
_IMAGES = {
    "containers": "/spec/containers/*/image",
    "initContainers": "/spec/initContainers/*/image",
    "ephemeralContainers": "/spec/ephemeralContainers/*/image",
    "volumes": "/spec/volumes/*/image/reference",
}


def policy(admitted: Admitted) -> Policy:
    """Pods of the environment's namespace run only admitted images of its repositories.

    An entry of ``verifyImages`` reads signatures by keys or by identities, and several entries must all hold. So both
    kinds cannot be counted together: then one signature of the current release's kind is enough, and a note says so.
    """
    own = [one for one in admitted.signers if (one.key is not None) == admitted.by_key]
    others = [one.name for one in admitted.signers if one not in own]
    if not others:
        return Policy(_document(admitted, own, admitted.signatures))
    kind, names = "a key" if admitted.by_key else "an identity", ", ".join(others)
    note = f"Signatures by {kind} count, as the current release has one. Those of {names} do not."
    if admitted.signatures > 1:
        note += (
            f" WEAKER than `lockstep promote`: one signature is enough instead of {admitted.signatures}. Kyverno "
            "cannot count keys and identities together."
        )
    return Policy(_document(admitted, own, 1), (note,))


def _document(admitted: Admitted, signers: list[Signer], count: int) -> dict[str, Any]:
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
                    "match": {"any": [{"resources": {"kinds": ["Pod"], "namespaces": [admitted.namespace]}}]},
                    "imageExtractors": {"Pod": [{"name": name, "path": path} for name, path in _IMAGES.items()]},
                    "verifyImages": [
                        {
                            "type": "Cosign" if admitted.by_key else "SigstoreBundle",
                            "failureAction": "Enforce",
                            "imageReferences": [
                                f"{name}{end}" for name in admitted.repositories for end in (":*", "@*")
                            ],
                            "mutateDigest": True,
                            "verifyDigest": True,
                            "required": True,
                            "attestations": [
                                {
                                    "type": PREDICATE,
                                    "attestors": [{"count": count, "entries": [_entry(one) for one in signers]}],
                                    "conditions": [{"all": _conditions(admitted)}],
                                }
                            ],
                        }
                    ],
                }
            ],
        },
    }


def _entry(signer: Signer) -> dict[str, Any]:
    if signer.key is None:
        rekor = {"url": "https://rekor.sigstore.dev"}
        return {"keyless": {"subject": signer.identity, "issuer": signer.issuer, "rekor": rekor}}
    # A signature by a key is in no transparency log.
    return {"keys": {"publicKeys": signer.key, "rekor": {"ignoreTlog": True}, "ctlog": {"ignoreSCT": True}}}


def _conditions(admitted: Admitted) -> list[dict[str, Any]]:
    """About fields of the predicate, which is what Kyverno's variables name here."""
    return [
        {"key": "{{ image.image }}", "operator": "AnyIn", "value": list(admitted.images)},
        {"key": "{{ serving.status }}", "operator": "Equals", "value": "pass"},
    ]
