"""The workflow's token as git's login: it works against a server that asks for it, and is nowhere to be seen."""

import base64
import os
import subprocess
from pathlib import Path

import pytest

from release.adapters import git_login
from release.adapters.git import Git
from tests.git_service import Service
from tests.ledger_tree import git

TOKEN = "ghs_token-of-a-test-0123456789"


@pytest.fixture
def repositories(tmp_path: Path) -> Path:
    """A folder with one bare repository of one commit."""
    folder = tmp_path / "served"
    work = tmp_path / "work"
    work.mkdir()
    git(work, "init", "--quiet", "--initial-branch=main")
    git(work, "commit", "--quiet", "--allow-empty", "-m", "start")
    folder.mkdir()
    subprocess.run(["git", "clone", "--quiet", "--bare", str(work), str(folder / "router.git")], check=True)
    return folder


def in_actions(monkeypatch: pytest.MonkeyPatch, server: str, **more: str) -> None:
    for name in ("GIT_CONFIG_COUNT", "LOCKSTEP_TOKEN", "GITHUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"GITHUB_ACTIONS": "true", "GITHUB_SERVER_URL": server, **more}.items():
        monkeypatch.setenv(name, value)


@pytest.mark.slow
def test_a_workflow_s_token_opens_its_server(
    repositories: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Service(repositories, f"x-access-token:{TOKEN}") as service:
        address = service.address("router.git")
        in_actions(monkeypatch, service.address("").rstrip("/"))
        assert Git(tmp_path, 20).run("ls-remote", address).code != 0
        monkeypatch.setenv("GITHUB_TOKEN", TOKEN)
        assert Git(tmp_path, 20).run("ls-remote", address).code == 0
        # A header that actions/checkout left, or that somebody else sets, is not sent beside it.
        monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
        monkeypatch.setenv("GIT_CONFIG_KEY_0", f"http.{service.address('').rstrip('/')}/.extraheader")
        monkeypatch.setenv("GIT_CONFIG_VALUE_0", "AUTHORIZATION: basic b2xk")
        assert Git(tmp_path, 20).run("ls-remote", address).code == 0
        monkeypatch.setenv("LOCKSTEP_TOKEN", "another")
        assert Git(tmp_path, 20).run("ls-remote", address).code != 0


def test_no_other_server_is_told_the_token(repositories: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Service(repositories, f"x-access-token:{TOKEN}") as service:
        in_actions(monkeypatch, "https://github.com", GITHUB_TOKEN=TOKEN)
        assert Git(tmp_path, 20).run("ls-remote", service.address("router.git")).code != 0


@pytest.mark.parametrize(
    "environment",
    [
        {"GITHUB_TOKEN": TOKEN},
        {"GITHUB_ACTIONS": "true"},
        {"GITHUB_ACTIONS": "true", "GITHUB_TOKEN": TOKEN, "GITHUB_SERVER_URL": "http://github.example"},
        {"GITHUB_ACTIONS": "true", "GITHUB_TOKEN": TOKEN, "GITHUB_SERVER_URL": "ftp://127.0.0.1"},
        {"GITHUB_ACTIONS": "true", "GITHUB_TOKEN": TOKEN, "GITHUB_SERVER_URL": "https://["},
        {"GITHUB_ACTIONS": "true", "GITHUB_TOKEN": TOKEN, "GIT_CONFIG_COUNT": "many"},
    ],
)
def test_outside_of_a_workflow_or_without_safety_git_logs_in_as_ever(environment: dict[str, str]) -> None:
    assert git_login.configured(environment) == {}


def test_a_token_that_is_no_text_is_passed_on_byte_for_byte() -> None:
    made = git_login.configured({"GITHUB_ACTIONS": "true", "GITHUB_TOKEN": os.fsdecode(b"t\xe9")})
    assert base64.b64decode(made["GIT_CONFIG_VALUE_1"].rpartition(" ")[2]) == b"x-access-token:t\xe9"
