"""The files of release/environments that Lockstep ships. What they build to is tested, so they need no build.

The base and the components are known by their digests. An environment's own kustomization may differ from the shipped
one in what its comments offer: namespace, number of replicas, variant, GPU, the gateway with its settings, and images.
"""

from typing import Any

import yaml

from checks import digest, layout, plain_yaml
from release.overlay import gateway
from release.overlay.overlays import CONTAINER, FOLDER, ROLLOUT
from release.overlay.sources import OWN, RELEASES, Sources

# By path below release/environments. A test compares them with the files: change both together.
DIGESTS = {
    path: f"sha256:{sha256}"
    for path, sha256 in {
        "base/deployment.yaml": "ceea64042e8b9a9e7ac1c44a2cb49ad0c1e3b2ae978d7afb940be109a8b7ecdf",
        "base/disruption.yaml": "285e71d2b64a3a11baedef2acd083be522e24e256c268cc4e6af9d36ed845f88",
        "base/kustomization.yaml": "e09deb08942b341ab78021cfbb270634e1b4815c059213c2da6ebc0b1bcf6ad9",
        "base/network.yaml": "0bf5a6b983033485e83874978b062f50da22d4d48f96cdfc0c7302ec23651fe3",
        "base/service.yaml": "752fc6fb2b914ff96c53ed61c236903baec1285228a64712d4acd257fbe79bd1",
        "components/exposure/kustomization.yaml": "e48a816211ea3a3cb0013bf6f918753a5615f975fe03767ae31cd55f85ef4c92",
        "components/exposure/route.yaml": "c742d5954df6465f93d6a55b495cb96e9964a0c3c8e757c4f7028c4f2d21043f",
        "components/gateway/deployment.yaml": "6937edf81a3c0c86e4e211cc651e66c55aa5b784f65b113962b9b7057c9bc93b",
        "components/gateway/disruption.yaml": "7dd642a48e8ba8e8f64f41daff83e2cf8f00a28d986307f9bb9e0ecaf603e6d7",
        "components/gateway/kustomization.yaml": "2c7f58a8522df2f0980164586ba52f69a753346bafbf1090bf9634ea2872fa36",
        "components/gateway/network.yaml": "27c812a435f9fca562ce1f344b0015eb718f1aa4609276a5915d475d75a463df",
        "components/gateway/pods.yaml": "41d43d76f053088262aa12c93b931b04745f1eb653171f07dc0e2745128776c2",
        "components/gateway/service.yaml": "40a3b9b1b05846d5c3fdc45bdc801b7210a4765c084b2c60f53af0a6d014dcb9",
        "components/gpu/kustomization.yaml": "e0b4d260f37fdf6fed5ee233aba45881d0248032716667f7439141360805e736",
        "components/kserve/copied/inferenceservice.yaml":
            "d984f955879283abf79bbc5f4c80ec4c2c1e45e3c76afac9e1142e0fdac7abbe",
        "components/kserve/copied/kustomization.yaml":
            "adeda711f4974fd5a5df10b2f31c3ce79b1bf9fbeb7312274943afd3ccdf4ffe",
        "components/kserve/kustomization.yaml": "c6af547efd91f87ec394a923ce7396c5311b02fd24f5224e8e8832221bf8e227",
        "components/rollout/analysis.yaml": "cf50173f0358eef37ec5d725ac146a6f4b10765b8697cf2859a293dbcd2c4b0d",
        "components/rollout/kustomization.yaml": "a9811e3d945e82361e3456b4eb77132d0b0ff6e0c02f8ab17e0d803d595f07d1",
        "components/rollout/rollout.yaml": "faa6d2be934722301a60e74556ecbdf3ab0f73ea3f184f34314114f4df82df78",
    }.items()
}  # fmt: skip
_GPU = "../components/gpu"


def knows(environment: str, read: Sources) -> bool:
    """Whether ``environment`` uses only shipped files, and its kustomization says only what they offer."""
    home = layout.ENVIRONMENTS / environment
    shared = {
        path.relative_to(layout.ENVIRONMENTS).as_posix(): data
        for path, data in read.files.items()
        if path != home / OWN and not path.is_relative_to(home / FOLDER)
    }
    return _is_offered(environment, read.own) and all(
        DIGESTS.get(path) == digest.of_bytes(data) for path, data in shared.items()
    )


def _is_offered(environment: str, own: dict[str, Any]) -> bool:
    """Whether the kustomization uses only what the comments offer; ``sources`` and ``failures`` check the values."""
    free = {key: value for key, value in own.items() if key not in ("namespace", "images")}
    resources, components, patches = (free.pop(key, None) for key in ("resources", "components", "patches"))
    generated = free.pop("configMapGenerator", None)
    scaled = "Rollout" if resources == [ROLLOUT.parent.as_posix()] else "Deployment"
    return (
        free == {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"}
        and resources in [[each] for each in RELEASES]
        and components in (None, [], [_GPU], [gateway.COMPONENT], [_GPU, gateway.COMPONENT])
        and (generated is None or gateway.is_offered(environment, generated))
        and (
            patches in (None, [])
            or (isinstance(patches, list) and len(patches) == 1 and _sets_replicas(patches[0], scaled))
        )
    )


def _sets_replicas(patch: Any, kind: str) -> bool:
    if not isinstance(patch, dict) or patch.keys() != {"target", "patch"}:
        return False
    if patch["target"] != {"kind": kind, "name": CONTAINER}:
        return False
    try:
        operations = plain_yaml.load(str(patch["patch"]))
    except yaml.YAMLError:
        return False
    if not isinstance(operations, list) or len(operations) != 1 or not isinstance(operations[0], dict):
        return False
    value = operations[0].get("value")
    said = {key: each for key, each in operations[0].items() if key != "value"}
    return said == {"op": "replace", "path": "/spec/replicas"} and type(value) is int and 1 <= value <= 1000
