"""Checks all objects of an environment: one server as the release says, and otherwise only kinds that do not affect it.

Objects that can change the server, start something in its place or take its requests are not allowed: admission
webhooks and policies, other workloads, jobs, roles, Ingress, Endpoints. Only kinds in ``_BESIDE`` are accepted, so an
unknown kind is refused. Pure functions.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from release.overlay import gateway, monitored, rollout, server
from release.overlay.allowed import addressed, group_and_kind, keys, shown
from release.overlay.overlays import CONTAINER, LABEL
from release.overlay.server import SELECTED

_ADDRESSED = (("", "Service"), ("gateway.networking.k8s.io", "HTTPRoute"))
_SERVERS = (CONTAINER, "server-pods")  # Services of the server. By the second the gateway finds its pods.
_METADATA = {"name", "namespace", "labels", "annotations"}
_SERVICE = {
    "selector", "ports", "type", "clusterIP", "sessionAffinity", "sessionAffinityConfig", "ipFamilies",
    "ipFamilyPolicy", "internalTrafficPolicy", "externalTrafficPolicy", "loadBalancerClass", "loadBalancerSourceRanges",
    "allocateLoadBalancerNodePorts", "trafficDistribution",
}  # fmt: skip


def failures(
    objects: Sequence[Mapping[str, Any]],
    patch: Mapping[str, Any],
    namespace: str,
    image: str | None,
    gateway_image: str | None = None,
) -> list[str]:
    """What is wrong with ``objects``, everything that an environment builds to; one line each.

    ``patch`` is the release (release/deployment/server.yaml). ``namespace`` and the images are those that the
    environment names; ``image`` is the server of weights alone.
    """
    servers = [item for item in objects if _is_server(item)]
    before = next((item for item in objects if gateway.is_one(item)), None)
    if len(servers) != 1:
        there = ", ".join(map(_called, servers)) or "none"
        return [f"there must be exactly one Deployment or InferenceService, found {there}"]
    (item,) = servers
    found = [f"{_called(each)}: {failure}" for each in objects for failure in _of_any(each, namespace)]
    found += [f"{_called(item)}: {failure}" for failure in server.failures(item, patch, image)]
    if before is not None:
        found += [f"{_called(before)}: {failure}" for failure in gateway.failures(before, gateway_image)]
    found += rollout.failures(objects, item, patch["metadata"]["annotations"])
    for each in objects:
        if rule := _BESIDE.get(group_and_kind(each)):
            about = before if before is not None and _is_about_the_gateway(each) else item
            if about is item and rule in (_scaler, _keda):
                about = rollout.of(objects) or item
            found += [f"{_called(each)}: {failure}" for failure in rule(each, about)]
    return [*found, *_missing(objects, item)]


def _is_server(item: Mapping[str, Any]) -> bool:
    workload = group_and_kind(item) in (("apps", "Deployment"), ("serving.kserve.io", "InferenceService"))
    return workload and not gateway.is_one(item)


def _is_about_the_gateway(item: Mapping[str, Any]) -> bool:
    """Whether a Service, a budget or a scaler names the gateway, and not the server."""
    spec = _spec(item)
    selector, target = spec.get("selector"), spec.get("scaleTargetRef")
    if isinstance(target, dict):
        return target.get("name") == gateway.NAME
    if isinstance(selector, dict):
        labels = selector.get("matchLabels", selector)
        return isinstance(labels, dict) and labels.get(LABEL) == gateway.NAME
    return False


def _of_any(item: Mapping[str, Any], namespace: str) -> Iterator[str]:
    """Rules for every object."""
    if not _is_server(item) and not gateway.is_one(item) and group_and_kind(item) not in _BESIDE:
        kind = group_and_kind(item)[1]
        yield f"an environment brings no {kind}: keep it in a folder of its own (docs/reference/environment-files.md)"
        return
    metadata = item.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    if metadata.get("namespace") != namespace:
        yield f"metadata.namespace: is {shown(metadata.get('namespace'))}, the environment's is {namespace!r}"
    if more := sorted(metadata.keys() - _METADATA):
        yield f"metadata: {more[0]}: only {', '.join(sorted(_METADATA))} are allowed"
    rule = addressed() if group_and_kind(item) in _ADDRESSED else keys({}, server=False)
    for key in ("labels", "annotations"):
        if (
            not _is_server(item)
            and not gateway.is_one(item)
            and group_and_kind(item)[0] != rollout.GROUP
            and metadata.get(key)
            and (problem := rule(metadata[key]))
        ):
            yield f"metadata.{key}: {problem}"


def _missing(objects: Sequence[Mapping[str, Any]], item: Mapping[str, Any]) -> Iterator[str]:
    """Objects of the base that no patch may remove. KServe creates its own Service."""
    policies = [each for each in objects if group_and_kind(each) == ("networking.k8s.io", "NetworkPolicy")]
    policies = [each for each in policies if _selects(_spec(each).get("podSelector"), item)]
    if not any("Egress" in (_spec(each).get("policyTypes") or ()) for each in policies):
        yield f"{_called(item)}: no NetworkPolicy closes its way out: keep the base's"
    if not any(_spec(each).get("ingress") for each in policies):
        yield f"{_called(item)}: no NetworkPolicy lets a request in: keep a rule in `ingress`"
    if item.get("kind") != "Deployment":
        return
    if not any(group_and_kind(each) == ("", "Service") for each in objects):
        yield f"{_called(item)}: no Service leads to it: keep the base's"
    if not _selects(_spec(item).get("selector"), item):
        yield f"{_called(item)}: spec.selector: does not select its own pods"


def _service(service: Mapping[str, Any], item: Mapping[str, Any]) -> Iterator[str]:
    spec, name = _spec(service), service["metadata"].get("name")
    selector = spec.get("selector")
    # Routes lead to the Service gateway, which must not be one of the server: there no API key is asked for.
    wrong = name == gateway.NAME if not gateway.is_one(item) else name in _SERVERS
    selected = isinstance(selector, dict) and LABEL in selector and _selects({"matchLabels": selector}, item)
    if wrong or not selected:
        wanted = gateway.NAME if name == gateway.NAME else CONTAINER
        yield f"spec.selector: is {shown(selector)}: does not select the {wanted}, and nothing else"
    yield from (f"spec.{key}: leads elsewhere than to the server's port" for key in spec if key not in _SERVICE)
    if spec.get("type") not in (None, "ClusterIP", "NodePort", "LoadBalancer"):
        yield f"spec.type: {shown(spec.get('type'))}: leads elsewhere than to the server's port"
    ports = spec.get("ports")
    for port in ports if isinstance(ports, list) and ports else [None]:
        if not isinstance(port, dict) or port.get("targetPort") != "http" or port.get("protocol", "TCP") != "TCP":
            yield f"spec.ports: {shown(port)}: leads elsewhere than to the server's port, http"


def _network(policy: Mapping[str, Any], _: Mapping[str, Any]) -> Iterator[str]:
    """Network policies add up: any of them may allow more requests in; none may open the server's way out.

    A policy without a selector is for all pods, and the server's pods have labels that only the cluster knows, such as
    KServe's. So a policy that opens a way out names other pods than the server's by ``LABEL``, which those must have.
    """
    spec = _spec(policy)
    selector = spec.get("podSelector")
    labels = selector.get("matchLabels") if isinstance(selector, dict) else None
    name = labels.get(LABEL) if isinstance(labels, dict) else None
    if spec.get("egress") and (not isinstance(name, str) or name == CONTAINER):
        yield (
            f"spec.egress: {shown(spec['egress'])}: a server sends nothing: its weights are in an image. For other "
            f"pods write their {LABEL} in podSelector.matchLabels"
        )


def _disruption(budget: Mapping[str, Any], item: Mapping[str, Any]) -> Iterator[str]:
    selector = _spec(budget).get("selector")
    if not _selects(selector, item):
        yield f"spec.selector: is {shown(selector)}: does not select the server"


def _target(scaler: Mapping[str, Any], item: Mapping[str, Any]) -> Iterator[str]:
    target, name = _spec(scaler).get("scaleTargetRef"), item["metadata"].get("name")
    wanted = {"apiVersion": item.get("apiVersion"), "kind": item.get("kind"), "name": name}
    if target != wanted or item.get("kind") == "InferenceService":
        yield f"spec.scaleTargetRef: is {shown(target)}, the server is {item.get('kind')} {name}"
    elif "replicas" in _spec(item):
        yield f"spec.scaleTargetRef: its {item['kind']} has spec.replicas, which would undo each scaling: remove one"


def _scaler(scaler: Mapping[str, Any], item: Mapping[str, Any]) -> Iterator[str]:
    yield from _target(scaler, item)
    least = _spec(scaler).get("minReplicas", 1)
    if type(least) is not int or least < 1:
        yield f"spec.minReplicas: is {shown(least)}: keep at least 1"


def _keda(scaler: Mapping[str, Any], item: Mapping[str, Any]) -> Iterator[str]:
    yield from _target(scaler, item)
    yield from monitored.scaler(_spec(scaler), scaler["metadata"].get("annotations") or {})


def _data(_: Mapping[str, Any], __: Mapping[str, Any]) -> Iterator[str]:
    """Always accepted: the server neither mounts nor reads these, since the release sets its volumes and variables."""
    yield from ()


def _config(config: Mapping[str, Any], _: Mapping[str, Any]) -> Iterator[str]:
    """Always accepted, but for the gateway's: it reads its variables."""
    yield from gateway.variables(config)


def _external(secret: Mapping[str, Any], _: Mapping[str, Any]) -> Iterator[str]:
    """An ExternalSecret may write a Secret, and no ConfigMap such as the gateway's."""
    target = _spec(secret).get("target")
    if isinstance(target, dict) and "manifest" in target:
        yield f"spec.target.manifest: {shown(target['manifest'])}: an ExternalSecret here writes Secrets alone"


# The allowed kinds by API group and name, each with its check.
_BESIDE: dict[tuple[str, str], Callable[[Mapping[str, Any], Mapping[str, Any]], Iterator[str]]] = {
    ("", "Service"): _service,
    ("networking.k8s.io", "NetworkPolicy"): _network,
    ("policy", "PodDisruptionBudget"): _disruption,
    ("autoscaling", "HorizontalPodAutoscaler"): _scaler,
    ("keda.sh", "ScaledObject"): _keda,
    # ``exposed`` checks these.
    ("gateway.networking.k8s.io", "HTTPRoute"): _data,
    ("gateway.networking.k8s.io", "ReferenceGrant"): _data,
    # ``rollout`` checks these.
    ("argoproj.io", "Rollout"): _data,
    ("argoproj.io", "AnalysisTemplate"): _data,
    # For imagePullSecrets, and whatever people keep beside a server.
    ("", "ConfigMap"): _config,
    ("", "Secret"): _data,
    ("external-secrets.io", "ExternalSecret"): _external,
    ("bitnami.com", "SealedSecret"): _data,
    # Monitoring and alerts.
    ("monitoring.coreos.com", "ServiceMonitor"): _data,
    ("monitoring.coreos.com", "PodMonitor"): _data,
    ("monitoring.coreos.com", "PrometheusRule"): _data,
    ("monitoring.coreos.com", "AlertmanagerConfig"): _data,
}


def _selects(selector: object, item: Mapping[str, Any]) -> bool:
    """Whether a label selector matches the server's pods. Expressions are not evaluated and match nothing."""
    if not isinstance(selector, dict) or not selector.keys() <= {"matchLabels"}:
        return False
    wanted = selector.get("matchLabels", {})
    return isinstance(wanted, dict) and wanted.items() <= {**SELECTED, **server.labels(item)}.items()


def _spec(item: Mapping[str, Any]) -> Mapping[str, Any]:
    found = item.get("spec")
    return found if isinstance(found, dict) else {}


def _called(item: Mapping[str, Any]) -> str:
    metadata = item.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    return f"{shown(item.get('kind'))[1:-1]} {shown(name)[1:-1]}"
