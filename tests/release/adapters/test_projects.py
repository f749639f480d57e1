"""The projects of a git repository: which there are, which a change concerns, and whose policy counts."""

from pathlib import Path

import pytest

from checks.storage import layout
from release.adapters import projects
from release.adapters.git import Git
from tests.ledger_tree import git, keep

ROUTER, SUMMARY = Path("projects/router"), Path("projects/summary")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A git root with two projects and files that they share."""
    git(tmp_path, "init", "--quiet", "--initial-branch=main")
    for folder in (ROUTER, SUMMARY):
        for name in ("params.yaml", "dvc.yaml"):
            write(tmp_path / folder / name, "{}")
    write(tmp_path / "lockstep-requirements.txt", "lockstep-llm==0.2.0")
    write(tmp_path / "docs" / "params.yaml", "no project: {}")
    keep(tmp_path, "start")
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def changed(root: Path, name: str) -> tuple[Path, ...]:
    write(root / name, "changed")
    return projects.changed(Git(root / ROUTER, None), git(root, "rev-parse", "HEAD"), keep(root, name))


def test_a_folder_with_parameters_and_a_pipeline_is_a_project(root: Path) -> None:
    assert projects.folders(Git(root / ROUTER, None), git(root, "rev-parse", "HEAD")) == (ROUTER, SUMMARY)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("projects/router/data.csv", (ROUTER,)),
        ("projects/summary/release/policy/signers.yaml", (SUMMARY,)),
        ("lockstep-requirements.txt", (ROUTER, SUMMARY)),
        ("release/policy/signers.yaml", (ROUTER, SUMMARY)),
        ("kinds/checks.py", (ROUTER, SUMMARY)),
        ("projects/router notes.md", (ROUTER, SUMMARY)),
    ],
)
def test_a_file_concerns_its_project_and_a_shared_one_all(root: Path, name: str, wanted: tuple[Path, ...]) -> None:
    assert changed(root, name) == wanted


def test_a_project_inside_another_hides_no_change_of_it(root: Path) -> None:
    inner = ROUTER / "release"
    for name in ("params.yaml", "dvc.yaml"):
        write(root / inner / name, "{}")
    keep(root, "planted")
    assert changed(root, (inner / "policy/signers.yaml").as_posix()) == (ROUTER, inner)


def test_beside_a_project_at_the_git_root_a_file_of_nobody_else_concerns_all(root: Path) -> None:
    for name in ("params.yaml", "dvc.yaml"):
        write(root / name, "{}")
    keep(root, "a project at the git root")
    assert changed(root, "kinds/checks.py") == (Path(), ROUTER, SUMMARY)
    assert changed(root, "projects/router/data.csv") == (Path(), ROUTER)


@pytest.mark.parametrize(
    ("name", "apart"),
    [
        ("projects/summary/release/environments/staging/pointer.yaml", (Path(), ROUTER)),
        ("projects/summary/params.yaml", (ROUTER,)),
        ("release/environments/staging/pointer.yaml", (ROUTER, SUMMARY)),
        ("release/policy/signers.yaml", ()),
        ("projects/router/release/environments/inner/pointer.yaml", (Path(), SUMMARY)),
    ],
)
def test_a_move_of_one_project_is_apart_from_the_others(root: Path, name: str, apart: tuple[Path, ...]) -> None:
    for folder in (root, root / "projects/router/release/environments/inner"):  # the second is planted
        write(folder / "params.yaml", "{}")
        write(folder / "dvc.yaml", "{}")
    base = keep(root, "a project at the git root")
    write(root / name, "changed")
    tip, git_here = keep(root, name), Git(root, None)
    everyone = (Path(), ROUTER, SUMMARY)
    assert tuple(folder for folder in everyone if projects.is_apart(git_here, base, tip, folder)) == apart


def test_a_project_without_a_file_of_policy_has_that_of_the_git_root(root: Path) -> None:
    def home(project: Path) -> Path:
        commit = git(root, "rev-parse", "HEAD")
        return projects.policy_home(root / project, commit, layout.SIGNERS).resolve()

    assert home(ROUTER) == root.resolve()
    write(root / ROUTER / layout.SIGNERS, "[]")
    assert home(ROUTER) == root.resolve()  # only what is in the commit counts
    keep(root, "its own")
    assert (home(ROUTER), home(SUMMARY)) == ((root / ROUTER).resolve(), root.resolve())
    (root / ROUTER / layout.SIGNERS).unlink()
    (root / ROUTER / layout.SIGNERS).symlink_to("/etc/hostname")
    keep(root, "a link, which is refused when it is read")
    assert home(ROUTER) == (root / ROUTER).resolve()
