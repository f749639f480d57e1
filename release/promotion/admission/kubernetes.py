"""A ValidatingAdmissionPolicy, which the API server evaluates itself: Kubernetes 1.30 or newer, and no controller.

https://kubernetes.io/docs/reference/access-authn-authz/validating-admission-policy/
It compares digests. It reads no registry, so signatures and statements are not checked: the list of digests decides.
"""

import json
from typing import Any

from release.promotion.admission.admitted import Admitted, Policy

_API = "admissionregistration.k8s.io/v1"
_DIGESTS_ALONE = (
    "WEAKER than `lockstep promote`: the list of digests is all that decides. The API server reads no registry, so who "
    "signed, and what the statement says, is not checked."
)
_PORT = ":443/"  # a registry's default port, which an image may name or leave out


def policy(admitted: Admitted) -> Policy:
    """Pods of the environment's namespace run only admitted digests of its repositories."""
    # Not by the environment, since several models of one cluster may each have an environment of this name.
    name = f"lockstep-{admitted.namespace}"
    of_namespace = {"matchLabels": {"kubernetes.io/metadata.name": admitted.namespace}}
    binding = {
        "policyName": name,
        "validationActions": ["Deny"],
        "matchResources": {"namespaceSelector": of_namespace},
    }
    documents = (
        _document("ValidatingAdmissionPolicy", name, _spec(admitted)),
        _document("ValidatingAdmissionPolicyBinding", name, binding),
    )
    return Policy(documents, (_DIGESTS_ALONE,), compares_signers=False)


def _document(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": _API, "kind": kind, "metadata": {"name": name}, "spec": spec}


def _spec(admitted: Admitted) -> dict[str, Any]:
    # UPDATE: an image of a pod may be changed, and a debugger's may be added.
    pods = {
        "apiGroups": [""],
        "apiVersions": ["v1"],
        "operations": ["CREATE", "UPDATE"],
        "resources": ["pods", "pods/ephemeralcontainers"],
    }
    repositories = sorted({name.lower().replace(_PORT, "/") for name in admitted.written})
    variables = {
        "repositories": json.dumps(repositories),
        "promoted": json.dumps(list(admitted.images)),
        # What runs already stays: its pod must stay changeable, else it could not even end.
        "before": f"request.operation == 'UPDATE' ? {_images('oldObject')} : []",
        "started": f"{_images('object')}.filter(i, !(i in variables.before))",
        # Registries take a host in any case, and with its port.
        "ours": "variables.started.filter(i, variables.repositories.exists(r, "
        f"[i.lowerAscii().replace('{_PORT}', '/')].exists(n, "
        "n == r || n.startsWith(r + ':') || n.startsWith(r + '@'))))",
        "refused": "variables.ours.filter(i, !variables.promoted.exists(d, i.endsWith('@' + d)))",
    }
    return {
        "failurePolicy": "Fail",
        "matchConstraints": {"resourceRules": [pods]},
        "variables": [
            {"name": name, "expression": expression} for name, expression in variables.items()
        ],
        "validations": [
            {
                "expression": "variables.refused.size() == 0",
                "reason": "Forbidden",
                "messageExpression": f"'not promoted to {admitted.environment}, or in quarantine: ' "
                "+ variables.refused.join(', ')",
            }
        ],
    }


def _images(pod: str) -> str:
    """Return the expression of all images of a pod, those of volumes too, since weights that come alone are one."""
    lists = [
        f"(has({pod}.spec.{name}) ? {pod}.spec.{name}.map(c, c.image) : [])"
        for name in ("containers", "initContainers", "ephemeralContainers")
    ]
    volumes = f"{pod}.spec.volumes.filter(v, has(v.image)).map(v, v.image.reference)"
    return f"({' + '.join((*lists, f'(has({pod}.spec.volumes) ? {volumes} : [])'))})"
