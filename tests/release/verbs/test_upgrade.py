"""upgrade: the pin, the generated files and code.lock of another version, and what people changed by hand."""

import os
import re
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest
from click.testing import CliRunner

from checks.code import lock
from checks.config import params_file
from checks.formats import signers
from checks.process import distribution
from checks.process.errors import ParamsRefused
from checks.storage import layout
from release.adapters import pin, thin_files
from release.adapters.pin import Pin
from release.cli import main
from release.verbs import keys
from release.verbs import upgrade as verb
from tests import pipeline_repository as repository
from tests.conftest import REPOSITORY
from tests.release.adapters import test_pin

OLD, NEW = f"acme/lockstep@{'a' * 40}", f"acme/lockstep@{'b' * 40}"
PIN = Pin("dvc", distribution.version(), ("c" * 64,))
NONE = frozenset[str]()


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """A team's repository of the version that runs here, committed."""
    top = tmp_path / "team"
    top.mkdir()
    texts = {"params.yaml": (REPOSITORY / layout.PARAMS).read_text(), pin.PATH.as_posix(): pin.written(PIN)}
    thin_files.install(thin_files.plan(top, top / "rows.csv", OLD), texts)
    verb.upgrade(top, OLD, NONE, write=True)
    repository.commit(top, "start")
    return top


def older(path: Path, old: str, new: str) -> None:
    """Make a generated file one of an earlier version, which nobody has changed."""
    text = thin_files.without_stamp(path.read_bytes()).replace(old.encode(), new.encode())
    path.write_bytes(thin_files.stamped(text))


def test_a_repository_of_this_version_stays_as_it_is(top: Path) -> None:
    assert verb.upgrade(top, OLD, NONE, write=True) == verb.Upgraded(PIN.version, {}, {}, {".": []}, ())
    assert repository.git(top, "status", "--short") == ""


def test_generated_files_of_an_earlier_version_are_written_anew_with_their_differences(top: Path) -> None:
    older(top / "dvc.yaml", "python -P -m", "python -m")
    older(top / "lockstep", "Needs Python 3.11+", "Needs Python 3.10+")
    done = verb.upgrade(top, NEW, NONE, write=True)
    assert {"dvc.yaml", "lockstep", ".github/workflows/pr.yml"} <= done.diffs.keys()
    assert done.kept == {}
    assert "-    cmd: python -m stages.fetch\n+    cmd: python -P -m stages.fetch\n" in done.diffs["dvc.yaml"]
    assert "b" * 40 in (top / ".github/workflows/pr.yml").read_text()
    assert os.access(top / "lockstep", os.X_OK)
    assert verb.upgrade(top, NEW, NONE, write=True).diffs == {}


def test_a_check_writes_nothing(top: Path) -> None:
    older(top / "dvc.yaml", "python -P -m", "python -m")
    before = (top / "dvc.yaml").read_bytes()
    assert verb.upgrade(top, OLD, NONE, write=False).diffs.keys() == {"dvc.yaml"}
    assert (top / "dvc.yaml").read_bytes() == before


def test_a_file_that_a_person_changed_is_kept_unless_it_is_to_be_replaced(top: Path) -> None:
    path = top / "dvc.yaml"
    path.write_text(path.read_text().replace("python -P -m stages.fetch", "python -m stages.fetch"))
    done = verb.upgrade(top, OLD, NONE, write=True)
    assert done.diffs == {}
    assert "+    cmd: python -P -m stages.fetch" in done.kept["dvc.yaml"]
    assert "python -m stages.fetch" in path.read_text()
    verb.upgrade(top, OLD, frozenset({"dvc.yaml"}), write=True)
    assert "python -P -m stages.fetch" in path.read_text()


def test_a_workflow_that_the_team_removed_stays_away(top: Path) -> None:
    (top / ".github/workflows/watch.yml").unlink()
    generated = thin_files.generated(NEW)
    places = verb.places(top, [top], generated, adds_workflows=False)
    assert ".github/workflows/pr.yml" in places
    assert ".github/workflows/watch.yml" not in places


def test_the_signers_that_trust_the_called_workflows_trust_them_at_the_new_commit_too(top: Path) -> None:
    keys.add_workflows(top, "acme/router", "main")
    before = (top / layout.SIGNERS).read_text()
    done = verb.upgrade(top, NEW, NONE, write=False)
    assert str(layout.SIGNERS) in done.diffs
    assert (top / layout.SIGNERS).read_text() == before
    verb.upgrade(top, NEW, NONE, write=True)
    known = signers.parse((top / layout.SIGNERS).read_text(), "it")
    assert [signer.commits for signer in known] == [("a" * 40, "b" * 40)] * 2
    assert verb.upgrade(top, NEW, NONE, write=True).diffs == {}


def test_the_stages_that_run_other_code_are_named(top: Path) -> None:
    path = top / layout.CODE_LOCK
    path.write_text(path.read_text().replace(lock.read(top).stages["merge"], "sha256:" + "0" * 64))
    assert verb.upgrade(top, OLD, NONE, write=False).stale == {".": ["merge"]}
    verb.upgrade(top, OLD, NONE, write=True)
    assert verb.upgrade(top, OLD, NONE, write=False).stale == {".": []}


def with_budget(top: Path, *lines: str) -> Path:
    """Add keys to the gate budget, and return the file."""
    path, last = top / layout.PARAMS, "    parameters_millions: 150\n"
    path.write_text(path.read_text().replace(last, last + "".join(f"    {line}\n" for line in lines)))
    return path


def test_parameters_that_this_version_has_elsewhere_are_moved_with_a_difference(top: Path) -> None:
    path = with_budget(top, "cost: 1 # one card", "hourly_price: 2", "latency_p95_seconds: 30")
    path.write_text("\n".join(path.read_text().rsplit("\n  precision: bf16\n", 1)))  # That of evaluate.
    old = path.read_text()
    done = verb.upgrade(top, OLD, NONE, write=False)
    assert path.read_text() == old
    assert "-    cost: 1 # one card\n-    hourly_price: 2\n-    latency_p95_seconds: 30\n" in done.diffs["params.yaml"]
    assert "+  hourly_price: 2\n+  cost: 1 # one card\n" in done.diffs["params.yaml"]
    assert done.problems == ()
    refused = CliRunner().invoke(main, ["-C", str(top), "upgrade", "--check", "--workflows", OLD])
    assert refused.exit_code == 8
    assert "params.yaml, code.lock in .: not of Lockstep" in refused.stderr
    assert verb.upgrade(top, OLD, NONE, write=True).diffs.keys() == {"params.yaml"}
    params = params_file.load(path)
    assert (params.train_budget.cost, params.train_budget.hourly_price) == (1, 2)
    lock.refuse_left_out(params)
    assert verb.upgrade(top, OLD, NONE, write=True).diffs == {}


def test_parameters_that_only_a_person_can_move_are_said_with_their_fix(top: Path) -> None:
    with_budget(top, "gpu_hours: 1")
    done = verb.upgrade(top, OLD, NONE, write=True)
    assert done.diffs == {}
    (problem,) = done.problems
    assert "gpu_hours" in problem
    assert "move it to the section train_budget" in problem


def test_lines_that_git_lacks_are_added_and_those_of_people_stay(top: Path) -> None:
    (top / ".gitignore").write_text("*.log\n.venv/")
    (top / ".gitattributes").unlink()
    (top / ".dvcignore").unlink()
    (top / ".dvcignore").symlink_to(".gitignore")
    check = ["-C", str(top), "upgrade", "--check", "--workflows", OLD]
    refused = CliRunner().invoke(main, check)
    assert refused.exit_code == 8
    assert ".gitignore, .gitattributes: not of Lockstep" in refused.stderr
    assert (top / ".gitignore").read_text() == "*.log\n.venv/"
    done = verb.upgrade(top, OLD, NONE, write=True)
    assert done.diffs.keys() == {".gitignore", ".gitattributes"}
    lines = (top / ".gitignore").read_text().splitlines()
    assert lines[:2] == ["*.log", ".venv/"]
    assert {".lockstep/", "/models/"} <= set(lines[2:])
    assert lines.count(".venv/") == 1
    assert "dvc.lock -merge" in (top / ".gitattributes").read_text()
    assert CliRunner().invoke(main, check).exit_code == 0


@pytest.fixture
def fork(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Lockstep's repository with an older tag and that of this version, and a bare fork of acme with the older one."""
    source, bare = tmp_path / "lockstep", tmp_path / "acme/lockstep"
    source.mkdir()
    repository.git(source, "init", "--quiet", "--initial-branch=main")
    for version in ("0.0.1", PIN.version):
        (source / "version").write_text(version)
        repository.commit(source, version)
        repository.git(source, "tag", "-a", "-m", version, f"v{version}")
    repository.git(tmp_path, "clone", "--quiet", "--bare", str(source), str(bare))
    repository.git(bare, "update-ref", "refs/heads/main", "v0.0.1^{commit}")
    repository.git(bare, "tag", "--delete", f"v{PIN.version}")
    monkeypatch.setenv("GITHUB_SERVER_URL", f"file://{tmp_path}")
    return source, bare


def test_an_upgrade_calls_the_fork_at_the_commit_of_its_tag(top: Path, fork: tuple[Path, Path], tmp_path: Path) -> None:
    source, bare = fork
    old, new = (
        repository.git(source, "rev-parse", f"v{version}^{{commit}}").strip() for version in ("0.0.1", PIN.version)
    )
    verb.upgrade(top, f"acme/lockstep@{old}", NONE, write=True)
    keys.add_workflows(top, "acme/router", "main")
    repository.commit(top, "at the older tag")
    with pytest.raises(ParamsRefused, match=f"acme/lockstep: has no tag v{PIN.version}; push it there"):
        verb.upgrade(top, None, NONE, write=True)
    assert repository.git(top, "status", "--short") == ""
    clone = tmp_path / "clone"  # As docs/how-to/upgrade.md says.
    repository.git(tmp_path, "clone", "--quiet", str(bare), str(clone))
    repository.git(clone, "fetch", "--quiet", str(source), "tag", f"v{PIN.version}")
    repository.git(clone, "push", "--quiet", "origin", f"v{PIN.version}")
    done = verb.upgrade(top, None, NONE, write=True)
    workflows = {name for name in done.diffs if name.startswith(".github/")}
    called = "".join((top / name).read_text() for name in workflows)
    assert set(re.findall(r"uses: (\S+)/\.github/workflows/[\w.-]+@(\S+)", called)) == {("acme/lockstep", new)}
    assert done.diffs.keys() == workflows | {str(layout.SIGNERS)}
    assert done.kept == {}
    known = signers.parse((top / layout.SIGNERS).read_text(), "it")
    assert [signer.commits for signer in known] == [(old, new)] * 2
    assert CliRunner().invoke(main, ["-C", str(top), "upgrade", "--check"]).exit_code == 0


def test_a_version_that_the_fork_has_no_tag_of_is_not_pinned(
    top: Path, fork: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = f"{distribution.NAME.replace('-', '_')}-9.9.9.dist-info"
    with ZipFile(tmp_path / info.replace(".dist-info", "-py3-none-any.whl"), "w") as wheel:
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {distribution.NAME}\nVersion: 9.9.9\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    refused = CliRunner().invoke(main, ["-C", str(top), "upgrade", "9.9.9"])
    assert refused.exit_code == 2, refused.output
    assert "acme/lockstep: has no tag v9.9.9" in refused.stderr
    assert repository.git(top, "status", "--short") == ""


def test_another_pinned_version_than_the_one_that_runs_is_refused(top: Path) -> None:
    (top / pin.PATH).write_text(pin.written(PIN._replace(version="9.9.9")))
    with pytest.raises(ParamsRefused, match=r"pins 9\.9\.9, and this is Lockstep .*; run it by the launcher"):
        verb.upgrade(top, OLD, NONE, write=True)


def test_a_check_ends_with_8_and_says_the_command_after_a_pull_request_that_changed_the_pin_alone(top: Path) -> None:
    assert CliRunner().invoke(main, ["-C", str(top), "upgrade", "--check", "--workflows", OLD]).exit_code == 0
    older(top / "dvc.yaml", "python -P -m", "python -m")
    done = CliRunner().invoke(main, ["-C", str(top), "upgrade", "--check", "--workflows", OLD])
    assert done.exit_code == 8
    assert f"dvc.yaml: not of Lockstep {PIN.version}; run ./lockstep upgrade --files, and commit" in done.stderr


def test_a_repository_without_params_is_not_pinned(tmp_path: Path) -> None:
    repository.git(tmp_path, "init", "--quiet")
    done = CliRunner().invoke(main, ["-C", str(tmp_path), "upgrade"])
    assert done.exit_code == 2
    assert "no folder has a params.yaml; begin with `" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == [".git"]


@pytest.mark.slow
def test_the_pin_is_changed_and_the_launcher_runs_the_rest_in_the_new_version(top: Path, tmp_path: Path) -> None:
    """With a launcher that says what it is asked, and wheels that only pip looks at."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    needs = f'lockstep-lake=={PIN.version}; extra == "sql"'
    own = test_pin.wheel(folder, distribution.NAME, PIN.version, needs)
    lake = test_pin.wheel(folder, "lockstep-lake", PIN.version)
    (top / pin.PATH).write_text(pin.written(PIN._replace(extras="dvc,sql")))
    (top / "lockstep").write_text("import sys\nprint('launcher', *sys.argv[1:])\n")
    environment = os.environ | {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder)}
    words = [sys.executable, "-P", "-m", "release.cli", "-C", str(top), "upgrade", "--json"]
    words += ["--replace", "dvc.yaml", "--workflows", NEW]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"launcher upgrade --files --workflows {NEW} --json --replace dvc.yaml\n"
    assert (top / pin.PATH).read_text().splitlines()[1:] == [
        f"lockstep-llm[dvc,sql]=={PIN.version} --hash=sha256:{own}",
        f"lockstep-lake=={PIN.version} --hash=sha256:{lake}",
    ]
