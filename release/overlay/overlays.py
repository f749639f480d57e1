"""The files that a promotion writes for a cluster: an environment's folder ``release`` (kustomize). Pure functions.

The base (release/environments/base) is a model server as people want it run. These files add what changes with a
release: the image by digest, its annotations, and its runtime's settings (port, health, writable paths, user, drain).
So the settings always move with the image, and files written by people are never changed. See
docs/reference/environment-files.md.

The first promotion writes these files, and from then on there is always the same set. If there is nothing that a
cluster could run (a release that was withdrawn, or an image in a folder of one machine) they contain no resources: the
environment builds to nothing, so that a cluster deletes what ran.
"""

import copy
import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from checks.config.release_params import INVALID_HOST, Serve
from checks.formats.pointer import Pointer
from checks.formats.serving import ImageReport
from checks.process.errors import BuildRefused, EvidenceRefused, ParamsRefused
from checks.storage import layout, plain_yaml
from release import runtimes
from release.adapters.registry import reference
from release.image import weights
from release.overlay import adapter_component
from release.runtimes import Runtime

FOLDER = Path("release")  # A promotion writes this folder of an environment, and nothing else.
DEPLOYMENT = FOLDER / "deployment" / "kustomization.yaml"
SERVER = FOLDER / "deployment" / "server.yaml"  # the patch
KSERVE = FOLDER / "kserve" / "kustomization.yaml"
ROLLOUT = FOLDER / "rollout" / "kustomization.yaml"
# Moves by earlier versions did not write this file. It may be missing where the environment does not use it.
KSERVE_LLM = FOLDER / "kserve-llm" / "kustomization.yaml"
# Only releases of an adapter have this file: the component that adds it to the server of another environment.
ADAPTER = FOLDER / "adapter" / "kustomization.yaml"
# The same adapter as the canary of another environment, on the server of that one.
CANARY = FOLDER / "canary" / "kustomization.yaml"
# Folders beside the environments, whose names no environment can have.
SHARED = ("base", "components")

# A key of an annotation needs a prefix where a tool writes it, and a prefix is a DNS name (Kubernetes documentation,
# "Labels and Selectors"). One label is one; a name with dots would be somebody's domain.
PREFIX = "lockstep/"
# The base's image: where weights come alone, their release or `server` of an environment replaces it.
PLACEHOLDER = f"{INVALID_HOST}server"
CONTAINER = "server"
# The base's objects find the server by this label; its value is the container's name.
LABEL = "app.kubernetes.io/name"
# Labels of server and pods that no selector uses, so that they may change: by them metrics are those of a release.
VERSION = "app.kubernetes.io/version"
GPU = "nvidia.com/gpu"
ARCHITECTURE = "kubernetes.io/arch"  # a node's label, which Kubernetes sets
WEIGHTS = "weights"  # the volume, where they come alone

# Seconds before SIGTERM in which routers and proxies stop sending requests.
PRE_STOP = 10
SPARE = 15  # seconds of grace beyond the drain

_LABEL = 63  # characters of a label's value, at most
_NEVER = "nothing has been promoted here"
_USER = re.compile(r"([0-9]{1,9})(?::([0-9]{1,9}))?")


def render(
    environment: str, pointer: Pointer, built: ImageReport, runtime: Runtime, serve: Serve
) -> dict[Path, bytes]:
    """The files that a move of ``environment`` to ``pointer`` writes beside the pointer, by path in the repository.

    ``built``: the image report in the pointer's evidence; ``runtime``: the image's; ``serve``: of the params.yaml that
    made it. The same arguments give the same bytes. Raises EvidenceRefused if they are not about one release,
    ParamsRefused if the environment's name is reserved or the runtime cannot run in a cluster.
    """
    _agree(pointer, built, runtime, serve)
    is_adapter = serve.adapter is not None and built.base is None
    if why := unreachable(pointer):
        return nothing(environment, why, adapter=is_adapter)
    return _release(environment, pointer, built, runtime, serve) | (
        _files(
            environment,
            {
                path: adapter_component.component(
                    serve.name, built.path, _reference(pointer), canary
                )
                for path, canary in ((ADAPTER, ""), (CANARY, adapter_component.CANARY))
            },
        )
        if is_adapter
        else {}
    )


def _release(
    environment: str, pointer: Pointer, built: ImageReport, runtime: Runtime, serve: Serve
) -> dict[Path, bytes]:
    image = _reference(pointer)
    pod, container = _of_runtime(runtime, serve)
    if built.base is not None:
        container["image"] = str(image)
    else:
        container |= _mounting(runtime, serve, built.path, container["volumeMounts"])
        if built.server is not None:
            container["image"] = built.server
        pod["volumes"].append(
            {"name": WEIGHTS, "image": {"reference": str(image), "pullPolicy": "IfNotPresent"}}
        )
    marks = {
        "labels": {
            "app.kubernetes.io/instance": f"{serve.name}-{environment}"[:_LABEL].rstrip("-_"),
            VERSION: pointer.version,
        },
        "annotations": annotations(pointer),
    }
    patch = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": CONTAINER, **marks},
        "spec": {
            "template": {
                "metadata": copy.deepcopy(marks),
                "spec": pod | {"containers": [container]},
            }
        },
    }
    return _files(
        environment,
        {
            DEPLOYMENT: _kustomization(
                resources=["../../../base"], patches=[{"path": SERVER.name}]
            ),
            SERVER: _yaml(patch),
            KSERVE: _kustomization(
                resources=["../deployment"], components=["../../../components/kserve"]
            ),
            ROLLOUT: _kustomization(
                resources=["../deployment"], components=["../../../components/rollout"]
            ),
            KSERVE_LLM: _kustomization(
                resources=["../deployment"],
                components=["../../../components/kserve-llm"],
                patches=[_model(serve.name, image)],
            ),
        },
    )


def unreachable(pointer: Pointer) -> str | None:
    """Why no cluster can pull the image; None if one can."""
    if _reference(pointer).host is None:
        return f"{pointer.version} lies in a folder of one machine: no cluster can pull it"
    return None


def nothing(environment: str, why: str = _NEVER, *, adapter: bool = False) -> dict[Path, bytes]:
    """The same set of files for an environment that runs nothing. ``adapter``: with the component of an adapter."""
    empty = _kustomization(resources=[])
    reason = f"{adapter_component.HEADER}# {why}\n".encode()
    files = {DEPLOYMENT: empty, SERVER: reason, KSERVE: empty, ROLLOUT: empty, KSERVE_LLM: empty}
    if adapter:
        files[ADAPTER] = files[CANARY] = adapter_component.NO_COMPONENT
    return _files(environment, files)


def annotations(pointer: Pointer) -> dict[str, str]:
    """The annotations of a running pod that say where git describes it."""
    return {
        f"{PREFIX}{name}": getattr(pointer, name)
        for name in ("model", "version", "commit", "evidence")
    }


def check(
    environment: str, found: Mapping[Path, bytes | None], wanted: Mapping[Path, bytes]
) -> list[str]:
    """How the files of ``environment`` differ from ``wanted`` (of ``render`` or ``nothing``), one line each.

    ``found``: all files of one commit below the environment's folder, by path in the repository; None for anything but
    a regular file, such as a link or a submodule.
    """
    folder = layout.ENVIRONMENTS / environment / FOLDER
    failures = []
    here = {path for path in found if path == folder or str(path).startswith(f"{folder}/")}
    for path in sorted(here | set(wanted)):
        if path not in wanted:
            failures.append(f"{path}: no promotion writes it")
        elif path not in found:
            of_variant = path.relative_to(layout.ENVIRONMENTS / environment)
            is_used = of_variant != CANARY and uses(environment, found, of_variant)
            if of_variant in (KSERVE_LLM, ADAPTER, CANARY) and not is_used:
                continue
            failures.append(f"{path}: is missing")
        elif (data := found[path]) is None:
            failures.append(f"{path}: is not a regular file")
        elif data != wanted[path]:
            failures.append(f"{path}: {_difference(data, wanted[path])}")
    return failures


def uses(environment: str, found: Mapping[Path, bytes | None], file: Path) -> bool:
    """Return whether the environment's rendered kustomization.yaml names the folder of ``file``."""
    rendered = found.get(layout.ENVIRONMENTS / environment / "kustomization.yaml") or b""
    return file.parent.as_posix().encode() in rendered


def joined(
    environment: str, wanted: Mapping[Path, bytes], components: Iterable[bytes]
) -> dict[Path, bytes]:
    """Return ``wanted`` (of ``render``) with what ``components`` of other projects add to the server."""
    path = layout.ENVIRONMENTS / environment / SERVER
    patch = plain_yaml.load(wanted[path].decode())
    if patch is None:
        return dict(wanted)
    return {**wanted, path: _yaml(adapter_component.joined(patch, components))}


def model(wanted: Mapping[Path, bytes], environment: str) -> dict[str, Any]:
    """Return ``spec.model`` of the LLMInferenceService in ``wanted`` (of ``render``)."""
    document = plain_yaml.load(wanted[layout.ENVIRONMENTS / environment / KSERVE_LLM].decode())
    (operation,) = json.loads(document["patches"][0]["patch"])
    return dict(operation["value"])


def _model(name: str, image: reference.Reference) -> dict[str, Any]:
    """Return the patch that names model and weights. KServe calls an image as a volume oci+native."""
    value = {"name": name, "uri": f"oci+native://{image}"}
    operation = {"op": "add", "path": "/spec/model", "value": value}
    target = {"kind": "LLMInferenceService", "name": CONTAINER}
    return {"target": target, "patch": json.dumps([operation])}


def _agree(pointer: Pointer, built: ImageReport, runtime: Runtime, serve: Serve) -> None:
    pairs = {
        "model": (pointer.model, built.model),
        "image": (pointer.digest, built.image),
        "commit": (pointer.commit, built.commit),
        "runtime": (runtime.name, built.runtime),
        "path of the weights": (weights.place(serve.name, pointer.model), built.path),
        "server": (serve.server, built.server),
    }
    failures = [
        f"{name}: {here}, its evidence says {there!r}"
        for name, (here, there) in pairs.items()
        if here != there
    ]
    if failures:
        raise EvidenceRefused(
            f"{pointer.version}: {failures[0]}",
            "promote with the evidence of this image",
            tuple(failures[1:]),
        )


def _reference(pointer: Pointer) -> reference.Reference:
    """The image by digest alone: beside a digest, a tag has no effect and can mislead."""
    try:
        image = reference.parse(pointer.image)
    except BuildRefused as refused:
        raise EvidenceRefused(
            f"image: {refused.what}", "promote again by HOST/NAME@sha256:…"
        ) from refused
    return image._replace(tag=None)


def _of_runtime(runtime: Runtime, serve: Serve) -> tuple[dict[str, Any], dict[str, Any]]:
    """The runtime's settings of the pod and of its container; the base has the rest."""
    # The runtime's writable paths, by the names of their volumes.
    rooms = {re.sub(r"[^a-z0-9]+", "-", path.lower()).strip("-"): path for path in runtime.writable}
    if len(rooms) < len(runtime.writable) or {"", "shm", WEIGHTS} & rooms.keys():
        raise ParamsRefused(
            f"{runtime.name}: writable: {', '.join(runtime.writable)}: these cannot be volumes",
            "name other paths",
        )
    # verify saw it end in time by the second.
    drain = max(runtime.drain.seconds or 0, serve.verify.drain_seconds)
    pod: dict[str, Any] = {
        "terminationGracePeriodSeconds": PRE_STOP + math.ceil(drain) + SPARE,
        **({"securityContext": user} if (user := _user(runtime)) else {}),
        "volumes": [
            {"name": "shm", "emptyDir": {"sizeLimit": f"{runtime.shm_mb}Mi"}},
            *({"name": name, "emptyDir": {}} for name in rooms),
        ],
    }
    if serve.platform is not None:
        pod["nodeSelector"] = {ARCHITECTURE: serve.platform.split("/")[1]}
    shards = serve.shards or 1
    container: dict[str, Any] = {
        "name": CONTAINER,
        **({"resources": {"limits": {GPU: str(shards)}}} if shards > 1 else {}),
        "ports": [{"name": "http", "containerPort": runtime.port}],
        "lifecycle": {"preStop": {"sleep": {"seconds": PRE_STOP}}},
        **{
            f"{probe}Probe": {"httpGet": {"path": runtime.health}}
            for probe in ("startup", "readiness", "liveness")
        },
        "volumeMounts": [{"name": name, "mountPath": path} for name, path in rooms.items()],
    }
    return pod, container


def _user(runtime: Runtime) -> dict[str, Any]:
    """The security settings of the server's user; empty if the image decides it."""
    if runtime.user is None:
        return {}
    ids = _USER.fullmatch(runtime.user)
    if ids is None:
        raise ParamsRefused(
            f"{runtime.name}: user: {runtime.user!r}: Kubernetes takes numbers",
            "write it as UID:GID",
        )
    user, group = int(ids[1]), ids[2]
    return {
        **({"runAsNonRoot": True} if user else {}),
        "runAsUser": user,
        **({"runAsGroup": int(group)} if group else {}),
    }


def _mounting(
    runtime: Runtime, serve: Serve, path: str, mounts: list[dict[str, Any]]
) -> dict[str, Any]:
    """The command and settings that start the runtime's own server image on mounted weights."""
    filled = runtimes.fill(runtime, serve, weights.mounted(path))
    container: dict[str, Any] = {
        "env": [
            {"name": name, "value": _literal(value)} for name, value in filled.environment.items()
        ],
        "volumeMounts": [*mounts, {"name": WEIGHTS, "mountPath": weights.VOLUME, "readOnly": True}],
    }
    if filled.entrypoint is not None:
        container["command"] = [_literal(word) for word in filled.entrypoint]
    if filled.command:
        container["args"] = [_literal(word) for word in filled.command]
    return container


def _literal(text: str) -> str:
    """Escape $( as $$(: Kubernetes replaces $(NAME) in commands and variables."""
    return text.replace("$(", "$$(")


def _files(environment: str, files: dict[Path, bytes]) -> dict[Path, bytes]:
    if environment in SHARED:
        raise ParamsRefused(
            f"promote.environments: {environment!r} is a folder that environments share",
            "choose another name",
        )
    return {layout.ENVIRONMENTS / environment / path: data for path, data in files.items()}


def _kustomization(**fields: list[Any]) -> bytes:
    return _yaml(
        {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", **fields}
    )


def _yaml(value: dict[str, Any]) -> bytes:
    return (adapter_component.HEADER + plain_yaml.dump(value)).encode()


def _difference(found: bytes, wanted: bytes) -> str:
    """The first line that differs, shortened."""
    here, there = found.splitlines(), wanted.splitlines()
    for number, (one, other) in enumerate(zip(here, there, strict=False), 1):
        if one != other:
            return f"line {number} is {_shown(one)}, a promotion writes {_shown(other)}"
    return (
        f"has {len(here)} lines, a promotion writes {len(there)}"
        if len(here) != len(there)
        else "has another end"
    )


def _shown(line: bytes) -> str:
    return repr(line[:200].decode(errors="replace").strip())
