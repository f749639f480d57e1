"""The layer rules: stages → checks ← release, and which packages each layer may know."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

HEAVY = {"torch", "transformers", "peft", "trl", "accelerate", "datasets", "safetensors"}
FORBIDDEN = {
    "checks": HEAVY | {"stages", "release", "dvc", "docker", "mlflow", "great_expectations", "click", "git"},
    "stages": {"release", "docker"},
    "release": HEAVY | {"stages", "great_expectations"},
}


def _imports(path: Path) -> set[str]:
    """Top-level packages that a module imports anywhere, in functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("layer", sorted(FORBIDDEN))
def test_a_layer_imports_only_what_lies_below_it(layer: str) -> None:
    modules = sorted((REPOSITORY / layer).rglob("*.py"))
    assert modules
    broken = {str(m.relative_to(REPOSITORY)): sorted(_imports(m) & FORBIDDEN[layer]) for m in modules}
    assert {name: bad for name, bad in broken.items() if bad} == {}


@pytest.mark.parametrize(
    "module",
    ["release.cli", "release.gate", "release.doctor", "release.explain", "release.target_policy", "stages.gate"],
)
def test_importing_it_loads_no_torch_no_mlflow_and_no_dvc(module: str) -> None:
    script = (
        f"import {module}, sys; print(sorted(set(sys.modules) & {HEAVY | {'mlflow', 'dvc', 'great_expectations'}!r}))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert done.stdout.strip() == "[]"


def test_the_top_level_is_the_fixed_one() -> None:
    tracked = subprocess.run(
        ["git", "ls-files"], capture_output=True, text=True, check=True, cwd=REPOSITORY
    ).stdout.splitlines()
    visible = {name.split("/")[0] for name in tracked if not name.startswith(".")}
    fixed = {"dvc.yaml", "params.yaml", "stages", "checks", "release", "tests", "pyproject.toml", "README.md"}
    beside = {"LICENSE", "CHANGELOG.md", "docs", "benchmarks", "lockstep", "constraints.txt", "dvc.lock", "reports"}
    assert fixed <= visible <= fixed | beside | {"datasets"}  # a team's own rows: docs/first-pull-request.md
