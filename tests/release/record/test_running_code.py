"""What judges and signs runs git's code: no file that came into the work tree by another way is imported."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.pipeline_repository import commit, git

pytestmark = pytest.mark.slow

PACKAGES = ("checks", "release", "stages")
CHECK = """
from pathlib import Path
from release.record import running_code as code

for committed in (False, True):
    try:
        code.check(Path(), committed)
        print()
    except Exception as error:
        print(type(error).__name__, str(error).splitlines()[-1], sep=": ")
"""


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with Lockstep's code, and beside it a folder that leads to its packages, as the launcher makes it."""
    root = tmp_path_factory.mktemp("code") / "clone"
    for name in PACKAGES:
        shutil.copytree(REPOSITORY / name, root / name, ignore=shutil.ignore_patterns("*.pyc*"))
        (root.parent / "packages").mkdir(exist_ok=True)
        (root.parent / "packages" / name).symlink_to(root / name)
    shutil.copy(REPOSITORY / "lockstep", root)
    shutil.copy(REPOSITORY / ".gitignore", root)
    git(root, "init", "--quiet", "--initial-branch", "main")
    commit(root, "start")
    return root


@pytest.fixture
def root(clone: Path) -> Path:
    """The repository as it was committed."""
    git(clone, "reset", "--quiet", "--hard", git(clone, "rev-list", "--max-parents=0", "HEAD").strip())
    git(clone, "clean", "--quiet", "-ffdx")
    return clone


def check(root: Path, *options: str, path: Path | None = None) -> tuple[str, str]:
    """What the check says of code that judges, and of code that must be committed: nothing, or what it raises."""
    done = subprocess.run(
        [sys.executable, *options, "-c", CHECK], cwd=root, capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": str(path or root.parent / "packages"), "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    judging, committed = done.stdout.splitlines()
    return judging, committed


def test_the_code_of_git_may_judge_and_sign(root: Path) -> None:
    (root / "release/environments/staging/pointer.yaml").write_text("a promotion checks this by itself")
    (root / "release/verbs/notes.txt").write_text("nobody imports this")
    (root / "release/verbs/__pycache__").mkdir()
    (root / "release/verbs/__pycache__/sign.cpython-311.pyc").write_bytes(b"what Python itself keeps")
    assert check(root, "-P") == ("", "")


def write(path: str, data: bytes = b"raise SystemExit('foreign')\n") -> Callable[[Path], None]:
    def change(root: Path) -> None:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)

    return change


def link(path: str, to: str) -> Callable[[Path], None]:
    return lambda root: (root / path).symlink_to(to)


def bytecode(root: Path) -> None:
    """Bytecode that git brings: Python would take it for that of the module."""
    write("release/verbs/__pycache__/sign.cpython-311.pyc")(root)
    git(root, "add", "--force", "release/verbs/__pycache__")
    git(root, "commit", "--quiet", "-m", "bytecode")


def replaced_by_a_link(root: Path) -> None:
    (root / "release/verbs/sign.py").rename(root / "sign.py")
    (root / "release/verbs/sign.py").symlink_to("../../sign.py")


ATTACKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a changed verb": (write("release/verbs/sign.py"), "release/verbs/sign.py"),
    "a changed file that code reads": (write("release/runtimes/vllm.yaml"), "release/runtimes/vllm.yaml"),
    "a changed launcher": (write("lockstep"), "lockstep"),
    "a missing module": (lambda root: (root / "checks/stats/hall.py").unlink(), "checks/stats/hall.py"),
    "a module that git does not have": (write("release/verbs/extra.py"), "release/verbs/extra.py"),
    "an extension that is imported before the module": (
        write("release/verbs/sign.abi3.so"), "release/verbs/sign.abi3.so"
    ),
    "a package that is imported before the module": (
        write("release/verbs/sign/__init__.py"), "release/verbs/sign/__init__.py"
    ),
    "bytecode without a source, which git ignores": (write("checks/extra.pyc"), "checks/extra.pyc"),
    "bytecode in git": (bytecode, "release/verbs/__pycache__/sign.cpython-311.pyc"),
    "a kind of the team that git does not have": (write("kinds/gates/kind.py"), "kinds/gates/kind.py"),
    "a link to a folder": (link("release/verbs/sign", "../../data"), "release/verbs/sign"),
    "a link in place of a module": (replaced_by_a_link, "release/verbs/sign.py"),
}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
def test_other_code_is_refused_and_named(root: Path, attack: str) -> None:
    make, path = ATTACKS[attack]
    make(root)
    for line in check(root, "-P"):
        assert line.startswith(f"EvidenceRefused: {path}: is not the code that git has; ")


def test_a_link_below_a_folder_of_data_or_reports_is_refused(root: Path) -> None:
    (root / "reports").mkdir()
    (root / "reports/image.json").symlink_to("../lockstep")
    git(root, "add", "--force", "reports")
    for line in check(root, "-P"):
        assert "reports/image.json: is a link or another repository in git" in line


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("checks/process/errors.py", "checks.process.errors"),
        ("checks/storage/layout.py", "layout"),
        ("release/adapters/git_objects.py", "git_objects"),
    ],
)
def test_a_module_that_the_check_itself_imports_is_missing_in_one_line(root: Path, path: str, name: str) -> None:
    (root / path).unlink()
    done = subprocess.run(
        [sys.executable, "-P", "-m", "release.cli", "gate"], cwd=root, capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": str(root.parent / "packages"), "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    (line,) = done.stderr.splitlines()
    assert line.startswith("lockstep: Lockstep is not whole here: ")
    assert name in line
    assert line.endswith("restore its files: `git status -- checks release stages`")
    assert done.returncode == 9


def test_a_change_that_is_staged_may_judge_and_not_sign(root: Path) -> None:
    write("checks/scorers/mine.py")(root)
    git(root, "add", "checks")
    judging, committed = check(root, "-P")
    assert judging == ""
    assert "checks/scorers/mine.py" in committed


def test_an_interpreter_that_imports_from_the_work_tree_is_refused(root: Path) -> None:
    assert "use the launcher: `./lockstep VERB`" in check(root)[False]


def test_a_tool_that_lies_elsewhere_checks_the_kinds_of_the_team_alone(root: Path) -> None:
    write("release/verbs/sign.py")(root)
    assert check(root, "-P", path=REPOSITORY)[True] == ""
    write("kinds/gates/short.py")(root)
    other = "kinds/gates/short.py: is not the code that git has"
    assert other in check(root, "-P", path=REPOSITORY)[False]
    git(root, "add", "kinds")
    judging, committed = check(root, "-P", path=REPOSITORY)
    assert judging == ""
    assert other in committed
    assert "use the launcher: `./lockstep VERB`" in check(root, path=REPOSITORY)[False]
    git(root, "commit", "--quiet", "-m", "a kind")
    assert check(root, "-P", path=REPOSITORY)[True] == ""
    write("kinds/gates/short.py", b"edited after the run")(root)
    assert other in check(root, "-P", path=REPOSITORY)[True]


def test_the_launcher_imports_nothing_from_the_top_of_the_work_tree(root: Path, tmp_path: Path) -> None:
    for name in ("yaml.py", "click.py", "wandb.py", "datasets/__init__.py", "subprocess.py", ".lockstep/code/yaml.py"):
        write(name)(root)
    environment = tmp_path / "environment"
    (environment / "bin").mkdir(parents=True)
    python = environment / "bin/python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    launcher = (root / "lockstep").read_text().replace("        set_up(extras)\n", "")
    (root / "lockstep").write_text(launcher)
    for words in (["--version"], ["dvc", "--version"]):
        done = subprocess.run(
            [sys.executable, str(root / "lockstep"), *words], cwd=root, capture_output=True, text=True,
            env=os.environ | {"LOCKSTEP_VENV": str(environment)}, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, ""), words


def test_a_project_below_the_git_root_is_judged_by_the_code_that_git_has(root: Path) -> None:
    project = root / "projects/router"
    project.mkdir(parents=True)
    assert check(project, "-P", path=root.parent / "packages") == ("", "")
    with (root / "release/verbs/gate.py").open("a") as stream:
        stream.write("# edited\n")
    for line in check(project, "-P", path=root.parent / "packages"):
        assert "release/verbs/gate.py: is not the code that git has" in line
