"""Several adapters on one server: each project writes its own component, and kustomize builds one Deployment of all."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from checks.config.release_params import Serve, ServedAdapter
from checks.formats.serving import ImageReport
from checks.process.errors import ParamsRefused
from checks.storage import layout
from release.image import weights
from release.overlay import adapter_component, deployed, environment_file, overlays
from release.verbs import render
from tests import kubernetes_tools
from tests.conftest import REPOSITORY, dumped
from tests.overlay_sample import COMMIT, OTHER, SERVER, image, load, pointer, put, serve

SUPPORT, ROUTER, WRITER = "support", "router", "writer"
STAGING = layout.ENVIRONMENTS / "staging"


def served(name: str) -> Serve:
    plain = serve(name=name, runtime="vllm", base=None, server=f"{SERVER}@{OTHER}")
    return plain.model_copy(update={"adapter": ServedAdapter(max_rank=16, most=3)})


def built(name: str, model: str) -> ImageReport:
    return image("vllm", "weights", model=model, path=weights.place(name, model), server=f"{SERVER}@{OTHER}")


def released(name: str, digit: str) -> dict[Path, bytes]:
    """What a move of ``name`` to the model of ``digit`` writes."""
    model = f"sha256:{digit * 64}"
    return overlays.render(
        "staging", pointer(model=model, commit=COMMIT), built(name, model), load("vllm"), served(name)
    )


def project(top: Path, name: str, **knobs: Any) -> Path:
    """A project with an environment staging, rendered."""
    root = top / "projects" / name
    (root / STAGING).mkdir(parents=True)
    (root / STAGING / environment_file.NAME).write_text(dumped(knobs))
    render.render(root, "staging")
    return root / layout.ENVIRONMENTS


@pytest.fixture
def projects(tmp_path: Path) -> Path:
    """Three projects: support has the server, the others are on it. Only support is promoted."""
    support = project(tmp_path, SUPPORT, namespace="support-staging", adapters=["../router", "../writer"])
    put(support, released(SUPPORT, "1"))
    for name in (ROUTER, WRITER):
        project(tmp_path, name, variant="adapter")
    return tmp_path / "projects"


def built_pod(projects: Path) -> dict[str, Any]:
    return kubernetes_tools.pod(kubernetes_tools.build(projects / SUPPORT / STAGING))


def modules(pod: dict[str, Any]) -> list[str]:
    arguments = pod["containers"][0]["args"]
    return list(arguments[arguments.index(adapter_component.MODULES) + 1 :])


def test_each_promotion_adds_or_moves_one_adapter_and_no_byte_of_the_others(projects: Path) -> None:
    own = f"support={weights.VOLUME}/models/support-{'1' * 12}/adapter"
    assert modules(built_pod(projects)) == [own]

    put(projects / ROUTER / layout.ENVIRONMENTS, released(ROUTER, "2"))
    put(projects / WRITER / layout.ENVIRONMENTS, released(WRITER, "3"))
    before = {path: path.read_bytes() for path in projects.rglob("*") if path.is_file() and ROUTER not in path.parts}
    first = built_pod(projects)
    put(projects / ROUTER / layout.ENVIRONMENTS, released(ROUTER, "4"))
    second = built_pod(projects)
    assert before == {path: path.read_bytes() for path in before}
    for item in kubernetes_tools.build(projects / SUPPORT / STAGING):
        kubernetes_tools.validate(item, kubernetes_tools.VERSIONS[-1])

    def of_router(digit: str) -> list[str]:
        folder = f"/adapters/router/models/router-{digit * 12}/adapter"
        return [f"router-{digit * 12}={folder}", f"router={folder}"]

    of_writer = [f"{name}=/adapters/writer/models/writer-{'3' * 12}/adapter" for name in (f"writer-{'3' * 12}", WRITER)]
    assert modules(first) == [own, *of_router("2"), *of_writer]
    assert modules(second) == [own, *of_router("4"), *of_writer]
    mounts = {mount["name"]: mount["mountPath"] for mount in second["containers"][0]["volumeMounts"]}
    assert mounts[f"adapter-{'4' * 12}"] == "/adapters/router"
    images = {volume["name"]: volume["image"]["reference"] for volume in second["volumes"] if "image" in volume}
    assert images.keys() == {"weights", f"adapter-{'4' * 12}", f"adapter-{'3' * 12}"}


def of_canary(digit: str) -> dict[Path, bytes]:
    """What a move of the router's environment ``canary`` writes."""
    return {Path(str(path).replace("staging", "canary")): data for path, data in released(ROUTER, digit).items()}


def test_a_canary_adds_one_name_to_the_server_and_changes_no_byte_of_the_others(projects: Path) -> None:
    put(projects / ROUTER / layout.ENVIRONMENTS, released(ROUTER, "2"))
    put(projects / WRITER / layout.ENVIRONMENTS, released(WRITER, "3"))
    before = modules(built_pod(projects))
    knobs = projects / ROUTER / STAGING / environment_file.NAME
    knobs.write_text(dumped({"variant": "adapter", "canary": "canary"}))
    with pytest.raises(ParamsRefused, match=r"canary has no release/canary/kustomization\.yaml"):
        render.render(projects / ROUTER, "staging")
    home = projects / ROUTER / layout.ENVIRONMENTS / "canary"
    home.mkdir()
    (home / environment_file.NAME).write_text(dumped({"variant": "adapter"}))
    render.render(projects / ROUTER, "canary")
    render.render(projects / ROUTER, "staging")
    assert modules(built_pod(projects)) == before

    put(projects / ROUTER / layout.ENVIRONMENTS, of_canary("4"))
    pod = built_pod(projects)
    added = f"router-canary=/adapters/router-canary/models/router-{'4' * 12}/adapter"
    assert modules(pod) == [*before[:3], added, *before[3:]]
    mounts = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
    assert mounts[f"adapter-canary-{'4' * 12}"] == "/adapters/router-canary"
    # The candidate is promoted: until the canary gets another one, both names are the same release.
    put(projects / ROUTER / layout.ENVIRONMENTS, released(ROUTER, "4"))
    pod = built_pod(projects)
    names = [module.partition("=")[0] for module in modules(pod)]
    assert len(set(names)) == len(names) == 6
    volumes = [volume["name"] for volume in pod["volumes"]]
    assert len(set(volumes)) == len(volumes)
    for item in kubernetes_tools.build(projects / SUPPORT / STAGING):
        kubernetes_tools.validate(item, kubernetes_tools.VERSIONS[-1])


def test_a_cluster_is_compared_with_the_server_and_all_its_adapters(projects: Path) -> None:
    put(projects / ROUTER / layout.ENVIRONMENTS, released(ROUTER, "2"))
    items = kubernetes_tools.build(projects / SUPPORT / STAGING)
    wanted = released(SUPPORT, "1")
    components = [released(ROUTER, "2")[STAGING / overlays.ADAPTER], adapter_component.NO_COMPONENT]
    assert deployed.failures(items, "staging", overlays.joined("staging", wanted, components)) == []

    other = [released(ROUTER, "4")[STAGING / overlays.ADAPTER]]
    lines = deployed.failures(items, "staging", overlays.joined("staging", wanted, other))
    assert any("server.args" in line for line in lines)
    assert any(f"adapter-{'4' * 12}: is there 0 times" in line for line in lines)


def test_an_adapter_that_was_withdrawn_leaves_the_server_as_it_was(projects: Path) -> None:
    alone = built_pod(projects)
    put(projects / ROUTER / layout.ENVIRONMENTS, released(ROUTER, "2"))
    assert built_pod(projects) != alone
    put(projects / ROUTER / layout.ENVIRONMENTS, overlays.nothing("staging", adapter=True))
    assert built_pod(projects) == alone


def test_a_server_that_runs_nothing_builds_to_nothing_with_adapters(projects: Path) -> None:
    put(projects / ROUTER / layout.ENVIRONMENTS, released(ROUTER, "2"))
    put(projects / SUPPORT / layout.ENVIRONMENTS, overlays.nothing("staging"))
    assert kubernetes_tools.build(projects / SUPPORT / STAGING) == []


def test_what_adds_no_adapter_to_a_server_writes_no_component() -> None:
    merged = overlays.render("staging", pointer(), image("vllm", "weights"), load("vllm"), serve())
    assert STAGING / overlays.ADAPTER not in merged
    assert STAGING / overlays.ADAPTER not in overlays.nothing("staging")


def test_a_second_render_leaves_what_a_promotion_wrote(projects: Path) -> None:
    put(projects / ROUTER / layout.ENVIRONMENTS, released(ROUTER, "2"))
    assert render.render(projects / ROUTER, "staging") == []


@pytest.mark.parametrize(
    ("knobs", "refused"),
    [
        ({"variant": "adapter", "namespace": "router"}, "the server is another environment's: remove namespace"),
        ({"variant": "adapter", "replicas": 2, "gpus": 1}, "another environment's: remove gpus, replicas"),
        ({"variant": "rollout", "namespace": "s", "adapters": ["../router"]}, "by which a Rollout is analysed"),
        ({"namespace": "s", "adapters": ["../router", "../router"]}, "names a project twice"),
        ({"namespace": "s", "adapters": ["/router"]}, "adapters"),
        ({"namespace": "s", "adapters": ["../router/../.."]}, "adapters"),
        ({"variant": "deployment"}, "namespace: is missing"),
        ({"variant": "adapter", "canary": "../canary"}, "canary"),
        ({"namespace": "s", "canary": "canary"}, "canary: is for `variant: adapter`"),
    ],
)
def test_knobs_that_contradict_one_server_for_several_adapters_are_refused(knobs: dict[str, Any], refused: str) -> None:
    path = environment_file.path("staging")
    with pytest.raises(ParamsRefused, match=refused):
        environment_file.read("staging", {path: dumped(knobs).encode()})


def test_the_sample_environments_list_no_adapter(tmp_path: Path) -> None:
    tree = shutil.copytree(REPOSITORY / layout.ENVIRONMENTS, tmp_path / layout.ENVIRONMENTS)
    for name in ("staging", "production"):
        path = environment_file.path(name)
        file = environment_file.read(name, {path: (tree / name / environment_file.NAME).read_bytes()})
        assert file.adapters == []
