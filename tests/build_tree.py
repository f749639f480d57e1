"""A committed record whose verdict passes, with merged weights in shards, and base images in OCI layouts. No torch."""

import gzip
import hashlib
import io
import json
import os
import random
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from checks.code import lock as code_lock
from checks.code.modules import Code
from checks.config import params_file
from checks.config.params import Params
from checks.formats.evaluation_reports import ReferencesReport
from checks.formats.training_reports import MergedFile, ParityReport
from checks.process import distribution
from checks.process.errors import Refusal
from checks.storage import digest, files, layout
from release.verbs.build import BuildOptions, build
from tests import evidence_tree, oci_check
from tests.conftest import REPOSITORY, as_params, read_yaml, scaled_down, written

OCI = "application/vnd.oci.image."
DOCKER = "application/vnd.docker."
WHEN = "2026-05-04T03:02:01+02:00"  # of every commit: the same record is the same commit


def shards(count: int = 3, size: int = 5000, seed: int = 1) -> dict[str, bytes]:
    """The files of a small merged model: ``count`` shards of random bytes, an index, a configuration, a tokenizer."""
    draw = random.Random(seed)
    names = [f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]
    found = {name: draw.randbytes(size + i) for i, name in enumerate(names)}
    found["model.safetensors.index.json"] = json.dumps({"weight_map": {name: name for name in names}}).encode()
    return found | {
        "config.json": b'{"model_type": "llama", "head_dim": 64}\n',
        "tokenizer.json": b"{}",
        "empty.json": b"",
    }


def make(root: Path, merged: dict[str, bytes] | None = None, document: dict[str, Any] | None = None) -> Params:
    """Lay out and commit a record of ``merged`` below ``root``; its verdict passes, unless ``document`` says otherwise.

    ``document``: params.yaml as plain values.
    """
    document = scaled_down() if document is None else document
    root.mkdir(parents=True, exist_ok=True)
    (root / layout.PARAMS).write_text(written(document))
    shutil.copy(REPOSITORY / ".gitignore", root / ".gitignore")
    params = as_params(document)
    evidence_tree.build(root, params)
    weigh(root, shards() if merged is None else merged)
    judge(root, params)
    commit(root, "record")
    subprocess.run(
        ["git", "branch", "--move", "--force", "main"], cwd=root, check=True
    )  # whatever git calls a first one
    return params


def commit(root: Path, message: str) -> str:
    """Commit everything that is not ignored, always at the same time; return the commit."""
    dated = os.environ | {"GIT_AUTHOR_DATE": WHEN, "GIT_COMMITTER_DATE": WHEN}
    who = ["-c", "user.name=Test", "-c", "user.email=test@example.invalid", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *who, "add", "--all"], cwd=root, check=True, env=dated)
    subprocess.run(["git", *who, "commit", "--quiet", "-m", message], cwd=root, check=True, env=dated)
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def ran_ignored_code(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install Lockstep in ``root`` as code that git overlooks, and say in dvc.lock that every stage ran it."""
    (root / "stages").mkdir()
    (root / "stages" / "gate.py").write_text("print('never reviewed')\n")
    with (root / ".git" / "info" / "exclude").open("a") as stream:
        stream.write("/stages/\n")
    monkeypatch.setattr(distribution, "home", root.resolve)
    ran(root, code_lock.running())


def ran(root: Path, code: Code) -> None:
    """Say in dvc.lock that every stage ran ``code``."""
    digests = code_lock.of(params_file.load(root / layout.PARAMS), code)
    document = read_yaml((root / layout.LOCK).read_text())
    for name, value in digests.items():
        document["stages"][name]["params"][layout.CODE_LOCK.as_posix()] = {code_lock.key(name): value}
    (root / layout.LOCK).write_text(written(document))


def weigh(root: Path, merged: dict[str, bytes]) -> None:
    """Make ``merged`` the model that the parity report is about."""
    shutil.rmtree(root / layout.MERGED)
    for name, data in merged.items():
        path = root / layout.MERGED / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    tree = digest.of_tree(root / layout.MERGED)
    report = files.read_json(root / layout.PARITY_REPORT, ParityReport)
    described = {name: MergedFile(sha256=file.sha256, size=file.size) for name, file in tree.files.items()}
    files.write_json(root / layout.PARITY_REPORT, report.model_copy(update={"merged": tree.digest, "files": described}))


def judge(root: Path, params: Params, earlier: ReferencesReport | None = None) -> None:
    """Evaluate the model that is there, and write the verdict. The models of ``earlier`` gave the same answers."""
    answers = [evidence_tree.predict(row, i < 36) for i, row in enumerate(evidence_tree.rows("test", 40))]
    others = dict.fromkeys(earlier.found, answers) if earlier else {}
    evidence_tree.evaluated(root, params, answers, **others)
    evidence_tree.judged(root, params)


def forget(root: Path) -> None:
    """Commit that there is no record yet, so that another model has nothing on main to be compared with."""
    subprocess.run(["git", "rm", "-r", "--quiet", "--cached", "reports", "dvc.lock"], cwd=root, check=True)
    who = ["-c", "user.name=Test", "-c", "user.email=test@example.invalid", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *who, "commit", "--quiet", "-m", "no record yet"], cwd=root, check=True)


class BaseLayout:
    """An OCI layout with whatever a test wants a base image to be. Digests are of the bytes as written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "blobs" / "sha256").mkdir(parents=True)
        (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        self.entries: list[dict[str, Any]] = []
        self._index()

    def blob(self, data: bytes, media_type: str) -> dict[str, Any]:
        """Store bytes; return their descriptor."""
        name = hashlib.sha256(data).hexdigest()
        (self.folder / "blobs" / "sha256" / name).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{name}", "size": len(data)}

    def json(self, value: dict[str, Any], media_type: str) -> dict[str, Any]:
        """Store a document; return its descriptor."""
        return self.blob(json.dumps(value, indent=3).encode(), media_type)

    def image(
        self,
        layers: int = 2,
        platform: str = "linux/amd64",
        docker: bool = False,
        media_type: str | None = None,
        settings: dict[str, Any] | None = None,
        **config: Any,
    ) -> dict[str, Any]:
        """Store an image; return its manifest's descriptor. Odd layers are gzip. ``config`` overrides its config."""
        described, diff_ids = [], []
        for number in range(layers):
            plain = tar({f"layer{number}": b"base" * (number + 1)})
            diff_ids.append(f"sha256:{hashlib.sha256(plain).hexdigest()}")
            zipped = number % 2 == 1
            kind = f"{DOCKER}image.rootfs.diff.tar" if docker else f"{OCI}layer.v1.tar"
            suffix = ("." if docker else "+") + "gzip" if zipped else ""
            data = gzip.compress(plain, mtime=0) if zipped else plain
            described.append(self.blob(data, media_type or kind + suffix))
        os_name, architecture, *variant = platform.split("/")
        value = {
            "os": os_name,
            "architecture": architecture,
            **({"variant": variant[0]} if variant else {}),
            "created": "2020-01-01T00:00:00Z",
            "config": {
                "Env": ["PATH=/usr/bin", "PORT=80"],
                "Cmd": ["sh"],
                "WorkingDir": "/srv",
                "ExposedPorts": {"80/tcp": {}},
                "Labels": {"org.opencontainers.image.source": "https://example.invalid/base", "maintainer": "someone"},
            }
            | (settings or {}),
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": [{"created_by": f"step {i}"} for i in range(layers)] + [{"empty_layer": True}],
            "docker_version": "1.2.3",
        } | config
        kind = f"{DOCKER}container.image.v1+json" if docker else f"{OCI}config.v1+json"
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{DOCKER}distribution.manifest.v2+json" if docker else f"{OCI}manifest.v1+json",
            "config": self.json(value, kind),
            "layers": described,
        }
        return self.json(manifest, str(manifest["mediaType"]))

    def index(self, *entries: dict[str, Any], docker: bool = False) -> dict[str, Any]:
        """Store an index of images; return its descriptor."""
        kind = f"{DOCKER}distribution.manifest.list.v2+json" if docker else f"{OCI}index.v1+json"
        return self.json({"schemaVersion": 2, "mediaType": kind, "manifests": entries}, kind)

    def tag(self, entry: dict[str, Any], name: str) -> str:
        """Name an image; return the reference that pins it."""
        self.entries.append(entry | {"annotations": {"org.opencontainers.image.ref.name": name}})
        self._index()
        return self.pinned(entry)

    def pinned(self, entry: dict[str, Any]) -> str:
        """The reference of an image by digest."""
        return f"oci:{self.folder}@{entry['digest']}"

    def _index(self) -> None:
        (self.folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": self.entries}))


def tar(members: dict[str, bytes]) -> bytes:
    """A tar as another tool makes it."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def built_image(root: Path) -> oci_check.Checked:
    return oci_check.only(root / layout.IMAGE)


def merged_files(root: Path) -> dict[str, bytes]:
    merged = root / layout.MERGED
    return {path.relative_to(merged).as_posix(): path.read_bytes() for path in merged.rglob("*") if path.is_file()}


def needed(image: oci_check.Checked) -> set[str]:
    digests = [
        image.digest,
        image.manifest["config"]["digest"],
        *(layer["digest"] for layer in image.manifest["layers"]),
    ]
    return {digest.removeprefix("sha256:") for digest in digests}


def refused(root: Path, options: BuildOptions, kind: type[Refusal], word: str) -> Refusal:
    """``build`` refuses with one line that matches, and no index, no report and no half blob is there."""
    with pytest.raises(kind, match=word) as refused:
        build(root, options)
    assert "\n" not in str(refused.value)
    target = root / layout.IMAGE
    assert not (target / "index.json").exists()
    assert not (root / layout.IMAGE_REPORT).exists()
    assert not list(target.rglob(".*"))
    return refused.value
