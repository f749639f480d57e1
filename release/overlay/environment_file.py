"""The knobs of an environment: release/environments/ENV/environment.yaml, which people write.

`lockstep render` writes the environment's kustomization.yaml from it (``kustomization``). No knob reaches what a
release sets: image, command, variables, volumes, ports and user of the server.
"""

import functools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, ConfigDict, Field, JsonValue, ValidationError
from pydantic.alias_generators import to_camel

from checks.config.release_params import INVALID_HOST
from checks.process.errors import ParamsRefused
from checks.process.text import redact
from checks.records.sections import Section, problems
from checks.storage import files, layout, plain_yaml
from release.overlay.overlays import ARCHITECTURE, GPU

NAME = "environment.yaml"
PAGE = "docs/reference/environment-files.md"
_GATEWAY_SETTING = re.compile(r"LOCKSTEP_GATEWAY_[A-Z_]{1,40}")
_KEYS = "LOCKSTEP_GATEWAY_KEYS"
# Settings of a client of an object store. Not those that name a file or a program from which a login comes, because
# such a file can name any program: AWS_CONFIG_FILE, GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES.
_STORE_SETTINGS = (
    "AWS_CA_BUNDLE", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION",
    "AWS_REQUEST_CHECKSUM_CALCULATION", "AWS_RESPONSE_CHECKSUM_VALIDATION", "GOOGLE_APPLICATION_CREDENTIALS",
    "GOOGLE_CLOUD_PROJECT",
)  # fmt: skip


def _exists(image: str) -> str:
    """Refuse the name of a placeholder, which kustomize would replace by another image.

    kustomize reads the name of an entry in ``images`` as a regular expression.
    """
    if re.match(INVALID_HOST, image):
        raise ValueError(f"{image[:60]}: no image can have this name")
    return image


def _unique(folders: list[str]) -> list[str]:
    if len(set(folders)) < len(folders):
        raise ValueError("names a project twice")
    return folders


Count = Annotated[int, Field(ge=1, le=1000)]
Namespace = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
ObjectName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]
ImageByDigest = Annotated[
    str, Field(pattern=r"^[^\s@]{1,400}@sha256:[0-9a-f]{64}$"), AfterValidator(_exists)
]
# A folder seen from the project's own, with one / between its parts.
ProjectFolder = Annotated[
    str,
    Field(
        pattern=r"^(\.\./)*[A-Za-z0-9_][A-Za-z0-9._-]{0,99}(/[A-Za-z0-9_][A-Za-z0-9._-]{0,99})*$"
    ),
]
EnvironmentName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,59}$")]
Host = Annotated[str, Field(pattern=r"^(\*\.)?[a-z0-9]([a-z0-9.-]{0,250}[a-z0-9])?$")]
Port = Annotated[int, Field(ge=1, le=65535)]
# A label without a prefix: tools such as Argo CD, Flux and Istio read only labels with one.
LabelKey = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$")]
LabelValue = Annotated[str, Field(pattern=r"^([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?$")]
NodeLabelKey = Annotated[
    str,
    Field(
        pattern=r"^([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$"
    ),
]
ResourceName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9./-]{0,251}[a-z0-9])?$")]
Quantity = Annotated[str, Field(pattern=r"^[0-9]{1,12}(\.[0-9]{1,6})?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$")]
# kustomize takes quotes from both ends of a value, which could leave it empty.
SettingValue = Annotated[str, Field(pattern=r"^[^\s\"'][^\n]*$")]
KubernetesObject = dict[str, JsonValue]
Peer = dict[Literal["podSelector", "namespaceSelector", "ipBlock"], KubernetesObject]


class ContainerResources(Section):
    """Requests and limits of a container, added to those of the base."""

    requests: dict[ResourceName, Quantity] = Field(default_factory=dict)
    limits: dict[ResourceName, Quantity] = Field(default_factory=dict)

    def contradictions(self) -> Iterator[str]:
        """Yield each contradiction. The first one refuses the value."""
        has_gpus = GPU in self.requests or GPU in self.limits
        return problems((has_gpus, f"{GPU}: write their number as `gpus`"))


class PodPlacement(Section):
    """Where a pod runs and who pulls its image. The fields have Kubernetes' own names."""

    model_config = ConfigDict(alias_generator=to_camel)

    node_selector: dict[NodeLabelKey, LabelValue] = Field(default_factory=dict)
    affinity: KubernetesObject = Field(default_factory=dict)
    tolerations: list[KubernetesObject] = Field(default_factory=list)
    topology_spread_constraints: list[KubernetesObject] = Field(default_factory=list)
    priority_class_name: ObjectName | None = None
    runtime_class_name: ObjectName | None = None
    scheduler_name: ObjectName | None = None
    image_pull_secrets: list[dict[Literal["name"], ObjectName]] = Field(default_factory=list)
    resource_claims: list[KubernetesObject] = Field(default_factory=list)

    def contradictions(self) -> Iterator[str]:
        """Yield each contradiction. The first one refuses the value."""
        has_architecture = ARCHITECTURE in self.node_selector
        return problems(
            (has_architecture, f"{ARCHITECTURE}: a release sets it, from serve.platform")
        )

    def fields(self) -> dict[str, Any]:
        """Return the fields that are set, by Kubernetes' names."""
        return self.model_dump(by_alias=True, exclude_defaults=True)


class GatewayKnobs(Section):
    """The gateway before the server. ``egress``: ports that it may reach, such as 443 for an object store."""

    image: ImageByDigest
    replicas: Count = 2
    settings: dict[str, SettingValue] = Field(default_factory=dict)
    resources: ContainerResources = ContainerResources()
    pod: PodPlacement = PodPlacement()
    service_account: ObjectName | None = None
    egress: list[Port] = Field(default_factory=list)

    def contradictions(self) -> Iterator[str]:
        """Yield each variable that is no setting: it could run other code in the gateway."""
        allowed = f"LOCKSTEP_GATEWAY_…, {', '.join(_STORE_SETTINGS)}"
        yield from (
            f"settings: {name[:60]}: is no setting of the gateway; allowed: {allowed}"
            for name in self.settings
            if not _GATEWAY_SETTING.fullmatch(name) and name not in _STORE_SETTINGS
        )
        if "LOCKSTEP_GATEWAY_ENVIRONMENT" in self.settings:
            yield "settings: LOCKSTEP_GATEWAY_ENVIRONMENT is the environment's name, or that of `canary_of`"


class GatewayListener(Section):
    """The listener with TLS of a Gateway (Gateway API)."""

    name: ObjectName = "public"
    namespace: Namespace = "gateways"
    listener: ObjectName = "https"


class CanaryShare(Section):
    """The share of a route's requests that the gateway of another environment gets."""

    namespace: Namespace
    percent: Annotated[int, Field(ge=1, le=50)]


class GatewayRoute(Section):
    """A route from host names to the gateway."""

    hosts: Annotated[list[Host], Field(min_length=1)]
    gateway: GatewayListener = GatewayListener()
    canary: CanaryShare | None = None


class RoutingEnvironment(Section):
    """The environment whose route leads to this environment's gateway, which counts its requests as of that one."""

    environment: EnvironmentName
    namespace: Namespace


class EnvironmentFile(Section):
    """Everything that an environment may say of how its releases run.

    ``replicas``: None: a scaler sets the number of servers. ``update``: ``surge`` starts a new server before an old one
    ends, ``replace`` ends an old one first, ``pause`` ends all first. ``downtime``: whether an update may end every
    server. ``server``: the image in which weights alone run. ``gpus``: of each server; 0: as the release says.
    ``capacity``: GPUs for all servers at a time; None: not known. ``clients``: who may send requests; empty: every pod.
    ``adapters``: folders of the projects whose adapters the server has beside its own. ``canary``: the environment of
    the adapter that is to follow this one, which the same server has too.
    """

    namespace: Namespace | None = None
    variant: Literal["deployment", "kserve", "kserve-llm", "rollout", "adapter"] = "deployment"
    replicas: Count | None = 1
    update: Literal["surge", "replace", "pause"] = "surge"
    downtime: Literal["allowed"] | None = None
    server: ImageByDigest | None = None
    gpus: Annotated[int, Field(ge=0, le=1000)] = 0
    capacity: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    run_as_non_root: bool = False
    resources: ContainerResources = ContainerResources()
    pod: PodPlacement = PodPlacement()
    labels: dict[LabelKey, LabelValue] = Field(default_factory=dict)
    clients: list[Peer] = Field(default_factory=list)
    gateway: GatewayKnobs | None = None
    route: GatewayRoute | None = None
    canary_of: RoutingEnvironment | None = None
    monitoring: bool = False
    adapters: Annotated[list[ProjectFolder], AfterValidator(_unique)] = Field(default_factory=list)
    canary: EnvironmentName | None = None

    @property
    def components(self) -> list[str]:
        """Return the names of the shipped components that the gateway's knobs ask for."""
        knobs = {"gateway": self.gateway, "exposure": self.route, "canary": self.canary_of}
        return [name for name, knob in knobs.items() if knob is not None]

    def contradictions(self) -> Iterator[str]:
        """Yield each contradiction. The first one refuses the value."""
        if self.variant == "adapter":
            others = sorted(self.model_fields_set - {"variant", "canary"})
            if others:
                yield f"variant: adapter: the server is another environment's: remove {', '.join(others)}"
            return
        if self.namespace is None:
            yield "namespace: is missing: name one that is this environment's own"
            return
        yield from problems(
            (
                self.canary is not None,
                "canary: is for `variant: adapter`: a server of its own is written as `route.canary`",
            ),
            (
                self.adapters and self.variant == "rollout",
                "adapters: their moves change no version by which a Rollout is analysed: write another `variant`",
            ),
            (
                self.namespace.startswith("kube-"),
                f"namespace: {self.namespace!r}: name one that is this environment's own",
            ),
            (
                self.gateway is None and (self.route or self.canary_of or self.monitoring),
                "route, canary_of and monitoring need a gateway: add the section `gateway`",
            ),
            (
                self.route and self.gateway and _KEYS not in self.gateway.settings,
                f"route: everyone who knows the host could ask: set {_KEYS}: /etc/lockstep/keys",
            ),
            (
                self.variant in ("kserve", "kserve-llm") and self.replicas is None,
                "replicas: with KServe there is a number of servers: write it",
            ),
            (
                self.variant == "kserve-llm" and self.update == "pause",
                "update: pause: an LLMInferenceService cannot end all servers first: write `replace`",
            ),
            (
                self.variant == "rollout" and self.update != "surge",
                "update: a Rollout replaces its pods step by step: remove it",
            ),
        )


def path(environment: str) -> Path:
    """Return the path of the file in the repository."""
    return layout.ENVIRONMENTS / environment / NAME


def read(environment: str, committed: Mapping[Path, bytes | None]) -> EnvironmentFile:
    """Read the environment's file among ``committed``, by path in the repository.

    Raises ParamsRefused if it is missing or invalid.
    """
    name = path(environment)
    data = committed.get(name)
    if data is None:
        raise ParamsRefused(
            f"{name}: is missing", f"write it ({PAGE}), then `lockstep render {environment}`"
        )
    try:
        return _parsed(data)
    except ValidationError as error:
        raise ParamsRefused(f"{name}: {redact(files.first(error))}", f"see {PAGE}") from error
    except (yaml.YAMLError, ValueError) as error:
        first_line = str(error).partition("\n")[0]
        raise ParamsRefused(
            f"{name}: is not one plain YAML document: {redact(first_line)}", f"see {PAGE}"
        ) from error


@functools.cache
def _parsed(data: bytes) -> EnvironmentFile:
    """Each environment is compared with all others, so each file is asked for many times."""
    return EnvironmentFile.model_validate(plain_yaml.load(data.decode()))


def readable(environment: str, committed: Mapping[Path, bytes | None]) -> EnvironmentFile | None:
    """As ``read``; None if the file is missing or invalid."""
    try:
        return read(environment, committed)
    except ParamsRefused:
        return None


def namespace(environment: str, committed: Mapping[Path, bytes | None]) -> str | None:
    """Return the namespace of an environment; None if its file is missing or invalid."""
    file = readable(environment, committed)
    return file.namespace if file else None
