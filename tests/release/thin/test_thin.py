"""The files of a thin repository: those that this repository has at its top are links to them."""

import hashlib
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
    called, python = _folder(tmp_path)
    python.write_text(PYTHON.format(interpreter=sys.executable, called=str(called)))
    python.chmod(0o755)
    *_, every, own, verb = _called(tmp_path, called, more)
    for line in (every, own):
        assert " install " in line
        assert ("--compile" in line, "--no-compile" in line) == (compiles, not compiles)
    assert verb == "-m release.cli gate"


def test_git_converts_no_line_end_of_a_file_that_is_known_by_its_digest(tmp_path: Path) -> None:
    """As on Windows, and where a team asks for converted line ends; spreadsheets end lines by CRLF."""
    written = {
        "tickets.csv": b"prompt,answer\r\nhi,hello\r\n", "data/more.jsonl": b"{}\r\n", "code.lock": b"stages:\n",
        "reports/data.json": b"{}\n", "projects/router/reports/data.json": b"{}\n",
    }  # fmt: skip
    theirs, mine = tmp_path / "theirs", tmp_path / "mine"
    settings = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org", "-c", "commit.gpgsign=false"]
    ours = (FOLDER / ".gitattributes").read_bytes()
    for name, data in {**written, ".gitattributes": b"* text=auto\n" + ours, "README.md": b"\n"}.items():
        (theirs / name).parent.mkdir(parents=True, exist_ok=True)
        (theirs / name).write_bytes(data)
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "rows"]):
        subprocess.run(["git", *settings, *words], cwd=theirs, check=True)
    subprocess.run(["git", "clone", "-q", "-c", "core.autocrlf=true", str(theirs), str(mine)], check=True)
    assert (mine / "README.md").read_bytes() == b"\r\n", "git would convert other files"
    assert {name: (mine / name).read_bytes() for name in written} == written


def test_an_environment_whose_python_is_gone_is_made_again(tmp_path: Path) -> None:
    """As after an upgrade of the system's Python, or where a cache brings the environment of another machine."""
    called, python = _folder(tmp_path)
    python.symlink_to(tmp_path / "gone")
    pin = (tmp_path / distribution.PIN).read_bytes()
    (tmp_path / ".venv" / ".lockstep-dvc").write_text(hashlib.sha256(pin).hexdigest())
    made = PYTHON.format(interpreter=sys.executable, called=str(called))
    (tmp_path / "stand-in").mkdir()
    (tmp_path / "stand-in" / "venv.py").write_text(
        f"import pathlib, sys\nassert '--clear' in sys.argv\npython = pathlib.Path({str(python)!r})\n"
        f"python.unlink()\npython.write_text({made!r})\npython.chmod(0o755)\n"
    )
    assert _called(tmp_path, called, {"PYTHONPATH": str(tmp_path / "stand-in")})[-1] == "-m release.cli gate"


def _folder(root: Path) -> tuple[Path, Path]:
    """Make a thin repository's launcher and pin, and pip's place. Return where calls are noted, and Python's place."""
    python = root / ".venv" / "bin" / "python"
    shutil.copy(FOLDER / "lockstep", root)
    (root / distribution.PIN).write_text(f"{distribution.NAME}[dvc]==1\n")
    python.parent.mkdir(parents=True)
    (python.parent / "pip").touch()
    return root / "called", python


def _called(root: Path, called: Path, more: dict[str, str]) -> list[str]:
    """Run `./lockstep gate`, and return with which words its Python was called."""
    kept = {
        name: value for name, value in os.environ.items() if name not in ("LOCKSTEP_VENV", "PYTHONDONTWRITEBYTECODE")
    }
    done = subprocess.run(
        [sys.executable, "lockstep", "gate"], cwd=root, env=kept | more, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return called.read_text().splitlines()
