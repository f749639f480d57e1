"""Checks what this machine has and lacks for each stage and verb."""

import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Literal
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

from packaging.requirements import Requirement

from checks.config import params_file
from checks.process.errors import Refusal
from checks.storage import layout
from release.adapters import commits, dvc, merge_conflicts
from release.doctor.check import Check
from release.doctor.command import DEADLINE, ask

STAGES = (
    "fetch",
    "prepare",
    "validate",
    "train",
    "merge",
    "score",
    "evaluate",
    "suites",
    "probe",
    "gate",
)
NEEDS_TORCH = ("fetch", "train", "merge", "score", "evaluate", "suites", "probe")
DISK_GB = 5  # environment, base model, merged model and DVC's copies at the default size


def doctor(root: Path, registry: str | None = None) -> list[Check]:
    """Run all checks. Missing things are findings, so nothing is raised for them."""
    return [
        _python(),
        _git(root),
        _params(root),
        *_packages(),
        _torch(),
        _disk(root),
        _dvc_remote(root),
        _mlflow(root),
        _docker(),
        _registry(registry),
    ]


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    fine = sys.version_info >= (3, 11)
    return Check(
        "python",
        "ok" if fine else "missing",
        version,
        STAGES,
        "" if fine else "install Python 3.11 or newer",
    )


def _git(root: Path) -> Check:
    if not shutil.which("git"):
        return Check("git", "missing", "no git on the path", STAGES, "install git")
    try:
        head = commits.resolve(root, "HEAD") if commits.has_repository(root) else None
        merge_conflicts.check(root)
    except Refusal as refusal:
        return Check("git", "missing", refusal.what, STAGES, refusal.todo)
    if head is None:
        return Check(
            "git",
            "missing",
            "not a repository with a commit",
            STAGES,
            "git init && git add . && git commit",
        )
    return Check("git", "ok", f"at {head[:7]}", STAGES)


def _params(root: Path) -> Check:
    try:
        params_file.load(root / layout.PARAMS)
    except Refusal as refusal:
        return Check("params.yaml", "missing", refusal.what, STAGES, refusal.todo)
    return Check("params.yaml", "ok", "reads well", STAGES)


def _packages() -> Iterator[Check]:
    """One check for all packages of the extra ``pipeline``, listing those that are missing or out of range."""
    wrong = []
    for text in metadata.requires("lockstep") or []:
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"extra": "pipeline"}):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{requirement.name} absent")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} {version} is not {requirement.specifier}")
    status: Literal["ok", "missing"] = "missing" if wrong else "ok"
    fix = "pip install -c constraints.txt -e '.[pipeline]'" if wrong else ""
    yield Check("packages", status, ", ".join(wrong) or "all of the extra pipeline", STAGES, fix)


def _torch() -> Check:
    """Query torch in a separate process, because the release tool never imports it."""
    probe = (
        "import torch, json; g = torch.cuda.is_available(); print(json.dumps([torch.__version__, "
        "torch.cuda.get_device_name() if g else None, torch.get_num_threads()]))"
    )
    answer = ask([sys.executable, "-c", probe], 120)
    if answer is None:
        return Check(
            "torch",
            "missing",
            "does not import",
            NEEDS_TORCH,
            "pip install -c constraints.txt -e '.[pipeline]'",
        )
    version, gpu, threads = json.loads(answer)
    return Check("torch", "ok", f"{version} on {gpu or f'the CPU, {threads} threads'}", NEEDS_TORCH)


def _disk(root: Path) -> Check:
    free = shutil.disk_usage(root).free / 1e9
    fine = free >= DISK_GB
    todo = "" if fine else f"free {DISK_GB} GB, or `./lockstep dvc gc -w`"
    return Check("disk", "ok" if fine else "missing", f"{free:.0f} GB free", STAGES, todo)


# Packages that DVC needs for a remote, by the scheme of its address.
_PACKAGED = {name: name for name in ("s3", "gs", "azure", "gdrive", "hdfs", "oss", "ssh", "webdav")} | {
    "webdavs": "webdav", "webhdfs": "hdfs",
}  # fmt: skip


def _dvc_remote(root: Path) -> Check:
    by = ("sharing artifacts", "pull requests")
    config = dvc.settings(root)
    addresses = [
        value for key, value in config.items() if key.startswith("remote.") and key.endswith(".url")
    ]
    if not addresses:
        return Check(
            "DVC remote",
            "optional",
            "none configured",
            by,
            "./lockstep dvc remote add -d storage URL",
        )
    try:
        name = dvc.default_remote(config)
    except Refusal as refusal:
        return Check("DVC remote", "optional", refusal.what, by, refusal.todo)
    address = config.get(f"remote.{name}.url", "")
    if (package := _PACKAGED.get(urlsplit(address).scheme)) and not importlib.util.find_spec(
        f"dvc_{package}"
    ):
        install = (
            f"-c constraints.txt -e '.[{package}]'" if package in ("s3", "gs") else f"dvc-{package}"
        )
        why = f"{_bare(address)} needs dvc-{package}, which is not installed"
        return Check("DVC remote", "optional", why, by, f"pip install {install}")
    return Check("DVC remote", "ok", "; ".join(map(_bare, addresses)), by)


def _mlflow(root: Path) -> Check:
    by = ("train", "evaluate", "promote")
    try:
        uri = (
            os.environ.get("MLFLOW_TRACKING_URI")
            or params_file.load(root / layout.PARAMS).tracking.uri
        )
    except Refusal as refusal:
        return Check("MLflow", "missing", refusal.what, by, refusal.todo)
    if urlsplit(uri).scheme not in ("http", "https"):
        return Check("MLflow", "ok", f"{_bare(uri)}, in this repository", by)
    state = _http(uri.rstrip("/") + "/health")
    if state == "200":
        return Check("MLflow", "ok", _bare(uri), by)
    return Check(
        "MLflow",
        "missing",
        f"{_bare(uri)}: {state}",
        by,
        "start the server, or unset MLFLOW_TRACKING_URI",
    )


def _docker() -> Check:
    import docker
    from docker.errors import DockerException

    by = ("verify", "build with a daemon")
    try:
        client = docker.from_env(timeout=DEADLINE)
        try:
            return Check("docker", "ok", f"engine {client.version()['Version']}", by)
        finally:
            client.close()
    except (DockerException, OSError) as error:
        reason = str(error).splitlines()[0][:100]
        return Check(
            "docker",
            "optional",
            f"no engine answers: {reason}",
            by,
            "start Docker; releases work without it",
        )


def _registry(host: str | None) -> Check:
    by = ("build --push", "promote")
    if host is None:
        return Check(
            "registry",
            "optional",
            "none named: images go to an OCI layout directory",
            by,
            "./lockstep doctor --registry HOST",
        )
    scheme = (
        "http" if urlsplit(f"//{host}").hostname in ("localhost", "127.0.0.1", "::1") else "https"
    )
    state = _http(f"{scheme}://{host}/v2/")
    if state in ("200", "401"):
        return Check(
            "registry",
            "ok",
            f"{host} answers{' and asks for a login' if state == '401' else ''}",
            by,
        )
    return Check(
        "registry", "optional", f"{host}: {state}", by, f"check the name, then docker login {host}"
    )


def _http(url: str) -> str:
    """Return the status of a GET as text, or the reason why there is none."""
    try:
        with urlopen(url, timeout=DEADLINE) as answer:  # noqa: S310 - the scheme is http or https, checked by the callers
            return str(answer.status)
    except HTTPError as error:
        return str(error.code)
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", error))


def _bare(uri: str) -> str:
    """Return a URI without user, password and query."""
    parts = urlsplit(uri)
    return (
        uri
        if "@" not in parts.netloc
        else parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()
    )
