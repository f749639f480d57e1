"""recheck: which commits could make a fetch write files beside data and models, from git and DVC's lists alone."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from click.testing import CliRunner

from release.cli import main
from tests import dvc_repository
from tests.dvc_repository import in_a_list, locked, named_by_a_file
from tests.pipeline_repository import commit, git

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dvc_repository.make(tmp_path_factory.mktemp("recheck"))


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "copy")
    return tmp_path / "copy/clone"


def nested(root: Path) -> None:
    """A pipeline in a folder that everybody may change."""
    (root / "reports").mkdir()
    stage = {
        "cmd": "true",
        "wdir": "..",
        "outs": [{"release/verbs/sign.py": {"persist": True}}, {"y": {"cache": False}}],
    }
    (root / "reports/dvc.yaml").write_text(yaml.safe_dump({"stages": {"x": stage}}))


def templated(root: Path) -> None:
    """A file that is no YAML."""
    (root / "notes.dvc").write_text("outs: [")


MANY = yaml.safe_dump(
    {"stages": {"x": {"foreach": ["a"], "do": {"cmd": "true", "outs": ["../release/verbs/sign.py"]}}}}
)


def linked(root: Path) -> None:
    """A link of git in a folder of data."""
    (root / "datasets").mkdir()
    (root / "datasets/x").symlink_to("../release/verbs")


def many(root: Path) -> None:
    """A pipeline beside data with a stage for each of a list."""
    (root / "datasets").mkdir()
    (root / "datasets/dvc.yaml").write_text(MANY)


def resolved(root: Path) -> None:
    """A pipeline whose output has a variable in its path."""
    (root / "datasets").mkdir()
    stage = {"cmd": "true", "outs": ["a/${up}"]}
    (root / "datasets/dvc.yaml").write_text(yaml.safe_dump({"vars": [{"up": ".."}], "stages": {"x": stage}}))


COMMITS: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "as it was made": (lambda _: None, "", ""),
    "a file of DVC that names code": (
        lambda root: named_by_a_file(root, "datasets", "../yaml.py"), "datasets/x.dvc names yaml.py, outside", ""
    ),
    "a file of DVC that names a place outside of the repository": (
        lambda root: named_by_a_file(root, "datasets", "../../x"), "datasets/x.dvc names ../x, outside", ""
    ),
    "a list that leaves its folder": (
        lambda root: in_a_list(root, "../../release/verbs/sign.py"), "which no folder of data may have", ""
    ),
    "a pipeline beside reports": (nested, "reports/dvc.yaml names release/verbs/sign.py, outside", ""),
    "a link that a file of DVC names": (linked, "datasets/x is a link or another repository", ""),
    "a pipeline of many stages": (
        many,
        "datasets/dvc.yaml names release/verbs/sign.py, outside", "",
    ),
    "a name that only DVC can resolve": (resolved, "", "datasets/dvc.yaml: has names that only DVC can resolve"),
    "a list that is nowhere": (lambda root: locked(root, f"{'ab' * 16}.dir"), "", "failed to load directory"),
    "a file that cannot be read": (templated, "", "notes.dvc: cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("case", COMMITS)
def test_a_commit_is_judged_by_the_names_in_it(root: Path, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, unsafe, unknown = COMMITS[case]
    make(root)
    commit(root, case)
    name = git(root, "rev-parse", "HEAD").strip()
    pointer = SimpleNamespace(commit=name, version="v0.1.0")
    moves = (SimpleNamespace(after=None), SimpleNamespace(after=pointer), SimpleNamespace(after=pointer))
    history = SimpleNamespace(environments={"staging": moves, "production": moves[:2]})
    monkeypatch.setattr("release.verbs.history.history", lambda _: history)
    done = CliRunner().invoke(main, ["-C", str(root), "evidence", "recheck", "--json"])
    assert done.exit_code == (8 if unsafe or unknown else 0), done.output
    (result,) = json.loads(done.stdout)
    assert result["commit"] == name
    assert result["releases"] == ["staging v0.1.0", "production v0.1.0"]
    for wanted, lines in ((unsafe, result["unsafe"]), (unknown, result["unknown"])):
        assert any(wanted in line for line in lines) == bool(wanted), lines
    if unsafe:
        assert "advisory-2026-11.md" in done.stderr
    assert "Traceback" not in done.output


def test_a_commit_can_be_named_and_is_shown_on_a_line(root: Path) -> None:
    done = CliRunner().invoke(main, ["-C", str(root), "evidence", "recheck", "HEAD"])
    assert done.stdout == f"✓ {git(root, 'rev-parse', 'HEAD')[:12]}\n"
    assert CliRunner().invoke(main, ["-C", str(root), "evidence", "recheck", "nothing"]).exit_code == 8
