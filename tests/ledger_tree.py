"""Repositories with environments, for the tests of the ledger: real git, bare remotes, clones."""

import os
import subprocess
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta, tzinfo
from pathlib import Path

import pytest

from checks.config import params_file
from checks.config.release_params import Promote
from checks.formats import pointer
from checks.formats.pointer import Pointer
from checks.storage import digest, layout
from release.ledger import Change, Ledger, compose, next_version, tags_for
from tests.conftest import REPOSITORY
from tests.git_service import Service

PROMOTE = params_file.load(REPOSITORY / layout.PARAMS).promote
ADA = {
    "GIT_AUTHOR_NAME": "Ada", "GIT_AUTHOR_EMAIL": "ada@example.org", "GIT_COMMITTER_NAME": "Ada",
    "GIT_COMMITTER_EMAIL": "ada@example.org",
}  # fmt: skip
# Nobody's own configuration plays a part.
CLEAN = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}


def git(folder: Path, *args: str, env: Mapping[str, str] | None = None, given: str | None = None) -> str:
    """What git prints, without the last newline."""
    done = subprocess.run(
        ["git", *args], cwd=folder, env={**os.environ, **CLEAN, **ADA, **(env or {})}, input=given,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.rstrip("\n")


def begin(folder: Path, name: str = "Ada") -> None:
    """A repository with one commit on main, and an identity of its own."""
    git(folder.parent, "init", "--quiet", "--initial-branch=main", str(folder))
    identify(folder, name)
    (folder / "params.yaml").write_text("a: 1\n")
    keep(folder, "begin")


def identify(folder: Path, name: str) -> None:
    git(folder, "config", "user.name", name)
    git(folder, "config", "user.email", f"{name.lower()}@example.org")


def keep(folder: Path, message: str, env: Mapping[str, str] | None = None) -> str:
    """Commit everything; the new commit."""
    git(folder, "add", "--all", ".")
    git(folder, "commit", "--quiet", "--allow-empty", "-m", message, env=env)
    return git(folder, "rev-parse", "HEAD")


def packed(folder: Path) -> Path:
    """The same repository with its objects in one file: a copy of it takes a third of the time."""
    git(folder, "repack", "--quiet", "-a", "-d")
    return folder


def bare(folder: Path, source: Path) -> None:
    """A bare remote with what ``source`` has, which becomes its origin."""
    git(folder.parent, "clone", "--quiet", "--bare", str(source), str(folder))
    git(folder, "remote", "remove", "origin")
    git(source, "remote", "add", "origin", str(folder))
    git(source, "fetch", "--quiet", "origin")


def clone(folder: Path, remote: str, name: str) -> Path:
    git(folder.parent, "clone", "--quiet", remote, str(folder))
    identify(folder, name)
    return folder


def at(environment: str) -> Path:
    return layout.ENVIRONMENTS / environment / layout.POINTER


def sha(text: str) -> str:
    return digest.of_bytes(text.encode())


def target(label: str, commit: str, version: str = "v0.1.0") -> Pointer:
    """A pointer to an image, a model and evidence that ``label`` names."""
    image = f"registry.example/team/router@{sha('image ' + label)}"
    return Pointer(model=sha("model " + label), commit=commit, version=version, image=image, evidence=sha(label))


def change(ledger: Ledger, tip: str, environment: str, label: str, why: str = "it is better") -> Change:
    """The change of a promotion of what ``label`` names."""
    moves = [move for name in PROMOTE.environments for move in ledger.moves(tip, name)]
    number, before = len(ledger.moves(tip, environment)) + 1, ledger.pointer(tip, environment)
    after = target(label, "1" * 40)
    model = ledger.model_name("router")
    version = next_version(model, ledger.tags(), moves, after.model, after.digest)
    after = after.model_copy(update={"version": version})
    message = compose(environment, number, "promote", before, after, why)
    tags = tags_for(model, ledger.tags(), moves, environment, after)
    return Change({at(environment): pointer.write(after)}, message, tags)


def opened(root: Path, using: Promote = PROMOTE, deadline: float = 60) -> tuple[Ledger, str]:
    """The ledger of a clone, and the newest commit of its branch."""
    ledger = Ledger.open(root, using, deadline)
    return ledger, ledger.tip()


def promote(root: Path, environment: str, label: str, using: Promote = PROMOTE, deadline: float = 60) -> str:
    """Move the environment; the new commit."""
    ledger, tip = opened(root, using, deadline)
    return ledger.commit(tip, change(ledger, tip, environment, label))


def refs(folder: Path) -> dict[str, str]:
    """Branches and tags by name, as they are."""
    lines = git(folder, "for-each-ref", "--format=%(refname) %(objectname)", "refs/heads", "refs/tags").splitlines()
    return {line.split(" ")[0]: line.split(" ")[1] for line in lines}


@pytest.fixture(autouse=True)
def nobodys_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CLEAN.items():
        monkeypatch.setenv(name, value)
    for name in ADA:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A clone whose origin is a bare repository beside it."""
    folder = tmp_path / "work folder ü"
    begin(folder)
    (tmp_path / "remotes").mkdir()
    bare(tmp_path / "remotes" / "origin.git", folder)
    return folder


@pytest.fixture
def remote(work: Path) -> Path:
    return work.parent / "remotes" / "origin.git"


@pytest.fixture
def service(work: Path) -> Iterator[Service]:
    """The same remote by HTTP, which is the clone's origin now."""
    with Service(work.parent / "remotes") as running:
        git(work, "remote", "set-url", "origin", running.address("origin.git"))
        yield running


@pytest.fixture
def laptop(tmp_path: Path) -> Path:
    begin(tmp_path / "laptop")
    return tmp_path / "laptop"


class Tomorrow(datetime):
    """A clock that is a day ahead."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override] # of the class that it replaces
        return datetime.now(tz) + timedelta(days=1)
