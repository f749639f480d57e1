"""The tutorials, word for word: their commands are run in repositories with a tiny model, and leave what they promise."""

import contextlib
import hashlib
import json
import os
import re
import shlex
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from checks.formats import pointer
from checks.formats.serving import ServingReport
from checks.formats.verdict import Verdict
from checks.process import distribution
from checks.records.rows import Message
from checks.storage import files, layout
from release.record import kept_answers
from tests import gguf_model, overlay_sample, programs, tuned, workflow_repository
from tests import pipeline_repository as repository
from tests.act_service import Act
from tests.conftest import REPOSITORY, read_yaml, scaled_down
from tests.github_api_standin import TOKEN, StandIn
from tests.pipeline_repository import git
from tests.release.verbs.test_init import jsonl, rows
from tests.workflow_repository import Pull, Team

pytestmark = pytest.mark.slow

LAUNCHER = """#!/bin/sh
# As ./lockstep, without the virtual environment.
mkdir -p .lockstep/code
for name in checks release stages; do ln -sfn "$PWD/$name" ".lockstep/code/$name"; done
export PYTHONSAFEPATH=1 PYTHONPATH="$PWD/.lockstep/code" LOCKSTEP_ROOT="$PWD" LOCKSTEP_CALLED=./lockstep
if [ "$1" = dvc ]; then shift; exec @PYTHON@ -m stages.tools.guarded_dvc "$@"; fi
exec @PYTHON@ -m release.cli "$@"
"""


def blocks(page: str, heading: str) -> list[str]:
    """The blocks of commands below the heading that begins so."""
    text = (REPOSITORY / page).read_text()
    section = re.search(rf"^## {re.escape(heading)}.*?(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    assert section, heading
    return re.findall(r"^```\n(.*?)^```", section[0], re.DOTALL | re.MULTILINE)


def all_blocks(page: str) -> list[str]:
    """The blocks of commands of a page."""
    return re.findall(r"^```\n(.*?)^```", (REPOSITORY / page).read_text(), re.DOTALL | re.MULTILINE)


def follow(root: Path, commands: str, answers: str = "", machine: Mapping[str, str] | None = None, **more: str) -> str:
    """Type the commands at a shell that stops at the first failure; return what they print."""
    who = {
        f"GIT_{role}_{what}": f"{what}@ada.example" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
    }
    env = {**(machine or repository.environment()), **who, **more}
    env["PATH"] = os.pathsep.join([str(root.parent / "tools"), env["PATH"]])
    script = ["bash", "-e", "-c", commands]
    done = subprocess.run(script, cwd=root, env=env, input=answers, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{commands}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def tool(root: Path, name: str, script: str) -> None:
    """Put a program on the path."""
    path = root.parent / "tools" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture(scope="module")
def laptop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with a record, as this repository has one, of a base that llama.cpp can read."""
    root = tmp_path_factory.mktemp("laptop") / "lockstep"
    table = repository.table()
    rows_to_learn = workflow_repository.loaded(table, root.parent / "taught-rows")
    gguf_model.tune(gguf_model.base(tmp_path_factory), root.parent / "taught", 400, rows_to_learn)
    root.mkdir()
    document = workflow_repository.document()
    # 29 test rows rule out no smaller loss.
    document["gates"]["keeps_up_with_main"] = scaled_down()["gates"]["keeps_up_with_main"] | {"margin": 0.25}
    # As this repository's own params.yaml has it. Numbers of 8 bits part more answers than a server of the weights does.
    document["serve"]["verify"]["near_tie"] = 0.4
    repository.make(root, root.parent / "taught", document, table)
    (root / "lockstep").write_text(LAUNCHER.replace("@PYTHON@", repository.interpreter(PYTHONSAFEPATH="1")))
    (root / "lockstep").chmod(0o755)
    for name in ("staging", "production"):
        overlay_sample.pin(root / layout.ENVIRONMENTS, name)
    shutil.copytree(REPOSITORY / "docs" / "cards", root / "docs" / "cards")
    (run,) = blocks("docs/tutorial/first-release.md", "1.")
    # The example's noise is measured already.
    follow(root, run.replace("run\n", "run --calibrate\n"))
    repository.commit(root, "Record")
    return root


def test_the_first_release_reaches_staging_and_goes_back(laptop: Path) -> None:
    tutorial = "docs/tutorial/first-release.md"
    with contextlib.closing(sqlite3.connect(laptop / layout.STATE / "mlflow.db")) as store:
        logged = store.execute("SELECT value FROM tags WHERE key = 'lockstep.verdict'").fetchall()
    assert logged == [(files.read_json(laptop / layout.VERDICT, Verdict).status,)]
    (release,) = blocks(tutorial, "2.")
    assert release in (REPOSITORY / "README.md").read_text()
    printed = follow(laptop, release)
    assert "staging runs v0.1.0 now" in printed
    report = files.read_json(laptop / layout.SERVING_REPORT, ServingReport)
    assert (report.runtime, report.how, report.status) == ("llamacpp", "process", "pass")
    assert (
        pointer.parse((laptop / layout.ENVIRONMENTS / "staging" / layout.POINTER).read_bytes(), "it").version
        == "v0.1.0"
    )
    follow(laptop, blocks(tutorial, "3.")[0])
    assert not (laptop / layout.ENVIRONMENTS / "staging" / layout.POINTER).exists()


@pytest.fixture(scope="module")
def hosted(tiny_base: Path, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    """A repository without a bucket, a GPU runner and a secret of its own, which keeps its answers in git."""
    folder = tmp_path_factory.mktemp("hosted")
    with StandIn() as hub:
        team = workflow_repository.make(folder / "team", tiny_base, workflow_repository.document(), hub, wheel)
        shutil.copy(REPOSITORY / ".dvc" / "config", team.work / ".dvc" / "config")
        files.write_text(team.work / kept_answers.ANSWERS, "")
        team.push("main", "No bucket")
        team.act.secrets = {"GITHUB_TOKEN": TOKEN}
        team.act.variables = {"LOCKSTEP_HOSTED": "yes"}
        yield team


@pytest.fixture(scope="module")
def first_model(hosted: Team) -> Pull:
    """The pull request that brings main's first model. It is merged."""
    hosted.hub.pull("first", number=1)
    hosted.change("first", lambda value: value["train"].update(max_steps=21), "The first model", base="main")
    pull = hosted.judged(1, action="opened")
    hosted.merge("first")
    return pull


def test_without_a_bucket_a_pull_request_of_a_new_task_is_green(hosted: Team, first_model: Pull) -> None:
    assert set(first_model.run.conclusions().values()) == {"success", "skipped"}, first_model.run.text
    assert first_model.comment.startswith("### ✅ Pass · main has no model yet\n")
    assert first_model.check["conclusion"] == "success"
    assert list(hosted.store.iterdir()) == []


def test_a_pull_request_in_a_fork_is_compared_with_main_in_one_comment(hosted: Team, first_model: Pull) -> None:
    page = "docs/tutorial/fork.md"
    home = hosted.origin.parent / "home"
    home.mkdir()
    tool(
        home,
        "gh",
        f"""echo "$*" >> {home}/calls
case "$*" in
"api user"*) echo ada ;;
"repo fork"*) git clone --quiet {hosted.origin} lockstep ;;
"pr checks"*) exit 1 ;;
esac""",
    )
    fork, change = all_blocks(page)
    follow(home, f"{fork}\n{change}")
    assert [line.split()[:2] for line in (home / "calls").read_text().splitlines()] == [
        ["api", "user"], ["repo", "fork"], ["variable", "set"], ["pr", "create"], ["pr", "checks"], ["pr", "view"],
    ]  # fmt: skip
    hosted.hub.pull("worse", number=2)
    pull = hosted.judged(2, action="opened")
    assert pull.stages("train")[-1] == "gate", pull.run.text
    assert "`train.max_steps` `21` → `10`" in pull.comment
    assert len(hosted.hub.on(2)) == 1
    evaluation = json.loads(hosted.show("worse", str(layout.EVALUATION)))
    assert evaluation["references"]["main"]["how"] == "stored"
    assert (pull.check["head_sha"], pull.check["name"]) == (hosted.tip("worse"), "lockstep")


class Desk(NamedTuple):
    """A person's folder of the repository, and the environment of his shell."""

    root: Path
    machine: Mapping[str, str]

    def follow(self, commands: str, answers: str = "") -> str:
        return follow(self.root, commands, answers, self.machine)

    def has_what_is_pinned(self) -> None:
        """Let the environment, which has every extra, be that of the pin as it is now."""
        (stamp,) = Path(self.machine["LOCKSTEP_VENV"]).glob(".lockstep-*")
        stamp.write_text(hashlib.sha256((self.root / distribution.PIN).read_bytes()).hexdigest())


@pytest.fixture(scope="module")
def computer(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Act:
    """Somebody's machine with Lockstep as uv installs it."""
    folder = tmp_path_factory.mktemp("computer")
    act = Act(folder / "act", folder / "origin.git", "", "acme/router", loaded=True, wheel=wheel)
    act.venv()
    return act


@pytest.fixture(scope="module")
def base_of_tickets(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that knows the rows: one that is never right shows no noise. Read-only by custom."""
    instruction = Message(role="system", content="Name the team.")
    asked = [((instruction, Message(role="user", content=row["question"])), row["team"]) for row in rows(240)]
    folder = tmp_path_factory.mktemp("tickets") / "base"
    tuned.tune(tiny_base, folder, asked)
    return folder


@pytest.fixture
def desk(computer: Act, base_of_tickets: Path) -> Desk:
    """Somebody who has rows, an empty repository on GitHub, and an empty home on the machine."""
    machine, origin = computer.machine(), computer.origin
    home = Path(machine["HOME"])
    for folder in (home, origin):
        shutil.rmtree(folder, ignore_errors=True)
    home.mkdir()
    (stamp,) = computer.venv().glob(".lockstep-*")
    stamp.write_text(hashlib.sha256(computer.pin().encode()).hexdigest())
    shutil.copytree(base_of_tickets, home / "base")
    jsonl(home / "tickets.jsonl", rows(240))
    git(origin.parent, "init", "--quiet", "--bare", "--initial-branch=main", origin.name)
    fork = home / "acme" / "lockstep"
    git(home, "init", "--quiet", str(fork))
    git(fork, "commit", "--quiet", "--allow-empty", "-m", "A version")
    git(fork, "tag", f"v{distribution.version()}")
    root = home / "router"
    root.mkdir()
    tool(root, "lockstep", f'exec {computer.venv() / "bin" / "python"} -P -m release.cli "$@"')
    tool(root, "gh", f'echo "$*" >> ~/gh; case "$*" in "repo create"*) git clone --quiet {origin} router;; esac')
    tool(root, "edit", 'sed -i "s/TODO: /Of our tickets: /; s/at_least: .*/at_least: 0.4/" "$@"')
    wheels = str(computer.wheel.parent)
    more = {"LOCKSTEP_VENV": str(computer.venv()), "PIP_FIND_LINKS": wheels, "EDITOR": "edit"}
    return Desk(root, machine | more | {"GITHUB_SERVER_URL": home.as_uri()})


def fit(root: Path) -> None:
    """Change params.yaml as the tiny model needs it, which has little room and knows no English."""
    params = read_yaml((root / layout.PARAMS).read_text())
    tiny = scaled_down()
    for section, names in {
        "train": ("epochs", "max_steps", "batch_size", "precision", "lora"),
        "evaluate": ("precision",),
        "merge": ("shard_mb",),
    }.items():
        params[section] |= {name: tiny[section][name] for name in names}
    params["evaluate"]["base_prompt"]["shots"] = 1
    params["suites"] = {}
    del params["gates"]["remembers_english"]
    repository.write_params(root, params)


def test_the_ladder_leads_from_rows_of_ones_own_to_owners_and_alerts(desk: Desk) -> None:
    tutorial, root = "docs/tutorial/first-pull-request.md", desk.root
    begin, change, noise = all_blocks(tutorial)
    flags = " --base sources/base --base-license Apache-2.0 --margin 0.25"  # of the tiny model and these few rows
    begin = begin.replace("datasets/\n", "datasets/ && mkdir sources && cp -r ~/base sources/\n")
    begin = begin.replace("tickets.jsonl --workflows", f"tickets.jsonl{flags} --workflows")
    begin, pushed = begin.split("git add", 1)
    desk.follow(f"cd ..\n{begin}", "\n" * 9)
    fit(root)
    desk.follow(f"git add{pushed}")
    names = git(root, "ls-tree", "-r", "--name-only", "origin/main").splitlines()
    assert {"datasets/tickets.jsonl", ".github/CODEOWNERS", ".github/workflows/pr.yml"} <= set(names)
    assert "[skip ci]" in git(root, "log", "--format=%s", "origin/main"), "a release of no model would fail"
    (passed,) = re.findall(r"A pass reads \*(.*)\*\.", (REPOSITORY / tutorial).read_text())
    desk.follow(change)
    assert git(root, "status", "--porcelain") == ""
    assert (root.parent / "gh").read_text().endswith("\npr create --fill\n")
    names = git(root, "ls-tree", "-r", "--name-only", "origin/first-model").splitlines()
    assert {"docs/cards/model.md", "docs/cards/data.md", "dvc.lock", "code.lock"} <= set(names)
    assert "TODO: " not in git(root, "show", "origin/first-model:docs/cards/model.md")
    comment = judged(desk)
    assert comment.startswith(f"### {passed}\n"), comment
    assert not noise_counts(root), "the next pull request, which main's model is compared with, would be inconclusive"
    desk.follow(noise)
    assert "reports/noise.json" in git(root, "show", "--name-only", "--format=", "origin/first-model")
    assert noise_counts(root)
    comment = judged(desk)
    assert comment.startswith(f"### {passed}\n"), comment
    assert git(root, "status", "--porcelain") == ""
    answers = git(root, "show", f"origin/first-model:{kept_answers.ANSWERS}").splitlines()
    assert len(answers) == len((root / layout.PREDICTIONS / "candidate.jsonl").read_text().splitlines())
    desk.follow("git switch main && git merge --quiet first-model && git push")
    a_bucket_and_a_gpu(desk)
    _, owners, _, release = all_blocks("docs/tutorial/production.md")  # test_github_docs.py runs the others
    desk.follow(owners)
    signers = yaml.safe_load(git(root, "show", f"origin/main:{layout.SIGNERS}"))
    assert [signer["name"] for signer in signers] == ["ci", "verifier"]
    desk.follow(release)
    wanted = yaml.safe_load((REPOSITORY / ".github/workflows/promote.yml").read_text())[True]
    started = [line for line in (root.parent / "gh").read_text().splitlines() if line.startswith("workflow run")]
    assert [shlex.split(line)[2] for line in started] == ["promote.yml"] * 2
    assert {name for line in started for name in re.findall(r"-f (\w+)=", line)} <= set(
        wanted["workflow_dispatch"]["inputs"]
    )
    rules, _ = all_blocks("docs/tutorial/watching.md")
    extra, *commands = rules.splitlines(keepends=True)
    desk.follow(extra)
    desk.has_what_is_pinned()
    programs.require("promtool")
    desk.follow("".join(commands))
    assert git(root, "status", "--porcelain") == ""


def a_bucket_and_a_gpu(desk: Desk) -> None:
    """Do what the page says, with a runner and a clone of Lockstep in the place where it expects them."""
    bucket, runner, sky = all_blocks("docs/tutorial/gpu.md")
    extra, *remote = bucket.splitlines(keepends=True)
    desk.follow(extra)
    desk.has_what_is_pinned()
    desk.follow("".join(remote))
    assert "s3://acme-models/router" in git(desk.root, "show", "origin/main:.dvc/config")
    assert "AKIA" not in git(desk.root, "show", "origin/main:.dvc/config")
    home = desk.root.parent / "runner"
    home.mkdir()
    for name in ("config.sh", "run.sh"):
        (home / name).write_text(f'#!/bin/sh\necho {name} "$@" >> called\n')
        (home / name).chmod(0o755)
    follow(home, runner, "", desk.machine)
    assert [line.split()[0] for line in (home / "called").read_text().splitlines()] == ["config.sh", "run.sh"]
    shutil.copytree(REPOSITORY / "docs" / "clusters", desk.root.parent / "lockstep" / "docs" / "clusters")
    desk.follow(sky)
    assert "workdir" in git(desk.root, "show", "origin/main:launcher.yaml")


def test_rows_of_ones_own_are_judged_on_a_laptop(desk: Desk) -> None:
    row, begin, change = all_blocks("docs/tutorial/own-rows.md")
    assert json.loads(row).keys() == {"question", "team", "product"}
    flags = " --base sources/base --base-license Apache-2.0 --margin 0.25"
    begin = begin.replace("git init -b main\n", "git init -b main\nmkdir sources && cp -r ~/base sources/\n")
    begin, run = begin.replace("tickets.jsonl\n", f"tickets.jsonl{flags}\n").split("./lockstep run ", 1)
    desk.follow(f"cd .. && rmdir router\n{begin}", "\n" * 9)
    fit(desk.root)
    desk.follow(f"./lockstep run {run}")
    assert git(desk.root, "log", "--format=%s").splitlines() == ["Our task"]
    assert noise_counts(desk.root)
    tool(desk.root, "edit", 'sed -i "s/learning_rate: .*/learning_rate: 0.002/" "$1"')
    assert "train.learning_rate" in desk.follow(change)
    assert git(desk.root, "status", "--porcelain") == ""


def noise_counts(root: Path) -> bool:
    """Whether the noise is that of the evaluation, as a gate with a margin asks."""
    noise, evaluation = (json.loads((root / path).read_text()) for path in (layout.NOISE, layout.EVALUATION))
    return all(noise[key] == evaluation[key] for key in ("base", "scorers", "prompt_format"))


def judged(desk: Desk) -> str:
    """Do what the workflow does with a push: run what changed, and commit the record. Return the comment."""
    desk.follow("./lockstep run || true")
    repository.commit(desk.root, "Record")
    desk.follow("git push")
    return desk.follow("./lockstep report")
