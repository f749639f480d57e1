"""The files of a thin repository: those that this repository has at its top are links to them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from checks.process import distribution
from release import thin
from tests.conftest import REPOSITORY

FOLDER = Path(thin.__file__).parent
# Notes how it was called; downloads an empty wheel.
PYTHON = """#!{interpreter}
import pathlib, sys, zipfile

words = sys.argv[1:]
with open({called!r}, "a") as stream:
    print(*words, file=stream)
if "download" in words:
    wheel = pathlib.Path(words[words.index("-d") + 1], "lockstep_llm-1-py3-none-any.whl")
    zipfile.ZipFile(wheel, "w").writestr("release/thin/constraints.txt", "")
"""


def test_every_link_leads_to_a_file_of_this_repository_wherever_it_lies() -> None:
    links = [path for path in FOLDER.rglob("*") if path.is_symlink()]
    assert FOLDER / "constraints.txt" in links
    for path in links:
        assert not path.readlink().is_absolute(), path
        assert path.exists(), path
        assert path.resolve().is_relative_to(REPOSITORY), path


@pytest.mark.parametrize(
    ("more", "compiles"),
    [({}, False), ({"LOCKSTEP_VENV": ".venv"}, True), ({"PYTHONDONTWRITEBYTECODE": "1"}, True)],
    ids=["a laptop", "a folder that is kept", "bytecode that cannot be kept"],
)
def test_a_set_up_compiles_ahead_only_what_may_not_be_compiled_later(
    tmp_path: Path, more: dict[str, str], compiles: bool
) -> None:
    called, python = tmp_path / "called", tmp_path / ".venv" / "bin" / "python"
    shutil.copy(FOLDER / "lockstep", tmp_path)
    (tmp_path / distribution.PIN).write_text(f"{distribution.NAME}[dvc]==1\n")
    python.parent.mkdir(parents=True)
    python.write_text(PYTHON.format(interpreter=sys.executable, called=str(called)))
    python.chmod(0o755)
    (python.parent / "pip").touch()
    kept = {
        name: value for name, value in os.environ.items() if name not in ("LOCKSTEP_VENV", "PYTHONDONTWRITEBYTECODE")
    }
    done = subprocess.run(
        [sys.executable, "lockstep", "gate"], cwd=tmp_path, env=kept | more, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    *_, every, own, verb = called.read_text().splitlines()
    for line in (every, own):
        assert " install " in line
        assert ("--compile" in line, "--no-compile" in line) == (compiles, not compiles)
    assert verb == "-m release.cli gate"
