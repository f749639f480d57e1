"""The layer rules: stages → checks ← release, and which packages each layer may know."""

import ast
import functools
import graphlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import pytest

from checks.code.modules import KINDS
from tests.conftest import REPOSITORY, is_slow

HEAVY = {"torch", "transformers", "peft", "trl", "accelerate", "datasets", "safetensors"}
_KEPT = ast.Import | ast.ImportFrom | ast.If | ast.Call
_IMPORTERS = {"import_module", "__import__", "find_spec", "run_module", "resolve_name"}
"""Functions that take the name of a module as text."""
FORBIDDEN = {
    "checks": HEAVY | {"stages", "release", "dvc", "docker", "mlflow", "great_expectations", "click", "git"},
    "stages": {"release", "docker"},
    "release": HEAVY | {"stages", "great_expectations"},
}


@functools.cache
def _parsed(path: Path) -> tuple[ast.AST, ...]:
    """Every import of a module, in functions and by text too, and every ``if TYPE_CHECKING``."""
    return tuple(_kept(path.read_text()))


def _kept(code: str) -> Iterator[ast.AST]:
    """Imports as Python has them; one by text (``import_module("stages.loaders")``) is made an ``import``."""
    for node in ast.walk(ast.parse(code)):
        if not isinstance(node, _KEPT):
            continue
        if not isinstance(node, ast.Call):
            yield node
        elif isinstance(node.func, ast.Name | ast.Attribute):
            called = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
            texts = [text for argument in node.args for text in _texts(argument)]
            if called in _IMPORTERS and texts:
                yield ast.Import([ast.alias(texts[0])])


def _texts(argument: ast.expr) -> list[str]:
    """The text that an argument is, or begins with."""
    if isinstance(argument, ast.JoinedStr):
        argument = argument.values[0]
    return [argument.value] if isinstance(argument, ast.Constant) and isinstance(argument.value, str) else []


def _imports(path: Path) -> set[str]:
    """Top-level packages that a module imports anywhere, in functions too."""
    found = set()
    for node in _parsed(path):
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
    "code",
    [
        "import importlib\nimportlib.import_module('stages.loaders')",
        "from importlib import import_module\nimport_module('stages.loaders')",
        "def load(kind):\n    return import_module(f'stages.loaders.{kind}')",
        "__import__('stages.loaders')",
        "from importlib.util import find_spec\nfind_spec('stages.loaders')",
    ],
)
def test_an_import_by_text_counts_as_an_import(tmp_path: Path, code: str) -> None:
    (tmp_path / "module.py").write_text(code)
    assert "stages" in _imports(tmp_path / "module.py")


def test_only_the_registry_imports_a_module_whose_name_it_was_handed() -> None:
    """Where a kind of a layer above is found: pyproject.toml names the folder, and no code of ``checks`` does."""
    texts = {path.relative_to(REPOSITORY).as_posix(): path.read_text() for path in _product().values()}
    importing = {
        name for name, text in texts.items() if any(re.search(rf"(?<!def ){call}\(", text) for call in _IMPORTERS)
    }
    assert {name for name in importing if name.startswith("checks/")} == {"checks/kinds/registry.py"}


def test_the_folders_of_kinds_in_pyproject_are_packages_of_kinds_and_import_no_layer_above() -> None:
    """An entry point is an import, too: the folder's layer may know no layer above it."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    folders = set(project["entry-points"]["lockstep_kinds"].values())
    assert {folder.replace(".", "/") for folder in folders if not folder.startswith("release.")} == set(KINDS.values())
    for folder in folders:
        layer = folder.split(".")[0]
        for module, path in _product().items():
            if module.startswith(f"{folder}."):
                assert not _imports(path) & FORBIDDEN[layer] & set(FORBIDDEN), module


# A package imports only packages of lower layers, so no two import each other.
LAYERS = (
    {"checks.process", "checks.records"},
    {"checks.storage"},
    {"checks.data", "checks.formats"},
    {"checks.kinds", "checks.machine", "checks.stats"},
    {"checks.chat_templates", "checks.code", "checks.evaluation", "checks.rules", "checks.scorers", "checks.training"},
    {"checks.config", "checks.gating", "checks.retrievers", "checks.suites"},
    {"checks.decision", "checks.gates"},
    {"release.thin"},
    {"release.adapters", "release.pages"},
    {"release.runtimes"},
    {"release.image", "release.ledger"},
    {"release.overlay", "release.record"},
    {"release.cost", "release.evidence", "release.monitoring", "release.serving"},
    {"release.doctor", "release.mirrors", "release.promotion", "release.review"},
    {"release.cards"},
    {"release.verbs"},
    {"release.cli"},
)
# Tested with torch or a browser.
SLOW_ALONE = {"checks.chat_templates", "stages.inference", "stages.tracking"}
# Tested in the fast tier, and found there by the registry alone.
BY_REGISTRY = {"checks.rules"}
LONGEST_CHAIN = 21  # files, each of which imports the next


def _package(module: str) -> str:
    parts = module.split(".")
    return parts[0] if parts[0] == "stages" else ".".join(parts[:2])


def _imported(types: bool) -> dict[str, set[str]]:
    """The modules of all layers, and which of them each imports: at the top, in a function, or for ``types`` alone."""
    paths = _product()
    found = dict[str, set[str]]()
    for module, path in paths.items():
        nodes = _parsed(path)
        if not types:
            guards = [node for node in nodes if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
            typed = {each for guard in guards for line in guard.body for each in ast.walk(line)}
            nodes = tuple(node for node in nodes if node not in typed)
        found[module] = _targets(nodes, paths) - {module}
    return found


@functools.cache
def _product() -> dict[str, Path]:
    """The modules of all layers."""
    files = [path for layer in FORBIDDEN for path in (REPOSITORY / layer).rglob("*.py")]
    return {_module(path): path for path in files}


def _module(path: Path) -> str:
    """Return the dotted name of a module."""
    return ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")


def _targets(nodes: Iterable[ast.AST], modules: Collection[str]) -> set[str]:
    """Those of ``modules`` that ``nodes`` import."""
    froms = [node for node in nodes if isinstance(node, ast.ImportFrom)]
    named = [(node.module or "", f"{node.module}.{alias.name}") for node in froms for alias in node.names]
    whole = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names if "." in alias.name}
    return ({full if full in modules else module for module, full in named} | whole) & set(modules)


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    """The imports that run, of checks and release."""
    return {module: targets for module, targets in _imported(types=False).items() if not module.startswith("stages")}


def test_no_files_import_each_other_in_a_circle_not_even_for_types() -> None:
    graphlib.TopologicalSorter(_imported(types=True)).prepare()  # raises CycleError, which names the files


def test_each_package_imports_only_packages_of_lower_layers(imports: dict[str, set[str]]) -> None:
    layer = {package: height for height, packages in enumerate(LAYERS) for package in packages}
    assert {_package(module) for module in imports} - {"checks", "release"} == set(layer)
    upward = {
        f"{module} imports {target}"
        for module, targets in imports.items()
        for target in targets
        if _package(module) != _package(target) and layer[_package(target)] >= layer[_package(module)]
    }
    assert upward == set()


def test_packages_of_stages_do_not_import_each_other_in_a_circle() -> None:
    def package(module: str) -> str:
        two = module.split(".")[:2]
        return ".".join(two) if (REPOSITORY / Path(*two)).is_dir() else module

    among = dict[str, set[str]]()
    for module, targets in _imported(types=False).items():
        if module.startswith("stages."):
            packages = {package(target) for target in targets if target.startswith("stages.")} - {package(module)}
            among.setdefault(package(module), set()).update(packages)
    graphlib.TopologicalSorter(among).prepare()


def test_no_chain_of_imports_is_longer_than_it_was(imports: dict[str, set[str]]) -> None:
    @functools.cache
    def chain(module: str) -> tuple[str, ...]:
        return (module, *max((chain(target) for target in imports[module]), key=len, default=()))

    longest = max((chain(module) for module in imports), key=len)
    assert len(longest) <= LONGEST_CHAIN, " imports ".join(longest)


@pytest.mark.slow
@pytest.mark.parametrize(
    "module",
    [
        "release.cli",
        "release.verbs.gate",
        "release.doctor",
        "release.record.target_policy",
        "stages.gate",
    ],
)
def test_importing_it_loads_no_torch_no_mlflow_and_no_dvc(module: str) -> None:
    script = (
        f"import {module}, sys; print(sorted(set(sys.modules) & {HEAVY | {'mlflow', 'dvc', 'great_expectations'}!r}))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert done.stdout.strip() == "[]"


def test_help_is_written_without_the_models_of_any_format() -> None:
    """pydantic takes as long to import as all the rest of --help, and each of our modules with a model costs more."""
    script = (
        "import sys; from release.cli import main; main(['--help'], standalone_mode=False);"
        "print({'pydantic', 'checks.kinds', 'yaml'} & {*sys.modules}, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=REPOSITORY)
    assert (done.returncode, done.stderr.strip()) == (0, "set()")
    assert "promote" in done.stdout


@pytest.mark.slow
def test_the_sections_that_status_reads_run_no_module_of_the_pipeline() -> None:
    script = (
        "import sys; from pathlib import Path; import release.verbs.status; from release.record.records import Records;"
        "print(Records(Path('.')).work_tree.release_params.promote.ordered, [m for m in sys.modules if 'stages' in m])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert done.stdout.strip() == "('staging', 'production') []"


@pytest.mark.slow
def test_each_package_has_a_test_in_the_fast_tier() -> None:
    """All but SLOW_ALONE and BY_REGISTRY. A package counts if a file of tests without the mark slow, or a helper that it imports, imports one of its modules."""
    product = _product()
    tests = {_module(path): path for path in (REPOSITORY / "tests").rglob("*.py")}
    waiting = [name for name, path in tests.items() if path.stem.startswith("test_") and not is_slow(path)]
    seen, imported = set(waiting), set[str]()
    while waiting:
        found = _targets(_parsed(tests[waiting.pop()]), {*tests, *product})
        imported |= found & set(product)
        helpers = {name for name in found & set(tests) if not tests[name].stem.startswith("test_")} - seen
        waiting += helpers
        seen |= helpers
    packages = {
        ".".join(name.split(".")[:2]) for name, path in product.items() if len(path.relative_to(REPOSITORY).parts) > 2
    }
    assert packages - {".".join(name.split(".")[:2]) for name in imported} == SLOW_ALONE | BY_REGISTRY


def test_each_folder_of_tests_mirrors_a_package() -> None:
    """All but tests/repository, which has the tests of the whole repository."""
    folders = {path.parent.relative_to(REPOSITORY / "tests") for path in (REPOSITORY / "tests").rglob("test_*.py")}
    unknown = {str(path) for path in folders if not (REPOSITORY / path / "__init__.py").is_file()}
    assert unknown == {"repository"}


def test_the_top_level_is_the_fixed_one() -> None:
    tracked = subprocess.run(
        ["git", "ls-files"], capture_output=True, text=True, check=True, cwd=REPOSITORY
    ).stdout.splitlines()
    visible = {name.split("/")[0] for name in tracked if not name.startswith(".")}
    fixed = {"dvc.yaml", "params.yaml", "stages", "checks", "release", "tests", "pyproject.toml", "README.md"}
    beside = {
        "LICENSE",
        "CHANGELOG.md",
        "docs",
        "benchmarks",
        "examples",
        "lockstep",
        "constraints.txt",
        "code.lock",
        "dvc.lock",
        "reports",
    }
    assert fixed <= visible <= fixed | beside | {"datasets"}  # a team's own rows: docs/tutorial/first-pull-request.md
