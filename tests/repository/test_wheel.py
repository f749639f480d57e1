"""The wheel and the sdist: what they hold, and that the core runs from an installed wheel, without torch and an index.

Each command of docs/how-to/offline.md is run here, for the core alone: its extras have torch.
"""

import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from email import message_from_bytes
from email.message import Message
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement

from checks.process import distribution
from tests import wheel_folder
from tests.conftest import REPOSITORY, read_yaml, written
from tests.pipeline_repository import commit, git

pytestmark = pytest.mark.slow

PACKAGES = ("checks", "release", "stages")
DISTRIBUTIONS = (distribution.NAME, "lockstep-lake", "lockstep-azure-cli")
PAGE = REPOSITORY / "docs" / "how-to" / "offline.md"
EXTRAS = "[dvc,pipeline,http,serve]"
MOST_MB = 60  # beside numpy and scipy
# The modules that need a package of an extra to be imported at all.
OF_EXTRAS = {"aiohttp", "opentelemetry", "prometheus_client"}
# Imports every module of a package and prints those that cannot be imported, with the package that is missing.
IMPORTS = """
import importlib, pkgutil, sys
for package in ("checks", "release"):
    top = importlib.import_module(package)
    for module in pkgutil.walk_packages(top.__path__, f"{package}."):
        if module.name.endswith("__main__"):
            continue
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            print(error.name.partition(".")[0], module.name)
"""
TEAM = "raise SystemExit('a module of the team was imported')\n"


class Built(NamedTuple):
    """The tree that was built, and the folder of the sdist and the wheel."""

    tree: Path
    dist: Path

    @property
    def wheel(self) -> Path:
        return self.of(distribution.NAME)

    def of(self, name: str) -> Path:
        """The wheel of a distribution."""
        (path,) = self.dist.glob(f"{name.replace('-', '_')}-*.whl")
        return path

    def metadata(self, name: str) -> Message:
        """The METADATA of the wheel of a distribution."""
        with ZipFile(self.of(name)) as archive:
            (path,) = [path for path in archive.namelist() if path.endswith(".dist-info/METADATA")]
            return message_from_bytes(archive.read(path))


class Installed(NamedTuple):
    """A repository of a team, with an environment that has Lockstep's wheel."""

    root: Path
    work: Path

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment in the team's repository."""
        program, *arguments = command
        return subprocess.run(
            [str(self.work / ".venv" / "bin" / program), *arguments],
            cwd=self.root, env=_environment(), capture_output=True, text=True, check=False,
        )  # fmt: skip


def _environment(**more: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PIP_", "PYTHON", "LOCKSTEP_"))}
    return kept | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"} | more


def _path() -> str:
    """Return the path of programs with those of the tests' environment first."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])


def _listed(wheel: Path) -> dict[str, str]:
    """Return the digest of each file of a wheel, by path, from its RECORD."""
    with ZipFile(wheel) as archive:
        (record,) = [name for name in archive.namelist() if name.endswith(".dist-info/RECORD")]
        lines = archive.read(record).decode().splitlines()
    return {path: digest for path, digest, _ in (line.rsplit(",", 2) for line in lines) if path != record}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The sdist, and the wheel that is built from it, of the files that git has or would take."""
    tree = wheel_folder.source(tmp_path_factory.mktemp("built") / "tree")
    (tree / "checks" / "__pycache__").mkdir()
    (tree / "checks" / "__pycache__" / "stale.cpython-311.pyc").touch()
    done = subprocess.run(
        [".ci/distribution"], cwd=tree, env=_environment(PATH=_path()), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(": PASSED") == 2 * len(DISTRIBUTIONS)
    return Built(tree, tree / "dist")


@pytest.fixture(scope="module")
def installed(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Lockstep as the page installs it, beside a team's repository that has modules of its names."""
    work = tmp_path_factory.mktemp("offline")
    online = work / "index"
    online.mkdir()
    shutil.copy(built.wheel, online)
    names = wheel_folder.needed([distribution.NAME]) - {distribution.NAME}
    wheel_folder.pack(names, online)
    download, install, *_ = _commands()
    _run(download, work, PATH=_path(), PIP_NO_INDEX="1", PIP_FIND_LINKS=str(online))
    _run(install, work, PATH=_path(), PIP_NO_COMPILE="1")
    root = work / "team"
    root.mkdir()
    params = read_yaml((REPOSITORY / "docs" / "configurations" / "preferences.yaml").read_text())
    params["base"]["uri"] = "hf://org/tiny@v1"
    (root / "params.yaml").write_text(written(params))
    shutil.copy(REPOSITORY / "dvc.yaml", root)
    (root / distribution.PIN).write_text(f"{distribution.NAME}=={distribution.version()}\n")
    for module in (
        "checks/__init__",
        "release/__init__",
        "stages/__init__",
        "stages/code",
        "stages/fetch",
        "tests/__init__",
    ):
        (root / f"{module}.py").parent.mkdir(exist_ok=True)
        (root / f"{module}.py").write_text(TEAM)
    git(root, "init", "--quiet", "--initial-branch", "main")
    commit(root, "start")
    return Installed(root, work)


def _commands() -> list[str]:
    return [block.replace(EXTRAS, "") for block in re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)]


def _run(script: str, work: Path, **environment: str) -> str:
    done = subprocess.run(
        ["sh", "-euc", script], cwd=work, env=_environment(**environment), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_file_below_the_packages_is_in_the_wheel_with_its_content_and_nothing_else_is(built: Built) -> None:
    info = re.compile(r"lockstep_llm-[\d.]+\.dist-info/")
    packed = {name for name in _listed(built.wheel) if not info.match(name)}
    listed = git(REPOSITORY, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *PACKAGES).split(
        "\0"
    )
    assert packed == {name for name in listed if name and os.path.lexists(REPOSITORY / name)}
    with ZipFile(built.wheel) as archive:
        assert archive.read("release/thin/constraints.txt") == (REPOSITORY / "constraints.txt").read_bytes()
        assert [entry.filename for entry in archive.infolist() if entry.external_attr >> 28 == 0o12] == []


def test_a_file_whose_name_begins_with_a_dot_and_what_a_link_leads_to_are_in_a_wheel_of_the_tree(
    built: Built, tmp_path: Path
) -> None:
    """The same build without the sdist between: its RECORD is the same but for the files that were added."""
    tree = tmp_path / "tree"
    shutil.copytree(built.tree, tree, symlinks=True, ignore=shutil.ignore_patterns("dist", "build", "*.egg-info"))
    thin = tree / "release" / "thin"
    added = {
        "release/thin/.added/.file": b"1", "release/thin/.added/file": b"2", "release/thin/of/.added": b"3"
    }  # fmt: skip
    for name, content in added.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(content)
    (thin / "linked").symlink_to("../../.ci")
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", tmp_path], cwd=tree, env=_environment(),
        check=True, capture_output=True,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")
    plain, more = _listed(built.wheel), _listed(wheel)
    folder = tree / ".ci"
    linked = {f"release/thin/linked/{path.relative_to(folder)}" for path in folder.rglob("*") if path.is_file()}
    assert more.keys() - plain.keys() == {*added, *linked}
    assert {name: more[name] for name in plain} == plain


def test_a_ref_that_is_not_the_tag_of_this_version_builds_nothing(built: Built) -> None:
    done = subprocess.run(
        [".ci/distribution", "refs/tags/v9.9.9"], cwd=built.tree, capture_output=True, text=True, check=False,
        env=_environment(PATH=_path()),
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == (
        f"refs/tags/v9.9.9: is not the tag of version {distribution.version()} in pyproject.toml; "
        f"tag the commit of that version v{distribution.version()}\n"
    )
    assert built.wheel.is_file()


@pytest.mark.parametrize("name", DISTRIBUTIONS[1:])
def test_a_package_of_the_examples_fits_this_lockstep_and_its_extras(built: Built, name: str) -> None:
    own, package = built.metadata(distribution.NAME), built.metadata(name)
    assert package["Version"] == own["Version"]
    (needed,) = [
        one for one in map(Requirement, package.get_all("Requires-Dist") or []) if one.name == DISTRIBUTIONS[0]
    ]
    assert needed.specifier.contains(own["Version"])
    by_extra = {
        str(one.marker): one for one in map(Requirement, own.get_all("Requires-Dist") or []) if one.name == name
    }
    wanted = package.get_all("Provides-Extra") or [name.removeprefix("lockstep-")]
    assert by_extra.keys() == {f'extra == "{extra}"' for extra in wanted}
    for requirement in by_extra.values():
        assert requirement.specifier.contains(package["Version"])
        assert requirement.extras <= set(package.get_all("Provides-Extra") or [])
    assert all(requirement.extras for requirement in by_extra.values()) == ("Provides-Extra" in package)
    with ZipFile(built.of(name)) as archive:
        (text,) = [path for path in archive.namelist() if path.endswith("/LICENSE")]
        assert archive.read(text) == (REPOSITORY / "LICENSE").read_bytes()


def test_the_core_is_small_and_has_no_torch(installed: Installed) -> None:
    (packages,) = (installed.work / ".venv").glob("lib/python3.*/site-packages")
    assert not (packages / "torch").exists()
    size = 0
    for record in packages.glob("*.dist-info/RECORD"):
        if not record.parent.name.startswith(("numpy-", "pip-", "scipy-", "setuptools-")):
            size += sum(int(line.rsplit(",", 1)[1] or 0) for line in record.read_text().splitlines())
    assert 20e6 < size < MOST_MB * 1e6


def test_each_module_of_the_core_is_imported_without_torch(installed: Installed) -> None:
    done = installed.run("python", "-P", "-c", IMPORTS)
    assert done.returncode == 0, done.stderr
    assert {line.split()[0] for line in done.stdout.splitlines()} == OF_EXTRAS, done.stdout


@pytest.mark.parametrize(
    ("command", "code", "says"),
    [
        ("lockstep --version", 0, f"lockstep, version {distribution.version()}"),
        ("lockstep --help", 0, "Usage: lockstep"),
        ("lockstep gate --help", 0, "Usage: lockstep gate"),
        ("lockstep doctor", 9, "add pipeline to the extras in lockstep-requirements.txt, then run ./lockstep"),
        ("lockstep status", 0, "staging"),
        (
            "python -P -m stages.fetch",
            9,
            "add pipeline to the extras in lockstep-requirements.txt, then run ./lockstep",
        ),
    ],
)
def test_modules_of_a_team_are_never_imported(installed: Installed, command: str, code: int, says: str) -> None:
    done = installed.run(*command.split())
    printed = " ".join((done.stdout + done.stderr).split())
    assert "a module of the team" not in printed
    assert says in printed
    assert done.returncode == code, printed


def test_a_wheel_whose_code_was_changed_after_its_installation_runs_no_stage(installed: Installed) -> None:
    """The digests in code.lock are of the files on the disk, whatever RECORD says of them."""
    hold = (
        "from pathlib import Path; from checks.code import lock; from checks.config import params_file; root = Path();"
        "params = params_file.load(root / 'params.yaml');"
    )
    code = f"{hold} lock.write(root, params, dict()); lock.hold(root, 'train', params)"
    written = installed.run("python", "-P", "-c", code)
    assert written.returncode == 0, written.stderr
    (trainer,) = (installed.work / ".venv").glob("lib/python3.*/site-packages/stages/training/trainer.py")
    with trainer.open("a") as stream:
        stream.write("# changed\n")
    done = installed.run("python", "-P", "-c", f"{hold} lock.hold(root, 'train', params)")
    assert "code.lock: names other code for train than the code here" in done.stderr


@pytest.fixture
def index(installed: Installed) -> Iterator[str]:
    """A private index of the wheels, as a folder for each package (PEP 503) behind a web server."""
    folder = installed.work / "simple"
    for wheel in (installed.work / "wheels").glob("*.whl"):
        name = re.sub(r"[-_.]+", "-", wheel.name.partition("-")[0]).lower()
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / wheel.name).symlink_to(wheel)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def test_a_private_index_is_named_by_a_variable(installed: Installed, index: str) -> None:
    script = next(block for block in _commands() if "PIP_INDEX_URL" in block)
    address = "https://packages.example.com/simple"
    assert address in script
    again = script.replace(address, index).replace("pip install", "pip install --no-deps --force-reinstall")
    assert f"{distribution.NAME}" in _run(again, installed.work)


def test_uv_installs_the_command_alone(installed: Installed, tmp_path: Path) -> None:
    (script,) = (block for block in _commands() if block.startswith("uv "))
    homes = {name: str(tmp_path / name) for name in ("UV_TOOL_DIR", "UV_TOOL_BIN_DIR", "UV_CACHE_DIR")}
    _run(script, installed.work, PATH=_path(), UV_PYTHON=sys.executable, **homes)
    assert [program.name for program in (tmp_path / "UV_TOOL_BIN_DIR").iterdir()] == ["lockstep"]
    done = subprocess.run(
        [tmp_path / "UV_TOOL_BIN_DIR" / "lockstep", "doctor"],
        cwd=tmp_path, env=_environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert f"pip install 'lockstep-llm[pipeline]=={distribution.version()}'" in done.stdout
