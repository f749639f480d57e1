"""`lockstep init` in an empty folder or in a repository of a team's own: Lockstep's files are put there."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from checks.config import params_file
from checks.process.errors import MachineRefused, ParamsRefused
from checks.storage import layout
from release.adapters import tool_files
from release.cli import main
from tests import killed
from tests import pipeline_repository as repository
from tests.conftest import REPOSITORY, read_yaml
from tests.release.verbs.test_init import jsonl, rows

TOOL = {
    "lockstep": "#!/bin/sh\n", "dvc.yaml": "stages: {}\n", "params.yaml": "of the example\n", "README.md": "Lockstep\n",
    "LICENSE": "Apache\n", ".gitignore": "/models/\n/data/\n*.log\n", ".dvcignore": ".venv\n", "stages/prepare.py": "",
    "checks/config/params.py": "", "docs/index.md": "# Docs\n", "release/environments/staging/kustomization.yaml": "{}\n",
}  # fmt: skip
NOISE = {"reports/noise.json": "{}\n"}  # the stage gate cannot run without one
RECORD = {"dvc.lock": "{}\n", "reports/verdict.json": "{}\n", "release/policy/signers.yaml": "[]\n"}
PLACED = {*TOOL, *NOISE, ".lockstep-commit"}


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def found(root: Path) -> dict[str, str]:
    """Every file outside .git, by name; a link as where it leads."""
    paths = [path for path in root.rglob("*") if ".git" not in path.parts and (path.is_file() or path.is_symlink())]
    return {str(p.relative_to(root)): str(p.readlink()) if p.is_symlink() else p.read_text() for p in paths}


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone of a small Lockstep, from which this process runs."""
    root = tmp_path / "tool"
    write(root, TOOL | NOISE | RECORD)
    (root / "lockstep").chmod(0o755)
    repository.git(tmp_path, "init", "--quiet", "--initial-branch=main", str(root))
    repository.commit(root, "Lockstep")
    write(root, {"untracked.txt": "", "docs/index.md": "# Edited\n"})
    monkeypatch.setattr(tool_files, "release", SimpleNamespace(__file__=str(root / "release" / "__init__.py")))
    return root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder with a file of rows."""
    root = tmp_path / "router"
    write(root, {"tickets.csv": "question,team\n"})
    return root


@pytest.fixture
def team(folder: Path) -> Path:
    """A repository of a team, with a README and other files of its own."""
    write(folder, {"README.md": "# Ours\n", ".gitignore": "*.log\nsecret", "notes/ours.md": "ours\n"})
    repository.git(folder, "init", "--quiet", "--initial-branch=main")
    repository.commit(folder, "ours")
    return folder


def lay(root: Path) -> tool_files.Plan:
    plan = tool_files.plan(root, root / "tickets.csv")
    tool_files.install(plan, {layout.PARAMS: "of the rows\n"})
    return plan


@pytest.mark.slow
def test_an_empty_folder_gets_the_commits_files_without_its_record_and_commits_nothing(
    tool: Path, folder: Path
) -> None:
    plan = lay(folder)
    its = found(folder)
    assert its == TOOL | NOISE | {
        "params.yaml": "of the rows\n", "tickets.csv": "question,team\n", ".lockstep-commit": f"{plan.commit}\n",
    }  # fmt: skip
    assert plan.commit == repository.git(tool, "rev-parse", "HEAD").strip()
    assert [name for name in its if os.access(folder / name, os.X_OK)] == ["lockstep"]
    assert repository.git(folder, "status", "--short", "--branch").splitlines()[0] == "## No commits yet on main"
    assert {path.stat().st_nlink for path in folder.rglob("*") if path.is_file()} == {1}


def test_a_repository_keeps_every_file_of_its_own(tool: Path, team: Path) -> None:
    before, head = found(team), repository.git(team, "rev-parse", "HEAD")
    plan = lay(team)
    after = found(team)
    assert plan.kept == ("README.md",)
    assert after[".gitignore"] == "*.log\nsecret\n/models/\n/data/\n", "the lines that were missing are added"
    assert {name: after[name] for name in before if name != ".gitignore"} == {
        name: text for name, text in before.items() if name != ".gitignore"
    }
    assert after.keys() == before.keys() | PLACED
    assert repository.git(team, "rev-parse", "HEAD") == head


def ignore(root: Path) -> None:
    (root / ".gitignore").write_text("docs/index.*\n")


def lead_elsewhere(root: Path) -> None:
    write(root.parent, {"elsewhere/init/theirs": "theirs\n"})
    (root / ".lockstep").symlink_to(root.parent / "elsewhere")


def lead_lines(root: Path) -> None:
    (root / ".gitignore").rename(root / "lines")
    (root / ".gitignore").symlink_to("lines")


def nest(root: Path) -> None:
    repository.git(root.parent, "init")
    shutil.rmtree(root / ".git")


def link(root: Path) -> None:
    (root / "stages").symlink_to("docs")


def release(tool: Path) -> None:
    write(tool, {"release/environments/staging/pointer.yaml": "{}\n"})
    repository.commit(tool, "staging")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda root, _: shutil.rmtree(root / ".git"), "is neither empty nor a git repository: README.md, notes; use an empty"),
        (lambda root, _: nest(root),
         "lies inside a git repository; run this at its top"),
        (lambda root, _: write(root, {"dvc.yaml": "theirs\n", "docs/index.md": "# Ours\n"}),
         "Lockstep has files with names of yours: docs/index.md, dvc.yaml; rename yours"),
        (lambda root, _: write(root, {"lockstep/code.py": "\n"}), "names of yours: lockstep; rename"),
        (lambda root, _: write(root, {"checks": "a file\n"}), "names of yours: checks; rename"),
        (lambda root, _: link(root), "names of yours: stages; rename"),
        (lambda root, _: lead_lines(root), "names of yours: .gitignore; rename"),
        (lambda root, _: lead_elsewhere(root), "names of yours: .lockstep; rename"),
        (lambda root, _: write(root, {".lockstep": "theirs\n"}), "names of yours: .lockstep; rename"),
        (lambda root, _: write(root, {".lockstep/init": "theirs\n"}), "names of yours: .lockstep/init; rename"),
        (lambda root, _: ignore(root), "git ignores files of Lockstep: docs/index.md; change .gitignore"),
        (lambda _, tool: release(tool), "has a release of its own (release/environments/staging/pointer.yaml); use a clone"),
        (lambda _, tool: shutil.rmtree(tool / ".git"), "is installed without the files to put there; clone the repository"),
    ],
    ids=["other things", "inside a repository", "files", "a folder", "a file for a folder", "a link", "a link to lines",
         "a link to the copies", "a file for the copies", "a file for the folder of copies", "ignored", "released", "no clone"],
)  # fmt: skip
def test_a_folder_that_the_files_do_not_fit_is_refused_and_stays_as_it_was(
    tool: Path, team: Path, spoil: Callable[[Path, Path], object], said: str
) -> None:
    spoil(team, tool)
    before = found(team)
    with pytest.raises(ParamsRefused) as refusal:
        lay(team)
    assert said in str(refusal.value)
    assert found(team) == before
    if (other := team.parent / "elsewhere").exists():
        assert found(other) == {"init/theirs": "theirs\n"}


def test_lines_are_added_to_a_gitignore_as_it_is_written(tool: Path, team: Path) -> None:
    """With the line ends of Windows, and letters that are no UTF-8."""
    (team / ".gitignore").write_bytes(b"caf\xe9\r\n/models/\r\n")
    lay(team)
    assert (team / ".gitignore").read_bytes() == b"caf\xe9\r\n/models/\r\n/data/\r\n*.log\r\n"


@pytest.mark.slow
def test_a_second_call_in_the_folder_is_refused_while_the_first_one_works(
    tool: Path, team: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, linked, refused = tool_files.plan(team, team / "tickets.csv"), os.link, list[str]()

    def link_meanwhile(old: Path, new: Path) -> None:
        for call in (lambda: lay(team), lambda: tool_files.install(plan, {})):
            with pytest.raises(MachineRefused) as refusal:
                call()
            refused.append(str(refusal.value))
        linked(old, new)

    monkeypatch.setattr(os, "link", link_meanwhile)
    tool_files.install(plan, {layout.PARAMS: "of the rows\n"})
    assert set(refused) == {f"{team}: another `lockstep init` works here; wait until it ends"}
    assert found(team).keys() >= PLACED


@pytest.mark.slow
def test_a_call_that_is_killed_at_any_file_is_done_again_whole(
    tool: Path, team: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, linked = found(team), os.link
    for place in range(1, len(TOOL)):
        count = iter(range(1, 100))

        def link_or_die(old: Path, new: Path, count: Any = count, place: int = place) -> None:
            if next(count) == place:
                os.kill(os.getpid(), signal.SIGKILL)
            linked(old, new)

        monkeypatch.setattr(os, "link", link_or_die)
        assert killed.forked(lambda: lay(team)) == -signal.SIGKILL
        assert not (team / "lockstep").exists(), "the launcher comes last"
        assert not tool_files.exist_in(team)
        after = found(team)
        assert {name: after[name] for name in before if name != ".gitignore"}.items() <= before.items()
    monkeypatch.setattr(os, "link", linked)
    lay(team)
    assert found(team).keys() == before.keys() | PLACED


@pytest.mark.slow
def test_a_call_that_is_killed_when_it_removes_its_copies_has_done_its_work(
    tool: Path, team: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed, count = os.unlink, len(TOOL) // 2

    def remove_or_die(*arguments: Any, **more: Any) -> None:
        nonlocal count
        count -= 1
        if not count:
            os.kill(os.getpid(), signal.SIGKILL)
        removed(*arguments, **more)

    monkeypatch.setattr(os, "unlink", remove_or_die)
    assert killed.forked(lambda: lay(team)) == -signal.SIGKILL
    assert tool_files.exist_in(team)
    assert found(team).keys() >= PLACED


@pytest.mark.parametrize("fault", ["a file came", "no hard links"])
def test_a_failure_on_the_way_takes_back_what_was_put_there(
    tool: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    plan = tool_files.plan(folder, folder / "tickets.csv")
    if fault == "a file came":
        write(folder, {"stages/prepare.py": "# theirs\n"})
        refusal: Any = (ParamsRefused, "names of yours: stages/prepare.py")
    else:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(PermissionError(1, "Operation not permitted")))
        refusal = (MachineRefused, "use a disk with a file system that supports hard links")
    before = found(folder)
    with pytest.raises(refusal[0], match=refusal[1]):
        tool_files.install(plan, {layout.PARAMS: "of the rows\n"})
    assert found(folder) == before


def update(team: Path, tool: Path) -> "subprocess.CompletedProcess[str]":
    """Run the commands of the guide."""
    guide = (REPOSITORY / "docs/how-to/data.md").read_text()
    block = re.search(r"```\n(git fetch .*?)```", guide, re.DOTALL)
    assert block
    script = block[1].replace("https://github.com/OWNER/lockstep", str(tool))
    return subprocess.run(["sh", "-e", "-c", script], cwd=team, check=False, capture_output=True, text=True)


@pytest.fixture
def updated(tool: Path, team: Path) -> Path:
    """A team's repository, before the update to a version that changes, adds and removes files; the team did so too."""
    shutil.copytree(REPOSITORY / ".ci", tool / ".ci", ignore=shutil.ignore_patterns("__pycache__"))
    (tool / "untracked.txt").unlink()
    write(
        tool,
        {"docs/index.md": "# Docs\n", "docs/old.txt": "old\n", "docs/gone.txt": "gone\n", "docs/both.txt": "one\n"},
    )
    repository.commit(tool, "more files")
    lay(team)
    write(team, {"stages/prepare.py": "# changed by the team\n", "docs/both.txt": "the team's\n"})
    (team / "docs/gone.txt").unlink()
    repository.commit(team, "Lockstep")
    write(tool, {"docs/index.md": "# Docs of the next version\n", "docs/new.txt": "new\n", "params.yaml": "next\n"})
    write(tool, {"dvc.lock": "next\n", "README.md": "Lockstep, next\n", "docs/gone.txt": "gone, next\n"})
    (tool / "docs/old.txt").unlink()
    repository.commit(tool, "next")
    return team


@pytest.mark.slow
def test_the_guides_commands_bring_the_next_version_and_keep_what_the_team_changed(tool: Path, updated: Path) -> None:
    done = update(updated, tool)
    assert (done.returncode, done.stdout) == (0, "left out, because it was removed here: docs/gone.txt\n"), done.stderr
    after = found(updated)
    assert (after["docs/index.md"], after["docs/new.txt"]) == ("# Docs of the next version\n", "new\n")
    assert (after["README.md"], after["params.yaml"]) == ("# Ours\n", "of the rows\n")
    assert (after["stages/prepare.py"], after["docs/both.txt"]) == ("# changed by the team\n", "the team's\n")
    assert {"dvc.lock", "docs/gone.txt", "docs/old.txt"} & after.keys() == set()
    assert after[".lockstep-commit"] == repository.git(tool, "rev-parse", "HEAD")
    repository.commit(updated, "the next version")
    assert update(updated, tool).stdout == "", "a second update has nothing to do"
    assert repository.git(updated, "status", "--porcelain") == ""


@pytest.mark.slow
def test_an_update_with_conflicts_names_their_files(tool: Path, updated: Path) -> None:
    write(tool, {"docs/both.txt": "Lockstep's\n"})
    repository.commit(tool, "the same line")
    done = update(updated, tool)
    assert done.returncode == 0, done.stderr
    first, *_, last = done.stdout.splitlines()
    assert (first, last) == ("has conflict markers: docs/both.txt", "resolve the conflicts, then commit")
    assert "<<<<<<< ours\nthe team's\n" in (updated / "docs/both.txt").read_text()


@pytest.mark.slow
def test_an_update_that_cannot_be_made_leaves_the_mark_and_can_be_repeated(tool: Path, updated: Path) -> None:
    mark = (updated / ".lockstep-commit").read_text()
    write(updated, {"docs/new.txt": "the team's, and not in git\n"})
    done = update(updated, tool)
    assert done.returncode == 1
    assert "was not merged: docs/new.txt\n" in done.stderr
    assert (
        "lockstep: .lockstep-commit stays, because some files were not merged; move what is in their way" in done.stderr
    )
    assert (updated / ".lockstep-commit").read_text() == mark
    assert "there are uncommitted changes; commit them first" in update(updated, tool).stderr
    (updated / "docs/new.txt").unlink()
    repository.git(updated, "reset", "--quiet", "--hard")
    assert update(updated, tool).returncode == 0
    assert (updated / "docs/new.txt").read_text() == "new\n"


def test_a_clone_with_a_task_of_its_own_is_no_source_and_a_missing_file_is_said_first(tool: Path, folder: Path) -> None:
    write(tool, {"params.yaml": (REPOSITORY / "docs/configurations/preferences.yaml").read_text()})
    repository.commit(tool, "a task")
    before = found(folder)
    for name, code, said in (
        ("none.csv", 4, "none.csv: no such file"), ("tickets.csv", 2, "its params.yaml is not the example's"),
    ):  # fmt: skip
        done = CliRunner().invoke(main, ["-C", str(folder), "init", str(folder / name), "--yes"])
        assert (done.exit_code, len(done.stderr.splitlines())) == (code, 1)
        assert said in done.stderr
    assert found(folder) == before


@pytest.mark.slow
def test_two_commands_in_an_empty_folder_lead_to_rows_in_splits(tmp_path: Path, tiny_base: Path) -> None:
    """With this repository as the clone, and its stages."""
    root = tmp_path / "help-desk"
    jsonl(root.parent / "tickets.jsonl", rows(240))
    root.mkdir()
    (root.parent / "tickets.jsonl").rename(root / "tickets.jsonl")
    done = subprocess.run(
        [sys.executable, "-m", "release.cli", "init", "tickets.jsonl", "--yes", "--license", "MIT", "--json",
         "--base", str(tiny_base), "--base-license", "Apache-2.0"],
        cwd=root, env=os.environ | {"PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["uri"], said["name"]) == ("tickets.jsonl", "help-desk")
    assert {"prepare.personal_data", "gates.rows_are_private"} <= set(said["left_out"])
    assert said["placeholders"] == ["docs/cards/model.md", "docs/cards/data.md"]
    assert all((root / name).read_text().startswith("TODO: ") for name in said["placeholders"])
    assert (root / ".lockstep-commit").read_text() == f"{said['lockstep']}\n"
    assert params_file.load(root / layout.PARAMS).data.uri == "tickets.jsonl"
    tracked = repository.git(REPOSITORY, "ls-tree", "-r", "--name-only", "HEAD").splitlines()
    assert {name for name in tracked if not (root / name).exists()} == {
        name
        for name in tracked
        if name in ("code.lock", "dvc.lock")
        or (name.startswith(("reports/", "release/policy/")) and name != "reports/noise.json")
    }
    stages = read_yaml((root / layout.PIPELINE).read_text())["stages"].values()
    made = {
        name
        for stage in stages
        for each in stage.get("outs", [])
        for name in ([each] if isinstance(each, str) else each)
    }
    made |= {name for stage in stages for each in stage.get("metrics", []) for name in each}
    made |= {str(layout.REFERENCES), str(layout.LOOKS)}  # by `lockstep run`
    needed = {name for stage in stages for name in stage.get("deps", ()) if "$" not in name}
    assert {name for name in needed - made if not (root / name).exists()} == set()
    assert repository.repro(root, "prepare") == ["fetch", "prepare"]
