"""What documentation offers around an environment in a cluster, held to schemas and to what a promotion accepts."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from checks import layout
from release.overlay import deployed, edits, gateway, kustomize, overlays
from tests import kubernetes_tools, programs, spoil
from tests.conftest import REPOSITORY
from tests.overlay_sample import OTHER, edit, lying, put, rendered

pytestmark = pytest.mark.slow

KEYS = "LOCKSTEP_GATEWAY_KEYS=/etc/lockstep/keys"
DOCS = REPOSITORY / "docs" / "how-to"


def examples(page: str, section: str) -> list[Any]:
    """Every YAML document of a section of a page."""
    text = (DOCS / page).read_text().partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    return [document for block in blocks for document in yaml.safe_load_all(block)]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of release/environments with a release promoted to staging."""
    programs.require("kustomize")
    found = shutil.copytree(REPOSITORY / layout.ENVIRONMENTS, tmp_path / layout.ENVIRONMENTS)
    put(found, rendered())
    return found


def failures(tree: Path) -> list[str]:
    return edits.failures("staging", lying(tree), rendered(), ("staging", "production"))


def refused(tree: Path, said: str) -> None:
    found = failures(tree)
    assert any(re.search(said, failure) for failure in found), found
    assert all("\n" not in failure for failure in found)


def patched(kind: str, *operations: dict[str, Any]) -> spoil.Spoil:
    patch = {"target": {"kind": kind}, "patch": yaml.safe_dump(list(operations))}
    return lambda tree: edit(tree, "staging", lambda own: own.update(patches=[*own.get("patches", []), patch]))


def setting(kind: str, path: str, value: Any, op: str = "replace") -> spoil.Spoil:
    return patched(kind, {"op": op, "path": path, "value": value})


def added(item: dict[str, Any]) -> spoil.Spoil:
    """One more object, in a file of the environment."""

    def do(tree: Path) -> None:
        (tree / "staging" / "more.yaml").write_text(yaml.safe_dump(item))
        edit(tree, "staging", lambda own: own["resources"].append("more.yaml"))

    return do


def gatewayed(tree: Path, environment: str = "staging", **fields: Any) -> None:
    """Put a gateway before the environment. ``fields``: the example's, whose settings name production."""
    images = [{"name": gateway.PLACEHOLDER, "newName": "registry.example/lockstep", "digest": OTHER}]
    settings = [{"name": "gateway", "literals": [f"{gateway.ENVIRONMENT}={environment}", KEYS]}]
    own = {"components": [gateway.COMPONENT], **fields, "images": images, "configMapGenerator": settings}
    edit(tree, environment, lambda value: value.update(own))


def test_what_the_page_puts_beside_and_into_an_environment_is_valid_and_accepted(tree: Path) -> None:
    *beside, own = examples("environments.md", "What the cluster has beside it")
    assert [item["kind"] for item in beside] == ["Namespace", "PriorityClass"]
    for item in beside:
        kubernetes_tools.validate(item, kubernetes_tools.VERSIONS[0])
    edit(tree, "staging", lambda value: value.update(own))
    assert failures(tree) == []
    items = kubernetes_tools.build(tree / "staging")
    pod = kubernetes_tools.pod(items)
    assert pod["nodeSelector"] == {"nvidia.com/gpu.product": "NVIDIA-L4"}
    assert (pod["priorityClassName"], pod["imagePullSecrets"]) == ("serving", [{"name": "registry"}])
    for item in items:
        kubernetes_tools.validate(item, kubernetes_tools.VERSIONS[0])


def test_the_pages_limit_for_a_quota_of_cpu_is_accepted(tree: Path) -> None:
    (own,) = examples("environments.md", "What a pod may do")
    edit(tree, "staging", lambda value: value.update(patches=[*value["patches"], *own["patches"]]))
    assert failures(tree) == []
    (server,) = kubernetes_tools.pod(kubernetes_tools.build(tree / "staging"))["containers"]
    assert server["resources"]["limits"]["cpu"] == "4"


def test_copies_of_files_as_they_were_shipped_earlier_are_accepted(tree: Path) -> None:
    """Without the defaults that are written out since: a team has a copy of its own."""
    kserve, network = tree / "components" / "kserve" / "kustomization.yaml", tree / "base" / "network.yaml"
    text = kserve.read_text()
    start, end = (
        text.index("      - op: add # the default"),
        text.index("      - op: add\n        path: /spec/predictor/dep"),
    )
    kserve.write_text(text[:start] + text[end:])
    network.write_text(f"{network.read_text()}  egress: []\n")
    edit(tree, "staging", lambda own: own.update(resources=["release/kserve"]))
    assert failures(tree) == []
    (server,) = kubernetes_tools.pod(kubernetes_tools.build(tree / "staging"))["containers"]
    assert server["ports"] == [{"name": "http", "containerPort": 8080}]


# Routes.


@pytest.fixture
def exposed(tree: Path) -> Path:
    """The environment of the page, reached from outside."""
    *_, own = examples("gateway.md", "From outside the cluster")
    gatewayed(tree, **own)
    return tree


def test_the_pages_route_is_accepted_and_leads_to_the_gateway(exposed: Path) -> None:
    cluster, own = examples("gateway.md", "From outside the cluster")
    kubernetes_tools.validate(cluster, kubernetes_tools.VERSIONS[0])
    assert KEYS in own["configMapGenerator"][0]["literals"]
    assert failures(exposed) == []
    items = kubernetes_tools.build(exposed / "staging")
    for item in items:
        kubernetes_tools.validate(item, kubernetes_tools.VERSIONS[0])
    (route,) = [item["spec"] for item in items if item["kind"] == "HTTPRoute"]
    assert route["hostnames"] == ["models.example.org"]
    assert (cluster["metadata"]["name"], cluster["metadata"]["namespace"], cluster["spec"]["listeners"][0]["name"]) == (
        route["parentRefs"][0]["name"], route["parentRefs"][0]["namespace"], route["parentRefs"][0]["sectionName"],
    )  # fmt: skip
    (backend,) = route["rules"][0]["backendRefs"]
    services = {item["metadata"]["name"]: item["spec"] for item in items if item["kind"] == "Service"}
    assert backend["port"] in [port["port"] for port in services[backend["name"]]["ports"]]


RULE = "/spec/rules/0"
BACKENDS = f"{RULE}/backendRefs"
HOME = {"name": "gateway", "port": 80}
MIRROR = [{"type": "RequestMirror", "requestMirror": {"backendRef": HOME}}]
UNEXPOSED: dict[str, tuple[spoil.Spoil, str]] = {
    "no host": (setting("HTTPRoute", "/spec/hostnames", ["lockstep.invalid"]), "spec.hostnames: is .*: name the host"),
    "every host": (patched("HTTPRoute", {"op": "remove", "path": "/spec/hostnames"}), "spec.hostnames: is None"),
    "every listener": (
        patched("HTTPRoute", {"op": "remove", "path": "/spec/parentRefs/0/sectionName"}), "spec.parentRefs: name a Gateway"
    ),
    "a mesh": (
        setting("HTTPRoute", "/spec/parentRefs", [{"kind": "Service", "group": "", "name": "gateway", "sectionName": "x"}]),
        "spec.parentRefs: name a Gateway",
    ),
    "every Gateway": (setting("HTTPRoute", "/spec/useDefaultGateways", "All", "add"), "spec.useDefaultGateways: a route has"),
    "no rules": (setting("HTTPRoute", "/spec/rules", []), "spec.rules: lead nowhere"),
    "no backend": (patched("HTTPRoute", {"op": "remove", "path": BACKENDS}), "at least half of the requests"),
    "the server itself": (setting("HTTPRoute", f"{BACKENDS}/0/name", "server"), "leads elsewhere than to the Service gateway"),
    "a bucket": (setting("HTTPRoute", f"{BACKENDS}/0/kind", "ServiceImport", "add"), "leads elsewhere"),
    "a namespace of nobody": (setting("HTTPRoute", f"{BACKENDS}/0/namespace", "other", "add"), "leads elsewhere"),
    "a backend's filter": (setting("HTTPRoute", f"{BACKENDS}/0/filters", MIRROR, "add"), "leads elsewhere"),
    "a copy of each request": (setting("HTTPRoute", f"{RULE}/filters", MIRROR, "add"), "rules.0.filters: would change requests"),
    "mostly another release": (
        setting("HTTPRoute", BACKENDS, [HOME | {"weight": 4}, HOME | {"weight": 5, "namespace": "model-production"}]),
        "backendRefs: weight: at least half",
    ),
    "no keys": (
        lambda tree: edit(tree, "staging", lambda own: own["configMapGenerator"][0]["literals"].remove(KEYS)),
        "everyone who knows the host could ask: name ../components/gateway, with LOCKSTEP_GATEWAY_KEYS=",
    ),
    "requests counted as another environment's": (
        lambda tree: edit(tree, "staging", lambda own: own["configMapGenerator"][0].update(literals=[f"{gateway.ENVIRONMENT}=production", KEYS])),
        "LOCKSTEP_GATEWAY_ENVIRONMENT is 'production': only a gateway that another environment's route leads to",
    ),
    "leave for everyone": (
        added({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "ReferenceGrant", "metadata": {"name": "x"}, "spec": {"from": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": "other"}], "to": [{"group": "", "kind": "Secret"}]}}),
        "spec.from: is .*name HTTPRoute of gateway.networking.k8s.io, and another environment's namespace",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", UNEXPOSED)
def test_a_route_that_leads_past_the_gateways_keys_is_refused(case: str, exposed: Path) -> None:
    change, said = UNEXPOSED[case]
    change(exposed)
    refused(exposed, said)


def test_a_route_without_a_gateway_is_refused(exposed: Path) -> None:
    edit(exposed, "staging", lambda own: own.update(components=["../components/exposure"]))
    refused(exposed, "everyone who knows the host could ask")


def hosts(tree: Path, *names: str, environment: str = "production") -> None:
    """Give the environment a route of these hosts."""
    gatewayed(tree, environment, components=[gateway.COMPONENT, "../components/exposure"])
    operation = {"op": "replace", "path": "/spec/hostnames", "value": list(names)}
    patch = {"target": {"kind": "HTTPRoute"}, "patch": yaml.safe_dump([operation])}
    edit(tree, environment, lambda own: own.update(patches=[*own["patches"], patch]))


# The hosts of production; staging's is models.example.org.
TAKEN = (
    ("models.example.org",),
    ("other.example.org", "models.example.org"),
    ("*.example.org",),
    ("*.org",),
)


@pytest.mark.parametrize("names", TAKEN)
def test_a_route_with_the_host_of_another_environment_is_refused(names: tuple[str, ...], exposed: Path) -> None:
    hosts(exposed, *names)
    refused(exposed, "HTTPRoute gateway: spec.hostnames: models.example.org overlaps with .* of production")
    assert edits.failures("staging", lying(exposed), rendered()) == []  # another environment blocks no rollback


def test_a_wildcard_that_covers_the_host_of_another_environment_is_refused(exposed: Path) -> None:
    hosts(exposed, "models.example.org")
    setting("HTTPRoute", "/spec/hostnames/0", "*.example.org")(exposed)
    refused(exposed, "spec.hostnames: \\*.example.org overlaps with .* of production")


def test_hosts_of_other_environments_that_differ_are_no_gap(exposed: Path) -> None:
    hosts(exposed, "models.example.com", "*.models.example.org", "example.org")
    assert failures(exposed) == []


def test_a_route_is_refused_where_the_hosts_of_another_environment_are_not_known(exposed: Path) -> None:
    spoil.replace("production/kustomization.yaml", "resources:", "resources: [gone.yaml]\nx:")(exposed)
    refused(exposed, "spec.hostnames: cannot be compared with those of production: .*production/kustomization.yaml: ")


@pytest.mark.parametrize("kind", ["HTTPRoute", "Service"])
@pytest.mark.parametrize(
    "key", ["external-dns.alpha.kubernetes.io/hostname", "tailscale.com/expose", "coredns.io/hostname"]
)
def test_a_name_that_a_tool_would_give_is_refused(key: str, kind: str, exposed: Path) -> None:
    setting(kind, "/metadata/annotations", {key: "models.example.com"}, "add")(exposed)
    refused(exposed, f"{kind} gateway: metadata.annotations: {key}: tools send requests elsewhere by such keys")


def test_the_pages_weights_are_accepted_in_both_environments(exposed: Path) -> None:
    """The page's production is staging here, and its canary is production."""
    share, grant = examples("rollout.md", "Canary")[:2]
    (patch,) = share["patches"]
    operations = yaml.safe_load(patch["patch"])
    operations[0]["value"][1]["namespace"] = "model-production"
    setting("HTTPRoute", operations[0]["path"], operations[0]["value"])(exposed)
    assert failures(exposed) == []
    for item in kubernetes_tools.build(exposed / "staging"):
        kubernetes_tools.validate(item, kubernetes_tools.VERSIONS[0])
    alone = {path: data for path, data in lying(exposed).items() if "production" not in path.parts}
    assert edits.failures("staging", alone, rendered()) == []  # as a rollback asks
    assert edits.failures("staging", alone, rendered(), ("staging",)) != []

    canary = rendered("production")
    put(exposed, canary)
    gatewayed(exposed, "production")
    counted = [{"name": "gateway", "literals": [f"{gateway.ENVIRONMENT}=staging", KEYS]}]
    grant["spec"]["from"][0]["namespace"] = "model-staging"
    (exposed / "production" / "grant.yaml").write_text(yaml.safe_dump(grant))
    edit(exposed, "production", lambda own: own.update(configMapGenerator=counted))
    edit(exposed, "production", lambda own: own["resources"].append("grant.yaml"))
    assert edits.failures("production", lying(exposed), canary, ("staging", "production")) == []
    (item,) = [each for each in kubernetes_tools.build(exposed / "production") if each["kind"] == "ReferenceGrant"]
    kubernetes_tools.validate(item, kubernetes_tools.VERSIONS[0])


# Step by step.


@pytest.fixture
def stepwise(tree: Path) -> Path:
    """The release, brought by the Rollout."""
    edit(tree, "staging", lambda own: own.update(resources=["release/rollout"], patches=[]))
    return tree


def test_the_pods_of_a_rollout_are_those_of_the_release_and_it_asks_about_that_release(
    stepwise: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = examples("rollout.md", "Canary")[2]
    edit(stepwise, "staging", lambda own: own.update(example))
    with monkeypatch.context() as context:  # what the comments offer is known without a build
        context.setattr(kustomize, "PROGRAM", "no-such-program")
        assert failures(stepwise) == []
    edit(stepwise, "staging", lambda own: own.update(commonAnnotations={"note": "so that it is built"}))
    assert failures(stepwise) == []
    items = kubernetes_tools.build(stepwise / "staging")
    for item in items:
        kubernetes_tools.validate(item, kubernetes_tools.VERSIONS[0])
    assert deployed.failures(items, "staging", rendered()) == []
    found = {item["kind"]: item for item in items}
    (server, moved, template) = (found[kind] for kind in ("Deployment", "Rollout", "AnalysisTemplate"))
    assert "replicas" not in server["spec"]
    assert moved["spec"]["replicas"] == 4
    assert moved["spec"]["workloadRef"]["name"] == server["metadata"]["name"]
    assert moved["metadata"]["annotations"] == server["metadata"]["annotations"]
    (analysis,) = [step["analysis"] for step in moved["spec"]["strategy"]["canary"]["steps"] if "analysis" in step]
    assert [each["templateName"] for each in analysis["templates"]] == [template["metadata"]["name"]]
    (model,) = [arg["valueFrom"]["fieldRef"]["fieldPath"] for arg in analysis["args"] if arg["name"] == "model"]
    assert model == "metadata.annotations['lockstep/model']"
    assert {arg["name"] for arg in analysis["args"]} == {arg["name"] for arg in template["spec"]["args"]}


def test_the_shipped_number_of_servers_becomes_the_rollouts_by_one_word(
    stepwise: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = stepwise / "staging" / "kustomization.yaml"
    shipped = (REPOSITORY / layout.ENVIRONMENTS / "staging" / "kustomization.yaml").read_text()
    own.write_text(shipped.replace("- release/deployment", "- release/rollout"))
    refused(stepwise, "/spec/replicas.*. With release/rollout .*: write `kind: Rollout` in that patch's target")
    own.write_text(own.read_text().replace("kind: Deployment", "kind: Rollout"))
    items = {item["kind"]: item["spec"] for item in kubernetes_tools.build(stepwise / "staging")}
    assert (items["Rollout"]["replicas"], "replicas" in items["Deployment"]) == (1, False)
    monkeypatch.setattr(kustomize, "PROGRAM", "no-such-program")
    assert failures(stepwise) == []


def test_a_rollout_of_nothing_is_nothing(stepwise: Path) -> None:
    put(stepwise, overlays.nothing("staging"))
    assert kubernetes_tools.build(stepwise / "staging") == []


STEPS = "/spec/strategy/canary/steps"
TARGET = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout", "name": "server"}
UNPINNED = patched("Rollout", {"op": "remove", "path": "/spec/replicas"})


def scaler(**target: str) -> spoil.Spoil:
    spec = {"scaleTargetRef": TARGET | target, "minReplicas": 1, "maxReplicas": 4}
    return added(
        {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "x"}, "spec": spec}
    )


FREE: dict[str, tuple[spoil.Spoil, ...]] = {
    "earlier steps": (patched("Rollout", {"op": "add", "path": f"{STEPS}/0", "value": {"setWeight": 5}}, {"op": "add", "path": f"{STEPS}/1", "value": {"pause": {"duration": "1h"}}}),),
    "later steps": (setting("Rollout", f"{STEPS}/-", {"setWeight": 60}, "add"), setting("Rollout", f"{STEPS}/-", {"pause": {}}, "add")),
    "patience": (setting("Rollout", "/spec/progressDeadlineSeconds", 3600), setting("Rollout", "/spec/strategy/canary/maxSurge", "50%")),
    "a scaler of it": (UNPINNED, scaler()),
}  # fmt: skip


@pytest.mark.parametrize("case", FREE)
def test_what_is_the_environments_own_in_a_rollout_is_no_gap(case: str, stepwise: Path) -> None:
    for change in FREE[case]:
        change(stepwise)
    assert failures(stepwise) == []


METRIC = "/spec/metrics/0"
UNROLLED: dict[str, tuple[spoil.Spoil, str]] = {
    "no analysis": (patched("Rollout", {"op": "remove", "path": f"{STEPS}/1"}), "steps: has no analysis as components/rollout writes it"),
    "another analysis": (setting("Rollout", f"{STEPS}/1/analysis/templates/0/templateName", "other"), "steps: has no analysis"),
    "another model's verdict": (
        setting("Rollout", f"{STEPS}/1/analysis/args/1", {"name": "model", "value": f"sha256:{'0' * 64}"}), "steps: has no analysis"
    ),
    "most pods before it": (setting("Rollout", f"{STEPS}/0/setWeight", 90), "steps: .*before the analysis let setWeight be 1 to 50"),
    "no pods before it": (patched("Rollout", {"op": "remove", "path": f"{STEPS}/0"}), "steps: .*before the analysis let setWeight"),
    "another kind of step": (setting("Rollout", f"{STEPS}/-", {"setCanaryScale": {"replicas": 9}}, "add"), "allowed beside the analysis: setWeight, pause"),
    "another workload": (setting("Rollout", "/spec/workloadRef/name", "other"), "spec.workloadRef.name: is 'other', the release says 'server'"),
    "pods of its own": (setting("Rollout", "/spec/template", {"spec": {"containers": []}}, "add"), "Rollout server: spec.template: is "),
    "blue and green": (setting("Rollout", "/spec/strategy/blueGreen", {"activeService": "server"}, "add"), "spec.strategy.blueGreen: is "),
    "a rollback that waits": (patched("Rollout", {"op": "remove", "path": "/spec/rollbackWindow"}), "spec.rollbackWindow: is missing"),
    "nothing to roll back to": (setting("Rollout", "/spec/revisionHistoryLimit", 0), "spec.revisionHistoryLimit: is 0, allowed: 3 to 100"),
    "paused": (setting("Rollout", "/spec/paused", True, "add"), "spec.paused: is True"),
    "another release's name": (setting("Rollout", "/metadata/annotations/lockstep~1model", "sha256:0"), "annotations: lockstep/model is 'sha256:0'"),
    "a verdict that is always good": (setting("AnalysisTemplate", f"{METRIC}/successCondition", "true"), "AnalysisTemplate lockstep-canary: spec.metrics: is "),
    "a verdict of another server": (setting("AnalysisTemplate", f"{METRIC}/provider/web/url", "http://evil.example"), "spec.metrics: is "),
    "a verdict that does not count": (setting("AnalysisTemplate", "/spec/dryRun", [{"metricName": "lockstep"}], "add"), "spec.dryRun: is "),
    "no template": (
        patched("AnalysisTemplate", {"op": "replace", "path": "/kind", "value": "ConfigMap"}), "belong together: name release/rollout"
    ),
    "servers of the Deployment too": (setting("Deployment", "/spec/replicas", 2, "add"), "Deployment server: spec.replicas: the Rollout says"),
    "a scaler that it undoes": (scaler(), "its Rollout has spec.replicas, which would undo each scaling"),
    "a scaler of the Deployment": (scaler(apiVersion="apps/v1", kind="Deployment"), "spec.scaleTargetRef: is .*, the server is Rollout server"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNROLLED)
def test_a_rollout_that_could_pass_over_the_verdict_is_refused(case: str, stepwise: Path) -> None:
    change, said = UNROLLED[case]
    change(stepwise)
    refused(stepwise, said)


def test_a_rollout_beside_an_inference_service_is_refused(stepwise: Path) -> None:
    edit(stepwise, "staging", lambda own: own.update(resources=["release/kserve"]))
    added(TARGET | {"metadata": {"name": "server"}, "spec": {}})(stepwise)
    refused(stepwise, "belong together: name release/rollout")
