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
from tests import plugin_package
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
    monkeypatch.setattr(metadata, "entry_points", lambda: metadata.EntryPoints([]))
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


KINDS = hashlib.sha256(b"a wheel of kinds").hexdigest()
HASHED = f"acme-kinds==1.0 --hash=sha256:{KINDS}\n"


def _kinds(site: Path, monkeypatch: pytest.MonkeyPatch, group: str = "lockstep.gates") -> Path:
    """Install a package of kinds from a wheel, and return its folder."""
    info = plugin_package.by_hand(site, "acme-kinds", {group: {"kind": "acme"}}, {"acme.py": "raise SystemExit\n"})
    digest = base64.urlsafe_b64encode(hashlib.sha256(b"raise SystemExit\n").digest()).rstrip(b"=").decode()
    (info / "RECORD").write_text(f"acme.py,sha256={digest},17\nacme_kinds-1.0.dist-info/RECORD,,\n")
    (info / "direct_url.json").write_text(f'{{"archive_info": {{"hashes": {{"sha256": "{KINDS}"}}}}}}')
    monkeypatch.setattr(metadata, "entry_points", lambda: metadata.PathDistribution(info).entry_points)
    return info


def _pin_too(root: Path, line: str) -> None:
    with (root / pin.PATH).open("a") as file:
        file.write(line)
    commit(root, "a package of kinds")


@pytest.mark.parametrize("group", ["lockstep.gates", "lockstep.verbs", "lockstep.sections"])
def test_a_package_of_kinds_that_the_pin_does_not_name_is_refused(
    root: Path, site: Path, monkeypatch: pytest.MonkeyPatch, group: str
) -> None:
    _kinds(site, monkeypatch, group)
    with pytest.raises(EvidenceRefused) as refused:
        running_code.check(root, committed=True)
    assert str(refused.value) == (
        f"package acme-kinds 1.0 adds to Lockstep, and lockstep-requirements.txt does not pin it; add `{HASHED.strip()}` "
        "there (docs/how-to/kinds.md says how), or uninstall it"
    )
    _pin_too(root, HASHED)
    running_code.check(root, committed=True)


def test_a_package_of_lockstep_itself_is_pinned_by_an_upgrade(
    root: Path, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _kinds(site, monkeypatch)
    monkeypatch.setattr(pin, "_OWN", "acme-")
    with (site / "lockstep_llm-0.2.0.dist-info/METADATA").open("a") as file:
        file.write('Requires-Dist: acme-kinds>=1; extra == "acme"\n')
    monkeypatch.setattr(metadata, "requires", lambda name: metadata.distribution(name).requires)
    fix = rf"name its extra there, and run `lockstep upgrade {distribution.version()}`, which pins it"
    with pytest.raises(EvidenceRefused, match=fix):
        running_code.check(root, committed=True)


@pytest.mark.slow
def test_packages_of_kinds_are_found_and_not_imported(tmp_path: Path) -> None:
    code = (
        "import sys; from release.record import installed_code, running_code, verdict_check\n"
        "packages = installed_code._packages_of_kinds()\n"
        "assert 'acme-kinds' in packages and 'lockstep-llm' not in packages, packages\nassert 'acme' not in sys.modules"
    )
    plugin_package.by_hand(
        tmp_path, "acme_kinds", {"lockstep.gates": {"kind": "acme"}}, {"acme.py": "raise SystemExit\n"}
    )
    done = plugin_package.python(tmp_path, code)
    assert done.returncode == 0, done.stderr


def test_another_package_is_no_code_of_lockstep(root: Path, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _kinds(site, monkeypatch, "console_scripts")
    running_code.check(root, committed=True)


@pytest.mark.parametrize("origin", ["{}", '{"dir_info": {"editable": true}}', None])
def test_a_package_of_kinds_that_came_from_elsewhere_is_refused(
    root: Path, site: Path, monkeypatch: pytest.MonkeyPatch, origin: str | None
) -> None:
    info = _kinds(site, monkeypatch)
    _pin_too(root, HASHED)
    (info / "direct_url.json").unlink() if origin is None else (info / "direct_url.json").write_text(origin)
    with pytest.raises(
        EvidenceRefused, match=r"acme-kinds 1.0 is not the wheel that lockstep-requirements.txt pins; use"
    ):
        running_code.check(root, committed=True)


def test_a_file_of_a_package_of_kinds_that_changed_is_refused(
    root: Path, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _kinds(site, monkeypatch)
    _pin_too(root, HASHED)
    (site / "acme.py").write_text("X = 1\n")
    with pytest.raises(EvidenceRefused, match=r"acme.py: is not the file of package acme-kinds 1.0; remove .venv"):
        running_code.check(root, committed=True)


def test_the_package_of_a_pull_request_does_not_decide_about_it(root: Path) -> None:
    running_code.check_target(root, "main", "main")
    git(root, "switch", "--quiet", "--create", "upgrade")
    pinned(root, OTHER)
    (root / "kinds/gates").mkdir(parents=True)
    (root / "kinds/gates/easy.py").write_text("X = 1\n")
    commit(root, "an upgrade")
    with pytest.raises(EvidenceRefused) as refused:
        running_code.check_target(root, "main", "main")
    assert [str(refused.value), *refused.value.others] == [
        "kinds/gates/easy.py: is not as on main, whose code decides; run it in a checkout of main: `git switch main && git pull`",
        "lockstep-requirements.txt: is not as on main",
    ]
    with pytest.raises(EvidenceRefused, match=r"kinds/gates/easy.py: is not as on main"):
        running_code.check_target(root, "main", "main", earlier=True)
    running_code.check_target(root, "upgrade", "upgrade")
    running_code.check_target(root / "projects/router", "upgrade", "upgrade")


def test_the_version_that_a_branch_had_counts_only_where_an_earlier_one_may(root: Path) -> None:
    old = git(root, "rev-parse", "HEAD").strip()
    git(root, "switch", "--quiet", "--create", "upgrade")
    pinned(root, OTHER)
    commit(root, "an upgrade")
    proposed = git(root, "rev-parse", "HEAD").strip()
    pinned(root, hashlib.sha256(b"the next wheel").hexdigest())
    commit(root, "another")
    git(root, "switch", "--quiet", "main")
    git(root, "merge", "--quiet", "--no-ff", "--message", "merge", "upgrade")
    git(root, "switch", "--quiet", "--detach", old)
    running_code.check_target(root, "main", "main", earlier=True)
    with pytest.raises(EvidenceRefused, match=r"lockstep-requirements.txt: is not as on main"):
        running_code.check_target(root, "main", "main")
    git(root, "switch", "--quiet", "--detach", proposed)
    with pytest.raises(EvidenceRefused, match=r"lockstep-requirements.txt: is not as on main"):
        running_code.check_target(root, "main", "main", earlier=True)
