"""Environments as kustomize builds them, held to the schemas of Kubernetes and to what a cluster should be given."""

import itertools
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from checks.process.errors import EvidenceRefused, ParamsRefused, Refusal
from checks.storage import layout
from release import runtimes
from release.overlay import deployed, edits, overlays
from tests import kubernetes_tools
from tests.conftest import REPOSITORY, read_yaml
from tests.overlay_sample import (
    COMMIT,
    EVIDENCE,
    IMAGE,
    KINDS,
    MODEL,
    OTHER,
    SERVER,
    image,
    load,
    lying,
    pin,
    pointer,
    promoted,
    put,
    rendered,
    serve,
)  # fmt: skip

ENVIRONMENTS = ("staging", "production")
RUNTIMES = tuple(runtimes.names())
SHAPES = ("baked", "weights")
OWNER = {"deployment": "Deployment", "kserve": "InferenceService", "kserve-llm": "LLMInferenceService"}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of release/environments, as another repository would have it: nothing else is there."""
    return shutil.copytree(REPOSITORY / layout.ENVIRONMENTS, tmp_path / layout.ENVIRONMENTS)


def container(items: list[dict[str, Any]]) -> dict[str, Any]:
    (found,) = kubernetes_tools.pod(items)["containers"]
    return found


def all_values(value: Any, key: str) -> list[Any]:
    """Every value under ``key``, however deep."""
    if isinstance(value, dict):
        return [
            found for name, each in value.items() for found in ([each] if name == key else []) + all_values(each, key)
        ]
    return [found for each in value for found in all_values(each, key)] if isinstance(value, list) else []


# What a cluster is given.


@pytest.mark.slow
@pytest.mark.parametrize(
    ("environment", "runtime", "shape", "kind"),
    [
        *(("production", *case) for case in itertools.product(RUNTIMES, SHAPES, KINDS)),
        *(("staging", RUNTIMES[0], SHAPES[0], kind) for kind in KINDS),
    ],
)
def test_every_environment_with_every_runtime_builds_what_kubernetes_takes_and_what_was_promoted(
    environment: str, runtime: str, shape: str, kind: str
) -> None:
    items = promoted(environment, runtime, shape, kind)
    kinds = {
        "deployment": {"Deployment", "Service"},
        "kserve": {"InferenceService"},
        "kserve-llm": {"LLMInferenceService", "LLMInferenceServiceConfig", "Service"},
    }[kind]
    assert {item["kind"] for item in items} == kinds | {"NetworkPolicy", "PodDisruptionBudget"}
    version = kubernetes_tools.VERSIONS[ENVIRONMENTS.index(environment)]
    for item in items:
        assert item["metadata"]["namespace"] == f"model-{environment}"
        kubernetes_tools.validate(item, version)
    assert deployed.failures(items, environment, rendered(environment, runtime, shape)) == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_images_are_by_digest_and_the_pod_is_held_in(runtime: str, shape: str, kind: str) -> None:
    items = promoted("production", runtime, shape, kind)
    pod, server, facts = kubernetes_tools.pod(items), container(items), load(runtime)

    # An image volume is a mapping, whose reference is the image.
    images = [each["reference"] if isinstance(each, dict) else each for each in all_values(items, "image")]
    weights = f"registry.example/team/router@{IMAGE}"
    assert images == ([weights] if shape == "baked" else [f"{SERVER}@{OTHER}", weights])

    assert server["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["securityContext"].get("runAsNonRoot", False) is (
        facts.user is not None and not facts.user.startswith("0")
    )
    assert pod["automountServiceAccountToken"] is False
    (network,) = [item["spec"] for item in items if item["kind"] == "NetworkPolicy"]
    assert "egress" not in network
    assert set(network["policyTypes"]) == {"Ingress", "Egress"}
    assert network["ingress"] == [{"ports": [{"protocol": "TCP", "port": "http"}]}]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_pod_agrees_with_its_runtime(runtime: str, kind: str) -> None:
    items = promoted("production", runtime, "baked", kind)
    pod, server, facts, settings = kubernetes_tools.pod(items), container(items), load(runtime), serve()
    protocol = {} if kind == "deployment" else {"protocol": "TCP"}
    assert server["ports"] == [{"name": "http", "containerPort": facts.port} | protocol]
    for probe in ("startup", "readiness", "liveness"):
        assert server[f"{probe}Probe"]["httpGet"] == {"path": facts.health, "port": "http"}
    patience = {
        name: server[f"{name}Probe"]["periodSeconds"] * server[f"{name}Probe"]["failureThreshold"]
        for name in ("startup", "liveness")
    }
    assert patience["startup"] >= settings.verify.start_seconds
    assert patience["liveness"] >= settings.verify.drain_seconds
    drain = max(facts.drain.seconds or 0, settings.verify.drain_seconds)
    assert pod["terminationGracePeriodSeconds"] > drain + server["lifecycle"]["preStop"]["sleep"]["seconds"]
    rooms = {volume["name"]: volume["emptyDir"] for volume in pod["volumes"]}
    assert rooms.pop("shm") == {"medium": "Memory", "sizeLimit": f"{facts.shm_mb}Mi"}
    assert all(room == {} for room in rooms.values())
    assert {mount["mountPath"] for mount in server["volumeMounts"]} == {"/dev/shm", *facts.writable}
    assert {mount["name"] for mount in server["volumeMounts"]} == {"shm", *rooms}
    assert not {"command", "args", "env"} & server.keys()  # the image has them


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_weights_alone_are_mounted_whole_at_a_path_of_their_own(runtime: str, kind: str) -> None:
    items = promoted("staging", runtime, "weights", kind)
    pod, server, facts = kubernetes_tools.pod(items), container(items), load(runtime)
    # Without a subPath, which containerd before 2.2 ignores for an image volume, and at a path where it would not matter.
    (mount,) = [mount for mount in server["volumeMounts"] if mount["name"] == overlays.WEIGHTS]
    assert mount == {"name": overlays.WEIGHTS, "mountPath": "/weights", "readOnly": True}
    path = f"/weights{image().path}"
    (volume,) = [volume for volume in pod["volumes"] if volume["name"] == overlays.WEIGHTS]
    assert volume["image"]["pullPolicy"] == "IfNotPresent"
    filled = runtimes.fill(facts, serve(), path)
    assert {each["name"]: each["value"] for each in server["env"]} == filled.environment
    assert tuple(server.get("command", ())) == (filled.entrypoint or ())
    assert tuple(server.get("args", ())) == filled.command
    assert path in json.dumps([server["env"], server.get("args", [])])


@pytest.mark.parametrize("kind", [*KINDS, "rollout"])
def test_the_server_of_a_release_runs_whatever_server_the_environment_names(tree: Path, kind: str) -> None:
    named = f"{SERVER}:v2@sha256:{'d' * 64}"
    files = overlays.render(
        "staging", pointer(), image("vllm", "weights", server=named), load("vllm"), serve(server=named)
    )
    put(tree, files)
    pin(tree, "staging", variant=kind)
    items = kubernetes_tools.build(tree / "staging")
    assert container(items)["image"] == named
    assert deployed.failures(items, "staging", files) == []
    assert edits.failures("staging", lying(tree), files, lambda: ()) == []


@pytest.mark.parametrize("name", ["lockstep-invalid/gateway", "lockstep.invalid/server"])
def test_a_server_that_kustomize_would_replace_is_refused(name: str) -> None:
    with pytest.raises(ParamsRefused, match=f"server: {name}:1@.*no image can have this name"):
        serve(server=f"{name}:1@{OTHER}")


@pytest.mark.parametrize("kind", KINDS)
def test_the_pod_and_what_selects_it_have_the_same_labels_and_say_what_runs(kind: str) -> None:
    items = {item["kind"]: item for item in promoted("staging", "vllm", "baked", kind)}
    owner = items[OWNER[kind]]
    metadata = {
        "deployment": lambda: owner["spec"]["template"]["metadata"],
        "kserve": lambda: owner["spec"]["predictor"],
        "kserve-llm": lambda: owner["spec"],
    }[kind]()
    labels = {"app.kubernetes.io/name": "server"}
    release = {"app.kubernetes.io/instance": "router-staging", "app.kubernetes.io/version": "v1.4.0"}
    told = {
        "lockstep/model": MODEL,
        "lockstep/version": "v1.4.0",
        "lockstep/commit": COMMIT,
        "lockstep/evidence": EVIDENCE,
    }
    assert labels | release == owner["metadata"]["labels"]
    # KServe gives the pods of an LLMInferenceService its name as this label, and adds others to a selector for ever.
    assert metadata.get("labels") == (None if kind == "kserve-llm" else labels | release)
    assert owner["metadata"]["name"] == labels["app.kubernetes.io/name"]
    assert metadata["annotations"] == told
    assert told.items() <= owner["metadata"]["annotations"].items()
    assert items["NetworkPolicy"]["spec"]["podSelector"] == {"matchLabels": labels}
    assert items["PodDisruptionBudget"]["spec"]["selector"] == {"matchLabels": labels}
    spread = kubernetes_tools.pod(list(items.values()))["topologySpreadConstraints"]
    assert [each["topologyKey"] for each in spread] == ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]
    assert all(each["labelSelector"] == {"matchLabels": labels} for each in spread)
    if kind != "kserve-llm":
        strategy = owner["spec"]["predictor"]["deploymentStrategy"] if kind == "kserve" else owner["spec"]["strategy"]
        assert strategy["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    if kind != "kserve":
        assert items["Service"]["spec"]["selector"] == labels
    if kind == "deployment":
        assert owner["spec"]["selector"] == {"matchLabels": labels}


# Types of volumes of Pod Security `restricted`, image volumes among them since Kubernetes 1.33.
RESTRICTED = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim", "projected", "secret",
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_pod_keeps_pod_security_restricted_but_for_an_image_that_runs_as_root(
    runtime: str, shape: str, kind: str
) -> None:
    pod = kubernetes_tools.pod(promoted("production", runtime, shape, kind))
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & pod.keys()
    assert all(len(volume.keys() & RESTRICTED) == 1 for volume in pod["volumes"])
    (server,) = pod["containers"]
    assert server["securityContext"]["allowPrivilegeEscalation"] is False
    assert server["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert not any("hostPort" in port for port in server["ports"])
    allowed = {"runAsNonRoot", "runAsUser", "runAsGroup", "seccompProfile"}
    assert pod["securityContext"].keys() <= allowed
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    restricted = pod["securityContext"].get("runAsNonRoot") is True and pod["securityContext"].get("runAsUser") != 0
    assert restricted is (runtime == "vllm")  # docs/how-to/environments.md says so


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_gpu_is_one_knob(kind: str) -> None:
    items = promoted("production", "tgi", "baked", kind, "gpu")
    assert container(items)["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert kubernetes_tools.pod(items)["tolerations"] == [
        {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    ]
    for item in items:
        kubernetes_tools.validate(item, kubernetes_tools.VERSIONS[0])
    assert deployed.failures(items, "production", rendered("production")) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_as_many_gpus_as_shards_and_no_environment_says_otherwise(tree: Path, kind: str) -> None:
    sharded = overlays.render("staging", pointer(), image(), load("tgi"), serve(shards=4))
    put(tree, sharded)

    def failures(gpus: int) -> list[str]:
        pin(tree, "staging", variant=kind, gpus=gpus)
        return edits.failures("staging", lying(tree), sharded, lambda: ())

    (failure,) = failures(1)
    assert failure.endswith("environment.yaml: gpus: is 1, serve.shards is 4: write `gpus: 4`")
    for gpus in (0, 4):
        assert failures(gpus) == []
        (limits,) = all_values(kubernetes_tools.build(tree / "staging"), "limits")
        assert limits["nvidia.com/gpu"] == "4"


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_pods_run_on_nodes_of_the_images_architecture_and_no_environment_says_otherwise(tree: Path, kind: str) -> None:
    plain = overlays.render("staging", pointer(), image("vllm"), load("vllm"), serve())
    on_arm = overlays.render("staging", pointer(), image("vllm"), load("vllm"), serve(platform="linux/arm64"))
    assert [path for path in plain if plain[path] != on_arm[path]] == [
        layout.ENVIRONMENTS / "staging" / overlays.SERVER
    ]
    assert b"nodeSelector" not in b"".join(plain.values())
    put(tree, on_arm)

    for selector in ({}, {"pool": "graviton"}):
        pin(tree, "staging", variant=kind, pod={"nodeSelector": selector})
        assert edits.failures("staging", lying(tree), on_arm, lambda: ()) == []
        (built,) = all_values(kubernetes_tools.build(tree / "staging"), "nodeSelector")
        assert built == {"kubernetes.io/arch": "arm64", **selector}


@pytest.mark.parametrize("gpus", [0, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_an_environment_that_was_emptied_builds_to_nothing(tree: Path, kind: str, gpus: int) -> None:
    put(tree, overlays.nothing("staging"))
    pin(tree, "staging", variant=kind, gpus=gpus)
    assert kubernetes_tools.build(tree / "staging") == []
    assert deployed.failures([], "staging", overlays.nothing("staging")) == []


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_the_repositorys_own_environments_hold_what_was_promoted_to_them(environment: str) -> None:
    folder = REPOSITORY / layout.ENVIRONMENTS / environment
    if (folder / layout.POINTER).exists():
        kubernetes_tools.build(folder)
    else:
        assert {path.name for path in folder.iterdir()} == {"environment.yaml", "kustomization.yaml"}


def test_an_image_in_a_folder_of_one_machine_gives_a_cluster_nothing(tree: Path) -> None:
    there = pointer(image=f"oci:.lockstep/image@{IMAGE}")
    files = overlays.render("staging", there, image(), load("tgi"), serve())
    put(tree, files)
    assert kubernetes_tools.build(tree / "staging") == []
    assert b"v1.4.0 lies in a folder of one machine" in files[layout.ENVIRONMENTS / "staging" / overlays.SERVER]
    assert set(files) == set(overlays.nothing("staging")) == set(rendered())


def test_nothing_in_the_environments_refers_to_anything_outside_of_them(tree: Path) -> None:
    for path in [*tree.rglob("kustomization.yaml")]:
        for document in yaml.safe_load_all(path.read_text()):
            for key in ("resources", "components", "path"):
                for found in all_values(document, key):
                    for entry in [found] if isinstance(found, str) else found if isinstance(found, list) else []:
                        assert (path.parent / entry).resolve().is_relative_to(tree.resolve()), (path, entry)
                        assert "://" not in entry


# Rendering.


def test_the_same_release_is_the_same_bytes_and_only_the_environments_name_differs_between_environments() -> None:
    assert rendered() == rendered()
    renamed = {
        Path(str(path).replace("production", "staging")): data.replace(b"router-production", b"router-staging")
        for path, data in rendered("production").items()
    }
    assert renamed == rendered()
    assert all(path.is_relative_to(layout.ENVIRONMENTS / "staging" / "release") for path in rendered())


def test_a_tag_beside_the_digest_is_left_out() -> None:
    files = overlays.render(
        "staging",
        pointer(image=f"localhost:5000/team/router:latest@{IMAGE}"),
        image(),
        load("tgi"),
        serve(),
    )
    text = files[layout.ENVIRONMENTS / "staging" / overlays.SERVER].decode()
    assert f"image: localhost:5000/team/router@{IMAGE}\n" in text
    assert "latest" not in text


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"pointer": pointer(model=OTHER)}, "v1.4.0: model: sha256:e+, its evidence says 'sha256:a+'"),
        ({"pointer": pointer(image=f"r.example/x@{OTHER}")}, "v1.4.0: image: sha256:e+, its evidence"),
        ({"pointer": pointer(commit="0" * 40)}, "v1.4.0: commit: 0+, its evidence"),
        ({"pointer": pointer(image=f"r.example/UPPER@{IMAGE}")}, "image: .* is no reference"),
        ({"pointer": pointer(image=f"https://r.example/x@{IMAGE}")}, "image: .* is no reference"),
        ({"runtime": load("vllm")}, "v1.4.0: runtime: vllm, its evidence says 'tgi'"),
        ({"serve": serve(name="other")}, "path of the weights: /models/other-a+, its evidence says '/models/router-a+'"),
        ({"built": image(path="/models/router-" + "a" * 12 + "/../../etc")}, "path of the weights"),
        ({"environment": "base"}, "'base' is a folder that environments share"),
        ({"environment": "components"}, "'components' is a folder that environments share"),
        ({"runtime": load("tgi").model_copy(update={"user": "server"})}, "tgi: user: 'server': Kubernetes takes numbers"),
        ({"runtime": load("tgi").model_copy(update={"writable": ("/a/b", "/a-b")})}, "tgi: writable: "),
        ({"runtime": load("tgi").model_copy(update={"writable": ("/",)})}, "tgi: writable: "),
        ({"runtime": load("tgi").model_copy(update={"writable": ("/weights",)})}, "tgi: writable: "),
        ({"serve": serve(dtype="fp32"), "built": image(shape="weights")}, "serve.dtype: fp32"),
    ],
)  # fmt: skip
def test_what_is_not_about_one_release_is_not_rendered(changed: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {
        "environment": "staging", "pointer": pointer(), "built": image(), "runtime": load("tgi"), "serve": serve(),
    }  # fmt: skip
    with pytest.raises((EvidenceRefused, ParamsRefused), match=message) as refused:
        overlays.render(**arguments | changed)
    assert isinstance(refused.value, Refusal)


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        (None, {}),
        ("2000:0", {"runAsNonRoot": True, "runAsUser": 2000, "runAsGroup": 0}),
        ("10001", {"runAsNonRoot": True, "runAsUser": 10001}),
        ("0:0", {"runAsUser": 0, "runAsGroup": 0}),
    ],
)
def test_a_server_is_no_root_where_its_runtime_names_another_user(user: str | None, expected: dict[str, Any]) -> None:
    runtime = load("tgi").model_copy(update={"user": user})
    files = overlays.render("staging", pointer(), image(), runtime, serve())
    pod = read_yaml(files[layout.ENVIRONMENTS / "staging" / overlays.SERVER])["spec"]["template"]["spec"]
    assert pod.get("securityContext", {}) == expected


HOSTILE = [
    "x\nspec: {hostNetwork: true}", "x: y", "# gone", "'", '"', "*alias", "&a", "!!python/object:os.system x", "{}", "[",
    "$(HOME)", "null", "yes", "1e5", "0o17", "0x1f", "12:30:45", "2026-01-01", "\u2028", "\u0085", "\x00", "\ufeff", "~", "---",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_text_stays_in_its_field_whatever_it_is(text: str) -> None:
    """Values that the pointer's own types would refuse, through the same writer."""
    hostile = pointer().model_copy(update={"version": text, "evidence": text})
    runtime = load("vllm").model_copy(update={"command": (text,), "environment": {"A": text}})
    files = overlays.render("staging", hostile, image("vllm", "weights"), runtime, serve())
    patch = read_yaml(files[layout.ENVIRONMENTS / "staging" / overlays.SERVER])
    sound = read_yaml(rendered("staging", "vllm", "weights")[layout.ENVIRONMENTS / "staging" / overlays.SERVER])
    (server,) = patch["spec"]["template"]["spec"]["containers"]
    (expected,) = sound["spec"]["template"]["spec"]["containers"]
    literal = text.replace("$(", "$$(")
    assert server == expected | {"args": [literal], "env": [{"name": "A", "value": literal}]}
    assert patch["metadata"]["annotations"] == overlays.annotations(hostile)
    assert patch["metadata"]["labels"][overlays.VERSION] == text
    patch["spec"]["template"]["spec"]["containers"] = sound["spec"]["template"]["spec"]["containers"]
    for metadata in (patch["metadata"], patch["spec"]["template"]["metadata"]):
        metadata["annotations"] = overlays.annotations(pointer())
        metadata["labels"][overlays.VERSION] = pointer().version
    assert patch == sound


@pytest.mark.slow
@settings(deadline=None)
@given(st.text(alphabet="0123456789eE.+-_xo:", min_size=1, max_size=12))
def test_text_that_looks_like_a_number_is_written_as_text(text: str) -> None:
    runtime = load("vllm").model_copy(update={"command": (text,)})
    files = overlays.render("staging", pointer(), image("vllm", "weights"), runtime, serve())
    patch = read_yaml(files[layout.ENVIRONMENTS / "staging" / overlays.SERVER])
    assert patch["spec"]["template"]["spec"]["containers"][0]["args"] == [text]


@pytest.mark.slow
def test_kustomize_reads_as_text_what_is_text(tree: Path) -> None:
    """YAML 1.2 has other numbers than YAML 1.1."""
    words = (
        "1e5",
        "12e345",
        "0o17",
        "0x1f",
        "1_000",
        ".5",
        "+1.",
        "1E+5",
        "0b1",
        "017",
        "yes",
        "null",
        "~",
        "2026-01-01",
    )
    runtime = load("vllm").model_copy(update={"command": words})
    commit = "1" * 20 + "e" + "1" * 19
    about = image("vllm", "weights", commit=commit)
    put(tree, overlays.render("staging", pointer(commit=commit), about, runtime, serve()))
    pin(tree, "staging")
    text = kubernetes_tools.tried(tree / "staging").stdout
    items = list(yaml.load_all(text, Loader=yaml.BaseLoader))
    assert tuple(container(items)["args"]) == words
    for item in kubernetes_tools.build(tree / "staging"):
        kubernetes_tools.validate(item, kubernetes_tools.VERSIONS[0])


# Tampering with what was written.


def _edited(path: Path, old: str, new: str) -> Callable[[dict[Path, bytes | None]], None]:
    def edit(files: dict[Path, bytes | None]) -> None:
        data = files[path]
        assert data is not None
        assert old.encode() in data
        files[path] = data.replace(old.encode(), new.encode(), 1)

    return edit


HERE = layout.ENVIRONMENTS / "staging"
KSERVE_LLM = HERE / overlays.KSERVE_LLM
PATCH, DEPLOYMENT, KSERVE = HERE / overlays.SERVER, HERE / overlays.DEPLOYMENT, HERE / overlays.KSERVE
TAMPERS: list[tuple[Callable[[dict[Path, bytes | None]], object], str]] = [
    (_edited(PATCH, f"router@{IMAGE}", "router:v1.4.0"), "server.yaml: line [0-9]+ is 'image: .*router:v1.4.0', a promotion writes 'image: "),
    (_edited(PATCH, f"router@{IMAGE}", f"router:latest@{IMAGE}"), "server.yaml: line "),
    (_edited(PATCH, f"router@{IMAGE}", f"router@{OTHER}"), "server.yaml: line [0-9]+ is 'image: .*eee', a promotion"),
    (_edited(PATCH, "registry.example", "evil.example"), "server.yaml: line "),
    (_edited(PATCH, "lockstep/version: v1.4.0", "lockstep/version: v1.5.0"), "is 'lockstep/version: v1.5.0', a promotion writes 'lockstep/version: v1.4.0'"),
    (_edited(PATCH, "app.kubernetes.io/version: v1.4.0", "app.kubernetes.io/version: v1.5.0"), "is 'app.kubernetes.io/version: v1.5.0'"),
    (_edited(PATCH, EVIDENCE, OTHER), "is 'lockstep/evidence: sha256:e"),
    (_edited(PATCH, COMMIT, "0" * 40), "is 'lockstep/commit: "),
    (_edited(PATCH, MODEL, OTHER), "is 'lockstep/model: "),
    (_edited(PATCH, "containerPort: 8080", "containerPort: 8081"), "is '- *name: http'|containerPort: 8081"),
    (_edited(PATCH, "seconds: 10", "seconds: 0"), "is 'seconds: 0'"),
    (_edited(PATCH, "# Written", "# written"), "line 1 is"),
    (_edited(DEPLOYMENT, "../../../base", "https://evil.example/base"), "deployment/kustomization.yaml: line "),
    (_edited(DEPLOYMENT, "patches:", "images: [{name: x}]\npatches:"), "deployment/kustomization.yaml: line "),
    (_edited(KSERVE, "../deployment", "../../../production/release/deployment"), "kserve/kustomization.yaml: line "),
    (lambda files: files.update({PATCH: files[PATCH] + b"\n"}), "server.yaml: has [0-9]+ lines, a promotion writes"),  # type: ignore[operator]
    (lambda files: files.update({PATCH: files[PATCH].rstrip()}), "server.yaml: has another end"),  # type: ignore[union-attr]
    (lambda files: files.update({PATCH: files[PATCH].replace(b"\n", b"\r\n")}), "server.yaml: (line 1|has another end)"),  # type: ignore[union-attr]
    (lambda files: files.update({PATCH: b""}), "server.yaml: has 0 lines"),
    (lambda files: files.update({PATCH: None}), "server.yaml: is not a regular file"),
    (lambda files: files.pop(PATCH), "server.yaml: is missing"),
    (lambda files: files.pop(DEPLOYMENT), "deployment/kustomization.yaml: is missing"),
    (lambda files: files.pop(KSERVE), "kserve/kustomization.yaml: is missing"),
    (_edited(KSERVE_LLM, f"router@{IMAGE}", f"router@{OTHER}"), "kserve-llm/kustomization.yaml: line "),
    (lambda files: files.update({HERE / "release" / "deployment" / "Kustomization": b""}), "Kustomization: no promotion writes it"),
    (lambda files: files.update({HERE / "release" / "more.yaml": b"a: b"}), "more.yaml: no promotion writes it"),
    (lambda files: files.update({HERE / "release" / "link": None}), "link: no promotion writes it"),
    (lambda files: files.update(dict.fromkeys(list(files)) | {HERE / "release": None}), "staging/release: no promotion writes it"),
    (lambda files: files.update(overlays.nothing("staging")), "kustomization.yaml: line "),
    (lambda files: files.update(rendered("staging", "vllm")), "server.yaml: line "),
]  # fmt: skip


@pytest.mark.parametrize(("tamper", "message"), TAMPERS)
def test_an_overlay_that_was_tampered_with_is_a_gap_that_is_named(
    tamper: Callable[[dict[Path, bytes | None]], object], message: str
) -> None:
    wanted = rendered()
    found: dict[Path, bytes | None] = dict(wanted)
    tamper(found)
    failures = overlays.check("staging", found, wanted)
    assert failures
    assert any(re.search(message, failure) for failure in failures), failures
    assert all("\n" not in failure for failure in failures)


def test_what_people_wrote_beside_it_is_no_gap() -> None:
    own = {
        HERE / "kustomization.yaml": b"mine",
        HERE / layout.POINTER: b"p",
        layout.ENVIRONMENTS / "base" / "x": b"",
        HERE / "releases": None,
    }
    assert overlays.check("staging", {**own, **rendered()}, rendered()) == []


def test_a_promotion_over_nothing_is_a_gap_before_it_is_written() -> None:
    asked = sorted(path for path in rendered() if path != KSERVE_LLM)
    assert overlays.check("staging", {}, rendered()) == [f"{path}: is missing" for path in asked]


def test_a_file_that_earlier_versions_did_not_write_may_be_missing_until_the_environment_uses_it() -> None:
    wanted = rendered()
    found: dict[Path, bytes | None] = {path: data for path, data in wanted.items() if path != KSERVE_LLM}
    found[HERE / "kustomization.yaml"] = b"resources:\n- release/deployment\n"
    assert overlays.check("staging", found, wanted) == []
    found[HERE / "kustomization.yaml"] = b"resources:\n- release/kserve-llm\n"
    assert overlays.check("staging", found, wanted) == [f"{KSERVE_LLM}: is missing"]
    found[KSERVE_LLM] = b"resources: []\n"
    (failure,) = overlays.check("staging", found, wanted)
    assert failure.startswith(f"{KSERVE_LLM}: line 1 is")


@pytest.mark.parametrize("shape", SHAPES)
def test_an_llm_inference_service_names_model_and_weights_by_digest_and_mounts_them_once(shape: str) -> None:
    items = {item["kind"]: item for item in promoted("staging", "vllm", shape, "kserve-llm")}
    spec = items["LLMInferenceService"]["spec"]
    assert spec["model"] == {"name": "router", "uri": f"oci+native://registry.example/team/router@{IMAGE}"}
    assert spec["storageInitializer"] == {"enabled": False}, "KServe adds no second mount"
    assert [volume["image"]["reference"] for volume in spec["template"]["volumes"] if "image" in volume] == (
        [] if shape == "baked" else [f"registry.example/team/router@{IMAGE}"]
    )
    # KServe merges the preset of this name, of this namespace first, and its own has a second hook before SIGTERM.
    preset = items["LLMInferenceServiceConfig"]
    assert (preset["metadata"]["name"], preset.get("spec")) == ("kserve-config-llm-template", None)
    assert spec["template"]["containers"][0]["lifecycle"] == {"preStop": {"sleep": {"seconds": 10}}}


def test_settings_that_kserve_would_read_as_a_template_are_refused(tree: Path) -> None:
    settings = load("vllm").model_copy(update={"command": (*load("vllm").command, "--chat-template={{ x }}")})
    files = overlays.render("staging", pointer(), image("vllm", "weights"), settings, serve())
    put(tree, files)
    pin(tree, "staging", variant="kserve-llm")
    (failure,) = edits.failures("staging", lying(tree), files, lambda: ())
    assert failure.endswith("contain {{, which KServe reads as a template: write another variant")
    pin(tree, "staging", variant="kserve")
    assert edits.failures("staging", lying(tree), files, lambda: ()) == []
