"""The gateway before the server (release/environments/components/gateway), held as the server is. Pure functions.

It passes every answer on, so it is held like the server: its image is pinned by digest, and people may change in its
Deployment what does not change answers. Its settings are variables of a ConfigMap of theirs.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from release.overlay.allowed import Rule, anything, between, keys, kind, rolls, shown
from release.overlay.server import CONTAINER_RULES, PATIENCE, POD, differences

NAME = "gateway"
COMPONENT = "../components/gateway"
PLACEHOLDER = "lockstep.invalid/gateway"  # `images:` of an environment replaces it
LABELS = {"app.kubernetes.io/name": NAME}
ENVIRONMENT = "LOCKSTEP_GATEWAY_ENVIRONMENT"
_CONFIG = re.compile(r"gateway(-[a-z0-9]{10})?")  # kustomize adds a hash of the content
_SETTINGS = "LOCKSTEP_GATEWAY_"  # the gateway refuses to start with one that it does not know
# Settings of a client of an object store. Not those that name a file or a program from which a login comes, because
# such a file can name any program: AWS_CONFIG_FILE, GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES.
_OF_A_STORE = (
    "AWS_CA_BUNDLE", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION",
    "AWS_REQUEST_CHECKSUM_CALCULATION", "AWS_RESPONSE_CHECKSUM_VALIDATION", "GOOGLE_APPLICATION_CREDENTIALS",
    "GOOGLE_CLOUD_PROJECT",
)  # fmt: skip
_LOGIN = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")  # from the Secret `gateway`
_SETTING = re.compile(r"LOCKSTEP_GATEWAY_[A-Z_]{1,40}=[^\n]*\S[^\n]*")

_CONTAINER: dict[str, Any] = {
    "name": NAME,
    "command": ["python3", "-I", "-m", "release.cli"],
    "env": [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": NAME, "key": name, "optional": True}}} for name in _LOGIN
    ],
    "args": [
        "-C", "/work", "gateway", "http://server-pods:8000", "http://server-pods:8080", "--host=0.0.0.0", "--drain=600",
    ],
    "ports": [{"name": "http", "containerPort": 8080}, {"name": "metrics", "containerPort": 9464}],
    "lifecycle": {"preStop": {"sleep": {"seconds": 10}}},
    "readinessProbe": {"httpGet": {"path": "/ready", "port": "metrics"}},
    "livenessProbe": {"httpGet": {"path": "/health", "port": "metrics"}},
    "securityContext": {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    },
    "volumeMounts": [
        {"name": "work", "mountPath": "/work"},
        {"name": "keys", "mountPath": "/etc/lockstep", "readOnly": True},
    ],
}  # fmt: skip
_PODS: dict[str, Any] = {
    "automountServiceAccountToken": False,
    "enableServiceLinks": False,
    "terminationGracePeriodSeconds": 660,
    "securityContext": {
        "runAsNonRoot": True, "runAsUser": 10001, "fsGroup": 10001, "seccompProfile": {"type": "RuntimeDefault"},
    },
    "volumes": [
        {"name": "work", "emptyDir": {}},
        {"name": "keys", "secret": {"secretName": "gateway-keys", "optional": True}},
    ],
}  # fmt: skip


def uses(own: Mapping[str, Any]) -> bool:
    """Whether an environment's own kustomization names the component."""
    listed = own.get("components")
    return isinstance(listed, list) and COMPONENT in listed


def settings(environment: str, own: Mapping[str, Any], others: Collection[str]) -> Iterator[str]:
    """What is missing in an environment's own kustomization that names the component; nothing if it does not.

    ``others``: environments whose requests it may count, if ``exposed`` finds that their routes lead here.
    """
    if not uses(own):
        return
    if image(own) is None:
        yield f"images: name the gateway as {PLACEHOLDER}, by digest"
    said = f"{ENVIRONMENT}={environment}"
    generated = own.get("configMapGenerator")
    maps = [each for each in generated if isinstance(each, dict)] if isinstance(generated, list) else []
    (found, *_) = [each for each in maps if each.get("name") == NAME] or [{}]
    literals = found.get("literals")
    named = [each for each in literals if str(each).startswith(ENVIRONMENT)] if isinstance(literals, list) else []
    if named != [said] and named not in [[f"{ENVIRONMENT}={other}"] for other in others]:
        yield f"configMapGenerator: add `gateway` with literals: [{said}]: metrics and captures name the environment"


def image(own: Mapping[str, Any]) -> str | None:
    """NAME@sha256:… of the gateway in an environment's own kustomization."""
    listed = own.get("images")
    entries = [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
    return next((f"{each['newName']}@{each['digest']}" for each in entries if each.get("name") == PLACEHOLDER), None)


def variables_of(objects: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The settings of the gateway among ``objects``, of which ``failures`` found nothing; empty without a gateway."""
    for item in objects:
        if is_one(item):
            (container,) = item["spec"]["template"]["spec"]["containers"]
            name = container["envFrom"][0]["configMapRef"]["name"]
            for each in objects:
                if each.get("kind") == "ConfigMap" and each["metadata"].get("name") == name:
                    data = each.get("data")
                    return {str(key): str(value) for key, value in data.items()} if isinstance(data, dict) else {}
    return {}


def is_offered(environment: str, generated: Any) -> bool:
    """Whether ``configMapGenerator`` has the gateway's settings and nothing else, as the comments offer it."""
    if not isinstance(generated, list) or len(generated) != 1 or not isinstance(generated[0], dict):
        return False
    literals = generated[0].get("literals")
    return (
        generated[0].keys() == {"name", "literals"}
        and generated[0]["name"] == NAME
        and isinstance(literals, list)
        and all(isinstance(each, str) and _SETTING.fullmatch(each) for each in literals)
        and f"{ENVIRONMENT}={environment}" in literals
    )


def is_one(item: Mapping[str, Any]) -> bool:
    """Whether a Deployment is meant as the gateway: ``failures`` then holds it to be one."""
    metadata = item.get("metadata")
    return item.get("kind") == "Deployment" and isinstance(metadata, dict) and metadata.get("name") == NAME


def failures(item: Mapping[str, Any], image: str | None) -> Iterator[str]:
    """How a Deployment differs from the shipped gateway. ``image``: that of the environment; None: it names none."""
    container = {**_CONTAINER, "image": image or "an image by digest"}
    pod = {**_PODS, "containers": [container]}
    wanted = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": NAME, "labels": LABELS},
        "spec": {
            "selector": {"matchLabels": LABELS},
            "template": {"metadata": {"labels": LABELS}, "spec": pod},
        },
    }
    yield from differences(wanted, item, "", _rules())


def variables(config: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with a ConfigMap if it is the gateway's: variables that are no settings could load other code."""
    metadata, data = config.get("metadata"), config.get("data")
    if not _CONFIG.fullmatch(str(metadata.get("name") if isinstance(metadata, dict) else None)):
        return
    for key, value in data.items() if isinstance(data, dict) else ():
        if not str(key).startswith(_SETTINGS) and key not in _OF_A_STORE:
            yield f"data.{key}: is no setting of the gateway; allowed: {_SETTINGS}…, {', '.join(_OF_A_STORE)}"
        elif not str(value).strip():
            yield f"data.{key}: is empty: give it a value, or remove it"


def _rules() -> dict[str, Rule]:
    """What people may change."""
    at, container = "spec.template.spec", f"spec.template.spec.containers.{NAME}"
    return {
        **{f"{where}.labels": keys(LABELS, server=True) for where in ("metadata", "spec.template.metadata")},
        **{f"{where}.annotations": keys({}, server=True) for where in ("metadata", "spec.template.metadata")},
        "metadata.namespace": anything,  # ``objects`` compares it
        "spec.replicas": between(1, 1000),
        "spec.revisionHistoryLimit": between(0, 100),
        "spec.strategy": rolls,
        "spec.selector.matchLabels": keys(LABELS, server=True),
        **{f"{at}.{key}": rule for key, rule in POD.items() if not key.startswith("securityContext")},
        f"{at}.serviceAccountName": kind(str),  # by which a cloud knows who writes to an object store
        f"{at}.volumes.work.emptyDir.sizeLimit": kind(str, int),
        **{f"{container}.{key}": rule for key, rule in CONTAINER_RULES.items()},
        **{
            f"{container}.{probe}Probe.{key}": rule
            for probe in ("readiness", "liveness")
            for key, rule in PATIENCE.items()
        },
        f"{container}.envFrom": _settings_alone,
    }


def _settings_alone(value: Any) -> str | None:
    """The ConfigMap, by its name."""
    if (
        isinstance(value, list)
        and len(value) == 1
        and isinstance(value[0], dict)
        and value[0].keys() == {"configMapRef"}
    ):
        config = value[0]["configMapRef"]
        if isinstance(config, dict) and config.keys() == {"name"} and _CONFIG.fullmatch(str(config["name"])):
            return None
    return f"is {shown(value)}: settings are of ConfigMap gateway alone"
