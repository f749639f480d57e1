"""Three projects, three adapters, one server: each project moves its own adapter, and what cannot fit is refused."""

import json
import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from checks.formats import pointer
from checks.formats.rollout_report import RolloutReport
from checks.formats.serving import LoadedAdapter, Neighbours
from checks.formats.watch_report import Costs, WatchReport
from checks.process.errors import Outrun, ParamsRefused, Refusal
from checks.storage import layout
from release.cli import environment_tables
from release.evidence import keys, trust, windows
from release.monitoring import releases
from release.overlay import overlays
from release.promotion import move_commit
from release.verbs import canary, quarantine, render
from release.verbs.promote import Promoted
from release.verbs.rollback import rollback
from release.verbs.status import status
from tests import captured_rows
from tests import promotion_tree as tree
from tests.adapters_tree import (
    KNOBS,
    NEW,
    OLD,
    STAGING,
    Begin,
    changed,
    listed_too,
    released,
    served,
    with_canary,
)  # fmt: skip
from tests.conftest import dumped
from tests.ledger_tree import git, keep
from tests.promotion_tree import gaps, move

pytestmark = pytest.mark.slow

alone = tree.alone


def test_an_adapter_moves_and_returns_by_commits_in_its_own_folder(begin: Begin) -> None:
    top = begin("router released")
    router = top / "router"
    before = served(top)
    assert [name.partition("=")[0].rpartition("-")[0] for name in before] == ["", "router", "", "writer", ""]
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


def test_a_canary_runs_beside_its_adapter_and_a_rollback_takes_it_off_by_one_commit(begin: Begin, place: str) -> None:
    top = begin("room for a canary")
    router = top / "router"
    before = served(top)
    assert [name.partition("=")[0].rpartition("-")[0] for name in before] == ["", "router", "", "writer", ""]
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


def test_a_canary_that_loses_is_rolled_back_by_one_commit_and_a_good_one_stays(begin: Begin, place: str) -> None:
    top = begin("room for a canary")
    router = top / "router"
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
    (
        "router", {"seed": 8, "base": 2, "rank": 64},
        [
            r"router v0.2.0: its base is sha256:\w+, that of support v0.1.0 is sha256",
            r"router v0.2.0: its rank is 64, serve.adapter.max_rank of support v0.1.0 is 16",
        ],
    ),
    ("support", {"seed": 8, "base": 2}, [r"router v0.1.0: its base is sha256:\w+, that of support v0.2.0 is sha256"]),
]  # fmt: skip


@pytest.mark.parametrize(("project", "facts", "refused"), REFUSED)
def test_what_the_server_cannot_take_is_not_promoted(
    top: Path, place: str, project: str, facts: dict[str, Any], refused: list[str]
) -> None:
    start = served(top)
    released(top / project, place, **facts)
    lines = gaps(top / project, "staging")
    assert [reason for reason in refused if not re.search(reason, lines)] == []
    assert served(top) == start


def test_a_server_and_its_adapters_return_to_an_older_base_by_way_of_no_adapter(begin: Begin) -> None:
    top = begin("all on another base")
    support, router, writer = (top / name for name in KNOBS)
    before = served(top)
    for root in (router, writer):
        rollback(root, "staging", to="none", why="another base")
    for root in (support, router, writer):
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


def test_an_adapter_that_no_project_lists_is_not_promoted(begin: Begin) -> None:
    top = begin("router released")
    (top / "support" / STAGING / "environment.yaml").write_text(dumped({"namespace": "support-staging"}))
    render.render(top / "support", "staging")
    keep(top, "no adapters beside it")
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


def test_a_canary_is_verified_beside_its_adapter_and_moves_up_as_what_was_verified(begin: Begin, place: str) -> None:
    top = begin("room for a canary")
    router = top / "router"
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


def test_a_canary_on_the_server_is_an_adapter_beside_every_other_release(begin: Begin, place: str) -> None:
    top = begin("room for a canary")
    router = top / "router"
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
    begin: Begin, place: str
) -> None:
    top = begin("router released")
    router = top / "router"
    alone = "it was not verified beside the other adapters on its server"
    assert served_note(move(router, "staging")).endswith(f"; {alone}")
    ask_for_verification_beside(router)
    released(router, place, 8)
    assert f"{alone}; {AGAIN}" in gaps(router, "staging")
    released(router, place, 8, beside=beside(top, "router"))
    assert served_note(move(router, "staging")).endswith("; verified beside the adapters that run")


def test_a_release_is_verified_again_once_an_adapter_beside_it_has_moved(begin: Begin, place: str) -> None:
    top = begin("router and writer released")
    router, writer = top / "router", top / "writer"
    ask_for_verification_beside(router)
    released(router, place, 7, beside=beside(top, "router"))
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


BROKEN = [
    b"<<<<<<< HEAD\nspec: {}\n=======\n", b"spec: {}\n", b"\xff", b"[1]\n", b"text\n",
    b"spec: {template: {spec: {containers: [text]}}}\n", b"spec: {template: {spec: {containers: [{args: 1}]}}}\n",
]  # fmt: skip


def test_a_broken_patch_of_the_server_is_one_line_and_a_promotion_writes_it_again(begin: Begin) -> None:
    top = begin("router moved")
    router, support = top / "router", top / "support"
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
    begin: Begin, promoted: Path, place: str
) -> None:
    top = begin("router listed twice")
    router, before = top / "router", served(promoted)
    rollback(router, "staging", why="worse")
    assert served(top) == before
    released(router, place, 8)
    assert "support, third lists router in `adapters` of staging, it must be one" in gaps(router, "staging")


def test_no_rollback_goes_on_if_none_of_the_listing_projects_runs_the_adapter(begin: Begin, place: str) -> None:
    top = begin("router listed twice")
    router = top / "router"
    path = top / "support" / STAGING / "kustomization.yaml"
    path.write_text(path.read_text().replace("router", "writer"))
    keep(top, "support builds no router")
    with pytest.raises(Refusal) as refused:
        rollback(router, "staging", why="worse")
    assert "support, third lists router" in "\n".join([str(refused.value), *refused.value.others])


def test_an_adapter_is_not_promoted_to_a_server_that_lists_more_than_most(begin: Begin, place: str) -> None:
    top = begin("router moved")
    router = top / "router"
    knobs = {"namespace": "support-staging", "adapters": ["../router", "../writer", "../third"]}
    (top / "support" / STAGING / "environment.yaml").write_text(dumped(knobs))
    render.render(top / "support", "staging")
    keep(top, "one more than most")
    released(router, place, 8)
    assert "serve.adapter.most: 3, and staging lists 3 beside its own" in gaps(router, "staging")
    rollback(router, "staging", why="worse")


def test_a_listed_folder_outside_of_the_repository_is_refused_by_name(begin: Begin, place: str) -> None:
    top = begin("router released")
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
    begin: Begin, monkeypatch: pytest.MonkeyPatch, path: Path, outrun: bool
) -> None:
    top = begin("router released")
    router = top / "router"
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
