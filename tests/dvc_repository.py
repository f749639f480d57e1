"""A repository with one output of DVC that is in its remote alone, and what an attacker changes in both."""

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import yaml

from release.record import folder_lists
from tests import pipeline_repository
from tests.conftest import REPOSITORY
from tests.pipeline_repository import commit, git

ROWS = {"train.jsonl": b'{"id": 1}\n', "sub/test.jsonl": b'{"id": 2}\n'}
CODE = b"# the code that signs\n"
PAYLOAD = b"raise SystemExit('code from the remote')\n"
PIPELINE = {"stages": {"prepare": {"cmd": "true", "outs": ["data/splits"]}}}


def make(home: Path) -> Path:
    """A repository with one output, which is in its remote: the folders ``clone`` and ``remote`` below ``home``."""
    root = home / "clone"
    for name, data in ROWS.items():
        path = root / "data/splits" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (root / "release/verbs").mkdir(parents=True)
    (root / "release/verbs/sign.py").write_bytes(CODE)
    (root / "dvc.yaml").write_text(yaml.safe_dump(PIPELINE))
    (root / ".gitignore").write_text("/data\n")
    git(root, "init", "--quiet", "--initial-branch", "main")
    for arguments in (["init"], ["remote", "add", "--default", "store", "../remote"], ["commit", "--force"], ["push"]):
        done = dvc(root, *arguments, "--quiet")
        assert done.returncode == 0, done.stderr
    commit(root, "start")
    shutil.rmtree(root / "data")
    shutil.rmtree(root / ".dvc/cache")
    return home


def dvc(root: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run DVC as `./lockstep dvc` does, with no settings but the repository's."""
    home = str(root.parent / "home")
    settings = dict.fromkeys(("DVC_SYSTEM_CONFIG_DIR", "DVC_GLOBAL_CONFIG_DIR", "DVC_SITE_CACHE_DIR"), home)
    return subprocess.run(
        [pipeline_repository.interpreter(), "-P", "-m", "stages.tools.guarded_dvc", *arguments], cwd=root, capture_output=True, text=True,
        env=pipeline_repository.environment(PYTHONPATH=str(REPOSITORY), **settings | environment), check=False,
    )  # fmt: skip


def cached(path: Path, cache: Path) -> None:
    """Put an output, which dvc.lock names, into a cache as DVC does."""
    whole = folder_lists.list_of(path) if path.is_dir() else None
    contents = (
        [path.read_bytes()] if whole is None else [(path / name).read_bytes() for name in folder_lists.below(path)]
    )
    objects = {folder_lists.md5_of(data): data for data in contents}
    if whole is not None:
        objects[f"{folder_lists.md5_of(whole)}.dir"] = whole
    for md5, data in objects.items():
        stored_at = cache / "files/md5" / md5[:2] / md5[2:]
        stored_at.parent.mkdir(parents=True, exist_ok=True)
        stored_at.write_bytes(data)


def stored(root: Path, data: bytes, suffix: str = "") -> str:
    """Put an object into the remote; its digest."""
    md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
    path = root.parent / "remote/files/md5" / md5[:2] / f"{md5[2:]}{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_bytes(data)
    return f"{md5}{suffix}"


def named_by_a_file(root: Path, folder: str, out: str) -> list[str]:
    """A ``.dvc`` file in ``folder`` that names an output elsewhere."""
    (root / folder).mkdir(parents=True, exist_ok=True)
    md5 = stored(root, PAYLOAD)
    text = yaml.safe_dump({"outs": [{"md5": md5, "hash": "md5", "size": len(PAYLOAD), "path": out}]})
    (root / folder / "x.dvc").write_text(text)
    return ["pull", "--force", f"{folder}/x.dvc"]


def locked(root: Path, md5: str) -> None:
    """Have dvc.lock name another object as the only output."""
    lock = yaml.safe_load((root / "dvc.lock").read_text())
    lock["stages"]["prepare"]["outs"][0] |= {"md5": md5}
    (root / "dvc.lock").write_text(yaml.safe_dump(lock))


def listed(root: Path, *entries: dict[str, str]) -> None:
    """Have dvc.lock name a list of files as the only output."""
    locked(root, stored(root, json.dumps(list(entries)).encode(), ".dir"))


def in_a_list(root: Path, path: str) -> list[str]:
    """A list that names ``path``."""
    listed(root, {"md5": stored(root, PAYLOAD), "relpath": path})
    return ["pull"]
