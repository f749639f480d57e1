"""Three projects, three adapters, one server: each project moves its own adapter, and what cannot fit is refused."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from checks.config import params_file
from checks.formats import pointer
from checks.formats.rollout_report import RolloutReport
from checks.formats.serving import LoadedAdapter, Neighbours
from checks.formats.training_reports import ParityReport, ShippedAdapter
from checks.formats.watch_report import Costs, WatchReport
from checks.process.errors import Outrun, ParamsRefused, Refusal
from checks.storage import digest, files, layout
from release.cli import environment_tables
from release.evidence import keys, trust, windows
from release.monitoring import releases
from release.overlay import overlays
from release.promotion import move_commit
from release.verbs import canary, quarantine, render
from release.verbs.build import BuildOptions, build
from release.verbs.promote import Promoted
from release.verbs.rollback import rollback
from release.verbs.status import status
from tests import build_tree, captured_rows, dvc_repository, kubernetes_tools, ledger_tree, overlay_sample, programs
from tests import promotion_tree as tree
from tests.conftest import dumped
from tests.ledger_tree import git, keep
from tests.promotion_tree import gaps, move
from tests.registry_service import registry
from tests.release.serving.test_verify_evidence import probed

pytestmark = pytest.mark.slow

alone = tree.alone
STAGING = layout.ENVIRONMENTS / "staging"
OLD, NEW = (f"{overlay_sample.SERVER}@sha256:{digit * 64}" for digit in "cd")
KNOBS = {
    "support": {"namespace": "support-staging", "adapters": ["../router", "../writer"]},
    "router": {"variant": "adapter"},
    "writer": {"variant": "adapter"},
}


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
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


def test_an_adapter_moves_and_returns_by_commits_in_its_own_folder(top: Path, place: str) -> None:
    router = top / "router"
    before = served(top)
    assert [name.partition("=")[0].rpartition("-")[0] for name in before] == ["", "router", "", "writer", ""]
    released(router, place, 7)
    start = git(top, "rev-parse", "HEAD")
    assert move(router, "staging").done == "moved"
    assert {path.partition("/")[0] for path in changed(top, start)} == {"router"}
    after = served(top)
    assert [after[0], *after[3:]] == [before[0], *before[3:]]
    assert after[1:3] != before[1:3]

    rollback(router, "staging", why="worse")
    assert {path.partition("/")[0] for path in changed(top, start)} == {"router"}
    assert served(top) == before

    rollback(router, "staging", to="none", why="not needed")
    assert served(top) == [before[0], *before[3:]]


def test_status_shows_each_adapter_with_its_version_and_base_and_what_contradicts(top: Path) -> None:
    (state,) = status(top / "support").environments
    assert [(adapter.project, adapter.version) for adapter in state.adapters] == [
        ("support", "v0.1.0"), ("router", "v0.1.0"), ("writer", "v0.1.0"),
    ]  # fmt: skip
    assert len({adapter.base for adapter in state.adapters}) == 1
    assert state.wrong == []
    (of_router,) = status(top / "router").environments
    assert (of_router.server, of_router.wrong) == ("support", [])

    knobs = {"namespace": "support-staging", "adapters": ["../writer"]}
    (top / "support" / STAGING / "environment.yaml").write_text(dumped(knobs))
    render.render(top / "support", "staging")
    keep(top, "the router is not listed")
    (of_router,) = status(top / "router").environments
    assert "no project lists router in `adapters` of staging" in of_router.wrong[0]


def priced(top: Path, name: str, per_1000_requests: float, environment: str = "staging", week: int = 0) -> Path:
    """Sign a window of what a project runs. Return its file."""
    root = top / name
    runs = pointer.parse((root / STAGING / layout.POINTER).read_bytes(), name)
    since = datetime(2026, 3, 2, tzinfo=UTC) + timedelta(weeks=week)
    report = WatchReport(
        environment=environment, since=since, until=since + timedelta(weeks=1), version=runs.version, model=runs.model,
        commit=runs.commit, status="pass", alpha=0.02, confidence=0.95, traffic=f"sha256:{'1' * 64}", reference={},
        requests=9, prompts=9, labelled=0, notes=(), findings=(),
        costs=Costs(per_1000_requests=per_1000_requests, requests=9, device_hours=3, estimated=True),
    )  # fmt: skip
    windows.write(root, report, trust.Signatory(keys.load(tree.key(root, "ada")), trust.known(root)))
    return root / windows.path(report)


def test_status_shows_what_each_adapter_costs_as_its_own_project_signed_it(top: Path) -> None:
    priced(top, "support", 1.25)
    priced(top, "router", 9, week=0)
    priced(top, "router", 0.5, week=1)
    priced(top, "router", 7, environment="production", week=2)
    edited = priced(top, "writer", 3)
    edited.write_text(edited.read_text().replace('"payload":"', '"payload":"AAAA'))
    found = status(top / "support")
    (state,) = found.environments
    assert [adapter.costs and adapter.costs.per_1000_requests for adapter in state.adapters] == [1.25, 0.5, None]
    text = environment_tables.status(found)
    ends = ["".join(line.partition("cost: ")[1:]) for line in text.splitlines() if "adapter of " in line]
    times = ("from 2026-03-02 to 2026-03-09", "from 2026-03-09 to 2026-03-16")
    costs = [
        f"cost: about {figure} per 1,000 requests {time}" for figure, time in zip(("1.25", "0.5"), times, strict=True)
    ]
    assert ends == [*costs, ""]
    assert text.count("cost: ") == 2
    assert json.loads(found.model_dump_json())["environments"][0]["adapters"][1]["costs"]["per_1000_requests"] == 0.5
    of_router = environment_tables.status(status(top / "router"))
    assert [line.strip() for line in of_router.splitlines() if "cost: " in line] == costs[1:]


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


def test_a_canary_runs_beside_its_adapter_and_a_rollback_takes_it_off_by_one_commit(top: Path, place: str) -> None:
    before = served(top)
    router = with_canary(top)
    assert served(top) == before
    with_room(top, place)
    before = served(top)
    released(router, place, 7)
    start = git(top, "rev-parse", "HEAD")
    assert move(router, "canary").done == "moved"
    assert {path.partition("/environments/")[2].partition("/")[0] for path in changed(top, start)} == {"canary"}
    after = served(top)
    assert [after[0], *after[1:3], *after[4:]] == before
    assert after[3].startswith("router-canary=/adapters/router-canary/models/router-")
    states = {state.environment: state for state in status(router).environments}
    assert [(state.server, state.wrong) for state in states.values()] == [("support", []), ("support", [])]
    (of_support,) = status(top / "support").environments
    assert [adapter.project for adapter in of_support.adapters] == ["support", "router", "router-canary", "writer"]
    assert of_support.wrong == []

    rollback(router, "canary", to="none", why="worse")
    assert served(top) == before


def test_a_canary_that_loses_is_rolled_back_by_one_commit_and_a_good_one_stays(top: Path, place: str) -> None:
    router = with_canary(top)
    with_room(top, place)
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    right, wrong = "vm", "I'm sorry, but I can't help with that."

    def runs(environment: str) -> str:
        path = router / layout.ENVIRONMENTS / environment / layout.POINTER
        return releases.short(pointer.parse(path.read_bytes(), environment).model)

    production = runs("staging")

    def decided(seed: int, answer: str) -> RolloutReport:
        """Run a canary that answers a third of the requests; as many name production's release, and are wrong."""
        released(router, place, seed)
        move(router, "canary")
        rows = [
            {
                "time": now - timedelta(hours=5) + timedelta(seconds=10 * number), "id": f"r{number}", "role": "user",
                "prompt": f"request {number}", "status": 200, "answer": [answer, right, wrong][number % 3],
                "release": [runs("canary"), production, production][number % 3],
                "model": ["router-canary", "router", f"router-{production}"][number % 3],
            }
            for number in range(720)
        ]  # fmt: skip
        captured_rows.write(router / "captures", rows, environment="staging")
        return canary.canary(router, "staging", "canary", captures=str(router / "captures"))

    without = served(top)
    report = decided(7, wrong)
    assert (report.production, report.candidate, report.runs_in) == (production, runs("canary"), "canary")
    assert (report.decision, report.pairs) == ("roll back", 240)
    assert "240 requests to other releases, or to a model by another name, are left out" in report.notes
    # The first canary has no earlier one: the server goes on without any.
    assert canary.roll_back(router, report) is not None
    assert served(top) == without

    report = decided(8, right)
    assert report.decision != "roll back"
    assert canary.roll_back(router, report) is None
    good = served(top)
    assert f"router-canary=/adapters/router-canary/models/router-{runs('canary')}/adapter" in good

    report = decided(9, wrong)
    start = git(top, "rev-list", "--count", "HEAD")
    assert canary.roll_back(router, report) is not None
    assert int(git(top, "rev-list", "--count", "HEAD")) == int(start) + 1
    assert served(top) == good


def test_a_canary_that_the_server_cannot_take_is_not_promoted(top: Path, place: str) -> None:
    router = with_canary(top)
    released(router, place, 8, base=2, rank=64)
    lines = gaps(router, "canary")
    assert re.search(r"router-canary v\S+: its base is sha256:\w+, that of support v\S+ is sha256", lines)
    assert re.search(r"router-canary v\S+: its rank is 64, serve.adapter.max_rank of support v\S+ is 16", lines)
    assert "serve.adapter.most: 3, and staging lists 3 beside its own" in lines


REFUSED = [
    ("router", {"seed": 8, "base": 2}, r"router v0.2.0: its base is sha256:\w+, that of support v0.1.0 is sha256"),
    ("router", {"seed": 8, "rank": 64}, r"router v0.2.0: its rank is 64, serve.adapter.max_rank of support v0.1.0 is 16"),
    ("support", {"seed": 8, "base": 2}, r"router v0.1.0: its base is sha256:\w+, that of support v0.2.0 is sha256"),
]  # fmt: skip


@pytest.mark.parametrize(("project", "facts", "refused"), REFUSED)
def test_what_the_server_cannot_take_is_not_promoted(
    top: Path, place: str, project: str, facts: dict[str, Any], refused: str
) -> None:
    start = served(top)
    released(top / project, place, **facts)
    lines = gaps(top / project, "staging").splitlines()
    assert [line for line in lines if re.search(refused, line)]
    assert served(top) == start


def test_a_server_and_its_adapters_return_to_an_older_base_by_way_of_no_adapter(top: Path, place: str) -> None:
    support, router, writer = (top / name for name in KNOBS)
    before = served(top)
    for root in (router, writer):
        rollback(root, "staging", to="none", why="another base")
    for seed, root in enumerate((support, router, writer), 11):
        released(root, place, seed, base=2)
        assert move(root, "staging").done == "moved"
    assert len(served(top)) == 5
    for root in (router, writer):
        quarantine.release(root, "v0.1.0", "that base is wanted again")
    for root in (support, router):
        with pytest.raises(Refusal, match="its base is sha256"):
            rollback(root, "staging", why="the older base")
    for root in (router, writer):
        rollback(root, "staging", to="none", why="the older base")
    rollback(support, "staging", why="the older base")
    for root in (router, writer):
        rollback(root, "staging", to="v0.1.0", why="the older base")
    assert served(top) == before


def test_an_adapter_that_no_project_lists_is_not_promoted(top: Path, place: str) -> None:
    (top / "support" / STAGING / "environment.yaml").write_text(dumped({"namespace": "support-staging"}))
    render.render(top / "support", "staging")
    keep(top, "no adapters beside it")
    released(top / "router", place, 9)
    assert "no project lists router in `adapters` of staging, it must be one" in gaps(top / "router", "staging")


def test_a_component_that_was_edited_is_never_built_into_the_server_unseen(top: Path, place: str) -> None:
    path = top / "router" / STAGING / overlays.ADAPTER
    path.write_text(path.read_text().replace("/adapters/router/models", "/adapters/router/other"))
    keep(top, "another folder")
    (state,) = status(top / "support").environments
    problem = f"router: {STAGING / overlays.ADAPTER}: not what `lockstep render` and a promotion write"
    assert [line for line in state.wrong if problem in line]
    released(top / "support", place, 5)
    assert problem in gaps(top / "support", "staging")


def test_a_server_moves_if_it_takes_all_adapters_and_not_if_it_has_room_for_fewer(top: Path, place: str) -> None:
    support = top / "support"
    released(support, place, 5)
    assert move(support, "staging").done == "moved"
    assert len(served(top)) == 5
    tree.rewrite(support, layout.PARAMS, lambda plain: plain["serve"]["adapter"].update(most=2))
    released(support, place, 6)
    assert "serve.adapter.most: 2, and staging lists 2 beside its own" in gaps(support, "staging")


def test_an_adapter_that_was_verified_in_another_server_image_waits_for_that(top: Path, place: str) -> None:
    router = top / "router"
    for root in (router, top / "support"):
        tree.rewrite(root, layout.PARAMS, lambda plain: plain["serve"].update(server=NEW))
    ask_for_verification_beside(router)
    released(router, place, 6, server=NEW, beside=beside(top, "router"))
    assert f"was verified for the server {NEW}, support v0.1.0 runs in {OLD}" in gaps(router, "staging")
    released(top / "support", place, 7, server=NEW)
    move(top / "support", "staging")
    released(router, place, 6, server=NEW, beside=beside(top, "router"))
    assert move(router, "staging").done == "moved"


def loaded(top: Path, name: str, environment: str = "staging", called: str = "") -> LoadedAdapter:
    """What a project runs, as a verification names it."""
    path = top / name / layout.ENVIRONMENTS / environment / layout.POINTER
    runs = pointer.parse(path.read_bytes(), name)
    return LoadedAdapter(project=called or name, version=runs.version, model=runs.model, probes=runs.model)


def beside(top: Path, project: str, *more: LoadedAdapter) -> Neighbours:
    """The other adapters, as a verification of ``project`` would name them now, and ``more``."""
    adapters = tuple(loaded(top, name) for name in KNOBS if name != project)
    return Neighbours(environment="staging", server="support", adapters=(*adapters, *more))


def ask_for_verification_beside(root: Path) -> None:
    def change(plain: dict[str, Any]) -> None:
        for rules in plain["promote"]["environments"].values():
            rules["served_as_verified"] = True

    tree.rewrite(root, layout.PARAMS, change)


def test_a_canary_is_verified_beside_its_adapter_and_moves_up_as_what_was_verified(top: Path, place: str) -> None:
    router = with_canary(top)
    with_room(top, place)
    ask_for_verification_beside(router)
    released(router, place, 7, beside=beside(top, "router"))
    again = "run `lockstep verify --beside canary`, then `lockstep sign`"
    assert re.search(
        rf"since it was verified, router from nothing to sha256:\w+ moved; {again}", gaps(router, "canary")
    )
    released(router, place, 7, beside=beside(top, "router", loaded(top, "router")))
    assert move(router, "canary").done == "moved"
    # The canary on the server is this release, and what it replaces is no neighbour.
    assert served_note(move(router, "staging")).endswith("; verified beside the adapters that run")


def test_a_canary_on_the_server_is_an_adapter_beside_every_other_release(top: Path, place: str) -> None:
    router = with_canary(top)
    with_room(top, place)
    for root in (router, top / "writer"):
        ask_for_verification_beside(root)
    released(router, place, 7, beside=beside(top, "router", loaded(top, "router")))
    move(router, "canary")
    canary_of_router = loaded(top, "router", "canary", "router (canary)")
    for seed, project in enumerate(("writer", "router"), 8):
        root = top / project
        released(root, place, seed, beside=beside(top, project))
        assert re.search(
            rf"since it was verified, router \(canary\) from nothing to sha256:\w+ moved; {AGAIN}",
            gaps(root, "staging"),
        )
        released(root, place, seed, beside=beside(top, project, canary_of_router))
        assert move(root, "staging").done == "moved"


def served_note(promoted: Promoted) -> str:
    (note,) = (check.note for check in promoted.checks if check.about == "serving")
    return note


AGAIN = "run `lockstep verify --beside staging`, then `lockstep sign`"


def test_a_release_that_was_verified_alone_is_moved_with_a_note_or_refused_as_the_environment_asks(
    top: Path, place: str
) -> None:
    router = top / "router"
    released(router, place, 7)
    alone = "it was not verified beside the other adapters on its server"
    assert served_note(move(router, "staging")).endswith(f"; {alone}")
    ask_for_verification_beside(router)
    released(router, place, 8)
    assert f"{alone}; {AGAIN}" in gaps(router, "staging")
    released(router, place, 8, beside=beside(top, "router"))
    assert served_note(move(router, "staging")).endswith("; verified beside the adapters that run")


def test_a_release_is_verified_again_once_an_adapter_beside_it_has_moved(top: Path, place: str) -> None:
    router, writer = top / "router", top / "writer"
    ask_for_verification_beside(router)
    released(router, place, 7, beside=beside(top, "router"))
    released(writer, place, 8)
    move(writer, "staging")
    assert re.search(
        r"since it was verified, writer from sha256:\w{64} to sha256:\w{64} moved", gaps(router, "staging")
    )
    released(router, place, 7, beside=beside(top, "router"))
    assert move(router, "staging").done == "moved"
    # A rollback asks nobody what else runs.
    rollback(router, "staging", why="worse")


def test_another_version_of_the_same_model_beside_a_release_is_verified_again(top: Path, place: str) -> None:
    """Its parameters start the server, and may have changed."""
    router = top / "router"
    ask_for_verification_beside(router)
    now = beside(top, "router")
    older = tuple(adapter.model_copy(update={"version": "v0.0.1"}) for adapter in now.adapters)
    released(router, place, 7, beside=now.model_copy(update={"adapters": older}))
    moved = "since it was verified, support from v0.0.1 to v0.1.0, writer from v0.0.1 to v0.1.0 moved"
    assert f"{moved}; {AGAIN}" in gaps(router, "staging")


def listed_too(top: Path, project: str) -> None:
    """Let a third project list a project of the others."""
    third = top / "third"
    tree.prepare(third, lambda plain: of_adapters("third", plain), base=False)
    knobs = {"namespace": "third-staging", "adapters": [f"../{project}"]}
    (third / STAGING / "environment.yaml").write_text(dumped(knobs))
    render.render(third, "staging")
    keep(top, f"a third project lists {project}")


BROKEN = [
    b"<<<<<<< HEAD\nspec: {}\n=======\n", b"spec: {}\n", b"\xff", b"[1]\n", b"text\n",
    b"spec: {template: {spec: {containers: [text]}}}\n", b"spec: {template: {spec: {containers: [{args: 1}]}}}\n",
]  # fmt: skip


def test_a_broken_patch_of_the_server_is_one_line_and_a_promotion_writes_it_again(top: Path, place: str) -> None:
    router, support = top / "router", top / "support"
    released(router, place, 7)
    move(router, "staging")
    path = support / STAGING / overlays.SERVER
    whole = path.read_bytes()
    problem = f"support/{STAGING / overlays.SERVER}: is not the patch that a move writes"
    for data in BROKEN:
        path.write_bytes(data)
        keep(top, "a broken patch")
        for project in (router, support):
            (state,) = status(project).environments
            assert [line for line in state.wrong if problem in line]
        with pytest.raises(Refusal) as refused:
            rollback(router, "staging", why="worse")
        assert problem in "\n".join([str(refused.value), *refused.value.others])
        assert "lockstep -C support promote staging" in str(refused.value.todo)
    move(support, "staging")
    assert path.read_bytes() == whole
    rollback(router, "staging", why="worse")


def test_a_project_that_lists_an_adapter_of_another_server_stops_promotions_and_no_rollback(
    top: Path, place: str
) -> None:
    router = top / "router"
    before = served(top)
    released(router, place, 7)
    move(router, "staging")
    listed_too(top, "router")
    rollback(router, "staging", why="worse")
    assert served(top) == before
    released(router, place, 8)
    assert "support, third lists router in `adapters` of staging, it must be one" in gaps(router, "staging")


def test_no_rollback_goes_on_if_none_of_the_listing_projects_runs_the_adapter(top: Path, place: str) -> None:
    router = top / "router"
    released(router, place, 7)
    move(router, "staging")
    listed_too(top, "router")
    path = top / "support" / STAGING / "kustomization.yaml"
    path.write_text(path.read_text().replace("router", "writer"))
    keep(top, "support builds no router")
    with pytest.raises(Refusal) as refused:
        rollback(router, "staging", why="worse")
    assert "support, third lists router" in "\n".join([str(refused.value), *refused.value.others])


def test_an_adapter_is_not_promoted_to_a_server_that_lists_more_than_most(top: Path, place: str) -> None:
    router = top / "router"
    released(router, place, 7)
    move(router, "staging")
    knobs = {"namespace": "support-staging", "adapters": ["../router", "../writer", "../third"]}
    (top / "support" / STAGING / "environment.yaml").write_text(dumped(knobs))
    render.render(top / "support", "staging")
    keep(top, "one more than most")
    released(router, place, 8)
    assert "serve.adapter.most: 3, and staging lists 3 beside its own" in gaps(router, "staging")
    rollback(router, "staging", why="worse")


def test_a_listed_folder_outside_of_the_repository_is_refused_by_name(top: Path, place: str) -> None:
    support = top / "support"
    knobs = {"namespace": "support-staging", "adapters": ["../router", "../../../../etc"]}
    (support / STAGING / "environment.yaml").write_text(dumped(knobs))
    with pytest.raises(ParamsRefused, match=r"adapters: \.\./\.\./\.\./\.\./etc: is outside of the repository"):
        render.render(support, "staging")
    keep(top, "outside")
    (state,) = status(support).environments
    assert [line for line in state.wrong if "../../../etc: is outside of the repository" in line]
    released(support, place, 5)
    assert "../../../etc: is outside of the repository" in gaps(support, "staging")
    released(top / "router", place, 6)
    assert move(top / "router", "staging").done == "moved"


def overtake(top: Path, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a commit that changes ``path`` come before the next move is committed."""
    keep(top, "what building left")

    def overtaken(*move: Any, commit: Callable[..., Any] = move_commit.commit) -> Any:
        (top / path).write_text((top / path).read_text() + "# moved\n")
        keep(top, "another move")
        return commit(*move)

    monkeypatch.setattr(move_commit, "commit", overtaken)


@pytest.mark.parametrize(
    ("path", "outrun"),
    [
        (Path("support") / STAGING / overlays.SERVER, True),
        (Path("writer") / STAGING / overlays.SERVER, False),
        (Path("writer") / STAGING / layout.POINTER, True),
        (Path("writer") / STAGING / overlays.ADAPTER, True),
    ],
)
def test_a_move_is_outrun_by_what_it_was_decided_on_and_by_nothing_else_of_another_adapter(
    top: Path, place: str, monkeypatch: pytest.MonkeyPatch, path: Path, outrun: bool
) -> None:
    router = top / "router"
    released(router, place, 8)
    overtake(top, path, monkeypatch)
    expected: AbstractContextManager[Any] = pytest.raises(Outrun) if outrun else nullcontext()
    with expected:
        assert move(router, "staging").done == "moved"


def test_a_move_of_a_server_that_another_project_lists_is_outrun_by_one_of_its_adapters(
    top: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed_too(top, "support")
    released(top / "support", place, 8)
    overtake(top, Path("router") / STAGING / layout.POINTER, monkeypatch)
    with pytest.raises(Outrun):
        move(top / "support", "staging")
