"""dvc.yaml: a stage depends on every module of this repository that it imports, and on nothing whole."""

import ast
from pathlib import Path

import pytest
import yaml

from release import pipeline_lock
from tests.conftest import REPOSITORY

STAGES: dict = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]
# They make no bytes: values are tracked by `params`, paths by `deps` and `outs`; refusals, bars and tracking end or
# describe a run.
EXEMPT = {
    "checks/errors.py",
    "checks/gate_kinds.py",
    "checks/layout.py",
    "checks/params.py",
    "checks/params_file.py",
    "checks/sections.py",
    "stages/entry.py",
    "stages/progress.py",
    "stages/tracking/__init__.py",
    "stages/tracking/store.py",
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


def closure(path: Path) -> set[str]:
    pending, seen = [path], set()
    while pending:
        current = pending.pop()
        if current in seen:
            continue
        seen.add(current)
        pending.extend(m for m in _imported(current) if m.relative_to(REPOSITORY).as_posix() not in EXEMPT)
    return {module.relative_to(REPOSITORY).as_posix() for module in seen}


def test_the_gate_knows_which_parameters_each_stage_reads() -> None:
    assert {name: tuple(stage["params"]) for name, stage in STAGES.items()} == pipeline_lock.READS


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_a_stage_lists_exactly_the_modules_it_imports(stage: str) -> None:
    listed = {dep for dep in STAGES[stage]["deps"] if dep.endswith(".py")}
    assert listed == closure(REPOSITORY / "stages" / f"{stage}.py")


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_a_stage_runs_as_its_own_module_and_depends_on_no_source_folder(stage: str) -> None:
    assert STAGES[stage]["cmd"] == f"python -m stages.{stage}"
    assert not {"checks", "stages", "release"} & set(STAGES[stage]["deps"])
