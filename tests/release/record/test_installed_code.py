"""In a thin repository only the wheel that it pins judges and signs, and only with the files that it came with."""

import base64
import hashlib
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

from checks.process import distribution
from checks.process.errors import EvidenceRefused, ParamsRefused
from release.adapters import pin
from release.adapters.pin import Pin
from release.record import installed_code, running_code
from tests.pipeline_repository import commit, git

WHEEL = hashlib.sha256(b"the wheel").hexdigest()
OTHER = hashlib.sha256(b"another wheel").hexdigest()
FILES = {"checks/gate.py": b"X = 1\n", "stages/fetch.py": b"", "release/cli/__init__.py": b"Y = 2\n"}


def pinned(root: Path, sha256: str) -> None:
    (root / pin.PATH).write_text(pin.written(Pin("dvc,pipeline", "0.2.0", (sha256,))))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packages into which pip installed the wheel."""
    site, lines = tmp_path / "site-packages", ""
    for name, data in FILES.items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_bytes(data)
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        lines += f"{name},sha256={digest},{len(data)}\n"
    info = site / "lockstep_llm-0.2.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lockstep-llm\nVersion: 0.2.0\n")
    (info / "RECORD").write_text(lines)
    monkeypatch.setattr(metadata, "distribution", lambda _: metadata.PathDistribution(info))
    monkeypatch.setattr(distribution, "home", lambda: site)
    monkeypatch.setattr(distribution, "origin", lambda: {"archive_info": {"hashes": {"sha256": WHEEL}}})
    return site


@pytest.fixture
def root(tmp_path: Path, site: Path) -> Path:
    """A thin repository that pins the wheel."""
    root = tmp_path / "team"
    (root / "projects/router").mkdir(parents=True)
    (root / "projects/router/params.yaml").write_text("")
    git(root, "init", "--quiet", "--initial-branch", "main")
    pinned(root, WHEEL)
    commit(root, "start")
    return root


@pytest.mark.parametrize("committed", [False, True])
@pytest.mark.parametrize("folder", ["", "projects/router"])
def test_the_pinned_wheel_may_judge_and_sign(root: Path, folder: str, committed: bool) -> None:
    running_code.check(root / folder, committed)


def _edit(site: Path) -> None:
    (site / "checks/gate.py").write_bytes(b"X = 2\n")


def _add(site: Path) -> None:
    (site / "stages/kinds").mkdir()
    (site / "stages/kinds/late.py").write_bytes(b"")


def _remove(site: Path) -> None:
    (site / "release/cli/__init__.py").unlink()


@pytest.mark.parametrize(
    ("change", "path"),
    [(_edit, "checks/gate.py"), (_add, "stages/kinds/late.py"), (_remove, "release/cli/__init__.py")],
)
def test_a_file_that_changed_since_the_installation_is_refused(
    root: Path, site: Path, change: Callable[[Path], None], path: str
) -> None:
    change(site)
    with pytest.raises(EvidenceRefused, match=f"{path}: is not the file of the wheel"):
        installed_code.check(root, committed=True)


def test_another_wheel_than_the_reviewed_pin_is_refused_though_the_work_tree_pins_it(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned(root, OTHER)
    monkeypatch.setattr(distribution, "origin", lambda: {"archive_info": {"hashes": {"sha256": OTHER}}})
    installed_code.check(root, committed=False)
    with pytest.raises(EvidenceRefused, match=f"is the wheel {OTHER[:12]}, and lockstep-requirements.txt pins 0.2.0"):
        installed_code.check(root, committed=True)


@pytest.mark.parametrize("origin", [{}, {"dir_info": {"editable": True}}, {"archive_info": {}}])
def test_an_installation_of_unknown_origin_is_refused(
    root: Path, monkeypatch: pytest.MonkeyPatch, origin: dict[str, object]
) -> None:
    monkeypatch.setattr(distribution, "origin", lambda: origin)
    with pytest.raises(EvidenceRefused, match=r"was not installed by ./lockstep, .*; use the launcher"):
        installed_code.check(root, committed=True)


def test_a_pin_without_a_hash_is_refused(root: Path) -> None:
    (root / pin.PATH).write_text("lockstep-llm[dvc]==0.2.0\n")
    with pytest.raises(ParamsRefused, match="is not a package with a version and its hash"):
        installed_code.check(root, committed=False)
