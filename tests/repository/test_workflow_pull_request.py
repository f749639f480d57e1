"""The whole journey of a thin repository under act: pull request, verdict, comment, merge, staging, production.

One repository, one story: each part begins where the one before ended. What GitHub alone does (docs/how-to/github.md) is asked of
the files in tests/repository/test_workflow_files.py.
"""

import contextlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from checks.formats.harvest import HarvestedRow, Origin, Review, request_digest, source_bytes
from checks.formats.pointer import Pointer
from checks.records.rows import Message
from checks.storage import digest, layout
from release.evidence import harvest_reviews, keys
from release.evidence.trust import Signatory
from release.review import harvest_pull
from release.verbs import keys as key_verbs
from tests import programs, workflow_repository
from tests.act_service import Run
from tests.github_api_standin import ACTIONS, StandIn
from tests.pipeline_repository import SERVICES, VERBS, git
from tests.registry_service import registry
from tests.workflow_repository import SECOND, Pull, Team

pytestmark = pytest.mark.slow

PASS = "### ✅ Pass"
SERVER_BRANCH = "renovate/server"
OLD, NEW = (f"registry.example/servers/server:1@sha256:{digit * 64}" for digit in "67")
TRAIN_ONWARD = ["train", "merge", "score", "evaluate", "suites", "probe", "gate"]


@pytest.fixture(scope="module")
def team(tiny_base: Path, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    """A repository in which nothing has been run yet. It names the server of its weights."""
    folder = tmp_path_factory.mktemp("journey")
    with StandIn() as hub, contextlib.ExitStack() as stack:
        there = shutil.which("docker-registry") is not None  # without one, everything up to the merge is still tested
        image = f"{stack.enter_context(registry(folder / 'registry')).host}/team/router" if there else ""
        document = workflow_repository.document()
        document["serve"]["server"] = OLD
        yield workflow_repository.make(folder / "team", tiny_base, document, hub, wheel, image)


@pytest.fixture(scope="module")
def opened(team: Team) -> Pull:
    team.hub.pull("faster", number=1)
    team.change("faster", lambda value: value["train"].update(learning_rate=0.03), "Learn faster", base="main")
    return team.judged(1, action="opened")


def test_the_repository_has_no_code_of_lockstep(team: Team) -> None:
    names = git(team.origin, "ls-tree", "-r", "--name-only", "main").splitlines()
    assert {"lockstep", "lockstep-requirements.txt", ".github/workflows/pr.yml"} <= set(names)
    assert not any(name.endswith(".py") for name in names)


def test_a_pull_request_is_judged_in_three_jobs_and_gets_one_comment(team: Team, opened: Pull) -> None:
    assert opened.run.conclusions() == {
        "projects": "skipped",
        "data": "success",
        "train": "success",
        "verdict": "success",
    }, opened.run.text
    assert opened.stages("data") == ["fetch", "prepare", "validate"]
    assert opened.stages("train") == TRAIN_ONWARD
    assert opened.first_line().startswith(PASS)
    assert [each["user"]["login"] for each in team.hub.on(1)] == [ACTIONS]
    assert "**Changed:** `train.learning_rate` `0.01` → `0.03`" in opened.comment


def test_the_record_is_one_commit_of_the_bot_and_carries_the_check(team: Team, opened: Pull) -> None:
    tip = team.tip("faster")
    assert team.subjects("faster")[0].startswith("Record: verdict pass")
    assert len(team.subjects("faster")) == 2
    assert git(team.origin, "log", "-1", "--format=%an", tip).strip() == ACTIONS
    changed = git(team.origin, "show", "--name-only", "--format=", tip).split()
    assert "dvc.lock" in changed
    assert {Path(name).parts[0] for name in changed} == {"code.lock", "dvc.lock", "reports"}
    assert (opened.check["name"], opened.check["head_sha"], opened.check["conclusion"]) == ("lockstep", tip, "success")
    assert opened.check["details_url"].endswith("/actions/runs/1")
    assert yaml.safe_load(team.show("faster", "dvc.lock"))["stages"].keys() >= set(TRAIN_ONWARD)


def test_the_comment_links_the_pictures_and_the_data_docs_of_the_run(opened: Pull) -> None:
    links = dict(re.findall(r"\[(Plots|Data-Docs)\]\((https://[^)\s]+)\)", opened.comment))
    assert links.keys() == {"Plots", "Data-Docs"}
    assert all("/actions/runs/1/artifacts/" in url for url in links.values())


def test_the_artifacts_of_the_run_are_on_the_dvc_remote(team: Team, opened: Pull) -> None:
    assert len(list((team.store / "files" / "md5").rglob("*"))) > 20


@pytest.fixture(scope="module")
def merged(team: Team, opened: Pull) -> str:
    """main before the merge; the merge is done. It brings a second model, too."""
    before = team.tip("main")
    team.add_project("both", base="origin/faster")
    team.merge("both")
    team.hub.pulls[1]["state"] = "closed"
    return before


@pytest.fixture(scope="module")
def released(team: Team, merged: str) -> Run:
    if not team.act.variables["LOCKSTEP_IMAGE"]:
        programs.missing("docker-registry", "not on PATH")
    team.act.variables["LOCKSTEP_PROJECTS"] = "yes"
    run = team.pushed(merged)
    del team.act.variables["LOCKSTEP_PROJECTS"]  # what follows is of the model at the git root
    return run


def test_a_merge_that_changes_two_models_moves_staging_of_both_without_training(team: Team, released: Run) -> None:
    done = dict.fromkeys(("projects", "build", "verify", "release", "site", "pages"), "success")
    assert released.conclusions() == done, released.text
    assert "> train" not in released.text
    for folder, image in (("", ""), (f"{SECOND}/", f"/{SECOND}")):
        text = team.show("main", f"{folder}{layout.ENVIRONMENTS}/staging/pointer.yaml")
        pointer = Pointer.model_validate(yaml.safe_load(text))
        assert pointer.version == "v0.1.0"
        assert pointer.image.partition("@")[0] == team.act.variables["LOCKSTEP_IMAGE"] + image
        assert pointer.model == json.loads(team.show("main", f"{folder}{layout.VERDICT}"))["model"]
    subjects = {f"promote staging{of} to v0.1.0" for of in ("", f" of {SECOND}")}
    assert set(team.subjects("main", "both")) - subjects == {"Merge both"}
    tags = set(git(team.origin, "tag").split())
    assert {"azure-cli-router@v0.1.0", f"{SECOND}=summary@v0.1.0", f"{SECOND}=summary#staging#1"} <= tags


def test_the_pages_of_releases_are_deployed_and_that_of_the_image_is_attached_to_it(team: Team, released: Run) -> None:
    assert "attached to " + team.act.variables["LOCKSTEP_IMAGE"] in released.jobs["release"].log
    pages = {f"{folder}/{name}.html" for folder in ("root", SECOND) for name in ("index", "v0.1.0")}
    assert set(re.findall(r"deployed (\S+)", released.jobs["pages"].log)) == {"index.html", *pages}


def test_the_machine_that_verified_signed_that_by_an_identity_of_its_own(team: Team, released: Run) -> None:
    verify, release = released.jobs["verify"], released.jobs["release"]
    assert (verify.conclusion, release.conclusion) == ("success", "success"), released.text
    assert (
        "serving: pass by transformers as a process, verified by verifier; not verified the way it will be served"
        in release.log
    )
    assert "signed by ci" in release.log
    pointer = Pointer.model_validate(yaml.safe_load(team.show("main", f"{layout.ENVIRONMENTS}/staging/pointer.yaml")))
    assert pointer.verified == "process"


@pytest.fixture(scope="module")
def production(team: Team, released: Run) -> Run:
    why = {"action": "promote", "environment": "production", "why": "staging was quiet", "to": ""}
    return team.dispatch("promote.yml", why)


def test_production_is_moved_by_hand(team: Team, production: Run) -> None:
    assert production.conclusions() == {"move": "success", "pages": "success"}, production.text
    staging, there = (
        team.show("main", f"{layout.ENVIRONMENTS}/{name}/pointer.yaml") for name in ("staging", "production")
    )
    assert yaml.safe_load(there)["image"] == yaml.safe_load(staging)["image"]
    assert "staging was quiet" in git(team.origin, "log", "-1", "--format=%B", "main")


@pytest.fixture(scope="module")
def regressed(team: Team, merged: str) -> Pull:
    """A pull request whose training spoils the model, and which asks for less, so that its own policy might take that."""
    team.hub.pull("lower", number=3)

    def worse(value: dict[str, Any]) -> None:
        value["gates"]["routes_well"]["at_least"] = 0.05
        value["train"] |= {"learning_rate": 0.5, "max_steps": 40, "allow": ["divergence"]}

    team.change("lower", worse, "Learn faster still", "origin/main")
    return team.judged(3, action="opened")


def test_a_regression_behind_a_lowered_bar_fails_its_check_and_the_comment_says_both(
    team: Team, regressed: Pull
) -> None:
    assert regressed.run.conclusions()["verdict"] == "success", regressed.run.text
    assert (regressed.stages("data"), regressed.stages("train")) == ([], TRAIN_ONWARD)
    assert regressed.first_line().startswith("### ❌ Fail")
    assert "1 gate becomes weaker for everybody" in regressed.comment
    assert "❌ `routes_well`" in regressed.comment
    assert "newly wrong" in regressed.comment
    assert (regressed.check["conclusion"], regressed.check["head_sha"]) == ("failure", team.tip("lower"))
    assert team.subjects("lower")[0].startswith("Record: verdict ")


@pytest.fixture(scope="module")
def bad(team: Team, regressed: Pull) -> Pull:
    """The next push to the same pull request expects of the data what does not hold."""
    strict = lambda value: value["validate"]["labels"].update(max_share=0.26)  # noqa: E731
    team.change("lower", strict, "Expect what does not hold")
    return team.judged(3)


def test_bad_data_stops_before_a_gpu_is_used_and_the_same_comment_says_so(
    team: Team, regressed: Pull, bad: Pull
) -> None:
    assert bad.run.conclusions() == {
        "projects": "skipped",
        "data": "failure",
        "train": "skipped",
        "verdict": "failure",
    }, bad.run.text
    assert bad.stages("data") == ["validate"]
    assert "data" in bad.first_line().lower()
    assert len(team.hub.on(3)) == 1
    assert bad.comment != regressed.comment
    assert bad.check["conclusion"] == "failure"
    assert bad.check["head_sha"] == team.tip("lower") == bad.head
    assert team.subjects("lower")[0] == "Expect what does not hold"


def test_why_a_stage_refused_travels_with_the_record_and_no_other_hidden_file(team: Team, bad: Pull) -> None:
    run = bad.check["details_url"].rpartition("/")[2]
    record = team.act.folder / f"run-{run}" / "artifacts" / "record"
    assert {path.name for path in record.iterdir()} == {"code.lock", "dvc.lock", "reports", ".lockstep"}
    hidden = {
        str(path.relative_to(record)) for path in record.rglob("*") if "/." in str(path.relative_to(record.parent))
    }
    assert hidden == {".lockstep", str(layout.REFUSAL)}


@pytest.fixture(scope="module")
def harvested(team: Team, merged: str) -> Pull:
    """A harvest that a machine account opened, signed by a person: every label in it is that of another service."""
    key_verbs.new(team.work, "ada", ("harvest",), team.store.parent / "ada.key")
    git(team.work, "fetch", "--quiet", "origin")
    git(team.work, "switch", "--quiet", "--force-create", "main", "origin/main")
    key_verbs.add_signer(team.work, "ada", ("harvest",), team.store.parent / "ada.pub")
    team.push("main", "Ada reads harvests")
    rows = [
        HarvestedRow(
            id=request_digest(f"{verb} {thing} {number}"),
            messages=(
                Message(role="user", content=f"{verb} {thing} which costs {number} euros"),
                Message(role="assistant", content=list(SERVICES)[list(SERVICES).index(service) - 1]),
            ),
            environment="production", release=None,
        )
        for service, things in SERVICES.items() for thing in things for verb in VERBS for number in (7, 95, 318)
    ]  # fmt: skip
    data, path = source_bytes(rows), team.store.parent / "harvest.jsonl"
    path.write_bytes(data)
    review = Review(
        environment="production", since=None, until=None, uri=path.as_uri(),
        sha256=digest.of_bytes(data).removeprefix("sha256:"), license="MIT", consent="Terms",
        compared=("test", "valid"), requests=len(rows), labelled=len(rows), refused={}, as_answered=0,
        origins=tuple(Origin(request=name, release=None) for name in sorted(row.id for row in rows)),
    )  # fmt: skip
    branch = "lockstep/harvest-production-2026-05-04"
    git(team.work, "switch", "--quiet", "--create", branch)
    for name, content in harvest_pull.files_of(review, (team.work / layout.PARAMS).read_text(), None).items():
        (team.work / name).parent.mkdir(parents=True, exist_ok=True)
        if content is not None:
            (team.work / name).write_bytes(content)
    git(team.work, "add", "--all")
    bot = f"{ACTIONS} <41898282+{ACTIONS}@users.noreply.github.com>"
    git(team.work, "commit", "--quiet", "--author", bot, "--message", "Harvest production")
    signer = Signatory(keys.load(team.store.parent / "ada.key"), ())
    harvest_reviews.sign(team.work, review, data, signer)
    team.push(branch, "Signed")
    team.hub.pull(branch, number=8)["user"] = {"login": "acme-machine", "type": "User"}
    team.act.variables["LOCKSTEP_HARVEST_CLOSE"] = "acme-machine"
    done = team.judged(8, action="opened")
    del team.act.variables["LOCKSTEP_HARVEST_CLOSE"]
    return done


def test_a_harvest_whose_model_does_not_pass_is_closed_with_the_reason(team: Team, harvested: Pull) -> None:
    assert harvested.run.conclusions()["verdict"] == "success", harvested.run.text
    report, closing = (comment["body"] for comment in team.hub.on(8))
    assert not report.startswith(PASS)
    assert re.match(r"Lockstep closes this pull request, because of its verdict: (Fail|Inconclusive)\b", closing)
    assert team.hub.pulls[8]["state"] == "closed"
    assert "closed: " in harvested.run.jobs["verdict"].log


class Fork(NamedTuple):
    """Runs of a stranger's pull request: a label of another kind comes; the label of the commit comes."""

    other: Run
    labelled: Run


@pytest.fixture(scope="module")
def fork(team: Team, merged: str) -> Fork:
    """The branch is elsewhere; GitHub keeps its commits as refs/pull/6/head."""
    team.hub.pull("theirs", number=6, fork="stranger/router")
    team.change("theirs", lambda value: value["train"].update(learning_rate=0.02), "From a fork", "origin/main")
    git(team.work, "push", "--quiet", "origin", "HEAD:refs/pull/6/head", ":refs/heads/theirs")
    pull, name = team.hub.pulls[6], f"run {git(team.work, 'rev-parse', 'HEAD').strip()}"
    pull["labels"] = [{"name": f"run {team.tip('main')}"}, {"name": name[:20]}]
    other = team.pull_request(6, action="labeled", label="question")
    pull["labels"].append({"name": name})

    def until_it_trains(line: dict[str, Any]) -> None:
        if line.get("jobID") == "train" and line["msg"].strip() == "> train":
            team.act.kill()

    return Fork(other, team.pull_request(6, action="labeled", label=name, watch=until_it_trains))


def test_a_fork_is_held_until_its_very_commit_is_labelled(team: Team, fork: Fork) -> None:
    assert set(fork.other.conclusions().values()) == {"skipped"}
    assert fork.labelled.jobs["data"].conclusion == "success"
    assert list(fork.labelled.jobs["train"].stages)[-1] == "train", fork.labelled.text
    assert team.hub.on(6) == []


def test_a_fork_gets_no_secret(team: Team, fork: Fork) -> None:
    for run in fork:
        assert str(team.store) not in run.text
        assert team.act.secrets["GITHUB_TOKEN"] not in run.text


@pytest.fixture(scope="module")
def rehearsed(team: Team, production: Run) -> Run:
    return team.scheduled()


def test_the_weekly_run_measures_noise_rehearses_a_rollback_and_finds_the_mirrors_agreeing(
    rehearsed: Run,
) -> None:
    assert rehearsed.conclusions() == {"projects": "skipped", "calibrate": "success", "rehearse": "success"}, (
        rehearsed.text
    )
    log = rehearsed.jobs["rehearse"].log
    assert "git and its mirrors agree" in log
    assert "noise on " in rehearsed.jobs["calibrate"].log


def test_the_model_in_the_folder_that_is_named_is_rolled_back_by_hand(team: Team, production: Run) -> None:
    """The first release is withdrawn; a rollback to another one is tests/release/verbs/test_rollback.py."""
    why = {"action": "rollback", "environment": "staging", "why": "it answers slowly", "to": "none", "project": SECOND}
    back = team.dispatch("promote.yml", why)
    assert back.conclusions() == {"move": "success", "pages": "success"}, back.text
    names = git(team.origin, "ls-tree", "-r", "--name-only", "main").split()
    running = [name.removesuffix(f"/{layout.POINTER}") for name in names if Path(name).name == layout.POINTER]
    assert running == [f"{layout.ENVIRONMENTS}/{name}" for name in ("production", "staging")]
    assert "it answers slowly" in git(team.origin, "log", "-1", "--format=%B", "main")


def test_the_sealed_split_says_one_bit_about_the_model_on_main_signed_by_the_job_that_asked(
    team: Team, merged: str
) -> None:
    run = team.dispatch("sealed.yml", {})
    assert run.conclusions() == {"ask": "success"}, run.text
    model = json.loads(team.show("main", str(layout.VERDICT)))["model"]
    assert f"pass: {model}, look 1 of 3" in " ".join(run.jobs["ask"].log.split())
    (subject,) = team.subjects("main", "main~1")
    assert subject.startswith("look 1 of 3 at the sealed split ")
    (path,) = git(team.origin, "show", "--name-only", "--format=", "main").split()
    assert path.startswith(f"{layout.SEALED_LOOKS}/")
    assert workflow_repository.SEALED_KEY not in run.text


@pytest.fixture(scope="module")
def bumped(team: Team, merged: str) -> Run:
    """What Renovate does: one line of params.yaml, and its pull request."""
    team.hub.pull(SERVER_BRANCH, number=9)["user"] = {"login": "renovate[bot]", "type": "Bot"}
    git(team.work, "fetch", "--quiet", "origin")
    git(team.work, "switch", "--quiet", "--no-track", "--force-create", SERVER_BRANCH, "origin/main")
    path = team.work / layout.PARAMS
    path.write_text(path.read_text().replace(OLD, NEW))
    team.push(SERVER_BRANCH, "Update the server's digest")
    return team.pull_request(9, action="opened")


@pytest.fixture(scope="module")
def labelled(team: Team, bumped: Run) -> Pull:
    """The run after a maintainer has put the label on that very commit."""
    name = f"run {team.tip(SERVER_BRANCH)}"
    team.hub.pulls[9]["labels"] = [{"name": name}]
    return team.judged(9, action="labeled", label=name)


def test_nothing_of_a_bots_pull_request_runs_before_a_maintainer_labels_its_commit(team: Team, bumped: Run) -> None:
    assert set(bumped.conclusions().values()) == {"skipped"}
    assert git(team.origin, "diff", "--numstat", "main", SERVER_BRANCH).split() == ["1", "1", str(layout.PARAMS)]


def test_nothing_is_trained_or_computed_again_for_another_server(labelled: Pull) -> None:
    done = {"projects": "skipped", "data": "success", "train": "success", "verdict": "success"}
    assert labelled.run.conclusions() == done, labelled.run.text
    assert (labelled.stages("data"), labelled.stages("train")) == ([], [])


def test_the_comment_on_another_server_says_that_the_weights_are_the_same_and_what_compares_the_servers(
    labelled: Pull,
) -> None:
    assert labelled.first_line().startswith("### ⚠️ Pass, but the policy changes in 1 place")
    assert "serve.server" in labelled.comment
    assert "The weights stay those of main, in another server" in labelled.comment
    assert "`./lockstep verify --against ENV`" in labelled.comment


def test_the_check_of_another_server_waits_for_a_code_owner_and_the_branch_has_no_other_record(
    team: Team, labelled: Pull
) -> None:
    assert labelled.check["head_sha"] == team.tip(SERVER_BRANCH)
    assert labelled.check["conclusion"] == "failure"  # GitHub takes a required check that is neutral
    assert labelled.check["output"]["title"].startswith("⚠️ Pass, but the policy changes in 1 place")
    changed = set(git(team.origin, "diff", "--name-only", "main", SERVER_BRANCH).split())
    assert not changed & {"dvc.lock", "code.lock"}
