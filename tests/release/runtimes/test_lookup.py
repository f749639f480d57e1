"""A team's own runtimes: read from a commit, never from files that nobody reviewed, and under no name that is shipped."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from checks.process.errors import EvidenceRefused, ParamsRefused
from checks.storage import digest
from release import runtimes
from release.runtimes import lookup
from tests import team_runtime
from tests.conftest import REPOSITORY
from tests.ledger_tree import git, identify, keep
from tests.team_runtime import FILE, NAME


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with the team's runtime committed."""
    git(tmp_path, "init", "--quiet")
    identify(tmp_path, "Ada")
    team_runtime.write(tmp_path)
    keep(tmp_path, "a server of our own")
    return tmp_path


def head(root: Path) -> str:
    return git(root, "rev-parse", "HEAD")


def test_the_committed_file_is_a_runtime_and_has_a_digest(root: Path) -> None:
    runtime = lookup.here(root, NAME)
    assert runtime == lookup.at(root, head(root), NAME)
    assert runtime.file == digest.of_bytes((root / FILE).read_bytes())
    assert runtime.model_copy(update={"port": 8001}).file == runtime.file


@pytest.mark.parametrize("name", runtimes.names())
def test_a_shipped_runtime_is_found_in_every_repository_and_has_no_digest(name: str, root: Path) -> None:
    for found in (lookup.here(root, name), lookup.at(root, head(root), name)):
        assert found == runtimes.load(name)
        assert found.file is None


def test_a_shipped_runtime_needs_no_repository(tmp_path: Path) -> None:
    assert lookup.here(tmp_path, "vllm") == runtimes.load("vllm")


def test_in_lockstep_s_own_repository_the_files_are_the_shipped_ones() -> None:
    assert lookup.here(REPOSITORY, "vllm").file is None


def test_a_commit_keeps_its_file_whatever_came_later(root: Path) -> None:
    before, runtime = head(root), lookup.here(root, NAME)
    team_runtime.write(root, team_runtime.text().replace("port: 8000", "port: 8080"))
    keep(root, "another port")
    assert lookup.at(root, before, NAME) == runtime
    assert lookup.here(root, NAME).port == 8080


@pytest.mark.parametrize("name", ["other", "../acme", "acme.yaml", "", "ACME", "sub/acme"])
def test_a_name_without_a_file_is_refused_with_what_to_do(name: str, root: Path) -> None:
    said = f"{name!r} is not a runtime; use one of {', '.join(runtimes.names())}, or commit release/runtimes/NAME.yaml"
    for ask in (lambda: lookup.here(root, name), lambda: lookup.at(root, head(root), name)):
        with pytest.raises(ParamsRefused, match=re.escape(said)):
            ask()


def _edited(root: Path) -> None:
    team_runtime.write(root, team_runtime.text().replace("acme-serve]", "sh]"))


def _behind_the_index(root: Path) -> None:
    git(root, "update-index", "--assume-unchanged", FILE.as_posix())
    _edited(root)


def _linked(root: Path) -> None:
    (root / "elsewhere.yaml").write_text(team_runtime.text())
    (root / FILE).unlink()
    (root / FILE).symlink_to("../../elsewhere.yaml")


def _never_committed(root: Path) -> None:
    git(root, "rm", "--quiet", "--cached", FILE.as_posix())
    git(root, "commit", "--quiet", "-m", "none")


UNREVIEWED: dict[str, Callable[[Path], object]] = {
    "edited": _edited,
    "edited behind git's index": _behind_the_index,
    "deleted": lambda root: (root / FILE).unlink(),
    "a link": _linked,
    "never committed": _never_committed,
    "in a folder without git": lambda root: shutil.rmtree(root / ".git"),
}


@pytest.mark.parametrize("case", UNREVIEWED)
def test_a_file_of_the_work_tree_that_git_does_not_have_starts_nothing(case: str, root: Path) -> None:
    UNREVIEWED[case](root)
    said = f"{FILE}: is not committed in its current state; git add {FILE} && git commit"
    with pytest.raises(ParamsRefused, match=re.escape(said)):
        lookup.here(root, NAME)


def test_a_committed_link_is_refused(root: Path) -> None:
    _linked(root)
    keep(root, "a link")
    with pytest.raises(EvidenceRefused, match=f"{FILE} at {head(root)[:12]}: is not a regular file"):
        lookup.here(root, NAME)


@pytest.mark.parametrize("committed", [True, False])
def test_no_file_takes_the_name_of_a_shipped_runtime(committed: bool, root: Path) -> None:
    team_runtime.write(root, team_runtime.text().replace("name: acme\n", "name: vllm\n"), lookup.path("vllm"))
    if committed:
        keep(root, "ours")
    said = "release/runtimes/vllm.yaml: Lockstep ships a runtime of this name; rename the file, and the name in it"
    with pytest.raises(ParamsRefused, match=re.escape(said)):
        lookup.here(root, "vllm")


def test_what_was_built_before_lockstep_shipped_the_name_keeps_its_file(
    root: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = lookup.at(root, head(root), NAME)
    shipped = tmp_path_factory.mktemp("shipped")
    (shipped / f"{NAME}.yaml").write_text(team_runtime.text().replace("port: 8000", "port: 8080"))
    monkeypatch.setattr(runtimes, "FOLDER", shipped)
    assert lookup.at(root, head(root), NAME) == built
    with pytest.raises(ParamsRefused, match="Lockstep ships a runtime of this name"):
        lookup.here(root, NAME)


LINES = team_runtime.text().splitlines()
BROKEN = {
    "no YAML": (lambda text: text.replace("[acme-serve]", "[acme-serve"), "not YAML", "command:"),
    "a key twice": (lambda text: text + "port: 8001\n", "port is written twice", None),
    "an alias": (lambda text: text.replace("rope: null", "rope: *none"), "an alias", "rope: null"),
    "no UTF-8": (lambda text: text.replace("acme-serve]", "\udcff]"), "not YAML", ""),
    "a number as a variable": (lambda text: text.replace('"1"\n  HF_HUB_D', "1\n  HF_HUB_D"), "HF_HUB_OFFLINE: ", '  HF_HUB_OFFLINE: "1"'),
    "a privileged port": (lambda text: text.replace("port: 8000", "port: 80"), "port: ", "port: 8000"),
    "a status that is no number": (lambda text: text.replace("malformed: [400]", "malformed: [bad]"), "errors.malformed.0", "  malformed: [400]"),
    "an unknown key": (lambda text: text + "gpus: 1\n", "gpus: ", None),
    "no port": (lambda text: text.replace("port: 8000\n", ""), "port: Field required", "name: acme"),
    "another name": (lambda text: text.replace("name: acme\n", "name: acme2\n"), "is called 'acme2'; call it acme", "name: acme"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_file_that_is_no_runtime_is_refused_with_its_path_and_line(case: str, root: Path) -> None:
    spoil, said, where = BROKEN[case]
    (root / FILE).write_bytes(spoil(team_runtime.text()).encode(errors="surrogateescape"))
    keep(root, "spoilt")
    line = "" if where == "" else f":{len(LINES) + 1 if where is None else LINES.index(where) + 1}"
    for ask, called in (
        (lookup.here, ""),
        (lambda root, name: lookup.at(root, head(root), name), f"{head(root)[:12]}:"),
    ):
        with pytest.raises(ParamsRefused) as found:
            ask(root, NAME)
        assert found.value.what.startswith(f"{called}{FILE}{line}: ")
        assert said in str(found.value)
        assert "\n" not in str(found.value)


def test_every_command_reads_a_runtime_by_its_commit() -> None:
    """``runtimes.load`` knows only what Lockstep ships."""
    texts = {path.relative_to(REPOSITORY): path.read_text() for path in (REPOSITORY / "release").rglob("*.py")}
    assert [str(path) for path, text in texts.items() if "runtimes.load(" in text] == ["release/runtimes/lookup.py"]
