"""What an operation of a patch (RFC 6902) may point at: no part that a release brings, nor a whole that holds one."""

import re
from collections.abc import Iterator
from typing import Any

from release.overlays import LABEL, PREFIX

KSERVE_CONTAINER = "kserve-container"  # what KServe asks the first container to be called
# Fields of the server's container that decide what runs in it, or is asked in its place.
DECIDING = frozenset({
    "image", "command", "args", "env", "envFrom", "storageUri", "lifecycle", "workingDir", "ports", "volumeDevices",
    "terminationMessagePath",
})  # fmt: skip
HOOK = "argocd.argoproj.io/hook"
# Annotations by which Argo CD (that one where it is Skip) and Flux leave an object of a cluster as it is.
HELD = frozenset({HOOK, "kustomize.toolkit.fluxcd.io/reconcile", "kustomize.toolkit.fluxcd.io/ssa"})
# What no operation may point at or below, in whatever object.
_POINTED = DECIDING | HELD | {
    "volumeMounts", "mountPath", "subPath", "exec", "httpGet", "tcpSocket", "grpc", "targetPort", "selector", LABEL,
    "paused",
}  # fmt: skip
# Ways into a server from beside it, or around it; in no object.
AROUND = frozenset({
    "privileged", "hostPID", "hostIPC", "hostNetwork", "shareProcessNamespace", "hostPath", "ephemeralContainers",
    "externalName", "transformer", "explainer", "workerSpec",
})  # fmt: skip
_NAMING = re.compile(r"/(metadata/(name|namespace)|kind|apiVersion)")
_CONTAINER_NAME = re.compile(r".*/(initC|c)ontainers/[^/]+/name")
# JSON pointers to whole parts that hold the server, its weights, or what is said of it (RFC 6901, 6902).
_ONE = r"(/(?!-$)[^/]+)?"  # of a list, but for its end
_WHOLE = re.compile(
    rf"(/spec(/(template(/spec(/(containers|volumes){_ONE})?)?|predictor(/(containers|volumes){_ONE})?))?)?"
    r"|(/spec/(template|predictor))?/metadata(/annotations)?|/spec/predictor/annotations"
)


def gaps(value: dict[str, Any], *, copying: bool) -> Iterator[str]:
    """What is wrong with one. ``copying``: it is of the component that makes KServe's object."""
    operation, path = value["op"], str(value["path"])
    parts = [part.replace("~1", "/").replace("~0", "~") for part in path.split("/")]
    decides = (_POINTED | AROUND).intersection(parts) or any(part.startswith(PREFIX) for part in parts)
    named = _NAMING.fullmatch(path) or (
        _CONTAINER_NAME.fullmatch(path) and not (copying and value.get("value") == KSERVE_CONTAINER)
    )
    within = "volumes" in parts and parts[-1] not in ("volumes", "-")
    unrooted = parts[0] != ""  # kustomize leaves out whatever is before the first slash
    if operation in ("move", "copy") or decides or named or within or unrooted or _WHOLE.fullmatch(path):
        yield f"{operation} {path}: is of what the release brings"
