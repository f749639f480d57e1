"""upgrade: the pin, the generated files and code.lock of another version, and what people changed by hand."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from checks.code import lock
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


def test_parameters_that_this_version_does_not_take_are_said_with_their_fix(top: Path) -> None:
    path = top / layout.PARAMS
    path.write_text(
        path.read_text().replace("    parameters_millions: 150\n", "    parameters_millions: 150\n    gpu_hours: 1\n")
    )
    (problem,) = verb.upgrade(top, OLD, NONE, write=True).problems
    assert "gpu_hours" in problem
    assert "move it to the section train_budget" in problem


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
    """With a launcher that says what it is asked, and a wheel that only pip looks at."""
    folder = tmp_path / "wheels"
    build = [sys.executable, "-P", "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(REPOSITORY)]
    subprocess.run(build, check=True, capture_output=True)
    (top / "lockstep").write_text("import sys\nprint('launcher', *sys.argv[1:])\n")
    environment = os.environ | {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder)}
    words = [sys.executable, "-P", "-m", "release.cli", "-C", str(top), "upgrade", "--json", "--replace", "dvc.yaml"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "launcher upgrade --files --json --replace dvc.yaml\n"
    (wheel,) = folder.iterdir()
    sha256 = hashlib.sha256(wheel.read_bytes()).hexdigest()
    assert pin.read((top / pin.PATH).read_text()) == Pin("dvc", PIN.version, (sha256,))
