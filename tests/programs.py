"""Programs that tests run and pip cannot install.

Where one is missing, the tests that run it are skipped, and the summary says how many and how to get the program.
``LOCKSTEP_REQUIRE=all``, as in CI, makes them fail instead; it may also list single programs, separated by commas.
"""

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

REQUIRE = "LOCKSTEP_REQUIRE"
COSIGN3 = "LOCKSTEP_COSIGN3"  # the path of a cosign 3; `.ci/cosign3 FOLDER` gets it from Debian's testing
KUBERNETES = "LOCKSTEP_KUBERNETES"  # a folder with kube-apiserver; `.ci/kubernetes programs FOLDER` gets it
NODE = "LOCKSTEP_KUBERNETES_NODE"  # the name of a disposable cluster of kind; `.ci/kubernetes node IMAGE` makes it
# Each program with the packages of Debian that bring it.
PACKAGES = {
    "chromium-headless-shell": "chromium-headless-shell",
    "cmark-gfm": "cmark-gfm",
    "cosign": "cosign",
    "debootstrap": "debootstrap",
    "docker": "docker.io docker-cli docker-buildx iptables",
    "docker-registry": "docker-registry",
    "jq": "jq",
    "kustomize": "kustomize",
    "openssl": "openssl",
    "oras": "oras",
    "postgres": "postgresql",
    "prometheus": "prometheus",
    "prometheus-alertmanager": "prometheus-alertmanager",
    "promtool": "prometheus",
    "qemu-x86_64": "qemu-user",
    "skopeo": "skopeo",
}
_MISSING = "missing program "


def require(program: str) -> None:
    """Skip the test where ``program`` is not on PATH; fail it where LOCKSTEP_REQUIRE names the program."""
    if shutil.which(program) is None:
        missing(program, "not on PATH")


def cosign3() -> str:
    """A cosign 3, which has OPA; the test is skipped where there is none."""
    found = os.environ.get(COSIGN3)
    if not found:
        pytest.skip(f"{COSIGN3} names no cosign 3: .ci/cosign3 FOLDER gets one from Debian's testing")
    return found


def kube_apiserver() -> Path:
    """The program kube-apiserver; the test is skipped where there is none, also under LOCKSTEP_REQUIRE: no index has it."""
    folder = os.environ.get(KUBERNETES)
    if not folder:
        pytest.skip(f"{KUBERNETES} names no folder with kube-apiserver: .ci/kubernetes programs FOLDER gets it")
    program = Path(folder) / "kube-apiserver"
    assert os.access(program, os.X_OK), f"{KUBERNETES}: {program} is no program"
    for other in ("etcd", "kubectl", "openssl", "diff"):
        assert shutil.which(other), (
            f"{other} is not on PATH: apt-get install etcd-server kubernetes-client openssl diffutils"
        )
    return program


def kind_cluster() -> str:
    """The name of a disposable cluster of kind with one node; the test is skipped where there is none."""
    name = os.environ.get(NODE)
    if not name:
        pytest.skip(f"{NODE} names no cluster of kind: .ci/kubernetes node IMAGE makes one")
    return name


def missing(program: str, why: str) -> NoReturn:
    """Skip the test, or fail it where LOCKSTEP_REQUIRE names ``program``."""
    if {program, "all"} & set(os.environ.get(REQUIRE, "").split(",")):
        pytest.fail(f"{REQUIRE} names {program}: {why}")
    pytest.skip(f"{_MISSING}{program}: {why}")


def without(error: BaseException) -> str | None:
    """The program that ``error`` says could not be started because it is not installed; None for any other error."""
    name = error.filename if isinstance(error, FileNotFoundError) else None
    return name if name in PACKAGES and shutil.which(name) is None else None


def summary(reasons: list[str]) -> list[str]:
    """One line for each missing program among the reasons of skipped tests, and one that installs them all."""
    found = [reason.partition(_MISSING)[2].partition(":")[0] for reason in reasons if _MISSING in reason]
    if not found:
        return []
    lines = [f"{name}: {found.count(name)} tests skipped" for name in sorted(set(found))]
    packages = " ".join(PACKAGES.get(name, name) for name in sorted(set(found)))
    return [*lines, f"to run them, on Debian: apt-get install {packages}"]
