"""The name of the distribution, and the fix for a missing extra by how Lockstep was installed."""

import tomllib
from pathlib import Path

import pytest

from checks.process import distribution
from tests.conftest import REPOSITORY


def test_pyproject_names_the_distribution_that_the_code_asks_for() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert (distribution.NAME, distribution.version()) == (project["name"], project["version"])


def test_the_tests_run_the_code_of_this_repository() -> None:
    assert distribution.home() == REPOSITORY


@pytest.mark.parametrize(
    ("editable", "pinned", "fix"),
    [
        (True, False, "pip install -c constraints.txt -e '.[keyless]'"),
        (True, True, "pip install -c constraints.txt -e '.[keyless]'"),
        (False, True, "add keyless to the extras in lockstep-requirements.txt, then run ./lockstep"),
        (False, False, "pip install 'lockstep-llm[keyless]==1.2.3'"),
    ],
)
@pytest.mark.parametrize("by_launcher", [False, True])
def test_a_missing_extra_is_added_where_lockstep_came_from(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    editable: bool,
    pinned: bool,
    fix: str,
    by_launcher: bool,
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    if pinned:
        (root / distribution.PIN).touch()
    if not editable:
        monkeypatch.setattr(distribution, "home", lambda: tmp_path)
    monkeypatch.setattr(distribution, "version", lambda: "1.2.3")
    monkeypatch.delenv("LOCKSTEP_ROOT", raising=False)
    monkeypatch.chdir(tmp_path if by_launcher else root)
    if by_launcher:
        monkeypatch.setenv("LOCKSTEP_ROOT", str(root))
    assert distribution.install("keyless") == fix


def test_an_extra_that_the_pin_has_comes_with_the_launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distribution, "home", lambda: tmp_path)
    monkeypatch.setenv("LOCKSTEP_ROOT", str(tmp_path))
    (tmp_path / distribution.PIN).write_text("# a comment\nlockstep-llm[dvc,pipeline]==1.2.3 --hash=sha256:0\n")
    assert distribution.install("pipeline").startswith("run ./lockstep in place of lockstep")
    assert distribution.install("pipeline,hub").startswith("add pipeline,hub to the extras")


@pytest.mark.parametrize(
    ("editable", "shown"),
    [
        (True, "too few rows; see docs/how-to/data.md#chats"),
        (False, "too few rows; see https://github.com/OWNER/lockstep/tree/main/docs/how-to/data.md#chats"),
    ],
)
def test_a_page_of_the_docs_is_an_address_where_the_pages_are_not_beside_the_tool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, editable: bool, shown: str
) -> None:
    if not editable:
        monkeypatch.setattr(distribution, "home", lambda: tmp_path)
    assert distribution.linked("too few rows; see docs/how-to/data.md#chats") == shown
