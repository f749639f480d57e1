"""Objects of Ratify 1.4 and Gatekeeper, which asks it (https://ratify.dev/docs/plugins/verifier/cosign).

Gatekeeper compares digests with what was promoted. Ratify verifies who signed, and counts the signers. It reads
signatures of images by keys, which `lockstep sign` writes, and no attestations: it does not see the statement. Nor does
version 1.4.4 compare the image that a signature names (it sets no ClaimVerifier), so a copied signature counts.
Ratify's objects are those of one namespace, so that each environment has its own.
"""

from typing import Any

from checks import layout
from checks.errors import EvidenceRefused
from checks.formats.signers import Signer
from release.promotion.admission.admitted import Admitted, Policy

_RATIFY = "config.ratify.deislabs.io/v1beta1"
_KIND = "LockstepPromoted"
_SIGNATURE = "application/vnd.dev.cosign.artifact.sig.v1+json"

_WEAKER = (
    "WEAKER than `lockstep promote`: the list of digests is what decides. Ratify 1.4 does not compare which image a "
    "signature is about, and reads no statement, so it does not check that the release was verified."
)

# Both in version 0 of Rego, which Gatekeeper and Ratify 1.4 take. A rule that is undefined denies nothing, so each way
# in which Ratify can fail to answer has a violation of its own.
_GATEKEEPER = """package locksteppromoted

found[image] { image := input.review.object.spec.containers[_].image }
found[image] { image := input.review.object.spec.initContainers[_].image }
found[image] { image := input.review.object.spec.ephemeralContainers[_].image }
found[image] { image := input.review.object.spec.volumes[_].image.reference }

own[image] { found[image]; image == input.parameters.repositories[_] }
own[image] { found[image]; startswith(image, concat("", [input.parameters.repositories[_], [":", "@"][_]])) }

promoted[image] { own[image]; endswith(image, concat("", ["@", input.parameters.images[_]])) }

keys := [key | own[image]; key := sprintf("[%v]%v", [input.parameters.namespace, image])]

answer := external_data({"provider": "ratify-provider", "keys": keys}) { count(keys) > 0 }

signed[key] { response := answer.responses[_]; response[1].isSuccess == true; key := response[0] }

violation[{"msg": msg}] {
  own[image]
  not promoted[image]
  msg := sprintf("%v: this digest was not promoted here, or is in quarantine", [image])
}

violation[{"msg": msg}] {
  key := keys[_]
  not signed[key]
  msg := sprintf("%v: Ratify does not confirm that enough signers signed it", [key])
}
"""
_RULE = """package ratify.policy

default valid = false

# Each verifier is one signer. Ratify's own verdict is that of the last layer of a signature tag; here each counts.
signed[name] {{
  report := input.verifierReports[_].verifierReports[_]
  report.extensions.signatures[_].verifications[_].isSuccess == true
  name := report.extensions.trustPolicy
}}

valid {{ count(signed) >= {signatures} }}
"""


def policy(admitted: Admitted) -> Policy:
    """Pods of the environment's namespace run only admitted digests of its repositories, signed by enough keys.

    Raises EvidenceRefused if fewer signers have keys than must sign.
    """
    signers = [one for one in admitted.signers if one.key]
    others = [one.name for one in admitted.signers if not one.key]
    if len(signers) < admitted.signatures:
        raise EvidenceRefused(
            f"{admitted.environment}: signatures is {admitted.signatures}, Ratify reads only signatures by keys, and "
            f"{len(signers)} of the signers have a key",
            f"add a signer with a key to {layout.SIGNERS} (`lockstep keys new`), or use another controller",
        )
    notes = [_WEAKER, "While Gatekeeper does not answer, pods are admitted, unless its failurePolicy is Fail."]
    if others:
        notes.append(f"Ratify reads only signatures by keys. Those of {', '.join(others)} do not count.")
    documents = [_ratify(admitted, "Store", "lockstep", {"name": "oras", "parameters": {"cosignEnabled": True}})]
    for number, signer in enumerate(signers, 1):
        documents += _verifier(admitted, f"lockstep-{number}", signer)
    rule = {"passthroughEnabled": False, "policy": _RULE.format(signatures=admitted.signatures)}
    documents.append(_ratify(admitted, "Policy", "ratify-policy", {"type": "rego-policy", "parameters": rule}))
    return Policy((*documents, _template(), _constraint(admitted)), tuple(notes))


def _verifier(admitted: Admitted, name: str, signer: Signer) -> list[dict[str, Any]]:
    """One signer's key, and a verifier of signatures by it."""
    trusted = {
        "name": signer.name,
        "scopes": ["*"],  # Gatekeeper asks about the environment's images alone
        "keys": [{"provider": f"{admitted.namespace}/{name}"}],
        "tLogVerify": False,  # a signature by a key is in no transparency log
    }
    return [
        _ratify(
            admitted, "KeyManagementProvider", name,
            {"type": "inline", "parameters": {"contentType": "key", "value": signer.key}},
        ),
        _ratify(
            admitted, "Verifier", name,
            {
                "name": name, "type": "cosign", "artifactTypes": _SIGNATURE, "parameters": {"trustPolicies": [trusted]},
            },
        ),
    ]  # fmt: skip


def _ratify(admitted: Admitted, kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    metadata = {"name": name, "namespace": admitted.namespace}
    return {"apiVersion": _RATIFY, "kind": f"Namespaced{kind}", "metadata": metadata, "spec": spec}


def _template() -> dict[str, Any]:
    """The same for every environment of a cluster."""
    lists = ("repositories", "images")
    parameters: dict[str, Any] = {name: {"type": "array", "items": {"type": "string"}} for name in lists}
    parameters["namespace"] = {"type": "string"}
    return {
        "apiVersion": "templates.gatekeeper.sh/v1",
        "kind": "ConstraintTemplate",
        "metadata": {"name": _KIND.lower()},
        "spec": {
            "crd": {
                "spec": {
                    "names": {"kind": _KIND},
                    "validation": {"openAPIV3Schema": {"type": "object", "properties": parameters}},
                }
            },
            "targets": [{"target": "admission.k8s.gatekeeper.sh", "rego": _GATEKEEPER}],
        },
    }


def _constraint(admitted: Admitted) -> dict[str, Any]:
    return {
        "apiVersion": "constraints.gatekeeper.sh/v1beta1",
        "kind": _KIND,
        "metadata": {"name": f"lockstep-{admitted.environment}"},
        "spec": {
            "enforcementAction": "deny",
            "match": {"kinds": [{"apiGroups": [""], "kinds": ["Pod"]}], "namespaces": [admitted.namespace]},
            "parameters": {
                "namespace": admitted.namespace,
                "repositories": list(admitted.written),
                "images": list(admitted.images),
            },
        },
    }
