"""Whatever the environment and git's configuration say, git is asked about this repository, and answers as data."""

import os
from pathlib import Path

import pytest

from checks.process.errors import EvidenceRefused
from release.adapters import commits
from release.ledger import Ledger
from tests import ledger_tree as tree
from tests.ledger_tree import PROMOTE, git, promote

nobodys_configuration, laptop = tree.nobodys_configuration, tree.laptop
FILE = Path("params.yaml")


@pytest.fixture
def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's own configuration of git, still empty."""
    path = tmp_path / "gitconfig"
    path.write_text("")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(path))
    return path


@pytest.mark.parametrize("name", ["GIT_DIR", "GIT_COMMON_DIR", "GIT_WORK_TREE", "GIT_OBJECT_DIRECTORY", "GIT_INDEX_FILE", "GIT_NAMESPACE", "GIT_LITERAL_PATHSPECS", "GIT_SHALLOW_FILE"])  # fmt: skip
def test_a_callers_own_repository_plays_no_part(
    laptop: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a hook of another repository runs Lockstep."""
    tree.begin(tmp_path / "other")
    (tmp_path / "other" / FILE).write_text("a: 2\n")
    tree.keep(tmp_path / "other", "theirs")
    tip, inside = git(laptop, "rev-parse", "HEAD"), tmp_path / "other" / ".git"
    (tmp_path / "cut").write_text(f"{tip}\n")
    values = {
        "GIT_DIR": inside, "GIT_COMMON_DIR": inside, "GIT_WORK_TREE": inside.parent, "GIT_INDEX_FILE": inside / "index",
        "GIT_OBJECT_DIRECTORY": inside / "objects", "GIT_SHALLOW_FILE": tmp_path / "cut",
    }  # fmt: skip
    monkeypatch.setenv(name, str(values.get(name, "1")))
    assert commits.target(laptop) == ("main", tip)
    assert commits.read(laptop, tip, FILE) == b"a: 1\n"
    assert commits.same(laptop, tip, (":(glob)*.yaml",))
    assert commits.uncommitted(laptop, tip, [FILE]) == []
    assert not commits.is_shallow(laptop)


def test_a_program_that_watches_files_is_not_started(laptop: Path, tmp_path: Path, configured: Path) -> None:
    """It would say which files changed, and could keep quiet about one."""
    watcher, ran = tmp_path / "watcher", tmp_path / "ran"
    watcher.write_text(f"#!/bin/sh\ntouch '{ran}'\nprintf 'token\\0'\n")
    watcher.chmod(0o755)
    configured.write_text(f"[core]\n\tfsmonitor = {watcher}\n")
    (laptop / FILE).write_text("a: 2\n")
    assert not commits.same(laptop, git(laptop, "rev-parse", "HEAD"), (FILE.as_posix(),))
    assert not ran.exists()


def _signed(root: Path, folder: Path) -> str:
    """A commit that changes the file, with a signature that a stand-in of gpg finds good."""
    program = folder / "gpg"
    program.write_text(
        "#!/bin/sh\ncat >/dev/null\n"  # all that git gives it, or git may find the pipe closed and take that for a failure
        "case \"$*\" in *--verify*) printf '[GNUPG:] GOODSIG 1 Ada\\n'; echo 'gpg: Good signature' >&2 ;; "
        "*) printf '[GNUPG:] SIG_CREATED \\n' >&2; printf -- '-----BEGIN PGP SIGNATURE-----\\nx\\n' ; "
        "printf -- '-----END PGP SIGNATURE-----\\n' ;; esac\n"
    )
    program.chmod(0o755)
    git(root, "config", "gpg.program", str(program))
    (root / FILE).write_text("a: 2\n")
    git(root, "commit", "--quiet", "-S", "-am", "signed")
    return git(root, "rev-parse", "HEAD")


def test_what_git_says_of_signatures_is_not_taken_for_commits(laptop: Path, tmp_path: Path, configured: Path) -> None:
    first, tip = git(laptop, "rev-parse", "HEAD"), _signed(laptop, tmp_path)
    configured.write_text("[log]\n\tshowSignature = true\n")
    assert "Good" in git(laptop, "log", "--format=%H", env={"GIT_CONFIG_GLOBAL": str(configured)})
    assert commits.touching(laptop, tip, FILE) == [tip, first]


@pytest.mark.slow
def test_what_git_says_comes_as_utf_8(laptop: Path, configured: Path) -> None:
    configured.write_text("[i18n]\n\tlogOutputEncoding = UTF-16\n")
    tip = git(laptop, "rev-parse", "HEAD")
    assert commits.touching(laptop, tip, FILE) == [tip]
    made = promote(laptop, "staging", "A")
    ledger = Ledger.open(laptop, PROMOTE)
    assert [move.commit for move in ledger.moves(made, "staging")] == [made]


@pytest.mark.slow
def test_a_setting_of_signatures_that_git_cannot_read_makes_no_unsigned_commit(laptop: Path, configured: Path) -> None:
    tip = git(laptop, "rev-parse", "HEAD")
    configured.write_text("[commit]\n\tgpgSign = perhaps\n")
    with pytest.raises(EvidenceRefused, match="bad boolean"):
        promote(laptop, "staging", "A")
    configured.write_text("")
    assert git(laptop, "rev-parse", "HEAD") == tip


def _planted(root: Path, work: Path, evil: str) -> Path:
    """A folder that a pull request may bring: it holds a project, and what makes a bare repository of it."""
    folder = root / "models"
    (folder / "refs" / "heads").mkdir(parents=True)
    (folder / "HEAD").write_text("ref: refs/heads/main\n")
    (folder / "refs" / "heads" / "main").write_text(f"{evil}\n")
    (work / ".git" / "objects").rename(folder / "objects")
    (folder / "config").write_text("[core]\n\trepositoryformatversion = 0\n\tbare = true\n")
    return folder


@pytest.mark.slow
def test_a_repository_that_lies_in_a_work_tree_as_files_is_not_asked(laptop: Path, tmp_path: Path) -> None:
    tree.begin(tmp_path / "other")
    evil = git(tmp_path / "other", "rev-parse", "HEAD")
    folder = _planted(laptop, tmp_path / "other", evil)
    assert git(folder, "rev-parse", "--is-bare-repository") == "true"
    with pytest.raises(EvidenceRefused, match="bare repository"):
        commits.target(folder)
    with pytest.raises(EvidenceRefused, match="bare repository"):
        Ledger.open(folder, PROMOTE)


def test_a_bare_repository_of_its_own_is_asked_whatever_is_configured(
    laptop: Path, tmp_path: Path, configured: Path
) -> None:
    """As the scratch remote of a drill."""
    git(tmp_path, "clone", "--quiet", "--bare", str(laptop), "bare.git")
    configured.write_text("[safe]\n\tbareRepository = explicit\n")
    assert commits.resolve(tmp_path / "bare.git", "main") == git(laptop, "rev-parse", "HEAD")


@pytest.mark.skipif(os.getuid() != 0, reason="only root may give files to another user")
def test_a_repository_of_another_user_is_refused_with_the_advice_of_git(tmp_path: Path) -> None:
    """As a folder that is mounted into a container."""
    git(tmp_path, "init", "--quiet")
    for path in (tmp_path, *tmp_path.rglob("*")):
        os.chown(path, 1234, 1234)
    advice = f"dubious ownership in repository at '{tmp_path}'; git config --global --add safe.directory {tmp_path}$"
    with pytest.raises(EvidenceRefused, match=advice):
        commits.resolve(tmp_path, "HEAD")
