"""Renders the kustomization.yaml of an environment from its environment.yaml. Pure functions.

It names the release in the variant that the environment chose, the components that Lockstep ships, and patches of
single fields. All patches have a target, so that an environment that runs nothing builds to nothing.
"""

import json
from collections.abc import Mapping
from typing import Any

from checks.config.release_params import INVALID_HOST
from checks.storage import plain_yaml
from release.overlay import adapter_component, gateway
from release.overlay.environment_file import (
    ContainerResources,
    EnvironmentFile,
    GatewayKnobs,
    GatewayRoute,
    PodPlacement,
)
from release.overlay.overlays import ADAPTER, CANARY, CONTAINER, GPU, PLACEHOLDER

NAME = "kustomization.yaml"
MONITORING = "monitoring"  # the folder that `lockstep monitor component` writes
GATEWAY_PLACEHOLDER = f"{INVALID_HOST}gateway"
_HEADER = "# Written by `lockstep render {}` from environment.yaml: `promote` refuses edits.\n"
_STRATEGIES: dict[str, dict[str, Any]] = {
    "replace": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}},
    "pause": {"type": "Recreate"},
}
_FOR_GPU_NODES = {"key": GPU, "operator": "Exists", "effect": "NoSchedule"}
# What runs the server in each variant: kind, version of its API, and the path of its pod.
_WORKLOADS: dict[str, tuple[str, str, str]] = {
    "deployment": ("Deployment", "apps/v1", "/spec/template/spec"),
    "rollout": ("Deployment", "apps/v1", "/spec/template/spec"),
    "kserve": ("InferenceService", "serving.kserve.io/v1beta1", "/spec/predictor"),
    "kserve-llm": ("LLMInferenceService", "serving.kserve.io/v1alpha2", "/spec/template"),
}
# Up to so many servers Kubernetes' own strategy, a quarter at a time, is `surge`.
_SURGE_BY_DEFAULT = 3

Operation = dict[str, Any]
Patch = dict[str, Any]


def render(environment: str, file: EnvironmentFile) -> bytes:
    """Render kustomization.yaml. The same arguments give the same bytes."""
    if file.variant == "adapter":
        components = [str(ADAPTER.parent)]
        if file.canary is not None:
            components.append(f"../{file.canary}/{CANARY.parent}")
        return _written(environment, {**adapter_component.COMPONENT, "components": components})
    fields: dict[str, Any] = {
        "namespace": file.namespace,
        "resources": [f"release/{file.variant}"],
        "components": [
            *(f"../components/{name}" for name in file.components),
            *([MONITORING] if file.monitoring else []),
            *(
                f"../../../{adapter_component.folder(project, environment)}"
                for project in file.adapters
            ),
        ],
        "labels": [{"pairs": dict(file.labels)}] if file.labels else [],
        "configMapGenerator": []
        if file.gateway is None
        else [_settings(environment, file, file.gateway)],
        "images": _images(file),
        "patches": [*_server_patches(file), *_network_patches(file), *_gateway_patches(file)],
    }
    written = {key: value for key, value in fields.items() if value}
    document = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", **written}
    return _written(environment, document)


def _written(environment: str, document: Mapping[str, Any]) -> bytes:
    return (_HEADER.format(environment) + plain_yaml.dump(dict(document))).encode()


def _settings(environment: str, file: EnvironmentFile, of_gateway: GatewayKnobs) -> dict[str, Any]:
    """Return the generator of the gateway's ConfigMap, whose name changes with its content."""
    counted = file.canary_of.environment if file.canary_of else environment
    settings = {"LOCKSTEP_GATEWAY_ENVIRONMENT": counted, **of_gateway.settings}
    return {
        "name": gateway.NAME,
        "literals": [f"{name}={value}" for name, value in settings.items()],
    }


def _images(file: EnvironmentFile) -> list[dict[str, str]]:
    of_gateway = None if file.gateway is None else file.gateway.image
    images = {PLACEHOLDER: file.server, GATEWAY_PLACEHOLDER: of_gateway}
    return [
        {"name": placeholder, "newName": image.partition("@")[0], "digest": image.partition("@")[2]}
        for placeholder, image in images.items()
        if image is not None
    ]


def _server_patches(file: EnvironmentFile) -> list[Patch]:
    kind, _, pod = _WORKLOADS[file.variant]
    operations = list[Operation]()
    if file.variant in ("deployment", "kserve-llm"):
        operations.append(_replicas(file))
    if file.variant == "kserve":
        operations.append(_replace("/spec/predictor/minReplicas", file.replicas))
        operations.append(_replace("/spec/predictor/maxReplicas", file.replicas))
    operations += _strategy(file)
    operations += _resource_operations(file.resources, pod)
    if file.gpus:
        operations.append(
            _add(f"{pod}/containers/0/resources/limits/nvidia.com~1gpu", str(file.gpus))
        )
    if file.run_as_non_root:
        operations.append(_add(f"{pod}/securityContext/runAsNonRoot", True))
    tolerations = [_FOR_GPU_NODES, *file.pod.tolerations] if file.gpus else file.pod.tolerations
    operations += _pod_operations(file.pod.model_copy(update={"tolerations": tolerations}), pod)
    patches = _patch(kind, CONTAINER, operations)
    if file.variant == "rollout":
        patches += _patch("Rollout", CONTAINER, [_replicas(file)])
    return patches + _node_selector(file.pod, file.variant, CONTAINER)


def _strategy(file: EnvironmentFile) -> list[Operation]:
    """Return the operation that sets how servers are replaced; none where the default does it."""
    if file.variant == "kserve-llm":
        # KServe 0.20 refuses this field, so it is written only where it makes a difference.
        if file.update == "replace":
            return [_add("/spec/rolloutStrategy", _STRATEGIES["replace"]["rollingUpdate"])]
        if file.replicas and file.replicas > _SURGE_BY_DEFAULT:
            return [_add("/spec/rolloutStrategy", {"maxUnavailable": 0, "maxSurge": 1})]
        return []
    if file.update not in _STRATEGIES:
        return []
    path = "/spec/predictor/deploymentStrategy" if file.variant == "kserve" else "/spec/strategy"
    return [_replace(path, _STRATEGIES[file.update])]


def _network_patches(file: EnvironmentFile) -> list[Patch]:
    """Return the patch by which only ``clients`` reach the gateway, or the server if there is no gateway."""
    if not file.clients:
        return []
    name = CONTAINER if file.gateway is None else gateway.NAME
    return _patch(
        "NetworkPolicy", name, [_add("/spec/ingress/0/from", [dict(peer) for peer in file.clients])]
    )


def _gateway_patches(file: EnvironmentFile) -> list[Patch]:
    if file.gateway is None:
        return []
    pod = "/spec/template/spec"
    operations = [_replace("/spec/replicas", file.gateway.replicas)]
    operations += _resource_operations(file.gateway.resources, pod)
    operations += _pod_operations(file.gateway.pod, pod)
    if file.gateway.service_account is not None:
        operations.append(_add(f"{pod}/serviceAccountName", file.gateway.service_account))
    patches = _patch("Deployment", gateway.NAME, operations)
    patches += _node_selector(file.gateway.pod, "deployment", gateway.NAME)
    if file.gateway.egress:
        ports = [{"protocol": "TCP", "port": port} for port in file.gateway.egress]
        patches += _patch("NetworkPolicy", gateway.NAME, [_add("/spec/egress/-", {"ports": ports})])
    if file.route is not None:
        patches += _patch("HTTPRoute", gateway.NAME, _route_operations(file.route))
    if file.canary_of is not None:
        namespace = _replace("/spec/from/0/namespace", file.canary_of.namespace)
        patches += _patch("ReferenceGrant", gateway.NAME, [namespace])
    return patches


def _route_operations(route: GatewayRoute) -> list[Operation]:
    listener = route.gateway
    operations = [
        _replace("/spec/hostnames", list(route.hosts)),
        _replace("/spec/parentRefs/0/name", listener.name),
        _replace("/spec/parentRefs/0/namespace", listener.namespace),
        _replace("/spec/parentRefs/0/sectionName", listener.listener),
    ]
    if route.canary is not None:
        backend = {"group": "", "kind": "Service", "name": gateway.NAME, "port": 80}
        own = {**backend, "weight": 100 - route.canary.percent}
        other = {**backend, "weight": route.canary.percent, "namespace": route.canary.namespace}
        operations.append(_replace("/spec/rules/0/backendRefs", [own, other]))
    return operations


def _replicas(file: EnvironmentFile) -> Operation:
    """Return the operation that sets the number of servers, or leaves it to a scaler."""
    if file.replicas is None:
        return {"op": "remove", "path": "/spec/replicas"}
    return _replace("/spec/replicas", file.replicas)


def _resource_operations(resources: ContainerResources, pod: str) -> list[Operation]:
    return [
        _add(f"{pod}/containers/0/resources/{kind}/{name.replace('/', '~1')}", quantity)
        for kind, quantities in (("requests", resources.requests), ("limits", resources.limits))
        for name, quantity in quantities.items()
    ]


def _pod_operations(pod: PodPlacement, path: str) -> list[Operation]:
    fields = pod.fields()
    fields.pop("nodeSelector", None)
    return [_add(f"{path}/{name}", value) for name, value in fields.items()]


def _node_selector(pod: PodPlacement, variant: str, name: str) -> list[Patch]:
    """Return a patch that is merged, so that the architecture that a release asks for stays."""
    if not pod.node_selector:
        return []
    kind, api_version, path = _WORKLOADS[variant]
    merged: dict[str, Any] = {"nodeSelector": pod.node_selector}
    for key in reversed(path.strip("/").split("/")):
        merged = {key: merged}
    named = {"apiVersion": api_version, "kind": kind, "metadata": {"name": name}}
    return [{"target": {"kind": kind, "name": name}, "patch": json.dumps(named | merged)}]


def _patch(kind: str, name: str, operations: list[Operation]) -> list[Patch]:
    if not operations:
        return []
    return [{"target": {"kind": kind, "name": name}, "patch": json.dumps(operations)}]


def _add(path: str, value: Any) -> Operation:
    return {"op": "add", "path": path, "value": value}


def _replace(path: str, value: Any) -> Operation:
    return {"op": "replace", "path": path, "value": value}
