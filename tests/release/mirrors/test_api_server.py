"""Environments on a real API server: it takes them as they are written, holds the admission policy, and keeps the number.

No node and no controller runs, so no pod does: what they would write is written here.
"""

import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

from release import runtimes
from release.mirrors import cluster
from release.mirrors.cluster import Cluster
from release.mirrors.desired import Desired
from release.mirrors.types import MirrorFinding
from release.overlay import scaling
from release.promotion.admission.admitted import Admitted
from release.verbs.admission import CONTROLLERS
from tests.kubernetes_service import VIEWER, ApiServer, api_server
from tests.overlay_sample import IMAGE, OTHER, pointer, promoted, rendered

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ENVIRONMENTS, SHAPES = ("staging", "production"), ("baked", "weights")
BUILT_IN = {"v1", "apps/v1", "policy/v1", "networking.k8s.io/v1"}
NAMESPACE = "model-staging"
SERVER = "deployment/server"
FLUX = ("apply", "--server-side", "--force-conflicts", "--field-manager=kustomize-controller", "-f", "-")


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with api_server(tmp_path_factory.mktemp("kubernetes")) as server:
        for environment in ENVIRONMENTS:
            server.kubectl("create", "namespace", f"model-{environment}")
        yield server


@pytest.fixture(autouse=True)
def _nothing_is_left(api: ApiServer) -> Iterator[None]:
    yield
    for kinds in ("deployments,services,networkpolicies,poddisruptionbudgets,configmaps", "pods"):
        api.kubectl("delete", kinds, "--all", f"--namespace={NAMESPACE}", "--grace-period=0", "--force", "--wait=false")


def built_in(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without kinds that only operators bring: this API server does not know them."""
    return [item for item in items if item["apiVersion"] in BUILT_IN]


def environment(replicas: int | None = 1) -> list[dict[str, Any]]:
    """What staging is built to, with this number of servers; None: a scaler has it."""
    items = promoted("staging", "vllm", "baked", "deployment")
    (server,) = [item for item in items if item["kind"] == "Deployment"]
    server["spec"].pop("replicas")
    if replicas is not None:
        server["spec"]["replicas"] = replicas
    return items


# What the API server makes of the files.


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("runtime", runtimes.names())
@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_an_overlay_is_taken_by_a_strict_dry_run(name: str, runtime: str, shape: str, api: ApiServer) -> None:
    for components in ((), ("gpu",), ("gateway",)):
        items = built_in(promoted(name, runtime, shape, "deployment", *components))
        taken = api.kubectl(
            "apply", "--server-side", "--dry-run=server", "--validate=strict", "--field-manager=test", "--output=name",
            "-f", "-", objects=items,
        )  # fmt: skip
        assert len(taken.split()) == len(items)


@pytest.mark.parametrize("side", [(), ("--server-side",)], ids=["client side", "server side"])
@pytest.mark.parametrize("shape", SHAPES)
def test_an_applied_overlay_has_no_difference(shape: str, side: tuple[str, ...], api: ApiServer) -> None:
    items = built_in(promoted("staging", "vllm", shape, "deployment", "gateway"))
    api.kubectl("apply", *side, "-f", "-", objects=items)
    difference = api.tried("diff", *side, "-f", "-", objects=items)
    assert (difference.returncode, difference.stdout) == (0, ""), difference.stderr


def test_an_empty_list_would_be_a_difference_for_ever(api: ApiServer) -> None:
    (policy,) = [item for item in environment() if item["kind"] == "NetworkPolicy"]
    policy["spec"]["egress"] = []
    api.kubectl("apply", "-f", "-", objects=[policy])
    assert api.tried("diff", "-f", "-", objects=[policy]).returncode == 1


# Admission.

REPOSITORY = "registry.example/team/router"


def pod(name: str, image: str, **fields: Any) -> dict[str, Any]:
    spec = {"containers": [{"name": "server", "image": image}], **fields}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec}


def test_the_policy_of_lockstep_admission_holds_promoted_digests(api: ApiServer) -> None:
    good, bad = f"{REPOSITORY}@{IMAGE}", f"{REPOSITORY}@{OTHER}"
    volume = {"name": "weights", "image": {"reference": bad, "pullPolicy": "IfNotPresent"}}
    api.kubectl("create", "-f", "-", objects=[pod("earlier", bad), pod("running", good)])
    documents = CONTROLLERS["kubernetes"](Admitted("staging", NAMESPACE, (REPOSITORY,), (IMAGE,), (), 1)).documents
    api.kubectl("apply", "-f", "-", objects=list(documents))
    try:
        cases: dict[str, tuple[dict[str, Any], bool]] = {
            "promoted": (pod("x", good), True),
            "promoted, with a tag": (pod("x", good.replace("@", ":v1@")), True),
            "another's image": (pod("x", "docker.io/library/proxy:1"), True),
            "another namespace": (pod("x", bad) | {"metadata": {"name": "x", "namespace": "model-production"}}, True),
            "not promoted": (pod("x", bad), False),
            "a tag": (pod("x", f"{REPOSITORY}:v1"), False),
            "in capitals": (pod("x", bad.replace("registry", "REGISTRY")), False),
            "before it starts": (pod("x", good, initContainers=[{"name": "first", "image": bad}]), False),
            "a volume": (pod("x", good, volumes=[volume]), False),
        }
        until(lambda: not created(api, pod("x", bad)), "the policy is in force")
        assert {what: created(api, item) for what, (item, _) in cases.items()} == {
            what: admitted for what, (_, admitted) in cases.items()
        }
        refusal = api.tried("create", "--dry-run=server", "-f", "-", objects=[pod("x", bad)]).stderr
        assert f"not promoted to staging, or in quarantine: {bad}" in refusal
        here = f"--namespace={NAMESPACE}"
        assert api.tried("set", "image", here, "pod/running", f"server={bad}").returncode != 0
        debugger = ("debug", here, "running", "--attach=false", "--profile=general", "--container=debugger")
        assert "not promoted" in api.tried(*debugger, f"--image={bad}").stderr
        api.kubectl(*debugger, f"--image={good}")
        api.kubectl("label", here, "pod/earlier", "held=back")  # what runs already can be changed, and can end
    finally:
        api.kubectl("delete", "-f", "-", objects=list(documents))
        until(lambda: created(api, pod("x", bad)), "the policy is gone")


def created(api: ApiServer, item: dict[str, Any]) -> bool:
    return api.tried("create", "--dry-run=server", "-f", "-", objects=[item]).returncode == 0


def until(holds: Callable[[], bool], what: str) -> None:
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < 60, what
        time.sleep(0.5)


# reconcile.


@pytest.fixture
def findings(api: ApiServer, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[MirrorFinding]]:
    """What reconcile says of the cluster that should run the release of staging."""
    monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig()))
    wanted = Desired("staging", pointer(), None, rendered("staging", "vllm"), NAMESPACE, ())

    def ask() -> list[MirrorFinding]:
        where = cluster.current()
        assert isinstance(where, Cluster)
        return cluster.check(where, wanted)

    return ask


def rolled_out(api: ApiServer) -> None:
    """Write the status that a controller writes when every server is of the latest change, and ready."""
    item = api.get(SERVER, f"--namespace={NAMESPACE}")
    names = ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas")
    status = {"observedGeneration": item["metadata"]["generation"]} | dict.fromkeys(names, item["spec"]["replicas"])
    patch = yaml.safe_dump({"status": status})
    api.kubectl("patch", SERVER, f"--namespace={NAMESPACE}", "--subresource=status", "--type=merge", "-p", patch)


HAND: dict[str, tuple[tuple[str, ...], str]] = {
    "a variable": (("set", "env", SERVER, "EVIL=1"), r"server\.env: the release sets none of .*EVIL"),
    "an image": (("set", "image", SERVER, f"server=registry.example/team/router@{OTHER}"), r"server\.image: is "),
    "no servers": (("scale", SERVER, "--replicas=0"), "is scaled to 0: nothing answers"),
    "a pause": (("rollout", "pause", SERVER), "is paused: its pods follow no move"),
    "an annotation": (("annotate", "--overwrite", SERVER, "lockstep/version=v9.9.9"), "the release says 'v1.4.0'"),
}


@pytest.mark.parametrize("case", HAND)
def test_what_a_hand_changed_is_drift(case: str, api: ApiServer, findings: Callable[[], list[MirrorFinding]]) -> None:
    api.kubectl(*FLUX, objects=environment())
    rolled_out(api)
    assert findings() == []
    command, words = HAND[case]
    api.kubectl(*command, f"--namespace={NAMESPACE}")
    rolled_out(api)
    assert any(re.search(words, finding.mirror) for finding in findings()), findings()


def test_a_variable_added_by_hand_survives_an_apply_and_is_found(
    api: ApiServer, findings: Callable[[], list[MirrorFinding]]
) -> None:
    api.kubectl(*FLUX, objects=environment())
    api.kubectl("set", "env", SERVER, "EVIL=1", f"--namespace={NAMESPACE}")
    api.kubectl(*FLUX, objects=environment())
    rolled_out(api)
    (finding,) = findings()
    assert "EVIL" in finding.mirror
    api.kubectl("set", "env", SERVER, "EVIL-", f"--namespace={NAMESPACE}")  # as docs/how-to/mirrors.md says
    rolled_out(api)
    assert findings() == []


def test_a_change_that_no_controller_has_seen_is_drift(
    api: ApiServer, findings: Callable[[], list[MirrorFinding]]
) -> None:
    api.kubectl(*FLUX, objects=environment())
    (finding,) = findings()
    assert finding.mirror.endswith("its controller has not seen its latest change (generation 1, seen None)")


def test_a_caller_who_may_view_all_but_kserves_kinds_is_told_of_the_role(
    api: ApiServer, findings: Callable[[], list[MirrorFinding]], monkeypatch: pytest.MonkeyPatch
) -> None:
    group, names = "serving.kserve.io", {"plural": "inferenceservices", "kind": "InferenceService"}
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    version = {"name": "v1beta1", "served": True, "storage": True, "schema": schema}
    kserve = {
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": f"inferenceservices.{group}"},
        "spec": {"group": group, "names": names, "scope": "Namespaced", "versions": [version]},
    }  # fmt: skip
    here = f"--namespace={NAMESPACE}"
    api.kubectl("apply", "-f", "-", objects=[kserve])
    # A controller, which does not run here, gathers `view` from this ClusterRole and others.
    api.kubectl("create", "rolebinding", "viewer", "--clusterrole=system:aggregate-to-view", f"--user={VIEWER}", here)
    try:
        api.kubectl("wait", "--for=condition=Established", f"crd/inferenceservices.{group}", "--timeout=30s")
        api.kubectl(*FLUX, objects=environment())
        rolled_out(api)
        monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig(VIEWER)))
        (finding,) = findings()
        assert (finding.severity, finding.todo.partition(",")[0]) == ("unreachable", "let the caller list it")
        role = "lockstep-reconcile"
        api.kubectl("create", "role", role, "--verb=list", f"--resource=inferenceservices.{group}", here)
        api.kubectl("create", "rolebinding", role, f"--role={role}", f"--user={VIEWER}", here)
        until(lambda: findings() == [], "the Role holds")
    finally:
        api.kubectl("delete", "crd", f"inferenceservices.{group}")
        api.kubectl("delete", "role,rolebinding", "--all", here)


# The number of servers, where a scaler takes it over.


@pytest.mark.parametrize(("handed_over", "left"), [(True, 2), (False, 1)])
def test_a_number_of_servers_that_leaves_git_stays_if_it_was_handed_over(
    handed_over: bool, left: int, api: ApiServer
) -> None:
    api.kubectl(*FLUX, objects=environment(2))
    if handed_over:
        variables = {"PATH": os.environ["PATH"], "KUBECONFIG": str(api.kubeconfig())}
        command = ["bash", "-o", "pipefail", "-c", scaling.hand_over(NAMESPACE)]
        subprocess.run(command, env=variables, check=True, timeout=60)
    api.kubectl(*FLUX, objects=environment(None))
    assert api.get(SERVER, f"--namespace={NAMESPACE}")["spec"]["replicas"] == left
