"""Which modules of this repository each stage of dvc.yaml depends on, from their imports.

DVC does not follow imports: a stage lists every module that decides its bytes, and ``tests/test_graph.py`` holds the
lists. This command writes them; every other line of dvc.yaml, and every comment, stays as it is:

    python -m tests.dvc_deps            say what would change, and exit 1 when something would
    python -m tests.dvc_deps --write    write dvc.yaml

An import anywhere in a file counts (but see ``_IN_FUNCTIONS``), and so do the ``__init__.py`` of the packages around it.
A folder that ``plugins.collect`` searches is listed as a whole, so that a new kind in it is a new file and nothing else;
what its modules import counts, whether a kind is used or not.
"""

import argparse
import ast
import difflib
import functools
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).resolve().parent.parent
PIPELINE = "dvc.yaml"
COMMAND = "python -m tests.dvc_deps --write"
# They make no bytes: values are tracked by `params`, paths by `deps` and `outs`; refusals, bars and tracking end or
# describe a run.
EXEMPT = {
    "checks/errors.py",
    "checks/kinds.py",
    "checks/layout.py",
    "checks/config/params.py",
    "checks/config/release_params.py",
    "checks/config/params_file.py",
    "checks/sections.py",
    "stages/entry.py",
    "stages/progress.py",
    "stages/tracking/__init__.py",
    "stages/tools/guarded_dvc.py",  # what it fetches is checked by digest
    "stages/tracking/checkout.py",
    "stages/tracking/others.py",
    "stages/tracking/store.py",
}
# What a file of this folder imports in its functions counts for this stage alone: no other asks a method for more than
# its parameters and its columns.
_IN_FUNCTIONS = {"stages/training/methods": "train"}
# What a stage calls on its parameters, whose modules are exempt: gates ask suites for their scores, validate has vectors
# compared.
_BY_PARAMETERS = {"gate": ["checks/suites/__init__.py"], "validate": ["checks/retrievers/dense.py"]}


def modules(stage: str, root: Path = REPOSITORY) -> list[str]:
    """The modules that ``stages/STAGE.py`` imports, directly or not, and the folders that they search.

    As paths, those of ``stages`` first. STAGE can be any module of stages: ``inference/answers``.
    """
    pending = [root / "stages" / f"{stage}.py", *(root / path for path in _BY_PARAMETERS.get(stage, ()))]
    seen, folders = set[Path](), set[Path]()
    while pending:
        current = pending.pop()
        if current not in seen:
            seen.add(current)
            folders |= searched(current, root)
            folder = current.parent.relative_to(root).as_posix()
            found = imported(current, root, functions=_IN_FUNCTIONS.get(folder, stage) == stage)
            pending += [module for module in found if module.relative_to(root).as_posix() not in EXEMPT]
    alone = {path for path in seen if not any(folder in path.parents for folder in folders)}
    paths = sorted(path.relative_to(root).as_posix() for path in alone | folders)
    return sorted(paths, key=lambda path: not path.startswith("stages/"))


def imported(path: Path, root: Path = REPOSITORY, functions: bool = True) -> set[Path]:
    """The modules of this repository that one file imports, in its functions too or only outside of them.

    Those of a folder that it searches count.
    """
    text = path.read_text()
    names = set(_imports(_parsed(text) if functions else _WithoutFunctions().visit(ast.parse(text))))
    found = {module for folder in searched(path, root) for module in folder.rglob("*.py")}
    for name in names:
        parts = name.split(".")
        for place in (root / "/".join(parts[: depth + 1]) for depth in range(len(parts))):
            found |= {m for m in (place.with_suffix(".py"), place / "__init__.py") if m.is_file() and not _is_bare(m)}
    return found - {path}


def searched(path: Path, root: Path = REPOSITORY) -> set[Path]:
    """The folders whose modules one file finds by ``plugins.collect``.

    Raises ValueError where it cannot be told which folder that is.
    """
    return {root / package.replace(".", "/") for package in _collected(_parsed(path.read_text()), path, root)}


def written(text: str, root: Path = REPOSITORY) -> str:
    """dvc.yaml with the modules of every stage that are imported now; all other lines as they are.

    A line of a module that stays is kept with its comments, and so are the lines of data.
    """
    lines = text.splitlines(keepends=True)
    stages = _value(yaml.compose(text), "stages")
    for name, stage in reversed(stages.value):  # from the end, so that line numbers before it stay right
        deps = _value(stage, "deps")
        if not isinstance(deps, yaml.SequenceNode) or deps.flow_style or not deps.value:
            raise ValueError(f"{PIPELINE}: {name.value}: write deps as a list with one path on each line")
        starts = [item.start_mark.line for item in deps.value]
        before = [_comments(lines, start) for start in starts]
        entries = {
            item.value: "".join(lines[first : start + 1])
            for item, first, start in zip(deps.value, before, starts, strict=True)
        }
        indent = lines[starts[0]][: deps.value[0].start_mark.column - 2]
        wanted = [entries.get(path, f"{indent}- {path}\n") for path in modules(name.value, root)]
        data = [entry for path, entry in entries.items() if not path.startswith(("stages/", "checks/"))]
        lines[before[0] : starts[-1] + 1] = [*wanted, *data]
    return "".join(lines)


@functools.cache
def _parsed(text: str) -> ast.Module:
    """The tree of a module, to be read only: many stages import the same modules."""
    return ast.parse(text)


def _imports(tree: ast.Module) -> Iterator[str]:
    """Names of modules, and names that may be modules, that a file imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))
        elif isinstance(node, ast.Call) and _called(node) == "import_module":
            yield from (str(arg.value) for arg in node.args if isinstance(arg, ast.Constant))


def _collected(tree: ast.Module, path: Path, root: Path) -> Iterator[str]:
    """The packages whose modules a file finds by ``plugins.collect``."""
    known = {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or ast.unparse(node.func) != "plugins.collect":
            continue
        package = node.args[1]
        if isinstance(package, ast.Name) and package.id in known:
            yield known[package.id]
        elif isinstance(package, ast.Call) and package.args and isinstance(package.args[0], ast.Constant):
            yield str(package.args[0].value)
        elif ast.unparse(package) == "sys.modules[__name__]":
            yield path.relative_to(root).parent.as_posix().replace("/", ".")
        else:
            raise ValueError(f"{path}:{node.lineno}: cannot tell which package is meant by {ast.unparse(package)}")


class _WithoutFunctions(ast.NodeTransformer):
    def visit_FunctionDef(self, _node: ast.FunctionDef) -> None:
        """Leave it out."""


def _called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def _is_bare(module: Path) -> bool:
    """Whether a module holds a docstring and nothing else."""
    body = _parsed(module.read_text()).body
    return not body or (len(body) == 1 and isinstance(body[0], ast.Expr))


def _comments(lines: list[str], line: int) -> int:
    """The first of the lines of comment right above a line."""
    while lines[line - 1].lstrip().startswith("#"):
        line -= 1
    return line


def _value(node: yaml.Node | None, key: str) -> yaml.Node:
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            if name.value == key:
                return value
    raise ValueError(f"{PIPELINE}: has no {key}")


def main() -> None:
    """Write dvc.yaml, or show the difference."""
    parser = argparse.ArgumentParser(description="The modules in the deps of dvc.yaml, from the imports.")
    parser.add_argument("--write", action="store_true", help="write dvc.yaml instead of showing the difference")
    path = REPOSITORY / PIPELINE
    old = path.read_text()
    new = written(old)
    if parser.parse_args().write:
        path.write_text(new)
        return
    sys.stdout.writelines(difflib.unified_diff(old.splitlines(True), new.splitlines(True), PIPELINE, COMMAND))
    sys.exit(old != new)


if __name__ == "__main__":
    main()
