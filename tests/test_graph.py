"""dvc.yaml: a stage depends on every module of this repository that it imports.

It depends on no folder of modules, but for those whose modules are found by looking there (``plugins.collect``).
"""

import ast
from pathlib import Path

import pytest
import yaml

from release.record import pipeline_lock
from tests.conftest import REPOSITORY

STAGES: dict = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]
# They make no bytes: values are tracked by `params`, paths by `deps` and `outs`; refusals, bars and tracking end or
# describe a run.
EXEMPT = {
    "checks/errors.py",
    "checks/layout.py",
    "checks/params.py",
    "checks/params_file.py",
    "checks/sections.py",
    "stages/entry.py",
    "stages/progress.py",
    "stages/training/tracking.py",
}


def _imported(path: Path) -> set[Path]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            place = REPOSITORY / name.replace(".", "/")
            found |= {m for m in (place.with_suffix(".py"), place / "__init__.py") if m.is_file() and not _is_bare(m)}
    return found


def _is_bare(module: Path) -> bool:
    """Whether a module holds a docstring and nothing else."""
    return len(ast.parse(module.read_text()).body) <= 1


def _discovers(module: Path) -> bool:
    """Whether a module finds the kinds that lie beside it: no import statement names them."""
    calls = [node.func for node in ast.walk(ast.parse(module.read_text())) if isinstance(node, ast.Call)]
    found = [call.attr if isinstance(call, ast.Attribute) else getattr(call, "id", "") for call in calls]
    return "collect" in found and module.name == "__init__.py"


def closure(path: Path) -> set[str]:
    """All modules that ``path`` imports, folders of kinds as such."""
    pending, seen, folders = [path], set(), set()
    while pending:
        current = pending.pop()
        if current in seen:
            continue
        seen.add(current)
        if _discovers(current):
            folders.add(current.parent)
            pending.extend(current.parent.rglob("*.py"))
        pending.extend(m for m in _imported(current) if m.relative_to(REPOSITORY).as_posix() not in EXEMPT)
    alone = {module for module in seen if not any(module.is_relative_to(folder) for folder in folders)}
    return {each.relative_to(REPOSITORY).as_posix() for each in alone | folders}


def test_the_gate_knows_which_parameters_each_stage_reads() -> None:
    assert {name: tuple(stage["params"]) for name, stage in STAGES.items()} == pipeline_lock.READS


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_a_stage_lists_exactly_the_modules_it_imports(stage: str) -> None:
    listed = {dep for dep in STAGES[stage]["deps"] if dep.startswith(("checks", "stages"))}
    assert listed == closure(REPOSITORY / "stages" / f"{stage}.py")


def test_the_folders_of_kinds_are_those_that_this_test_expects() -> None:
    """A module that is found by looking into a folder is code of the stage as one that is imported is."""
    found = {
        stage: {dep for dep in closure(REPOSITORY / "stages" / f"{stage}.py") if "." not in dep} for stage in STAGES
    }
    assert found["evaluate"] == {"checks/scorers"}
    assert found["gate"] == {"checks/gates", "checks/scorers"}
    assert "checks/gates/__init__.py" not in closure(REPOSITORY / "stages" / "gate.py")


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_a_stage_runs_as_its_own_module_and_depends_on_no_source_folder(stage: str) -> None:
    assert STAGES[stage]["cmd"] == f"python -m stages.{stage}"
    assert not {"checks", "stages", "release"} & set(STAGES[stage]["deps"])
