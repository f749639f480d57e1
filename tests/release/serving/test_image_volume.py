"""Weights alone on a real node: a server finds them where the release mounts their image, whichever containerd runs it.

The cluster is one of kind, which `.ci/kubernetes node IMAGE` makes and removes.
"""

import io
import json
import re
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests import programs
from tests.overlay_sample import image, promoted

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

WEIGHTS, SERVER = "lockstep.invalid/weights:test", "docker.io/library/busybox:1.37"
PLACE = image().path  # as `lockstep build` links it: the folder has the name without the version
FOLDER = PLACE.rpartition("-")[0]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of the cluster, whose node has an image of weights alone. It pulls the server."""
    name = programs.kind_cluster()
    archive = tmp_path_factory.mktemp("weights") / "root.tar"
    with tarfile.open(archive, "w") as tar:
        _add(tar, f"{FOLDER}/config.json", b"{}")
        link = tarfile.TarInfo(PLACE.lstrip("/"))
        link.type, link.linkname = tarfile.SYMTYPE, Path(FOLDER).name
        tar.addfile(link)
    run("docker", "import", str(archive), WEIGHTS)
    run("kind", "load", "docker-image", "--name", name, WEIGHTS)
    return name


def _add(tar: tarfile.TarFile, path: str, data: bytes) -> None:
    member = tarfile.TarInfo(path.lstrip("/"))
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def run(*command: str, given: str = "") -> str:
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


def kubectl(name: str, *arguments: str, given: str = "") -> str:
    return run("kubectl", f"--context=kind-{name}", *arguments, given=given)


def containerd(name: str) -> tuple[int, int]:
    """The version of the node's container runtime."""
    path = "jsonpath={.items[0].status.nodeInfo.containerRuntimeVersion}"
    version = re.match(r"containerd://(\d+)\.(\d+)\.", kubectl(name, "get", "nodes", "-o", path))
    assert version
    return int(version[1]), int(version[2])


def pod(name: str, mount: dict[str, Any]) -> dict[str, Any]:
    """A pod with the release's volume of weights, mounted by ``mount``, whose server does nothing."""
    items = promoted("staging", "vllm", "weights", "deployment")
    (server,) = [item["spec"]["template"]["spec"] for item in items if item["kind"] == "Deployment"]
    (volume,) = [each for each in server["volumes"] if each["name"] == mount["name"]]
    volume["image"]["reference"] = WEIGHTS
    container = {"name": "server", "image": SERVER, "command": ["sleep", "600"], "volumeMounts": [mount]}
    spec = {"containers": [container], "volumes": [volume], "terminationGracePeriodSeconds": 0}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def release_mount() -> dict[str, Any]:
    items = promoted("staging", "vllm", "weights", "deployment")
    (server,) = [item["spec"]["template"]["spec"]["containers"][0] for item in items if item["kind"] == "Deployment"]
    (mount,) = [each for each in server["volumeMounts"] if each["name"] == "weights"]
    assert any(PLACE in word for word in server["args"])
    found: dict[str, Any] = mount
    return found


def started(name: str, item: dict[str, Any]) -> str:
    called = item["metadata"]["name"]
    kubectl(name, "apply", "-f", "-", given=json.dumps(item))
    kubectl(name, "wait", "--for=condition=Ready", f"pod/{called}", "--timeout=180s")
    return str(called)


def test_a_server_finds_the_weights_where_the_release_says(node: str) -> None:
    mount = release_mount()
    called = started(node, pod("release", mount))
    assert kubectl(node, "exec", called, "--", "cat", f"{mount['mountPath']}{PLACE}/config.json") == "{}"


def test_a_sub_path_of_an_image_is_ignored_before_containerd_2_2(node: str) -> None:
    """Why the release has none. If this fails for an old containerd, the release may have one again."""
    called = started(node, pod("sub-path", {"name": "weights", "mountPath": "/models", "subPath": "models"}))
    listed = kubectl(node, "exec", called, "--", "ls", "/models").split()
    assert ("models" in listed) is (containerd(node) < (2, 2))
