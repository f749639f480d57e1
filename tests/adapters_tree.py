"""Three projects, three adapters, one server: a repository in which all of them run, and states of it that tests begin at."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from checks.config import params_file
from checks.formats.serving import Neighbours
from checks.formats.training_reports import ParityReport, ShippedAdapter
from checks.storage import digest, files, layout
from release.verbs import render
from release.verbs.build import BuildOptions, build
from tests import build_tree, dvc_repository, kubernetes_tools, ledger_tree, overlay_sample, programs
from tests import promotion_tree as tree
from tests.conftest import dumped
from tests.ledger_tree import git, keep
from tests.promotion_tree import move
from tests.registry_service import registry
from tests.release.serving.test_verify_evidence import probed

STAGING = layout.ENVIRONMENTS / "staging"
OLD, NEW = (f"{overlay_sample.SERVER}@sha256:{digit * 64}" for digit in "cd")
KNOBS = {
    "support": {"namespace": "support-staging", "adapters": ["../router", "../writer"]},
    "router": {"variant": "adapter"},
    "writer": {"variant": "adapter"},
}


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry that a cluster could reach."""
    programs.require("docker-registry")
    with registry(tmp_path_factory.mktemp("registry")) as running:
        yield running.host


def of_adapters(name: str, plain: dict[str, Any]) -> None:
    plain["merge"]["form"] = "adapter"
    plain["serve"] |= {
        "name": name, "runtime": "vllm", "base": None, "server": OLD, "adapter": {"max_rank": 16, "most": 3},
    }  # fmt: skip
    del plain["promote"]["environments"]["production"]


def weighed(root: Path, seed: int, base: int = 1, rank: int = 16) -> None:
    """Make an adapter of these bytes on a base of those the judged model, and commit the record."""
    adapter = {"adapter/adapter_model.safetensors": bytes([seed]) * 700, "adapter/adapter_config.json": b"{}"}
    of_base = build_tree.shards(seed=base)
    build_tree.weigh(root, of_base | adapter)
    described = {name: digest.FileDigest(digest.of_bytes(data), len(data)) for name, data in of_base.items()}
    shipped = ShippedAdapter(
        weights=digest.of_manifest(described), rank=rank, max_logprob_diff=0.1, mean_logprob_diff=0.01, top1=1.0
    )
    report = files.read_json(root / layout.PARITY_REPORT, ParityReport)
    files.write_json(root / layout.PARITY_REPORT, report.model_copy(update={"shipped_adapter": shipped}))
    params = params_file.load(root / layout.PARAMS)
    build_tree.judge(root, params)
    probed(root, params, seed)
    for path in (layout.MERGED, layout.PROBES):
        dvc_repository.cached(root / path, root.parent / ".dvc/cache")
    keep(root, f"adapter {seed} on base {base}")


def released(
    root: Path, place: str, seed: int, server: str = OLD, beside: Neighbours | None = None, **facts: int
) -> None:
    """Build and push an adapter, verify it on paper, and sign."""
    weighed(root, seed, **facts)
    report = build(root, BuildOptions(push=f"{place}/team/{root.name}"))
    tree.served(root, report, runtime="vllm", how="container", server=server, beside=beside)
    tree.signed(root, report)


@pytest.fixture(scope="session")
def promoted(tmp_path_factory: pytest.TempPathFactory, place: str) -> Path:
    """A clone in which support has the server, and all three adapters run on it. Take ``top``, a copy."""
    top = tmp_path_factory.mktemp("adapters") / "work"
    with pytest.MonkeyPatch.context() as patch:
        tree.leave_alone(patch)
        top.mkdir()
        git(top, "init", "--quiet", "--initial-branch=main")
        for name, text in {"config": "", ".gitignore": "/cache\n/tmp\n"}.items():
            (top / ".dvc" / name).parent.mkdir(exist_ok=True)
            (top / ".dvc" / name).write_text(text)
        for name, knobs in KNOBS.items():
            root = top / name
            tree.prepare(root, lambda plain, name=name: of_adapters(name, plain), base=False)  # type: ignore[misc]
            (root / STAGING / "environment.yaml").write_text(dumped(knobs))
            render.render(root, "staging")
            keep(root, f"environments of {name}")
        for seed, name in enumerate(KNOBS):
            released(top / name, place, seed)
            move(top / name, "staging")
    return ledger_tree.packed(top)


@pytest.fixture
def top(promoted: Path, tmp_path: Path) -> Path:
    return tree.copy(promoted, tmp_path / "work")


def served(top: Path) -> list[str]:
    """The names and folders of all adapters in the Deployment that kustomize builds."""
    arguments = kubernetes_tools.pod(kubernetes_tools.build(top / "support" / STAGING))["containers"][0]["args"]
    return list(arguments[arguments.index("--lora-modules") + 1 :])


def changed(top: Path, before: str) -> set[str]:
    return set(git(top, "diff", "--name-only", before, "HEAD").splitlines())


def with_canary(top: Path) -> Path:
    """Give the router an environment ``canary`` on the server of staging. Return the router."""
    router = top / "router"
    tree.rewrite(
        router, layout.PARAMS,
        lambda plain: plain["promote"]["environments"].update(canary=plain["promote"]["environments"]["staging"]),
    )  # fmt: skip
    for name, knobs in {
        "canary": {"variant": "adapter"},
        "staging": {"variant": "adapter", "canary": "canary"},
    }.items():
        path = router / layout.ENVIRONMENTS / name / "environment.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(dumped(knobs))
        render.render(router, name)
    keep(top, "a canary of the router")
    return router


def with_room(top: Path, place: str) -> None:
    """Let the server take a canary, too."""
    tree.rewrite(top / "support", layout.PARAMS, lambda plain: plain["serve"]["adapter"].update(most=4))
    released(top / "support", place, 5)
    move(top / "support", "staging")


def listed_too(top: Path, project: str) -> None:
    """Let a third project list a project of the others."""
    third = top / "third"
    tree.prepare(third, lambda plain: of_adapters("third", plain), base=False)
    knobs = {"namespace": "third-staging", "adapters": [f"../{project}"]}
    (third / STAGING / "environment.yaml").write_text(dumped(knobs))
    render.render(third, "staging")
    keep(top, f"a third project lists {project}")


def rebased(top: Path, place: str, *names: str) -> None:
    """Build and sign another release of each adapter, trained on another base."""
    for seed, name in enumerate(names, 20):
        released(top / name, place, seed, base=2)


def _roomy(top: Path, place: str) -> None:
    with_canary(top)
    with_room(top, place)


# States that several tests begin at: each by its name, that of the state before, and what was done then.
STATES: dict[str, tuple[str, Callable[[Path, str], object]]] = {
    "router released": ("promoted", lambda top, place: released(top / "router", place, 7)),
    "router moved": ("router released", lambda top, _: move(top / "router", "staging")),
    "router listed twice": ("router moved", lambda top, _: listed_too(top, "router")),
    "router and writer released": ("router released", lambda top, place: released(top / "writer", place, 32)),
    "room for a canary": ("promoted", _roomy),
    "all on another base": ("promoted", lambda top, place: rebased(top, place, *KNOBS)),
}
Begin = Callable[[str], Path]


@pytest.fixture(scope="session")
def reached(promoted: Path) -> dict[str, Path]:
    """The states that a test has asked for so far. Take ``begin``, a copy."""
    return {"promoted": promoted}


@pytest.fixture
def begin(reached: dict[str, Path], place: str, tmp_path: Path) -> Begin:
    """Copies a state, which the first test that asks for it makes."""

    def state(name: str) -> Path:
        if name not in reached:
            before, step = STATES[name]
            folder = tree.copy(state(before), reached["promoted"].parent / name.replace(" ", "-"))
            step(folder, place)
            reached[name] = ledger_tree.packed(folder)
        return reached[name]

    return lambda name: tree.copy(state(name), tmp_path / "work")
