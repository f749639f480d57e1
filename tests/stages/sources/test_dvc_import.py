"""A data file that another repository versions with DVC: imported at a revision, pinned, compared and updated."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from dvc.cli import main as dvc

from checks.process.errors import SourceRefused
from checks.records.sections import Source
from checks.storage import digest
from stages import sources
from tests.pipeline_repository import commit, git

pytestmark = pytest.mark.slow

FILE = Path("datasets/tickets.jsonl")
ROWS = {
    "v1": '{"question": "show the disks", "team": "vm"}\n',
    "v2": '{"question": "show the disks", "team": "vm"}\n{"question": "list the zones", "team": "dns"}\n',
}


def _dvc(root: Path, *arguments: str) -> None:
    with contextlib.chdir(root):
        assert dvc([*arguments, "--quiet"]) == 0, arguments


def _repository(folder: Path) -> Path:
    folder.mkdir()
    git(folder, "init", "--quiet", "--initial-branch", "main")
    _dvc(folder, "init")
    return folder


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of data with two tagged versions, whose files are in a remote alone."""
    for name, value in (("XDG_CONFIG_HOME", "home"), ("XDG_CACHE_HOME", "cache"), ("XDG_STATE_HOME", "state")):
        monkeypatch.setenv(name, str(tmp_path / name / value))
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    root = _repository(tmp_path / "registry")
    _dvc(root, "remote", "add", "--default", "store", str(tmp_path / "store"))
    (root / FILE.parent).mkdir()
    for version, text in ROWS.items():
        (root / FILE).write_text(text)
        _dvc(root, "add", str(FILE))
        commit(root, version)
        git(root, "tag", version)
    _dvc(root, "push", "--all-tags")
    (root / FILE).unlink()
    return root


def test_an_imported_file_is_pinned_by_revision_and_digest_until_both_are_updated(
    registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = _repository(tmp_path / "team")
    (root / FILE.parent).mkdir()
    monkeypatch.chdir(root)
    pins = {version: digest.of_bytes(text.encode()).removeprefix("sha256:") for version, text in ROWS.items()}
    source = Source(uri=FILE.as_posix(), sha256=pins["v1"], license="CC0-1.0")

    _dvc(root, "import", str(registry), FILE.as_posix(), "--out", FILE.as_posix(), "--rev", "v1")
    commit(root, "import")
    assert sources.bring(source, "data", root).sha256 == pins["v1"]
    assert git(registry, "rev-parse", "v1^{commit}").strip() in Path(f"{FILE}.dvc").read_text()
    assert FILE.as_posix() not in git(root, "ls-files").split()  # git has the pointer, DVC the rows

    _dvc(root, "update", f"{FILE}.dvc", "--rev", "v2")
    with pytest.raises(SourceRefused, match=f"{pins['v1']} is pinned, but datasets/tickets.jsonl is {pins['v2']}"):
        sources.bring(source, "data", root)
    assert sources.bring(source.model_copy(update={"sha256": pins["v2"]}), "data", root).sha256 == pins["v2"]
    diff = [sys.executable, "-m", "dvc", "diff", "HEAD", "--json"]  # DVC prints to the output of when it was loaded
    changed = json.loads(subprocess.run(diff, check=True, capture_output=True).stdout)
    assert [each["path"] for each in changed["modified"]] == [os.fspath(FILE)]
    assert not changed["added"]
    assert not changed["deleted"]

    _dvc(root, "get", str(registry), FILE.as_posix(), "--rev", "v1", "--out", "before.jsonl")
    assert Path("before.jsonl").read_text() == ROWS["v1"]
