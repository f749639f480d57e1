"""What help, generated files and refusals name is in a thin repository, or is an address."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from checks.process import distribution
from release.adapters import thin_files
from release.cli import main
from tests.conftest import REPOSITORY

PATH = re.compile(r"(?<![\w./:-])(?:docs|benchmarks|examples|tests|packages|stages|checks|\.ci|release)/[\w./-]*\w")
# A team or a command writes these, but for the last, which is in the wheel.
WRITTEN = (
    "docs/cards", "docs/params.schema.json", "release/environments", "release/policy", "release/thin/constraints.txt",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lockstep as a team has it: installed, without the files of its repository beside it."""
    monkeypatch.setattr(distribution, "home", lambda: tmp_path)


def _absent(text: str) -> list[str]:
    """Return the paths in a text that this repository has and a thin one does not."""
    paths = PATH.findall(distribution.linked(text)) if PATH.search(text) else []
    return [path for path in paths if (REPOSITORY / path).exists() and not path.startswith(WRITTEN)]


def _commands(group: click.Group, *above: str) -> Iterator[tuple[str, ...]]:
    """Yield the words of every command, and of every group."""
    yield above
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command
        if isinstance(command, click.Group):
            yield from _commands(command, *above, name)
        else:
            yield (*above, name)


def _is_command(node: ast.AST) -> bool:
    return any(re.search(r"command|group", ast.unparse(line)) for line in getattr(node, "decorator_list", []))


def _sentences(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the line and the text of each string of a module that has a space, docstrings of other code left out.

    A module that names no path has none to yield.
    """
    text = path.read_text()
    if not PATH.search(text):
        return
    tree = ast.parse(text)
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    first = [node.body[0] for node in ast.walk(tree) if isinstance(node, owners) and not _is_command(node)]
    docstrings = {id(node.value) for node in first if isinstance(node, ast.Expr)}
    others = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in docstrings)
    for node in others:
        if isinstance(node.value, str) and " " in node.value:
            yield node.lineno, node.value


@pytest.mark.parametrize("words", _commands(main), ids=" ".join)
def test_help_names_no_file_that_a_team_lacks(words: tuple[str, ...]) -> None:
    shown = CliRunner().invoke(main, [*words, "--help"], terminal_width=80).output
    assert shown.startswith("Usage: ")
    assert [path for path in PATH.findall(shown) if not path.startswith(WRITTEN)] == []


def test_generated_files_name_no_file_that_a_team_lacks() -> None:
    files = thin_files.templates() | thin_files.generated(f"acme/lockstep@{'a' * 40}")
    absent = {name: _absent(data.decode()) for name, data in files.items()}
    assert {name: paths for name, paths in absent.items() if paths} == {}
    assert b"https://" in files["dvc.yaml"]


def test_refusals_and_descriptions_name_no_file_that_a_team_lacks() -> None:
    modules = [path for package in ("checks", "release", "stages") for path in (REPOSITORY / package).rglob("*.py")]
    absent = [
        f"{path.relative_to(REPOSITORY)}:{line}: {name}"
        for path in modules
        for line, text in _sentences(path)
        for name in _absent(text)
    ]
    assert len(modules) > 500
    assert absent == []
