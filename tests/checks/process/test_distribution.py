"""The name of the distribution, and the fix for a missing extra by how Lockstep was installed."""

import tomllib
from pathlib import Path

import pytest

from checks.process import distribution
from tests.conftest import REPOSITORY

EDITABLE = {"url": "file:///src", "dir_info": {"editable": True}}


def test_pyproject_names_the_distribution_that_the_code_asks_for() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert (distribution.NAME, distribution.version()) == (project["name"], project["version"])


def test_the_tests_run_the_code_of_this_repository() -> None:
    assert distribution.home() == REPOSITORY


@pytest.mark.parametrize(
    ("origin", "pinned", "fix"),
    [
        (EDITABLE, False, "pip install -c constraints.txt -e '.[keyless]'"),
        (EDITABLE, True, "pip install -c constraints.txt -e '.[keyless]'"),
        ({}, True, "add keyless to the extras in lockstep-requirements.txt, then run ./lockstep"),
        ({}, False, "pip install 'lockstep-llm[keyless]==1.2.3'"),
        ({"archive_info": {}}, False, "pip install 'lockstep-llm[keyless]==1.2.3'"),
    ],
)
@pytest.mark.parametrize("by_launcher", [False, True])
def test_a_missing_extra_is_added_where_lockstep_came_from(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    origin: dict[str, object],
    pinned: bool,
    fix: str,
    by_launcher: bool,
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    if pinned:
        (root / distribution.PIN).touch()
    monkeypatch.setattr(distribution, "origin", lambda: origin)
    monkeypatch.setattr(distribution, "version", lambda: "1.2.3")
    monkeypatch.delenv("LOCKSTEP_ROOT", raising=False)
    monkeypatch.chdir(tmp_path if by_launcher else root)
    if by_launcher:
        monkeypatch.setenv("LOCKSTEP_ROOT", str(root))
    assert distribution.install("keyless") == fix


@pytest.mark.parametrize(
    ("origin", "shown"),
    [
        (EDITABLE, "too few rows; see docs/how-to/data.md#chats"),
        ({}, "too few rows; see https://github.com/OWNER/lockstep/tree/main/docs/how-to/data.md#chats"),
    ],
)
def test_a_page_of_the_docs_is_an_address_where_the_pages_are_not_beside_the_tool(
    monkeypatch: pytest.MonkeyPatch, origin: dict[str, object], shown: str
) -> None:
    monkeypatch.setattr(distribution, "origin", lambda: origin)
    assert distribution.linked("too few rows; see docs/how-to/data.md#chats") == shown
