"""`./lockstep` with an environment that somebody keeps: it is taken as it is when it holds what is asked for."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

pytestmark = pytest.mark.slow


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """An environment, by its stamp of the extras dvc, http and pipeline. Its pip says that it was called."""
    folder = tmp_path / "kept environment" / "bin"
    folder.mkdir(parents=True)
    python = folder / "python"
    python.write_text(
        f'#!/bin/sh\ncase "$*" in *pip*) echo "pip was called: $*" >&2; exit 3;; esac\nexec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    (folder / "pip").touch()
    kinds = sorted(path for path in REPOSITORY.glob("examples/**/*.*") if path.suffix in (".py", ".toml"))
    parts = (REPOSITORY / "pyproject.toml", REPOSITORY / "constraints.txt", *kinds)
    wanted = hashlib.sha256(b"".join(path.read_bytes() for path in parts))
    (folder.parent / ".lockstep-dvc-http-pipeline").write_text(wanted.hexdigest())
    return folder.parent


def script(venv: Path, extras: str, *args: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"LOCKSTEP_VENV": str(venv), "LOCKSTEP_EXTRAS": extras}
    return subprocess.run(
        [sys.executable, str(REPOSITORY / "lockstep"), *args],
        cwd=REPOSITORY, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("extras", ["dvc", "http,dvc", "pipeline,http,dvc"])
def test_an_environment_that_holds_more_is_taken_as_it_is(kept: Path, extras: str) -> None:
    done = script(kept, extras, "--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("lockstep, version ")


@pytest.mark.parametrize(("words", "code"), [("init rows.csv", 4), ("init rows.parquet", 9), ("gate", 9)])
def test_init_needs_no_extra_unless_the_rows_are_parquet(kept: Path, words: str, code: int) -> None:
    (kept / ".lockstep-dvc-http-pipeline").rename(kept / ".lockstep-")
    done = script(kept, "dvc", *words.split())
    assert (done.returncode, "pip was called" in done.stderr) == (code, code == 9)


def test_an_environment_whose_python_is_gone_is_made_again(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (kept / "bin" / "python").unlink()
    (kept / "bin" / "python").symlink_to(tmp_path / "gone")
    (tmp_path / "venv.py").write_text("import sys\nsys.exit(f'made: {sys.argv[1:]}')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    done = script(kept, "dvc", "--version")
    assert done.returncode == 9
    assert f"made: ['--clear', '--upgrade-deps', '{kept}']" in done.stderr


def test_dvc_is_that_of_the_environment(kept: Path) -> None:
    done = script(kept, "dvc", "dvc", "--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout[0].isdigit()


def test_one_that_lacks_an_extra_is_completed(kept: Path) -> None:
    done = script(kept, "dvc,serve", "--version")
    assert done.returncode == 9
    assert "pip was called" in done.stderr
    assert f"{REPOSITORY}[dvc,serve]" in done.stderr


def test_one_of_other_versions_is_made_anew(kept: Path) -> None:
    (kept / ".lockstep-dvc-http-pipeline").write_text("0" * 64)
    done = script(kept, "dvc", "--version")
    assert done.returncode == 9
    assert "pip was called" in done.stderr


def test_this_repository_gets_its_tests_with_the_first_command(kept: Path, tmp_path: Path) -> None:
    for name in ("lockstep", "pyproject.toml", "constraints.txt"):
        shutil.copy(REPOSITORY / name, tmp_path)
    done = subprocess.run(
        [sys.executable, "lockstep", "--version"],
        cwd=tmp_path, env={"PATH": os.environ["PATH"], "LOCKSTEP_VENV": str(kept)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 9
    assert f"{tmp_path}[dev,docs,dvc,http,pipeline,serve]" in done.stderr


def test_packages_of_kinds_are_installed_with_it_and_again_where_one_of_their_files_changed(tmp_path: Path) -> None:
    """With a pip that says what it is asked for."""
    for name in ("lockstep", "pyproject.toml", "constraints.txt"):
        shutil.copy(REPOSITORY / name, tmp_path)
    package = tmp_path / "examples/acme"
    (package / "build/lib").mkdir(parents=True)
    (package / "pyproject.toml").touch()
    program = tmp_path / "kept/bin/python"
    program.parent.mkdir(parents=True)
    program.write_text('#!/bin/sh\ncase "$*" in *pip*) echo "$*" >&2;; esac\n')
    program.chmod(0o755)
    (program.parent / "pip").touch()

    def asked() -> str:
        command = [sys.executable, "lockstep", "--version"]
        environment = {"PATH": os.environ["PATH"], "LOCKSTEP_VENV": str(tmp_path / "kept"), "LOCKSTEP_EXTRAS": "dvc"}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
        return done.stderr

    assert f" -e {tmp_path}[dvc] {package}\n" in asked()
    assert not (package / "build").exists()
    assert asked() == ""
    (package / "kind.py").write_text("X = 1\n")
    assert f" {package}\n" in asked()
