"""The commit by which called workflows are pinned: given, or that of a version's tag in a real git repository."""

from pathlib import Path

import pytest

from checks.process.errors import ParamsRefused, RemoteRefused
from release.adapters import workflow_pin
from tests.pipeline_repository import commit, git

SHA = "a" * 40


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git server with the repository acme/lockstep."""
    repository = tmp_path / "acme/lockstep"
    repository.mkdir(parents=True)
    git(repository, "init", "--quiet", "--initial-branch=main")
    (repository / "README.md").write_text("one\n")
    commit(repository, "one")
    monkeypatch.setenv("GITHUB_SERVER_URL", f"file://{tmp_path}")
    return repository


@pytest.mark.parametrize("options", [(), ("-a", "-m", "A version")], ids=["a plain tag", "an annotated tag"])
def test_without_a_commit_the_tag_of_the_version_names_it(server: Path, options: tuple[str, ...]) -> None:
    git(server, "tag", *options, "v0.2.0")
    head = git(server, "rev-parse", "HEAD").strip()
    assert workflow_pin.of("acme/lockstep", "0.2.0") == f"acme/lockstep@{head}"


def test_a_given_commit_stays_and_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_SERVER_URL", "file:///nowhere")
    assert workflow_pin.of(f"acme/lockstep@{SHA}", "0.2.0") == f"acme/lockstep@{SHA}"


@pytest.mark.parametrize(
    "name", ["lockstep", "acme/lockstep@main", f"acme/lockstep@{SHA[:7]}", "acme/x y", "--upload-pack=x/y"]
)
def test_what_is_no_repository_with_a_full_commit_is_refused(name: str) -> None:
    with pytest.raises(ParamsRefused, match="give OWNER/NAME, or OWNER/NAME@COMMIT"):
        workflow_pin.of(name, "0.2.0")


def test_a_version_without_a_tag_and_a_server_that_does_not_answer_are_refused(
    server: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        ParamsRefused, match=r"acme/lockstep: has no tag v9; push it there, .* or give --workflows acme/lockstep@COMMIT"
    ):
        workflow_pin.of("acme/lockstep", "9")
    monkeypatch.setenv("GITHUB_SERVER_URL", "file:///nowhere")
    with pytest.raises(RemoteRefused):
        workflow_pin.of("acme/lockstep", "0.2.0")
