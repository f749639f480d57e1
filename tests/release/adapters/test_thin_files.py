"""The files that `lockstep init` puts into an empty folder, a team's repository or a project's folder."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from checks.config import params_file
from checks.process.errors import MachineRefused, ParamsRefused
from checks.storage import layout
from release.adapters import thin_files
from tests import killed
from tests import pipeline_repository as repository

CALLED = f"acme/lockstep@{'a' * 40}"
TEXTS = {"params.yaml": "of the rows\n", "lockstep-requirements.txt": "lockstep-llm[dvc]==0.2.0\n"}
PLACED = {
    name for name in thin_files.templates() if not name.startswith(".github/workflows/")
} | TEXTS.keys()  # fmt: skip


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def found(root: Path) -> dict[str, bytes]:
    """Every file outside .git, by name; a link as where it leads."""
    paths = [path for path in root.rglob("*") if ".git" not in path.parts and (path.is_file() or path.is_symlink())]
    return {str(p.relative_to(root)): os.fsencode(p.readlink()) if p.is_symlink() else p.read_bytes() for p in paths}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder with a file of rows."""
    root = tmp_path / "router"
    write(root, {"tickets.csv": "question,team\n"})
    return root


@pytest.fixture
def team(folder: Path) -> Path:
    """A repository of a team, with folders of the names that Lockstep's packages have."""
    write(folder, {"README.md": "# Ours\n", ".gitignore": "*.log\nsecret", "checks/ours.py": "", "stages/code.py": ""})
    repository.git(folder, "init", "--quiet", "--initial-branch=main")
    repository.commit(folder, "ours")
    return folder


def lay(root: Path, workflows: str | None = None) -> thin_files.Plan:
    plan = thin_files.plan(root, root / "tickets.csv", workflows)
    thin_files.install(plan, TEXTS)
    return plan


def test_the_files_that_were_written_are_listed(folder: Path) -> None:
    listed = thin_files.install(thin_files.plan(folder, folder / "tickets.csv", None), TEXTS)
    paths = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    written = {path.as_posix() for path in paths if path.parts[0] not in (".git", ".lockstep", "tickets.csv")}
    assert set(listed) == written
    assert "lockstep-requirements.txt" in listed


@pytest.mark.slow
def test_an_empty_folder_gets_at_most_25_files_and_commits_nothing(folder: Path) -> None:
    lay(folder, CALLED)
    names = set(found(folder)) - {"tickets.csv", "reports/noise.json"}
    assert names >= PLACED - {"reports/noise.json"}
    assert len(names) + len(("kustomization.yaml of two environments", "two cards")) + 2 <= 25, sorted(names)
    assert [name for name in names if os.access(folder / name, os.X_OK)] == ["lockstep"]
    assert repository.git(folder, "status", "--short", "--branch").splitlines()[0] == "## No commits yet on main"
    assert {path.stat().st_nlink for path in folder.rglob("*") if path.is_file()} == {1}


def test_the_launcher_has_at_most_60_lines_and_the_template_of_params_yaml_holds() -> None:
    files = thin_files.templates()
    assert len(files["lockstep"].splitlines()) <= 60
    params_file.parse(files["params.yaml"].decode())


def test_called_workflows_name_the_repository_and_commit_that_were_given() -> None:
    files = thin_files.generated(CALLED)
    workflows = [data.decode() for name, data in files.items() if name.startswith(".github/workflows/")]
    assert workflows
    for text in workflows:
        assert "OWNER" not in text
        assert "uses: acme/lockstep/.github/workflows/" in text
        assert f"@{'a' * 40}" in text


def test_a_generated_file_is_known_as_long_as_nobody_changed_it() -> None:
    for name, data in thin_files.generated(CALLED).items():
        assert not thin_files.is_edited(data), name
        assert thin_files.is_edited(data + b"\n"), name
        assert thin_files.is_edited(data.partition(b"\n")[2].partition(b"\n")[2]), "a file without the digest"


def test_a_repository_keeps_every_file_of_its_own(team: Path) -> None:
    before, head = found(team), repository.git(team, "rev-parse", "HEAD")
    (team / ".github").mkdir()
    (team / ".github/CODEOWNERS").write_text("* @ours\n")
    plan = lay(team)
    after = found(team)
    assert plan.kept == (".github/CODEOWNERS",)
    assert after[".github/CODEOWNERS"] == b"* @ours\n"
    lines = after[".gitignore"].decode().splitlines()
    assert lines[:2] == ["*.log", "secret"]
    assert {"/models/", ".venv/"} <= set(lines), "the lines that were missing are added"
    assert {name: after[name] for name in before if name != ".gitignore"} == {
        name: text for name, text in before.items() if name != ".gitignore"
    }
    assert after.keys() == before.keys() | PLACED
    assert repository.git(team, "rev-parse", "HEAD") == head


@pytest.mark.slow
def test_two_projects_of_one_repository_share_launcher_pin_and_workflows(team: Path) -> None:
    for name in ("router", "summary"):
        project = team / "projects" / name
        write(project, {"tickets.csv": "question,team\n"})
        lay(project, CALLED)
        assert (project / layout.PIPELINE).is_file()
        assert not (project / "lockstep").exists()
        assert not (project / ".github").exists()
        ignored = [f"projects/{name}/{path}" for path in (".lockstep/keys/lockstep.key", "models/base", "data/raw")]
        assert repository.git(team, "check-ignore", *ignored).splitlines() == ignored
    assert (team / "lockstep").is_file()
    assert (team / "lockstep-requirements.txt").is_file()
    assert (team / ".github/workflows/pr.yml").is_file()


def ignore(root: Path) -> None:
    (root / ".gitignore").write_text("dvc.*\n")


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
    (root / "release").symlink_to("stages")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda root: shutil.rmtree(root / ".git"), "is neither empty nor a git repository: README.md, checks, stages; use"),
        (nest, "lies inside a git repository; run this at its top, in a folder projects/NAME"),
        (lambda root: write(root, {"dvc.yaml": "theirs\n", "params.yaml": "theirs\n"}),
         "Lockstep has files with names of yours: dvc.yaml, params.yaml; rename yours"),
        (lambda root: write(root, {"lockstep/code.py": "\n"}), "names of yours: lockstep; rename"),
        (lambda root: write(root, {"datasets": "a file\n"}), "names of yours: datasets; rename"),
        (link, "names of yours: release; rename"),
        (lead_lines, "names of yours: .gitignore"),
        (lead_elsewhere, "names of yours: .lockstep; rename"),
        (lambda root: write(root, {".lockstep": "theirs\n"}), "names of yours: .lockstep; rename"),
        (lambda root: write(root, {".lockstep/init": "theirs\n"}), "names of yours: .lockstep/init; rename"),
        (ignore, "git ignores files of Lockstep: dvc.lock, dvc.yaml; change .gitignore"),
        (lambda root: write(root, {".gitignore": "*.lock\n"}), "git ignores files of Lockstep: code.lock, dvc.lock; change"),
    ],
    ids=["other things", "inside a repository", "files", "a folder", "a file for a folder", "a link", "a link to lines",
         "a link to the copies", "a file for the copies", "a file for the folder of copies", "ignored",
         "ignored later"],
)  # fmt: skip
def test_a_folder_that_the_files_do_not_fit_is_refused_and_stays_as_it_was(
    team: Path, spoil: Callable[[Path], object], said: str
) -> None:
    spoil(team)
    before = found(team)
    with pytest.raises(ParamsRefused) as refusal:
        lay(team)
    assert said in str(refusal.value)
    assert found(team) == before
    if (other := team.parent / "elsewhere").exists():
        assert found(other) == {"init/theirs": b"theirs\n"}


def test_lines_are_added_to_a_gitignore_as_it_is_written(team: Path) -> None:
    """With the line ends of Windows, and letters that are no UTF-8."""
    (team / ".gitignore").write_bytes(b"caf\xe9\r\n/models/\r\n")
    lay(team)
    written = (team / ".gitignore").read_bytes()
    assert written.startswith(b"caf\xe9\r\n/models/\r\n.venv/\r\n")
    assert written.count(b"\n/models/") == 1
    assert b"\n" not in written.replace(b"\r\n", b"")


@pytest.mark.slow
def test_a_second_call_in_the_folder_is_refused_while_the_first_one_works(
    team: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, linked, refused = thin_files.plan(team, team / "tickets.csv", None), os.link, list[str]()

    def link_meanwhile(old: Path, new: Path) -> None:
        for call in (lambda: lay(team), lambda: thin_files.install(plan, {})):
            with pytest.raises(MachineRefused) as refusal:
                call()
            refused.append(str(refusal.value))
        linked(old, new)

    monkeypatch.setattr(os, "link", link_meanwhile)
    thin_files.install(plan, TEXTS)
    assert set(refused) == {f"{team}: another `lockstep init` works here; wait until it ends"}
    assert found(team).keys() >= PLACED


@pytest.mark.slow
def test_a_call_that_is_killed_at_any_file_is_done_again_whole(team: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, linked = found(team), os.link
    for place in range(1, len(PLACED) - 1):
        count = iter(range(1, 100))

        def link_or_die(old: Path, new: Path, count: Any = count, place: int = place) -> None:
            if next(count) == place:
                os.kill(os.getpid(), signal.SIGKILL)
            linked(old, new)

        monkeypatch.setattr(os, "link", link_or_die)
        assert killed.forked(lambda: lay(team)) == -signal.SIGKILL
        assert not (team / "lockstep").exists(), "the launcher comes last"
        assert not thin_files.exist_in(team)
        after = found(team)
        assert {name: after[name] for name in before if name != ".gitignore"}.items() <= before.items()
    monkeypatch.setattr(os, "link", linked)
    lay(team)
    assert found(team).keys() == before.keys() | PLACED


@pytest.mark.slow
def test_a_call_that_is_killed_when_it_removes_its_copies_has_done_its_work(
    team: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed, count = os.unlink, len(PLACED) // 2

    def remove_or_die(*arguments: Any, **more: Any) -> None:
        nonlocal count
        count -= 1
        if not count:
            os.kill(os.getpid(), signal.SIGKILL)
        removed(*arguments, **more)

    monkeypatch.setattr(os, "unlink", remove_or_die)
    assert killed.forked(lambda: lay(team)) == -signal.SIGKILL
    assert thin_files.exist_in(team)
    assert found(team).keys() >= PLACED


@pytest.mark.parametrize("fault", ["a file came", "no hard links"])
def test_a_failure_on_the_way_takes_back_what_was_put_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    plan = thin_files.plan(folder, folder / "tickets.csv", None)
    if fault == "a file came":
        write(folder, {"dvc.yaml": "# theirs\n"})
        refusal: Any = (ParamsRefused, "names of yours: dvc.yaml")
    else:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(PermissionError(1, "Operation not permitted")))
        refusal = (MachineRefused, "use a disk with a file system that supports hard links")
    before = found(folder)
    with pytest.raises(refusal[0], match=refusal[1]):
        thin_files.install(plan, TEXTS)
    assert found(folder) == before
