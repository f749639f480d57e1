"""The command: help everywhere, exit codes, and what doctor sees."""

import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from checks.process.errors import MachineRefused
from release import doctor
from release.adapters import dvc
from release.adapters.folder_lock import alone
from release.cli import main
from release.cli.wrapping import hanging, wrapped
from release.doctor import machine
from release.doctor.check import walk
from tests.conftest import REPOSITORY
from tests.pipeline_repository import write_params
from tests.terminal import on_terminal


def _lockstep(*args: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, list(args))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def _commands(group: click.Group, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    """Every command, by the words that call it."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command
        yield f"{prefix}{name}", command
        if isinstance(command, click.Group):
            yield from _commands(command, f"{prefix}{name} ")


def test_every_command_and_option_has_help() -> None:
    for name, command in _commands(main):
        assert command.help, name
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, f"{name} {parameter.name}"


@pytest.mark.parametrize("args", [["gate", "--no-such"], ["promote-everything"], ["-C", "/no/such/folder", "gate"]])
def test_a_wrong_command_line_exits_with_2(args: list[str]) -> None:
    assert _lockstep(*args)[0] == 2


@pytest.mark.slow
@pytest.mark.parametrize("verb", [["gate"], ["run"]])
def test_outside_a_repository_a_verb_refuses_in_one_line(tmp_path: Path, verb: list[str]) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "release.cli", "-C", str(tmp_path), *verb],
        capture_output=True, text=True, cwd=REPOSITORY, check=False,
    )  # fmt: skip
    assert result.returncode in (2, 9)
    assert "Traceback" not in result.stderr
    assert result.stderr.splitlines()[-1].startswith("lockstep: ")


@pytest.mark.slow
def test_a_stage_outside_a_repository_refuses_with_its_code(tmp_path: Path) -> None:
    env = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-m", "stages.gate"], capture_output=True, text=True, cwd=tmp_path, env=env, check=False
    )
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "gate: params.yaml: No such file or directory; run inside the repository, restore the file from git, or begin with `lockstep init FILE`"
    ]


@pytest.mark.slow
def test_calibrate_without_an_evaluation_passes_on_what_the_stage_refused(tmp_path: Path, document: dict) -> None:
    write_params(tmp_path, document)
    done = subprocess.run(
        [sys.executable, "-m", "release.cli", "-C", str(tmp_path), "calibrate"],
        capture_output=True, text=True, cwd=REPOSITORY, check=False, env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    assert done.returncode == 8
    assert "reports/evaluation.json: No such file or directory" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("lockstep: calibrate refused")
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_terminal_of_few_letters_is_shown_codes(tmp_path: Path) -> None:
    said = subprocess.run(
        [sys.executable, "-m", "release.cli", "-C", str(tmp_path), "doctor"],
        capture_output=True, text=True, check=False, env=os.environ | {"PYTHONIOENCODING": "latin-1"},
    )  # fmt: skip
    assert "Traceback" not in said.stderr, said.stderr
    assert "\\u2192 git init" in said.stdout


def test_the_schema_command_prints_what_the_repository_keeps() -> None:
    code, output = _lockstep("schema")
    assert code == 0
    assert json.loads(output) == json.loads((REPOSITORY / "docs" / "params.schema.json").read_text())


def test_the_interpreter_of_the_command_is_the_one_that_stages_find() -> None:
    path = dvc.environment()["PATH"]
    assert shutil.which("python", path=path) == str(Path(sys.executable).parent / "python")


def test_each_command_has_a_file_of_its_name() -> None:
    verbs = {name: command for name, command in _commands(main) if " " not in name}
    files = {name: command.callback.__module__ for name, command in verbs.items() if command.callback}
    assert files == {name: f"release.cli.{name}" for name in verbs}
    sentences = {name: command.get_short_help_str(limit=1000) for name, command in verbs.items()}
    assert sentences == {name: main.sentence(name) for name in verbs}


# doctor


def _check(name: str, checks: list[doctor.Check]) -> doctor.Check:
    return next(check for check in checks if check.name == name)


def _remote_check(root: Path) -> doctor.Check:
    return _one_check("DVC remote", root)


def _one_check(name: str, root: Path) -> doctor.Check:
    return next(walk([row for row in machine.WANTED if row.name == name], root))


def test_doctor_says_that_a_server_is_archived_and_since_when(tmp_path: Path) -> None:
    text = (REPOSITORY / "params.yaml").read_text()
    for runtime, status, says in (("tgi", "optional", "tgi: archived on 2026-03-21"), ("vllm", "ok", "vllm")):
        (tmp_path / "params.yaml").write_text(re.sub(r"^  runtime: \w+", f"  runtime: {runtime}", text, flags=re.M))
        check = _one_check("server", tmp_path)
        assert check.status == status
        assert check.found.startswith(says)


@pytest.mark.slow
@pytest.mark.usefixtures("forking")
def test_doctor_finds_this_machine_able_and_names_who_needs_what() -> None:
    checks = doctor.doctor(REPOSITORY)
    assert _check("packages", checks).status == "ok", _check("packages", checks)
    assert "on the CPU" in _check("torch", checks).found or "NVIDIA" in _check("torch", checks).found
    assert all(check.needed_by for check in checks)
    assert all(check.fix for check in checks if check.status != "ok")


@pytest.mark.slow
@pytest.mark.usefixtures("forking")
def test_doctor_exits_with_9_and_a_remedy_where_the_pipeline_cannot_run(tmp_path: Path) -> None:
    code, output = _lockstep("-C", str(tmp_path), "doctor", "--json")
    assert code == 9
    found = json.loads(output[: output.rindex("]") + 1])
    assert {c["name"] for c in found if c["status"] == "missing"} >= {"git", "params.yaml"}


@pytest.mark.slow
def test_doctor_says_that_a_server_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:secret@127.0.0.1:{port}")
    check = _one_check("MLflow", REPOSITORY)
    assert check.status == "missing"
    assert "secret" not in repr(check)


@pytest.mark.slow
@pytest.mark.usefixtures("forking")
def test_doctor_sees_a_dvc_remote_without_its_password(tmp_path: Path) -> None:
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("['remote \"store\"']\n    url = https://me:secret@example.invalid/dvc\n")
    check = _remote_check(tmp_path)
    assert (check.status, check.found) == ("ok", "https://example.invalid/dvc")
    with (tmp_path / ".dvc" / "config").open("a") as stream:
        stream.write("    version_aware = true\n[core]\n    remote = Store\n")
    check = _remote_check(tmp_path)
    assert (check.status, "--unset store version_aware" in check.fix) == ("optional", True)


@pytest.mark.slow
@pytest.mark.usefixtures("forking")
@pytest.mark.parametrize(
    ("scheme", "package", "install"),
    [
        ("s3", "dvc-s3", "-c constraints.txt -e '.[s3]'"),
        ("oss", "dvc-oss", "dvc-oss"),
        ("webdavs", "dvc-webdav", "dvc-webdav"),
    ],
)
def test_doctor_names_the_package_that_a_dvc_remote_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str, package: str, install: str
) -> None:
    (tmp_path / ".dvc").mkdir()
    config = f"[core]\nremote = store\n['remote \"store\"']\nurl = {scheme}://bucket/team\n"
    (tmp_path / ".dvc" / "config").write_text(config)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    check = _remote_check(tmp_path)
    found = f"{scheme}://bucket/team needs {package}, which is not installed"
    assert (check.status, check.found, check.fix) == ("optional", found, f"pip install {install}")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: importlib.util.spec_from_loader("dvc_x", None))
    assert _remote_check(tmp_path).status == "ok"


# the wrapper


OLD_PYTHON = f"""
import runpy, shutil, sys
sys.version_info, sys.argv, shutil.which = (3, 9), ["lockstep", "run"], lambda *_: None
runpy.run_path({str(REPOSITORY / "lockstep")!r}, run_name="__main__")
"""


def test_the_wrapper_needs_no_package_and_names_the_version_it_needs() -> None:
    done = subprocess.run([sys.executable, "-I", "-S", "-c", OLD_PYTHON], capture_output=True, text=True, check=False)
    assert done.returncode == 9
    assert "Python 3.11 or newer is needed" in done.stderr


# wrapping


@pytest.mark.parametrize(
    ("width", "line", "wanted"),
    [
        (40, "fits", ["fits"]),
        (40, "lockstep: a reason that is too long for one line", ["lockstep: a reason that is too long for", " " * 10 + "one line"]),
        (50, "  ✓ gate  kind  a reason below which the rest of it goes on", ["  ✓ gate  kind  a reason below which the rest of", " " * 16 + "it goes on"]),
        (30, "  ✓ a_gate_with_a_long_name  kind  a reason", ["  ✓ a_gate_with_a_long_name", "    kind  a reason"]),
        (30, f"{'':<12}→ ./lockstep run of it, then go on", [" " * 12 + "→ ./lockstep run", " " * 14 + "of it, then go", " " * 14 + "on"]),
        (12, "image sha256:0123456789abcdef whole", ["image sha256:0123456789abcdef", "  whole"]),
        (20, click.style("of a colour that has", fg="red"), [click.style("of a colour that has", fg="red")]),
        (9, "two lines\n\n  each alone", ["two lines", "", "  each", "  alone"]),
    ],
)  # fmt: skip
def test_a_long_line_goes_on_below_its_text_and_nothing_is_cut(width: int, line: str, wanted: list[str]) -> None:
    assert wrapped(line, width).split("\n") == wanted


@pytest.mark.slow
def test_a_terminal_gets_wrapped_lines_in_the_colours_it_wants_and_a_pipe_whole_ones(
    tmp_path: Path, document: dict
) -> None:
    write_params(tmp_path, document)
    command, env = [sys.executable, "-m", "release.cli", "gate"], os.environ | {"PYTHONPATH": str(REPOSITORY)}
    whole = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env, check=False).stderr
    assert "\x1b" not in whole
    for width, no_color in ((34, ""), (80, "1")):
        seen = on_terminal(command, width, tmp_path, NO_COLOR=no_color)
        assert ("\x1b" in seen) is (not no_color)
        lines = click.unstyle(seen).splitlines()
        assert all(len(line) <= width for line in lines), lines
        assert click.unstyle(seen).split() == whole.split()


def test_commands_are_named_as_they_can_be_typed_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asks = """
import os, runpy, sys
sys.argv = ["lockstep", "gate"]
os.execve = lambda path, arguments, environment: print(environment["LOCKSTEP_CALLED"])
found = runpy.run_path(sys.orig_argv[-1])
found["main"].__globals__["set_up"] = lambda extras: None
found["main"]()
"""
    command = [sys.executable, "-c", asks, str(REPOSITORY / "lockstep")]
    called = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    monkeypatch.setenv("LOCKSTEP_CALLED", called)
    monkeypatch.chdir(tmp_path)
    said = "run `lockstep build`, then `./lockstep gate`, or pip install x"
    assert hanging(said) == "run `./lockstep build`, then `./lockstep gate`, or .venv/bin/pip install x"
    monkeypatch.delenv("LOCKSTEP_CALLED")
    assert hanging(said) == said
    (tmp_path / "lockstep").touch()  # a clone, where the console script was called
    assert hanging(said) == "run `./lockstep build`, then `./lockstep gate`, or pip install x"


def test_the_list_of_commands_cuts_no_sentence() -> None:
    assert "..." not in CliRunner().invoke(main, ["--help"], terminal_width=60).output.partition("Commands:")[2]


def test_a_second_run_in_one_clone_says_so_and_changes_nothing(tmp_path: Path) -> None:
    with alone(tmp_path, "lockstep run"):
        done = CliRunner().invoke(main, ["-C", str(tmp_path), "run"])
    assert done.exit_code == MachineRefused.exit_code
    assert re.search(r": another `(\./)?lockstep run` works here; wait until it ends", done.output), done.output
    assert list(tmp_path.iterdir()) == []
