"""DVC, as Lockstep runs it, writes only into the folders of data and models, whatever its files and its remote name."""

import json
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from release.record import folder_lists
from stages.tools import guarded_dvc
from tests import dvc_repository
from tests.dvc_repository import PAYLOAD, ROWS, dvc, in_a_list, listed, locked, named_by_a_file, stored
from tests.pipeline_repository import commit

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dvc_repository.make(tmp_path_factory.mktemp("guarded"))


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    """A copy of the repository, with nothing in its cache and no output."""
    shutil.copytree(made, tmp_path / "copy")
    return tmp_path / "copy/clone"


def outputs(root: Path) -> dict[str, bytes]:
    folder = root / "data/splits"
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_pull_without_targets_brings_the_outputs_of_the_pipeline(root: Path) -> None:
    done = dvc(root, "pull")
    assert done.returncode == 0, done.stderr
    assert outputs(root) == ROWS
    assert dvc(root, "status", "--quiet").returncode == 0
    # The digest of a list is made here as DVC makes it.
    md5 = yaml.safe_load((root / "dvc.lock").read_text())["stages"]["prepare"]["outs"][0]["md5"]
    for _ in ("the list is in the cache", "the list is made again"):
        assert list(folder_lists.differences(root, "prepare", "data/splits", md5, True)) == []
        shutil.rmtree(root / ".dvc/cache", ignore_errors=True)


def test_outputs_are_files_where_a_machine_asks_dvc_for_links(root: Path) -> None:
    """As on a server that several people share; the stages read no symbolic link."""
    assert dvc(root, "config", "--local", "cache.type", "symlink").returncode == 0
    for _ in ("from the remote", "from the cache"):
        assert dvc(root, "pull").returncode == 0
        assert outputs(root) == ROWS
        assert not any(path.is_symlink() for path in (root / "data").rglob("*"))
        shutil.rmtree(root / "data")


def test_a_pull_reads_no_file_of_dvc_that_is_not_part_of_the_pipeline(root: Path) -> None:
    (root / "reports").mkdir()
    (root / "reports/notes.dvc").write_text("outs: [")
    assert dvc(root, "pull").returncode == 0
    assert outputs(root) == ROWS


def test_without_dvc_one_line_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "dvc", None)
    assert guarded_dvc.main(["status"]) == 9
    assert capsys.readouterr().err.startswith("ERROR: DVC is not installed; pip install ")


def of_no_digest(root: Path) -> list[str]:
    """A list whose file has a digest that is a path."""
    listed(root, {"md5": "ab/../../../../../release/verbs/sign.py", "relpath": "a"})
    return ["pull"]


def no_digest(root: Path) -> list[str]:
    """A lock whose digest is a path."""
    locked(root, "ab/../../../../../release/verbs/sign.py")
    return ["pull"]


def other_bytes(root: Path) -> list[str]:
    """A list in the remote with other bytes than its name says."""
    md5 = yaml.safe_load((root / "dvc.lock").read_text())["stages"]["prepare"]["outs"][0]["md5"]
    path = root.parent / "remote/files/md5" / md5[:2] / md5[2:]
    path.chmod(0o644)
    path.write_text(json.dumps([{"md5": stored(root, PAYLOAD), "relpath": "train.jsonl"}]))
    return ["pull"]


def through_a_link(root: Path) -> list[str]:
    """A link in the output's folder that leads to code."""
    (root / "data/splits").mkdir(parents=True)
    (root / "data/splits/sub").symlink_to("../../release/verbs")
    return in_a_list(root, "sub/sign.py")


def linked_folder(root: Path) -> list[str]:
    """The folder of outputs is a link to code."""
    (root / "data").symlink_to("release")
    return in_a_list(root, "sign.py")


def through_a_hidden_link(root: Path) -> list[str]:
    """A link in place of a file of an output, which DVC does not see."""
    (root / "data/splits").mkdir(parents=True)
    (root / "data/splits/a.json").symlink_to("../../release/verbs/sign.py")
    (root / "data/.dvcignore").write_text("splits/a.json\n")
    return in_a_list(root, "a.json")


def of_another_digest(root: Path) -> list[str]:
    """A lock whose digest is a path, under the name of a digest that DVC does not check."""
    lock = yaml.safe_load((root / "dvc.lock").read_text())
    name = "ab../../../../../release/verbs/sign.py"
    lock["stages"]["prepare"]["outs"] = [{"path": "data/splits", "hash": "etag", "etag": name}]
    (root / "dvc.lock").write_text(yaml.safe_dump(lock))
    return ["pull"]


def ignored_through_a_link(root: Path) -> list[str]:
    """DVC adds each output to the .gitignore beside it."""
    (root / "data/splits").mkdir(parents=True)
    (root / "data/splits/a").touch()
    (root / "data/.gitignore").symlink_to("../release/verbs/sign.py")
    return ["commit", "--force"]


def in_the_past(root: Path) -> list[str]:
    """`dvc get` of an earlier commit."""
    in_a_list(root, f"../../{root.name}/release/verbs/sign.py")
    commit(root, "a record")
    return ["get", ".", "data/splits", "--rev", "HEAD", "--out", str(root.parent / "scratch/splits")]


ATTACKS: dict[str, tuple[Callable[[Path], list[str]], str]] = {
    "a file of DVC beside data names a module": (
        lambda root: named_by_a_file(root, "datasets", "../yaml.py"), "'yaml.py' is outside the folders that DVC may write"
    ),
    "a file of DVC beside reports names a command": (
        lambda root: named_by_a_file(root, "reports", "../release/verbs/sign.py"), "is outside the folders",
    ),
    "a file of DVC names a report": (
        lambda root: named_by_a_file(root, "reports", "verdict.json"), "'reports/verdict.json' is outside the folders"
    ),
    "a list leaves its folder": (lambda root: in_a_list(root, "../../release/verbs/sign.py"), "which no folder of data may have"),
    "a list names an absolute path": (lambda root: in_a_list(root, "/tmp/x"), "names '/tmp/x'"),
    "a list names a folder twice": (lambda root: in_a_list(root, "a//b"), "names 'a//b'"),
    "a list brings a repository": (lambda root: in_a_list(root, "sub/.GIT/config"), "names 'sub/.GIT/config'"),
    "a list hides files from DVC": (lambda root: in_a_list(root, ".dvcignore"), "names '.dvcignore'"),
    "a link that DVC does not see": (through_a_hidden_link, "'data/splits/a.json' is a symbolic link"),
    "a link in place of .gitignore": (ignored_through_a_link, ".gitignore is a symbolic link"),
    "the lock names another digest that is a path": (of_another_digest, "is no"),
    "a list names a digest that is a path": (of_no_digest, "is no MD5"),
    "the lock names a digest that is a path": (no_digest, "is no MD5"),
    "the remote has another list": (other_bytes, "it is not the list"),
    "a link leads out of an output": (through_a_link, "through 'data/splits/sub', a symbolic link"),
    "a link leads out of the folder of outputs": (linked_folder, "through 'data', a symbolic link"),
    "an earlier commit's list leaves its folder": (in_the_past, "which no folder of data may have"),
}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_outside_the_folders_of_data_and_models_is_written(root: Path, attack: str) -> None:
    make, why = ATTACKS[attack]
    arguments = make(root)
    before = everything(root)
    done = dvc(root, *arguments)
    assert done.returncode in (1, 255)
    assert why in " ".join(done.stderr.split()), done.stderr
    assert everything(root) == before


def test_it_may_be_called_from_a_folder_of_the_repository(root: Path) -> None:
    (root / "docs").mkdir()
    for arguments in (["pull"], ["--cd", "..", "pull", "--force"], ["pull", "../data/splits"]):
        done = dvc(root / "docs", *arguments, LOCKSTEP_ROOT=str(root))
        assert done.returncode == 0, done.stderr
        assert outputs(root) == ROWS
        shutil.rmtree(root / "data")


def project(root: Path, name: str, out: str = "data/rows") -> Path:
    """A project whose stage writes its name."""
    folder = root / "projects" / name
    folder.mkdir(parents=True)
    (folder / "params.yaml").write_text("{}\n")
    command = f"sleep 1 && mkdir -p $(dirname {out}) && echo {name} > {out}"
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"make": {"cmd": command, "outs": [out]}}}))
    return folder


def test_projects_share_the_folder_of_dvc_and_run_at_once(root: Path) -> None:
    folders = [project(root, name) for name in ("router", "summary")]

    def run(folder: Path) -> str:
        return dvc(folder, "repro", LOCKSTEP_ROOT=str(root)).stderr

    with ThreadPoolExecutor(2) as pool:
        assert [*pool.map(run, folders)] == ["", ""]
    assert [(folder / "data/rows").read_text() for folder in folders] == ["router\n", "summary\n"]
    shutil.rmtree(root / "projects/summary/data")
    assert json.loads(dvc(folders[0], "status", "--json", "dvc.yaml").stdout) == {}
    assert dvc(folders[1], "checkout", LOCKSTEP_ROOT=str(root)).returncode == 0
    assert (folders[1] / "data/rows").read_text() == "summary\n"


def test_a_project_writes_nothing_into_another(root: Path) -> None:
    project(root, "summary")
    thief = project(root, "router", "../summary/data/other")
    dvc(thief, "repro", LOCKSTEP_ROOT=str(root))
    (root / "projects/summary/data/other").unlink()
    done = dvc(thief, "checkout", LOCKSTEP_ROOT=str(root))
    assert "'../summary/data/other' is outside the folders that DVC may write" in " ".join(done.stderr.split())
    assert not (root / "projects/summary/data/other").exists()


def test_a_pipeline_that_cannot_be_read_is_said_in_a_line(root: Path) -> None:
    (root / "dvc.yaml").write_text("stages: []\n- x")
    done = dvc(root, "pull")
    assert done.returncode != 0
    assert done.stderr.startswith("ERROR: refused by Lockstep: dvc.yaml: its stages cannot be read")
    assert "Traceback" not in done.stderr


def everything(root: Path) -> dict[str, bytes]:
    """All files beside and below the repository, without what DVC may write."""
    kept = {root / ".dvc", root / ".git", root.parent / "home", root / "data/splits"}
    return {
        str(path.relative_to(root.parent)): path.read_bytes()
        for path in root.parent.rglob("*")
        if path.is_file() and not kept & {*path.parents} and path.suffix != ".pyc"
    }
